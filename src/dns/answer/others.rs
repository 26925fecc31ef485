//! Names of others, and names that may be theirs: single labels, special names, and what another host's containers ask for.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{Name, Record, RecordType};
use rand::Rng;

use super::{Answer, Members, Missing, Question, may_forward};
use crate::dns::{
    name::Named,
    source::Source,
    special::{self, Single, Special},
};

impl Question<'_> {
    /// A single label: a service near the asker, else denied here, except for the types that always belong to others.
    pub(super) fn bare(&self, label: &str, rng: &mut impl Rng) -> Answer {
        let special = special::find_text(label).map(|found| found.special);
        if special == Some(Special::Loopback) {
            return self.loopback();
        }
        let (named, root) = (Named { service: label, namespace: None }, Name::root());
        let is_known = || !matches!(self.find(named), Err(Missing::Nothing));
        let leaves = special != Some(Special::Nowhere)
            && match special::single(self.kind.into()) {
                Single::Others => true,
                Single::UnlessService => !is_known(),
                Single::Ours => {
                    self.snapshot.settings.singles.leaves(label.as_bytes())
                        && !is_known()
                        && !self.stands_above(named, &root)
                }
            };
        match leaves {
            // What the registry has not told yet may be a service, and a service's name does not leave.
            true if special::single(self.kind.into()) != Single::Others && !self.snapshot.zone.is_complete() => {
                Answer::NotYet
            }
            true => self.outside(),
            false => self.service(named, Members::Ready, self.soa(root), rng),
        }
    }

    /// A name of two labels or more, outside of our zone and of all reverse zones.
    pub(super) fn others(&self, text: &str, rng: &mut impl Rng) -> Answer {
        match special::find_text(text).map(|found| found.special) {
            Some(Special::Loopback) => self.loopback(),
            // The root denies it, as it has no such top-level domain.
            Some(Special::Nowhere) => Answer::NoName(Box::new(self.soa(Name::root()))),
            Some(Special::Site) | None => self.dotted(text, rng).unwrap_or_else(|| self.outside()),
        }
    }

    pub(super) fn outside(&self) -> Answer {
        if may_forward(self.snapshot, self.source) { Answer::Forward } else { Answer::Refused }
    }

    /// `localhost` and all below it. It means the asker's own machine, so it shows no asker a way out (RFC 6761 section
    /// 6.3).
    fn loopback(&self) -> Answer {
        match self.kind {
            RecordType::A => self.records(vec![self.address(self.name, Ipv4Addr::LOCALHOST.into())]),
            RecordType::AAAA => self.records(vec![self.address(self.name, Ipv6Addr::LOCALHOST.into())]),
            RecordType::ANY => self.any(),
            _ => {
                let zone = Name::from_ascii("localhost.").expect("a short label is a name");
                Answer::NoData(Box::new(self.soa(zone)))
            }
        }
    }

    /// A service that is not there. Another host's address may stand for one of its containers, whose namespace is known on
    /// that host alone: a name that says no namespace may well exist for it. REFUSED has its resolver ask the next server,
    /// where NXDOMAIN would be final.
    pub(super) fn no_service(&self, named: Named<'_>, soa: Record) -> Answer {
        match *self.source == Source::Peer && named.namespace.is_none() && self.snapshot.zone.is_complete() {
            true => Answer::AskYourHost,
            false => self.nothing(soa),
        }
    }
}

#[cfg(test)]
mod tests;
