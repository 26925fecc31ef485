//! Stories of the publisher that hang on a finer point of etcd, against the store in memory and against the real one.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use portolan::{
    model::{Desired, HostId, Session, ShortId},
    registry::{
        call::{CallError, KeyValue, LeaseId, Op, Reply, Request},
        memory::Space,
        publisher::{Effect, Identity, Input, Publisher, SessionFile, Status},
        record::{self, Interner, Keys},
    },
};
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    both::{self, Subject},
    etcd::{Cluster, Options},
};

const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";

/// A publisher whose calls are carried out one after the other. Its time passes only when it has nothing else to do.
struct Agent {
    publisher: Publisher,
    file: SessionFile,
    rng: SmallRng,
    now: Duration,
}

fn keys() -> Keys {
    Keys::new("/portolan")
}

fn host() -> HostId {
    HostId::parse("own").expect("a host id")
}

impl Agent {
    fn start(nonce: &str, lease_ttl: i64, file: SessionFile) -> Self {
        let session = Session { nonce: nonce.into(), ..Session::default() };
        let identity = Identity { host: host(), keys: keys(), session, lease_ttl };
        let publisher = Publisher::new(identity, file.clone());
        Self { publisher, file, rng: SmallRng::seed_from_u64(1), now: Duration::ZERO }
    }

    async fn give(&mut self, subject: &mut Subject, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.publisher.handle(self.now, input, &mut self.rng) {
                inputs.push(match effect {
                    Effect::Call(request) => Input::Replied(subject.call(request).await),
                    Effect::Renew(lease) => Input::Renewed(subject.call(Request::KeepAlive { lease }).await),
                    Effect::Save(file) => {
                        self.file = file;
                        Input::Saved(Ok(()))
                    }
                    Effect::Wrote(_) | Effect::Echoed(_) | Effect::Left => continue,
                });
            }
        }
    }

    async fn want(&mut self, subject: &mut Subject, containers: &[&str]) {
        let value = br#"{"name":"c","phase":"serving","services":[{"service":"web","namespace":"shop"}]}"#;
        let publications = containers.iter().map(|id| {
            let container = ShortId::parse(id).expect("an id");
            (container, Arc::new(record::decode(container, value, &mut Interner::default()).expect("a record")))
        });
        let desired = Desired { listed: true, publications: publications.collect(), ..Desired::default() };
        self.give(subject, Input::Desired(Arc::new(desired))).await;
    }

    /// Lets its time pass until `done`.
    async fn until(&mut self, subject: &mut Subject, done: impl Fn(&Status) -> bool) {
        for _ in 0..100 {
            if done(&self.publisher.status()) {
                return;
            }
            self.now = self.publisher.wake_at().expect("something to wait for").max(self.now);
            self.give(subject, Input::Tick).await;
        }
        panic!("it never came: {:?}", self.publisher.status());
    }
}

/// What etcd has of the host: the names of its keys below its prefix, the session with its nonce.
async fn stored(subject: &mut Subject) -> Vec<String> {
    let range = keys().host_range(&host());
    let prefix = range.start.len();
    let request = Request::Range { start: range.start, end: range.end, limit: 0, revision: None };
    let Ok(Reply::Range { kvs, .. }) = subject.call(request).await else { panic!("a range") };
    let name = |kv: &KeyValue| {
        let name = String::from_utf8_lossy(&kv.key[prefix..]).into_owned();
        match record::decode_session(&kv.value, &mut Interner::default()) {
            Ok(session) => format!("{name} {}", session.nonce),
            Err(_) => name,
        }
    };
    kvs.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_space_withdraws_what_is_gone_before_it_can_claim() {
    let cluster = Cluster::single();
    for mut subject in [Subject::model(), Subject::real(&cluster).await] {
        let etcd = &mut subject;
        let mut first = Agent::start("n1", 600, SessionFile::default());
        first.want(etcd, &[A, B]).await;
        etcd.set_space(Space::Exhausted).await;
        let mut second = Agent::start("n2", 600, first.file);
        second.want(etcd, &[B]).await;
        assert_eq!(stored(etcd).await, [format!("instances/{B}"), "session n1".into()]);
        assert_eq!(second.publisher.status().lease, first.publisher.status().lease);
        etcd.set_space(Space::Enough).await;
        second.until(etcd, |status| status.synced).await;
        assert_eq!(stored(etcd).await, [format!("instances/{B}"), "session n2".into()]);
    }
}

/// The lease that each key of the host hangs on.
async fn leases(subject: &mut Subject) -> Vec<Option<LeaseId>> {
    let range = keys().host_range(&host());
    let request = Request::Range { start: range.start, end: range.end, limit: 0, revision: None };
    let Ok(Reply::Range { kvs, .. }) = subject.call(request).await else { panic!("a range") };
    kvs.iter().map(|kv| kv.lease).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_another_length_takes_over_all_keys_in_place() {
    let cluster = Cluster::single();
    for mut subject in [Subject::model(), Subject::real(&cluster).await] {
        let etcd = &mut subject;
        let mut first = Agent::start("n1", 600, SessionFile::default());
        first.want(etcd, &[A, B]).await;
        let old = first.publisher.status().lease.expect("a lease");
        let mut second = Agent::start("n2", 900, first.file);
        second.want(etcd, &[A, B]).await;
        second.until(etcd, |status| status.synced && status.lease != Some(old)).await;
        let new = second.publisher.status().lease.expect("a lease");
        assert_eq!(leases(etcd).await, [Some(new); 3]);
        assert_eq!((second.file.lease, second.file.former), (Some(new.0), None));
        // A key that moved has left the lease it hung on.
        etcd.call(Request::Revoke { lease: old }).await.expect("it still lives");
        assert_eq!(leases(etcd).await, [Some(new); 3]);
        let alive = etcd.call(Request::KeepAlive { lease: new }).await;
        assert!(matches!(alive, Ok(Reply::Alive { ttl: 900, .. })), "{alive:?}");
    }
}

/// etcd looks at its quota before it proposes a put, and again when it applies it: of puts that are proposed at once
/// those that passed the first look are carried out, and refused by the second. So that all pass the first look, none is
/// applied before all are proposed: a leader alone cannot commit. etcd learns its size when its backend commits, by
/// default every 100 ms, in which it may apply them all: so it commits after each.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_uses_up_the_space_may_be_carried_out_and_refused() {
    const FILLERS: usize = 64;
    let arguments = ["--quota-backend-bytes=2000000", "--backend-batch-limit=1"].map(Into::into).to_vec();
    let cluster = Cluster::start(&Options { members: 3, arguments, ..Options::default() });
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let etcd = both::client_with(&cluster, |options| options.endpoints = vec![cluster.endpoint(leader)]);
    let key = |number: usize| format!("/portolan/filler{number:03}").into_bytes();
    let puts = (0..FILLERS).map(|number| {
        let put = Op::Put { key: key(number), value: vec![b'x'; 100_000], lease: LeaseId(0) };
        etcd.call(Request::Txn { compare: vec![], then: vec![put], otherwise: vec![] })
    });
    let others = (0..3).filter(|index| *index != leader);
    others.clone().for_each(|index| cluster.freeze(index));
    let proposed = async {
        let deadline = tokio::time::Instant::now() + both::PATIENCE;
        while cluster.metric(leader, "etcd_server_proposals_pending") != FILLERS.to_string() {
            assert!(tokio::time::Instant::now() < deadline, "not all puts were proposed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        others.for_each(|index| cluster.thaw(index));
    };
    let (outcomes, ()) = tokio::join!(join_all(puts), proposed);
    let range = Request::Range { start: key(0), end: b"/portolan/g".to_vec(), limit: 0, revision: None };
    let mut real = Subject::real(&cluster).await;
    let Ok(Reply::Range { kvs, .. }) = real.call(range).await else { panic!("a range") };
    let there = |number: &usize| kvs.iter().any(|kv| kv.key == key(*number));
    let refused: Vec<usize> = (0..FILLERS).filter(|number| outcomes[*number] == Err(CallError::NoSpace)).collect();
    assert!(!refused.is_empty(), "none was refused: {outcomes:?}");
    assert!(refused.iter().all(there), "{} are there, refused: {refused:?}", kvs.len());
}
