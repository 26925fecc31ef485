//! Which upstreams may be asked for a name: those of its domain, all, those that may know the site's names, or none. Pure.
//!
//! A name of the site (`special.rs`) says something about it, and an upstream on the internet cannot know it. So only upstreams
//! that may belong to the site are asked: those with an address that has no meaning outside of a network or of a cloud's
//! machine, and those that an `--upstream DOMAIN=…` names for that domain. Where upstreams are known and none of them may be
//! asked, the name is answered here, as if from an empty zone (RFC 6303 section 3).
//!
//! DS of such a zone's own name is no question about the site: it belongs to the parent zone (RFC 4035 section 3.1.4.1), and
//! a resolver that validates breaks without its answer.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{super::special, message::Question, private::is_private, source::Current};
use special::{Finding, SingleLabels, Special};

/// Azure's name server: the one such address of a cloud that does not look like one (all others are link-local or private).
const AZURE: IpAddr = IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16));

/// What becomes of the site's names that no domain of `--upstream` covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SiteNames {
    /// Upstreams with an address of the site are asked; without any the name is answered here.
    #[default]
    Auto,
    /// They are answered here.
    Answer,
    /// They are names like all others.
    Forward,
}

/// Who may be asked for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom<'c> {
    /// These.
    Upstreams(&'c Arc<[SocketAddr]>),
    /// None: it is answered here, from the empty zone that was found.
    Here(Finding),
    /// None, because there is no upstream.
    NoUpstream,
    /// None: it is ours alone, and should not have come here.
    Stays,
}

/// Whether an upstream may belong to the site: its address is private, shared, loopback, link-local or a cloud's own.
pub(super) fn is_of_a_site(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address == AZURE || is_private(address) && !address.is_unspecified()
}

impl Current {
    /// Who may be asked for a name, given as its labels, with this type.
    pub(super) fn whom(&self, labels: &[&[u8]], kind: u16) -> Whom<'_> {
        let special = special::find(&labels.iter().rev().copied());
        if special.is_some_and(|found| found.special != Special::Site) {
            return Whom::Stays;
        }
        let named = self.special(labels);
        if let [_] = labels
            && special::single(kind) == special::Single::Ours
            && named.is_none()
            && self.single_labels == SingleLabels::Answer
        {
            return Whom::Stays;
        }
        let upstreams = match (named, special) {
            (Some(named), _) => named,
            (None, Some(found)) if !found.is_parents(labels.len(), kind) => match self.site_names {
                SiteNames::Forward => &self.general,
                _ if self.general.is_empty() => return Whom::NoUpstream,
                SiteNames::Auto if !self.of_the_site.is_empty() => &self.of_the_site,
                SiteNames::Auto | SiteNames::Answer => return Whom::Here(found),
            },
            (None, _) => &self.general,
        };
        if upstreams.is_empty() { Whom::NoUpstream } else { Whom::Upstreams(upstreams) }
    }

    /// The same for a question that came in.
    pub(super) fn whom_for(&self, question: &Question<'_>) -> Whom<'_> {
        let labels: Vec<&[u8]> = question.labels().collect();
        self.whom(&labels, u16::from_be_bytes([question.kind[0], question.kind[1]]))
    }

    /// Notes which of all may be asked for the site's names. Call it whenever `general` has changed.
    pub(super) fn sort_out(&mut self) {
        self.of_the_site = self.general.iter().filter(|upstream| is_of_a_site(upstream.ip())).copied().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u16 = 1;
    const NS: u16 = 2;
    const SOA: u16 = 6;
    const TXT: u16 = 16;
    const SRV: u16 = 33;
    const DS: u16 = 43;
    const DNSKEY: u16 = 48;
    const ANY: u16 = 255;

    fn current(general: &str, suffixes: &[(&str, &str)]) -> Current {
        let parse = |text: &str| -> Arc<[SocketAddr]> {
            text.split_whitespace().map(|ip| SocketAddr::new(ip.parse().unwrap(), 53)).collect()
        };
        let mut current = Current {
            general: parse(general),
            suffixes: suffixes.iter().map(|(suffix, ips)| (suffix.parse().unwrap(), parse(ips))).collect(),
            ..Current::default()
        };
        current.sort_out();
        current
    }

    /// Who is asked: addresses, `here` with its zone's labels, `nobody` or `stays`.
    fn told(current: &Current, name: &str, kind: u16) -> String {
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        match current.whom(&labels, kind) {
            Whom::Upstreams(all) => all.iter().map(|one| one.ip().to_string()).collect::<Vec<_>>().join(" "),
            Whom::Here(found) => format!("here {}", found.labels),
            Whom::NoUpstream => "nobody".to_owned(),
            Whom::Stays => "stays".to_owned(),
        }
    }

    #[test]
    fn an_address_of_a_site_is_told_from_one_of_the_internet() {
        for (address, expected) in [
            ("10.0.0.2", true),
            ("172.16.0.1", true),
            ("192.168.1.1", true),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("127.0.0.53", true),
            ("169.254.169.254", true),
            ("168.63.129.16", true),
            ("168.63.129.17", false),
            ("9.9.9.9", false),
            ("203.0.113.9", false),
            ("0.0.0.0", false),
            ("::1", true),
            ("fe80::1", true),
            ("fd00::5", true),
            ("fc00::5", true),
            ("::ffff:10.0.0.2", true),
            ("::ffff:9.9.9.9", false),
            ("2620:fe::fe", false),
        ] {
            assert_eq!(is_of_a_site(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_sites_names_are_asked_only_of_upstreams_that_may_know_them() {
        const SITE: [&str; 7] = [
            "www.test",
            "nas.home.arpa",
            "metadata.google.internal",
            "5.0.0.10.in-addr.arpa",
            "1.1.64.100.in-addr.arpa",
            "1.0.0.0.d.f.ip6.arpa",
            "254.169.in-addr.arpa",
        ];
        for (general, expected) in [
            ("10.0.0.2", "10.0.0.2"),
            ("9.9.9.9 169.254.169.254 fd00::53", "169.254.169.254 fd00::53"),
            ("168.63.129.16", "168.63.129.16"),
            ("", "nobody"),
        ] {
            for name in SITE {
                assert_eq!(told(&current(general, &[]), name, A), expected, "{name} with {general:?}");
            }
            assert_eq!(
                told(&current(general, &[]), "www.example.org", A),
                if general.is_empty() { "nobody" } else { general }
            );
        }
        for name in SITE {
            let mut public = current("9.9.9.9 2620:fe::fe", &[]);
            assert!(told(&public, name, A).starts_with("here "), "{name}");
            assert_eq!(told(&public, "8.8.8.8.in-addr.arpa", 12), "9.9.9.9 2620:fe::fe");
            public.site_names = SiteNames::Forward;
            assert_eq!(told(&public, name, A), "9.9.9.9 2620:fe::fe", "{name}");
            let mut private = current("10.0.0.2", &[("google.internal", "8.8.8.8"), ("onion", "10.0.0.3")]);
            private.site_names = SiteNames::Answer;
            let named = name == "metadata.google.internal";
            assert_eq!(told(&private, name, A) == "8.8.8.8", named, "{name}");
            assert_eq!(told(&private, name, A).starts_with("here "), !named, "{name}");
            for never in ["www.onion", "onion", "localhost", "a.localhost", "www.invalid"] {
                for kind in [A, NS, DS, DNSKEY] {
                    assert_eq!(told(&private, never, kind), "stays", "{never}");
                }
            }
        }
    }

    #[test]
    fn ds_of_a_zone_is_its_parents_and_asked_of_everybody() {
        let public = current("9.9.9.9", &[]);
        for (name, kind, expected) in [
            ("home.arpa", DS, "9.9.9.9"),
            ("home.arpa", DNSKEY, "here 2"),
            ("home.arpa", SOA, "here 2"),
            ("nas.home.arpa", DS, "here 2"),
            ("10.in-addr.arpa", DS, "9.9.9.9"),
            ("1.10.in-addr.arpa", DS, "here 3"),
            ("16.172.in-addr.arpa", DS, "9.9.9.9"),
            ("internal", DS, "9.9.9.9"),
            ("internal", DNSKEY, "9.9.9.9"),
            ("internal", NS, "here 1"),
            ("test", SOA, "here 1"),
        ] {
            assert_eq!(told(&public, name, kind), expected, "{name} {kind}");
        }
    }

    #[test]
    fn a_single_label_leaves_by_its_type_or_by_the_operators_word() {
        let mut known = current("9.9.9.9", &[("nas", "10.0.0.2")]);
        for (name, kind, kept, forwarded) in [
            ("web", A, "stays", "9.9.9.9"),
            ("web", 28, "stays", "9.9.9.9"),
            ("web", SRV, "stays", "9.9.9.9"),
            ("web", TXT, "stays", "9.9.9.9"),
            ("web", ANY, "stays", "9.9.9.9"),
            ("web", 15, "stays", "9.9.9.9"),
            ("com", DS, "9.9.9.9", "9.9.9.9"),
            ("com", DNSKEY, "9.9.9.9", "9.9.9.9"),
            ("com", NS, "9.9.9.9", "9.9.9.9"),
            ("com", SOA, "9.9.9.9", "9.9.9.9"),
            ("nas", A, "10.0.0.2", "10.0.0.2"),
            ("NAS", DS, "10.0.0.2", "10.0.0.2"),
            ("disk.nas", A, "10.0.0.2", "10.0.0.2"),
        ] {
            known.single_labels = SingleLabels::Answer;
            assert_eq!(told(&known, name, kind), kept, "{name} {kind}");
            known.single_labels = SingleLabels::Forward;
            assert_eq!(told(&known, name, kind), forwarded, "{name} {kind}");
        }
    }
}
