//! Which events were already taken, so that a replay after a reconnect does not withdraw what has come back since.
//!
//! We ask for the last two seconds once more on every connection. Without this memory a `die` that was long followed by
//! its `start` would end the container a second time.

use std::collections::{BTreeSet, VecDeque};

/// Twice Docker's own replay depth of 256 events.
const DEPTH: usize = 512;

/// The last events that were taken, by what makes each unique: its time in nanoseconds, whom it is about, and what it was.
#[derive(Debug, Default)]
pub struct Replay {
    order: VecDeque<Mark>,
    taken: BTreeSet<Mark>,
}

type Mark = (i64, String, String);

impl Replay {
    /// Whether this event is taken for the first time, as far as we remember.
    pub fn is_new(&mut self, nanoseconds: i64, actor: &str, action: &str) -> bool {
        let mark = (nanoseconds, actor.to_owned(), action.to_owned());
        if !self.taken.insert(mark.clone()) {
            return false;
        }
        self.order.push_back(mark);
        if self.order.len() > DEPTH
            && let Some(oldest) = self.order.pop_front()
        {
            self.taken.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_new_once() {
        let mut replay = Replay::default();
        assert!(replay.is_new(1, "a", "die"));
        assert!(replay.is_new(2, "a", "die"));
        assert!(replay.is_new(1, "b", "die"));
        assert!(replay.is_new(1, "a", "start"));
        assert!(!replay.is_new(1, "a", "die"));
    }

    #[test]
    fn the_memory_is_bounded_and_covers_dockers_own() {
        let mut replay = Replay::default();
        let depth = i64::try_from(DEPTH).unwrap();
        (0..depth * 3).for_each(|time| assert!(replay.is_new(time, "a", "die")));
        assert_eq!((replay.order.len(), replay.taken.len()), (DEPTH, DEPTH));
        (depth * 3 - 256..depth * 3).for_each(|time| assert!(!replay.is_new(time, "a", "die")));
    }
}
