//! Runs one script against either subject and brings what happened into a form that can be compared: revisions count
//! from the script's start, leases are numbered in the order of their grants, clusters are all alike and refusals have
//! no words.

use std::time::Duration;

use portolan::registry::{
    call::{
        CallError, Change, Compare, Header, KeyValue, LeaseId, Op, OpReply, Reply, Request, Revision, WatchEvent,
        WatchRange, prefix_end,
    },
    etcd::{Etcd, Options},
    memory::{Space, Store},
};
use tokio::{sync::mpsc, time::timeout};

use crate::etcd::Cluster;

/// One step of a script. Keys are below the script's own prefix; revisions count from its start (its first write is
/// revision 1); leases are numbered from 1 in the order of their grants, and 0 is none.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Call(Request),
    Compact(Revision),
    /// Follows ranges from here to the end of the script.
    Watch(Vec<WatchRange>, Revision),
    /// Lets time pass until this key has expired.
    AwaitExpiry(&'static str),
    Space(Space),
}

/// What a script led to.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Of each `Call`, `Compact` and `Space`.
    pub(crate) replies: Vec<Result<Reply, CallError>>,
    /// Of each `Watch` and each of its ranges: all changes until the script's end.
    pub(crate) watches: Vec<Result<Vec<Vec<Change>>, CallError>>,
}

/// Whom a script runs against.
pub(crate) enum Subject {
    Model { store: Box<Store>, now: Duration },
    Real { etcd: Etcd, control: Box<etcd_client::Client> },
}

/// A watch of a script, with what it has told so far.
struct Watch {
    ranges: Vec<WatchRange>,
    source: Source,
    told: Vec<Vec<Change>>,
    ended: Option<CallError>,
}

enum Source {
    /// The model is asked from this revision on.
    Model(Revision),
    Real(mpsc::Receiver<WatchEvent>),
}

/// Longer than anything takes that happens at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A client that may write everywhere.
pub(crate) fn client(cluster: &Cluster) -> Etcd {
    client_with(cluster, |_| {})
}

/// The same, with more options.
pub(crate) fn client_with(cluster: &Cluster, change: impl FnOnce(&mut Options)) -> Etcd {
    let mut options = Options { endpoints: cluster.endpoints(), own_prefixes: vec![Vec::new()], ..Options::default() };
    change(&mut options);
    Etcd::new(options).expect("the options are good")
}

impl Subject {
    pub(crate) fn model() -> Self {
        Self::Model { store: Box::new(Store::new(1)), now: Duration::ZERO }
    }

    pub(crate) async fn real(cluster: &Cluster) -> Self {
        let control = etcd_client::Client::connect(cluster.endpoints(), None).await.expect("etcd runs");
        Self::Real { etcd: client(cluster), control: Box::new(control) }
    }

    pub(crate) async fn call(&mut self, request: Request) -> Result<Reply, CallError> {
        match self {
            Self::Model { store, now } => store.call(*now, &request),
            Self::Real { etcd, .. } => etcd.call(request).await,
        }
    }

    async fn compact(&mut self, revision: Revision) -> Result<(), CallError> {
        match self {
            Self::Model { store, .. } => store.compact(revision),
            Self::Real { control, .. } => match control.compact(revision, None).await {
                Ok(_) => Ok(()),
                Err(error) if error.to_string().contains("has been compacted") => Err(CallError::Compacted),
                Err(error) => Err(CallError::Invalid(error.to_string())),
            },
        }
    }

    fn watch(&self, ranges: Vec<WatchRange>, from: Revision) -> Watch {
        let source = match self {
            Self::Model { .. } => Source::Model(from),
            Self::Real { etcd, .. } => Source::Real(etcd.watch(ranges.clone(), from)),
        };
        Watch { told: vec![Vec::new(); ranges.len()], ranges, source, ended: None }
    }

    async fn await_expiry(&mut self, key: Vec<u8>) {
        if let Self::Model { store, now } = self {
            *now = store.next_expiry().expect("there is a lease");
            store.expire(*now);
        }
        let get = Request::Txn { compare: vec![], then: vec![Op::Get { key }], otherwise: vec![] };
        let gone = async {
            while !matches!(self.call(get.clone()).await, Ok(Reply::Txn { replies, .. }) if replies == [OpReply::Got(None)])
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the key expires");
    }

    pub(crate) async fn set_space(&mut self, space: Space) {
        use etcd_client::{AlarmAction, AlarmType};
        match self {
            Self::Model { store, .. } => store.set_space(space),
            Self::Real { control, .. } => {
                let action = match space {
                    Space::Exhausted => AlarmAction::Activate,
                    Space::Ending => panic!("only a quota does that: see publisher.rs"),
                    Space::Enough => AlarmAction::Deactivate,
                };
                let status = control.status().await.expect("etcd tells its status");
                let member = status.header().expect("a reply has a header").member_id();
                let mut options = etcd_client::AlarmOptions::new();
                options.with_member(member);
                control.alarm(action, AlarmType::Nospace, Some(options)).await.expect("etcd takes alarms");
            }
        }
    }

    /// Writes a marker into each range, all in one revision, which is at least `latest`; gives that revision.
    async fn mark(&mut self, watches: &[Watch], latest: Revision) -> Revision {
        let ranges = watches.iter().flat_map(|watch| &watch.ranges);
        let mut markers: Vec<_> = ranges.map(|range| [range.start.as_slice(), b"~"].concat()).collect();
        markers.sort();
        markers.dedup();
        let put = |key| Op::Put { key, value: vec![], lease: LeaseId(0) };
        let mark = Request::Txn { compare: vec![], then: markers.into_iter().map(put).collect(), otherwise: vec![] };
        loop {
            match self.call(mark.clone()).await {
                Ok(Reply::Txn { header, .. }) if header.revision >= latest => return header.revision,
                Ok(Reply::Txn { .. }) if !watches.is_empty() => {}
                other => panic!("cannot write the markers: {other:?}"),
            }
        }
    }
}

impl Watch {
    /// Takes what has been told until each range has told of revision `end`, where the markers are.
    async fn catch_up(&mut self, subject: &Subject, end: Revision) {
        let is_complete = |told: &Vec<Change>| told.last().is_some_and(|change| change.mod_revision() == end);
        while self.ended.is_none() && !self.told.iter().all(is_complete) {
            match &mut self.source {
                Source::Model(_) => self.advance(subject),
                Source::Real(receiver) => {
                    let event = timeout(PATIENCE, receiver.recv()).await.expect("the watch goes on");
                    self.take(event.expect("a watch ends with a reason"));
                }
            }
        }
    }

    /// The model tells nothing by itself.
    fn advance(&mut self, subject: &Subject) {
        let (Source::Model(from), Subject::Model { store, .. }) = (&mut self.source, subject) else {
            return;
        };
        for (range, told) in self.ranges.iter().zip(&mut self.told) {
            match store.changes_since(*from, std::slice::from_ref(range)) {
                Ok(changes) => told.extend(changes),
                Err(error) => self.ended = Some(error),
            }
        }
        *from = (*from).max(store.revision() + 1);
    }

    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Created { .. } | WatchEvent::Progress { .. } => {}
            WatchEvent::Changes { changes, .. } => {
                let of = |range: &WatchRange| changes.iter().all(|change| contains(range, change.key()));
                let range = self.ranges.iter().position(of).expect("an event is of one of the ranges");
                self.told[range].extend(changes);
            }
            WatchEvent::Compacted { .. } => self.ended = Some(CallError::Compacted),
            WatchEvent::Broken(reason) | WatchEvent::Denied(reason) => panic!("the watch broke: {reason}"),
        }
    }
}

fn contains(range: &WatchRange, key: &[u8]) -> bool {
    key >= range.start.as_slice() && key < range.end.as_slice()
}

/// Runs a script below `prefix`.
pub(crate) async fn run(subject: &mut Subject, prefix: &str, script: &[Step]) -> Outcome {
    let header = match subject.call(Request::Range { start: vec![1], end: vec![], limit: 1, revision: None }).await {
        Ok(Reply::Range { header, .. }) => header,
        other => panic!("cannot read the revision: {other:?}"),
    };
    let mut run = Run { prefix: prefix.into(), base: header.revision, leases: Vec::new() };
    let (mut replies, mut compacted) = (Vec::new(), 0);
    let mut watches: Vec<Watch> = Vec::new();
    for step in script {
        match step {
            Step::Call(request) => {
                let reply = subject.call(run.absolute(request)).await;
                if let Ok(Reply::Granted { lease, .. }) = reply {
                    run.leases.push(lease);
                }
                replies.push(run.relative(reply));
            }
            Step::Compact(revision) => {
                let result = subject.compact(run.base + revision).await;
                if result.is_ok() {
                    compacted = *revision;
                }
                let revoked = result.map(|()| Reply::Revoked { header: Header::default() });
                replies.push(run.relative(revoked));
            }
            Step::Watch(ranges, from) => {
                // From the very revision that was compacted at, etcd may or may not tell of deletions.
                let from = run.base + if *from == compacted { from + 1 } else { *from };
                let mut watch = subject.watch(ranges.iter().map(|range| run.range(range)).collect(), from);
                // A watch that has not caught up yet is broken by a compaction, one that has is not.
                let caught_up = subject.mark(std::slice::from_ref(&watch), from).await;
                watch.catch_up(subject, caught_up).await;
                watches.push(watch);
            }
            Step::AwaitExpiry(key) => subject.await_expiry(run.key(key.as_bytes())).await,
            Step::Space(space) => subject.set_space(*space).await,
        }
        for watch in &mut watches {
            watch.advance(subject);
        }
    }
    let end = subject.mark(&watches, 0).await;
    for watch in &mut watches {
        watch.catch_up(subject, end).await;
    }
    let told = |watch: Watch| watch.ended.map_or_else(|| Ok(run.relative_changes(watch.told)), Err);
    let watches = watches.into_iter().map(told).collect();
    for lease in std::mem::take(&mut run.leases) {
        // Most scripts leave some behind.
        let _ = subject.call(Request::Revoke { lease }).await;
    }
    Outcome { replies, watches }
}

/// Translates between a script's words and a subject's.
struct Run {
    prefix: Vec<u8>,
    base: Revision,
    leases: Vec<LeaseId>,
}

impl Run {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    fn end(&self, end: &[u8]) -> Vec<u8> {
        match end {
            [] => Vec::new(),
            [0] => prefix_end(&self.prefix),
            end => self.key(end),
        }
    }

    fn range(&self, range: &WatchRange) -> WatchRange {
        WatchRange { start: self.key(&range.start), end: self.end(&range.end) }
    }

    fn lease(&self, lease: LeaseId) -> LeaseId {
        let index = usize::try_from(lease.0 - 1);
        match (lease.0, index.ok().and_then(|index| self.leases.get(index))) {
            (0, _) => lease,
            (_, Some(lease)) => *lease,
            (_, None) => LeaseId(999_999),
        }
    }

    fn absolute(&self, request: &Request) -> Request {
        let ops = |ops: &[Op]| ops.iter().map(|op| self.absolute_op(op)).collect();
        match request {
            Request::Grant { ttl } => Request::Grant { ttl: *ttl },
            Request::KeepAlive { lease } => Request::KeepAlive { lease: self.lease(*lease) },
            Request::Revoke { lease } => Request::Revoke { lease: self.lease(*lease) },
            Request::Txn { compare, then, otherwise } => {
                let compare = compare.iter().map(|Compare::ModRevision { key, equal }| Compare::ModRevision {
                    key: self.key(key),
                    equal: if *equal == 0 { 0 } else { self.base + equal },
                });
                Request::Txn { compare: compare.collect(), then: ops(then), otherwise: ops(otherwise) }
            }
            Request::Range { start, end, limit, revision } => Request::Range {
                start: self.key(start),
                end: self.end(end),
                limit: *limit,
                revision: revision.map(|revision| self.base + revision),
            },
        }
    }

    fn absolute_op(&self, op: &Op) -> Op {
        match op {
            Op::Put { key, value, lease } => {
                Op::Put { key: self.key(key), value: value.clone(), lease: self.lease(*lease) }
            }
            Op::Delete { key } => Op::Delete { key: self.key(key) },
            Op::Get { key } => Op::Get { key: self.key(key) },
        }
    }

    fn relative(&self, reply: Result<Reply, CallError>) -> Result<Reply, CallError> {
        let header_of = |header: Header| Header { cluster: 0, revision: header.revision - self.base };
        let kvs_of = |kvs: Vec<KeyValue>| kvs.into_iter().map(|kv| self.relative_kv(kv)).collect();
        let number = |lease: LeaseId| {
            LeaseId(self.leases.iter().position(|known| *known == lease).map_or(-1, |index| index as i64 + 1))
        };
        match reply {
            Ok(Reply::Granted { header, lease, ttl }) => {
                Ok(Reply::Granted { header: header_of(header), lease: number(lease), ttl })
            }
            Ok(Reply::Alive { header, ttl }) => Ok(Reply::Alive { header: header_of(header), ttl }),
            // Compactions are told as this, without a header.
            Ok(Reply::Revoked { header }) if header == Header::default() => Ok(Reply::Revoked { header }),
            Ok(Reply::Revoked { header }) => Ok(Reply::Revoked { header: header_of(header) }),
            Ok(Reply::Txn { header, succeeded, replies }) => {
                let replies = replies.into_iter().map(|reply| match reply {
                    OpReply::Got(kv) => OpReply::Got(kv.map(|kv| self.relative_kv(kv))),
                    reply => reply,
                });
                Ok(Reply::Txn { header: header_of(header), succeeded, replies: replies.collect() })
            }
            Ok(Reply::Range { header, kvs, more }) => {
                Ok(Reply::Range { header: header_of(header), kvs: kvs_of(kvs), more })
            }
            Err(CallError::Invalid(_)) => Err(CallError::Invalid(String::new())),
            Err(error) => Err(error),
        }
    }

    fn relative_kv(&self, kv: KeyValue) -> KeyValue {
        let lease = kv.lease.map(|lease| {
            LeaseId(self.leases.iter().position(|known| *known == lease).map_or(-1, |index| index as i64 + 1))
        });
        KeyValue {
            key: kv.key.strip_prefix(self.prefix.as_slice()).expect("a key of this script").to_vec(),
            value: kv.value,
            create_revision: kv.create_revision - self.base,
            mod_revision: kv.mod_revision - self.base,
            lease,
        }
    }

    fn relative_changes(&self, told: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
        let change = |change| match change {
            Change::Put(kv) => Change::Put(self.relative_kv(kv)),
            Change::Delete { key, mod_revision } => Change::Delete {
                key: key.strip_prefix(self.prefix.as_slice()).expect("a key of this script").to_vec(),
                mod_revision: mod_revision - self.base,
            },
        };
        told.into_iter().map(|changes| changes.into_iter().map(change).collect()).collect()
    }
}
