//! What etcd lacks, once it has gone back or is another one.

use super::*;

impl Bench {
    fn put_session(&mut self, waits: Option<u64>) {
        let session = Session { nonce: "n".into(), waits, ..Session::default() };
        self.put_value(b"/portolan/v1/hosts/other/session".to_vec(), record::encode_session(&session));
    }

    fn tell_all(&mut self) {
        let changes = self.pending();
        self.tell(changes);
    }

    /// Another etcd stands where ours was, and is believed.
    fn replace(&mut self, store: Store) {
        self.store = store;
        self.watching = None;
        self.mirror.handle(self.now, Input::Watched(WatchEvent::Broken("gone".into())), &mut self.rng);
        for _ in 0..20 {
            self.pass(1);
            assert_eq!(self.known(), [A, B]);
        }
        assert_eq!(self.mirror.view().revision, self.store.revision());
    }

    /// A new and empty etcd stands where ours was.
    fn replace_with_nothing(&mut self) {
        self.store = Store::new(8);
        self.watching = None;
        self.mirror.handle(self.now, Input::Watched(WatchEvent::Broken("gone".into())), &mut self.rng);
        for _ in 0..20 {
            self.pass(1);
        }
        assert_eq!(self.mirror.view().cluster, 8);
    }

    /// A and B are followed, and etcd is restored from a backup that has A.
    fn gone_back() -> Self {
        let mut bench = Self::new();
        bench.put_session(None);
        bench.put(A);
        bench.give(Input::Tick);
        let backup = bench.store.clone();
        bench.put(B);
        bench.tell_all();
        bench.replace(backup);
        bench
    }

    /// Lets time pass in which etcd is heard.
    fn listen(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let header = self.store.header();
            self.give(Input::Watched(WatchEvent::Progress { header }));
        }
    }

    fn held(&self) -> usize {
        self.mirror.held().count()
    }
}

#[test]
fn what_a_restored_backup_lacks_is_answered_until_its_host_has_written_it_again() {
    let mut bench = Bench::gone_back();
    assert_eq!(bench.held(), 1);
    bench.put_session(None);
    bench.tell_all();
    assert_eq!(bench.known(), [A, B], "the session comes first");
    bench.put(B);
    bench.tell_all();
    assert_eq!((bench.known(), bench.held()), (vec![A.to_string(), B.to_string()], 0));
    bench.listen(60);
    assert_eq!(bench.known(), [A, B]);
    bench.write(Op::Delete { key: Bench::key(B) });
    bench.tell_all();
    assert_eq!(bench.known(), [A], "from now on etcd counts");
}

#[test]
fn what_its_host_does_not_write_again_goes_once_it_has_been_heard() {
    let mut bench = Bench::gone_back();
    bench.put_session(None);
    bench.tell_all();
    bench.listen(4);
    assert_eq!(bench.known(), [A, B]);
    let revision = bench.mirror.view().revision;
    bench.listen(1);
    assert_eq!((bench.known(), bench.mirror.view().revision), (vec![A.to_string()], revision));
}

#[test]
fn a_session_that_waits_for_a_drain_says_that_all_has_been_said() {
    let mut bench = Bench::gone_back();
    bench.put_session(Some(1));
    bench.tell_all();
    assert_eq!(bench.known(), [A]);
}

#[test]
fn a_host_that_leaves_or_whose_lease_ends_takes_along_what_is_held_of_it() {
    let mut bench = Bench::gone_back();
    for key in [b"/portolan/v1/hosts/other/session".to_vec(), Bench::key(A)] {
        bench.write(Op::Delete { key });
    }
    bench.tell_all();
    assert_eq!(bench.known(), Vec::<String>::new());
}

#[test]
fn hosts_of_a_new_and_empty_etcd_that_say_nothing_are_answered_for_as_long_as_crashed_ones() {
    let mut bench = Bench::following(&[A, B]);
    bench.replace(Store::new(8));
    assert_eq!(bench.held(), 2);
    // It was believed at once, 20 s ago or a little less.
    bench.listen(8);
    assert_eq!(bench.known(), [A, B]);
    bench.listen(3);
    assert_eq!((bench.known(), bench.held()), (Vec::new(), 0));
}

#[test]
fn an_etcd_that_goes_away_again_or_is_listed_anew_empties_nothing() {
    let mut bench = Bench::gone_back();
    bench.give(Input::Watched(WatchEvent::Compacted { revision: 1 }));
    assert_eq!((bench.known(), bench.held()), (vec![A.to_string(), B.to_string()], 1));
    bench.watching = None;
    bench.mirror.handle(bench.now, Input::Watched(WatchEvent::Broken("gone".into())), &mut bench.rng);
    for _ in 0..100 {
        bench.now += Duration::from_secs(1);
        for effect in bench.mirror.handle(bench.now, Input::Tick, &mut bench.rng) {
            if let Effect::Watch(_) = effect {
                let broken = Input::Watched(WatchEvent::Broken("gone".into()));
                bench.mirror.handle(bench.now, broken, &mut bench.rng);
            }
        }
    }
    assert_eq!(bench.known(), [A, B]);
    bench.pass(3);
    assert_eq!(bench.known(), [A, B], "it has just come back");
    bench.listen(5);
    assert_eq!(bench.known(), [A]);
}

#[test]
fn a_host_that_wrote_while_we_listed_anew_is_heard() {
    let mut bench = Bench::gone_back();
    bench.put_session(None);
    bench.give(Input::Watched(WatchEvent::Compacted { revision: 1 }));
    assert_eq!((bench.known(), bench.held()), (vec![A.to_string(), B.to_string()], 1));
    bench.listen(6);
    assert_eq!(bench.known(), [A]);
}

/// Each of its watches lives for 4 s: none as long as a host has to be heard.
#[test]
fn an_etcd_that_comes_and_goes_all_the_time_keeps_nothing_for_ever() {
    let mut bench = Bench::gone_back();
    let mut seconds = 0;
    while bench.held() > 0 {
        bench.listen(4);
        bench.watching = None;
        bench.mirror.handle(bench.now, Input::Watched(WatchEvent::Broken("gone".into())), &mut bench.rng);
        bench.pass(2);
        seconds += 6;
        assert!(seconds < 120, "{:?}", bench.known());
    }
    assert!(seconds > 30, "{seconds} s");
    assert_eq!(bench.known(), [A]);
}

#[test]
fn what_etcd_lacks_of_our_own_is_not_held_for_docker_tells_what_lives_here() {
    let mut bench = Bench::following(&[A]);
    let own = b"/portolan/v1/hosts/own/instances/cccccccccccc".to_vec();
    bench.put_value(own, encode(&publication("cccccccccccc")));
    bench.tell_all();
    bench.replace_with_nothing();
    assert_eq!((bench.known(), bench.held()), (vec![A.to_string()], 1));
}

/// Echoes make revisions, too, and nobody's catalog is changed by them.
#[test]
fn an_etcd_that_went_back_and_is_past_the_catalogs_revision_again_is_known_by_our_own_last_write() {
    let mut bench = Bench::new();
    bench.put(A);
    bench.give(Input::Tick);
    let mut backup = bench.store.clone();
    bench.put(B);
    bench.tell_all();
    let echo = |store: &mut Store| {
        let put = Op::Put { key: b"/portolan/v1/echo/own".to_vec(), value: b"n".to_vec(), lease: LeaseId(0) };
        let request = Request::Txn { compare: Vec::new(), then: vec![put], otherwise: Vec::new() };
        store.call(Duration::ZERO, &request).unwrap();
        store.revision()
    };
    let echoed = (0..9).map(|_| echo(&mut bench.store)).last().unwrap();
    bench.give(Input::Echoed(echoed));
    bench.tell_all();
    while backup.revision() <= bench.mirror.view().revision {
        echo(&mut backup);
    }
    bench.replace(backup);
    assert_eq!((bench.mirror.status().relists, bench.held()), (2, 1));
    bench.listen(30);
    assert_eq!(bench.known(), [A]);
}
