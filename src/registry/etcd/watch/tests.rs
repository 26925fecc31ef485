//! What a real etcd cannot be made to say on demand: pieces, refusals and nonsense.

use etcd_client::proto::{PbKeyValue, PbResponseHeader};

use super::*;

const HEADER: Header = Header { cluster: 7, revision: 90 };

fn response(watch_id: i64) -> PbWatchResponse {
    let header = PbResponseHeader { cluster_id: 7, revision: 90, ..Default::default() };
    PbWatchResponse { header: Some(header), watch_id, ..Default::default() }
}

fn created(watch_id: i64) -> PbWatchResponse {
    PbWatchResponse { created: true, ..response(watch_id) }
}

/// A response of deletions of `key` at `revisions`.
fn deletions(watch_id: i64, key: &str, revisions: &[i64]) -> PbWatchResponse {
    let event = |mod_revision: &i64| PbEvent {
        r#type: 1,
        kv: Some(PbKeyValue { key: key.into(), mod_revision: *mod_revision, ..Default::default() }),
        prev_kv: None,
    };
    PbWatchResponse { events: revisions.iter().map(event).collect(), ..response(watch_id) }
}

fn changes(key: &str, revisions: &[i64]) -> WatchEvent {
    let change = |mod_revision: &i64| Change::Delete { key: key.into(), mod_revision: *mod_revision };
    WatchEvent::Changes { header: HEADER, changes: revisions.iter().map(change).collect() }
}

fn watching(ranges: usize) -> Assembly {
    let mut assembly = Assembly::new(ranges);
    for id in 1..=ranges {
        assembly.take(created(id as i64)).unwrap();
    }
    assembly
}

#[test]
fn a_watch_is_created_when_all_its_ranges_are_and_changes_wait_for_that() {
    let mut assembly = Assembly::new(2);
    assert_eq!(assembly.take(created(1)), Ok(vec![]));
    assert_eq!(assembly.take(deletions(1, "a", &[5])), Ok(vec![]));
    assert_eq!(assembly.take(created(2)), Ok(vec![WatchEvent::Created { header: HEADER }, changes("a", &[5])]));
    assert_eq!(assembly.take(deletions(2, "b", &[5])), Ok(vec![changes("b", &[5])]));
}

#[test]
fn pieces_are_put_together_before_anyone_sees_them() {
    let mut assembly = watching(2);
    let piece = |revisions| PbWatchResponse { fragment: true, ..deletions(1, "a", revisions) };
    assert_eq!(assembly.take(piece(&[5, 6])), Ok(vec![]));
    assert_eq!(assembly.take(deletions(2, "b", &[9])), Ok(vec![changes("b", &[9])]));
    assert_eq!(assembly.take(piece(&[6])), Ok(vec![]));
    assert_eq!(assembly.take(deletions(1, "a", &[6, 7])), Ok(vec![changes("a", &[5, 6, 6, 6, 7])]));
}

#[test]
fn progress_is_passed_on_one_round_late() {
    let mut assembly = watching(1);
    assert_eq!(assembly.take(response(-1)), Ok(vec![]));
    assert_eq!(assembly.take(deletions(1, "a", &[91])), Ok(vec![changes("a", &[91])]));
    assert_eq!(assembly.take(response(-1)), Ok(vec![WatchEvent::Progress { header: HEADER }]));
}

#[test]
fn each_refusal_and_each_nonsense_ends_the_watch_with_its_reason() {
    let canceled = |reason: &str| PbWatchResponse {
        canceled: true,
        created: true,
        watch_id: -1,
        cancel_reason: reason.into(),
        ..response(1)
    };
    let broken = |reason: &str| End::Broken(reason.into());
    let token = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    let table = [
        // As etcd does it: no reason, and a header without a revision.
        (PbWatchResponse { compact_revision: 8, header: None, canceled: true, ..response(1) }, End::Compacted(8)),
        (canceled(token), End::Token(token.into())),
        // A version of 3.4 puts it so to a watch without a token.
        (
            canceled("rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
            End::Token("rpc error: code = InvalidArgument desc = etcdserver: user name is empty".into()),
        ),
        (canceled("etcdserver: permission denied"), End::Denied("etcdserver: permission denied".into())),
        (canceled(""), broken("etcd canceled the watch without a reason")),
        (PbWatchResponse { header: None, ..deletions(1, "a", &[9]) }, broken("a response without a header")),
        (created(4), broken("a response to watch 4, which is not ours")),
        (created(0), broken("a response to watch 0, which is not ours")),
        (deletions(i64::MIN, "a", &[9]), broken(&format!("a response to watch {}, which is not ours", i64::MIN))),
        (deletions(1, "a", &[9, 8]), broken("the watch went back from revision 9 to 8")),
        (deletions(1, "a", &[5]), broken("the watch went back from revision 5 to 5")),
        (PbWatchResponse { events: vec![PbEvent::default()], ..response(1) }, broken("a change without a key")),
        (
            PbWatchResponse {
                events: vec![PbEvent { r#type: 7, kv: Some(PbKeyValue::default()), prev_kv: None }],
                ..response(1)
            },
            broken("a change of unknown type 7"),
        ),
    ];
    for (response, expected) in table {
        let mut assembly = watching(2);
        assembly.take(deletions(1, "a", &[5])).unwrap();
        assert_eq!(assembly.take(response.clone()), Err(expected), "{response:?}");
    }
}
