//! etcd's store for the calls of [`call`](super::call), in memory: pure, and in virtual time.
//!
//! In comes a [`Request`] and the time, out goes what etcd 3.4 would reply. It serves twice: as the registry of a single
//! host, and as the etcd of the simulation. The suite in `tests/contract` runs the same scripts here and against a real
//! etcd, so this file may be read as the list of what we rely on:
//!
//! - The revision starts at 1 and grows by one with every transaction that changes something. One that only reads, or
//!   deletes only what is absent, leaves it.
//! - A transaction happens as a whole. Its operations see one another, and what it writes shares one revision.
//! - A lease that ends, revoked or expired, takes its keys along in one revision, in the order of their names.
//! - Older revisions stay readable until they are compacted away.
//! - Out of space, nothing is put or granted, but keep-alives, deletes and revocations go on.
//!
//! History costs little: each revision keeps its own map of all keys, and the maps share their structure.
//!
//! Deliberately absent: users, members and elections, and the raft log. Expiry is exact: real etcd ends a lease within
//! about a second of its time, here it is gone at that very instant.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;

use super::call::{
    CallError, Change, Compare, Header, KeyValue, LeaseId, Op, OpReply, Reply, Request, Revision, WatchRange,
};

#[cfg(test)]
mod tests;

/// Most operations, and most conditions, of one transaction (etcd's `--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 128;

/// Largest request in bytes (etcd's `--max-request-bytes`).
pub const MAX_REQUEST_BYTES: usize = 3 * 512 * 1024;

/// Shortest lease in seconds: one and a half elections of one second, rounded up.
pub const MIN_TTL: i64 = 2;

/// Longest lease in seconds that etcd grants.
pub const MAX_TTL: i64 = 9_000_000_000;

/// How many revisions the embedded registry keeps. Its only reader is in the same process and follows at once; a
/// revision costs a few KiB of copied map nodes, so this is a few MiB and minutes of heavy churn.
pub const EMBEDDED_HISTORY: usize = 1_000;

/// What a request weighs beside its keys and values, per condition or operation: tags, lengths, a lease, a revision.
const OP_OVERHEAD: usize = 32;

/// A key; shared by all the maps and sets that hold it.
type Key = Arc<[u8]>;

/// All keys as of one revision.
type Keys = OrdMap<Key, Arc<KeyValue>>;

/// The store. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Store {
    cluster: u64,
    /// One for each revision that can still be read, without gaps; never empty, the last is the present.
    commits: VecDeque<Commit>,
    /// The revision last compacted at; 0: never.
    compacted: Revision,
    /// How many commits are kept.
    history: usize,
    leases: BTreeMap<LeaseId, Lease>,
    /// The leases by the time they expire.
    deadlines: BTreeSet<(Duration, LeaseId)>,
    granted: i64,
    space: Space,
}

/// One revision.
#[derive(Clone, Debug)]
struct Commit {
    revision: Revision,
    /// As they are after it.
    keys: Keys,
    /// What it wrote, in order; `None`: deleted.
    writes: Vec<(Key, Option<Arc<KeyValue>>)>,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: i64,
    expires: Duration,
    keys: BTreeSet<Key>,
}

/// Whether the NOSPACE alarm is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It is not.
    Enough,
    /// It is raised by the next put or grant, which is carried out and refused: etcd looks at its quota before it
    /// proposes, and again when it applies (the contract suite shows it).
    Ending,
    /// It is: puts and grants fail.
    Exhausted,
}

impl Store {
    /// An empty store at revision 1 that keeps its whole history, as an etcd without auto-compaction does.
    pub fn new(cluster: u64) -> Self {
        Self::with_history(cluster, usize::MAX)
    }

    /// An empty store in the place of this one, as an etcd whose data were lost and that was set up anew. No lease's id is
    /// given twice all the same, not even after a restore of the former one: an id of etcd's holds the time.
    #[must_use]
    pub fn set_up_anew(&self, cluster: u64) -> Self {
        Self { granted: self.granted, ..Self::new(cluster) }
    }

    /// An empty store for the registry of a single host: it keeps the last [`EMBEDDED_HISTORY`] revisions.
    pub fn embedded(cluster: u64) -> Self {
        Self::with_history(cluster, EMBEDDED_HISTORY)
    }

    fn with_history(cluster: u64, history: usize) -> Self {
        let beginning = Commit { revision: 1, keys: Keys::new(), writes: Vec::new() };
        Self {
            cluster,
            commits: VecDeque::from([beginning]),
            compacted: 0,
            history,
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            granted: 0,
            space: Space::Enough,
        }
    }

    /// Carries out a call at `now`, after expiring what had to expire by then.
    pub fn call(&mut self, now: Duration, request: &Request) -> Result<Reply, CallError> {
        self.expire(now);
        match request {
            Request::Grant { ttl } => self.grant(now, *ttl),
            Request::KeepAlive { lease } => Ok(self.keep_alive(now, *lease)),
            Request::Revoke { lease } => self.revoke(*lease),
            Request::Txn { compare, then, otherwise } => self.txn(compare, then, otherwise),
            Request::Range { start, end, limit, revision } => self.range(start, end, *limit, *revision),
        }
    }

    /// What a reply made now carries.
    pub fn header(&self) -> Header {
        Header { cluster: self.cluster, revision: self.revision() }
    }

    /// The store's revision.
    pub fn revision(&self) -> Revision {
        self.present().revision
    }

    /// The first revision that can still be read, once there has been a compaction; 0 before.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Forgets what was before `revision`; reading at `revision` itself still works.
    pub fn compact(&mut self, revision: Revision) -> Result<(), CallError> {
        if revision <= self.compacted {
            return Err(CallError::Compacted);
        }
        if revision > self.revision() {
            return Err(future_revision(revision, self.revision()));
        }
        self.compacted = revision;
        while self.commits.front().is_some_and(|oldest| oldest.revision < revision) {
            self.commits.pop_front();
        }
        Ok(())
    }

    /// What changed in any of `ranges` from revision `from` on (0: nothing yet), in order: what a watch has to tell.
    /// Knows no time: [`expire`](Self::expire) first.
    pub fn changes_since(&self, from: Revision, ranges: &[WatchRange]) -> Result<Vec<Change>, CallError> {
        if from <= 0 {
            return Ok(Vec::new());
        }
        if from < self.compacted {
            return Err(CallError::Compacted);
        }
        let mut changes = Vec::new();
        for commit in self.commits.range(self.position(from)..) {
            for (key, written) in &commit.writes {
                if ranges.iter().any(|range| within(key, &range.start, &range.end)) {
                    changes.push(match written {
                        Some(kv) => Change::Put(KeyValue::clone(kv)),
                        None => Change::Delete { key: key.to_vec(), mod_revision: commit.revision },
                    });
                }
            }
        }
        Ok(changes)
    }

    /// Ends the leases whose time has come by `now`, earliest first, each in a revision of its own.
    pub fn expire(&mut self, now: Duration) {
        while let Some(&(expires, lease)) = self.deadlines.first()
            && expires <= now
        {
            self.end(lease);
        }
    }

    /// When the next lease expires unless it is kept alive.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.deadlines.first().map(|(expires, _)| *expires)
    }

    /// Raises or lowers the NOSPACE alarm, or has it raised.
    pub fn set_space(&mut self, space: Space) {
        self.space = space;
    }

    /// Becomes what `backup` was, as an etcd that was restored from it: the same cluster at an earlier revision, with
    /// every lease of then at the beginning of its time. No lease's id is given twice, though.
    pub fn restore(&mut self, backup: Self, now: Duration) {
        *self = Self { granted: self.granted.max(backup.granted), ..backup };
        for (id, lease) in &mut self.leases {
            self.deadlines.remove(&(lease.expires, *id));
            lease.expires = now + seconds(lease.ttl);
            self.deadlines.insert((lease.expires, *id));
        }
    }

    fn grant(&mut self, now: Duration, ttl: i64) -> Result<Reply, CallError> {
        if ttl > MAX_TTL {
            return Err(CallError::Invalid(format!("a lease lasts at most {MAX_TTL} s, not {ttl} s")));
        }
        if self.space == Space::Exhausted {
            return Err(CallError::NoSpace);
        }
        let refused = self.fill_up();
        let ttl = ttl.max(MIN_TTL);
        let lease = self.next_lease_id();
        let expires = now + seconds(ttl);
        self.leases.insert(lease, Lease { ttl, expires, keys: BTreeSet::new() });
        self.deadlines.insert((expires, lease));
        refused?;
        Ok(Reply::Granted { header: self.header(), lease, ttl })
    }

    /// What a call that needs space comes to, though it is carried out.
    fn fill_up(&mut self) -> Result<(), CallError> {
        if self.space == Space::Enough {
            return Ok(());
        }
        self.space = Space::Exhausted;
        Err(CallError::NoSpace)
    }

    fn keep_alive(&mut self, now: Duration, id: LeaseId) -> Reply {
        let header = self.header();
        let Some(lease) = self.leases.get_mut(&id) else {
            return Reply::Alive { header, ttl: 0 };
        };
        self.deadlines.remove(&(lease.expires, id));
        lease.expires = now + seconds(lease.ttl);
        self.deadlines.insert((lease.expires, id));
        Reply::Alive { header, ttl: lease.ttl }
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<Reply, CallError> {
        if !self.end(lease) {
            return Err(CallError::LeaseNotFound);
        }
        Ok(Reply::Revoked { header: self.header() })
    }

    /// Ends a lease and deletes its keys; tells whether it existed.
    fn end(&mut self, id: LeaseId) -> bool {
        let Some(lease) = self.leases.remove(&id) else {
            return false;
        };
        self.deadlines.remove(&(lease.expires, id));
        let mut draft = self.draft();
        for key in lease.keys {
            draft.delete(&key);
        }
        self.commit(draft);
        true
    }

    fn txn(&mut self, compare: &[Compare], then: &[Op], otherwise: &[Op]) -> Result<Reply, CallError> {
        check_txn(compare, then, otherwise)?;
        // etcd refuses on the mere possibility of a put, whichever branch would run.
        let needs_space = then.iter().chain(otherwise).any(|op| matches!(op, Op::Put { .. }));
        if self.space == Space::Exhausted && needs_space {
            return Err(CallError::NoSpace);
        }
        let keys = &self.present().keys;
        let succeeded = compare.iter().all(|Compare::ModRevision { key, equal }| {
            let found = keys.get(key.as_slice()).map_or(0, |kv| kv.mod_revision);
            found == *equal
        });
        let ops = if succeeded { then } else { otherwise };
        for op in ops {
            if let Op::Put { lease, .. } = op
                && lease.0 != 0
                && !self.leases.contains_key(lease)
            {
                return Err(CallError::LeaseNotFound);
            }
        }
        let mut draft = self.draft();
        let replies = ops.iter().map(|op| draft.execute(op)).collect();
        self.commit(draft);
        if needs_space {
            self.fill_up()?;
        }
        Ok(Reply::Txn { header: self.header(), succeeded, replies })
    }

    fn range(&self, start: &[u8], end: &[u8], limit: i64, revision: Option<Revision>) -> Result<Reply, CallError> {
        if start.is_empty() {
            return Err(empty_key());
        }
        // 0 means now on the wire.
        let revision = revision.filter(|revision| *revision > 0).unwrap_or(self.revision());
        if revision > self.revision() {
            return Err(future_revision(revision, self.revision()));
        }
        if revision < self.compacted {
            return Err(CallError::Compacted);
        }
        let keys = &self.commits[self.position(revision)].keys;
        let most = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut found = keys
            .range::<_, [u8]>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(key, _)| within(key, start, end))
            .map(|(_, kv)| KeyValue::clone(kv));
        let kvs = found.by_ref().take(most).collect();
        Ok(Reply::Range { header: self.header(), kvs, more: found.next().is_some() })
    }

    fn present(&self) -> &Commit {
        self.commits.back().expect("there is a commit from the start on, and compaction leaves the last")
    }

    /// Where in `commits` a revision lies, or would lie.
    fn position(&self, revision: Revision) -> usize {
        let oldest = self.commits.front().map_or(0, |commit| commit.revision);
        usize::try_from(revision - oldest).unwrap_or(0).min(self.commits.len())
    }

    fn draft(&self) -> Commit {
        let present = self.present();
        Commit { revision: present.revision + 1, keys: present.keys.clone(), writes: Vec::new() }
    }

    /// Makes a draft the present, unless it changed nothing.
    fn commit(&mut self, draft: Commit) {
        if draft.writes.is_empty() {
            return;
        }
        for (key, written) in &draft.writes {
            let before = self.present().keys.get(key).and_then(|kv| kv.lease);
            let after = written.as_ref().and_then(|kv| kv.lease);
            if let Some(lease) = before.and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.remove(key);
            }
            if let Some(lease) = after.and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.insert(key.clone());
            }
        }
        self.commits.push_back(draft);
        if self.commits.len() > self.history {
            self.commits.pop_front();
            self.compacted = self.commits.front().map_or(0, |oldest| oldest.revision);
        }
    }

    /// Ids of different clusters differ as long as the clusters' lowest 39 bits do: a lease remembered from another
    /// cluster, say from the embedded registry before a restart, must not be taken for one of this.
    fn next_lease_id(&mut self) -> LeaseId {
        self.granted += 1;
        let cluster = i64::try_from((self.cluster << 24) & (i64::MAX as u64)).unwrap_or(0);
        LeaseId(cluster.saturating_add(self.granted))
    }
}

impl Commit {
    fn execute(&mut self, op: &Op) -> OpReply {
        match op {
            Op::Put { key, value, lease } => {
                self.put(key, value, *lease);
                OpReply::Put
            }
            Op::Delete { key } => OpReply::Deleted(self.delete(key)),
            Op::Get { key } => OpReply::Got(self.keys.get(key.as_slice()).map(|kv| KeyValue::clone(kv))),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: LeaseId) {
        let create_revision = self.keys.get(key).map_or(self.revision, |kv| kv.create_revision);
        let kv = Arc::new(KeyValue {
            key: key.to_vec(),
            value: value.to_vec(),
            create_revision,
            mod_revision: self.revision,
            lease: Some(lease).filter(|lease| lease.0 != 0),
        });
        let key = Key::from(key);
        self.keys.insert(key.clone(), kv.clone());
        self.writes.push((key, Some(kv)));
    }

    fn delete(&mut self, key: &[u8]) -> i64 {
        let Some((key, _)) = self.keys.remove_with_key(key) else {
            return 0;
        };
        self.writes.push((key, None));
        1
    }
}

/// What etcd checks before it looks at the store.
fn check_txn(compare: &[Compare], then: &[Op], otherwise: &[Op]) -> Result<(), CallError> {
    let most = compare.len().max(then.len()).max(otherwise.len());
    if most > MAX_TXN_OPS {
        return Err(CallError::Invalid(format!("a transaction holds at most {MAX_TXN_OPS} operations, not {most}")));
    }
    let mut size = 0;
    for Compare::ModRevision { key, .. } in compare {
        size += OP_OVERHEAD + key.len();
        if key.is_empty() {
            return Err(empty_key());
        }
    }
    for ops in [then, otherwise] {
        let mut put = BTreeSet::new();
        for op in ops {
            let (Op::Put { key, .. } | Op::Delete { key } | Op::Get { key }) = op;
            size += OP_OVERHEAD + key.len();
            if key.is_empty() {
                return Err(empty_key());
            }
            if let Op::Put { value, .. } = op {
                size += value.len();
                if !put.insert(key) {
                    return Err(duplicate_key(key));
                }
            }
        }
        // Deleting twice is fine; putting and deleting is not, in either order.
        if let Some(Op::Delete { key }) = ops.iter().find(|op| matches!(op, Op::Delete { key } if put.contains(key))) {
            return Err(duplicate_key(key));
        }
    }
    if size > MAX_REQUEST_BYTES {
        return Err(CallError::Invalid(format!("a request holds at most {MAX_REQUEST_BYTES} bytes, not {size}")));
    }
    Ok(())
}

/// Whether a key lies in a range as etcd writes them: an empty end means the one key `start`, a zero byte no end.
fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

fn empty_key() -> CallError {
    CallError::Invalid("a key must not be empty".into())
}

fn duplicate_key(key: &[u8]) -> CallError {
    CallError::Invalid(format!("a transaction writes {} twice", key.escape_ascii()))
}

fn future_revision(revision: Revision, present: Revision) -> CallError {
    CallError::Invalid(format!("revision {revision} is yet to come, the store is at {present}"))
}
