use std::sync::Arc;

use super::*;
use crate::model::{Host, HostId, Origin};

/// A journal, fed once per second with what a script says.
struct Bench {
    journal: Journal,
    mirror: mirror::Status,
    following: Following,
    view: View,
    writing: Option<(Failing, usize)>,
    now: u64,
    /// When an entry came, in seconds, and what it was.
    entries: Vec<(u64, Entry)>,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn silent(text: &str) -> Why {
    Why::Silent(text.into())
}

impl Bench {
    fn new() -> Self {
        Self {
            journal: Journal::default(),
            mirror: mirror::Status::default(),
            following: Following::No,
            view: View::default(),
            writing: None,
            now: 0,
            entries: Vec::new(),
        }
    }

    /// Lets so many seconds pass. What fails fails every second.
    fn run(&mut self, time: u64) -> &mut Self {
        for _ in 0..time {
            self.now += 1;
            let now = seconds(self.now);
            self.mirror.failing.iter_mut().for_each(|failing| failing.last = now);
            self.writing.iter_mut().for_each(|(failing, _)| failing.last = now);
            let writing = self.writing.as_ref().map(|(failing, published)| (failing, *published));
            let entries = self.journal.take(now, (&self.mirror, self.following, &self.view), writing);
            self.entries.extend(entries.into_iter().map(|entry| (self.now, entry)));
        }
        self
    }

    /// From the next second on the registry cannot be read.
    fn unread(&mut self, why: Why) -> &mut Self {
        let now = seconds(self.now + 1);
        self.mirror.failing = Some(Failing { since: now, last: now, why });
        self.following = Following::No;
        self
    }

    /// Listed and watched from the next second on.
    fn read(&mut self) -> &mut Self {
        self.mirror.failing = None;
        self.following = Following::Yes;
        let host = (Origin::Registry(HostId::parse("b").unwrap()), Arc::new(Host::default()));
        self.view =
            View { listed: true, cluster: 7, revision: 12, hosts: [host].into_iter().collect(), ..View::default() };
        self
    }

    /// From the next second on writes fail, of a host that has written so many records before.
    fn unwritten(&mut self, why: Why, published: usize) -> &mut Self {
        let now = seconds(self.now + 1);
        self.writing = Some((Failing { since: now, last: now, why }, published));
        self
    }

    fn take(&mut self) -> Vec<(u64, Entry)> {
        std::mem::take(&mut self.entries)
    }
}

fn reached(away: Option<u64>, again: bool) -> Entry {
    Entry::Reached(Reached { cluster: 7, revision: 12, hosts: 1, instances: 0, away: away.map(seconds), again })
}

fn unreachable(why: Why, meaning: Meaning, lasted: u64) -> Entry {
    Entry::Unreachable(Trouble { why, meaning, lasted: seconds(lasted) })
}

fn unwritten(why: Why, meaning: Meaning, lasted: u64) -> Entry {
    Entry::Unwritten(Trouble { why, meaning, lasted: seconds(lasted) })
}

#[test]
fn a_registry_that_answers_is_told_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(1).read().run(1000).take(), [(2, reached(None, false))]);
    assert_eq!(bench.journal.problem(String::new), None);
}

#[test]
fn an_outage_at_the_start_is_told_at_once_and_again_and_so_is_its_end() {
    let mut bench = Bench::new();
    let why = silent("connection refused");
    let told = |lasted| unreachable(why.clone(), Meaning::OthersUnknown, lasted);
    bench.unread(why.clone()).run(700);
    assert_eq!(bench.take(), [(1, told(0)), (61, told(60)), (661, told(660))]);
    assert_eq!(bench.journal.was_never_reached(), Some("connection refused"));
    assert_eq!(bench.read().run(1000).take(), [(701, reached(Some(700), false))]);
    assert_eq!(bench.journal.was_never_reached(), None);
}

#[test]
fn a_later_outage_says_that_names_stay_and_the_registry_is_back_after_it() {
    let mut bench = Bench::new();
    bench.read().run(1).take();
    bench.unread(silent("no reply")).run(20);
    assert_eq!(bench.take(), [(2, unreachable(silent("no reply"), Meaning::AsLastSeen, 0))], "one line for 20 s");
    assert_eq!(bench.journal.was_never_reached(), None, "leaving may wait for it");
    assert_eq!(bench.read().run(1).take(), [(22, reached(Some(20), true))]);
}

#[test]
fn an_outage_that_turns_out_to_be_a_refusal_is_told_once_more_and_not_each_time() {
    let mut bench = Bench::new();
    bench.read().run(1).take();
    let denied = || Why::Refused("etcd denied the call".into());
    bench.unread(silent("connection refused")).run(5).unread(denied()).run(5);
    let told = [
        (2, unreachable(silent("connection refused"), Meaning::AsLastSeen, 0)),
        (7, unreachable(denied(), Meaning::AsLastSeen, 5)),
    ];
    assert_eq!(bench.take(), told);
    bench.unread(silent("connection refused")).run(5).unread(denied()).run(5);
    assert_eq!(bench.take(), [], "a cluster of which one member is away tells of either");
    assert_eq!(bench.read().run(1).take(), [(22, reached(Some(20), true))]);
    assert_eq!(bench.unread(denied()).run(1).take(), [(23, unreachable(denied(), Meaning::AsLastSeen, 0))]);
}

#[test]
fn a_list_that_is_overtaken_is_told_when_that_goes_on() {
    let why = Why::Overtaken("the revision has been compacted".into());
    let mut bench = Bench::new();
    assert_eq!(bench.unread(why.clone()).run(9).take(), []);
    assert_eq!(bench.read().run(1).take(), [(10, reached(None, false))], "it was no outage");
    bench.unread(why.clone()).run(20);
    assert_eq!(bench.take(), [(21, unreachable(why, Meaning::AsLastSeen, 10))]);
}

#[test]
fn of_reading_and_writing_that_fail_alike_only_reading_is_told() {
    let mut bench = Bench::new();
    bench.read().run(1).take();
    // The publisher notices first.
    bench.unwritten(silent("no reply"), 3).run(8).unread(silent("no reply")).run(30);
    assert_eq!(bench.take(), [(10, unreachable(silent("no reply"), Meaning::AsLastSeen, 0))]);
    // The mirror is back first; the publisher tries once more in vain.
    bench.read().run(4);
    assert_eq!(bench.take(), [(40, reached(Some(30), true))]);
    bench.writing = None;
    assert_eq!(bench.run(1000).take(), []);
}

#[test]
fn writes_that_fail_alone_are_told_with_what_they_mean() {
    let denied = Why::Refused("permission denied".into());
    let mut bench = Bench::new();
    bench.read().run(1).take();
    bench.unwritten(denied.clone(), 0).run(100);
    let told = |lasted| unwritten(denied.clone(), Meaning::OwnUnknown, lasted);
    assert_eq!(bench.take(), [(3, told(1)), (63, told(61))]);
    let problem = bench.journal.problem(|| "http://etcd:2379".into()).expect("a problem");
    assert_eq!((&*problem.place, &*problem.found), ("--etcd-endpoints http://etcd:2379", "permission denied"));
    bench.writing = None;
    assert_eq!(bench.run(1).take(), [(102, Entry::Written(seconds(100)))]);
    assert_eq!(bench.journal.problem(String::new), None);

    // Where etcd is silent, the mirror gets the time to notice.
    bench.unwritten(silent("no reply"), 2).run(12);
    assert_eq!(bench.take(), [(113, unwritten(silent("no reply"), Meaning::OwnAsLastWritten, 10))]);
}

#[test]
fn a_problem_keeps_the_whole_reason_and_says_what_holds_meanwhile() {
    let long = format!("etcd is unreachable: {}: connection refused", "http://10.0.0.1:2379: no reply; ".repeat(3));
    let mut bench = Bench::new();
    bench.unread(silent(&long)).run(1);
    let problem = bench.journal.problem(|| "http://10.0.0.1:2379".into()).expect("a problem");
    assert_eq!(problem.found, long);
    assert!(problem.expected.contains("not known yet"), "{}", problem.expected);
    bench.read().run(1).unread(silent("no reply")).run(1);
    let problem = bench.journal.problem(|| "http://10.0.0.1:2379".into()).expect("a problem");
    assert!(problem.expected.contains("as last seen"), "{}", problem.expected);
}
