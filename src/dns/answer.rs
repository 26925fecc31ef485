//! The decision: what a question of one asker gets, from one snapshot.
//!
//! - A name that exists has records, or NODATA for types it lacks; it exists with all its instances, ready or not,
//!   reachable or not. A name above existing names exists too (RFC 8020). Everything else of ours is NXDOMAIN.
//! - NXDOMAIN and NODATA are statements about everything there is, so they are made only by a complete zone; until
//!   then such a question fails (SERVFAIL), and the asker tries elsewhere or again. Records are given from whatever
//!   is known. One exception: where A or AAAA of a name has addresses, the other family may be denied before the
//!   zone is complete. Resolvers that ask for both (musl) would drop the good half with the failed one, and the own
//!   host must stay right without any registry (P3).
//! - A service without namespace is the asker's own, else what Docker's own DNS calls a container of its namespace, else that of
//!   `global`; never a union (`find.rs`). The own one wins because it
//!   exists, also while none of its instances is ready or reachable: a replica that stops must not hand its clients
//!   over to a stranger of the same name.
//! - Nothing of ours is forwarded, and of single labels only what `answer/others.rs` says. Names of others are forwarded for
//!   this host and for containers that may leave their networks (P7).
//!
//! Names that are asked for without the apex (`web.`) are answered as if the root were ours: negative answers carry
//! an SOA of the root, as the real root's would, because an SOA must stand above the name it denies (RFC 2308
//! section 3).
//!
//! The apex is its own name server, so that no service name is taken away for it.

pub(super) mod hosts;
mod others;
mod reverse;
mod room;
mod sample;

use std::{net::IpAddr, sync::Arc};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, HINFO, NS, SOA, SRV, TXT},
};
use ipnet::IpNet;
use rand::{Rng, seq::SliceRandom};

pub(super) use self::sample::{Order, Weighted, distinct, octets, sample};

pub use self::room::Room;
pub use super::source::{Source, locate};
use super::{
    find::{Found, Missing, dotted, find, settle},
    name::{self, Apex, HOST, Loose, Named, Subject},
    prefer::Preference,
    reach::{Family, Given, Viewpoint, Ways, one_port},
    ready::{self, Chosen},
    special::Singles,
    zone::{Candidate, Zone},
};
use crate::model::{Aliases, Elsewhere, Local, MAX_LABEL, Port, Proto, ShortId, WhenNoneReady};

/// Addresses that are given for the name server itself.
const MAX_NAMESERVERS: usize = 16;

/// SRV records in one answer, sampled from all, however short they are: more is work for few.
pub const MAX_TARGETS: usize = 256;

/// Octets that SRV records may fill, so that an answer always fits into a TCP message: 65,535 - 12 for the header
/// - 255 - 4 for the question - 11 for EDNS. Of the longest names (see `targets`) 124 records fit.
const ROOM: usize = 65_535 - 12 - 255 - 4 - 11;

/// Strings in a TXT record: 128 x 256 = 32,768 octets always fit into a TCP message.
pub const MAX_TAGS: usize = 128;

/// The longest string of a TXT record (RFC 1035 section 3.3). Longer tags are left out.
const MAX_STRING: usize = 255;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--zone`
    pub apex: Apex,
    /// `--ttl` in seconds, of everything that names an instance. 0 because a freed address is taken at once (D10).
    pub ttl: u32,
    /// Seconds for which a "no" may be kept.
    pub negative_ttl: u32,
    /// `--routed`: container subnets that everybody reaches.
    pub routed: Vec<IpNet>,
    /// Addresses given for the name server itself, where it listens on port 53 by `--dns ADDR:53`. Containers are
    /// given the gateways of their networks first, where `--dns docker` listens.
    pub nameserver: Vec<IpAddr>,
    /// Names of others are forwarded; not so with `--upstream none`.
    pub forwarding: bool,
    /// `--single-labels`, and the `--upstream LABEL=…` among all.
    pub singles: Singles,
    /// `--when-none-ready`: who is given while no instance of a service is ready.
    pub when_none_ready: WhenNoneReady,
    /// `--prefer`, `--prefer-floor` and where this host stands.
    pub prefer: Preference,
    /// `--aliases`: which names of Docker's own DNS are names here.
    pub aliases: Aliases,
    /// The id of this host.
    pub host: Arc<str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            apex: Apex::default(),
            ttl: 0,
            negative_ttl: 1,
            routed: Vec::new(),
            nameserver: Vec::new(),
            forwarding: true,
            singles: Singles::default(),
            when_none_ready: WhenNoneReady::default(),
            prefer: Preference::default(),
            aliases: Aliases::default(),
            host: "".into(),
        }
    }
}

/// Everything an answer is made from.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// What there is.
    pub zone: &'a Zone,
    /// Who may be asking.
    pub local: &'a Local,
    /// What the operator chose.
    pub settings: &'a Settings,
}

/// What a question gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// There are records; those in `additionals` save the next question.
    Records {
        /// At least one.
        answers: Vec<Record>,
        /// Addresses of names in `answers`, grouped by name and type.
        additionals: Vec<Record>,
        /// There are more addresses than fit: these are the asker's part.
        is_part: bool,
    },
    /// The name exists, but not with this type: NOERROR, and the SOA to keep that by.
    NoData(Box<Record>),
    /// There is no such name: NXDOMAIN, and the SOA to keep that by.
    NoName(Box<Record>),
    /// Ours, but not enough is known yet: SERVFAIL.
    NotYet,
    /// The service has another name, one of others: its addresses of this family are the service's.
    Elsewhere {
        /// The other name.
        target: Name,
        /// What says that there are none, and how long that may be kept.
        soa: Box<Record>,
    },
    /// Somebody else's name, to be asked for on behalf of this asker.
    Forward,
    /// Somebody else's name, and not for this asker: REFUSED.
    Refused,
    /// Near this host there is no such service, but this asker may stand elsewhere: REFUSED, and why.
    AskYourHost,
}

/// Whether names of others are asked for on behalf of `source`: what RA says.
pub fn may_forward(snapshot: &Snapshot<'_>, source: &Source) -> bool {
    snapshot.settings.forwarding
        && match source {
            Source::Host => true,
            Source::Container(_) => !Viewpoint::new(snapshot.local, &[], source).is_confined(),
            Source::Peer | Source::Stranger | Source::Unknown => false,
        }
}

/// Answers one question of class IN, as far as there is room. `name` is kept as it came, letter case and all.
pub fn answer(
    snapshot: &Snapshot<'_>,
    source: &Source,
    name: &Name,
    kind: RecordType,
    room: Room,
    rng: &mut impl Rng,
) -> Answer {
    let Settings { apex, routed, aliases, .. } = snapshot.settings;
    let question =
        Question { snapshot, source, name, kind, room, view: Viewpoint::new(snapshot.local, routed, source) };
    let text = name::fold(name);
    match settle(snapshot.zone, source, *aliases, name::classify(&text, apex)) {
        Subject::Apex => question.apex(),
        Subject::Bare(label) => question.bare(label, rng),
        Subject::Service(named) => question.service(named, Members::Ready, question.apex_soa(), rng),
        Subject::All(named) => question.service(named, Members::All, question.apex_soa(), rng),
        Subject::Port(port, proto, named) => question.port(port, proto, named, question.apex_soa(), rng),
        Subject::Transport(proto, named) => question.transport(proto, named, question.apex_soa()),
        Subject::Instance(instance, named) => question.instance(instance, named, rng),
        Subject::Host(host) => question.host(host, rng),
        Subject::On(named, host) => question.on(named, host, rng),
        Subject::Loose(loose) => question.loose(loose, rng),
        Subject::Nothing => question.nothing(question.apex_soa()),
        Subject::Reverse(prefix) => question.reverse(prefix, reverse::Depth::At),
        Subject::BelowReverse(prefix) => question.reverse(prefix, reverse::Depth::Below),
        Subject::Outside => question.others(&text, rng),
    }
}

/// Which instances of a service count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    Ready,
    All,
}

impl Members {
    pub(super) fn choose<'z>(self, candidates: &'z [Candidate], settings: &Settings) -> Chosen<'z> {
        match self {
            Self::Ready => ready::choose(candidates, settings.when_none_ready),
            // Of no standing: there is no preference among them, for clusters that bootstrap need to know everybody.
            Self::All => Chosen { members: candidates.iter().collect(), standing: None },
        }
    }
}

struct Question<'a> {
    snapshot: &'a Snapshot<'a>,
    source: &'a Source,
    name: &'a Name,
    kind: RecordType,
    room: Room,
    view: Viewpoint<'a>,
}

impl<'a> Question<'a> {
    fn apex(&self) -> Answer {
        let addresses = self.nameserver();
        let apex = self.snapshot.settings.apex.name();
        match self.kind {
            RecordType::SOA => self.records(vec![self.soa(self.name.clone())]),
            RecordType::NS => {
                let additionals = addresses.iter().map(|address| self.address(apex, *address)).collect();
                Answer::Records { answers: vec![self.record(RData::NS(NS(apex.clone())))], additionals, is_part: false }
            }
            RecordType::A | RecordType::AAAA if addresses.iter().any(|address| self.wants(*address)) => {
                let wanted = addresses.iter().filter(|address| self.wants(**address));
                self.records(wanted.map(|address| self.address(self.name, *address)).collect())
            }
            RecordType::ANY => self.any(),
            // What the apex holds does not depend on what is known, so it may be denied at any time.
            _ => Answer::NoData(Box::new(self.apex_soa())),
        }
    }

    /// A name that is ours because its service is there near the asker, or may be.
    fn loose(&self, loose: Loose<'_>, rng: &mut impl Rng) -> Answer {
        let (near, soa) = (loose.named(), self.soa(Name::root()));
        match loose {
            _ if self.find(near).is_err() => self.no_data(soa),
            Loose::All(_) => self.service(near, Members::All, soa, rng),
            Loose::Port(port, proto, _) => self.port(port, proto, near, soa, rng),
            Loose::Transport(proto, _) => self.transport(proto, near, soa),
        }
    }

    fn service(&self, named: Named<'_>, members: Members, soa: Record, rng: &mut impl Rng) -> Answer {
        match self.find(named) {
            Ok(found) => self.of(&found.candidates, members, soa, rng),
            Err(Missing::Nothing) if *self.source != Source::Peer && self.stands_above(named, &soa.name) => {
                self.no_data(soa)
            }
            Err(missing) => self.missing(missing, named, soa),
        }
    }

    /// A name of which nothing was found.
    fn missing(&self, missing: Missing, named: Named<'_>, soa: Record) -> Answer {
        match missing {
            Missing::NotYet => Answer::NotYet,
            Missing::Lost(_) if *self.source != Source::Peer => self.no_data(soa),
            Missing::Lost(_) | Missing::Nothing => self.no_service(named, soa),
        }
    }

    /// What instances of one name give.
    fn of(&self, candidates: &[Candidate], members: Members, soa: Record, rng: &mut impl Rng) -> Answer {
        let chosen = members.choose(candidates, self.snapshot.settings);
        if let Some(target) = self.elsewhere(&chosen) {
            return Answer::Elsewhere { target, soa: Box::new(soa) };
        }
        match self.kind {
            RecordType::A | RecordType::AAAA => {
                let one = one_port(&self.view, candidates, &chosen.members);
                let wanted = near(&self.view, self.snapshot.settings, &chosen, &one.given, self.family());
                let weighted = wanted.map(|given| weighted(chosen.members[given.member], given.way.address));
                self.addresses(weighted.collect(), !one.given.is_empty(), soa, rng)
            }
            RecordType::SRV => self.targets(&chosen, &|_| true, soa, rng),
            RecordType::ANY => self.any(),
            _ => self.no_data(soa),
        }
    }

    /// The other name of what was chosen, if it has one and addresses are asked for. An asker that may not leave its networks
    /// gets no way out.
    fn elsewhere(&self, chosen: &Chosen<'_>) -> Option<Name> {
        let [only] = chosen.members.as_slice() else { return None };
        let asks = matches!(self.kind, RecordType::A | RecordType::AAAA);
        if asks && !self.view.is_confined() { named(only) } else { None }
    }

    /// Whether a name that is no service has names below it: a namespace its services, the last label of the apex us.
    fn stands_above(&self, named: Named<'_>, zone: &Name) -> bool {
        let Snapshot { zone: known, settings, .. } = self.snapshot;
        match named.namespace {
            Some(_) => false,
            None if zone.is_root() => settings.apex.as_str().rsplit('.').next() == Some(named.service),
            None => named.service == HOST || known.has_namespace(named.service),
        }
    }

    fn instance(&self, instance: &str, named: Named<'_>, rng: &mut impl Rng) -> Answer {
        let soa = self.apex_soa();
        let found = self.find(named);
        let all = found.as_ref().map(|found| &*found.candidates).unwrap_or_default();
        let chosen: Vec<&Candidate> = instances(all, instance);
        if chosen.is_empty() && named.namespace == Some(HOST) && instance == "on" && self.is_host(named.service) {
            return self.no_data(soa);
        }
        if chosen.is_empty() {
            return self.nothing(soa);
        }
        if let Some(target) = self.elsewhere(&Chosen { members: chosen.clone(), standing: None }) {
            return Answer::Elsewhere { target, soa: Box::new(soa) };
        }
        match self.kind {
            RecordType::A | RecordType::AAAA => {
                let ways = || chosen.iter().flat_map(|held| self.view.ways(held).iter().map(move |way| (held, way)));
                let wanted = ways().filter(|(_, way)| self.family().holds(way.address));
                let addresses = wanted.map(|(candidate, way)| weighted(candidate, way.address)).collect();
                self.addresses(addresses, ways().next().is_some(), soa, rng)
            }
            RecordType::SRV => self.targets(&Chosen { members: chosen, standing: None }, &|_| true, soa, rng),
            RecordType::TXT => self.tags(&chosen, soa),
            RecordType::ANY => self.any(),
            _ => self.no_data(soa),
        }
    }

    fn port(&self, port: &str, proto: Proto, named: Named<'_>, soa: Record, rng: &mut impl Rng) -> Answer {
        let is_meant = |offered: &Port| offered.is_called(port, proto);
        let found = match self.find(named) {
            Ok(found) => found,
            Err(missing) => return self.missing(missing, named, soa),
        };
        let candidates = &*found.candidates;
        if !candidates.iter().any(|candidate| candidate.offer().ports.iter().any(is_meant)) {
            return self.nothing(soa);
        }
        match self.kind {
            RecordType::SRV => {
                let chosen = Members::Ready.choose(candidates, self.snapshot.settings);
                self.targets(&chosen, &is_meant, soa, rng)
            }
            RecordType::ANY => self.any(),
            _ => self.no_data(soa),
        }
    }

    fn transport(&self, proto: Proto, named: Named<'_>, soa: Record) -> Answer {
        let found = match self.find(named) {
            Ok(found) => found,
            Err(missing) => return self.missing(missing, named, soa),
        };
        let mut ports = found.candidates.iter().flat_map(|candidate| &candidate.offer().ports);
        match ports.any(|port| port.proto == proto && port.name.is_some()) {
            true => self.no_data(soa),
            false => self.nothing(soa),
        }
    }

    /// An alias with dots: it has A and AAAA, and only for who reaches it.
    fn dotted(&self, text: &str, rng: &mut impl Rng) -> Option<Answer> {
        let Snapshot { zone, settings, .. } = self.snapshot;
        if !matches!(self.kind, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let found = dotted(zone, self.source, text, settings.aliases)?;
        // It is a zone of its own, so that nothing is said of names around it.
        match self.of(&found.candidates, Members::Ready, self.soa(self.name.clone()), rng) {
            Answer::NoData(soa) if self.reaches(&found.candidates) => Some(Answer::NoData(soa)),
            given @ Answer::Records { .. } => Some(given),
            _ => None,
        }
    }

    /// The instances of a service, in the namespace that is meant.
    fn find(&self, named: Named<'_>) -> Result<Found<'a>, Missing> {
        find(self.snapshot.zone, self.source, named, self.snapshot.settings.aliases)
    }

    /// Whether A or AAAA hold one of them.
    fn reaches(&self, candidates: &[Candidate]) -> bool {
        let chosen = Members::Ready.choose(candidates, self.snapshot.settings);
        !one_port(&self.view, candidates, &chosen.members).given.is_empty()
    }

    /// The records of `addresses`; `any`: the name has some, perhaps of the other family only.
    fn addresses(&self, addresses: Vec<Weighted>, any: bool, soa: Record, rng: &mut impl Rng) -> Answer {
        if addresses.is_empty() {
            // See the exception above.
            return if any { Answer::NoData(Box::new(soa)) } else { self.no_data(soa) };
        }
        let data = if self.family() == Family::V4 { 4 } else { 16 };
        let most = self.room.records(self.name.len() + 1, data);
        let addresses = distinct(addresses);
        let is_part = addresses.len() > most;
        let sampled = sample(&addresses, most, self.room.asker, rng);
        let answers = sampled.iter().map(|(address, _)| self.address(self.name, *address)).collect();
        Answer::Records { answers, additionals: Vec::new(), is_part }
    }

    fn targets(
        &self,
        chosen: &Chosen<'_>,
        is_meant: &dyn Fn(&Port) -> bool,
        soa: Record,
        rng: &mut impl Rng,
    ) -> Answer {
        let apex = &self.snapshot.settings.apex;
        let mut order = priorities(&self.view, self.snapshot.settings, chosen, is_meant);
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        order.shuffle(rng);
        // Whoever is left out beyond the limit is among the farthest.
        order.sort_by_key(|(_, priority)| *priority);
        for (candidate, priority) in order {
            let (offer, ways) = (candidate.offer(), self.view.ways(candidate));
            let target = match named(candidate) {
                Some(host) => host,
                None => apex.instance(candidate.publication.container, offer),
            };
            let records: Vec<Record> = numbers(&self.view, candidate, ways, is_meant)
                .map(|(_, number)| self.record(RData::SRV(SRV::new(priority, offer.weight, number, target.clone()))))
                // 53/tcp and 53/udp under one number are one record (RFC 2181 section 5).
                .fold(Vec::new(), |mut distinct, record| {
                    if !distinct.contains(&record) {
                        distinct.push(record);
                    }
                    distinct
                });
            if records.is_empty() {
                continue;
            }
            // Both names in full, because compression ends after many names: 10 and 6 for the fields of record and SRV.
            let limit = MAX_TARGETS.min(ROOM / (self.name.len() + 1 + 10 + 6 + target.len() + 1));
            answers.extend(records.into_iter().take(limit - answers.len()));
            additionals.extend(ways.iter().map(|way| self.address(&target, way.address)));
            if answers.len() == limit {
                break;
            }
        }
        if answers.is_empty() { self.no_data(soa) } else { Answer::Records { answers, additionals, is_part: false } }
    }

    /// All tags of the instances as one record, one string per tag, in alphabetical order.
    fn tags(&self, candidates: &[&Candidate], soa: Record) -> Answer {
        let tags = candidates.iter().flat_map(|candidate| &candidate.offer().tags);
        let mut tags: Vec<&[u8]> = tags.map(|tag| tag.as_bytes()).filter(|tag| tag.len() <= MAX_STRING).collect();
        tags.sort_unstable();
        tags.dedup();
        tags.truncate(MAX_TAGS);
        if tags.is_empty() {
            return self.no_data(soa);
        }
        self.records(vec![self.record(RData::TXT(TXT::from_bytes(tags)))])
    }

    /// The smallest answer to ANY, and no amplifier (RFC 8482 section 4.2).
    fn any(&self) -> Answer {
        let nothing = HINFO::new("RFC8482".to_owned(), String::new());
        self.records(vec![self.record(RData::HINFO(nothing))])
    }

    fn no_data(&self, soa: Record) -> Answer {
        if self.snapshot.zone.is_complete() { Answer::NoData(Box::new(soa)) } else { Answer::NotYet }
    }

    fn nothing(&self, soa: Record) -> Answer {
        if self.snapshot.zone.is_complete() { Answer::NoName(Box::new(soa)) } else { Answer::NotYet }
    }

    fn records(&self, answers: Vec<Record>) -> Answer {
        Answer::Records { answers, additionals: Vec::new(), is_part: false }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.snapshot.settings.ttl, data)
    }

    fn address(&self, owner: &Name, address: IpAddr) -> Record {
        Record::from_rdata(owner.clone(), self.snapshot.settings.ttl, address_data(address))
    }

    fn wants(&self, address: IpAddr) -> bool {
        self.family().holds(address)
    }

    fn family(&self) -> Family {
        if self.kind == RecordType::A { Family::V4 } else { Family::V6 }
    }

    fn apex_soa(&self) -> Record {
        self.soa(self.snapshot.settings.apex.name().clone())
    }

    /// The SOA of a zone of ours. Its TTL and its minimum are how long a "no" may be kept (RFC 2308 section 3);
    /// nobody transfers the zone, so the other times are only usual ones.
    fn soa(&self, owner: Name) -> Record {
        let Settings { apex, negative_ttl, .. } = self.snapshot.settings;
        let contact = Name::from_labels([b"hostmaster".as_slice()].into_iter().chain(apex.name().iter()))
            .expect("an apex leaves room for more than one label");
        // A serial is a counter modulo 2^32 (RFC 1982).
        let serial = u32::try_from(self.snapshot.zone.revision() & i64::from(u32::MAX)).unwrap_or_default();
        let data = SOA::new(apex.name().clone(), contact, serial, 7200, 1800, 86_400, *negative_ttl);
        Record::from_rdata(owner, *negative_ttl, RData::SOA(data))
    }

    fn nameserver(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.view.gateways().collect();
        if addresses.is_empty() && !self.view.is_confined() {
            addresses.clone_from(&self.snapshot.settings.nameserver);
        }
        addresses.truncate(MAX_NAMESERVERS);
        addresses
    }
}

/// An address as A and AAAA records carry it.
pub(super) fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// Those of the `given` ways of one family that are near enough for this asker.
pub(super) fn near<'g>(
    view: &Viewpoint<'_>,
    settings: &Settings,
    chosen: &Chosen<'_>,
    given: &'g [Given],
    family: Family,
) -> impl Iterator<Item = &'g Given> {
    let wanted = move || given.iter().filter(move |given| family.holds(given.way.address));
    let priorities = settings
        .prefer
        .applies(view.source(), chosen.standing)
        .then(|| settings.prefer.priorities(wanted().map(|given| &*chosen.members[given.member].home)))
        .flatten();
    let is_near = move |place: usize| priorities.as_ref().is_none_or(|all| all[place] == 0);
    wanted().enumerate().filter(move |(place, _)| is_near(*place)).map(|(_, given)| given)
}

/// The chosen instances with the priority of their SRV records: the farther, the higher. Who has no record for this asker
/// does not count as near.
pub(super) fn priorities<'z>(
    view: &Viewpoint<'_>,
    settings: &Settings,
    chosen: &Chosen<'z>,
    is_meant: &dyn Fn(&Port) -> bool,
) -> Vec<(&'z Candidate, u16)> {
    let all = chosen.members.iter().copied();
    if !settings.prefer.applies(view.source(), chosen.standing) {
        return all.map(|candidate| (candidate, 0)).collect();
    }
    let is_given = |candidate: &&Candidate| numbers(view, candidate, view.ways(candidate), is_meant).next().is_some();
    let given: Vec<&Candidate> = all.filter(is_given).collect();
    match settings.prefer.priorities(given.iter().map(|candidate| &*candidate.home)) {
        Some(priorities) => given.into_iter().zip(priorities).collect(),
        None => given.into_iter().map(|candidate| (candidate, 0)).collect(),
    }
}

/// The ports of an instance that SRV records carry, with their numbers for this asker.
pub(super) fn numbers<'c>(
    view: &'c Viewpoint<'_>,
    candidate: &'c Candidate,
    ways: Ways,
    is_meant: &'c dyn Fn(&Port) -> bool,
) -> impl Iterator<Item = (&'c Port, u16)> {
    let is_named =
        matches!(candidate.publication.elsewhere.as_deref(), Some(Elsewhere::Name(_))) && !view.is_confined();
    let number = move |port: &Port| match is_named {
        true => Some(port.port),
        false => ways.iter().find_map(|way| view.number(candidate, way, port)),
    };
    let meant = candidate.offer().ports.iter().filter(|port| is_meant(port));
    meant.filter_map(move |port| Some((port, number(port)?)))
}

/// The other name of an external service that has one.
pub(super) fn named(candidate: &Candidate) -> Option<Name> {
    match candidate.publication.elsewhere.as_deref() {
        Some(Elsewhere::Name(host)) => Name::from_ascii(format!("{host}.")).ok(),
        _ => None,
    }
}

pub(super) fn weighted(candidate: &Candidate, address: IpAddr) -> Weighted {
    (address, u32::from(candidate.offer().weight))
}

/// The instances that a label names: the one container with that short id, else all with that name.
pub(super) fn instances<'z>(candidates: &'z [Candidate], label: &str) -> Vec<&'z Candidate> {
    if let Some(id) = ShortId::parse(label).filter(|id| id.as_str() == label) {
        let first = candidates.partition_point(|candidate| candidate.publication.container < id);
        let held: Vec<_> = candidates[first..].iter().take_while(|c| c.publication.container == id).collect();
        if !held.is_empty() {
            return held;
        }
    }
    candidates.iter().filter(|candidate| is_written(&candidate.publication.name, label)).collect()
}

/// Whether a container's or a host's name, written as a label, is `label`. One that is too long for a label is none.
pub fn is_written(name: &str, label: &str) -> bool {
    let written = |octet: u8| if octet == b'.' { b'-' } else { octet.to_ascii_lowercase() };
    !name.is_empty()
        && name.len() == label.len()
        && name.len() <= MAX_LABEL
        && name.bytes().map(written).eq(label.bytes())
}

#[cfg(test)]
mod tests;
