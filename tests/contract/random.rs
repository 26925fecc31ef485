//! Random scripts: whatever the tables forgot.

use portolan::registry::call::{Compare, LeaseId, Op, Request, WatchRange};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    both::{Outcome, Step, Subject, run},
    etcd::Cluster,
};

/// How many scripts. A watch of the past costs most: etcd looks after those every 100 ms.
const SCRIPTS: u32 = 250;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::sample::select(vec!["a", "b", "ba", "c", "d"]).prop_map(Vec::from),
        1 => Just(b"bin\x00\xff".to_vec()),
    ]
}

fn end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![]), Just(vec![0]), key()]
}

/// Mostly leases that may exist.
fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![4 => Just(LeaseId(0)), 3 => (1..4i64).prop_map(LeaseId), 1 => Just(LeaseId(77))]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), proptest::collection::vec(any::<u8>(), 0..3), lease())
            .prop_map(|(key, value, lease)| Op::Put { key, value, lease }),
        2 => key().prop_map(|key| Op::Delete { key }),
        2 => key().prop_map(|key| Op::Get { key }),
    ]
}

fn revision() -> impl Strategy<Value = i64> {
    0..14i64
}

fn request() -> impl Strategy<Value = Request> {
    let ops = || proptest::collection::vec(op(), 0..4);
    let compare = (key(), revision()).prop_map(|(key, equal)| Compare::ModRevision { key, equal });
    prop_oneof![
        1 => (-1..5i64).prop_map(|more| Request::Grant { ttl: 600 + more }),
        1 => lease().prop_map(|lease| Request::KeepAlive { lease }),
        1 => lease().prop_map(|lease| Request::Revoke { lease }),
        6 => op().prop_map(|op| Request::Txn { compare: vec![], then: vec![op], otherwise: vec![] }),
        4 => (proptest::collection::vec(compare, 0..3), ops(), ops())
            .prop_map(|(compare, then, otherwise)| Request::Txn { compare, then, otherwise }),
        4 => (key(), end(), -1..4i64, proptest::option::of(revision()))
            .prop_map(|(start, end, limit, revision)| Request::Range { start, end, limit, revision }),
    ]
}

fn watch() -> impl Strategy<Value = Step> {
    let range = |start: &str, end: &str| WatchRange { start: start.into(), end: end.into() };
    let all = vec![WatchRange { start: vec![], end: vec![0] }];
    let two = vec![range("a", "b"), range("c", "e")];
    (proptest::sample::select(vec![all, two]), 1..14i64).prop_map(|(ranges, from)| Step::Watch(ranges, from))
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => request().prop_map(Step::Call),
        2 => (1..9i64).prop_map(Step::Compact),
        2 => watch(),
    ];
    proptest::collection::vec(step, 1..30)
}

#[test]
fn random_scripts_come_to_the_same_end_in_memory_and_in_etcd() {
    let cluster = Cluster::single();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases: SCRIPTS, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut number = 0;
    let counter = std::cell::RefCell::new(&mut number);
    let seen = std::cell::RefCell::new(Seen::default());
    let result = runner.run(&script(), |script| {
        let prefix = {
            let mut number = counter.borrow_mut();
            **number += 1;
            format!("random/{number}/")
        };
        let (model, real) = runtime.block_on(async {
            let model = run(&mut Subject::model(), &prefix, &script).await;
            let real = run(&mut Subject::real(&cluster).await, &prefix, &script).await;
            (model, real)
        });
        seen.borrow_mut().note(&real);
        prop_assert_eq!(model, real);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    seen.into_inner().check();
}

/// What the scripts have led to: a generator that never gets anywhere would prove nothing.
#[derive(Debug, Default)]
struct Seen {
    replies: usize,
    refusals: usize,
    compacted: usize,
    lost_leases: usize,
    changes: usize,
    compacted_watches: usize,
}

impl Seen {
    fn note(&mut self, outcome: &Outcome) {
        use portolan::registry::call::CallError;
        for reply in &outcome.replies {
            match reply {
                Ok(_) => self.replies += 1,
                Err(CallError::Invalid(_)) => self.refusals += 1,
                Err(CallError::Compacted) => self.compacted += 1,
                Err(CallError::LeaseNotFound) => self.lost_leases += 1,
                Err(error) => panic!("etcd fails: {error}"),
            }
        }
        for watch in &outcome.watches {
            match watch {
                Ok(ranges) => self.changes += ranges.iter().map(Vec::len).sum::<usize>(),
                Err(_) => self.compacted_watches += 1,
            }
        }
    }

    fn check(&self) {
        let enough = self.replies > 1000
            && self.refusals > 100
            && self.compacted > 20
            && self.lost_leases > 100
            && self.changes > 300
            && self.compacted_watches > 5;
        assert!(enough, "the scripts reach too little: {self:?}");
    }
}
