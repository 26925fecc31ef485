//! A small world written as text, and questions asked in it: what the tables of this folder's tests are made of.
//!
//! ```text
//! network n1 bridge 172.18.0.0/16 internal no-icc      a network of this host, its gateway the first address; `apart` is
//!                                                      a bridge in another network namespace
//! foreign n9 bridge                                    a network of another host
//! asker f1 shop n1=172.18.0.9                          a container of this host: name (or id), namespace, addresses
//! address 192.0.2.1                                    an address of this host's interfaces
//! proxied 8080/tcp                                     a port that docker-proxy holds
//! routed 172.30.0.0/16 fd00:30::/64                    what `--routed` says
//! host own 192.0.2.1 at=eu/a                           a host (`own` is this one), what it advertises, where it is
//!   a1 @n1=172.18.0.2 name=shop-web-1 draining web.shop main=80 http:80/tcp>0.0.0.0:8080~[::]:32768 weight=5 tag=x
//! ```
//! `host external` holds what an operator registered: `=10.0.0.9` at an address, `=redis.example.com` under a name.
//! Container ids are filled up with zeros. `@host` is the host's network. `>` is a published port that the operator
//! chose, `~` one that Docker chose. `paused`, `starting`, `unhealthy`, `healthy` and `held` stand like
//! `draining`;
//! `none-ready=unhealthy` is a service's own policy, `dir=d1` the digest of its project's directory. `in=shop` is the
//! container's own namespace (otherwise that of its first service outside of `global`), `also=db,db.example.com` its aliases.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, sync::Arc};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use ipnet::IpNet;
use rand::{SeedableRng, rngs::SmallRng};

/// Where all askers ask from, as far as it matters: which addresses one is given where not all fit.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 99));

use super::{
    answer::{Settings, Snapshot, Source},
    wire::{Outcome, Transport, respond},
    zone::Zone,
};
use crate::model::*;

/// All that an answer depends on.
pub(crate) struct World {
    pub(crate) local: Local,
    pub(crate) catalog: Catalog,
    pub(crate) zone: Zone,
    pub(crate) settings: Settings,
}

/// `a1` is `a10000000000`.
pub(crate) fn short(id: &str) -> ShortId {
    ShortId::parse(&format!("{id:0<12}")).unwrap_or_else(|| panic!("{id:?} is no container id"))
}

fn label(text: &str) -> Label {
    Label::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

impl World {
    pub(crate) fn parse(text: &str) -> Self {
        let mut local = Local { listed: true, ..Local::default() };
        let mut catalog = Catalog { docker_listed: true, registry_listed: true, ..Catalog::default() };
        let mut networks: BTreeMap<String, Attachment> = BTreeMap::new();
        let mut settings = Settings::default();
        let mut origin = Origin::Own;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let has = |flag: &str| words.contains(&flag);
            match words[0] {
                kind @ ("network" | "foreign") => {
                    let driver = Driver::parse(words[2]);
                    let scope = if driver == Driver::Overlay { Scope::Swarm } else { Scope::Local };
                    let id = NetworkId(words[1].into());
                    let internal = has("internal");
                    let name: Arc<str> = words[1].into();
                    if kind == "network" {
                        let subnets: Vec<IpNet> = words[3].split(',').map(|net| net.parse().unwrap()).collect();
                        let gateways = subnets.iter().map(first_host).collect();
                        let network = Network {
                            id: id.clone(),
                            name: name.clone(),
                            driver: driver.clone(),
                            scope,
                            internal,
                            icc: !has("no-icc"),
                            subnets,
                            gateways,
                        };
                        local.networks.insert(id.clone(), Arc::new(network));
                        if has("apart") {
                            Arc::make_mut(&mut local.apart).insert(id.clone());
                        }
                    }
                    let place = Attachment {
                        segment: Arc::new(Segment { id, name, driver, scope, internal }),
                        ips: Ips::default(),
                    };
                    networks.insert(words[1].to_owned(), place);
                }
                "asker" => {
                    let places: Vec<(&str, &str)> = words[3..].iter().map(|w| w.split_once('=').unwrap()).collect();
                    let asker = Arc::new(Asker {
                        container: ShortId::parse(&format!("{:0<12}", words[1])).unwrap_or_else(|| short("f")),
                        name: words[1].into(),
                        namespace: label(words[2]),
                        networks: places.iter().map(|(network, _)| NetworkId((*network).into())).collect(),
                    });
                    for address in places.iter().flat_map(|(_, addresses)| addresses.split(',')) {
                        local.askers.insert(address.parse().unwrap(), Arc::clone(&asker));
                    }
                }
                "address" => {
                    Arc::make_mut(&mut local.addresses).insert(words[1].parse().unwrap());
                }
                "proxied" => {
                    let (port, proto) = words[1].split_once('/').unwrap();
                    Arc::make_mut(&mut local.proxied).insert((parse_proto(proto), port.parse().unwrap()));
                }
                "routed" => settings.routed.extend(words[1..].iter().map(|net| net.parse::<IpNet>().unwrap())),
                "host" => {
                    origin = match words[1] {
                        "own" => Origin::Own,
                        "external" => Origin::External,
                        id => Origin::Registry(HostId::parse(id).unwrap()),
                    };
                    let (at, advertise): (Vec<&str>, Vec<&str>) =
                        words[2..].iter().partition(|word| word.starts_with("at="));
                    let advertise = advertise.iter().map(|word| word.parse().unwrap()).collect();
                    let locality = at.first().map_or("", |word| &word[3..]).into();
                    let session = Session { advertise, locality, ..Session::default() };
                    let host = Host { session, publications: imbl::OrdMap::new() };
                    catalog.hosts.insert(origin.clone(), Arc::new(host));
                }
                _ => {
                    let publication = Arc::new(publication(&words, &networks));
                    let host = Arc::make_mut(catalog.hosts.get_mut(&origin).expect("a host before its containers"));
                    host.publications.insert(publication.container, publication);
                }
            }
        }
        let zone = Zone::default().routing(&settings.routed).update(&Catalog::default(), &catalog);
        Self { local, catalog, zone, settings }
    }

    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { zone: &self.zone, local: &self.local, settings: &self.settings }
    }

    /// `host`, `peer`, `stranger`, `unknown`, or the name of an asker.
    pub(crate) fn source(&self, who: &str) -> Source {
        match who {
            "host" => Source::Host,
            "peer" => Source::Peer,
            "stranger" => Source::Stranger,
            "unknown" => Source::Unknown,
            id => {
                let asker = self.local.askers.values().find(|asker| &*asker.name == id);
                Source::Container(Arc::clone(asker.unwrap_or_else(|| panic!("no asker {id:?}"))))
            }
        }
    }

    /// Rows of `asker | type name | answer`: all are asked, and all that differ are shown.
    pub(crate) fn check(&self, rows: &str) {
        let mut wrong = Vec::new();
        for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let [who, question, expected] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
                panic!("row {row:?} has no three cells")
            };
            let given = self.ask(who, question);
            if given != expected {
                wrong.push(format!("{who} | {question} | {given}      <- expected {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn ask(&self, who: &str, question: &str) -> String {
        let (kind, name) = question.split_once(' ').unwrap();
        let query = query(name, kind);
        let mut rng = SmallRng::seed_from_u64(7);
        let source = self.source(who);
        let packet = query.to_vec().unwrap();
        match respond(&self.snapshot(), &source, ADDRESS, &packet, Transport::Tcp, &mut rng) {
            Outcome::Reply(reply) => self.show(&Message::from_vec(&reply).unwrap()),
            Outcome::Forward(_) => "FORWARD".into(),
            Outcome::Follow(follow) => format!("FOLLOW {}", follow.shown()),
            Outcome::Wait => "WAIT".into(),
            Outcome::Drop => "DROP".into(),
        }
    }

    fn show(&self, reply: &Message) -> String {
        let code = reply.metadata.response_code;
        let ours = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        assert_eq!(reply.metadata.authoritative, ours, "AA on what we have authority over, and only there: {reply}");
        if !ours {
            assert!(reply.answers.is_empty() && reply.authorities.is_empty(), "{reply}");
            return format!("{code:?}").to_uppercase();
        }
        if reply.answers.is_empty() {
            let [soa] = &reply.authorities[..] else { panic!("one SOA to keep a no by: {reply}") };
            assert!(matches!(soa.data, RData::SOA(_)) && soa.ttl == self.settings.negative_ttl, "{reply}");
            assert!(soa.name.zone_of(&reply.queries[0].name), "the SOA stands above the name: {reply}");
            return if code == ResponseCode::NXDomain { "NXDOMAIN".into() } else { "NODATA".into() };
        }
        assert!(code == ResponseCode::NoError && reply.authorities.is_empty(), "{reply}");
        assert!(reply.answers.iter().all(|record| record.name == reply.queries[0].name), "{reply}");
        let mut shown: Vec<String> = reply.answers.iter().map(|record| show(record, &reply.additionals)).collect();
        shown.sort();
        shown.join(" ")
    }
}

/// A plain query.
pub(crate) fn query(name: &str, kind: &str) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let labels = name.split('.').filter(|label| !label.is_empty());
    let name = Name::from_labels(labels.map(str::as_bytes)).unwrap();
    message.add_query(Query::query(name, parse_kind(kind)));
    message
}

fn show(record: &Record, additionals: &[Record]) -> String {
    match &record.data {
        RData::A(address) => address.to_string(),
        RData::AAAA(address) => address.to_string(),
        RData::CNAME(name) => name.0.to_ascii(),
        RData::SRV(srv) if !srv.target.to_string().ends_with(".svc.internal.") => {
            format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target)
        }
        RData::SRV(srv) => {
            let label = String::from_utf8(srv.target.iter().next().unwrap().to_vec()).unwrap();
            let mut addresses: Vec<IpAddr> = additionals
                .iter()
                .filter(|record| record.name == srv.target)
                .filter_map(|record| record.data.ip_addr())
                .collect();
            addresses.sort();
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            let priority = if srv.priority == 0 { String::new() } else { format!("!{}", srv.priority) };
            format!("{}:{}={}{priority}", label.trim_end_matches('0'), srv.port, addresses.join(","))
        }
        RData::TXT(txt) => {
            let strings = txt.txt_data.iter().map(|string| String::from_utf8(string.to_vec()).unwrap());
            strings.collect::<Vec<_>>().join(",")
        }
        RData::PTR(name) => name.0.to_ascii(),
        RData::NS(name) => name.0.to_ascii(),
        RData::SOA(soa) => soa.mname.to_ascii(),
        RData::HINFO(hinfo) => String::from_utf8(hinfo.cpu.to_vec()).unwrap(),
        other => panic!("unexpected {other}"),
    }
}

fn first_host(subnet: &IpNet) -> IpAddr {
    subnet.hosts().find(|address| *address != subnet.network()).unwrap()
}

fn parse_kind(text: &str) -> RecordType {
    match text.strip_prefix("TYPE") {
        Some(number) => number.parse::<u16>().unwrap().into(),
        None => text.parse().unwrap_or_else(|_| panic!("type {text:?}")),
    }
}

fn parse_proto(text: &str) -> Proto {
    match text {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        other => panic!("proto {other:?}"),
    }
}

fn phase(word: &str) -> Option<Phase> {
    match word {
        "draining" => Some(Phase::Draining),
        "paused" => Some(Phase::Paused),
        _ => None,
    }
}

fn health(word: &str) -> Option<Health> {
    match word {
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        "starting" => Some(Health::Starting),
        "held" => Some(Health::Held),
        _ => None,
    }
}

fn publication(words: &[&str], networks: &BTreeMap<String, Attachment>) -> Publication {
    let mut made = Publication {
        container: short(words[0]),
        name: format!("c-{}", words[0]).into(),
        common: Arc::new(Common {
            image: "image".into(),
            services: Box::default(),
            directory: None,
            namespace: Label::global(),
            aliases: Box::default(),
        }),
        phase: Phase::Serving,
        health: Health::None,
        networks: Box::default(),
        elsewhere: None,
    };
    let (mut services, mut places): (Vec<Offer>, Vec<Attachment>) = (Vec::new(), Vec::new());
    let mut own_namespace = None;
    for word in &words[1..] {
        if let Some(phase) = phase(word) {
            made.phase = phase;
        } else if let Some(health) = health(word) {
            made.health = health;
        } else if *word == "@host" {
            places.push(Attachment {
                segment: Arc::new(Segment {
                    id: NetworkId("host".into()),
                    name: "host".into(),
                    driver: Driver::Host,
                    scope: Scope::Local,
                    internal: false,
                }),
                ips: Ips::default(),
            });
        } else if let Some(place) = word.strip_prefix('@') {
            let (network, addresses) = place.split_once('=').unwrap();
            let mut place = networks.get(network).unwrap_or_else(|| panic!("no network {network:?}")).clone();
            place.ips = addresses.split(',').map(|address| address.parse().unwrap()).collect();
            places.push(place);
        } else if let Some(place) = word.strip_prefix("=") {
            let elsewhere = match place.parse() {
                Ok(address) => Elsewhere::Address(address),
                Err(_) => Elsewhere::Name(place.into()),
            };
            made.elsewhere = Some(elsewhere.into());
        } else if let Some(name) = word.strip_prefix("name=") {
            made.name = name.into();
        } else if let Some(namespace) = word.strip_prefix("in=") {
            own_namespace = Some(label(namespace));
        } else if let Some(aliases) = word.strip_prefix("also=") {
            Arc::make_mut(&mut made.common).aliases = in_order(aliases.split(',').map(Into::into).collect());
        } else if let Some(directory) = word.strip_prefix("dir=") {
            Arc::make_mut(&mut made.common).directory = Some(directory.into());
        } else if let Some(port) = word.strip_prefix("main=") {
            services.last_mut().unwrap().port = Some(port.parse().unwrap());
        } else if let Some(weight) = word.strip_prefix("weight=") {
            services.last_mut().unwrap().weight = weight.parse().unwrap();
        } else if let Some(policy) = word.strip_prefix("none-ready=") {
            services.last_mut().unwrap().when_none_ready = Some(WhenNoneReady::parse(policy).unwrap());
        } else if let Some(tag) = word.strip_prefix("tag=") {
            let offer = services.last_mut().unwrap();
            offer.tags = offer.tags.iter().cloned().chain([tag.into()]).collect();
        } else if word.contains('/') {
            let offer = services.last_mut().expect("a service before its ports");
            offer.ports = offer.ports.iter().cloned().chain([port(word)]).collect();
        } else {
            let (service, namespace) = word.split_once('.').unwrap_or_else(|| panic!("{word:?}"));
            services.push(Offer {
                service: label(service),
                namespace: label(namespace),
                tags: Box::default(),
                weight: 1,
                port: None,
                ports: Box::default(),
                when_none_ready: None,
            });
        }
    }
    let own = || services.iter().map(|offer| &offer.namespace).find(|namespace| **namespace != Label::global());
    let namespace = own_namespace.or_else(|| own().cloned()).unwrap_or_else(Label::global);
    let common = Arc::make_mut(&mut made.common);
    (common.services, common.namespace) = (services.into(), namespace);
    made.networks = places.into();
    made
}

fn port(word: &str) -> Port {
    let end = word.find(['>', '~']).unwrap_or(word.len());
    let (port, mut rest) = word.split_at(end);
    let mut published = Vec::new();
    while !rest.is_empty() {
        let chosen = rest.starts_with('>');
        let end = rest[1..].find(['>', '~']).map_or(rest.len(), |end| end + 1);
        let bound: SocketAddr = rest[1..end].parse().unwrap_or_else(|_| panic!("{word:?}"));
        published.push(Published { ip: bound.ip(), port: bound.port(), chosen });
        rest = &rest[end..];
    }
    let (name, port) = port.split_once(':').map_or((None, port), |(name, port)| (Some(label(name)), port));
    let (port, proto) = port.split_once('/').unwrap();
    Port { name, port: port.parse().unwrap(), proto: parse_proto(proto), published: published.into(), extra: None }
}
