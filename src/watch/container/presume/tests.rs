//! When a start is believed without an inspect, when it is not, and that it is never believed wrongly.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{NetworkId, Phase, Proto},
    watch::container::{
        Depth, Event, Requested,
        tests::{Bed, DB, NET, WEB, endpoint, id, network, running, stopped},
    },
};

const IP: &str = "10.0.0.2";

fn request(ip: Option<&str>, number: Option<u16>) -> Requested {
    Requested { port: 80, proto: Proto::Tcp, ip: ip.map(|ip| ip.parse().unwrap()), number }
}

fn bound(ip: &str, port: u16) -> Binding {
    Binding { port: 80, proto: Proto::Tcp, at: Published { ip: ip.parse().unwrap(), port, chosen: true } }
}

/// `web` with port 80 published at 192.0.2.1:8080.
fn web() -> Inspected {
    Inspected {
        requested: vec![request(Some("192.0.2.1"), Some(8080))],
        bindings: vec![bound("192.0.2.1", 8080)],
        ..running(WEB, IP)
    }
}

fn created(bed: &mut Bed, web: &Inspected) {
    bed.apply(Event::Created { id: web.id.clone(), name: web.name.clone(), labels: web.metadata.clone() });
}

fn connected(bed: &mut Bed, container: &str, network: &str, ip: &str) {
    bed.connected(container, network);
    let began = bed.containers.now();
    bed.network_shows(began, network, &[(container, ip)]);
}

/// Another container of the network publishes a port, and is gone again.
fn publishing(bed: &mut Bed) {
    bed.start(&Inspected { id: id(DB), ..web() }).apply(Event::Destroyed(id(DB)));
}

/// Created, prepared, connected and seen on its network: about to start.
fn about_to_start(web: &Inspected) -> Bed {
    let mut bed = Bed::new();
    publishing(&mut bed);
    created(&mut bed, web);
    let mut before = stopped(web.clone());
    before.endpoints.clear();
    before.bindings.clear();
    bed.answer(&before);
    connected(&mut bed, WEB, NET, IP);
    bed
}

fn published_ports(bed: &Bed) -> Vec<String> {
    let publications = bed.desired.publications.values();
    let ports = publications.flat_map(|publication| publication.services.iter().flat_map(|offer| offer.ports.iter()));
    ports.flat_map(|port| port.published.iter().map(|at| format!("{}:{}", at.ip, at.port))).collect()
}

/// Why the last inspect was asked for.
fn cause(bed: &Bed) -> Cause {
    let inspects = bed.wishes.iter().rev();
    let mut causes =
        inspects.filter_map(|wish| if let Wish::Inspect { cause, .. } = wish { Some(*cause) } else { None });
    causes.next().expect("an inspect was asked for")
}

#[test]
fn a_start_is_published_before_the_inspect_and_the_inspect_changes_nothing() {
    let mut bed = about_to_start(&web());
    assert!(bed.published().is_empty());
    bed.started(WEB);
    assert_eq!((bed.published(), published_ports(&bed)), (vec![IP.to_owned()], vec!["192.0.2.1:8080".to_owned()]));
    let presumed = bed.desired.clone();
    assert_eq!(cause(&bed), Cause::Confirm, "nobody waits for it");
    bed.answer(&web());
    assert_eq!(bed.desired, presumed);
    assert_eq!(bed.containers.entries[&id(WEB).short()].inspected, Some(web()));
}

#[test]
fn nothing_is_presumed_of_which_a_part_is_not_known() {
    type Change = fn(&mut Inspected);
    let configurations: [(&str, Change); 4] = [
        ("Docker chooses the port", |web| web.requested = vec![request(Some("192.0.2.1"), None)]),
        ("nobody has seen where a port without an address appears", |web| {
            web.requested = vec![request(None, Some(8080))];
        }),
        ("it is on the host's network", |web| web.network_mode = NetworkMode::Host),
        ("it is in another's network", |web| web.network_mode = NetworkMode::Container(DB.into())),
    ];
    for (why, change) in configurations {
        let mut web = web();
        change(&mut web);
        let mut bed = about_to_start(&web);
        assert!(bed.started(WEB).desired.publications.is_empty(), "{why}");
        assert_eq!(cause(&bed), Cause::Event, "{why}: its answer is waited for");
        bed.answer(&web);
        assert_eq!(bed.containers.entries[&id(WEB).short()].inspected, Some(web), "{why}");
    }
    type Before = fn() -> Bed;
    let situations: [(&str, Before); 8] = [
        ("an inspect of it is under way", || {
            let mut bed = about_to_start(&web());
            bed.apply(Event::Changed(id(WEB)));
            bed
        }),
        ("an inspect of it has failed", || {
            let mut bed = about_to_start(&web());
            bed.apply(Event::Changed(id(WEB)));
            let ticket = bed.ticket();
            bed.apply(Event::Failed { ticket, id: id(WEB), error: "no answer".into() });
            bed
        }),
        ("nobody has seen a port published on its network", || {
            let mut bed = about_to_start(&web());
            bed.containers.publishing.clear();
            bed
        }),
        ("its configuration was never told", || {
            let mut bed = Bed::new();
            publishing(&mut bed);
            created(&mut bed, &web());
            connected(&mut bed, WEB, NET, IP);
            bed
        }),
        ("its network has not shown it", || {
            let mut bed = about_to_start(&web());
            bed.connected(WEB, NET);
            bed
        }),
        ("one of its networks has not shown it", || {
            let mut bed = about_to_start(&web());
            bed.connected(WEB, "net2");
            bed
        }),
        ("it left its network", || {
            let mut bed = about_to_start(&web());
            bed.disconnected(WEB, NET);
            bed
        }),
        ("the engine was away", || {
            let mut bed = about_to_start(&web());
            bed.apply(Event::Lost);
            publishing(&mut bed);
            bed
        }),
    ];
    for (why, before) in situations {
        let mut bed = before();
        assert!(bed.started(WEB).desired.publications.is_empty(), "{why}");
        assert_eq!(cause(&bed), Cause::Event, "{why}: its answer is waited for");
        bed.answer(&web());
        assert_eq!(bed.desired.publications.len(), 1, "{why}");
    }
    let mut bed = about_to_start(&web());
    bed.apply(Event::Started { id: id(WEB), newest: false });
    assert!(bed.desired.publications.is_empty(), "its end may wait behind its start");
}

#[test]
fn where_a_port_without_an_address_appears_is_learned_for_each_network() {
    let any = |container, ip| Inspected {
        requested: vec![request(None, Some(8080))],
        bindings: vec![bound("0.0.0.0", 8080), bound("::", 8080)],
        ..running(container, ip)
    };
    let mut bed = about_to_start(&any(WEB, IP));
    bed.started(WEB).answer(&any(WEB, IP)).died(WEB);
    connected(&mut bed, WEB, NET, "10.0.0.7");
    bed.started(WEB);
    assert_eq!(bed.published(), ["10.0.0.7"]);
    assert_eq!(published_ports(&bed), ["0.0.0.0:8080", ":::8080"]);
    bed.died(WEB);
    connected(&mut bed, WEB, "net2", "10.1.0.7");
    assert!(bed.started(WEB).desired.publications.is_empty(), "on another network it may differ");
}

#[test]
fn an_inspect_that_says_otherwise_is_believed() {
    let mut bed = about_to_start(&web());
    bed.started(WEB);
    let mut other = web();
    other.endpoints = vec![endpoint(NET, &["10.0.0.9"])];
    bed.answer(&other);
    assert_eq!(bed.published(), ["10.0.0.9"]);
    bed.apply(Event::Changed(id(WEB))).answer(&stopped(web()));
    assert!(bed.desired.publications.is_empty());
}

#[test]
fn a_container_that_dies_at_once_is_withdrawn_whatever_is_answered_then() {
    let mut bed = about_to_start(&web());
    bed.started(WEB);
    let late = bed.ticket();
    bed.died(WEB);
    assert!(bed.desired.publications.is_empty());
    bed.answer_to(late, &web());
    assert!(bed.desired.publications.is_empty());
}

#[test]
fn the_last_life_tells_the_configuration_too() {
    let mut bed = Bed::new();
    bed.start(&web()).disconnected(WEB, NET).died(WEB);
    connected(&mut bed, WEB, NET, "10.0.0.8");
    assert_eq!(bed.started(WEB).published(), ["10.0.0.8"]);
    assert_eq!(published_ports(&bed), ["192.0.2.1:8080"]);
}

#[test]
fn a_container_with_a_check_starts_as_starting() {
    let mut checked = Inspected { checked: true, health: Health::Starting, ..web() };
    let mut bed = about_to_start(&checked);
    bed.started(WEB).answer(&checked);
    checked.health = Health::Healthy;
    bed.apply(Event::Changed(id(WEB))).answer(&checked).disconnected(WEB, NET).died(WEB);
    connected(&mut bed, WEB, NET, IP);
    bed.started(WEB);
    let held = bed.desired.publications.values().next().unwrap();
    assert_eq!((held.health, held.phase), (Health::Starting, Phase::Serving));
}

#[test]
fn what_was_asked_at_the_creation_does_not_say_what_runs() {
    let mut bed = Bed::new();
    created(&mut bed, &web());
    // It started before the answer was made, and its start event is still on its way.
    bed.answer(&web());
    assert!(bed.desired.publications.is_empty());
    let mut bed = Bed::new();
    created(&mut bed, &web());
    let early = bed.ticket();
    bed.started(WEB).answer(&web()).answer_to(early, &stopped(web()));
    assert_eq!(bed.published(), [IP], "a later question has been answered");
}

#[test]
fn what_is_known_to_run_is_not_presumed_anew() {
    let mut bed = Bed::new();
    let healthy = Inspected { checked: true, health: Health::Healthy, ..web() };
    // Listed and inspected before the replay of its create and start events came.
    bed.listed_at(bed.containers.now(), Depth::Every, &[&healthy]).answer(&healthy);
    created(&mut bed, &healthy);
    bed.answer(&stopped(healthy.clone()));
    assert_eq!(bed.published(), [IP]);
    bed.started(WEB);
    assert_eq!(bed.desired.publications.values().next().unwrap().health, Health::Healthy);
}

/// An engine of two containers on one or two networks, with the events it has not delivered yet, and answers that are
/// made at one time and arrive at another.
#[derive(Default)]
struct Engine {
    /// By container: whether it runs, and its addresses by network.
    containers: BTreeMap<&'static str, (bool, BTreeMap<&'static str, String>)>,
    undelivered: VecDeque<Event>,
    wishes: Vec<Wish>,
    answers: Vec<Event>,
    given: u32,
}

impl Engine {
    fn inspected(&self, container: &'static str) -> Option<Inspected> {
        let (runs, places) = self.containers.get(container)?;
        let mut inspected = Inspected { id: id(container), endpoints: Vec::new(), ..web() };
        inspected.endpoints = places.iter().map(|(network, ip)| endpoint(network, &[ip])).collect();
        Some(if *runs { inspected } else { Inspected { bindings: Vec::new(), ..stopped(inspected) } })
    }

    /// Freed addresses are given to the next container.
    fn free_address(&mut self, network: &str) -> String {
        let used: Vec<&String> = self.containers.values().flat_map(|(_, places)| places.values()).collect();
        let third = if network == NET { 0 } else { 1 };
        let free = |ip: &String| !used.contains(&ip);
        (2..).map(|last| format!("10.{third}.0.{last}")).find(free).expect("there are more addresses than containers")
    }

    fn connect(&mut self, container: &'static str, network: &'static str) {
        let ip = self.free_address(network);
        let Some((_, places)) = self.containers.get_mut(container) else { return };
        if places.contains_key(network) {
            return;
        }
        places.insert(network, ip);
        self.undelivered.push_back(Event::Connected { id: id(container), network: NetworkId(network.into()) });
    }

    fn disconnect(&mut self, container: &'static str, network: &'static str) {
        let Some((_, places)) = self.containers.get_mut(container) else { return };
        if places.remove(network).is_some() {
            self.undelivered.push_back(Event::Disconnected { id: id(container), network: NetworkId(network.into()) });
        }
    }

    /// What its user does.
    fn act(&mut self, container: &'static str, action: u32) {
        let runs = self.containers.get(container).map(|(runs, _)| *runs);
        match (action, runs) {
            (0 | 1, None) => {
                self.containers.insert(container, (false, BTreeMap::new()));
                let (name, labels) = (web().name, web().metadata);
                self.undelivered.push_back(Event::Created { id: id(container), name, labels });
            }
            (0..=2, Some(false)) => {
                self.given += 1;
                self.connect(container, NET);
                if self.given.is_multiple_of(3) {
                    self.connect(container, "net2");
                }
                if let Some((runs, _)) = self.containers.get_mut(container) {
                    *runs = true;
                }
                self.undelivered.push_back(Event::Started { id: id(container), newest: false });
            }
            (3 | 4, Some(true)) => {
                if action == 3 {
                    self.disconnect(container, NET);
                    self.disconnect(container, "net2");
                }
                self.undelivered.push_back(Event::Died(id(container)));
                self.disconnect(container, NET);
                self.disconnect(container, "net2");
                if let Some((runs, _)) = self.containers.get_mut(container) {
                    *runs = false;
                }
            }
            (5, Some(false)) => {
                self.containers.remove(container);
                self.undelivered.push_back(Event::Destroyed(id(container)));
            }
            (6, Some(true)) => self.connect(container, "net2"),
            (7, Some(true)) => self.disconnect(container, "net2"),
            _ => {}
        }
    }

    /// Makes the answer to a wish from what is true now.
    fn answer(&self, wish: Wish) -> Event {
        match wish {
            Wish::Wait { id, ticket, .. } => Event::Waited { id, ticket },
            Wish::InspectImage { id } => Event::Image { id, facts: None },
            Wish::Inspect { id, ticket, .. } => {
                let name = if id.as_str() == WEB { WEB } else { DB };
                match self.inspected(name) {
                    Some(inspected) => Event::Present { ticket, inspected: Box::new(inspected) },
                    None => Event::Absent { ticket, id },
                }
            }
            Wish::InspectNetwork { id: asked, began } => {
                let on = |(container, (_, places)): (&&str, &(bool, BTreeMap<&str, String>))| {
                    Some((id(container), Box::from([places.get(&*asked.0)?.parse().unwrap()])))
                };
                let endpoints = self.containers.iter().filter_map(on).collect();
                Event::NetworkPresent { began, facts: Box::new(network(&asked.0)), endpoints }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: with no event under way, every published address is that of its container, which
    /// runs; and with no answer under way either, everything that runs is published.
    #[test]
    fn what_is_published_is_true_as_soon_as_the_events_are_in(
        steps in prop::collection::vec((0u32..5, 0u32..8, any::<usize>()), 0..80),
    ) {
        let (mut bed, mut engine) = (Bed::new(), Engine::default());
        let listed = bed.containers.now();
        bed.apply(Event::Listed {
            began: listed,
            depth: Depth::Every,
            containers: Vec::new(),
            networks: vec![network(NET), network("net2")],
        });
        bed.containers.looking.clear();
        bed.wishes.clear();
        let settle = std::iter::repeat_n((5, 0, 0), 400);
        for (kind, action, which) in steps.into_iter().chain(settle) {
            let event = match kind {
                0 | 1 => {
                    engine.act(if which % 2 == 0 { WEB } else { DB }, action);
                    continue;
                }
                2 | 3 if !engine.wishes.is_empty() && action < 4 => {
                    let wish = engine.wishes.remove(which % engine.wishes.len());
                    let answer = engine.answer(wish);
                    engine.answers.push(answer);
                    continue;
                }
                3 | 4 if !engine.answers.is_empty() && action < 4 => {
                    Some(engine.answers.remove(which % engine.answers.len()))
                }
                5 if engine.undelivered.is_empty() => match engine.answers.pop() {
                    Some(answer) => Some(answer),
                    None => engine.wishes.pop().map(|wish| engine.answer(wish)),
                },
                _ => engine.undelivered.pop_front().map(|event| match event {
                    Event::Started { id, .. } => Event::Started { id, newest: engine.undelivered.is_empty() },
                    event => event,
                }),
            };
            let Some(event) = event else { continue };
            bed.apply(event);
            engine.wishes.append(&mut bed.wishes);
            if !engine.undelivered.is_empty() {
                continue;
            }
            for publication in bed.desired.publications.values() {
                let container = if publication.container == id(WEB).short() { WEB } else { DB };
                let (runs, places) = &engine.containers[container];
                prop_assert!(*runs, "{container} does not run");
                for attachment in &publication.networks {
                    let ips: Vec<String> = attachment.ips.iter().map(ToString::to_string).collect();
                    prop_assert_eq!(Some(&ips[0]), places.get(&*attachment.id.0));
                }
            }
            if engine.wishes.is_empty() && engine.answers.is_empty() {
                let running = engine.containers.values().filter(|(runs, _)| *runs).count();
                prop_assert_eq!(bed.desired.publications.len(), running);
            }
        }
        prop_assert!(engine.wishes.is_empty() && engine.answers.is_empty(), "it never settles");
    }
}
