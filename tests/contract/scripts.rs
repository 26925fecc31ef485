//! What we rely on, script by script: each step with the outcome that both the store in memory and etcd must give.

use portolan::registry::{
    call::{CallError, Change, Compare, Header, KeyValue, LeaseId, Op, OpReply, Reply, Request, Revision, WatchRange},
    memory::Space,
};

use crate::{
    both::{Outcome, Step, Subject, run},
    etcd::Cluster,
};

const NO_LEASE: LeaseId = LeaseId(0);
const LEASE: LeaseId = LeaseId(1);
const DEAD: LeaseId = LeaseId(77);

/// A script, with what each of its calls leads to and what its watches tell.
#[derive(Default)]
struct Script {
    steps: Vec<Step>,
    replies: Vec<Result<Reply, CallError>>,
    watches: Vec<Result<Vec<Vec<Change>>, CallError>>,
}

impl Script {
    fn call(mut self, request: Request, expected: Result<Reply, CallError>) -> Self {
        self.steps.push(Step::Call(request));
        self.replies.push(expected);
        self
    }

    /// A transaction without conditions that comes to `revision`.
    fn txn<const N: usize>(self, ops: [(Op, OpReply); N], revision: Revision) -> Self {
        let (then, replies): (Vec<_>, Vec<_>) = ops.into_iter().unzip();
        self.call(all(then), Ok(Reply::Txn { header: header(revision), succeeded: true, replies }))
    }

    fn refused<const N: usize>(self, ops: [Op; N], error: CallError) -> Self {
        self.call(all(ops.into()), Err(error))
    }

    fn granted(self, revision: Revision) -> Self {
        let reply = Reply::Granted { header: header(revision), lease: LEASE, ttl: 600 };
        self.call(Request::Grant { ttl: 600 }, Ok(reply))
    }

    fn compact(mut self, revision: Revision, expected: Result<(), CallError>) -> Self {
        self.steps.push(Step::Compact(revision));
        self.replies.push(expected.map(|()| Reply::Revoked { header: Header::default() }));
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Watches everything from `from` on. The harness writes a marker at once and one at the end.
    fn watch(mut self, from: Revision, expected: Result<Vec<Change>, CallError>) -> Self {
        self.steps.push(Step::Watch(vec![everything()], from));
        self.watches.push(expected.map(|changes| vec![changes]));
        self
    }

    /// Runs it against both.
    fn check(self) {
        let cluster = Cluster::single();
        let expected = Outcome { replies: self.replies, watches: self.watches };
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let model = run(&mut Subject::model(), "script/", &self.steps).await;
            let real = run(&mut Subject::real(&cluster).await, "script/", &self.steps).await;
            for (subject, outcome) in [("memory", model), ("etcd", real)] {
                for (index, (found, expected)) in outcome.replies.iter().zip(&expected.replies).enumerate() {
                    assert_eq!(found, expected, "call {index} to {subject}");
                }
                assert_eq!(outcome, expected, "{subject}");
            }
        });
    }
}

fn header(revision: Revision) -> Header {
    Header { cluster: 0, revision }
}

fn everything() -> WatchRange {
    WatchRange { start: vec![], end: vec![0] }
}

fn all(then: Vec<Op>) -> Request {
    Request::Txn { compare: vec![], then, otherwise: vec![] }
}

fn put(key: &str, value: &str) -> Op {
    put_under(key, value, NO_LEASE)
}

fn put_under(key: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

fn get(key: &str) -> Op {
    Op::Get { key: key.into() }
}

fn kv(key: &str, value: &str, create_revision: Revision, mod_revision: Revision) -> KeyValue {
    KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, lease: None }
}

fn got(key: &str, value: &str, create_revision: Revision, mod_revision: Revision) -> OpReply {
    OpReply::Got(Some(kv(key, value, create_revision, mod_revision)))
}

fn put_at(key: &str, value: &str, create_revision: Revision, mod_revision: Revision) -> Change {
    Change::Put(kv(key, value, create_revision, mod_revision))
}

fn deleted_at(key: &str, mod_revision: Revision) -> Change {
    Change::Delete { key: key.into(), mod_revision }
}

fn invalid() -> CallError {
    CallError::Invalid(String::new())
}

fn compare(conditions: &[(&str, Revision)], then: Vec<Op>, otherwise: Vec<Op>) -> Request {
    let condition = |(key, equal): &(&str, Revision)| Compare::ModRevision { key: (*key).into(), equal: *equal };
    Request::Txn { compare: conditions.iter().map(condition).collect(), then, otherwise }
}

fn page(start: &str, end: &str, limit: i64, revision: Option<Revision>) -> Request {
    Request::Range { start: start.into(), end: end.into(), limit, revision }
}

fn found(revision: Revision, kvs: Vec<KeyValue>, more: bool) -> Result<Reply, CallError> {
    Ok(Reply::Range { header: header(revision), kvs, more })
}

#[test]
fn the_revision_grows_with_changes_only() {
    Script::default()
        .txn([(get("a"), OpReply::Got(None))], 0)
        .txn([(delete("a"), OpReply::Deleted(0))], 0)
        .txn([], 0)
        .txn([(put("a", "1"), OpReply::Put)], 1)
        .txn([(put("a", "1"), OpReply::Put)], 2)
        .txn([(get("a"), got("a", "1", 1, 2))], 2)
        .txn([(delete("a"), OpReply::Deleted(1))], 3)
        .txn([(delete("a"), OpReply::Deleted(0))], 3)
        .txn([(put("a", ""), OpReply::Put)], 4)
        .txn([(get("a"), got("a", "", 4, 4))], 4)
        .check();
}

#[test]
fn operations_of_a_transaction_see_one_another_and_share_a_revision() {
    Script::default()
        .watch(
            1,
            Ok(vec![
                put_at("~", "", 1, 1),
                put_at("b", "1", 2, 2),
                put_at("a", "1", 2, 2),
                deleted_at("b", 3),
                put_at("c", "1", 3, 3),
                put_at("~", "", 1, 4),
            ]),
        )
        .txn([(put("b", "1"), OpReply::Put), (get("b"), got("b", "1", 2, 2)), (put("a", "1"), OpReply::Put)], 2)
        .txn(
            [
                (get("b"), got("b", "1", 2, 2)),
                (delete("b"), OpReply::Deleted(1)),
                (get("b"), OpReply::Got(None)),
                (delete("b"), OpReply::Deleted(0)),
                (put("c", "1"), OpReply::Put),
            ],
            3,
        )
        .check();
}

#[test]
fn conditions_choose_the_branch_and_an_absent_key_has_revision_0() {
    let chose = |revision, succeeded, replies| Ok(Reply::Txn { header: header(revision), succeeded, replies });
    Script::default()
        .call(compare(&[("a", 0)], vec![put("a", "1")], vec![get("a")]), chose(1, true, vec![OpReply::Put]))
        .call(compare(&[("a", 0)], vec![put("a", "2")], vec![get("a")]), chose(1, false, vec![got("a", "1", 1, 1)]))
        .call(compare(&[("a", 1), ("b", 0)], vec![put("a", "2")], vec![]), chose(2, true, vec![OpReply::Put]))
        .call(compare(&[("a", 2), ("b", 5)], vec![put("a", "3")], vec![]), chose(2, false, vec![]))
        .call(compare(&[("a", 1)], vec![], vec![delete("a")]), chose(3, false, vec![OpReply::Deleted(1)]))
        .call(compare(&[("a", 2)], vec![put("a", "4")], vec![]), chose(3, false, vec![]))
        .check();
}

#[test]
fn malformed_transactions_are_refused_as_a_whole() {
    let many = |count: usize| (0..count).map(|n| put(&format!("k{n:03}"), "")).collect::<Vec<_>>();
    let conditions = |count: usize| {
        let condition = |n: usize| Compare::ModRevision { key: format!("k{n}").into(), equal: 0 };
        Request::Txn { compare: (0..count).map(condition).collect(), then: vec![], otherwise: vec![] }
    };
    let puts = vec![OpReply::Put; 128];
    let nothing = |revision| Ok(Reply::Txn { header: header(revision), succeeded: true, replies: vec![] });
    Script::default()
        .refused([put("a", "1"), put("a", "2")], invalid())
        .refused([put("a", "1"), delete("a")], invalid())
        .refused([delete("a"), put("a", "1")], invalid())
        .call(compare(&[], vec![], vec![put("a", "1"), put("a", "2")]), Err(invalid()))
        .txn([(delete("a"), OpReply::Deleted(0)), (delete("a"), OpReply::Deleted(0))], 0)
        .call(all(many(129)), Err(invalid()))
        .call(compare(&[], vec![], many(129)), Err(invalid()))
        .call(conditions(129), Err(invalid()))
        .call(conditions(128), nothing(0))
        .call(all(many(128)), Ok(Reply::Txn { header: header(1), succeeded: true, replies: puts }))
        .txn([(get("a"), OpReply::Got(None))], 1)
        .check();
}

#[test]
fn a_request_holds_a_mebibyte_and_a_half() {
    let sized = |bytes: usize| put("a", &"x".repeat(bytes));
    Script::default()
        .txn([(sized(3 * 512 * 1024 - 4096), OpReply::Put)], 1)
        .refused([sized(3 * 512 * 1024 + 4096)], invalid())
        .refused([sized(900_000), put("b", &"x".repeat(900_000))], invalid())
        // Beyond what the server reads at all.
        .refused([sized(5 << 20)], invalid())
        .txn([(delete("a"), OpReply::Deleted(1))], 2)
        .check();
}

#[test]
fn a_lease_takes_its_keys_along_in_one_revision() {
    let on =
        |key: &str, revision, lease| Change::Put(KeyValue { lease: Some(lease), ..kv(key, "1", revision, revision) });
    Script::default()
        .granted(0)
        .watch(
            1,
            Ok(vec![
                put_at("~", "", 1, 1),
                on("c", 2, LEASE),
                on("a", 2, LEASE),
                on("b", 3, LEASE),
                put_at("b", "2", 3, 4),
                deleted_at("a", 5),
                deleted_at("c", 5),
                put_at("~", "", 1, 6),
            ]),
        )
        .txn([(put_under("c", "1", LEASE), OpReply::Put), (put_under("a", "1", LEASE), OpReply::Put)], 2)
        .txn([(put_under("b", "1", LEASE), OpReply::Put)], 3)
        // Put again without the lease, the key no longer hangs on it.
        .txn([(put("b", "2"), OpReply::Put)], 4)
        .call(Request::KeepAlive { lease: LEASE }, Ok(Reply::Alive { header: header(4), ttl: 600 }))
        .call(Request::Revoke { lease: LEASE }, Ok(Reply::Revoked { header: header(5) }))
        .call(Request::Revoke { lease: LEASE }, Err(CallError::LeaseNotFound))
        .call(Request::KeepAlive { lease: LEASE }, Ok(Reply::Alive { header: header(5), ttl: 0 }))
        .call(page("a", "z", 0, None), found(5, vec![kv("b", "2", 3, 4)], false))
        .check();
}

#[test]
fn nothing_is_put_under_a_lease_that_is_gone() {
    Script::default()
        .refused([put("a", "1"), put_under("b", "1", DEAD)], CallError::LeaseNotFound)
        .txn([(get("a"), OpReply::Got(None))], 0)
        // A branch that is not taken may name it.
        .call(
            compare(&[], vec![put("a", "1")], vec![put_under("b", "1", DEAD)]),
            Ok(Reply::Txn { header: header(1), succeeded: true, replies: vec![OpReply::Put] }),
        )
        .call(Request::Revoke { lease: DEAD }, Err(CallError::LeaseNotFound))
        .call(Request::KeepAlive { lease: DEAD }, Ok(Reply::Alive { header: header(1), ttl: 0 }))
        .granted(1)
        .call(Request::Revoke { lease: LEASE }, Ok(Reply::Revoked { header: header(1) }))
        .check();
}

#[test]
fn the_shortest_lease_is_2_seconds_and_expiry_deletes_like_revocation() {
    let on = |key: &str| Change::Put(KeyValue { lease: Some(LEASE), ..kv(key, "", 2, 2) });
    let granted = |ttl, lease| Ok(Reply::Granted { header: header(0), lease: LeaseId(lease), ttl });
    Script::default()
        .call(Request::Grant { ttl: 1 }, granted(2, 1))
        .call(Request::Grant { ttl: 9_000_000_000 }, granted(9_000_000_000, 2))
        .call(Request::Grant { ttl: 9_000_000_001 }, Err(invalid()))
        .call(Request::Revoke { lease: LeaseId(2) }, Ok(Reply::Revoked { header: header(0) }))
        .watch(
            1,
            Ok(vec![
                put_at("~", "", 1, 1),
                on("b"),
                on("a"),
                deleted_at("a", 3),
                deleted_at("b", 3),
                put_at("~", "", 1, 4),
            ]),
        )
        .txn([(put_under("b", "", LEASE), OpReply::Put), (put_under("a", "", LEASE), OpReply::Put)], 2)
        .step(Step::AwaitExpiry("a"))
        .call(Request::KeepAlive { lease: LEASE }, Ok(Reply::Alive { header: header(3), ttl: 0 }))
        .refused([put_under("a", "", LEASE)], CallError::LeaseNotFound)
        .check();
}

#[test]
fn a_range_is_paged_at_one_revision_while_the_store_goes_on() {
    let keys = |names: &[&str]| names.iter().map(|name| kv(name, "1", 1, 1)).collect::<Vec<_>>();
    let created = |name| (put(name, "1"), OpReply::Put);
    Script::default()
        .txn(["a", "b", "c", "d"].map(created), 1)
        .call(page("a", "d", 2, None), found(1, keys(&["a", "b"]), true))
        .txn([(put("b", "2"), OpReply::Put), (delete("c"), OpReply::Deleted(1)), (put("bb", "2"), OpReply::Put)], 2)
        .call(page("b\0", "d", 2, Some(1)), found(2, keys(&["c"]), false))
        .call(page("a", "d", 3, Some(1)), found(2, keys(&["a", "b", "c"]), false))
        .call(
            page("a", "d", 0, None),
            found(2, vec![kv("a", "1", 1, 1), kv("b", "2", 1, 2), kv("bb", "2", 2, 2)], false),
        )
        .call(page("c", "a", 0, None), found(2, vec![], false))
        .call(page("a", "a", 0, None), found(2, vec![], false))
        .call(page("d", "", 0, None), found(2, keys(&["d"]), false))
        .call(page("a", "d", 2, Some(3)), Err(invalid()))
        .check();
}

#[test]
fn what_has_been_compacted_cannot_be_read_or_watched() {
    Script::default()
        .txn([(put("a", "1"), OpReply::Put)], 1)
        .txn([(put("a", "2"), OpReply::Put)], 2)
        .txn([(put("a", "3"), OpReply::Put)], 3)
        .compact(4, Err(invalid()))
        .compact(2, Ok(()))
        .compact(2, Err(CallError::Compacted))
        .compact(1, Err(CallError::Compacted))
        .call(page("a", "b", 0, Some(1)), Err(CallError::Compacted))
        .call(page("a", "b", 0, Some(2)), found(3, vec![kv("a", "2", 1, 2)], false))
        .watch(1, Err(CallError::Compacted))
        .watch(3, Ok(vec![put_at("a", "3", 1, 3), put_at("~", "", 4, 4), put_at("~", "", 4, 5), put_at("~", "", 4, 6)]))
        .check();
}

#[test]
fn a_watch_that_keeps_up_does_not_notice_a_compaction() {
    Script::default()
        .watch(
            1,
            Ok(vec![put_at("~", "", 1, 1), put_at("a", "1", 2, 2), put_at("a", "2", 2, 3), put_at("~", "", 1, 4)]),
        )
        .txn([(put("a", "1"), OpReply::Put)], 2)
        .compact(2, Ok(()))
        .txn([(put("a", "2"), OpReply::Put)], 3)
        .check();
}

#[test]
fn one_watch_follows_several_ranges_and_nothing_between_them() {
    let range = |start: &str, end: &str| WatchRange { start: start.into(), end: end.into() };
    let mut script = Script::default()
        .txn([(put("a1", ""), OpReply::Put), (put("b1", ""), OpReply::Put), (put("c1", ""), OpReply::Put)], 1)
        .step(Step::Watch(vec![range("a", "b"), range("c", "d")], 1))
        .txn([(put("c2", ""), OpReply::Put), (put("b2", ""), OpReply::Put)], 3)
        .txn([(delete("a1"), OpReply::Deleted(1))], 4);
    let [a, c] = ["a~", "c~"];
    script.watches.push(Ok(vec![
        vec![put_at("a1", "", 1, 1), put_at(a, "", 2, 2), deleted_at("a1", 4), put_at(a, "", 2, 5)],
        vec![put_at("c1", "", 1, 1), put_at(c, "", 2, 2), put_at("c2", "", 3, 3), put_at(c, "", 2, 5)],
    ]));
    script.check();
}

#[test]
fn out_of_space_leases_live_on_and_end_but_nothing_is_put_or_granted() {
    Script::default()
        .granted(0)
        .txn([(put_under("a", "1", LEASE), OpReply::Put), (put("b", "1"), OpReply::Put)], 1)
        .step(Step::Space(Space::Exhausted))
        .refused([put("c", "1")], CallError::NoSpace)
        .call(compare(&[], vec![delete("b")], vec![put("c", "1")]), Err(CallError::NoSpace))
        .call(Request::Grant { ttl: 600 }, Err(CallError::NoSpace))
        .call(Request::KeepAlive { lease: LEASE }, Ok(Reply::Alive { header: header(1), ttl: 600 }))
        .txn([(get("b"), got("b", "1", 1, 1))], 1)
        // Fenced as the publisher does it, and under a fence that does not hold.
        .call(
            compare(&[("a", 1)], vec![delete("b")], vec![]),
            Ok(Reply::Txn { header: header(2), succeeded: true, replies: vec![OpReply::Deleted(1)] }),
        )
        .call(
            compare(&[("a", 2)], vec![delete("a")], vec![]),
            Ok(Reply::Txn { header: header(2), succeeded: false, replies: vec![] }),
        )
        .call(Request::Revoke { lease: LEASE }, Ok(Reply::Revoked { header: header(3) }))
        .call(page("a", "z", 0, None), found(3, vec![], false))
        .step(Step::Space(Space::Enough))
        .txn([(put("c", "1"), OpReply::Put)], 4)
        .check();
}
