use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::registry::{
    memory::{Space, Store},
    record::tests::publication,
};

const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";
const C: &str = "cccccccccccc";

mod drain;
mod lease;
mod space;
mod spelling;

/// A publisher against a store that answers at once.
struct Bench {
    publisher: Publisher,
    store: Store,
    rng: SmallRng,
    now: Duration,
    file: SessionFile,
    /// Requests carried out, but for renewals and echoes.
    asked: Vec<Request>,
    has_left: bool,
}

impl Bench {
    fn new(nonce: &str, store: Store, file: SessionFile) -> Self {
        Self::with_lease(nonce, store, file, 30)
    }

    fn with_lease(nonce: &str, store: Store, file: SessionFile, lease_ttl: i64) -> Self {
        let session = Session { nonce: nonce.into(), ..Session::default() };
        let identity =
            Identity { host: HostId::parse("own").unwrap(), keys: Keys::new("/portolan"), session, lease_ttl };
        let publisher = Publisher::new(identity, file.clone());
        let rng = SmallRng::seed_from_u64(1);
        Self { publisher, store, rng, now: Duration::ZERO, file, asked: Vec::new(), has_left: false }
    }

    fn publishing(containers: &[&str]) -> Self {
        let mut bench = Self::new("n1", Store::new(7), SessionFile::default());
        bench.want(containers);
        bench
    }

    /// The next start on the same machine.
    fn restart(self, nonce: &str) -> Self {
        let now = self.now;
        Self { now, ..Self::new(nonce, self.store, self.file) }
    }

    /// The same, told to have a lease of another length.
    fn restart_with_lease(self, nonce: &str, lease_ttl: i64) -> Self {
        let now = self.now;
        Self { now, ..Self::with_lease(nonce, self.store, self.file, lease_ttl) }
    }

    fn want(&mut self, containers: &[&str]) {
        let publications = containers.iter().map(|id| Arc::new(publication(id))).map(|p| (p.container, p)).collect();
        self.give(Input::Desired(Arc::new(Desired { listed: true, publications, ..Desired::default() })));
    }

    fn give(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.publisher.handle(self.now, input, &mut self.rng) {
                match effect {
                    Effect::Save(file) => {
                        self.file = file;
                        inputs.push(Input::Saved(Ok(())));
                    }
                    Effect::Call(request) => {
                        let outcome = self.store.call(self.now, &request);
                        if !format!("{request:?}").contains(&format!("{:?}", b"/portolan/v1/echo/own")) {
                            self.asked.push(request);
                        }
                        inputs.push(Input::Replied(outcome));
                    }
                    Effect::Renew(lease) => {
                        inputs.push(Input::Renewed(self.store.call(self.now, &Request::KeepAlive { lease })));
                    }
                    Effect::Wrote(revision) => inputs.insert(0, Input::Touched(revision)),
                    Effect::Echoed(_) => {}
                    Effect::Left => self.has_left = true,
                }
            }
        }
    }

    /// Lets time pass; the machine is woken when it wants to be.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.publisher.wake_at().filter(|at| *at <= end) {
            self.now = at.max(self.now + Duration::from_millis(1));
            self.give(Input::Tick);
        }
        self.now = end;
        self.give(Input::Tick);
    }

    /// The keys below our host, with their leases.
    fn stored(&mut self) -> Vec<(String, Option<LeaseId>)> {
        let range = self.publisher.own.clone();
        let request = Request::Range { start: range.start.clone(), end: range.end, limit: 0, revision: None };
        let Ok(Reply::Range { kvs, .. }) = self.store.call(self.now, &request) else { panic!("a range") };
        let name = |key: &[u8]| String::from_utf8_lossy(&key[range.start.len()..]).into_owned();
        kvs.iter().map(|kv| (name(&kv.key), kv.lease)).collect()
    }

    fn names(&mut self) -> Vec<String> {
        self.stored().into_iter().map(|(name, _)| name).collect()
    }

    /// Nothing is desired any more, and nothing can be claimed: the reply to the read that comes of it, not yet given.
    fn want_nothing_and_read(&mut self) -> Result<Reply, CallError> {
        let desired = Arc::new(Desired { listed: true, ..Desired::default() });
        let effects = self.publisher.handle(self.now, Input::Desired(desired), &mut self.rng);
        let [Effect::Call(read @ Request::Range { .. })] = effects.as_slice() else { panic!("{effects:?}") };
        self.store.call(self.now, read)
    }

    fn write(&mut self, op: Op) {
        let request = Request::Txn { compare: Vec::new(), then: vec![op], otherwise: Vec::new() };
        self.store.call(self.now, &request).unwrap();
    }
}

fn all(containers: &[&str]) -> Vec<String> {
    containers.iter().map(|id| format!("instances/{id}")).chain(["session".to_owned()]).collect()
}

#[test]
fn what_is_desired_is_published_under_one_lease_and_not_written_again() {
    let mut bench = Bench::publishing(&[A, B]);
    let lease = bench.publisher.status().lease;
    assert_eq!(bench.names(), all(&[A, B]));
    assert!(lease.is_some() && bench.stored().iter().all(|(_, of)| *of == lease));
    bench.asked.clear();
    bench.want(&[B, A]);
    assert_eq!(bench.asked, [], "I8");
    bench.want(&[B]);
    assert_eq!((bench.asked.len(), bench.names()), (1, all(&[B])), "one transaction, and no list before it");
}

#[test]
fn before_docker_was_listed_what_etcd_has_of_us_stays() {
    let mut bench = Bench::publishing(&[A]).restart("n2");
    let before = bench.stored();
    bench.give(Input::Tick);
    bench.pass(1_000);
    assert_eq!(bench.stored(), before, "the same keys under the same lease");
    bench.want(&[B]);
    assert_eq!(bench.names(), all(&[B]));
}

#[test]
fn a_restart_goes_on_with_the_same_lease() {
    let bench = Bench::publishing(&[A]);
    let (revision, lease) = (bench.store.revision(), bench.publisher.status().lease);
    let mut bench = bench.restart("n2");
    bench.want(&[A]);
    assert_eq!((bench.publisher.status().lease, bench.names()), (lease, all(&[A])));
    assert!(bench.store.changes_since(revision + 1, &[bench.publisher.own.clone()]).unwrap().len() == 1, "the session");
    assert_eq!(
        bench.file,
        SessionFile { nonces: vec!["n2".into(), "n1".into()], lease: lease.map(|lease| lease.0), former: None }
    );
}

#[test]
fn the_new_nonce_is_on_disk_before_it_is_in_etcd() {
    let mut bench = Bench::new("n1", Store::new(7), SessionFile::default());
    let mut input = Input::Tick;
    for _ in 0..10 {
        let effects = bench.publisher.handle(bench.now, input, &mut bench.rng);
        input = match effects.as_slice() {
            [Effect::Save(file)] => {
                assert_eq!((file.nonces.as_slice(), bench.names()), (["n1".to_owned()].as_slice(), vec![]));
                return;
            }
            [Effect::Call(request)] => Input::Replied(bench.store.call(bench.now, request)),
            other => panic!("{other:?}"),
        };
    }
    panic!("it was never saved");
}

#[test]
fn a_crash_between_saving_and_claiming_does_not_lock_us_out() {
    let bench = Bench::publishing(&[A]);
    // The next start saved its nonce, and perhaps claimed, and died before it could save that.
    for is_claimed in [false, true] {
        let mut file = bench.file.clone();
        file.nonces.push("n2".into());
        let mut third = Bench::new("n3", bench.store.clone(), file);
        if is_claimed {
            let session = record::encode_session(&Session { nonce: "n2".into(), ..Session::default() });
            third.write(Op::Put { key: third.publisher.session_key.clone(), value: session, lease: LeaseId(0) });
        }
        third.want(&[B]);
        assert_eq!((third.names(), third.publisher.status().conflict), (all(&[B]), None), "claimed {is_claimed}");
    }
}

#[test]
fn the_loser_of_two_writes_nothing_names_the_winner_and_comes_back() {
    let winner = Bench::publishing(&[A]);
    let mut loser = Bench::new("n2", winner.store, SessionFile::default());
    let revision = loser.store.revision();
    loser.want(&[B]);
    loser.pass(10);
    let conflict = loser.publisher.status().conflict.unwrap();
    assert!(conflict.contains("n1") && conflict.contains("--host-id"), "{conflict}");
    assert_eq!((loser.store.revision(), loser.publisher.status().lease), (revision, None));
    loser.pass(40);
    assert_eq!((loser.names(), loser.publisher.status().conflict), (all(&[B]), None), "the winner's lease has ended");
}

#[test]
fn a_running_agent_whose_clone_took_over_stops_and_leaves_the_lease_alone() {
    let mut bench = Bench::publishing(&[A]);
    let lease = bench.publisher.status().lease.unwrap();
    let session = record::encode_session(&Session { nonce: "clone".into(), ..Session::default() });
    bench.write(Op::Put { key: bench.publisher.session_key.clone(), value: session, lease });
    let revision = bench.store.revision();
    bench.want(&[B]);
    assert_eq!((bench.store.revision(), bench.publisher.status().lease), (revision, None));
    bench.give(Input::Leave);
    assert!(bench.has_left);
    assert_eq!(bench.names(), all(&[A]), "the lease is the clone's: not revoked");
}

#[test]
fn a_lease_that_ended_is_replaced_and_everything_put_again() {
    let mut bench = Bench::publishing(&[A, B]);
    bench.now += Duration::from_secs(31);
    bench.store.expire(bench.now);
    assert_eq!(bench.names(), [""; 0]);
    bench.give(Input::Tick);
    assert_eq!((bench.names(), bench.publisher.status().lease_losses), (all(&[A, B]), 1));
}

#[test]
fn what_is_withdrawn_without_a_claim_is_fenced_by_the_session_as_it_was_found() {
    let mut bench = Bench::publishing(&[A]);
    bench.store.set_space(Space::Exhausted);
    let mut bench = bench.restart("n2");
    bench.give(Input::Tick);
    bench.pass(1);
    let read = bench.want_nothing_and_read();
    let effects = bench.publisher.handle(bench.now, Input::Replied(read), &mut bench.rng);
    let [Effect::Call(withdrawal)] = effects.as_slice() else { panic!("{effects:?}") };
    // Meanwhile there is space, and another agent takes the host id.
    bench.store.set_space(Space::Enough);
    let session = record::encode_session(&Session { nonce: "clone".into(), ..Session::default() });
    bench.write(Op::Put { key: bench.publisher.session_key.clone(), value: session, lease: LeaseId(0) });
    let late = bench.store.call(bench.now, withdrawal);
    assert!(matches!(late, Ok(Reply::Txn { succeeded: false, .. })), "{late:?}");
    bench.give(Input::Replied(late));
    bench.pass(60);
    assert!(bench.publisher.status().conflict.unwrap().contains("clone"));
    assert_eq!(bench.names(), ["session"], "the lease was the clone's too and nobody renewed it");
}

/// Found by seed 710 of the simulation.
#[test]
fn nothing_is_withdrawn_on_the_strength_of_an_absent_session_key() {
    let mut bench = Bench::publishing(&[A]);
    bench.write(Op::Delete { key: bench.publisher.session_key.clone() });
    bench.store.set_space(Space::Exhausted);
    let mut bench = bench.restart("n2");
    bench.want(&[B]);
    bench.pass(60);
    assert_eq!(bench.names(), [format!("instances/{A}")]);
    bench.store.set_space(Space::Enough);
    bench.pass(6);
    assert_eq!(bench.names(), all(&[B]));
}

#[test]
fn a_withdrawal_does_not_wait_for_the_next_try_of_a_put() {
    let mut bench = Bench::publishing(&[A, B]);
    bench.store.set_space(Space::Exhausted);
    bench.want(&[A, B, C]);
    bench.pass(60);
    let before = bench.now;
    bench.want(&[B, C]);
    assert_eq!((bench.names(), bench.now), (all(&[B]), before));
}

#[test]
fn a_write_without_a_reply_is_fenced_off_before_the_next() {
    let mut bench = Bench::publishing(&[A]);
    let publications = [B].iter().map(|id| Arc::new(publication(id))).map(|p| (p.container, p)).collect();
    let desired = Arc::new(Desired { listed: true, publications, ..Desired::default() });
    let effects = bench.publisher.handle(bench.now, Input::Desired(desired), &mut bench.rng);
    let [Effect::Call(lost)] = effects.as_slice() else { panic!("{effects:?}") };
    bench.give(Input::Replied(Err(CallError::Unknown("no reply".into()))));
    bench.pass(1);
    assert_eq!(bench.names(), all(&[B]));
    let late = bench.store.call(bench.now, lost).unwrap();
    assert!(matches!(late, Reply::Txn { succeeded: false, .. }), "{late:?}");
}

#[test]
fn own_keys_that_others_broke_are_repaired_at_once() {
    let mut bench = Bench::publishing(&[A]);
    let key = bench.publisher.identity.keys.instance(&bench.publisher.identity.host, ShortId::parse(A).unwrap());
    bench.write(Op::Put { key, value: b"garbage".to_vec(), lease: LeaseId(0) });
    let foreign = [bench.publisher.own.start.as_slice(), b"instances/nonsense"].concat();
    bench.write(Op::Put { key: foreign, value: b"garbage".to_vec(), lease: LeaseId(0) });
    bench.give(Input::Touched(bench.store.revision()));
    let lease = bench.publisher.status().lease;
    assert_eq!((bench.names(), bench.publisher.status().repairs), (all(&[A]), 2));
    assert!(bench.stored().iter().all(|(_, of)| *of == lease));
}

#[test]
fn our_own_writes_seen_in_the_watch_ask_for_nothing() {
    let mut bench = Bench::publishing(&[A]);
    bench.asked.clear();
    for revision in bench.publisher.written.clone() {
        bench.give(Input::Touched(revision));
    }
    assert_eq!(bench.asked, []);
}

#[test]
fn new_addresses_are_told_in_the_session() {
    let mut bench = Bench::publishing(&[A]);
    bench.asked.clear();
    bench.give(Input::Advertise(vec!["10.0.0.9".parse().unwrap()]));
    assert_eq!(bench.asked.len(), 1);
    bench.want(&[B]);
    assert_eq!(bench.names(), all(&[B]), "the fence moved along");
}

#[test]
fn leaving_revokes_and_ends() {
    let mut bench = Bench::publishing(&[A]);
    bench.give(Input::Leave);
    assert!(bench.has_left);
    assert_eq!((bench.names(), bench.file.lease, bench.publisher.wake_at()), (vec![], None, None));
    bench.want(&[B]);
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn a_record_too_large_is_left_out_and_the_rest_goes() {
    let mut bench = Bench::publishing(&[]);
    let mut large = publication(A);
    large.name = "x".repeat(MAX_VALUE).into();
    let publications = [large, publication(B)].into_iter().map(|p| (p.container, Arc::new(p))).collect();
    bench.give(Input::Desired(Arc::new(Desired { listed: true, publications, ..Desired::default() })));
    assert_eq!(bench.names(), all(&[B]));
    assert!(bench.publisher.status().problems[0].place.contains(A));
}

#[test]
fn a_record_beyond_the_readers_limits_is_cut_to_fit_and_says_so() {
    let mut bench = Bench::publishing(&[B]);
    let mut large = publication(A);
    large.networks = vec![large.networks[0].clone(); record::MAX_NETWORKS + 1].into();
    let publications = [large, publication(B)].into_iter().map(|p| (p.container, Arc::new(p))).collect();
    let desired = Arc::new(Desired { listed: true, publications, ..Desired::default() });
    bench.give(Input::Desired(Arc::clone(&desired)));
    assert_eq!(bench.names(), all(&[A, B]));
    let key = bench.publisher.identity.keys.instance(&bench.publisher.identity.host, ShortId::parse(A).unwrap());
    let stored = &bench.publisher.stored.as_ref().unwrap()[&key].value;
    let read = record::decode(ShortId::parse(A).unwrap(), stored, &mut record::Interner::default()).unwrap();
    assert_eq!(read.networks.len(), record::MAX_NETWORKS);
    let revision = bench.store.revision();
    bench.give(Input::Desired(desired));
    let problems = bench.publisher.status().problems;
    assert_eq!((problems.len(), bench.store.revision()), (1, revision), "said as long as it is so, written once");
    assert!(problems[0].place.contains(A) && problems[0].expected.contains("64"), "{problems:?}");
    bench.want(&[A, B]);
    assert_eq!(bench.publisher.status().problems, vec![]);
}

#[test]
fn what_a_restored_backup_lacks_is_put_again_within_an_echo() {
    let mut bench = Bench::publishing(&[A]);
    let backup = bench.store.clone();
    bench.want(&[A, B]);
    bench.store.restore(backup, bench.now);
    assert_eq!(bench.names(), all(&[A]), "the session is as it was: its fence holds");
    bench.pass(10);
    assert_eq!((bench.names(), bench.publisher.status().synced), (all(&[A, B]), true));
}

#[test]
fn a_mirror_that_saw_etcd_go_back_has_our_keys_read_at_once() {
    let mut bench = Bench::publishing(&[A]);
    let backup = bench.store.clone();
    bench.want(&[A, B]);
    bench.store.restore(backup, bench.now);
    for number in 0..9 {
        bench.write(Op::Put { key: b"others".to_vec(), value: vec![number], lease: LeaseId(0) });
    }
    bench.give(Input::Touched(0));
    assert_eq!(bench.names(), all(&[A, B]), "though etcd's revision is beyond ours again");
}

/// Found by seed 79 of the simulation: the publisher wanted to be woken in the past, for ever.
#[test]
fn a_read_that_comes_back_after_the_lease_has_ended_is_not_believed() {
    let bench = Bench::publishing(&[A]);
    let mut bench = bench.restart("n2");
    bench.store.set_space(Space::Exhausted);
    bench.give(Input::Tick);
    bench.pass(1);
    let read = bench.want_nothing_and_read();
    bench.now += Duration::from_secs(31);
    bench.give(Input::Tick);
    assert_eq!(bench.publisher.status().lease_losses, 1);
    bench.give(Input::Replied(read));
    assert_eq!((bench.publisher.status().published, bench.names()), (0, vec![]));
    bench.give(Input::Touched(0));
    assert!(bench.publisher.wake_at() > Some(bench.now));
}

#[test]
fn a_restored_backup_from_before_our_start_is_ours_too() {
    let bench = Bench::publishing(&[A]);
    let backup = bench.store.clone();
    let mut bench = bench.restart("n2");
    bench.want(&[A]);
    let lease = bench.publisher.status().lease;
    bench.store.restore(backup, bench.now);
    bench.pass(10);
    let status = bench.publisher.status();
    assert_eq!((status.conflict, status.lease, status.synced), (None, lease, true));
}

#[test]
fn the_nonces_of_our_state_file_stay_few_and_begin_with_the_one_in_etcd() {
    let mut bench = Bench::publishing(&[A]);
    for start in 2..30 {
        bench = bench.restart(&format!("n{start}"));
        // Every other start ends before it claims.
        if start % 2 == 1 {
            bench.want(&[A]);
            assert_eq!(bench.file.nonces[0], format!("n{start}"));
        } else {
            bench.file.nonces = bench.publisher.file.nonces.clone();
            assert_eq!(bench.file.nonces[0], if start == 2 { "n1".to_owned() } else { format!("n{}", start - 1) });
        }
        assert!(bench.file.nonces.len() <= MAX_NONCES && bench.publisher.status().conflict.is_none());
    }
}

/// Found by seed 121 of the simulation: the publisher wanted to be woken in the past, for ever.
#[test]
fn a_pause_that_is_over_with_nothing_left_to_do_wakes_nobody() {
    let mut bench = Bench::publishing(&[A]);
    bench.store.set_space(Space::Exhausted);
    bench.want(&[A, B]);
    bench.want(&[A]);
    bench.now += Duration::from_secs(1);
    bench.give(Input::Tick);
    assert!(bench.publisher.wake_at() > Some(bench.now));
}
