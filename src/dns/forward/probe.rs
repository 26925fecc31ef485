//! Upstreams that lead back to us, found by asking them for a name that nobody can know. Pure.
//!
//! We ask an upstream for the address of `<128 random bits>.portolan-probe.`, below its own domain where it has one. If
//! that very question arrives at one of our listeners, whoever sent it, the upstream has passed it on to us, over however
//! many others: whatever we ask it we ask ourselves. Only that upstream is disabled, and asked again now and then. The
//! question itself goes no further. That of another agent is a name like any other, for it must find its way home.
//!
//! The name lies in no special domain: resolvers answer for `invalid` and `test` themselves (RFC 6761), and would hide
//! the loop.

use std::{collections::BTreeSet, fmt::Write, net::SocketAddr};

/// The label that all probes have in common.
const LABEL: &[u8] = b"portolan-probe";

/// Octets of the first label: 128 bits as hexadecimal digits.
const DIGITS: usize = 32;

/// Most probes under way; the oldest is forgotten. Each of up to 72 upstreams is probed once at a time.
const MAX_LIVE: usize = 128;

/// A way out: the domain that an upstream is asked about, none for all others, and the upstream.
pub(super) type Way = (Option<String>, SocketAddr);

#[derive(Debug)]
struct Live {
    label: [u8; DIGITS],
    way: Way,
    came_back: bool,
}

/// Probes under way, and who was found.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// Oldest first.
    live: Vec<Live>,
    looping: BTreeSet<Way>,
}

impl Probes {
    /// Begins a probe: the name to ask for, in wire form. `random` must not be foretold.
    pub(super) fn begin(&mut self, way: &Way, random: u128) -> Vec<u8> {
        let mut digits = String::with_capacity(DIGITS);
        // Writing into a string does not fail.
        let _ = write!(digits, "{random:032x}");
        let mut label = [0; DIGITS];
        label.copy_from_slice(digits.as_bytes());
        if self.live.len() >= MAX_LIVE {
            self.live.remove(0);
        }
        self.live.push(Live { label, way: way.clone(), came_back: false });
        let below = way.0.iter().flat_map(|domain| domain.split('.'));
        let labels = [&label[..], LABEL].into_iter().chain(below.map(str::as_bytes));
        let mut name = Vec::with_capacity(64);
        for label in labels {
            name.push(u8::try_from(label.len()).unwrap_or(0));
            name.extend_from_slice(label);
        }
        name.push(0);
        name
    }

    /// A probe has ended, with or without a reply. `true`: that enables its upstream again, as it has not come back.
    pub(super) fn end(&mut self, name: &[u8]) -> bool {
        let Some(place) = self.place(name) else { return false };
        let Live { way, came_back, .. } = self.live.remove(place);
        !came_back && self.looping.remove(&way)
    }

    /// A question has come in. `None`: it is no probe of ours that is under way. Else its upstream counts as looping from
    /// now on; `true`: that is news.
    pub(super) fn came_back(&mut self, name: &[u8]) -> Option<bool> {
        let place = self.place(name)?;
        let live = &mut self.live[place];
        live.came_back = true;
        Some(self.looping.insert(live.way.clone()))
    }

    /// Who leads back to us.
    pub(super) fn looping(&self) -> &BTreeSet<Way> {
        &self.looping
    }

    fn place(&self, name: &[u8]) -> Option<usize> {
        let label = is_probe(name).then(|| &name[1..=DIGITS])?;
        self.live.iter().position(|live| live.label.eq_ignore_ascii_case(label))
    }
}

/// Whether a name in wire form may be a probe, ours or another's. Told from its text, for every question is looked at.
pub(super) fn is_probe(name: &[u8]) -> bool {
    let Some((first, rest)) = name.split_at_checked(DIGITS + 1) else { return false };
    usize::from(first[0]) == DIGITS
        && rest.split_first().is_some_and(|(length, rest)| {
            usize::from(*length) == LABEL.len()
                && rest.get(..LABEL.len()).is_some_and(|l| l.eq_ignore_ascii_case(LABEL))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(last: u8, domain: Option<&str>) -> Way {
        (domain.map(str::to_owned), SocketAddr::from(([10, 0, 0, last], 53)))
    }

    #[test]
    fn a_probe_that_comes_back_names_its_upstream_and_one_that_does_not_acquits_it() {
        let mut probes = Probes::default();
        let (one, two) = (way(1, None), way(2, Some("corp.example")));
        let (a, b) = (probes.begin(&one, 7), probes.begin(&two, 8));
        assert_eq!(a, b"\x2000000000000000000000000000000007\x0eportolan-probe\0");
        assert!(b.ends_with(b"\x0eportolan-probe\x04corp\x07example\0"));
        assert_eq!(probes.came_back(&b.to_ascii_uppercase()), Some(true), "letter case may have been played with");
        assert_eq!(probes.came_back(&b), Some(false), "no news");
        assert!(!probes.end(&a) && !probes.end(&b), "nothing changes");
        assert_eq!(probes.looping(), &BTreeSet::from([two.clone()]));
        assert_eq!(probes.came_back(&b), None, "no longer under way");
        let of_another_domain = probes.begin(&way(2, None), 9);
        assert!(!probes.end(&of_another_domain), "another way");
        let again = probes.begin(&two, 9);
        assert!(probes.end(&again));
        assert!(probes.looping().is_empty());
    }

    #[test]
    fn others_probes_and_other_names_are_not_ours() {
        let mut probes = Probes::default();
        let ours = probes.begin(&way(1, None), 7);
        let theirs = Probes::default().begin(&way(1, None), 8);
        assert!(is_probe(&ours) && is_probe(&theirs));
        assert_eq!(probes.came_back(&theirs), None);
        for name in [&b"\0"[..], b"", b"\x03www\x07example\0", &ours[..20], &ours[..33], &ours[..40]] {
            assert!(!is_probe(name), "{name:?}");
            assert_eq!(probes.came_back(name), None);
        }
    }

    #[test]
    fn no_more_are_under_way_than_the_limit() {
        let mut probes = Probes::default();
        let first = probes.begin(&way(1, None), 0);
        for i in 1..=MAX_LIVE as u128 {
            probes.begin(&way(1, None), i);
        }
        assert_eq!((probes.live.len(), probes.came_back(&first)), (MAX_LIVE, None));
    }
}
