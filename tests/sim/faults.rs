//! What can go wrong, and how it is made to.

use std::time::Duration;

use portolan::registry::{
    call::{LeaseId, Op, Request, WatchEvent},
    memory::Space,
};
use rand::{Rng, RngExt};

use crate::{
    hosts::Slot,
    world::{Event, Held, World},
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    BreakWatch,
    /// The watch goes on and says progress, but never again a change.
    StallWatch,
    /// One change is lost.
    DropChange,
    Compact,
    /// The host stands still, perhaps longer than its lease.
    Pause,
    Outage,
    Wipe,
    /// etcd is restored from a backup taken earlier; with none, one is taken.
    Restore,
    Crash,
    /// A copy of a machine, session file included, starts beside it.
    Clone,
    Garbage,
    DeleteByHand,
    NoSpace,
}

/// How bad it gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weather {
    /// Everything, at once.
    Wild,
    /// The same without what came later, so that seeds which found something go on telling the same story.
    Rough,
    /// Agents restart and etcd runs out of space, but no message is lost, nobody stands still for a lease, and nobody
    /// touches the keys: whatever then goes wrong is our own doing, and may be judged at every step.
    Gentle,
}

impl Fault {
    pub(crate) fn any(weather: Weather, rng: &mut impl Rng) -> Self {
        if weather == Weather::Gentle {
            return match rng.random_range(0..100) {
                0..10 => Self::BreakWatch,
                10..15 => Self::StallWatch,
                15..25 => Self::Compact,
                25..65 => Self::Crash,
                _ => Self::NoSpace,
            };
        }
        let shares = if weather == Weather::Wild { 108 } else { 100 };
        match rng.random_range(0..shares) {
            100.. => Self::Restore,
            0..18 => Self::BreakWatch,
            18..26 => Self::StallWatch,
            26..30 => Self::DropChange,
            30..48 => Self::Compact,
            48..58 => Self::Pause,
            58..66 => Self::Outage,
            66..69 => Self::Wipe,
            69..84 => Self::Crash,
            84..86 => Self::Clone,
            86..90 => Self::Garbage,
            90..94 => Self::DeleteByHand,
            _ => Self::NoSpace,
        }
    }
}

impl World {
    pub(crate) fn inflict(&mut self, fault: Fault) {
        let slot = self.rng.random_range(0..self.slots.len());
        self.say(|| format!("*** {fault:?} at slot {slot}"));
        let runs = self.slots[slot].agent.is_some();
        match fault {
            Fault::BreakWatch if runs && self.agent(slot).watch.next.is_some() => {
                self.tell(slot, WatchEvent::Broken("broken".into()));
            }
            Fault::StallWatch if runs => self.agent(slot).watch.stalled = true,
            Fault::DropChange if runs => {
                self.needs_compare = true;
                self.agent(slot).watch.drop_next = true;
            }
            Fault::Compact => {
                let revision = self.store.revision() - self.rng.random_range(0..5);
                // Already compacted further: fine.
                let _ = self.store.compact(revision.max(1));
            }
            Fault::Pause => {
                let until = self.now + self.seconds(1.0..18.0);
                let until = until.max(self.slots[slot].paused_until);
                self.slots[slot].paused_until = until;
                self.at(until, Event::Resume { slot });
            }
            Fault::Outage => {
                self.outage = true;
                for slot in 0..self.slots.len() {
                    if self.rng.random_bool(0.7)
                        && self.slots[slot].agent.as_ref().is_some_and(|a| a.watch.next.is_some())
                    {
                        self.tell(slot, WatchEvent::Broken("outage".into()));
                    }
                }
                self.later(0.5..20.0, Event::OutageEnds);
            }
            Fault::Wipe => {
                self.store = self.store.set_up_anew(self.rng.random());
                self.epoch += 1;
                self.recorded = (self.epoch, 1);
                self.history.insert(self.recorded, Held::new());
                self.break_watches("wiped");
            }
            Fault::Restore => match self.backup.take() {
                None => self.backup = Some((self.store.clone(), self.epoch)),
                Some((mut backup, epoch)) => {
                    backup.set_space(Space::Enough);
                    let revision = backup.revision();
                    for agent in self.slots.iter().filter_map(|slot| slot.agent.as_ref()) {
                        // It may not hear of a revision that it knows to be over, should others write enough by then.
                        self.needs_compare |= agent.wrote > revision && agent.mirror.view().revision <= revision;
                    }
                    self.store.restore(backup, self.now);
                    self.epoch += 1;
                    let known = self.history.range((epoch, 0)..=(epoch, revision));
                    let known: Vec<_> = known.map(|((_, revision), held)| (*revision, held.clone())).collect();
                    self.history.extend(known.into_iter().map(|(at, held)| ((self.epoch, at), held)));
                    self.recorded = (self.epoch, revision);
                    self.break_watches("restored");
                }
            },
            Fault::Crash if runs => {
                let is_gentle = self.weather == Weather::Gentle;
                // One that has not renewed its lease yet may not be the next to let it end.
                if is_gentle && self.agent(slot).publisher.status().lease.is_none() {
                    return;
                }
                self.stop(slot);
                self.later(if is_gentle { 0.0..3.0 } else { 0.0..15.0 }, Event::Start { slot });
            }
            Fault::Clone if self.slots.len() < 6 => {
                // The loser may not write, so no echo proves its watch.
                self.needs_compare = true;
                let original = &self.slots[slot];
                let copy = Slot {
                    file: original.file.clone(),
                    drains_file: original.drains_file.clone(),
                    ordered: original.ordered.copied(),
                    ..Slot::new(original.host.clone())
                };
                self.slots.push(copy);
                self.give_up_waits(slot);
                let slot = self.slots.len() - 1;
                self.start(slot);
                self.later(0.0..3.0, Event::Churn { slot });
                self.slots[slot].gone_for_good = self.rng.random_bool(0.5);
            }
            Fault::Garbage | Fault::DeleteByHand => {
                self.needs_compare = true;
                let host = self.slots[slot].host.clone();
                self.slots.iter_mut().filter(|slot| slot.host == host).for_each(|slot| slot.is_meddled_with = true);
                let range = self.keys.host_range(&host);
                let request = Request::Range { start: range.start.clone(), end: range.end, limit: 0, revision: None };
                let Ok(portolan::registry::call::Reply::Range { kvs, .. }) = self.store.call(self.now, &request) else {
                    return;
                };
                let mut key = [range.start.as_slice(), b"instances/nonsense"].concat();
                if !kvs.is_empty() && self.rng.random_bool(0.8) {
                    key = kvs[self.rng.random_range(0..kvs.len())].key.clone();
                }
                let op = match fault {
                    Fault::Garbage => Op::Put { key, value: b"{\"garbage\":".to_vec(), lease: LeaseId(0) },
                    _ => Op::Delete { key },
                };
                let request = Request::Txn { compare: Vec::new(), then: vec![op], otherwise: Vec::new() };
                // Refused while there is no space: fine.
                let _ = self.store.call(self.now, &request);
            }
            Fault::NoSpace => {
                let space = if self.rng.random() { Space::Ending } else { Space::Exhausted };
                self.store.set_space(space);
                self.later(0.5..20.0, Event::SpaceReturns);
            }
            _ => {}
        }
    }

    /// Connections do not outlive their etcd.
    fn break_watches(&mut self, reason: &str) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].agent.as_ref().is_some_and(|a| a.watch.next.is_some()) {
                self.tell(slot, WatchEvent::Broken(reason.into()));
            }
        }
    }

    fn seconds(&mut self, range: std::ops::Range<f64>) -> Duration {
        Duration::from_secs_f64(self.rng.random_range(range))
    }

    pub(crate) fn end_outage(&mut self) {
        self.outage = false;
        self.say(|| "the outage is over".into());
    }

    /// Half of the clones are found out and switched off.
    pub(crate) fn retire_clones(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].gone_for_good {
                self.stop(slot);
            }
        }
    }
}
