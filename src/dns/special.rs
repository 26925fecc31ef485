//! Names of others that have a meaning of their own, and the one table of them. Pure.
//!
//! Most names of others are simply asked of the upstreams. The names of this table are not. Some mean the same everywhere and
//! are answered here. Some belong to the site: an upstream on the internet cannot know them, and should not learn of them.
//! What becomes of a site's name is decided where the upstreams are known (`forward/site.rs`).

use std::ops::RangeInclusive;

/// What a name of others is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// This machine, whichever it is: 127.0.0.1 and ::1 (RFC 6761 section 6.3).
    Loopback,
    /// Exists nowhere in DNS: `invalid` by RFC 6761 section 6.4, `onion` by RFC 7686.
    Nowhere,
    /// The site's own: it means something else, or nothing, everywhere else.
    Site,
}

/// A special name found in a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub special: Special,
    /// The labels of the row's zone, counted from the right: 3 for `10.in-addr.arpa`.
    pub labels: usize,
    /// The document that says so.
    pub source: &'static str,
}

impl Finding {
    /// Whether a question for a name of so many labels belongs to the zone above this one: DS of the zone's own name (RFC
    /// 4035 section 3.1.4.1). A single label is such a name in every respect that a validating resolver asks for.
    pub fn is_parents(&self, labels: usize, kind: u16) -> bool {
        labels == self.labels && (kind == DS || labels == 1 && kind == DNSKEY)
    }
}

const NS: u16 = 2;
const SOA: u16 = 6;
const DS: u16 = 43;
const DNSKEY: u16 = 48;

/// Whose a question for a single label is, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// Others', always: no service has it, and a resolver that validates fails without it (DS, DNSKEY).
    Others,
    /// Others', unless a service near the asker has the name: which servers a zone has (NS, SOA).
    UnlessService,
    /// Ours, unless the operator gives single labels away.
    Ours,
}

/// Whose a question for a single label is.
pub fn single(kind: u16) -> Single {
    match kind {
        DS | DNSKEY => Single::Others,
        NS | SOA => Single::UnlessService,
        _ => Single::Ours,
    }
}

/// What becomes of single labels that no service near the asker has, and no `--upstream LABEL=…` covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SingleLabels {
    /// They are denied here.
    #[default]
    Answer,
    /// They are names of others.
    Forward,
}

/// The single labels that upstreams are asked for if no service near the asker has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Singles {
    /// For those that are not named.
    pub others: SingleLabels,
    /// Those that an `--upstream LABEL=…` is for, in lower case.
    pub named: Vec<Box<str>>,
}

impl Singles {
    /// Whether upstreams are asked for a label in lower case.
    #[inline]
    pub fn leaves(&self, label: &[u8]) -> bool {
        self.others == SingleLabels::Forward || self.named.iter().any(|named| named.as_bytes() == label)
    }
}

/// A zone, or a range of zones that differ in their first label.
struct Row {
    parent: &'static str,
    range: Option<RangeInclusive<u8>>,
    special: Special,
    source: &'static str,
}

const fn zone(parent: &'static str, special: Special, source: &'static str) -> Row {
    Row { parent, range: None, special, source }
}

/// The site's reverse zones of a network that does not end at a label.
const fn zones(range: RangeInclusive<u8>, parent: &'static str, source: &'static str) -> Row {
    Row { parent, range: Some(range), special: Special::Site, source }
}

/// Every special name. The reverse zones are all of RFC 6303 section 4, and those of the shared address space.
const TABLE: [Row; 25] = [
    zone("localhost", Special::Loopback, "RFC 6761"),
    zone("invalid", Special::Nowhere, "RFC 6761"),
    zone("onion", Special::Nowhere, "RFC 7686"),
    zone("test", Special::Site, "RFC 6761"),
    // Reserved for private use by ICANN's board in 2024. Our own zone lies below it by default, and is found before.
    zone("internal", Special::Site, "ICANN 2024"),
    zone("home.arpa", Special::Site, "RFC 8375"),
    // Private networks.
    zone("10.in-addr.arpa", Special::Site, "RFC 6303"),
    zones(16..=31, "172.in-addr.arpa", "RFC 6303"),
    zone("168.192.in-addr.arpa", Special::Site, "RFC 6303"),
    // This network, loopback, link-local, documentation and broadcast.
    zone("0.in-addr.arpa", Special::Site, "RFC 6303"),
    zone("127.in-addr.arpa", Special::Site, "RFC 6303"),
    zone("254.169.in-addr.arpa", Special::Site, "RFC 6303"),
    zone("2.0.192.in-addr.arpa", Special::Site, "RFC 6303"),
    zone("100.51.198.in-addr.arpa", Special::Site, "RFC 6303"),
    zone("113.0.203.in-addr.arpa", Special::Site, "RFC 6303"),
    zone("255.255.255.255.in-addr.arpa", Special::Site, "RFC 6303"),
    // Shared address space: 100.64.0.0/10.
    zones(64..=127, "100.in-addr.arpa", "RFC 7793"),
    // The unspecified address and loopback.
    zone("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", Special::Site, "RFC 6303"),
    zone("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", Special::Site, "RFC 6303"),
    // Unique local addresses that sites give themselves: fd00::/8.
    zone("d.f.ip6.arpa", Special::Site, "RFC 6303"),
    // Link-local: fe80::/10.
    zone("8.e.f.ip6.arpa", Special::Site, "RFC 6303"),
    zone("9.e.f.ip6.arpa", Special::Site, "RFC 6303"),
    zone("a.e.f.ip6.arpa", Special::Site, "RFC 6303"),
    zone("b.e.f.ip6.arpa", Special::Site, "RFC 6303"),
    // Documentation: 2001:db8::/32.
    zone("8.b.d.0.1.0.0.2.ip6.arpa", Special::Site, "RFC 6303"),
];

/// The last labels of all rows, so that an ordinary name costs a few comparisons; a test holds it to the table.
const LAST: [&[u8]; 6] = [b"localhost", b"invalid", b"onion", b"test", b"internal", b"arpa"];

impl Row {
    /// The labels of this row's zone if it holds the name, given as its labels from last to first.
    fn holds<'a>(&self, mut from_the_right: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
        let mut labels = 0;
        for wanted in self.parent.rsplit('.') {
            labels += 1;
            from_the_right.next().filter(|label| label.eq_ignore_ascii_case(wanted.as_bytes()))?;
        }
        let Some(range) = &self.range else { return Some(labels) };
        let text = str::from_utf8(from_the_right.next()?).ok()?;
        // As RFC 1035 section 3.5 writes numbers: no sign, no leading zero.
        let number: u8 = text.parse().ok().filter(|number: &u8| number.to_string() == text)?;
        range.contains(&number).then_some(labels + 1)
    }
}

/// What is special about a name, given as its labels from last to first, in any letter case. `None`: nothing.
pub fn find<'a>(from_the_right: &(impl Iterator<Item = &'a [u8]> + Clone)) -> Option<Finding> {
    let last = from_the_right.clone().next()?;
    if !LAST.iter().any(|special| special.eq_ignore_ascii_case(last)) {
        return None;
    }
    TABLE.iter().find_map(|row| {
        let labels = row.holds(from_the_right.clone())?;
        Some(Finding { special: row.special, labels, source: row.source })
    })
}

/// The same for a name as text with dots between its labels.
pub fn find_text(text: &str) -> Option<Finding> {
    find(&text.rsplit('.').map(str::as_bytes))
}

/// Whether a name in wire form may be special: `false` is certain, and costs little.
#[inline]
pub(super) fn may_be(name: &[u8]) -> bool {
    LAST.iter().any(|last| ends_with(name, last))
}

/// Whether a name in wire form may be one that is answered here, whatever upstreams there are: `false` is certain.
#[inline]
pub(super) fn may_stay(name: &[u8]) -> bool {
    let [localhost, invalid, onion, ..] = LAST;
    [localhost, invalid, onion].into_iter().any(|last| ends_with(name, last))
}

/// Whether a name in wire form ends in this label and the root. What stands in the place of a length may be part of a
/// longer label, so `true` is only likely.
#[inline]
fn ends_with(name: &[u8], last: &[u8]) -> bool {
    let end = name.len().saturating_sub(1);
    name.last() == Some(&0)
        && name[..end].len().checked_sub(last.len() + 1).is_some_and(|start| {
            usize::from(name[start]) == last.len() && name[start + 1..end].eq_ignore_ascii_case(last)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a name is, and its zone.
    fn told(name: &str) -> String {
        let Some(Finding { special, labels, .. }) = find_text(name) else { return "-".to_owned() };
        let all: Vec<&str> = name.split('.').collect();
        format!("{special:?} {}", all[all.len() - labels..].join("."))
    }

    #[test]
    fn each_special_name_is_found_in_its_zone_and_its_neighbours_are_not() {
        let mut rows = vec![
            ("localhost", "Loopback localhost"),
            ("a.b.LocalHost", "Loopback LocalHost"),
            ("xlocalhost", "-"),
            ("localhost.example", "-"),
            ("invalid", "Nowhere invalid"),
            ("www.invalid", "Nowhere invalid"),
            ("onion", "Nowhere onion"),
            ("x.onion", "Nowhere onion"),
            ("onions", "-"),
            ("test", "Site test"),
            ("www.corp.test", "Site test"),
            ("internal", "Site internal"),
            ("metadata.google.internal", "Site internal"),
            ("home.arpa", "Site home.arpa"),
            ("nas.home.arpa", "Site home.arpa"),
            ("arpa", "-"),
            ("work.arpa", "-"),
            ("www.example.org", "-"),
            ("", "-"),
        ];
        // Networks by their first and last addresses, and those beside them.
        rows.extend([
            ("1.2.3.10.in-addr.arpa", "Site 10.in-addr.arpa"),
            ("10.in-addr.arpa", "Site 10.in-addr.arpa"),
            ("1.1.1.11.in-addr.arpa", "-"),
            ("1.0.15.172.in-addr.arpa", "-"),
            ("1.0.16.172.in-addr.arpa", "Site 16.172.in-addr.arpa"),
            ("31.172.in-addr.arpa", "Site 31.172.in-addr.arpa"),
            ("32.172.in-addr.arpa", "-"),
            ("172.in-addr.arpa", "-"),
            ("016.172.in-addr.arpa", "-"),
            ("+16.172.in-addr.arpa", "-"),
            ("1.168.192.in-addr.arpa", "Site 168.192.in-addr.arpa"),
            ("1.167.192.in-addr.arpa", "-"),
            ("1.2.3.0.in-addr.arpa", "Site 0.in-addr.arpa"),
            ("1.0.0.127.in-addr.arpa", "Site 127.in-addr.arpa"),
            ("254.169.254.169.in-addr.arpa", "Site 254.169.in-addr.arpa"),
            ("1.2.0.192.in-addr.arpa", "Site 2.0.192.in-addr.arpa"),
            ("1.100.51.198.in-addr.arpa", "Site 100.51.198.in-addr.arpa"),
            ("1.113.0.203.in-addr.arpa", "Site 113.0.203.in-addr.arpa"),
            ("255.255.255.255.in-addr.arpa", "Site 255.255.255.255.in-addr.arpa"),
            ("255.255.255.in-addr.arpa", "-"),
            ("1.1.63.100.in-addr.arpa", "-"),
            ("1.1.64.100.in-addr.arpa", "Site 64.100.in-addr.arpa"),
            ("1.1.127.100.in-addr.arpa", "Site 127.100.in-addr.arpa"),
            ("1.1.128.100.in-addr.arpa", "-"),
            ("8.8.8.8.in-addr.arpa", "-"),
            ("1.d.f.ip6.arpa", "Site d.f.ip6.arpa"),
            ("1.c.f.ip6.arpa", "-"),
            ("7.e.f.ip6.arpa", "-"),
            ("1.8.e.f.ip6.arpa", "Site 8.e.f.ip6.arpa"),
            ("1.9.e.f.ip6.arpa", "Site 9.e.f.ip6.arpa"),
            ("1.A.E.F.ip6.arpa", "Site A.E.F.ip6.arpa"),
            ("1.b.e.f.ip6.arpa", "Site b.e.f.ip6.arpa"),
            ("1.c.e.f.ip6.arpa", "-"),
            ("1.8.b.d.0.1.0.0.2.ip6.arpa", "Site 8.b.d.0.1.0.0.2.ip6.arpa"),
            ("8.8.8.8.0.6.8.4.1.0.0.2.ip6.arpa", "-"),
        ]);
        for (name, expected) in rows {
            assert_eq!(told(name), expected, "{name}");
        }
        for last in ["0", "1"] {
            let zone = format!("{last}.{}ip6.arpa", "0.".repeat(31));
            assert_eq!(told(&zone), format!("Site {zone}"));
        }
        assert_eq!(told(&format!("2.{}ip6.arpa", "0.".repeat(31))), "-");
    }

    #[test]
    fn the_last_labels_are_those_of_the_table() {
        let mut of_the_table: Vec<&[u8]> =
            TABLE.iter().map(|row| row.parent.rsplit('.').next().unwrap().as_bytes()).collect();
        of_the_table.dedup();
        let mut last = LAST.to_vec();
        of_the_table.sort_unstable();
        last.sort_unstable();
        of_the_table.dedup();
        assert_eq!(of_the_table, last);
        for row in &TABLE {
            let name: Vec<u8> = row.parent.split('.').fold(Vec::new(), |mut name, label| {
                name.push(u8::try_from(label.len()).unwrap());
                name.extend(label.to_ascii_uppercase().as_bytes());
                name
            });
            let name = [&name[..], &[0]].concat();
            assert!(may_be(&name), "{}", row.parent);
            assert_eq!(may_stay(&name), row.special != Special::Site, "{}", row.parent);
        }
        for ordinary in [&b"\0"[..], b"", b"\x03org\0", b"\x05tests\0", b"\x04test\x03org\0", b"\x05xtest\0"] {
            assert!(!may_be(ordinary) && !may_stay(ordinary), "{ordinary:?}");
        }
    }
}
