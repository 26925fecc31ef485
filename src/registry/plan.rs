//! Wanted keys against stored ones → the transactions that make them equal. Pure, and empty when nothing differs (I8).
//!
//! Every transaction is fenced: it succeeds only while our session key is as we last wrote it, so that neither another
//! agent with our host id nor a transaction of ours that was thought lost can write behind our back.

use std::collections::BTreeMap;

use super::call::{Compare, LeaseId, Op, Request, Revision};

/// Most operations per transaction: etcd takes 128 (`--max-txn-ops`).
pub const MAX_OPS: usize = 128;
/// Most octets of values per transaction: etcd takes 1.5 MiB per request, keys and framing included.
pub const MAX_BYTES: usize = 1 << 20;

/// A key as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its value.
    pub value: Vec<u8>,
    /// The lease it hangs on; `None` for a key that would outlive us.
    pub lease: Option<LeaseId>,
}

/// The fence of every transaction: our session key and the revision that last wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The session key.
    pub key: Vec<u8>,
    /// Its revision.
    pub revision: Revision,
}

impl Fence {
    /// A transaction that runs only while the fence holds.
    pub fn guard(&self, then: Vec<Op>) -> Request {
        let compare = vec![Compare::ModRevision { key: self.key.clone(), equal: self.revision }];
        Request::Txn { compare, then, otherwise: Vec::new() }
    }
}

/// The operations of the next transaction, at most [`MAX_OPS`] and [`MAX_BYTES`]; empty when all is as wanted.
///
/// What must go goes first and by itself: a withdrawal is never delayed by a long write, and it still works when etcd
/// is out of space and takes no puts.
pub fn plan(wanted: &BTreeMap<Vec<u8>, &[u8]>, stored: &BTreeMap<Vec<u8>, Stored>, lease: LeaseId) -> Vec<Op> {
    let deletes = withdrawals(wanted, stored);
    if !deletes.is_empty() {
        return deletes;
    }
    let is_stored = |key: &Vec<u8>, value: &[u8]| {
        stored.get(key).is_some_and(|stored| stored.value == value && stored.lease == Some(lease))
    };
    let mut puts = Vec::new();
    let mut bytes = 0;
    for (key, value) in wanted.iter().filter(|(key, value)| !is_stored(key, value)) {
        bytes += key.len() + value.len();
        if puts.len() == MAX_OPS || (bytes > MAX_BYTES && !puts.is_empty()) {
            break;
        }
        puts.push(Op::Put { key: key.clone(), value: value.to_vec(), lease });
    }
    puts
}

/// Only what must go of it, at most [`MAX_OPS`].
pub fn withdrawals(wanted: &BTreeMap<Vec<u8>, &[u8]>, stored: &BTreeMap<Vec<u8>, Stored>) -> Vec<Op> {
    let gone = stored.keys().filter(|key| !wanted.contains_key(*key));
    gone.take(MAX_OPS).map(|key| Op::Delete { key: key.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: LeaseId = LeaseId(7);

    fn apply(stored: &mut BTreeMap<Vec<u8>, Stored>, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value, lease } => stored.insert(key, Stored { value, lease: Some(lease) }),
                Op::Delete { key } => stored.remove(&key),
                Op::Get { .. } => None,
            };
        }
    }

    fn keys() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
        prop::collection::btree_map(
            prop::collection::vec(0u8..4, 1..4),
            prop::collection::vec(any::<u8>(), 0..3),
            0..400,
        )
    }

    proptest! {
        #[test]
        fn carrying_plans_out_ends_with_what_is_wanted_and_then_plans_nothing(wanted in keys(), had in keys(), leases in any::<u64>()) {
            let mut stored: BTreeMap<_, _> = had.into_iter().enumerate().map(|(at, (key, value))| {
                let lease = match (leases >> (at % 32 * 2)) & 3 { 0 => None, 1 => Some(LeaseId(6)), _ => Some(LEASE) };
                (key, Stored { value, lease })
            }).collect();
            let wanted: BTreeMap<_, _> = wanted.iter().map(|(key, value)| (key.clone(), value.as_slice())).collect();
            for _ in 0..10 {
                let ops = plan(&wanted, &stored, LEASE);
                prop_assert!(ops.len() <= MAX_OPS);
                apply(&mut stored, ops);
            }
            prop_assert_eq!(plan(&wanted, &stored, LEASE), vec![]);
            let expected: BTreeMap<_, _> = wanted.into_iter().map(|(key, value)| (key, Stored { value: value.to_vec(), lease: Some(LEASE) })).collect();
            prop_assert_eq!(stored, expected);
        }
    }

    #[test]
    fn large_values_are_spread_over_transactions_and_one_too_large_for_company_goes_alone() {
        let value = vec![b'x'; MAX_BYTES / 2 + 1];
        let wanted = (0..3u8).map(|key| (vec![key], value.as_slice())).collect();
        assert_eq!(plan(&wanted, &BTreeMap::new(), LEASE).len(), 1);
    }
}
