use std::time::Duration;

use imbl::OrdMap;
use tokio::time::timeout;

use super::*;
use crate::{
    model::{Desired, HostId, Origin, Session},
    registry::{
        call::{LeaseId, Op},
        record::{Keys, encode, tests::publication},
    },
};

struct Agent {
    desired: watch::Sender<Arc<Desired>>,
    view: watch::Receiver<Arc<View>>,
    status: watch::Receiver<Status>,
    commands: mpsc::Sender<Command>,
}

/// An agent that publishes.
fn start() -> Agent {
    let agent = start_silent();
    agent.commands.try_send(Command::Advertise(vec!["192.0.2.1".parse().unwrap()])).unwrap();
    agent
}

/// An agent that has not been told yet where it is reached.
fn start_silent() -> Agent {
    start_with(Store::embedded(1))
}

fn start_with(store: Store) -> Agent {
    let (desired, wanted) = watch::channel(Arc::default());
    let (view_out, view) = watch::channel(Arc::default());
    let (status_out, status) = watch::channel(Status::default());
    let (commands, commanded) = mpsc::channel(4);
    let identity = Identity {
        host: HostId::parse("a").unwrap(),
        keys: Keys::new("/portolan"),
        session: Session { nonce: "n1".into(), ..Session::default() },
        lease_ttl: 30,
    };
    let directory = tempfile::tempdir().unwrap();
    let state = Arc::new(StateDirectory::open(directory.path()).unwrap());
    let (backend, outputs) = (Backend::Memory(store), Outputs { view: view_out, status: status_out });
    // Nobody waits in the embedded registry.
    let (_, asked) = watch::channel(0);
    let inputs = Inputs { desired: wanted, asked, commands: commanded };
    tokio::spawn(run(Options { identity, state }, backend, inputs, outputs));
    Agent { desired, view, status, commands }
}

fn listed(containers: &[&str]) -> Arc<Desired> {
    let publications = containers.iter().map(|id| Arc::new(publication(id))).map(|p| (p.container, p)).collect();
    Arc::new(Desired { listed: true, publications, ..Desired::default() })
}

impl Agent {
    async fn until(&mut self, what: &str, holds: impl Fn(&View) -> bool) {
        let waited = timeout(Duration::from_secs(3600), self.view.wait_for(|view| holds(view))).await;
        assert!(waited.is_ok_and(|found| found.is_ok()), "{what}: {:?}", self.status.borrow());
    }
}

fn published(view: &View) -> usize {
    view.hosts.get(&Origin::Registry(HostId::parse("a").unwrap())).map_or(0, |host| host.publications.len())
}

#[tokio::test(start_paused = true)]
async fn the_embedded_registry_holds_what_is_desired_and_follows_it() {
    let mut agent = start();
    agent.until("listed", |view| view.listed && view.hosts.len() == 1).await;
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa", "bbbbbbbbbbbb"]));
    agent.until("both", |view| published(view) == 2).await;
    agent.desired.send_replace(listed(&["bbbbbbbbbbbb"]));
    agent.until("one", |view| published(view) == 1).await;
    assert!(agent.status.wait_for(|status| status.publisher.synced).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_long_list_holds_up_nobody() {
    let mut store = Store::new(1);
    let value = encode(&publication("aaaaaaaaaaaa"));
    for container in 0..5_000 {
        let key = format!("/portolan/v1/hosts/b/instances/{container:012x}").into_bytes();
        let then = vec![Op::Put { key, value: value.clone(), lease: LeaseId(0) }];
        store.call(Duration::ZERO, &Request::Txn { compare: Vec::new(), then, otherwise: Vec::new() }).unwrap();
    }
    let mut agent = start_with(store);
    let (tell, told) = oneshot::channel();
    agent.commands.try_send(Command::Acknowledged(tell)).unwrap();
    assert!(told.await.unwrap().is_ok());
    assert!(!agent.view.borrow().listed, "answered between two pieces of the list");
    agent.until("listed", |view| view.listed).await;
}

#[tokio::test(start_paused = true)]
async fn an_embedded_registry_at_rest_renews_its_lease_and_says_nothing() {
    let mut agent = start();
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa"]));
    agent.until("published", |view| published(view) == 1).await;
    agent.view.mark_unchanged();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!agent.view.has_changed().unwrap(), "{:?}", agent.view.borrow());
    let Status { publisher, mirror, stale_since, outage, credentials } = agent.status.borrow().clone();
    assert_eq!((publisher.lease_losses, stale_since, mirror.relists, mirror.repairs, outage), (0, None, 1, 0, None));
    assert_eq!(credentials, []);
}

#[tokio::test(start_paused = true)]
async fn leaving_withdraws_everything_and_answers_then() {
    let mut agent = start();
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa"]));
    agent.until("published", |view| published(view) == 1).await;
    let (done, left) = oneshot::channel();
    agent.commands.send(Command::Leave(done)).await.unwrap();
    timeout(Duration::from_secs(1), left).await.unwrap().unwrap().unwrap();
    agent.until("gone", |view| view.hosts == OrdMap::new()).await;
}

#[tokio::test(start_paused = true)]
async fn it_follows_before_it_is_known_where_we_are_reached_and_publishes_only_then() {
    let mut agent = start_silent();
    agent.until("listed", |view| view.listed).await;
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa"]));
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(agent.view.borrow().hosts, OrdMap::new(), "nothing without an address");
    agent.commands.send(Command::Advertise(vec!["192.0.2.1".parse().unwrap()])).await.unwrap();
    agent.until("published", |view| published(view) == 1).await;
    let session = agent.view.borrow().hosts[&Origin::Registry(HostId::parse("a").unwrap())].session.clone();
    assert_eq!((session.advertise, &*session.nonce), (vec!["192.0.2.1".parse().unwrap()], "n1"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_never_published_can_leave() {
    let mut agent = start_silent();
    agent.until("listed", |view| view.listed).await;
    let (done, left) = oneshot::channel();
    agent.commands.send(Command::Leave(done)).await.unwrap();
    timeout(Duration::from_secs(1), left).await.unwrap().unwrap().unwrap();
    assert_eq!(agent.view.borrow().hosts, OrdMap::new());
}

#[tokio::test(start_paused = true)]
async fn who_is_suspended_writes_nothing_more_and_goes_on_when_nobody_else_does() {
    let mut agent = start();
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa"]));
    agent.until("published", |view| published(view) == 1).await;
    let (done, suspended) = oneshot::channel();
    agent.commands.send(Command::Suspend(done)).await.unwrap();
    timeout(Duration::from_secs(1), suspended).await.unwrap().unwrap();
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa", "bbbbbbbbbbbb"]));
    agent.commands.send(Command::Advertise(vec!["192.0.2.2".parse().unwrap()])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(published(&agent.view.borrow()), 1, "it was told to write nothing");
    agent.commands.send(Command::Resume).await.unwrap();
    agent.until("both", |view| published(view) == 2).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_suspended_before_publishing_begins_only_when_resumed() {
    let mut agent = start_silent();
    agent.until("listed", |view| view.listed).await;
    agent.desired.send_replace(listed(&["aaaaaaaaaaaa"]));
    let (done, suspended) = oneshot::channel();
    agent.commands.send(Command::Suspend(done)).await.unwrap();
    timeout(Duration::from_secs(1), suspended).await.unwrap().unwrap();
    agent.commands.send(Command::Advertise(vec!["192.0.2.1".parse().unwrap()])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(agent.view.borrow().hosts, OrdMap::new(), "another one publishes");
    agent.commands.send(Command::Resume).await.unwrap();
    agent.until("published", |view| published(view) == 1).await;
    let session = agent.view.borrow().hosts[&Origin::Registry(HostId::parse("a").unwrap())].session.clone();
    assert_eq!(session.advertise, ["192.0.2.1".parse::<IpAddr>().unwrap()], "it was told meanwhile");
}
