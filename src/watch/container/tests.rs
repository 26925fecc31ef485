//! Every sequence of events of an engine, applied to the set: what is published and who asks from where after each step.

use super::*;
use crate::{
    model::{Desired, Local, Proto, Residents, Scope},
    watch::{asker, asker::HostFacts, desired, metadata::Metadata, resident},
};

mod verdict;

pub(crate) const WEB: &str = "aaaaaaaaaaaa0001";
pub(crate) const DB: &str = "bbbbbbbbbbbb0002";
pub(crate) const NET: &str = "net1";

pub(crate) fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).unwrap()
}

pub(crate) fn network(name: &str) -> NetworkFacts {
    NetworkFacts {
        id: NetworkId(name.into()),
        name: name.into(),
        driver: Driver::Bridge,
        scope: Scope::Local,
        internal: false,
        icc: true,
        subnets: vec!["10.0.0.0/8".parse().unwrap()],
        gateways: vec!["10.0.0.1".parse().unwrap()],
    }
}

/// A running container called `web` of project `shop` at `ip` on `net1`, with port 80.
pub(crate) fn running(container: &str, ip: &str) -> Inspected {
    Inspected {
        id: id(container),
        name: "shop-web-1".into(),
        image: "web:1".into(),
        image_id: None,
        hostname: "web".into(),
        metadata: labels_of(&[("com.docker.compose.project", "shop"), ("com.docker.compose.service", "web")]),
        state: State::Running,
        health: Health::None,
        checked: false,
        stop_signal: None,
        stop_timeout: None,
        started: Some("run-1".into()),
        restarts: 0,
        restarts_itself: false,
        namespace: None,
        network_mode: NetworkMode::Own,
        endpoints: vec![endpoint(NET, &[ip])],
        aliases: BTreeMap::new(),
        exposed: [(80, Proto::Tcp)].into(),
        search: Box::default(),
        requested: Vec::new(),
        bindings: Vec::new(),
    }
}

pub(crate) fn labels_of(labels: &[(&str, &str)]) -> Metadata {
    Metadata::gather(labels.iter().copied(), [])
}

pub(crate) fn endpoint(network: &str, ips: &[&str]) -> Endpoint {
    Endpoint {
        network: NetworkId(network.into()),
        name: network.into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

pub(crate) fn stopped(mut inspected: Inspected) -> Inspected {
    inspected.state = State::Stopped;
    inspected.started = None;
    inspected.namespace = None;
    inspected.endpoints.iter_mut().for_each(|endpoint| endpoint.ips = Box::default());
    inspected
}

fn summary(inspected: &Inspected) -> Summary {
    Summary {
        id: inspected.id.clone(),
        name: inspected.name.clone(),
        labels: inspected.metadata.clone(),
        state: inspected.state,
        endpoints: inspected.endpoints.clone(),
    }
}

fn net(name: &str) -> NetworkId {
    NetworkId(name.into())
}

/// The set with an engine that answers when it is told to, and both snapshots kept up to date.
#[derive(Default)]
pub(crate) struct Bed {
    pub(crate) containers: Containers,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) desired: Desired,
    pub(crate) local: Local,
    pub(crate) residents: Residents,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(labels::Options::default())
    }

    pub(crate) fn with(options: labels::Options) -> Self {
        let mut bed = Self { containers: Containers::new(options), ..Self::default() };
        bed.listed(&[]);
        bed.wishes.clear();
        bed.containers.looking.clear();
        bed
    }

    /// Applies, and checks that the incremental result is the full one.
    pub(crate) fn apply(&mut self, event: Event) -> &mut Self {
        self.wishes.extend(self.containers.apply(event));
        let changes = self.containers.take_changes();
        if let Some(next) = desired::update(&self.desired, &self.containers, &changes) {
            assert_ne!(next, self.desired, "an update without a change");
            self.desired = next;
        }
        assert_eq!(self.desired, desired::desired(&self.containers));
        resident::update(&mut self.residents, &self.containers, &changes);
        let (all, published): (Vec<_>, Vec<_>) = (
            self.residents.keys().copied().collect(),
            self.residents.iter().filter(|(_, held)| held.silence.is_none()).map(|(id, _)| *id).collect(),
        );
        assert_eq!(all, self.containers.entries.keys().copied().collect::<Vec<_>>(), "a container changed unseen");
        assert_eq!(published, self.desired.publications.keys().copied().collect::<Vec<_>>());
        if changes.askers
            && let Some(next) = asker::local(&self.local, &self.containers, &HostFacts::default())
        {
            self.local = next;
        }
        assert!(asker::local(&self.local, &self.containers, &HostFacts::default()).is_none(), "askers changed unseen");
        self
    }

    pub(crate) fn listed(&mut self, containers: &[&Inspected]) -> &mut Self {
        self.listed_at(self.containers.now(), Depth::Changed, containers)
    }

    pub(crate) fn listed_at(&mut self, began: Moment, depth: Depth, containers: &[&Inspected]) -> &mut Self {
        let containers = containers.iter().map(|inspected| summary(inspected)).collect();
        self.apply(Event::Listed { began, depth, containers, networks: vec![network(NET), network("net2")] })
    }

    /// The ticket of the last inspect that was asked for.
    pub(crate) fn ticket(&self) -> Ticket {
        let inspect = |wish: &Wish| match wish {
            Wish::Inspect { ticket, .. } => Some(*ticket),
            Wish::InspectNetwork { .. } | Wish::InspectImage { .. } | Wish::Wait { .. } => None,
        };
        self.wishes.iter().rev().find_map(inspect).expect("an inspect was asked for")
    }

    pub(crate) fn answer(&mut self, inspected: &Inspected) -> &mut Self {
        self.answer_to(self.ticket(), inspected)
    }

    pub(crate) fn answer_to(&mut self, ticket: Ticket, inspected: &Inspected) -> &mut Self {
        self.apply(Event::Present { ticket, inspected: Box::new(inspected.clone()) })
    }

    pub(crate) fn network_shows(&mut self, began: Moment, name: &str, endpoints: &[(&str, &str)]) -> &mut Self {
        let endpoints =
            endpoints.iter().map(|(container, ip)| (id(container), Box::from([ip.parse().unwrap()]))).collect();
        self.apply(Event::NetworkPresent { began, facts: Box::new(network(name)), endpoints })
    }

    pub(crate) fn start(&mut self, inspected: &Inspected) -> &mut Self {
        let (id, name) = (inspected.id.clone(), inspected.name.clone());
        self.apply(Event::Created { id: id.clone(), name, labels: inspected.metadata.clone() });
        for endpoint in &inspected.endpoints {
            self.apply(Event::Connected { id: id.clone(), network: endpoint.network.clone() });
            self.containers.looking.clear();
        }
        self.started(inspected.id.as_str()).answer(inspected)
    }

    pub(crate) fn started(&mut self, container: &str) -> &mut Self {
        self.apply(Event::Started { id: id(container), newest: true })
    }

    /// The addresses that are published, with the phase if it is not serving.
    pub(crate) fn published(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for publication in self.desired.publications.values() {
            let phase = match publication.phase {
                crate::model::Phase::Serving => "",
                crate::model::Phase::Draining => " draining",
                crate::model::Phase::Paused => " paused",
            };
            let ips = publication.networks.iter().flat_map(|network| &network.ips).map(|ip| format!("{ip}{phase}"));
            all.extend(ips);
        }
        all.sort();
        all
    }

    fn askers(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.local.askers.iter().map(|(ip, asker)| format!("{ip} {}.{}", asker.name, asker.namespace)).collect();
        all.sort();
        all
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, published: &[&str], askers: &[&str]) -> &mut Self {
        assert_eq!((self.published(), self.askers()), (words(published), words(askers)));
        self
    }

    pub(crate) fn died(&mut self, container: &str) -> &mut Self {
        self.apply(Event::Died(id(container)))
    }

    pub(crate) fn connected(&mut self, container: &str, network: &str) -> &mut Self {
        self.apply(Event::Connected { id: id(container), network: net(network) })
    }

    pub(crate) fn disconnected(&mut self, container: &str, network: &str) -> &mut Self {
        self.apply(Event::Disconnected { id: id(container), network: net(network) })
    }

    /// Carries out a command, and checks that the incremental result is the full one.
    pub(crate) fn command(&mut self, command: &Command) -> Result<Outcome, NotDone> {
        let outcome = self.containers.command(command);
        let changes = self.containers.take_changes();
        if let Some(next) = desired::update(&self.desired, &self.containers, &changes) {
            self.desired = next;
        }
        assert_eq!(self.desired, desired::desired(&self.containers));
        outcome
    }

    fn inspects_asked(&self) -> usize {
        self.wishes.iter().filter(|wish| matches!(wish, Wish::Inspect { .. })).count()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const ASKER: &str = "10.0.0.2 shop-web-1.shop";

fn up() -> Bed {
    let mut bed = Bed::new();
    bed.start(&running(WEB, "10.0.0.2")).expect(&["10.0.0.2"], &[ASKER]);
    bed
}

#[test]
fn run_asks_from_its_address_at_connect_and_is_published_at_start() {
    let mut bed = Bed::new();
    let web = running(WEB, "10.0.0.2");
    bed.apply(Event::Created { id: id(WEB), name: web.name.clone(), labels: web.metadata.clone() }).expect(&[], &[]);
    bed.wishes.clear();
    bed.connected(WEB, NET).expect(&[], &[]);
    let began = bed.containers.now();
    assert_eq!(bed.wishes, [Wish::InspectNetwork { id: net(NET), began }], "no inspect of a starting container");
    bed.network_shows(began, NET, &[(WEB, "10.0.0.2")]).expect(&[], &[ASKER]);
    bed.started(WEB).expect(&[], &[ASKER]);
    bed.answer(&web).expect(&["10.0.0.2"], &[ASKER]);
}

#[test]
fn stop_withdraws_the_address_at_disconnect_and_the_rest_at_die() {
    let mut bed = up();
    bed.disconnected(WEB, NET).expect(&[], &[]);
    let late = bed.ticket();
    bed.died(WEB).expect(&[], &[]);
    assert!(bed.desired.publications.is_empty());
    bed.answer_to(late, &running(WEB, "10.0.0.2")).expect(&[], &[]);
}

#[test]
fn die_withdraws_before_any_inspect_and_the_disconnect_after_it_does_no_harm() {
    let mut bed = up();
    let asked = bed.inspects_asked();
    bed.died(WEB).expect(&[], &[]);
    bed.disconnected(WEB, NET).expect(&[], &[]);
    assert_eq!(bed.inspects_asked(), asked, "a dead container is not asked");
}

#[test]
fn remove_by_force_leaves_nothing() {
    let mut bed = up();
    bed.died(WEB).disconnected(WEB, NET).apply(Event::Destroyed(id(WEB))).expect(&[], &[]);
    assert!(bed.containers.entries.is_empty());
}

#[test]
fn restart_comes_back_with_its_new_address() {
    let mut bed = up();
    bed.disconnected(WEB, NET).died(WEB).connected(WEB, NET).expect(&[], &[]);
    bed.started(WEB).answer(&running(WEB, "10.0.0.9"));
    bed.expect(&["10.0.0.9"], &["10.0.0.9 shop-web-1.shop"]);
}

#[test]
fn a_crash_loop_is_published_only_while_it_runs() {
    let mut bed = up();
    for round in 3..6 {
        bed.died(WEB).disconnected(WEB, NET).expect(&[], &[]);
        // A list while the restart policy waits: `Running: true, Restarting: true`.
        let mut waiting = stopped(running(WEB, "10.0.0.2"));
        waiting.state = State::Restarting;
        bed.listed(&[&waiting]).expect(&[], &[]);
        let address = format!("10.0.0.{round}");
        bed.connected(WEB, NET).started(WEB).answer(&running(WEB, &address));
        bed.expect(&[&address], &[&format!("{address} shop-web-1.shop")]);
    }
}

#[test]
fn a_restarting_container_is_not_ready() {
    let mut waiting = stopped(running(WEB, "10.0.0.2"));
    waiting.state = State::Restarting;
    up().apply(Event::Changed(id(WEB))).answer(&waiting).expect(&[], &[]);
}

#[test]
fn pause_is_published_as_paused_at_once_and_unpause_serves_again() {
    let mut bed = up();
    bed.apply(Event::Paused(id(WEB))).expect(&["10.0.0.2 paused"], &[ASKER]);
    let mut paused = running(WEB, "10.0.0.2");
    paused.state = State::Paused;
    bed.answer(&paused).expect(&["10.0.0.2 paused"], &[ASKER]);
    bed.apply(Event::Changed(id(WEB))).answer(&running(WEB, "10.0.0.2")).expect(&["10.0.0.2"], &[ASKER]);
}

#[test]
fn a_fast_exit_with_removal_leaves_no_ghost() {
    let mut bed = Bed::new();
    let web = running(WEB, "10.0.0.2");
    bed.apply(Event::Created { id: id(WEB), name: web.name.clone(), labels: web.metadata.clone() });
    bed.connected(WEB, NET).started(WEB);
    let late = bed.ticket();
    bed.died(WEB).disconnected(WEB, NET).apply(Event::Destroyed(id(WEB)));
    bed.answer_to(late, &web).expect(&[], &[]);
    bed.apply(Event::Absent { ticket: late, id: id(WEB) }).expect(&[], &[]);
    assert!(bed.containers.entries.is_empty());
}

#[test]
fn an_inspect_that_finds_nothing_removes_the_container() {
    let mut bed = up();
    bed.apply(Event::Changed(id(WEB)));
    let ticket = bed.ticket();
    bed.apply(Event::Absent { ticket, id: id(WEB) }).expect(&[], &[]);
}

#[test]
fn compose_recreates_by_rename() {
    let mut bed = up();
    let mut next = running(DB, "10.0.0.3");
    let temporary = "aaaaaaaaaaaa_shop-web-1".into();
    bed.apply(Event::Created { id: id(DB), name: temporary, labels: next.metadata.clone() });
    bed.disconnected(WEB, NET).died(WEB).apply(Event::Destroyed(id(WEB))).expect(&[], &[]);
    bed.apply(Event::Changed(id(DB))).answer(&stopped(next.clone())).expect(&[], &[]);
    bed.connected(DB, NET);
    let began = bed.containers.now();
    bed.network_shows(began, NET, &[(DB, "10.0.0.3")]).expect(&[], &["10.0.0.3 shop-web-1.shop"]);
    next.name = "shop-web-1".into();
    bed.apply(Event::Changed(id(DB))).answer(&next).expect(&["10.0.0.3"], &["10.0.0.3 shop-web-1.shop"]);
}

#[test]
fn connect_and_disconnect_of_a_running_container_change_its_networks() {
    let mut bed = up();
    let mut both = running(WEB, "10.0.0.2");
    both.endpoints.push(endpoint("net2", &["10.1.0.2", "fd00::2"]));
    bed.connected(WEB, "net2")
        .answer(&both)
        .expect(&["10.0.0.2", "10.1.0.2", "fd00::2"], &[ASKER, "10.1.0.2 shop-web-1.shop", "fd00::2 shop-web-1.shop"]);
    bed.disconnected(WEB, "net2").expect(&["10.0.0.2"], &[ASKER]);
    bed.answer(&running(WEB, "10.0.0.2")).expect(&["10.0.0.2"], &[ASKER]);
}

#[test]
fn a_freed_address_belongs_to_the_next_container() {
    let mut bed = up();
    bed.died(WEB);
    let mut db = running(DB, "10.0.0.2");
    db.name = "shop-db-1".into();
    bed.start(&db).expect(&["10.0.0.2"], &["10.0.0.2 shop-db-1.shop"]);
    // The first one's disconnect comes late, after the address was given away.
    bed.disconnected(WEB, NET).expect(&["10.0.0.2"], &["10.0.0.2 shop-db-1.shop"]);
}

#[test]
fn an_inspect_older_than_a_later_event_is_not_taken() {
    for overtaking in [
        Event::Died(id(WEB)),
        Event::Disconnected { id: id(WEB), network: net(NET) },
        Event::Paused(id(WEB)),
        Event::Destroyed(id(WEB)),
    ] {
        let mut bed = up();
        bed.apply(Event::Changed(id(WEB)));
        let late = bed.ticket();
        bed.apply(overtaking);
        let before = (bed.published(), bed.askers());
        bed.answer_to(late, &running(WEB, "10.0.0.77"));
        assert_eq!((bed.published(), bed.askers()), before);
    }
}

#[test]
fn of_two_inspects_only_the_later_question_counts() {
    let mut bed = up();
    bed.apply(Event::Changed(id(WEB)));
    let early = bed.ticket();
    bed.apply(Event::Changed(id(WEB))).answer(&running(WEB, "10.0.0.3"));
    bed.answer_to(early, &running(WEB, "10.0.0.2")).expect(&["10.0.0.3"], &["10.0.0.3 shop-web-1.shop"]);
}

#[test]
fn a_list_that_lags_neither_removes_nor_revives() {
    let mut bed = Bed::new();
    let began = bed.containers.now();
    bed.start(&running(WEB, "10.0.0.2"));
    let asked = bed.inspects_asked();
    bed.listed_at(began, Depth::Changed, &[]).expect(&["10.0.0.2"], &[ASKER]);
    let began = bed.containers.now();
    bed.died(WEB).listed_at(began, Depth::Changed, &[&running(WEB, "10.0.0.2")]).expect(&[], &[]);
    assert_eq!(bed.inspects_asked(), asked, "its events are newer than the list");
}

#[test]
fn a_stale_list_after_the_event_leads_to_an_inspect_and_not_to_a_change() {
    let mut bed = up();
    bed.listed(&[&stopped(running(WEB, "10.0.0.2"))]).expect(&["10.0.0.2"], &[ASKER]);
    bed.answer(&running(WEB, "10.0.0.2")).expect(&["10.0.0.2"], &[ASKER]);
    assert_eq!(bed.containers.take_changes().unheard, 0);
}

#[test]
fn a_list_finds_what_events_did_not_tell() {
    let mut bed = up();
    bed.wishes.extend(bed.containers.apply(Event::Listed {
        began: bed.containers.now(),
        depth: Depth::Changed,
        containers: vec![summary(&running(WEB, "10.0.0.3"))],
        networks: vec![network(NET), network("net2")],
    }));
    let inspected = Box::new(running(WEB, "10.0.0.3"));
    bed.containers.apply(Event::Present { ticket: bed.ticket(), inspected });
    assert_eq!(bed.containers.changes.unheard, 0, "its event may only be slower");
    bed.containers.retry();
    assert_eq!(bed.containers.changes.unheard, 0, "it may have come a moment ago");
    bed.containers.retry();
    assert_eq!(bed.containers.changes.unheard, 1);
    bed.containers.retry();
    assert_eq!(bed.containers.changes.unheard, 1, "counted once");
}

#[test]
fn a_container_that_a_list_lacks_is_gone_and_its_end_was_not_told() {
    let mut bed = up();
    bed.listed(&[]).expect(&[], &[]);
    bed.containers.retry();
    bed.containers.retry();
    assert_eq!(bed.containers.changes.unheard, 1);
}

#[test]
fn an_event_that_is_slower_than_a_list_was_told() {
    let slower: [fn() -> Event; 4] = [
        || Event::Changed(id(WEB)),
        || Event::Died(id(WEB)),
        || Event::Destroyed(id(WEB)),
        || Event::Disconnected { id: id(WEB), network: net(NET) },
    ];
    for event in slower {
        let mut bed = up();
        bed.listed(&[&running(WEB, "10.0.0.3")]).answer(&running(WEB, "10.0.0.3"));
        bed.containers.retry();
        bed.apply(event());
        bed.containers.retry();
        assert_eq!(bed.containers.changes.unheard, 0, "{:?}", event());
    }
    let mut bed = up();
    bed.listed(&[]).apply(Event::Destroyed(id(WEB)));
    bed.containers.retry();
    bed.containers.retry();
    assert_eq!(bed.containers.changes.unheard, 0, "destroyed");
}

#[test]
fn a_list_of_what_is_known_asks_nothing() {
    let mut bed = up();
    let asked = bed.wishes.len();
    bed.listed(&[&running(WEB, "10.0.0.2"), &stopped(running(DB, "10.0.0.3"))]);
    assert_eq!(bed.wishes.len(), asked);
}

#[test]
fn a_container_with_a_check_is_looked_at_with_every_list() {
    let mut bed = Bed::new();
    let mut checked = running(WEB, "10.0.0.2");
    checked.health = Health::Starting;
    bed.start(&checked);
    let asked = bed.inspects_asked();
    bed.listed(&[&checked]);
    assert_eq!(bed.inspects_asked(), asked + 1);
}

#[test]
fn nothing_is_listed_before_each_live_container_was_looked_at() {
    let mut bed = Bed::default();
    assert!(!bed.desired.listed);
    let (web, db) = (running(WEB, "10.0.0.2"), running(DB, "10.0.0.3"));
    bed.listed_at(bed.containers.now(), Depth::Every, &[&web, &db]);
    assert!(!bed.desired.listed && !bed.local.listed);
    let tickets: Vec<Ticket> = bed
        .wishes
        .iter()
        .filter_map(|wish| match wish {
            Wish::Inspect { ticket, .. } => Some(*ticket),
            Wish::InspectNetwork { .. } | Wish::InspectImage { .. } | Wish::Wait { .. } => None,
        })
        .collect();
    bed.answer_to(tickets[0], &web);
    assert!(!bed.desired.listed);
    // One that does not answer must not hold the others.
    bed.apply(Event::Failed { ticket: tickets[1], id: id(DB), error: "no answer within 2s".into() });
    assert!(bed.desired.listed);
    assert_eq!(bed.desired.problems.len(), 1);
    let wishes = bed.containers.retry();
    assert_eq!(wishes.len(), 1);
    bed.wishes.extend(wishes);
    bed.answer(&db).expect(&["10.0.0.2", "10.0.0.3"], &[ASKER, "10.0.0.3 shop-web-1.shop"]);
    assert!(bed.desired.problems.is_empty() && bed.containers.retry().is_empty());
}

#[test]
fn a_container_that_dies_before_its_first_inspect_does_not_hold_the_list() {
    for end in [Event::Died(id(WEB)), Event::Destroyed(id(WEB))] {
        let mut bed = Bed::default();
        bed.listed_at(bed.containers.now(), Depth::Every, &[&running(WEB, "10.0.0.2")]);
        assert!(!bed.desired.listed);
        bed.apply(end);
        assert!(bed.desired.listed);
    }
    let mut bed = Bed::default();
    bed.apply(Event::Changed(id(WEB)));
    let began = Moment::default();
    bed.died(WEB).listed_at(began, Depth::Every, &[&running(WEB, "10.0.0.2")]);
    assert!(bed.desired.listed, "a list that lags must not wait for the dead");
}

#[test]
fn a_lost_engine_freezes_everything() {
    let mut bed = up();
    bed.apply(Event::Changed(id(WEB)));
    let late = bed.ticket();
    bed.apply(Event::Lost).expect(&["10.0.0.2"], &[ASKER]);
    bed.answer_to(late, &running(WEB, "10.0.0.7")).expect(&["10.0.0.2"], &[ASKER]);
}

#[test]
fn after_a_reconnect_every_live_container_is_looked_at_and_the_list_is_the_truth() {
    let mut bed = up();
    let db = running(DB, "10.0.0.3");
    bed.start(&db).apply(Event::Lost);
    let asked = bed.inspects_asked();
    bed.listed_at(bed.containers.now(), Depth::Every, &[&running(WEB, "10.0.0.2")]);
    bed.expect(&["10.0.0.2"], &[ASKER]);
    assert_eq!((bed.inspects_asked(), bed.containers.take_changes().unheard), (asked + 1, 0));
    bed.answer(&stopped(running(WEB, "10.0.0.2"))).expect(&[], &[]);
}

#[test]
fn after_an_engine_restart_an_empty_list_ends_everything() {
    let mut bed = up();
    bed.apply(Event::Lost).expect(&["10.0.0.2"], &[ASKER]);
    bed.listed_at(bed.containers.now(), Depth::Every, &[]).expect(&[], &[]);
    assert!(bed.desired.publications.is_empty());
}

#[test]
fn a_network_inspect_older_than_a_disconnect_does_not_bring_the_address_back() {
    let mut bed = up();
    let began = bed.containers.now();
    bed.disconnected(WEB, NET).expect(&[], &[]);
    let mut elsewhere = running(WEB, "10.0.0.2");
    elsewhere.endpoints.clear();
    bed.network_shows(began, NET, &[(WEB, "10.0.0.2")]).expect(&[], &[]);
    bed.answer(&elsewhere).network_shows(began, NET, &[(WEB, "10.0.0.2")]).expect(&[], &[]);
    bed.died(WEB).network_shows(began, NET, &[(WEB, "10.0.0.2")]).expect(&[], &[]);
}

#[test]
fn a_network_inspect_that_began_before_a_second_connect_still_tells_the_first_address() {
    let mut bed = Bed::new();
    let web = running(WEB, "10.0.0.2");
    bed.apply(Event::Created { id: id(WEB), name: web.name.clone(), labels: web.metadata.clone() });
    bed.connected(WEB, NET);
    let began = bed.containers.now();
    bed.connected(WEB, "net2").network_shows(began, NET, &[(WEB, "10.0.0.2")]).expect(&[], &[ASKER]);
}

#[test]
fn connects_during_a_network_inspect_lead_to_one_more() {
    let mut bed = Bed::new();
    bed.connected(WEB, NET).connected(DB, NET);
    let looks = |bed: &Bed| bed.wishes.iter().filter(|wish| matches!(wish, Wish::InspectNetwork { .. })).count();
    assert_eq!(looks(&bed), 1);
    bed.network_shows(bed.containers.now(), NET, &[]);
    assert_eq!(looks(&bed), 2);
    bed.network_shows(bed.containers.now(), NET, &[]);
    assert_eq!(looks(&bed), 2);
}

#[test]
fn a_network_inspect_names_a_container_whose_create_was_lost() {
    let mut bed = Bed::new();
    bed.network_shows(bed.containers.now(), NET, &[(WEB, "10.0.0.2")]);
    bed.answer(&running(WEB, "10.0.0.2")).expect(&["10.0.0.2"], &[ASKER]);
}

#[test]
fn the_first_overlay_container_makes_us_ask_for_the_gateway_bridge_by_name() {
    let mut bed = Bed::new();
    let overlay = NetworkFacts { driver: Driver::Overlay, scope: Scope::Swarm, ..network("over") };
    bed.connected(WEB, "over");
    let present = |began, facts: &NetworkFacts, ips: &[(&str, &str)]| Event::NetworkPresent {
        began,
        facts: Box::new(facts.clone()),
        endpoints: ips.iter().map(|(container, ip)| (id(container), Box::from([ip.parse().unwrap()]))).collect(),
    };
    bed.apply(present(bed.containers.now(), &overlay, &[(WEB, "10.0.1.2")]));
    let by_name = |bed: &Bed| {
        let asks = |wish: &&Wish| matches!(wish, Wish::InspectNetwork { id, .. } if *id == net(GWBRIDGE));
        bed.wishes.iter().filter(asks).count()
    };
    assert_eq!(by_name(&bed), 1);
    let bridge = NetworkFacts { id: net("gw"), ..network(GWBRIDGE) };
    bed.apply(present(bed.containers.now(), &bridge, &[(WEB, "10.9.0.3")]));
    assert!(bed.containers.looking.is_empty(), "the question by name is answered");
    assert!(bed.containers.entries[&id(WEB).short()].places.contains_key(&net("gw")));
    bed.apply(present(bed.containers.now(), &overlay, &[(WEB, "10.0.1.2")]));
    assert_eq!(by_name(&bed), 1, "from now on by its id");
    // Gone with the last container, and made anew with the next.
    bed.apply(Event::NetworkAbsent(net("gw")));
    bed.apply(present(bed.containers.now(), &overlay, &[]));
    assert_eq!(by_name(&bed), 2);
}

#[test]
fn a_destroyed_network_is_not_brought_back_by_a_list_or_an_inspect_under_way() {
    let mut bed = Bed::new();
    let began = bed.containers.now();
    bed.apply(Event::NetworkDestroyed(net("net2")));
    assert!(!bed.local.networks.contains_key(&net("net2")));
    bed.network_shows(began, "net2", &[]).listed_at(began, Depth::Changed, &[]);
    assert!(!bed.local.networks.contains_key(&net("net2")));
}

#[test]
fn a_network_that_a_list_lacks_is_asked_for_and_then_gone() {
    let mut bed = Bed::new();
    let began = bed.containers.now();
    let only = vec![network(NET)];
    bed.apply(Event::Listed { began, depth: Depth::Changed, containers: Vec::new(), networks: only });
    assert_eq!(bed.wishes, [Wish::InspectNetwork { id: net("net2"), began }]);
    bed.apply(Event::NetworkAbsent(net("net2")));
    assert!(bed.local.networks.keys().eq([&net(NET)]));
}

#[test]
fn an_event_that_changes_nothing_publishes_nothing() {
    let mut bed = up();
    let before = bed.desired.clone();
    let changed = |bed: &mut Bed| {
        let changes = bed.containers.take_changes();
        desired::update(&bed.desired, &bed.containers, &changes).is_some()
    };
    let wishes = bed.containers.apply(Event::Changed(id(WEB)));
    assert!(!changed(&mut bed));
    bed.wishes.extend(wishes);
    let inspected = Box::new(running(WEB, "10.0.0.2"));
    bed.containers.apply(Event::Present { ticket: bed.ticket(), inspected });
    assert!(!changed(&mut bed));
    assert_eq!(before, bed.desired);
}

#[test]
fn a_container_id_is_hexadecimal() {
    assert!(ContainerId::parse("0123456789ab").is_some());
    for broken in ["", "0123456789a", "0123456789aB", "../../../etc", "0123456789ab/json", &"a".repeat(65)] {
        assert_eq!(ContainerId::parse(broken), None, "{broken}");
    }
}
