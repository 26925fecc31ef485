//! What must hold: at every step, and in the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan::{
    model::{Catalog, Host, HostId, Origin, ShortId},
    registry::{
        call::{CallError, Change, Compare, Op, Reply, Request, Revision},
        record::{self, Interner, Key},
    },
};

use crate::{
    faults::Weather,
    wires::Caller,
    world::{Held, World},
};

/// Saving the session file takes this long at most; no call is under way meanwhile.
const MAX_IDLE: Duration = Duration::from_millis(60);
/// What was decided this long ago may arrive only now.
const UNDER_WAY: Duration = Duration::from_secs(1);

type Records = BTreeMap<(HostId, ShortId), Vec<u8>>;

impl World {
    /// I4: whoever asks writes only below its own host id.
    pub(crate) fn verify_request(&self, slot: usize, request: &Request) {
        let host = &self.slots[slot].host;
        let Request::Txn { then, otherwise, .. } = request else { return };
        for op in then.iter().chain(otherwise) {
            if let Op::Put { key, .. } | Op::Delete { key } = op {
                let is_ack = *key == self.keys.ack(host);
                let is_own = key.starts_with(&self.keys.host_prefix(host)) || *key == self.keys.echo(host) || is_ack;
                assert!(is_own, "I4: {host} writes {}", key.escape_ascii());
                if is_ack {
                    self.verify_ack(slot, op);
                }
            }
        }
    }

    /// An acknowledgement says what the host answers from, and hangs on its lease.
    fn verify_ack(&self, slot: usize, op: &Op) {
        let agent = self.slots[slot].agent.as_ref().expect("an agent runs here");
        let Op::Put { value, lease, .. } = op else { panic!("slot {slot} takes an acknowledgement back") };
        assert_eq!(Some(*lease), agent.publisher.status().lease, "I4: slot {slot} acknowledges under another lease");
        let revision = record::decode_ack(value).expect("our own");
        // What an etcd said that has gone back since is no revision of this one: `round.rs` looks out for it.
        let counts = [agent.answering_of, agent.epoch] == [self.epoch; 2] && agent.tainted.is_empty();
        assert!(
            !counts || revision <= agent.catalog.revision,
            "slot {slot} acknowledges {revision}, but answers from {}",
            agent.catalog.revision
        );
    }

    /// In gentle weather a live container's record never leaves etcd.
    pub(crate) fn verify_change(&self, change: &Change) {
        let Change::Delete { key, .. } = change else { return };
        let Some(Key::Instance(host, container)) = self.keys.parse(key) else { return };
        if self.weather != Weather::Gentle {
            return;
        }
        let slot = self.slots.iter().find(|slot| slot.host == host).expect("a host of ours");
        let absent_at = slot.absent_at.get(&container).copied().unwrap_or_default();
        assert!(
            !slot.containers.publications.contains_key(&container) || self.now <= absent_at + UNDER_WAY,
            "P2: {container} of {host} has left etcd, but has been there since {absent_at:?}"
        );
    }

    /// In gentle weather an agent that has seen a container go has a call under way, or etcd has forgotten it: no other
    /// host is given its address for longer than those calls take.
    pub(crate) fn verify_withdrawals(&mut self) {
        if self.weather != Weather::Gentle {
            return;
        }
        let held = &self.history[&self.recorded];
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let idle = slot.agent.as_ref().filter(|agent| {
                let waits = !agent.calls.contains_key(&(Caller::Publisher as u8)) && agent.desired.listed;
                let range = self.keys.host_range(&slot.host);
                let is_gone = |key: &[u8]| match self.keys.parse(key) {
                    Some(Key::Instance(_, container)) => !agent.desired.publications.contains_key(&container),
                    _ => false,
                };
                waits && held.range(range.start..range.end).any(|(key, _)| is_gone(key))
            });
            slot.idle_since = idle.map(|_| slot.idle_since.unwrap_or(self.now));
            let since = slot.idle_since.unwrap_or(self.now);
            assert!(
                self.now - since <= MAX_IDLE,
                "P4: slot {number} does nothing since {since:?} while a container that is gone is in etcd: {:?}",
                slot.agent.as_ref().map(|agent| agent.publisher.status())
            );
        }
    }

    /// A write that etcd took came from the one whose nonce is in the session key. Deletes alone may also come from one
    /// that could not claim it yet, for want of space, but whose state file knows the nonce there.
    pub(crate) fn verify_written(
        &mut self,
        slot: usize,
        writer: &str,
        call: u64,
        before: Revision,
        request: &Request,
        outcome: &Result<Reply, CallError>,
    ) {
        let (Request::Txn { compare, then, .. }, Ok(Reply::Txn { succeeded: true, .. })) = (request, outcome) else {
            return;
        };
        let host = self.slots[slot].host.clone();
        let prefix = self.keys.host_prefix(&host);
        let ack = self.keys.ack(&host);
        let is_own = |key: &Vec<u8>| key.starts_with(&prefix) || *key == ack;
        let writes = |op: &Op| matches!(op, Op::Put { key, .. } | Op::Delete { key } if is_own(key));
        let puts = then.iter().any(|op| matches!(op, Op::Put { .. }));
        if self.store.revision() == before || !then.iter().any(writes) {
            return;
        }
        self.last_write = self.now;
        let session = self.keys.session(&host);
        self.pump();
        let held = &self.history[&self.recorded];
        let nonce = held.get(&session).map(|value| record::decode_session(value, &mut Interner::default()));
        let is_writers = nonce.as_ref().is_some_and(|s| s.as_ref().is_ok_and(|session| *session.nonce == *writer));
        let may_withdraw = match nonce {
            Some(Ok(session)) => self.slots[slot].file.nonces.iter().any(|known| **known == *session.nonce),
            // Nobody's claim; but where there is none at all there is nothing that fences.
            Some(Err(_)) => true,
            None => false,
        };
        assert!(is_writers || !puts && may_withdraw, "slot {slot} of {host} wrote although the session is another's");
        // A delete that was thought lost may land after another delete: only a put can fence it off. And a first claim has
        // nothing but the key's absence for a fence, which comes true again when somebody deletes the key by hand: then it
        // puts the same claim of the same agent once more, which reads its own anew (seed 1603).
        let is_first_claim =
            compare.iter().any(|held| matches!(held, Compare::ModRevision { key, equal: 0 } if *key == session));
        let latest = self.latest_calls.get(writer).copied();
        assert!(
            latest < Some(call) || is_first_claim,
            "slot {slot} of {host}: a write that was thought lost landed after a later put"
        );
        if puts && latest < Some(call) {
            self.latest_calls.insert(writer.to_owned(), call);
        }
    }

    /// I5, P2 and P3 at every change of a catalog.
    pub(crate) fn verify_catalog(&mut self, slot: usize, before: &Catalog) {
        let agent = self.slots[slot].agent.as_mut().expect("an agent runs here");
        let (catalog, view) = (&agent.catalog, agent.mirror.view());
        // One that was restored from a backup has gone back itself.
        let is_same_etcd = std::mem::replace(&mut agent.catalog_epoch, agent.epoch) == agent.epoch;
        if before.cluster == catalog.cluster && is_same_etcd {
            assert!(
                before.revision <= catalog.revision,
                "I5: slot {slot} fell from {} to {}",
                before.revision,
                catalog.revision
            );
        }
        assert!(catalog.registry_listed || !before.registry_listed, "I7: slot {slot} forgot the registry");
        if agent.desired.listed {
            let own = catalog.hosts.get(&Origin::Own).expect("P3: the own host is known");
            assert_eq!(own.publications, agent.desired.publications, "P3: the own host is as Docker says");
        }
        let is_judged = agent.judged.ptr_eq(&view.hosts);
        agent.judged = view.hosts.clone();
        if !view.listed || is_judged && (before.cluster, before.revision) == (view.cluster, view.revision) {
            return;
        }
        // P2: what is answered is what etcd held at that revision, no more and no less.
        let mut found = records(&view.hosts);
        let held = self.history.get(&(agent.epoch, view.revision)).expect("a revision that was");
        let expected = decoded(&self.keys, held);
        // But for what hosts had published in an etcd that has gone back or was replaced since, and which this one lacks.
        for key in agent.mirror.held() {
            let Key::Instance(host, container) = key else { continue };
            found.remove(&(host.clone(), *container));
        }
        if found == expected {
            agent.tainted.retain(|dropped| *dropped > view.revision);
        } else {
            assert!(
                agent.tainted.iter().any(|dropped| *dropped <= view.revision),
                "slot {slot} at revision {}:\n{}",
                view.revision,
                difference(&found, &expected)
            );
        }
    }

    /// Everybody knows everybody, and etcd holds that and nothing else.
    pub(crate) fn verify_agreement(&mut self) {
        let header = self.store.header();
        let mut expected = Records::new();
        for host in self.slots.iter().map(|slot| slot.host.clone()).collect::<std::collections::BTreeSet<_>>() {
            let holders: Vec<usize> = (0..self.slots.len())
                .filter(|slot| self.slots[*slot].host == host && self.slots[*slot].agent.is_some())
                .collect();
            let (losers, winners): (Vec<usize>, Vec<usize>) =
                holders.iter().partition(|slot| self.agent(**slot).publisher.status().conflict.is_some());
            assert_eq!(
                winners.len(),
                usize::from(!holders.is_empty()),
                "{host}: one publishes, not {winners:?}; {losers:?} lost"
            );
            for slot in winners {
                let status = self.agent(slot).publisher.status();
                assert!(status.synced, "slot {slot} is not synced: {status:?}");
                let lease = status.lease.expect("who is synced has a lease");
                let alive = self.store.clone().call(self.now, &Request::KeepAlive { lease });
                let ttl = self.agent(slot).lease_ttl;
                assert!(
                    matches!(alive, Ok(Reply::Alive { ttl: found, .. }) if found == ttl),
                    "slot {slot} wants a lease of {ttl} s: {alive:?}"
                );
                assert_eq!(self.slots[slot].file.former, None, "slot {slot} has let go of its former lease");
                // Undrained, or drained, as the operator was told last.
                let ordered = self.slots[slot].with(|container| self.slots[slot].ordered.cover(container));
                for (container, publication) in &ordered.publications {
                    expected.insert((host.clone(), *container), record::encode(publication));
                }
            }
        }
        let all = self.keys.catalog_range();
        let request = Request::Range { start: all.start, end: all.end, limit: 0, revision: None };
        let Ok(Reply::Range { kvs, .. }) = self.store.call(self.now, &request) else { panic!("etcd answers") };
        let stored: Records = kvs
            .iter()
            .filter_map(|kv| match self.keys.parse(&kv.key) {
                Some(Key::Instance(host, container)) => Some(((host, container), kv.value.clone())),
                Some(Key::Session(_)) => None,
                other => panic!("{} is left over ({other:?})", kv.key.escape_ascii()),
            })
            .collect();
        assert!(stored == expected, "etcd holds not what is desired:\n{}", difference(&stored, &expected));
        let mut leases = BTreeMap::new();
        for kv in &kvs {
            let Some(Key::Session(host) | Key::Instance(host, _)) = self.keys.parse(&kv.key) else { continue };
            let lease = kv.lease.expect("every key hangs on a lease");
            assert_eq!(*leases.entry(host.clone()).or_insert(lease), lease, "{host} has one lease");
        }
        for slot in 0..self.slots.len() {
            let Some(agent) = &self.slots[slot].agent else { continue };
            let view = agent.mirror.view();
            assert_eq!(
                (view.cluster, view.stale_since),
                (header.cluster, None),
                "slot {slot}: {:?}",
                agent.mirror.status()
            );
            let found = records(&view.hosts);
            assert!(
                found == expected,
                "slot {slot} does not know what etcd holds: {:?}\n{}",
                agent.mirror.status(),
                difference(&found, &expected)
            );
            assert_eq!(view.undecodable, 0, "slot {slot}: {:?}", view.problems);
        }
    }
}

fn records(hosts: &imbl::OrdMap<Origin, Arc<Host>>) -> Records {
    let of_host = |(origin, host): (&Origin, &Arc<Host>)| {
        let Origin::Registry(id) = origin else { panic!("a view knows no own host") };
        let id = id.clone();
        let publications = host.publications.iter();
        publications.map(|(container, p)| ((id.clone(), *container), record::encode(p))).collect::<Vec<_>>()
    };
    hosts.iter().flat_map(of_host).collect()
}

fn decoded(keys: &record::Keys, held: &Held) -> Records {
    held.iter()
        .filter_map(|(key, value)| {
            let Some(Key::Instance(host, container)) = keys.parse(key) else { return None };
            let publication = record::decode(container, value, &mut Interner::default()).ok()?;
            Some(((host, container), record::encode(&publication)))
        })
        .collect()
}

fn difference(found: &Records, expected: &Records) -> String {
    let mut lines = Vec::new();
    for key in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        let text = |value: Option<&Vec<u8>>| value.map(|value| String::from_utf8_lossy(value).into_owned());
        let (f, e) = (text(found.get(key)), text(expected.get(key)));
        if f != e {
            lines.push(format!("  {key:?}: found {f:?}, expected {e:?}"));
        }
    }
    lines.join("\n")
}
