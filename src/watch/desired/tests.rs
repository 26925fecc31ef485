//! Modes of networking, and what an update shares with the result before it.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{NetworkId, Proto, Published},
    watch::container::{
        Depth, Event, NetworkMode,
        tests::{Bed, DB, WEB, endpoint, id, labels_of, network, running},
    },
};

fn published(port: u16, at: &str, chosen: bool) -> Binding {
    let at: std::net::SocketAddr = at.parse().unwrap();
    Binding { port, proto: Proto::Tcp, at: Published { ip: at.ip(), port: at.port(), chosen } }
}

fn of<'a>(bed: &'a Bed, container: &str) -> &'a Publication {
    &bed.desired.publications[&id(container).short()]
}

#[test]
fn published_ports_are_those_of_the_offer_and_keep_both_families() {
    let mut bed = Bed::new();
    let mut web = running(WEB, "10.0.0.2");
    web.bindings = vec![
        published(80, "0.0.0.0:8080", true),
        published(80, "[::]:8080", true),
        published(81, "127.0.0.1:32768", false),
    ];
    bed.start(&web);
    let ports = &of(&bed, WEB).services[0].ports;
    assert_eq!(ports.iter().map(|port| (port.port, port.published.len())).collect::<Vec<_>>(), [(80, 2), (81, 1)]);
    assert!(ports[0].published[0].chosen && !ports[1].published[0].chosen);
    bed.apply(Event::Died(id(WEB)));
    assert!(bed.desired.publications.is_empty());
}

#[test]
fn a_container_on_the_hosts_network_has_no_addresses_of_its_own() {
    let mut bed = Bed::new();
    let mut web = running(WEB, "10.0.0.2");
    web.network_mode = NetworkMode::Host;
    web.endpoints = vec![endpoint("host", &[])];
    let host = crate::watch::container::NetworkFacts { driver: Driver::Host, ..network("host") };
    bed.start(&web);
    assert!(of(&bed, WEB).networks.is_empty(), "a network is left out while its driver is not known");
    let began = bed.containers.now();
    bed.apply(Event::NetworkPresent { began, facts: Box::new(host), endpoints: Vec::new() });
    assert!(of(&bed, WEB).is_on_host_network());
    assert_eq!(of(&bed, WEB).services[0].ports[0].port, 80);
    assert!(bed.local.askers.is_empty());
}

#[test]
fn a_container_without_network_is_published_without_addresses() {
    let mut bed = Bed::new();
    let mut web = running(WEB, "10.0.0.2");
    web.network_mode = NetworkMode::None;
    web.endpoints = vec![endpoint("none", &[])];
    bed.start(&web);
    assert!(of(&bed, WEB).networks.is_empty());
}

#[test]
fn a_container_in_anothers_network_has_its_addresses_and_published_ports() {
    for host in [format!("container:{WEB}"), "container:shop-web-1".to_owned()] {
        let mut bed = Bed::new();
        let mut web = running(WEB, "10.0.0.2");
        web.bindings = vec![published(5432, "0.0.0.0:5432", true)];
        let mut db = running(DB, "10.0.0.3");
        db.name = "db".into();
        db.metadata = labels_of(&[]);
        db.endpoints.clear();
        db.exposed = [(5432, Proto::Tcp)].into();
        db.network_mode = NetworkMode::parse(&host);
        // In either order of appearance.
        bed.start(&db);
        assert!(bed.desired.publications.is_empty(), "nothing is known of the owner");
        bed.start(&web);
        assert_eq!(of(&bed, DB).networks, of(&bed, WEB).networks);
        assert_eq!(of(&bed, DB).services[0].ports[0].published.len(), 1);
        let askers: Vec<_> = bed.local.askers.values().map(|asker| &*asker.name).collect();
        assert_eq!(askers, ["shop-web-1"], "the address is the owner's");
        bed.apply(Event::Died(id(WEB)));
        assert!(bed.desired.publications.is_empty());
    }
}

#[test]
fn two_containers_in_each_others_network_end() {
    let mut bed = Bed::new();
    for (own, other) in [(WEB, DB), (DB, WEB)] {
        let mut container = running(own, "10.0.0.2");
        container.endpoints.clear();
        container.network_mode = NetworkMode::Container(other.into());
        bed.start(&container);
    }
    assert!(bed.desired.publications.is_empty());
}

#[test]
fn an_update_shares_what_did_not_change() {
    let mut bed = Bed::new();
    bed.start(&running(WEB, "10.0.0.2"));
    let before = bed.desired.publications[&id(WEB).short()].clone();
    bed.start(&running(DB, "10.0.0.3"));
    assert!(Arc::ptr_eq(&before, &bed.desired.publications[&id(WEB).short()]));
}

#[test]
fn a_change_of_the_network_changes_the_publications_on_it() {
    let mut bed = Bed::new();
    bed.start(&running(WEB, "10.0.0.2"));
    assert!(!of(&bed, WEB).networks[0].internal);
    let began = bed.containers.now();
    let facts = Box::new(crate::watch::container::NetworkFacts { internal: true, ..network("net1") });
    bed.apply(Event::NetworkPresent { began, facts, endpoints: Vec::new() });
    assert!(of(&bed, WEB).networks[0].internal);
}

#[test]
fn broken_labels_are_problems_and_leave_with_their_container() {
    let mut bed = Bed::new();
    let mut web = running(WEB, "10.0.0.2");
    web.metadata = labels_of(&[("portolan.servce", "x")]);
    bed.start(&web);
    assert_eq!(bed.desired.problems[0].place, "container aaaaaaaaaaaa (shop-web-1), label portolan.servce");
    bed.apply(Event::Destroyed(id(WEB)));
    assert!(bed.desired.problems.is_empty());
}

fn event() -> impl Strategy<Value = u32> {
    any::<u32>()
}

proptest! {
    /// [`Bed::apply`] compares every update with the full result, and the asker table with a rebuilt one.
    #[test]
    fn any_sequence_of_events_and_answers_updates_to_the_full_result(steps in prop::collection::vec(event(), 0..60)) {
        let mut bed = Bed::new();
        for step in steps {
            let container = if step & 1 == 0 { WEB } else { DB };
            let network = NetworkId(["net1", "net2"][(step >> 1 & 1) as usize].into());
            let own = id(container);
            let event = match step >> 2 & 15 {
                0 => Event::Died(own),
                1 => Event::Destroyed(own),
                2 => Event::Paused(own),
                3 => Event::Connected { id: own, network },
                4 => Event::Disconnected { id: own, network },
                5 => Event::NetworkDestroyed(network),
                6 => Event::NetworkCreated(network),
                7 => Event::Lost,
                8 => Event::Created { id: own, name: "new".into(), labels: labels_of(&[]) },
                9 => Event::Listed {
                    began: bed.containers.now(),
                    depth: if step >> 8 & 1 == 0 { Depth::Every } else { Depth::Changed },
                    containers: Vec::new(),
                    networks: vec![super::super::container::tests::network("net1")],
                },
                10 => Event::Changed(own),
                11 => Event::Started { id: own, newest: step >> 8 & 1 == 0 },
                _ => {
                    if bed.wishes.iter().any(|wish| matches!(wish, crate::watch::container::Wish::Inspect { .. })) {
                        let mut inspected = running(container, if step >> 8 & 1 == 0 { "10.0.0.2" } else { "10.0.0.3" });
                        match step >> 9 & 7 {
                            0 => inspected.state = State::Stopped,
                            1 => inspected.network_mode = NetworkMode::Container(WEB.into()),
                            2 => inspected.network_mode = NetworkMode::Container("other".into()),
                            3 => inspected.name = "other".into(),
                            4 => inspected.endpoints = vec![endpoint("net2", &["10.9.0.1"])],
                            5 => inspected.metadata = labels_of(&[("portolan.x", "")]),
                            _ => {}
                        }
                        bed.answer(&inspected);
                    }
                    continue;
                }
            };
            bed.apply(event);
        }
    }
}

#[test]
fn the_checks_of_a_container_come_and_go_with_it_and_each_life_is_another() {
    let mut bed = Bed::new();
    let mut web = running(WEB, "10.0.0.2");
    web.metadata = labels_of(&[("portolan.check.tcp", "true")]);
    let short = id(WEB).short();
    bed.start(&web);
    let first = bed.desired.checks[&short].clone();
    assert_eq!(first.all.len(), 1);
    bed.apply(Event::Died(id(WEB)));
    assert!(bed.desired.checks.is_empty());
    bed.start(&web);
    let second = &bed.desired.checks[&short];
    assert_eq!(second.all, first.all);
    assert_ne!(second.life, first.life);
    web.metadata = labels_of(&[("portolan.check.tcp", "true"), ("portolan.ignore", "true")]);
    bed.start(&web);
    assert!(bed.desired.checks.is_empty() && bed.desired.publications.is_empty());
}
