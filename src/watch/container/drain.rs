//! Containers on their way out: asked to stop by a signal, or drained by the operator.
//!
//! A stop signal (not HUP: the container lives on) drains at once, before the process dies. It is remembered with the time
//! the container started, so neither a list nor an inspect undoes it, and it is over when the container died, when it
//! started anew, or when it still runs [`GRACE`] after the time it may take to stop: then the signal meant something else.
//!
//! What the operator drains stays drained until it is undrained, or until the container starts anew: `drain X --wait &&
//! docker restart X` brings X back without another word. [`Drains`] is kept in the state directory, so that a restart of
//! the agent changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{ContainerId, Containers, Entry, Inspected, Ticket, Wish};
use crate::model::ShortId;

/// How long Docker waits between the stop signal and the kill, where nobody says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its time to stop a container must still run to be taken for one that goes on.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time to stop that is believed. Nobody waits longer for a signal to turn out to be another one.
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The signals that end a process unless it has its own mind: KILL, INT, QUIT, TERM.
const ENDING: [i32; 4] = [9, 2, 3, 15];
/// glibc's SIGRTMIN, as Docker counts.
const RTMIN: i32 = 34;

/// What the operator has drained on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drains {
    /// Grows with each command: which of them an observer has seen.
    #[serde(default)]
    pub round: u64,
    /// Everything here, also what is yet to come.
    #[serde(default)]
    pub host: bool,
    /// Containers by their full id, each with the time it had started (`State.StartedAt`); empty: it has only just, and
    /// its inspect will tell.
    #[serde(default)]
    pub containers: BTreeMap<String, String>,
}

impl Drains {
    /// Whether anything is drained.
    pub fn are_any(&self) -> bool {
        self.host || !self.containers.is_empty()
    }

    /// Whether a container that had started then is drained.
    pub fn cover(&self, id: &str, started: Option<&str>) -> bool {
        self.host || self.containers.get(id).is_some_and(|held| held.is_empty() || Some(held.as_str()) == started)
    }

    /// Carries out a command about these containers, each with the time it had started as far as that is known.
    pub fn carry_out<'a>(
        &mut self,
        command: &Command,
        meant: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<(), NotDone> {
        match command {
            Command::Drain(Target::Host) => self.host = true,
            Command::Undrain(Target::Host) => {
                self.host = false;
                self.containers.clear();
            }
            Command::Drain(Target::Named(_)) => {
                let with_start = |(id, started): (&str, Option<&str>)| (id.into(), started.unwrap_or_default().into());
                self.containers.extend(meant.into_iter().map(with_start));
            }
            Command::Undrain(Target::Named(name)) => {
                if self.host {
                    let message = format!("the whole host is drained, {name} with it: portolan undrain --host");
                    return Err(NotDone::Impossible(message));
                }
                for (id, _) in meant {
                    self.containers.remove(id);
                }
            }
        }
        self.round += 1;
        Ok(())
    }
}

impl Entry {
    /// When it had started, as far as that is known.
    fn started(&self) -> Option<&str> {
        self.inspected.as_ref()?.started.as_deref()
    }

    pub(in crate::watch) fn is_drained(&self, drains: &Drains) -> bool {
        drains.cover(self.id.as_str(), self.started())
    }
}

/// What a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One container by id (at least 4 digits) or name, else every container here that offers a service of this name:
    /// `web`, or `web.shop` with its namespace.
    Named(String),
    /// The whole host.
    Host,
}

/// A command of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Out of the answers, as long as others are ready.
    Drain(Target),
    /// Back.
    Undrain(Target),
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The containers it is about.
    pub containers: Vec<(ShortId, Arc<str>)>,
    /// What is drained now.
    pub drains: Drains,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// It is about nothing here.
    #[error("{0}")]
    NoSuch(String),
    /// Not as things are, or not for good.
    #[error("{0}")]
    Impossible(String),
}

/// A stop signal that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::watch) struct Stopping {
    ticket: Ticket,
    /// When the container had started, once that is known.
    started: Option<Arc<str>>,
}

impl Stopping {
    /// Whether the signal was sent to the container that this inspect shows.
    fn concerns(&mut self, inspected: &Inspected) -> bool {
        self.started = self.started.take().or_else(|| inspected.started.clone());
        self.started == inspected.started
    }
}

/// The number of a signal as an image names it: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.
fn signal_number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse() {
        return Some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return if offset.is_empty() {
            Some(RTMIN)
        } else {
            offset.strip_prefix('+')?.parse::<i32>().ok().map(|n| RTMIN + n)
        };
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

impl Containers {
    /// `kill`: a stop signal drains.
    pub(super) fn killed(&mut self, id: &ContainerId, signal: i32) -> Vec<Wish> {
        let ticket = self.ticket();
        let entry = self.entries.entry(id.short()).or_insert_with(|| Entry::new(id.clone()));
        let inspected = entry.inspected.as_ref();
        let own = inspected.and_then(|inspected| signal_number(inspected.stop_signal.as_deref()?));
        if !ENDING.contains(&signal) && own != Some(signal) {
            return Vec::new();
        }
        let seconds = inspected.and_then(|inspected| u64::try_from(inspected.stop_timeout?).ok());
        let timeout = seconds.map_or(STOP_TIMEOUT, Duration::from_secs).min(MAX_STOP_TIMEOUT);
        let started = inspected.and_then(|inspected| inspected.started.clone());
        entry.stopping = Some(Stopping { ticket, started });
        self.changes.touch(id.short());
        vec![Wish::Wait { id: id.clone(), ticket, time: timeout + GRACE }]
    }

    /// The container had its time to stop.
    pub(super) fn waited(&mut self, id: ShortId, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.stopping.as_ref().is_some_and(|stopping| stopping.ticket == ticket)
        {
            entry.stopping = None;
            self.changes.touch(id);
        }
    }

    /// What an inspect says of drains: they end with the run of the container that they were meant for.
    pub(super) fn judge_drains(&mut self, inspected: &Inspected) {
        let id = &inspected.id;
        if let Some(entry) = self.entries.get_mut(&id.short()) {
            entry.stopping.take_if(|stopping| !inspected.state.is_alive() || !stopping.concerns(inspected));
        }
        let Some((held, started)) = self.drains.containers.get_mut(id.as_str()).zip(inspected.started.as_deref())
        else {
            return;
        };
        if held.is_empty() {
            started.clone_into(held);
        } else if held != started {
            self.forget_drain(id);
        }
    }

    /// The run of a container is over; a drain that was not told yet which run it is about was about this one.
    pub(super) fn end_drain(&mut self, id: &ContainerId) {
        if self.drains.containers.get(id.as_str()).is_some_and(String::is_empty) {
            self.forget_drain(id);
        }
    }

    /// A container is gone, or runs anew.
    pub(super) fn forget_drain(&mut self, id: &ContainerId) {
        self.changes.drains |= self.drains.containers.remove(id.as_str()).is_some();
    }

    /// The whole set is known: what is not in it takes its drain with it.
    pub(super) fn forget_drains_but_of(&mut self, present: &BTreeSet<ShortId>) {
        let before = self.drains.containers.len();
        self.drains.containers.retain(|id, _| ShortId::parse(id).is_some_and(|id| present.contains(&id)));
        self.changes.drains |= self.drains.containers.len() != before;
    }

    /// What is drained by command.
    pub fn drains(&self) -> &Drains {
        &self.drains
    }

    /// What the last agent had drained; before anything is known.
    pub fn restore_drains(&mut self, drains: Drains) {
        self.changes.drains = true;
        self.drains = drains;
    }

    /// Carries out a command of the operator.
    pub fn command(&mut self, command: &Command) -> Result<Outcome, NotDone> {
        let (Command::Drain(target) | Command::Undrain(target)) = command;
        let meant = match target {
            Target::Host => self.entries.iter().filter(|(_, entry)| entry.is_alive()).map(|(id, _)| *id).collect(),
            Target::Named(name) => self.named(name)?,
        };
        let runs = meant.iter().map(|id| (self.entries[id].id.as_str(), self.entries[id].started()));
        self.drains.carry_out(command, runs)?;
        let known: Vec<ShortId> = self.entries.keys().copied().collect();
        known.into_iter().for_each(|id| self.changes.touch(id));
        self.changes.drains = true;
        let name =
            |id: &ShortId| self.entries[id].identity.as_ref().map_or_else(|| "".into(), |held| held.name.clone());
        let containers = meant.iter().map(|id| (*id, name(id))).collect();
        Ok(Outcome { containers, drains: self.drains.clone() })
    }

    /// The live containers that a person means: one by its id or name, else those that offer such a service.
    fn named(&self, text: &str) -> Result<BTreeSet<ShortId>, NotDone> {
        let alive = || self.entries.iter().filter(|(_, entry)| entry.is_alive());
        let name = text.trim_start_matches('/');
        let has_name = |entry: &Entry| entry.identity.as_ref().is_some_and(|identity| &*identity.name == name);
        let by_name: BTreeSet<ShortId> = alive().filter(|(_, entry)| has_name(entry)).map(|(id, _)| *id).collect();
        if !by_name.is_empty() {
            return Ok(by_name);
        }
        let is_id = text.len() >= 4 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let by_id: BTreeSet<ShortId> =
            alive().filter(|(_, entry)| is_id && entry.id.as_str().starts_with(text)).map(|(id, _)| *id).collect();
        match by_id.len() {
            0 => {}
            1 => return Ok(by_id),
            several => {
                let message = format!("{several} containers here have ids that begin with {text}: give more digits");
                return Err(NotDone::Impossible(message));
            }
        }
        let (service, namespace) =
            text.split_once('.').map_or((text, None), |(service, namespace)| (service, Some(namespace)));
        let offers = |entry: &Entry| {
            entry.claim.offers.iter().any(|offer| {
                offer.service.as_str() == service && namespace.is_none_or(|wanted| offer.namespace.as_str() == wanted)
            })
        };
        let offering: BTreeSet<ShortId> = alive().filter(|(_, entry)| offers(entry)).map(|(id, _)| *id).collect();
        if offering.is_empty() {
            return Err(NotDone::NoSuch(format!(
                "nothing that runs on this host is called {text}, as a container or as a service: `portolan services` lists services, `docker ps` containers"
            )));
        }
        Ok(offering)
    }
}

#[cfg(test)]
mod tests;
