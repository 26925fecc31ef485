//! What travels between the hosts and etcd, and how it gets lost.

use std::{sync::Arc, time::Duration};

use portolan::registry::call::{CallError, Change, Reply, Request, Revision, WatchEvent};
use rand::RngExt;

use crate::world::{Event, World};

/// A caller waits this long for a reply.
const DEADLINE: Duration = Duration::from_secs(2);

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Caller {
    Publisher,
    Renewal,
    Mirror,
    Waiter,
}

/// etcd's side of a watch.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) id: u64,
    pub(crate) next: Option<Revision>,
    pub(crate) delivered_at: Duration,
    pub(crate) stalled: bool,
    pub(crate) drop_next: bool,
}

impl World {
    /// How long a message travels: mostly a millisecond, at times half a second.
    pub(crate) fn travel(&mut self) -> Duration {
        let is_slow = self.chaos && self.rng.random_bool(0.05);
        let longest = if is_slow { 500.0 } else { 3.0 };
        Duration::from_secs_f64(self.rng.random_range(0.2..longest) / 1000.0)
    }

    pub(crate) fn call(&mut self, slot: usize, caller: Caller, request: Request) {
        self.serial += 1;
        let (call, life, now) = (self.serial, self.slots[slot].life, self.now);
        let before = self.agent(slot).calls.insert(caller as u8, call);
        assert_eq!(before, None, "slot {slot}: {caller:?} has two calls in flight");
        self.verify_request(slot, &request);
        if self.outage && self.rng.random_bool(0.5) {
            let outcome = Err(CallError::Unreachable("outage".into()));
            let travel = self.travel();
            return self.at(now + travel, Event::Reply { slot, life, caller, call, outcome });
        }
        let outcome = Err(CallError::Unknown("no reply in time".into()));
        self.at(now + DEADLINE, Event::Reply { slot, life, caller, call, outcome });
        let (is_lost, is_late) = (self.rng.random_bool(self.loss), self.rng.random_bool(self.loss / 2.0));
        if is_lost && self.rng.random_bool(0.5) {
            return;
        }
        let travel = if is_late { Duration::from_secs_f64(self.rng.random_range(1.0..8.0)) } else { self.travel() };
        let epoch = self.epoch;
        let nonce = Arc::clone(&self.agent(slot).own.session.nonce);
        self.at(now + travel, Event::Arrive { slot, life, nonce, epoch, caller, call, request, reply: !is_lost });
    }

    pub(crate) fn arrive(
        &mut self,
        slot: usize,
        nonce: &str,
        call: u64,
        request: &Request,
    ) -> Result<Reply, CallError> {
        let before = self.store.revision();
        let outcome = self.store.call(self.now, request);
        self.say(|| match request {
            Request::KeepAlive { .. } | Request::Range { .. } => format!("slot {slot} ({nonce}) {}", brief(request)),
            _ => format!("slot {slot} ({nonce}) {} -> {outcome:?}", brief(request)),
        });
        self.verify_written(slot, nonce, call, before, request, &outcome);
        if let Some(at) = self.store.next_expiry() {
            self.at(at, Event::CheckExpiry);
        }
        outcome
    }

    pub(crate) fn open_watch(&mut self, slot: usize, from: Revision) {
        let header = self.store.header();
        if self.outage {
            return self.tell(slot, WatchEvent::Broken("outage".into()));
        }
        if from < self.store.compacted() {
            return self.tell(slot, WatchEvent::Compacted { revision: self.store.compacted() });
        }
        self.tell(slot, WatchEvent::Created { header });
        let epoch = self.epoch;
        let agent = self.agent(slot);
        agent.watch.next = Some(from);
        let looks_the_same = agent.mirror.view().cluster == header.cluster && header.revision >= from - 1;
        if agent.epoch != epoch && looks_the_same {
            // Restored, and already past what this host knows: nothing tells but a full compare.
            agent.epoch = epoch;
            agent.tainted.push(0);
            self.needs_compare = true;
        }
        let (life, watch) = (self.slots[slot].life, self.agent(slot).watch.id);
        self.at(self.now + Duration::from_secs(3), Event::Progress { slot, life, watch });
    }

    /// Sends an event to a host, behind all those before it.
    pub(crate) fn tell(&mut self, slot: usize, event: WatchEvent) {
        let travel = self.travel();
        let (now, life) = (self.now, self.slots[slot].life);
        let watch = &mut self.agent(slot).watch;
        watch.delivered_at = watch.delivered_at.max(now + travel);
        if matches!(event, WatchEvent::Broken(_) | WatchEvent::Compacted { .. }) {
            watch.next = None;
        }
        let (at, watch) = (watch.delivered_at, watch.id);
        self.at(at, Event::Watched { slot, life, watch, event });
    }

    /// Records what etcd did and tells the watches.
    pub(crate) fn pump(&mut self) {
        self.record();
        let header = self.store.header();
        if self.outage {
            return;
        }
        for slot in 0..self.slots.len() {
            let Some(agent) = &mut self.slots[slot].agent else { continue };
            let Some(next) = agent.watch.next.filter(|next| *next <= header.revision) else { continue };
            let ranges = agent.mirror.ranges();
            let Ok(mut changes) = self.store.changes_since(next, &ranges) else {
                self.tell(slot, WatchEvent::Compacted { revision: self.store.compacted() });
                continue;
            };
            agent.watch.next = Some(header.revision + 1);
            if agent.watch.stalled || changes.is_empty() {
                continue;
            }
            if agent.watch.drop_next {
                agent.watch.drop_next = false;
                let dropped = self.rng.random_range(0..changes.len());
                let dropped = changes.remove(dropped);
                agent.tainted.push(dropped.mod_revision());
                agent.has_lost_changes = true;
                self.say(|| format!("slot {slot}'s watch loses {}", dropped.key().escape_ascii()));
                if changes.is_empty() {
                    continue;
                }
            }
            self.tell(slot, WatchEvent::Changes { header, changes });
        }
    }

    fn record(&mut self) {
        let header = self.store.header();
        if self.recorded.1 == header.revision {
            return;
        }
        let all = vec![self.keys.catalog_range()];
        let mut held = self.history[&self.recorded].clone();
        let changes = self.store.changes_since(self.recorded.1 + 1, &all).expect("recorded before it is compacted");
        let mut changes = changes.into_iter().peekable();
        for revision in self.recorded.1 + 1..=header.revision {
            while let Some(change) = changes.next_if(|change| change.mod_revision() == revision) {
                self.verify_change(&change);
                match change {
                    Change::Put(kv) => held.insert(kv.key, kv.value),
                    Change::Delete { key, .. } => held.remove(&key),
                };
            }
            self.history.insert((self.epoch, revision), held.clone());
        }
        self.recorded.1 = header.revision;
    }
}

fn brief(request: &Request) -> String {
    match request {
        Request::Txn { compare, then, .. } => format!("txn if {compare:?} then {} ops", then.len()),
        Request::Range { revision, .. } => format!("range at {revision:?}"),
        other => format!("{other:?}"),
    }
}
