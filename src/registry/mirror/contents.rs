//! What the registry holds, decoded, and the revisions that tell whether a change fits what came before it.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher},
    ops::Bound,
    sync::Arc,
};

use imbl::OrdMap;

use super::super::{
    call::{Change, KeyValue, Revision},
    external,
    record::{self, Interner, Key, Keys},
};
use super::View;
use crate::model::{ExternalName, Externals, Host, HostId, Origin, Problem, Publication, Session, ShortId};

/// Most broken keys that are remembered, each with a problem of some 200 octets. Further ones are skipped unseen.
const MAX_BROKEN: usize = 1_000;

/// The revisions of a key, and what tells its value from another one: after a restore from a backup the same revision
/// may have written something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// That created it.
    pub(super) created: Revision,
    /// That last wrote it.
    pub(super) modified: Revision,
    /// Of its value; no secret, and the same in every process.
    pub(super) digest: u64,
}

impl Seen {
    pub(super) fn of(kv: &KeyValue) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&kv.value);
        Self { created: kv.create_revision, modified: kv.mod_revision, digest: hasher.finish() }
    }
}

/// The revisions of every key that means something, also of those whose value is broken.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    hosts: BTreeMap<HostId, OfHost>,
    externals: BTreeMap<ExternalName, Seen>,
}

#[derive(Debug, Default)]
struct OfHost {
    session: Option<Seen>,
    instances: BTreeMap<ShortId, Seen>,
}

impl OfHost {
    fn iter(&self, host: &HostId) -> impl Iterator<Item = (Key, Seen)> {
        let session = self.session.map(|seen| (Key::Session(host.clone()), seen));
        let instance = |(container, seen): (&ShortId, &Seen)| (Key::Instance(host.clone(), *container), *seen);
        session.into_iter().chain(self.instances.iter().map(instance))
    }
}

impl Ledger {
    pub(super) fn get(&self, key: &Key) -> Option<Seen> {
        match key {
            Key::Session(host) => self.session(host),
            Key::Instance(host, container) => self.hosts.get(host)?.instances.get(container).copied(),
            Key::External(name) => self.externals.get(name).copied(),
            Key::Echo(_) => None,
        }
    }

    pub(super) fn session(&self, host: &HostId) -> Option<Seen> {
        self.hosts.get(host)?.session
    }

    fn set(&mut self, key: &Key, seen: Option<Seen>) {
        let host = match (key, seen) {
            (Key::Session(host) | Key::Instance(host, _), _) => host,
            (Key::External(name), Some(seen)) => {
                self.externals.insert(name.clone(), seen);
                return;
            }
            (Key::External(name), None) => {
                self.externals.remove(name);
                return;
            }
            (Key::Echo(_), _) => return,
        };
        let of_host = match self.hosts.get_mut(host) {
            Some(known) => known,
            None => self.hosts.entry(host.clone()).or_default(),
        };
        match (key, seen) {
            (Key::Instance(_, container), Some(seen)) => drop(of_host.instances.insert(*container, seen)),
            (Key::Instance(_, container), None) => drop(of_host.instances.remove(container)),
            (_, seen) => of_host.session = seen,
        }
        if of_host.session.is_none() && of_host.instances.is_empty() {
            self.hosts.remove(host);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Seen)> {
        let hosts = self.hosts.iter().flat_map(|(host, of_host)| of_host.iter(host));
        hosts.chain(self.externals.iter().map(|(name, seen)| (Key::External(name.clone()), *seen)))
    }

    /// The keys of the hosts after this one, at least `keys` of them if there are so many, and the last of these hosts.
    /// `None`: it was the last of all, and external services are among the keys.
    pub(super) fn piece(&self, after: Option<&HostId>, keys: usize) -> (Vec<(Key, Seen)>, Option<HostId>) {
        let mut piece = Vec::new();
        for (host, of_host) in self.hosts.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)) {
            piece.extend(of_host.iter(host));
            if piece.len() >= keys {
                return (piece, Some(host.clone()));
            }
        }
        piece.extend(self.externals.iter().map(|(name, seen)| (Key::External(name.clone()), *seen)));
        (piece, None)
    }
}

/// A change that does not follow from what we hold: something before it was lost, or it comes again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch lost or repeated something before revision {0}")]
pub(super) struct Gap(pub(super) Revision);

/// All hosts as the registry has them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) hosts: OrdMap<Origin, Arc<Host>>,
    pub(super) externals: Externals,
    pub(super) ledger: Ledger,
    pub(super) broken: BTreeMap<Vec<u8>, Problem>,
    /// Hosts that wait to be acknowledged, with the revision of their session.
    waiting: BTreeMap<HostId, Revision>,
}

impl Contents {
    /// The revision that `own` has to acknowledge as soon as it answers from it; 0: nobody waits.
    pub(super) fn asked_of(&self, own: &HostId) -> Revision {
        let others = self.waiting.iter().filter(|(host, _)| *host != own);
        others.map(|(_, revision)| *revision).max().unwrap_or_default()
    }

    /// Takes in one change, if it fits.
    pub(super) fn apply(&mut self, keys: &Keys, change: Change, interner: &mut Interner) -> Result<(), Gap> {
        let revision = change.mod_revision();
        let Some(key) = keys.parse(change.key()) else {
            match change {
                Change::Put(kv) => self.put_unknown(keys, kv.key),
                Change::Delete { key, .. } => drop(self.broken.remove(&key)),
            }
            return Ok(());
        };
        let known = self.ledger.get(&key);
        match change {
            Change::Put(kv) => {
                let fits = match known {
                    Some(known) => kv.create_revision == known.created && revision > known.modified,
                    None => kv.create_revision == revision,
                };
                if !fits {
                    return Err(Gap(revision));
                }
                self.put(&key, kv, interner, None);
            }
            Change::Delete { key: raw, .. } => {
                if known.is_none_or(|known| revision <= known.modified) {
                    return Err(Gap(revision));
                }
                self.broken.remove(&raw);
                self.ledger.set(&key, None);
                self.withdraw(&key);
            }
        }
        Ok(())
    }

    /// Takes in a listed key. What `known` has decoded from the same revision and value is not decoded again.
    pub(super) fn list(&mut self, keys: &Keys, kv: KeyValue, interner: &mut Interner, known: Option<&Self>) {
        match keys.parse(&kv.key) {
            Some(key) => self.put(&key, kv, interner, known),
            None => self.put_unknown(keys, kv.key),
        }
    }

    /// A value that cannot be decoded replaces what was there all the same: the key is its owner's, and answering
    /// from a value that nobody can read any more would differ from host to host. The owner notices and repairs it.
    fn put(&mut self, key: &Key, kv: KeyValue, interner: &mut Interner, known: Option<&Self>) {
        let seen = Seen::of(&kv);
        self.ledger.set(key, Some(seen));
        let known = known.filter(|known| known.ledger.get(key) == Some(seen));
        let outcome = match key {
            Key::Session(host) => known
                .and_then(|known| known.host(host))
                .map(|known| Ok(known.session.clone()))
                .filter(|known| known.as_ref().is_ok_and(|session| !session.nonce.is_empty()))
                .unwrap_or_else(|| record::decode_session(&kv.value, interner))
                .map(|session| {
                    match session.waits {
                        Some(_) => drop(self.waiting.insert(host.clone(), seen.modified)),
                        None => drop(self.waiting.remove(host)),
                    }
                    self.host_mut(host).session = session;
                }),
            Key::Instance(host, container) => known
                .and_then(|known| known.host(host)?.publications.get(container).cloned())
                .map_or_else(|| record::decode(*container, &kv.value, interner).map(Arc::new), Ok)
                .map(|publication| drop(self.host_mut(host).publications.insert(*container, publication))),
            Key::External(name) => known
                .and_then(|known| known.externals.get(name).cloned())
                .map_or_else(|| external::decode(&kv.value).map(Arc::new), Ok)
                .map(|external| drop(self.externals.insert(name.clone(), external))),
            Key::Echo(_) => Ok(()),
        };
        match outcome {
            Ok(()) => drop(self.broken.remove(&kv.key)),
            Err(error) => {
                self.withdraw(key);
                let found = String::from_utf8_lossy(kv.value.get(..256).unwrap_or(&kv.value)).into_owned();
                self.remember_broken(kv.key, &found, &error.to_string());
            }
        }
    }

    fn put_unknown(&mut self, keys: &Keys, key: Vec<u8>) {
        if !keys.is_ours(&key) {
            return;
        }
        self.remember_broken(
            key,
            "a key that means nothing",
            "hosts/<host>/session, hosts/<host>/instances/<container> or external/<namespace>/<service>: delete it",
        );
    }

    fn remember_broken(&mut self, key: Vec<u8>, found: &str, expected: &str) {
        if self.broken.len() < MAX_BROKEN || self.broken.contains_key(&key) {
            let place = format!("etcd key {}", key.escape_ascii());
            self.broken.insert(key, Problem::new(place, found, expected));
        }
    }

    /// Takes over what `other` has of a key that we have nothing of.
    pub(super) fn lend(&mut self, key: &Key, other: &Self) {
        match key {
            Key::Session(id) => {
                if let Some(host) = other.host(id) {
                    self.host_mut(id).session = host.session.clone();
                }
            }
            Key::Instance(id, container) => {
                if let Some(publication) = other.host(id).and_then(|host| host.publications.get(container)) {
                    self.host_mut(id).publications.insert(*container, Arc::clone(publication));
                }
            }
            Key::External(_) | Key::Echo(_) => {}
        }
    }

    pub(super) fn withdraw(&mut self, key: &Key) {
        let id = match key {
            Key::Session(id) | Key::Instance(id, _) => id,
            Key::External(name) => return drop(self.externals.remove(name)),
            Key::Echo(_) => return,
        };
        if matches!(key, Key::Session(_)) {
            self.waiting.remove(id);
        }
        let origin = Origin::Registry(id.clone());
        let Some(host) = self.hosts.get_mut(&origin) else { return };
        let host = Arc::make_mut(host);
        match key {
            Key::Instance(_, container) => drop(host.publications.remove(container)),
            _ => host.session = Session::default(),
        }
        if host.publications.is_empty() && host.session == Session::default() {
            self.hosts.remove(&origin);
        }
    }

    fn host(&self, id: &HostId) -> Option<&Arc<Host>> {
        self.hosts.get(&Origin::Registry(id.clone()))
    }

    fn host_mut(&mut self, id: &HostId) -> &mut Host {
        Arc::make_mut(self.hosts.entry(Origin::Registry(id.clone())).or_default())
    }

    /// Takes as much of its structure from `before` as is the same, so that a reader of both finds only what differs.
    pub(super) fn share_with(&mut self, before: &View) {
        if self.externals == before.externals {
            self.externals = before.externals.clone();
        }
        let before = &before.hosts;
        let mut shared = before.clone();
        for origin in before.keys().filter(|origin| !self.hosts.contains_key(*origin)) {
            shared.remove(origin);
        }
        for (origin, host) in &self.hosts {
            match before.get(origin) {
                Some(known) if known == host => {}
                Some(known) => {
                    let publications = share(&known.publications, &host.publications);
                    shared.insert(origin.clone(), Arc::new(Host { session: host.session.clone(), publications }));
                }
                None => drop(shared.insert(origin.clone(), Arc::clone(host))),
            }
        }
        self.hosts = shared;
    }
}

type Publications = OrdMap<ShortId, Arc<Publication>>;

fn share(before: &Publications, now: &Publications) -> Publications {
    let mut shared = before.clone();
    for container in before.keys().filter(|container| !now.contains_key(*container)) {
        shared.remove(container);
    }
    for (container, publication) in now {
        if before.get(container) != Some(publication) {
            shared.insert(*container, Arc::clone(publication));
        }
    }
    shared
}
