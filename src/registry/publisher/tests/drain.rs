//! Waiting for all hosts to know, on either side.

use super::*;

impl Bench {
    fn drain(&mut self, containers: &[&str], round: u64, drained: Drained) {
        let publications = containers.iter().map(|id| Arc::new(publication(id))).map(|p| (p.container, p)).collect();
        let drained = drained == Drained::Some;
        self.give(Input::Desired(Arc::new(Desired {
            listed: true,
            publications,
            round,
            drained,
            ..Desired::default()
        })));
    }

    /// The round that our session tells others to acknowledge, and its revision.
    fn told(&mut self) -> (Option<u64>, Revision) {
        let key = self.publisher.session_key.clone();
        let request = Request::Range { start: key, end: Vec::new(), limit: 0, revision: None };
        let Ok(Reply::Range { kvs, .. }) = self.store.call(self.now, &request) else { panic!("a range") };
        let session = record::decode_session(&kvs[0].value, &mut record::Interner::default()).unwrap();
        (session.waits, kvs[0].mod_revision)
    }

    fn acknowledged(&mut self) -> Option<Revision> {
        let key = self.publisher.identity.keys.ack(&self.publisher.identity.host);
        let request = Request::Range { start: key, end: Vec::new(), limit: 0, revision: None };
        let Ok(Reply::Range { kvs, .. }) = self.store.call(self.now, &request) else { panic!("a range") };
        kvs.first().map(|kv| record::decode_ack(&kv.value).unwrap())
    }
}

/// That revision of the bench's etcd.
fn at(revision: Revision) -> Header {
    Header { cluster: 7, revision }
}

#[derive(Clone, Copy, PartialEq)]
enum Drained {
    Some,
    None,
}

#[test]
fn a_round_is_told_after_everything_that_it_stands_for() {
    let mut bench = Bench::publishing(&[A]);
    assert_eq!((bench.told().0, bench.publisher.status().asking), (None, None));
    bench.asked.clear();
    bench.drain(&[A, B], 1, Drained::Some);
    let puts: Vec<Vec<u8>> = bench
        .asked
        .iter()
        .flat_map(|request| match request {
            Request::Txn { then, .. } => then.iter().map(|op| key_of(op).to_vec()).collect(),
            _ => Vec::new(),
        })
        .collect();
    let keys = &bench.publisher.identity.keys;
    let instance = keys.instance(&bench.publisher.identity.host, ShortId::parse(B).unwrap());
    assert_eq!(puts, [instance, bench.publisher.session_key.clone()], "the session last, in a call of its own");
    let (round, revision) = bench.told();
    assert_eq!((round, bench.publisher.status().asking), (Some(1), Some((1, at(revision)))));
    // The next one gets a revision of its own, also where nothing else differs.
    bench.drain(&[A, B], 2, Drained::Some);
    let (round, later) = bench.told();
    assert_eq!((round, bench.publisher.status().asking), (Some(2), Some((2, at(later)))));
    assert!(later > revision);
    bench.drain(&[A, B], 3, Drained::None);
    assert_eq!((bench.told().0, bench.publisher.status().asking), (None, None), "nobody has to acknowledge that");
}

#[test]
fn a_round_is_told_again_after_a_restart() {
    let mut bench = Bench::publishing(&[A]);
    bench.drain(&[A], 1, Drained::Some);
    let (_, before) = bench.told();
    let mut bench = bench.restart("n2");
    bench.drain(&[A], 1, Drained::Some);
    let (round, revision) = bench.told();
    assert_eq!((round, bench.publisher.status().asking), (Some(1), Some((1, at(revision)))));
    assert!(revision > before);
}

/// Else a claim would say that everybody knows what etcd may have lost, or may never have been given.
#[test]
fn a_round_is_told_neither_by_a_claim_nor_before_docker_was_listed() {
    let mut bench = Bench::publishing(&[A]);
    bench.drain(&[A], 1, Drained::Some);
    let backup = bench.store.clone();
    bench.drain(&[A, B], 2, Drained::Some);
    bench.store.restore(backup, bench.now);
    bench.asked.clear();
    bench.give(Input::Touched(0));
    let told = |request: &Request| match request {
        Request::Txn { then, .. } => then.iter().find_map(|op| match op {
            Op::Put { key, value, .. } if key.ends_with(b"/session") => {
                Some(record::decode_session(value, &mut record::Interner::default()).unwrap().waits)
            }
            _ => None,
        }),
        _ => None,
    };
    assert_eq!(bench.asked.iter().filter_map(told).collect::<Vec<_>>(), [None, Some(2)], "{:?}", bench.asked);
    let (_, revision) = bench.told();
    assert_eq!(bench.publisher.status().asking, Some((2, at(revision))));
    let mut bench = bench.restart("n2");
    bench.give(Input::Desired(Arc::new(Desired { round: 2, drained: true, ..Desired::default() })));
    assert_eq!((bench.told().0, bench.publisher.status().asking), (None, None));
    bench.drain(&[A, B], 2, Drained::Some);
    assert_eq!(bench.told().0, Some(2));
}

#[test]
fn what_is_asked_is_acknowledged_once() {
    let mut bench = Bench::publishing(&[A]);
    assert_eq!(bench.acknowledged(), None, "nothing is written while nobody waits");
    bench.give(Input::Asked(7));
    assert_eq!(bench.acknowledged(), Some(7));
    bench.asked.clear();
    bench.give(Input::Asked(7));
    bench.give(Input::Asked(0));
    bench.pass(8);
    assert_eq!((bench.acknowledged(), bench.asked.len()), (Some(7), 0));
    bench.give(Input::Asked(9));
    assert_eq!(bench.acknowledged(), Some(9));
    // Whoever waited last does not any more; or the 9 was of an etcd that has gone back since.
    bench.give(Input::Asked(5));
    assert_eq!(bench.acknowledged(), Some(5));
}

#[test]
fn an_acknowledgement_without_a_reply_is_fenced_off_before_the_next() {
    let mut bench = Bench::publishing(&[A]);
    let effects = bench.publisher.handle(bench.now, Input::Asked(7), &mut bench.rng);
    let [Effect::Call(lost)] = effects.as_slice() else { panic!("{effects:?}") };
    bench.give(Input::Replied(Err(CallError::Unknown("no reply".into()))));
    bench.give(Input::Asked(9));
    bench.pass(1);
    assert_eq!(bench.acknowledged(), Some(9));
    let late = bench.store.call(bench.now, lost).unwrap();
    assert!(matches!(late, Reply::Txn { succeeded: false, .. }), "{late:?}");
}

#[test]
fn an_acknowledgement_outlives_the_lease_that_another_has_replaced() {
    let bench = Bench::publishing(&[A]);
    let mut bench = bench.restart_with_lease("n2", 60);
    bench.give(Input::Asked(7));
    bench.want(&[A]);
    bench.pass(100);
    assert_eq!(bench.acknowledged(), Some(7));
}

#[test]
fn an_acknowledgement_that_went_with_its_lease_is_given_again() {
    let mut bench = Bench::publishing(&[A]);
    bench.give(Input::Asked(7));
    let lease = bench.publisher.status().lease.unwrap();
    bench.store.call(bench.now, &Request::Revoke { lease }).unwrap();
    assert_eq!(bench.acknowledged(), None);
    bench.pass(30);
    assert_eq!(bench.acknowledged(), Some(7));
}

#[test]
fn without_space_an_acknowledgement_waits_and_withdrawals_do_not() {
    let mut bench = Bench::publishing(&[A, B]);
    bench.store.set_space(Space::Exhausted);
    bench.give(Input::Asked(7));
    bench.want(&[B]);
    bench.pass(60);
    assert_eq!((bench.names(), bench.acknowledged()), (all(&[B]), None));
    bench.store.set_space(Space::Enough);
    bench.pass(6);
    assert_eq!(bench.acknowledged(), Some(7));
}
