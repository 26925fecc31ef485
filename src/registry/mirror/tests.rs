use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::model::Session;
use crate::registry::{
    call::{LeaseId, Op},
    memory::Store,
    record::{self, encode, tests::publication},
};

mod compare;
mod held;
mod list;

const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";

/// A mirror on host `own`, against a store that answers at once; the test holds back or bends what the watch tells.
struct Bench {
    mirror: Mirror,
    store: Store,
    rng: SmallRng,
    now: Duration,
    watching: Option<Revision>,
    lists: u32,
}

impl Bench {
    fn new() -> Self {
        let own = HostId::parse("own").unwrap();
        Self {
            mirror: Mirror::new(Keys::new("/portolan"), own),
            store: Store::new(7),
            rng: SmallRng::seed_from_u64(1),
            now: Duration::ZERO,
            watching: None,
            lists: 0,
        }
    }

    /// Listed and watching.
    fn following(containers: &[&str]) -> Self {
        let mut bench = Self::new();
        for container in containers {
            bench.put(container);
        }
        bench.give(Input::Tick);
        assert!(bench.watching.is_some());
        bench
    }

    fn key(container: &str) -> Vec<u8> {
        format!("/portolan/v1/hosts/other/instances/{container}").into_bytes()
    }

    fn write(&mut self, op: Op) -> Revision {
        let request = Request::Txn { compare: Vec::new(), then: vec![op], otherwise: Vec::new() };
        self.store.call(self.now, &request).unwrap();
        self.store.revision()
    }

    fn put_value(&mut self, key: Vec<u8>, value: Vec<u8>) -> Revision {
        self.write(Op::Put { key, value, lease: LeaseId(0) })
    }

    fn put(&mut self, container: &str) -> Revision {
        self.put_value(Self::key(container), encode(&publication(container)))
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.mirror.handle(self.now, input, &mut self.rng) {
                match &effect {
                    Effect::Call(request) => {
                        if matches!(request, Request::Range { revision: None, .. }) {
                            self.lists += 1;
                        }
                        inputs.push(Input::Replied(self.store.call(self.now, request)));
                    }
                    Effect::Watch(from) => {
                        self.watching = Some(*from);
                        inputs.push(Input::Watched(WatchEvent::Created { header: self.store.header() }));
                    }
                    Effect::Unwatch => self.watching = None,
                    Effect::Touched(_) => {}
                }
                all.push(effect);
            }
            if inputs.is_empty() && self.mirror.is_reading() {
                inputs.push(Input::Tick);
            }
        }
        all
    }

    fn pending(&self) -> Vec<Change> {
        self.store.changes_since(self.watching.unwrap(), &self.mirror.ranges()).unwrap()
    }

    fn tell(&mut self, changes: Vec<Change>) -> Vec<Effect> {
        self.watching = self.watching.map(|_| self.store.revision() + 1);
        self.give(Input::Watched(WatchEvent::Changes { header: self.store.header(), changes }))
    }

    fn pass(&mut self, seconds: u64) -> Vec<Effect> {
        self.now += Duration::from_secs(seconds);
        self.give(Input::Tick)
    }

    fn known(&self) -> Vec<String> {
        let hosts = self.mirror.view().hosts.values();
        hosts.flat_map(|host| host.publications.keys().map(ToString::to_string)).collect()
    }
}

#[test]
fn a_change_is_one_swap_that_shares_the_rest() {
    let mut bench = Bench::following(&[A]);
    bench.put_value(b"/portolan/v1/hosts/third/session".to_vec(), br#"{"nonce":"n"}"#.to_vec());
    let changes = bench.pending();
    bench.tell(changes);
    let before = Arc::clone(bench.mirror.view());
    bench.put(B);
    let changes = bench.pending();
    bench.tell(changes);
    let third = Origin::Registry(HostId::parse("third").unwrap());
    assert!(Arc::ptr_eq(&before.hosts[&third], &bench.mirror.view().hosts[&third]));
    assert_eq!((bench.known(), bench.lists), (vec![A.to_string(), B.to_string()], 1));
}

/// What the watch leaves out or says twice → listed anew, and right again.
#[test]
fn what_does_not_follow_is_listed_anew_while_the_old_view_stands() {
    type Bend = fn(&mut Bench) -> Vec<Change>;
    let rows: [(&str, Bend); 4] = [
        ("a delete of what was never told", |bench| {
            bench.put(B);
            bench.write(Op::Delete { key: Bench::key(B) });
            bench.pending().split_off(1)
        }),
        ("a key created unseen", |bench| {
            bench.put(B);
            bench.put(B);
            bench.pending().split_off(1)
        }),
        ("a delete that was lost before the next creation", |bench| {
            bench.write(Op::Delete { key: Bench::key(A) });
            bench.put(A);
            bench.pending().split_off(1)
        }),
        ("a revision that comes again", |bench| {
            bench.put(B);
            let changes = bench.pending();
            bench.tell(changes.clone());
            changes
        }),
    ];
    for (what, bend) in rows {
        let mut bench = Bench::following(&[A]);
        let changes = bend(&mut bench);
        let before = bench.known();
        bench.tell(changes);
        bench.pass(1);
        assert_eq!((bench.lists, bench.mirror.status().gaps), (2, 1), "{what}");
        assert!(before.contains(&A.to_string()) && bench.known().contains(&A.to_string()), "{what}");
        assert_eq!(
            bench.known().contains(&B.to_string()),
            bench.store.revision() == 3 && what.ends_with("again") || what.contains("created unseen"),
            "{what}"
        );
    }
}

#[test]
fn a_creation_that_comes_again_after_its_end_does_not_follow() {
    let mut bench = Bench::following(&[A]);
    bench.put(B);
    let changes = bench.pending();
    bench.write(Op::Delete { key: Bench::key(B) });
    let all = bench.pending();
    bench.tell(all);
    bench.tell(changes);
    assert_eq!((bench.known(), bench.mirror.status().gaps), (vec![A.to_string()], 1));
}

/// Found by seed 718 of the simulation: what had been decoded before the restore was taken for what was written since.
#[test]
fn the_same_revisions_with_another_value_are_read_anew() {
    let other = || {
        let mut other = publication(A);
        other.name = "other".into();
        encode(&other)
    };
    let name = |bench: &Bench| {
        let mut hosts = bench.mirror.view().hosts.values();
        hosts.next().unwrap().publications.values().next().unwrap().name.to_string()
    };
    // Found by a list, as after a compaction, and by a compare.
    for is_told in [true, false] {
        let mut bench = Bench::following(&[A]);
        let before = name(&bench);
        bench.store = Store::new(7);
        bench.put_value(Bench::key(A), other());
        if is_told {
            bench.give(Input::Watched(WatchEvent::Compacted { revision: 1 }));
        } else {
            assert_eq!(name(&bench), before);
            for _ in 0..40 {
                bench.give(Input::Watched(WatchEvent::Progress { header: bench.store.header() }));
                bench.pass(10);
            }
            assert_eq!(bench.mirror.status().repairs, 1);
        }
        assert_eq!(name(&bench), "other", "told {is_told}");
    }
}

#[test]
fn garbage_is_skipped_counted_shown_and_forgotten_when_it_goes() {
    let mut bench = Bench::following(&[A, B]);
    bench.put_value(Bench::key(A), b"{\"name\":".to_vec());
    bench.put_value(b"/portolan/v1/hosts/what/is/this".to_vec(), b"x".to_vec());
    let changes = bench.pending();
    bench.tell(changes);
    let view = bench.mirror.view();
    assert_eq!((bench.known(), view.undecodable), (vec![B.to_string()], 2));
    assert!(view.problems[0].place.ends_with(A), "{:?}", view.problems);
    bench.put(A);
    bench.write(Op::Delete { key: b"/portolan/v1/hosts/what/is/this".to_vec() });
    let changes = bench.pending();
    bench.tell(changes);
    assert_eq!((bench.known().len(), bench.mirror.view().undecodable, bench.lists), (2, 0, 1));
}

#[test]
fn an_echo_that_does_not_come_back_breaks_the_watch_then_the_list() {
    let mut bench = Bench::following(&[A]);
    let revision = bench.put_value(b"/portolan/v1/echo/own".to_vec(), b"1".to_vec());
    bench.give(Input::Echoed(revision));
    assert_eq!(bench.pass(4), []);
    let effects = bench.pass(1);
    assert!(effects.starts_with(&[Effect::Unwatch]) && matches!(effects[1], Effect::Watch(_)), "{effects:?}");
    assert_eq!(bench.lists, 1);
    bench.pass(5);
    assert_eq!((bench.lists, bench.mirror.status().stalls), (2, 2));
    assert_eq!(bench.known(), [A]);
}

#[test]
fn an_echo_that_was_told_before_its_write_was_answered_is_proof_enough() {
    let mut bench = Bench::following(&[A]);
    let revision = bench.put_value(b"/portolan/v1/echo/own".to_vec(), b"1".to_vec());
    let changes = bench.pending();
    bench.tell(changes);
    bench.give(Input::Echoed(revision));
    assert_eq!((bench.pass(10), bench.mirror.status().stalls), (vec![], 0));
}

#[test]
fn a_lost_change_is_found_by_the_full_compare_and_cured() {
    let mut bench = Bench::following(&[A]);
    bench.put(B);
    bench.tell(Vec::new());
    for _ in 0..40 {
        bench.pass(10);
    }
    assert_eq!((bench.known(), bench.mirror.status().repairs), (vec![A.to_string(), B.to_string()], 1));
}

/// Found by seed 260 of the simulation: it was shown as a problem for ever.
#[test]
fn a_lost_delete_of_a_key_that_means_nothing_is_found_by_the_full_compare() {
    let mut bench = Bench::following(&[A]);
    let key = b"/portolan/v1/hosts/what/is/this".to_vec();
    bench.put_value(key.clone(), b"x".to_vec());
    let changes = bench.pending();
    bench.tell(changes);
    assert_eq!(bench.mirror.view().undecodable, 1);
    bench.write(Op::Delete { key });
    bench.tell(Vec::new());
    for _ in 0..40 {
        bench.pass(10);
    }
    assert_eq!((bench.known(), bench.mirror.view().undecodable), (vec![A.to_string()], 0));
    assert_eq!(bench.mirror.status().repairs, 1);
}

#[test]
fn a_compare_of_what_is_as_it_should_be_changes_nothing() {
    let mut bench = Bench::following(&[A, B]);
    bench.put_value(b"/portolan/v1/hosts/what/is/this".to_vec(), b"x".to_vec());
    let changes = bench.pending();
    bench.tell(changes);
    let before = Arc::clone(bench.mirror.view());
    let lists = bench.lists;
    for _ in 0..60 {
        let header = bench.store.header();
        bench.give(Input::Watched(WatchEvent::Progress { header }));
        bench.pass(10);
    }
    assert!(Arc::ptr_eq(&before, bench.mirror.view()));
    assert!(bench.lists > lists, "it was compared");
    assert_eq!((bench.mirror.status().relists, bench.mirror.status().repairs), (1, 0));
}

#[test]
fn an_outage_makes_the_view_stale_and_empties_nothing() {
    let mut bench = Bench::following(&[A]);
    bench.watching = None;
    bench.mirror.handle(bench.now, Input::Watched(WatchEvent::Broken("down".into())), &mut bench.rng);
    for _ in 0..100 {
        bench.now = bench.mirror.wake_at().unwrap();
        for effect in bench.mirror.handle(bench.now, Input::Tick, &mut bench.rng) {
            if let Effect::Watch(_) = effect {
                let broken = Input::Watched(WatchEvent::Broken("down".into()));
                bench.mirror.handle(bench.now, broken, &mut bench.rng);
            }
        }
    }
    assert_eq!((bench.known(), bench.mirror.view().stale_since), (vec![A.to_string()], Some(Duration::ZERO)));
    bench.pass(3);
    assert_eq!((bench.mirror.view().stale_since, bench.lists), (None, 1));
}

#[test]
fn a_restored_backup_is_believed_when_it_was_seen_three_times() {
    let mut bench = Bench::following(&[A, B]);
    bench.store = Store::new(7);
    bench.put(B);
    bench.give(Input::Watched(WatchEvent::Compacted { revision: 1 }));
    assert_eq!(bench.known(), [A, B], "once is not enough");
    bench.pass(3);
    assert_eq!(bench.known(), [A, B], "nor twice");
    let effects = bench.pass(3);
    assert_eq!((bench.known(), bench.mirror.held().count()), (vec![A.to_string(), B.to_string()], 1), "A is only held");
    assert_eq!(bench.mirror.view().revision, bench.store.revision());
    assert!(effects.contains(&Effect::Touched(0)), "our own keys may be missing there: {effects:?}");
}

/// A watch from the future stays silent until etcd gets there, and then tells of another past.
#[test]
fn a_watch_that_begins_before_what_we_know_means_a_new_list() {
    let mut bench = Bench::following(&[A, B]);
    bench.store = Store::new(7);
    bench.put(B);
    bench.mirror.handle(bench.now, Input::Watched(WatchEvent::Broken("restored".into())), &mut bench.rng);
    for _ in 0..5 {
        bench.pass(3);
    }
    assert_eq!((bench.known(), bench.mirror.held().count()), (vec![A.to_string(), B.to_string()], 1), "A is only held");
    assert_eq!(bench.mirror.view().revision, bench.store.revision());
}

#[test]
fn another_cluster_is_listed_anew() {
    let mut bench = Bench::following(&[A]);
    bench.store = Store::new(8);
    bench.put(B);
    let effects = bench.tell(Vec::new());
    assert_eq!((bench.known(), bench.mirror.held().count()), (vec![A.to_string(), B.to_string()], 1), "A is only held");
    assert_eq!((bench.mirror.view().cluster, bench.lists), (8, 2));
    assert!(effects.contains(&Effect::Touched(0)), "{effects:?}");
}

#[test]
fn changes_of_our_own_keys_are_pointed_out() {
    let mut bench = Bench::following(&[]);
    let revision = bench.put_value(b"/portolan/v1/hosts/own/session".to_vec(), br#"{"nonce":"n"}"#.to_vec());
    let changes = bench.pending();
    assert_eq!(bench.tell(changes), [Effect::Touched(revision)]);
}

#[test]
fn it_is_known_which_revision_another_host_waits_for() {
    let mut bench = Bench::following(&[A]);
    let session = |host: &str| format!("/portolan/v1/hosts/{host}/session").into_bytes();
    let value = |waits| record::encode_session(&Session { nonce: "n".into(), waits, ..Session::default() });
    let mut asked = |host: &str, waits| {
        let revision = bench.put_value(session(host), value(waits));
        let changes = bench.pending();
        bench.tell(changes);
        (bench.mirror.view().asked, revision)
    };
    assert_eq!(asked("other", None).0, 0);
    let (known, first) = asked("other", Some(1));
    assert_eq!(known, first);
    let (known, own) = asked("own", Some(4));
    assert_eq!(known, first, "not what we wait for ourselves: {own}");
    let (known, second) = asked("third", Some(1));
    assert_eq!(known, second);
    assert_eq!(asked("third", None).0, first);
    // Known from a list as well.
    bench.give(Input::Watched(WatchEvent::Compacted { revision: 1 }));
    assert_eq!((bench.mirror.view().asked, bench.lists), (first, 2));
    bench.write(Op::Delete { key: session("other") });
    let changes = bench.pending();
    bench.tell(changes);
    assert_eq!(bench.mirror.view().asked, 0, "a host that is gone waits for nobody");
}

#[test]
fn external_services_are_followed_as_hosts_are() {
    let key = b"/portolan/v1/external/global/redis".to_vec();
    let value = |text: &str| text.as_bytes().to_vec();
    let mut bench = Bench::new();
    bench.put_value(key.clone(), value(r#"{"cname":"a.example.com"}"#));
    bench.put(A);
    bench.give(Input::Tick);
    let known = |bench: &Bench| -> Vec<String> {
        let externals = bench.mirror.view().externals.iter();
        externals.map(|(name, external)| crate::registry::external::words(name, external)).collect()
    };
    assert_eq!((known(&bench), bench.known()), (vec!["redis cname=a.example.com".to_owned()], vec![A.to_owned()]));
    for (text, expected) in [
        (r#"{"addresses":[{"ip":"10.0.0.9","port":6379}]}"#, vec!["redis address=10.0.0.9:6379".to_owned()]),
        (r#"{"addresses":[{"ip":"127.0.0.1"}]}"#, vec![]),
        (r#"{"cname":"b.example.com"}"#, vec!["redis cname=b.example.com".to_owned()]),
    ] {
        bench.put_value(key.clone(), value(text));
        let changes = bench.pending();
        bench.tell(changes);
        assert_eq!(known(&bench), expected);
        assert_eq!(bench.mirror.view().problems.len(), usize::from(expected.is_empty()), "{text}");
    }
    bench.write(Op::Delete { key: key.clone() });
    let changes = bench.pending();
    bench.tell(changes);
    assert_eq!((known(&bench), bench.lists), (vec![], 1));
    // A lost change is found by the full compare.
    bench.put_value(key, value(r#"{"cname":"c.example.com"}"#));
    bench.tell(Vec::new());
    for _ in 0..40 {
        bench.pass(10);
    }
    assert_eq!(known(&bench), ["redis cname=c.example.com"]);
    assert_eq!(bench.mirror.status().repairs, 1);
    for stray in ["Global/redis", "redis", "a/b/c"] {
        bench.put_value(format!("/portolan/v1/external/{stray}").into_bytes(), value("{}"));
    }
    let changes = bench.pending();
    bench.tell(changes);
    assert_eq!(bench.mirror.view().problems.len(), 3, "keys that name nothing are shown");
    bench.put_value(b"/portolan/v1/filters/later".to_vec(), value("{}"));
    let changes = bench.pending();
    bench.tell(changes);
    assert_eq!(bench.mirror.view().problems.len(), 3, "between the two ranges lies what a later version may have");
}

#[test]
fn a_watch_that_ends_is_no_failure_and_a_try_that_fails_is_one_until_the_registry_is_followed_again() {
    let mut bench = Bench::following(&[A]);
    assert!(bench.mirror.is_following());
    bench.now += Duration::from_secs(60);
    let broken = |text: &str| Input::Watched(WatchEvent::Broken(text.into()));
    bench.mirror.handle(bench.now, broken("the member restarts"), &mut bench.rng);
    assert_eq!((bench.mirror.is_following(), &bench.mirror.status().failing), (false, &None));
    // Asked to watch again, and not answered: that is a failure, which lasts since etcd was last heard.
    bench.now += Duration::from_secs(1);
    let effects = bench.mirror.handle(bench.now, Input::Tick, &mut bench.rng);
    assert!(matches!(effects[..], [Effect::Watch(_)]), "{effects:?}");
    bench.mirror.handle(bench.now, broken("connection refused"), &mut bench.rng);
    let why = Why::Silent("connection refused".into());
    let failing = Failing { since: Duration::ZERO, last: bench.now, why };
    assert_eq!(bench.mirror.status().failing, Some(failing));
    bench.pass(3);
    assert_eq!((bench.mirror.is_following(), &bench.mirror.status().failing), (true, &None));
}

#[test]
fn a_watch_that_etcd_denies_is_a_refusal_and_is_asked_for_again() {
    let mut bench = Bench::following(&[A]);
    let over = |event: WatchEvent| Input::Watched(event);
    bench.mirror.handle(bench.now, over(WatchEvent::Broken("the member restarts".into())), &mut bench.rng);
    bench.now += Duration::from_secs(1);
    bench.mirror.handle(bench.now, Input::Tick, &mut bench.rng);
    bench.mirror.handle(bench.now, over(WatchEvent::Denied("permission denied".into())), &mut bench.rng);
    let why = bench.mirror.status().failing.as_ref().map(|failing| failing.why.clone());
    assert_eq!(why, Some(Why::Refused("permission denied".into())));
    bench.pass(3);
    assert_eq!((bench.mirror.is_following(), &bench.mirror.status().failing), (true, &None));
}
