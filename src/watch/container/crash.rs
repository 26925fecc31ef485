//! Crash loops: a container whose restart policy starts it again and again serves for a moment each time, or only seems to.
//!
//! A run that the policy began after one of under ten seconds is *held*: it is given only while no other instance of its
//! service is ready, until it has lived as long as the run before it did. A longer run before it holds nothing, nor does a
//! run that a person or the engine's own start began. Where there is a health check, that decides, and nothing is held.
//!
//! Lifetimes follow from the engine's events, by its own clock. Of a run whose start was not heard nothing is known: an agent
//! that has only just come holds from the second crash on.

use std::time::Duration;

use super::{Containers, Ticket, Wish};
use crate::model::{Health, ShortId};

/// A run of under this is a crash's.
const SHORT: Duration = Duration::from_secs(10);

/// What is known of a container's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::watch) struct Runs {
    /// When the present run began, in nanoseconds since 1970 by the engine's clock.
    began: Option<u64>,
    /// How long the run before it lived.
    former: Option<Duration>,
    /// Until this is over, the present run is held.
    hold: Option<Ticket>,
    /// Whether the present run is held was decided.
    decided: bool,
}

impl Runs {
    pub(super) fn begin(&mut self, now: u64) {
        (self.began, self.hold, self.decided) = (Some(now), None, false);
    }

    pub(super) fn end(&mut self, now: u64) {
        self.former = self.began.take().map(|began| Duration::from_nanos(now.saturating_sub(began)));
        (self.hold, self.decided) = (None, false);
    }

    /// Events may have been missed: nothing is known of how long anything lived.
    pub(super) fn forget(&mut self) {
        (self.began, self.former) = (None, None);
    }

    pub(in crate::watch) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    fn crashed(&self) -> Option<Duration> {
        self.former.filter(|lived| *lived < SHORT)
    }
}

impl Containers {
    /// Takes whether crash loops are held at all.
    pub fn set_crash_hold(&mut self, on: bool) {
        self.without_hold = !on;
    }

    /// Takes the engine's clock at the event that comes next, in nanoseconds since 1970.
    pub fn take_time(&mut self, now: u64) {
        self.engine_time = now;
    }

    /// Whether only an inspect can tell that a container which starts is to be held.
    pub(super) fn may_be_held(&self, id: ShortId) -> bool {
        self.entries.get(&id).is_some_and(|entry| {
            let itself = entry.inspected.as_ref().is_some_and(|inspected| inspected.restarts_itself);
            !self.without_hold && itself && entry.runs.crashed().is_some()
        })
    }

    /// Holds a container whose restart policy has just started it again after a short run. The wish is for its end.
    pub(super) fn hold(&mut self, id: ShortId) -> Option<Wish> {
        let without_hold = self.without_hold;
        let entry = self.entries.get_mut(&id)?;
        let inspected = entry.inspected.as_ref().filter(|inspected| inspected.state.is_alive())?;
        let by_policy = inspected.restarts > 0 && inspected.health == Health::None;
        if std::mem::replace(&mut entry.runs.decided, true) || !by_policy || without_hold {
            return None;
        }
        let time = entry.runs.crashed()?;
        let ticket = self.ticket();
        let entry = self.entries.get_mut(&id)?;
        entry.runs.hold = Some(ticket);
        Some(Wish::Wait { id: entry.id.clone(), ticket, time })
    }

    /// The container has lived as long as its run before.
    pub(super) fn lived(&mut self, id: ShortId, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.runs.hold == Some(ticket)
        {
            entry.runs.hold = None;
            self.changes.touch(id);
        }
    }
}

#[cfg(test)]
mod tests;
