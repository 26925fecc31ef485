//! What hosts had published in an etcd that is no more: one that was restored from a backup, or replaced by another.
//!
//! The new one may lack what lives: what was written since the backup, or everything. Whoever wrote that notices within
//! seconds, as we do, and writes it again; but who notices first is chance, and a name that lives must not be empty in
//! between (P2). So what the new etcd lacks of a host is held, and answered as before, until that host has been heard there
//! and has had the time to say everything; or has said nothing for as long as a crashed host is answered for.
//!
//! Only what is absent is held: of a key that is there, its value counts. Nor are external services, for nobody writes those
//! again by himself, nor the own host's keys, for Docker tells what lives here. Time passes only while we hear etcd: one that
//! goes away again empties nothing (I7), but for one that comes and goes all the time, or nothing would ever be let go of.
//!
//! A host that had said everything before we believed the new etcd is not heard, and held for the longer time. And an etcd that
//! was restored with its revision bumped (`--bump-revision`) does not seem to have gone back: what it lacks is gone until
//! its hosts compare.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::{
        call::{Change, Header},
        record::{self, Interner, Key},
    },
    Mirror, Watching,
    contents::Contents,
};
use crate::model::HostId;

/// From a host's first word in the new etcd, its session, to its last record: moments, and 5 s where etcd is overloaded.
const SAID_WITHIN: Duration = Duration::from_secs(5);
/// A host that says nothing is answered for as long as a crashed one: the lease that agents have by default.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// How often the watch may begin anew, each time with [`SAID_WITHIN`] for hosts to be heard.
const MAX_RESTARTS: u32 = 6;

/// The keys that are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    hosts: BTreeMap<HostId, OfHost>,
    /// Watches that began since.
    restarts: u32,
}

#[derive(Debug)]
struct OfHost {
    until: Duration,
    keys: BTreeSet<Key>,
}

impl Held {
    /// Holds what `new` lacks of `old`, but for our own.
    pub(super) fn hold(&mut self, now: Duration, own: &HostId, old: &Contents, new: &Contents) {
        let until = now + SILENT_FOR;
        self.restarts = 0;
        for (key, _) in old.ledger.iter() {
            if let Some(host) = host_of(&key)
                && host != own
                && new.ledger.get(&key).is_none()
            {
                let held = self.hosts.entry(host.clone());
                held.or_insert_with(|| OfHost { until, keys: BTreeSet::new() }).keys.insert(key);
            }
        }
        // Also what was held before: whoever has been heard then has to be heard anew.
        self.hosts.values_mut().for_each(|of_host| of_host.until = until);
        let keys = self.keys().count();
        if keys > 0 {
            tracing::warn!(keys, "etcd lacks what hosts had published: answered as before until they are heard");
        }
    }

    /// Hears the hosts that have written between two lists of the same etcd.
    pub(super) fn compare(&mut self, now: Duration, old: &Contents, new: &Contents) {
        if self.hosts.is_empty() {
            return;
        }
        for (key, seen) in new.ledger.iter() {
            let of_host = host_of(&key).and_then(|host| self.hosts.get_mut(host));
            if let Some(of_host) = of_host.filter(|_| old.ledger.get(&key) != Some(seen)) {
                of_host.until = of_host.until.min(now + SAID_WITHIN);
            }
        }
    }

    /// Takes what is held from one list to the next.
    pub(super) fn carry(&mut self, old: &Contents, new: &mut Contents) {
        for of_host in self.hosts.values_mut() {
            of_host.keys.retain(|key| new.ledger.get(key).is_none());
            of_host.keys.iter().for_each(|key| new.lend(key, old));
        }
        self.hosts.retain(|_, of_host| !of_host.keys.is_empty());
    }

    /// A host is heard when any key of its changes.
    pub(super) fn hear(&mut self, now: Duration, key: &Key, change: &Change) {
        let Some((host, of_host)) = host_of(key).and_then(|host| self.hosts.get_key_value(host)) else { return };
        let (host, mut until) = (host.clone(), of_host.until.min(now + SAID_WITHIN));
        if let Key::Session(_) = key {
            let session = match change {
                Change::Put(kv) => record::decode_session(&kv.value, &mut Interner::default()).ok(),
                // It has left, or its lease has ended.
                Change::Delete { .. } => None,
            };
            // A session that waits is written when all else has been.
            if session.is_none_or(|session| session.waits.is_some()) {
                until = now;
            }
        }
        if let Some(of_host) = self.hosts.get_mut(&host) {
            of_host.until = until;
            of_host.keys.remove(key);
        }
    }

    /// etcd is heard again: hosts get the time to be heard, too.
    pub(super) fn restart(&mut self, now: Duration) {
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS {
            return;
        }
        self.hosts.values_mut().for_each(|of_host| of_host.until = of_host.until.max(now + SAID_WITHIN));
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.hosts.values().map(|of_host| of_host.until).min()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.hosts.values().flat_map(|of_host| &of_host.keys)
    }
}

fn host_of(key: &Key) -> Option<&HostId> {
    match key {
        Key::Session(host) | Key::Instance(host, _) => Some(host),
        Key::External(_) | Key::Echo(_) => None,
    }
}

impl Mirror {
    /// What is answered though etcd lacks it.
    pub fn held(&self) -> impl Iterator<Item = &Key> {
        self.held.keys()
    }

    /// When something held is to be let go of.
    pub(super) fn release_at(&self) -> Option<Duration> {
        self.held.next().filter(|_| matches!(self.watching, Watching::Created))
    }

    /// Lets go of what hosts have not said again.
    pub(super) fn release(&mut self, now: Duration) {
        if self.release_at().is_none_or(|at| now < at) {
            return;
        }
        let is_due = |(host, of_host): (&HostId, &OfHost)| (now >= of_host.until).then(|| host.clone());
        let due: Vec<HostId> = self.held.hosts.iter().filter_map(is_due).collect();
        let keys: Vec<Key> =
            due.iter().filter_map(|host| self.held.hosts.remove(host)).flat_map(|host| host.keys).collect();
        keys.iter().for_each(|key| self.contents.withdraw(key));
        if !keys.is_empty() {
            self.publish(Header { cluster: self.view.cluster, revision: self.view.revision });
        }
    }
}
