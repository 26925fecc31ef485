//! Names of hosts: `h1.host.svc.internal`, and the instances of a service that run there.

use std::net::IpAddr;

use hickory_proto::rr::{Record, RecordType};
use rand::Rng;

use super::{super::zone::Home, Answer, Members, Missing, Named, Question, Snapshot, is_written};
use crate::model::Origin;

impl Question<'_> {
    /// The addresses under which others reach a host, for askers that may leave their networks.
    pub(super) fn host(&self, label: &str, rng: &mut impl Rng) -> Answer {
        let soa = self.apex_soa();
        let Some(home) = find(self.snapshot, label) else { return self.nothing(soa) };
        match self.kind {
            RecordType::A | RecordType::AAAA if !self.view.is_confined() => {
                let wanted = home.advertise.iter().filter(|address| self.wants(**address));
                let addresses: Vec<(IpAddr, u32)> = wanted.map(|address| (*address, 1)).collect();
                self.addresses(addresses, !home.advertise.is_empty(), soa, rng)
            }
            RecordType::ANY => self.any(),
            _ => self.no_data(soa),
        }
    }

    pub(super) fn is_host(&self, label: &str) -> bool {
        find(self.snapshot, label).is_some()
    }

    /// The instances of a service near the asker that run on a host.
    pub(super) fn on(&self, named: Named<'_>, host: &str, rng: &mut impl Rng) -> Answer {
        let soa: Record = self.apex_soa();
        let Some(home) = find(self.snapshot, host) else { return self.nothing(soa) };
        match self.find(named) {
            Ok(found) => {
                let there = found.candidates.iter().filter(|candidate| candidate.home.origin == home.origin);
                let there: Vec<_> = there.cloned().collect();
                if there.is_empty() { self.nothing(soa) } else { self.of(&there, Members::Ready, soa, rng) }
            }
            Err(Missing::Nothing) => self.nothing(soa),
            Err(Missing::Lost(_)) => self.no_data(soa),
            Err(Missing::NotYet) => Answer::NotYet,
        }
    }
}

/// The host with this id, else the only one with this host name; both as labels.
pub(in crate::dns) fn find<'a>(snapshot: &Snapshot<'a>, label: &str) -> Option<&'a Home> {
    let own = &snapshot.settings.host;
    let id = |home: &Home| match &home.origin {
        Origin::Own => is_written(own, label),
        Origin::Registry(id) => is_written(id.as_str(), label),
        Origin::External => false,
    };
    let homes = || snapshot.zone.homes().map(|home| &**home);
    homes().find(|home| id(home)).or_else(|| {
        let mut named = homes().filter(|home| is_written(&home.hostname, label));
        named.next().filter(|_| named.next().is_none())
    })
}
