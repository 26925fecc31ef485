//! What the contract suite cannot show: virtual time, the bounded history, lease ids. Everything that etcd does as well
//! is checked there, against both.

use super::*;

fn put(key: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease }
}

fn txn(ops: Vec<Op>) -> Request {
    Request::Txn { compare: Vec::new(), then: ops, otherwise: Vec::new() }
}

fn grant(store: &mut Store, now: Duration, ttl: i64) -> LeaseId {
    match store.call(now, &Request::Grant { ttl }) {
        Ok(Reply::Granted { lease, .. }) => lease,
        other => panic!("not granted: {other:?}"),
    }
}

fn everything() -> [WatchRange; 1] {
    [WatchRange { start: vec![1], end: vec![0] }]
}

const NOW: Duration = Duration::ZERO;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn leases_expire_at_their_time_in_order_and_each_in_one_revision() {
    let mut store = Store::new(7);
    let long = grant(&mut store, NOW, 30);
    let short = grant(&mut store, NOW, 10);
    store.call(NOW, &txn(vec![put("b", "", short), put("a", "", short), put("c", "", long)])).unwrap();
    assert_eq!(store.next_expiry(), Some(at(10)));

    store.expire(at(9));
    assert_eq!(store.revision(), 2, "nothing happens early");
    store.expire(at(60));
    let deleted = |key: &str, mod_revision| Change::Delete { key: key.into(), mod_revision };
    assert_eq!(store.changes_since(3, &everything()).unwrap(), vec![deleted("a", 3), deleted("b", 3), deleted("c", 4)]);
    assert_eq!(store.next_expiry(), None);
    assert_eq!(
        store.call(at(60), &Request::KeepAlive { lease: short }),
        Ok(Reply::Alive { header: Header { cluster: 7, revision: 4 }, ttl: 0 })
    );
}

#[test]
fn a_keep_alive_moves_the_expiry_and_one_that_comes_too_late_does_not() {
    let mut store = Store::new(7);
    let lease = grant(&mut store, NOW, 10);
    let alive = |store: &mut Store, now| match store.call(now, &Request::KeepAlive { lease }) {
        Ok(Reply::Alive { ttl, .. }) => ttl,
        other => panic!("no keep-alive: {other:?}"),
    };
    assert_eq!(alive(&mut store, at(9)), 10);
    assert_eq!(store.next_expiry(), Some(at(19)));
    assert_eq!(alive(&mut store, at(19)), 0);
}

#[test]
fn a_key_put_anew_under_another_lease_outlives_the_first() {
    let mut store = Store::new(7);
    let first = grant(&mut store, NOW, 10);
    let second = grant(&mut store, NOW, 20);
    store.call(NOW, &txn(vec![put("a", "", first)])).unwrap();
    store.call(NOW, &txn(vec![put("a", "", second)])).unwrap();
    store.expire(at(10));
    assert_eq!(store.revision(), 3, "the first lease had nothing left to delete");
    store.expire(at(20));
    assert_eq!(store.revision(), 4);
}

#[test]
fn the_embedded_store_forgets_its_oldest_revisions_and_says_so() {
    let mut store = Store::embedded(7);
    for n in 0..EMBEDDED_HISTORY + 9 {
        store.call(NOW, &txn(vec![put("a", &n.to_string(), LeaseId(0))])).unwrap();
    }
    let oldest = store.compacted();
    assert_eq!(store.revision() - oldest + 1, EMBEDDED_HISTORY as i64);
    assert_eq!(store.changes_since(oldest - 1, &everything()), Err(CallError::Compacted));
    assert_eq!(store.changes_since(oldest, &everything()).unwrap().len(), EMBEDDED_HISTORY);
}

#[test]
fn a_restored_store_goes_back_but_its_leases_begin_anew_and_none_comes_twice() {
    let mut store = Store::new(7);
    let kept = grant(&mut store, NOW, 10);
    store.call(NOW, &txn(vec![put("a", "1", kept)])).unwrap();
    let backup = store.clone();
    let lost = grant(&mut store, NOW, 60);
    store.call(NOW, &txn(vec![put("a", "2", lost)])).unwrap();
    store.restore(backup.clone(), at(20));
    assert_eq!((store.header(), store.next_expiry()), (backup.header(), Some(at(30))));
    assert!(![kept, lost].contains(&grant(&mut store, at(20), 60)));
    store.expire(at(30));
    assert_eq!(
        store.call(at(30), &Request::KeepAlive { lease: lost }).map(|reply| match reply {
            Reply::Alive { ttl, .. } => ttl,
            _ => -1,
        }),
        Ok(0)
    );
    assert_eq!(store.revision(), backup.revision() + 1, "what hung on the lease has gone with it");
}

/// Found by seed 2102 of the simulation: one host kept another's lease alive, and with it a session that nobody had.
#[test]
fn no_lease_comes_twice_where_a_backup_is_restored_into_a_cluster_that_was_set_up_anew() {
    let mut store = Store::new(7);
    let backup = store.clone();
    let lost = grant(&mut store, NOW, 60);
    let mut store = store.set_up_anew(8);
    store.restore(backup, at(20));
    assert_ne!(grant(&mut store, at(20), 60), lost);
}

#[test]
fn lease_ids_of_different_clusters_differ() {
    for cluster in [0, 1, u64::MAX, 1 << 38] {
        let (mut one, mut other) = (Store::new(cluster), Store::new(cluster.wrapping_add(1)));
        let (one, other) = (grant(&mut one, NOW, 9), grant(&mut other, NOW, 9));
        assert!(one.0 > 0 && other.0 > 0);
        assert_ne!(one, other, "{cluster}");
    }
}

#[test]
fn no_sequence_of_requests_leaves_a_lease_and_its_keys_apart() {
    use proptest::prelude::*;
    let step = (0..6u8, 0..5u8, 0..4usize, 0..4u64);
    let script = proptest::collection::vec(step, 1..60);
    proptest!(|(script in script)| {
        let mut store = Store::new(1);
        let (mut now, mut leases) = (NOW, vec![LeaseId(0)]);
        for (what, key, lease, wait) in script {
            now += at(wait);
            let lease = leases[lease % leases.len()];
            let key = vec![b'a' + key];
            let request = match what {
                0 => Request::Grant { ttl: 3 },
                1 => Request::KeepAlive { lease },
                2 => Request::Revoke { lease },
                3 => txn(vec![Op::Delete { key }]),
                _ => txn(vec![Op::Put { key, value: vec![what], lease }]),
            };
            let before = store.revision();
            if let Ok(Reply::Granted { lease, .. }) = store.call(now, &request) {
                leases.push(lease);
            }
            prop_assert!(store.revision() >= before);
            let mut held = BTreeSet::new();
            for (id, lease) in &store.leases {
                prop_assert!(lease.expires > now);
                prop_assert!(store.deadlines.contains(&(lease.expires, *id)));
                held.extend(lease.keys.iter().map(|key| (key.to_vec(), *id)));
            }
            prop_assert_eq!(store.deadlines.len(), store.leases.len());
            let keys = &store.present().keys;
            let hanging: BTreeSet<_> = keys.values().filter_map(|kv| Some((kv.key.clone(), kv.lease?))).collect();
            prop_assert_eq!(hanging, held);
        }
    });
}
