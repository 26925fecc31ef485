//! The same question, asked once: whoever comes while it is under way waits for the same answer.
//!
//! Questions under way are bounded, and so are those who wait for one of them. The table forgets a question when its
//! answer is told, also when the task that was to get it dies: the [`Duty`] to tell is dropped then, and those who wait
//! are told of a failure.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::reply::Reply;

/// What became of a question.
pub(super) type Outcome = Result<Arc<Reply>, Unanswered>;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Nobody who was asked knew.
    Failed,
    /// Too much is open already, so that nobody was asked.
    Busy,
}

/// Questions under way.
#[derive(Debug)]
pub(super) struct Flights {
    limit: usize,
    waiters: usize,
    table: Mutex<HashMap<Box<[u8]>, Flight>>,
}

#[derive(Debug)]
struct Flight {
    outcome: watch::Sender<Option<Outcome>>,
    started: Instant,
}

/// What one gets who wants to know.
pub(super) enum Boarding {
    /// It is under way since then.
    Joined(Ticket),
    /// Nobody asks yet: do so, and tell.
    First(Ticket, Duty),
    /// Too many questions are under way, or too many wait for this one.
    Full,
}

/// The right to be told.
pub(super) struct Ticket {
    outcome: watch::Receiver<Option<Outcome>>,
    /// When the question was first asked.
    pub(super) started: Instant,
}

impl Ticket {
    /// Waits for the outcome. Whoever stops waiting costs nothing further.
    pub(super) async fn outcome(mut self) -> Outcome {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(Unanswered::Failed)),
            Err(_) => Err(Unanswered::Failed),
        }
    }
}

/// The duty to tell.
pub(super) struct Duty {
    flights: Arc<Flights>,
    key: Box<[u8]>,
    is_done: bool,
}

impl Duty {
    /// Tells everybody.
    pub(super) fn tell(mut self, outcome: Outcome) {
        // The same question may be under way again before this ends.
        self.is_done = true;
        if let Some(flight) = self.flights.remove(&self.key) {
            flight.outcome.send_replace(Some(outcome));
        }
    }

    /// The question.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if !self.is_done {
            // Without a sender those who wait learn that there will be no answer.
            self.flights.remove(&self.key);
        }
    }
}

impl Flights {
    pub(super) fn new(limit: usize, waiters: usize) -> Arc<Self> {
        Arc::new(Self { limit, waiters, table: Mutex::default() })
    }

    /// Joins those who wait for this question, or begins it.
    pub(super) fn board(self: &Arc<Self>, key: &[u8], now: Instant) -> Boarding {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = table.get(key) {
            if flight.outcome.receiver_count() >= self.waiters {
                return Boarding::Full;
            }
            return Boarding::Joined(Ticket { outcome: flight.outcome.subscribe(), started: flight.started });
        }
        if table.len() >= self.limit {
            return Boarding::Full;
        }
        let (sender, outcome) = watch::channel(None);
        table.insert(key.into(), Flight { outcome: sender, started: now });
        Boarding::First(
            Ticket { outcome, started: now },
            Duty { flights: Arc::clone(self), key: key.into(), is_done: false },
        )
    }

    /// How many questions are under way.
    pub(super) fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn remove(&self, key: &[u8]) -> Option<Flight> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(flights: &Arc<Flights>, key: &[u8]) -> (Ticket, Duty) {
        match flights.board(key, Instant::now()) {
            Boarding::First(ticket, duty) => (ticket, duty),
            _ => panic!("not the first"),
        }
    }

    fn joined(flights: &Arc<Flights>, key: &[u8]) -> Ticket {
        match flights.board(key, Instant::now()) {
            Boarding::Joined(ticket) => ticket,
            _ => panic!("not joined"),
        }
    }

    #[tokio::test]
    async fn all_who_wait_are_told_and_the_next_one_asks_anew() {
        let flights = Flights::new(2, 3);
        let (a, duty) = first(&flights, b"a");
        let (b, c) = (joined(&flights, b"a"), joined(&flights, b"a"));
        assert!(matches!(flights.board(b"a", Instant::now()), Boarding::Full), "three wait");
        duty.tell(Err(Unanswered::Busy));
        for ticket in [a, b, c] {
            assert_eq!(ticket.outcome().await, Err(Unanswered::Busy));
        }
        first(&flights, b"a");
    }

    #[tokio::test]
    async fn whoever_leaves_makes_room_and_a_dead_task_leaves_nobody_waiting() {
        let flights = Flights::new(2, 2);
        let (a, duty) = first(&flights, b"a");
        drop(joined(&flights, b"a"));
        let b = joined(&flights, b"a");
        let (_ticket, _other) = first(&flights, b"b");
        assert!(matches!(flights.board(b"c", Instant::now()), Boarding::Full), "two are under way");
        drop(duty);
        assert_eq!((a.outcome().await, b.outcome().await), (Err(Unanswered::Failed), Err(Unanswered::Failed)));
        assert_eq!(flights.len(), 1);
    }
}
