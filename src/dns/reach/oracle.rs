//! The rules once more, as a yes or no for one address and one number, and random instances on two hosts: every answer
//! is held against them. It says nothing about which of several addresses is given; the tables do.

use hickory_proto::rr::{Name, RData, RecordType};
use proptest::{prelude::*, sample::select};
use rand::{SeedableRng, rngs::SmallRng};

use super::{tests::TWO_HOSTS, *};
use crate::dns::{
    answer::{Answer, answer},
    fixture::World,
    prefer::{Prefer, Preference},
};
use crate::model::{Health, Phase};

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
const THEIRS: [&str; 7] = [
    "@theirs=172.18.0.I",
    "@theirs=172.30.0.I",
    "@theirs=172.30.0.I @mesh=10.1.0.I",
    "@closed=172.30.0.I",
    "@link=192.168.1.I",
    "@front=172.18.0.I",
    "@host",
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

pub(in crate::dns) fn world() -> impl Strategy<Value = String> {
    let instance = |places: &'static [&'static str]| {
        (select(places), select(&PORTS), select(&STATES), select(&POLICIES))
            .prop_map(|(place, ports, state, policy)| format!("{place} {state} web.shop {policy} {ports}"))
    };
    let own = prop::collection::vec(instance(&OWN), 0..5);
    let b = prop::collection::vec(instance(&THEIRS), 0..4);
    let c = prop::collection::vec(instance(&THEIRS), 0..3);
    let advertise = select(&["192.0.2.1 at=eu/a", "192.0.2.1 2001:db8::1 at=eu/a", "at=eu/a"]);
    (own, b, c, advertise).prop_map(|(own, b, c, advertise)| {
        let mut text = format!("{TWO_HOSTS}host own {advertise}\n");
        let mut number = 16;
        for (host, instances) in [("", own), ("host b 192.0.2.2 2001:db8::2 at=eu/a", b), ("host c at=eu/b", c)] {
            text.push_str(&format!("{host}\n"));
            for instance in instances {
                number += 1;
                text.push_str(&format!("{number:012x} {}\n", instance.replace('I', &number.to_string())));
            }
        }
        text
    })
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
    let published = offer.ports.iter().any(|port| {
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
        || itself && !here && has(&|n| matches!(n.driver, Driver::Macvlan | Driver::Ipvlan))
        || published
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
        let ready = counting(all);
        let mut ask = |name: &Name, kind| match answer(&world.snapshot(), &source, name, kind, &mut rng) {
            Answer::Records { answers, additionals } => (answers, additionals),
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
            let everybody: Vec<IpAddr> = match answer(&plain.snapshot(), &source, &name, kind, &mut rng) {
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
            let view = Viewpoint::new(&world.local, &[], &source);
            let reached = Family::BOTH.iter().any(|family| view.way(candidate, *family).is_ok());
            prop_assert_eq!(listed, reached && !candidate.offer().ports.is_empty(), "{} in {}", target, text);
        }
    }
}
