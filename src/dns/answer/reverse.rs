//! Names of addresses: the reverse zones of Docker's subnets.

use std::net::IpAddr;

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{NS, PTR},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Answer, Question, Snapshot};
use crate::{
    dns::{name, source::is_ours, zone::Candidate},
    model::{Attachment, Origin, Publication, Scope},
};

/// Names of one address. Each is the name of one service of the container that has it.
const MAX_NAMES: usize = 16;

/// Whether a name stands for a prefix of addresses, or for something below it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    At,
    Below,
}

impl Question<'_> {
    /// Names of addresses. Subnets of Docker are ours as a whole (RFC 6303); in the network around us, which macvlan
    /// containers share, only the addresses of our containers are.
    pub(super) fn reverse(&self, prefix: IpNet, depth: Depth) -> Answer {
        let local = self.snapshot.local;
        let is_address = prefix.prefix_len() == prefix.max_prefix_len();
        let names = if is_address { self.names(prefix.addr()) } else { Vec::new() };
        let subnets = local.networks.values().filter(|network| is_ours(network)).flat_map(|network| &network.subnets);
        let Some(zone) = subnets.copied().find(|subnet| subnet.contains(&prefix)).map(|subnet| cut(subnet, prefix))
        else {
            return match names.is_empty() {
                false => self.pointers(names, depth, self.soa(name::reverse_name(prefix))),
                // Whose it is will be known once Docker has been listed.
                true if !local.listed && is_private(prefix.addr()) => Answer::NotYet,
                true => self.outside(),
            };
        };
        let soa = self.soa(name::reverse_name(zone));
        if zone == prefix && depth == Depth::At && !is_address {
            return match self.kind {
                RecordType::SOA => self.records(vec![self.soa(self.name.clone())]),
                RecordType::NS => {
                    self.records(vec![self.record(RData::NS(NS(self.snapshot.settings.apex.name().clone())))])
                }
                RecordType::ANY => self.any(),
                _ => Answer::NoData(Box::new(soa)),
            };
        }
        if is_address {
            return self.pointers(names, depth, soa);
        }
        let next = self.snapshot.zone.next_address(prefix.network());
        match depth == Depth::At && next.is_some_and(|address| prefix.contains(&address)) {
            true => self.no_data(soa),
            false => self.nothing(soa),
        }
    }

    fn pointers(&self, names: Vec<Name>, depth: Depth, soa: Record) -> Answer {
        if names.is_empty() || depth == Depth::Below {
            return self.nothing(soa);
        }
        match self.kind {
            RecordType::PTR => self.records(names.into_iter().map(|name| self.record(RData::PTR(PTR(name)))).collect()),
            RecordType::ANY => self.any(),
            _ => self.no_data(soa),
        }
    }

    /// The instance names of an address. What another host says counts only for networks that we are on as well, and where
    /// this asker is given that very address; most of its local networks are not in the index.
    fn names(&self, address: IpAddr) -> Vec<Name> {
        let Snapshot { zone, local, settings } = self.snapshot;
        let is_known = |origin: &Origin, publication: &Publication| {
            let holds = |network: &&Attachment| network.ips.contains(&address);
            let spans =
                |network: &Attachment| network.scope != Scope::Local && local.networks.contains_key(&network.id);
            *origin == Origin::Own
                || publication.networks.iter().filter(holds).any(spans)
                || self.is_given(origin, publication, address)
        };
        let known = zone.at(address).filter(|(origin, publication)| is_known(origin, publication));
        let mut names: Vec<Name> = known
            .flat_map(|(_, held)| held.services.iter().map(|offer| settings.apex.instance(held.container, offer)))
            .collect();
        names.sort();
        names.dedup();
        names.truncate(MAX_NAMES);
        names
    }
}

impl Question<'_> {
    /// Whether this asker is given an address for some service of a container.
    fn is_given(&self, origin: &Origin, publication: &Publication, address: IpAddr) -> bool {
        let is_it = |candidate: &&Candidate| {
            candidate.home.origin == *origin && candidate.publication.container == publication.container
        };
        publication.services.iter().any(|offer| {
            let all = self.snapshot.zone.service(offer.namespace.as_str(), offer.service.as_str()).unwrap_or_default();
            // In the order of their containers.
            let first = all.partition_point(|candidate| candidate.publication.container < publication.container);
            let same = all[first..].iter().take_while(|held| held.publication.container == publication.container);
            same.filter(is_it).any(|candidate| self.view.ways(candidate).iter().any(|way| way.address == address))
        })
    }
}

/// The zone in `subnet` that a prefix of whole octets or nibbles lies in: it begins at the next octet or nibble at
/// or below the subnet's own length.
fn cut(subnet: IpNet, prefix: IpNet) -> IpNet {
    match prefix {
        IpNet::V4(prefix) => {
            let length = subnet.prefix_len().next_multiple_of(8);
            Ipv4Net::new(prefix.addr(), length).map_or(IpNet::V4(prefix), |net| IpNet::V4(net.trunc()))
        }
        IpNet::V6(prefix) => {
            let length = subnet.prefix_len().next_multiple_of(4);
            Ipv6Net::new(prefix.addr(), length).map_or(IpNet::V6(prefix), |net| IpNet::V6(net.trunc()))
        }
    }
}

/// Address space that is never anybody's in public (RFC 1918, RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}
