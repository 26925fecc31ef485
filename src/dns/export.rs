//! A zone as a zone file (RFC 1035 section 5), as one asker sees it: for secondaries, for other servers, for people. Pure.
//!
//! No rule is written here. Which instances count, which addresses and numbers an asker gets is asked of the functions that
//! answers are made of; what remains is to go through all names there are. So the file holds what answers hold, with these
//! differences that its form demands:
//!
//! - it is whole where an answer holds no more than fits ([`Room`]);
//! - the addresses of a service with another name are looked up for each who asks: in their place a comment has the name;
//! - ANY has no form in a zone file, and bare names (`web.`) lie outside of every zone of ours.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::Rng;

use super::{
    answer::{Answer, Members, Room, Settings, Snapshot, address_data, answer, instances, near, numbers, priorities},
    find::find,
    name::{self, Named, Subject},
    reach::{Family, Viewpoint, one_port},
    ready::Chosen,
    source::{Source, is_ours},
    zone::Candidate,
    zone::Service,
};
use crate::model::{Elsewhere, Port};

/// Why there is no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Docker or the registry has not been listed: a zone file says of every other name that it does not exist.
    #[error("docker or the registry has not been listed yet, so it is not known what does not exist")]
    NotYet,
    /// Not the apex of a zone of ours.
    #[error("`{asked}` is no zone of this host; these are: {known}")]
    NoSuchZone {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
}

/// What is asked for here is the same for all addresses of one asker.
const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Most zones that an error lists: a host has a few networks, and somebody who has many knows their subnets.
const LISTED: usize = 32;

/// Writes the zone at `origin`: the apex of `--zone`, or the reverse zone of one of this host's networks.
pub fn export(
    snapshot: &Snapshot<'_>,
    source: &Source,
    origin: &Name,
    rng: &mut impl Rng,
) -> Result<String, ExportError> {
    if !snapshot.zone.is_complete() {
        return Err(ExportError::NotYet);
    }
    let room = Room::whole(ASKER);
    let Answer::Records { answers: soa, .. } = answer(snapshot, source, origin, RecordType::SOA, room, rng) else {
        return Err(ExportError::NoSuchZone { asked: origin.to_string(), known: known(snapshot) });
    };
    let view = Viewpoint::new(snapshot.local, &snapshot.settings.routed, source);
    let mut file = File { snapshot, source, view, text: String::new() };
    file.records(&soa);
    for kind in [RecordType::NS, RecordType::A, RecordType::AAAA] {
        file.answered(origin, kind, rng);
    }
    match name::classify(&name::fold(origin), &snapshot.settings.apex) {
        Subject::Reverse(prefix) => {
            let mut next = snapshot.zone.next_address(prefix.network());
            while let Some(address) = next.filter(|address| prefix.contains(address)) {
                file.answered(&name::reverse_name(address.into()), RecordType::PTR, rng);
                next = following(address).and_then(|address| snapshot.zone.next_address(address));
            }
        }
        _ => {
            let mut services: Vec<&Service> = snapshot.zone.services().collect();
            services.sort_unstable_by_key(|service| service.name());
            for service in services {
                file.service(service, rng);
            }
        }
    }
    Ok(file.text)
}

/// The zones there are, for people.
fn known(snapshot: &Snapshot<'_>) -> String {
    let ours = snapshot.local.networks.values().filter(|network| is_ours(network));
    let reverse = ours.flat_map(|network| &network.subnets).map(|subnet| {
        let step = if subnet.addr().is_ipv4() { 8 } else { 4 };
        let length = subnet.prefix_len().next_multiple_of(step).min(subnet.max_prefix_len());
        let first = ipnet::IpNet::new(subnet.network(), length).unwrap_or(*subnet);
        // Where the subnet is no whole number of labels there are several; the first shows what they look like.
        name::reverse_name(first).to_ascii()
    });
    let apex = format!("{}.", snapshot.settings.apex);
    std::iter::once(apex).chain(reverse.collect::<BTreeSet<_>>()).take(LISTED).collect::<Vec<_>>().join(" ")
}

fn following(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

struct File<'a> {
    snapshot: &'a Snapshot<'a>,
    source: &'a Source,
    view: Viewpoint<'a>,
    text: String,
}

impl File<'_> {
    /// Every name of one service.
    fn service(&mut self, all: &Service, rng: &mut impl Rng) {
        let (namespace, service) = all.name();
        let within = format!("{service}.{namespace}");
        let near = Named { service: service.as_str(), namespace: None };
        // `web` alone means this one for this asker.
        let Snapshot { zone, settings, .. } = self.snapshot;
        let found = find(zone, self.source, near, settings.aliases);
        let is_near = found.is_ok_and(|found| found.namespace == *namespace && !found.by_alias);
        let mut names = BTreeSet::from([within.clone(), format!("all.{within}")]);
        let mut ports = BTreeSet::new();
        for candidate in all.members() {
            names.insert(format!("{}.{within}", candidate.publication.container.as_str()));
            names.insert(format!("{}.{within}", candidate.publication.name.replace('.', "-").to_ascii_lowercase()));
            let named = |port: &Port| port.name.as_ref().map(|name| format!("_{name}._{}", port.proto.as_str()));
            ports.extend(candidate.offer().ports.iter().filter_map(named));
        }
        names.extend(ports.iter().map(|port| format!("{port}.{within}")));
        if is_near {
            names.insert(service.to_string());
            names.extend(ports.iter().map(|port| format!("{port}.{service}")));
        }
        let apex = &self.snapshot.settings.apex;
        for relative in names {
            // A container's name may be too long for a label, or hold what no host name holds: then it has no alias.
            if let Ok(name) = Name::from_ascii(format!("{relative}.{apex}.")) {
                self.name(&name, rng);
            }
        }
    }

    /// Every record of one name.
    fn name(&mut self, name: &Name, rng: &mut impl Rng) {
        let Settings { apex, aliases, .. } = self.snapshot.settings;
        let folded = name::fold(name);
        let (zone, source) = (self.snapshot.zone, self.source);
        let found = |named| find(zone, source, named, *aliases).map(|found| found.candidates).unwrap_or_default();
        match name::classify(&folded, apex) {
            Subject::Service(named) => self.members(name, &found(named), Members::Ready, rng),
            Subject::All(named) => self.members(name, &found(named), Members::All, rng),
            Subject::Instance(label, named) => {
                let all = found(named);
                let members = instances(&all, label);
                if members.is_empty() {
                    return;
                }
                let ways: Vec<IpAddr> =
                    members.iter().flat_map(|member| self.view.ways(member).iter().map(|way| way.address)).collect();
                self.elsewhere(name, rng);
                self.addresses(name, ways);
                self.targets(name, &Chosen { members, standing: None }, &|_| true);
                self.answered(name, RecordType::TXT, rng);
            }
            Subject::Port(port, proto, named) => {
                let all = found(named);
                let chosen = Members::Ready.choose(&all, self.snapshot.settings);
                self.targets(name, &chosen, &|offered| offered.is_called(port, proto));
            }
            _ => {}
        }
    }

    /// The records of a service, or of all its instances.
    fn members(&mut self, name: &Name, all: &[Candidate], members: Members, rng: &mut impl Rng) {
        let chosen = members.choose(all, self.snapshot.settings);
        self.elsewhere(name, rng);
        let one = one_port(&self.view, all, &chosen.members);
        let given = Family::BOTH.into_iter().flat_map(|family| {
            near(&self.view, self.snapshot.settings, &chosen, &one.given, family).map(|given| given.way.address)
        });
        let given = given.collect();
        self.addresses(name, given);
        self.targets(name, &chosen, &|_| true);
    }

    /// The other name that has the addresses of this one, for this asker.
    fn elsewhere(&mut self, name: &Name, rng: &mut impl Rng) {
        if let Answer::Elsewhere { target, .. } = self.ask(name, RecordType::A, rng) {
            let _infallible = writeln!(self.text, "; {} has the addresses of {}", name.to_ascii(), target.to_ascii());
        }
    }

    /// What DNS decides, with all the room there is.
    fn ask(&self, name: &Name, kind: RecordType, rng: &mut impl Rng) -> Answer {
        answer(self.snapshot, self.source, name, kind, Room::whole(ASKER), rng)
    }

    fn addresses(&mut self, name: &Name, mut addresses: Vec<IpAddr>) {
        addresses.sort();
        addresses.dedup();
        for address in addresses {
            let data = address_data(address);
            self.record(&Record::from_rdata(name.clone(), self.snapshot.settings.ttl, data));
        }
    }

    fn targets(&mut self, name: &Name, chosen: &Chosen<'_>, is_meant: &dyn Fn(&Port) -> bool) {
        let mut lines = BTreeSet::new();
        for (candidate, priority) in priorities(&self.view, self.snapshot.settings, chosen, is_meant) {
            let offer = candidate.offer();
            let target = match candidate.publication.elsewhere.as_deref() {
                Some(Elsewhere::Name(host)) => format!("{host}."),
                _ => self.snapshot.settings.apex.instance(candidate.publication.container, offer).to_ascii(),
            };
            for (_, number) in numbers(&self.view, candidate, self.view.ways(candidate), is_meant) {
                lines.insert(format!("{priority} {} {number} {target}", offer.weight));
            }
        }
        for data in lines {
            let ttl = self.snapshot.settings.ttl;
            let _infallible = writeln!(self.text, "{} {ttl} IN SRV {data}", name.to_ascii());
        }
    }

    /// What DNS answers, where an answer is always whole.
    fn answered(&mut self, name: &Name, kind: RecordType, rng: &mut impl Rng) {
        if let Answer::Records { answers, .. } = self.ask(name, kind, rng) {
            self.records(&answers);
        }
    }

    fn records(&mut self, records: &[Record]) {
        let mut records: Vec<&Record> = records.iter().collect();
        records.sort_by_key(|record| record.data.to_string());
        for record in records {
            self.record(record);
        }
    }

    fn record(&mut self, record: &Record) {
        let data = match &record.data {
            RData::TXT(text) => text.txt_data.iter().map(|string| quoted(string)).collect::<Vec<_>>().join(" "),
            other => other.to_string(),
        };
        let (name, ttl, kind) = (record.name.to_ascii(), record.ttl, record.record_type());
        let _infallible = writeln!(self.text, "{name} {ttl} IN {kind} {data}");
    }
}

/// A character string as RFC 1035 section 5.1 writes it: what is not plain ASCII by its decimal number.
fn quoted(string: &[u8]) -> String {
    let mut text = String::from("\"");
    for &octet in string {
        match octet {
            b'"' | b'\\' => text.extend(['\\', octet as char]),
            b' '..=b'~' => text.push(octet as char),
            _ => {
                let _infallible = write!(text, "\\{octet:03}");
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests;
