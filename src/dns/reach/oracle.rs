//! The rules once more, as a yes or no for one address and one number, and random instances on two hosts: every answer
//! is held against them. It says nothing about which of several addresses is given; the tables do.

use std::collections::BTreeSet;

use hickory_proto::rr::{Name, RData, RecordType};
use proptest::{prelude::*, sample::select};
use rand::{SeedableRng, rngs::SmallRng};

use super::{tests::TWO_HOSTS, *};
use crate::dns::{
    answer::{Answer, Room, answer, named},
    fixture::{ADDRESS, World},
    prefer::{Prefer, Preference},
};
use crate::model::{Health, Offer, Phase, ShortId};

pub(in crate::dns) const ASKERS: [&str; 10] = ["f1", "f2", "v6", "in", "sw", "mac", "ipv", "two", "host", "stranger"];
const OWN: [&str; 10] = [
    "@vlan=192.168.2.I",
    "@front=172.18.0.I,fd00:18::I",
    "@front=172.18.0.I @back=172.19.0.I",
    "@back=172.19.0.I",
    "@cut=172.20.0.I",
    "@mute=172.21.0.I",
    "@mesh=10.1.0.I",
    "@lan=192.168.1.I",
    "@near=192.0.2.I",
    "@host",
];
const THEIRS: [&str; 11] = [
    "@theirs=172.18.0.I",
    "@theirs=172.18.0.I,fd00:18::I",
    "@theirs=172.19.0.I",
    "@theirs=172.30.0.I",
    "@theirs=172.30.0.I,fd00:30::I",
    "@theirs=172.30.0.I @mesh=10.1.0.I",
    "@closed=172.30.0.I",
    "@link=192.168.1.I",
    "@link=172.19.0.I",
    "@front=172.18.0.I",
    "@host",
];
/// What `--routed` says: nothing half of the time; the bridges of others, whose subnets two hosts may share, and one of
/// which we may have ourselves; our own; a wide net that has all of them in it; what is no bridge.
const ROUTED: [&str; 14] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "routed 172.30.0.0/16",
    "routed 172.30.0.0/17 fd00:30::/64",
    "routed 172.18.0.0/16 fd00:18::/64",
    "routed 172.19.0.0/16",
    "routed 172.20.0.0/16 172.21.0.0/16 fd00:18::/64",
    "routed 172.16.0.0/12 fd00::/8",
    "routed 10.1.0.0/24 192.168.0.0/16 192.0.2.0/24",
];
/// What an operator has registered in the place of the containers: mostly nothing, else addresses or one name, as checks
/// of this host find them. An address with two ports is one instance.
const REGISTERED: [&[&str]; 12] = [
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
    &["=10.0.0.9 web.shop 80/tcp"],
    &["=10.0.0.9 web.shop 80/tcp 443/tcp", "=10.0.0.10 unhealthy web.shop 80/tcp", "=2001:db8::9 web.shop 80/tcp"],
    &["=10.0.0.9 web.shop", "=2001:db8::9 web.shop weight=3"],
    &["=172.18.0.40 healthy web.shop 8080/tcp", "=172.20.0.40 web.shop 443/tcp"],
    &["=db.example.com web.shop http:80/tcp"],
];
/// Ready half of the time.
const STATES: [&str; 10] =
    ["", "", "", "healthy", "", "draining", "unhealthy", "starting", "paused", "draining unhealthy"];
const POLICIES: [&str; 4] = ["", "", "none-ready=unhealthy,draining", "none-ready=none"];
const PORTS: [&str; 10] = [
    "",
    "80/tcp",
    "http:80/tcp>0.0.0.0:8080>[::]:8080",
    "http:80/tcp>0.0.0.0:80 weight=3",
    "80/tcp~0.0.0.0:32768~[::]:32769",
    "80/tcp>127.0.0.1:8080",
    "80/tcp>172.18.0.1:8080 443/tcp>0.0.0.0:8443",
    "main=443 80/tcp>0.0.0.0:8080 443/tcp>198.51.100.1:443",
    "53/udp>0.0.0.0:8080 53/tcp>0.0.0.0:8080",
    "8080/tcp",
];

/// What else Docker's own DNS calls it.
const ALIASES: [&str; 3] = ["", "also=store", "also=store,db.example.com in=global"];

pub(in crate::dns) fn world() -> impl Strategy<Value = String> {
    let instance = |places: &'static [&'static str]| {
        (select(places), select(&PORTS), select(&STATES), select(&POLICIES), select(&ALIASES)).prop_map(
            |(place, ports, state, policy, aliases)| format!("{place} {state} web.shop {policy} {ports} {aliases}"),
        )
    };
    let own = prop::collection::vec(instance(&OWN), 0..5);
    let b = prop::collection::vec(instance(&THEIRS), 0..4);
    let c = prop::collection::vec(instance(&THEIRS), 0..3);
    let advertise = select(&["192.0.2.1 at=eu/a", "192.0.2.1 2001:db8::1 at=eu/a", "at=eu/a"]);
    (own, b, c, advertise, select(&ROUTED), select(&REGISTERED)).prop_map(
        |(own, b, c, advertise, routed, registered)| {
            let mut text = format!("{TWO_HOSTS}{routed}\nhost own {advertise}\n");
            let mut number = 16;
            for (host, instances) in [("", own), ("host b 192.0.2.2 2001:db8::2 at=eu/a", b), ("host c at=eu/b", c)] {
                text.push_str(&format!("{host}\n"));
                for instance in instances {
                    number += 1;
                    text.push_str(&format!("{number:012x} {}\n", instance.replace('I', &number.to_string())));
                }
            }
            if !registered.is_empty() {
                text.push_str("host external\n");
            }
            for instance in registered {
                number += 1;
                text.push_str(&format!("{number:012x} {instance}\n"));
            }
            text
        },
    )
}

/// Those that count, by the words of the design: who serves and passes its check; while there is none, who drains, then
/// whose check fails, or as the first instance that has a policy says.
fn counting(all: &[Candidate]) -> Vec<&Candidate> {
    let with = |test: &dyn Fn(Phase, Health) -> bool| -> Vec<&Candidate> {
        all.iter().filter(|c| test(c.publication.phase, c.publication.health)).collect()
    };
    let fine = |health| matches!(health, Health::None | Health::Healthy);
    let ready = with(&|phase, health| phase == Phase::Serving && fine(health));
    let draining = with(&|phase, health| phase == Phase::Draining && fine(health));
    let unhealthy = with(&|phase, health| phase != Phase::Paused && health == Health::Unhealthy);
    let policy = all.iter().find_map(|c| c.offer().when_none_ready).map(|policy| policy.to_string());
    let steps = match policy.as_deref() {
        Some("none") => vec![],
        Some("unhealthy,draining") => vec![unhealthy, draining],
        _ => vec![draining, unhealthy],
    };
    std::iter::once(ready).chain(steps).find(|members| !members.is_empty()).unwrap_or_default()
}

/// Those that answers may be made of: the operator's word for the name, else all containers that have it.
fn meant(world: &World) -> BTreeSet<(Origin, ShortId)> {
    let is_web = |offer: &Offer| offer.service.as_str() == "web" && offer.namespace.as_str() == "shop";
    let of_host = |origin: &Origin| {
        let host = world.catalog.hosts.get(origin).map(|host| host.publications.values()).into_iter().flatten();
        let offering = host.filter(|publication| publication.common.services.iter().any(is_web));
        offering.map(|publication| (origin.clone(), publication.container)).collect::<Vec<_>>()
    };
    let registered = of_host(&Origin::External);
    match registered.is_empty() {
        true => world.catalog.hosts.keys().flat_map(of_host).collect(),
        false => registered.into_iter().collect(),
    }
}

/// Whether a connection of `source` to `address` and `number` ends at that instance, by the words of the design.
fn connects(world: &World, source: &Source, candidate: &Candidate, address: IpAddr, number: Option<u16>) -> bool {
    let (local, publication, offer) = (&world.local, &candidate.publication, candidate.offer());
    let own = candidate.home.origin == Origin::Own;
    let itself =
        number.is_none_or(|number| offer.port == Some(number) || offer.ports.iter().any(|port| port.port == number));
    let has =
        |test: &dyn Fn(&Attachment) -> bool| publication.networks.iter().any(|n| n.ips.contains(&address) && test(n));
    let networks: Vec<&Network> = match source {
        Source::Container(asker) => asker.networks.iter().map(|id| &*local.networks[id]).collect(),
        _ => Vec::new(),
    };
    let shared = |n: &Attachment| (own || n.scope != Scope::Local) && networks.iter().any(|m| m.id == n.id && m.icc);
    if itself && has(&shared) {
        return true;
    }
    let container = matches!(source, Source::Container(_));
    if container && networks.iter().all(|network| network.internal) {
        return false;
    }
    let leaves_with_it =
        |n: &&Network| !n.internal && n.subnets.iter().any(|s| s.addr().is_ipv4() == address.is_ipv4());
    if container && !networks.iter().any(leaves_with_it) {
        return false;
    }
    match publication.elsewhere.as_deref() {
        // Everybody who may leave reaches it, at no other address and on no other port than was registered.
        Some(Elsewhere::Address(registered)) => return itself && address == *registered,
        Some(Elsewhere::Name(_)) => return false,
        None => {}
    }
    let here = own && (container || *source == Source::Host);
    let is_lan = |n: &Network| matches!(n.driver, Driver::Macvlan | Driver::Ipvlan);
    let past_host = networks.iter().any(|n| is_lan(n) && n.subnets.iter().any(|subnet| subnet.contains(&address)));
    let on_bridge = networks.iter().any(|n| !n.internal && !is_lan(n)) && !past_host;
    let gateways: Vec<IpAddr> = networks.iter().flat_map(|network| network.gateways.iter().copied()).collect();
    let hosts = candidate.home.advertise.contains(&address)
        || own
            && candidate.home.advertise.is_empty()
            && match source {
                Source::Host => local.addresses.contains(&address),
                _ => gateways.contains(&address),
            };
    let on_host = publication.networks.iter().any(|network| network.driver == Driver::Host);
    // What leaves by a bridge or from the host itself is taken by the host's own network with such a subnet, whoever else
    // has it; and a router sends it to one of those who have it, perhaps to us. Only a network that spans hosts is one.
    let is_it = |n: &Network, m: &Attachment| n.id == m.id && m.scope != Scope::Local;
    let is_taken = |m: &Attachment| {
        let holds = |n: &Network| n.subnets.iter().any(|subnet| subnet.contains(&address)) && !is_lan(n);
        !own && local.networks.values().any(|n| holds(n) && !is_it(n, m))
    };
    let is_routed = world.settings.routed.iter().any(|subnet| subnet.contains(&address));
    let to_bridge = |m: &Attachment| here && container && m.driver == Driver::Bridge;
    let strays = |m: &Attachment| is_taken(m) && (*source == Source::Host || on_bridge);
    // Docker publishes nothing of a container that is on its host's network.
    let mut publishing = offer.ports.iter().filter(|_| !on_host);
    let published = publishing.any(|port| {
        port.published.iter().any(|published| {
            let bound = if published.ip.is_unspecified() { hosts } else { published.ip == address };
            let proxied = local.proxied.contains(&(port.proto, published.port));
            let foreign_gateway = published.ip == IpAddr::from([172, 18, 0, 1]) && !here;
            bound
                && Some(published.port) == number
                && published.ip.is_ipv4() == address.is_ipv4()
                && !published.ip.is_loopback()
                && !foreign_gateway
                && (!(here && container) || on_bridge && proxied)
        })
    });
    itself && here && *source == Source::Host && has(&|n| n.driver == Driver::Bridge)
        || itself && on_host && hosts && (!(here && container) || on_bridge)
        || itself && is_routed && has(&|n| !n.internal && !to_bridge(n) && !is_taken(n))
        || itself && !here && has(&|n| matches!(n.driver, Driver::Macvlan | Driver::Ipvlan) && !strays(n))
        || published
}

/// Every address that could be meant for an instance, with every number.
fn tried(world: &World, candidate: &Candidate) -> Vec<(IpAddr, Option<u16>)> {
    let (publication, offer) = (&candidate.publication, candidate.offer());
    let bound = || offer.ports.iter().flat_map(|port| &*port.published);
    let numbers = offer.ports.iter().map(|port| port.port).chain(bound().map(|published| published.port));
    let numbers: BTreeSet<Option<u16>> = numbers.map(Some).chain([None]).collect();
    let own = publication.networks.iter().flat_map(|network| network.ips.iter().copied());
    let hosts = candidate.home.advertise.iter().chain(&*world.local.addresses).copied();
    let registered = publication.elsewhere.as_deref().and_then(|elsewhere| match elsewhere {
        Elsewhere::Address(address) => Some(*address),
        Elsewhere::Name(_) => None,
    });
    let addresses: Vec<IpAddr> =
        own.chain(hosts).chain(bound().map(|published| published.ip)).chain(registered).collect();
    addresses.into_iter().flat_map(|address| numbers.iter().map(move |number| (address, *number))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_answer_holds_what_the_asker_cannot_connect_to(
        text in world(),
        who in select(&ASKERS),
        by in select(&[Prefer::None, Prefer::Host, Prefer::Locality]),
        seed: u64,
    ) {
        let mut world = World::parse(&text);
        world.settings.prefer = Preference { by, floor: 1, locality: "eu/a".into() };
        let source = world.source(who);
        let mut rng = SmallRng::seed_from_u64(seed);
        let all = world.zone.service("shop", "web").unwrap_or_default();
        let known = all.iter().map(|candidate| (candidate.home.origin.clone(), candidate.publication.container)).collect();
        prop_assert_eq!(meant(&world), known, "in {}", text);
        let ready = counting(all);
        let room = Room::whole(ADDRESS);
        let mut ask = |name: &Name, kind| match answer(&world.snapshot(), &source, name, kind, room, &mut rng) {
            Answer::Records { answers, additionals, .. } => (answers, additionals),
            _ => Default::default(),
        };
        let name = Name::from_ascii("web.shop.svc.internal.").unwrap();

        // Addresses: one number, the same for all of them.
        let mut addresses: Vec<IpAddr> = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let (answers, _) = ask(&name, kind);
            addresses.extend(answers.iter().filter_map(|record| record.data.ip_addr()));
        }
        let numbers = [80, 443, 53, 8080, 8443].map(Some).into_iter().chain([None]);
        let connects_all = |number: Option<u16>| addresses.iter().all(|address| {
            ready.iter().any(|candidate| connects(&world, &source, candidate, *address, number))
        });
        prop_assert!(numbers.clone().any(connects_all), "{addresses:?} share no number for {who} in {text}");

        // Nearness leaves out, adds nothing, and never empties.
        let mut plain = World::parse(&text);
        plain.settings.prefer = Preference::default();
        for (kind, family) in [(RecordType::A, Family::V4), (RecordType::AAAA, Family::V6)] {
            let mut rng = SmallRng::seed_from_u64(seed);
            let everybody: Vec<IpAddr> = match answer(&plain.snapshot(), &source, &name, kind, room, &mut rng) {
                Answer::Records { answers, .. } => answers.iter().filter_map(|record| record.data.ip_addr()).collect(),
                _ => Vec::new(),
            };
            let near = || addresses.iter().filter(|address| family.holds(**address));
            prop_assert!(near().all(|address| everybody.contains(address)), "{addresses:?} of {everybody:?} in {text}");
            prop_assert_eq!(near().next().is_some(), !everybody.is_empty(), "{} for {} in {}", kind, who, text);
            if by == Prefer::None || who == "stranger" {
                prop_assert_eq!(near().count(), everybody.len());
            }
        }

        // SRV: each target at each of its addresses with its number, and nobody left out.
        let (answers, additionals) = ask(&name, RecordType::SRV);
        for record in &answers {
            let RData::SRV(srv) = &record.data else { panic!("{record}") };
            if let Some(registered) = ready.iter().find(|candidate| named(candidate).as_ref() == Some(&srv.target)) {
                prop_assert!(who != "in" && registered.offer().ports.iter().any(|port| port.port == srv.port));
                continue;
            }
            let meant = |candidate: &&&Candidate| {
                world.settings.apex.instance(candidate.publication.container, candidate.offer()) == srv.target
            };
            let candidate = ready.iter().find(meant).unwrap();
            let mut given = 0;
            for address in additionals.iter().filter(|a| a.name == srv.target).filter_map(|a| a.data.ip_addr()) {
                prop_assert!(
                    connects(&world, &source, candidate, address, Some(srv.port)),
                    "{address}:{} for {who} in {text}", srv.port
                );
                given += 1;
            }
            prop_assert!(given > 0, "{} has no address in {text}", srv.target);
            for kind in [RecordType::A, RecordType::AAAA] {
                for record in ask(&srv.target, kind).0 {
                    prop_assert!(additionals.contains(&record), "the target's own {record} is not in ADDITIONAL");
                }
            }
        }
        for candidate in &ready {
            let target = world.settings.apex.instance(candidate.publication.container, candidate.offer());
            let listed = answers.iter().any(|r| matches!(&r.data, RData::SRV(srv) if srv.target == target));
            let view = Viewpoint::new(&world.local, &world.settings.routed, &source);
            let reached = Family::BOTH.map(|family| view.way(candidate, family).is_ok());
            prop_assert!(named(candidate).is_some() || listed == (reached.contains(&true) && !candidate.offer().ports.is_empty()), "{target} in {text}");
            // And whoever can be reached is told of.
            for (family, reached) in Family::BOTH.into_iter().zip(reached) {
                let found = tried(&world, candidate).into_iter().find(|(address, number)| {
                    family.holds(*address) && connects(&world, &source, candidate, *address, *number)
                });
                prop_assert!(reached || found.is_none(), "{found:?} of {target} is kept from {who} in {text}");
            }
        }
    }
}
