//! Bare names that a namespace has had, and has no more.
//!
//! `db` means the `db` of the asker's namespace, else that of `global`. For as long as a container restarts there is none in
//! the namespace, and its clients would be led to another team's. So a name that was lost is not looked for in `global` for
//! a while, however it was lost. This knows no clock: what the time is by now comes with each update.

use imbl::OrdMap;

use super::Key;

/// Seconds since 1970.
pub type Seconds = u64;

/// Names that are remembered at most: some 100 octets each. Beyond that the one that was lost first is forgotten.
pub const MAX_LOST: usize = 10_000;

/// The names that were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    now: Seconds,
    /// How long each is remembered; 0: nothing is.
    hold: Seconds,
    /// Until when.
    until: OrdMap<Key, Seconds>,
    /// The same in the order of time.
    order: OrdMap<(Seconds, Key), ()>,
}

impl Lost {
    /// The time is `now`, and names are remembered for `hold` seconds from when they were lost.
    pub(super) fn at(&mut self, now: Seconds, hold: Seconds) {
        self.now = now;
        if self.hold != hold {
            let all: Vec<(Key, Seconds)> = self.until.iter().map(|(key, until)| (key.clone(), *until)).collect();
            for (key, until) in all {
                self.put(key, until.saturating_sub(self.hold).saturating_add(hold));
            }
            self.hold = hold;
        }
        while let Some(((until, key), ())) = self.order.get_min() {
            if *until > now {
                break;
            }
            let key = key.clone();
            self.forget(&key);
        }
    }

    /// The next moment at which a name is over.
    pub(super) fn next(&self) -> Option<Seconds> {
        self.order.get_min().map(|((until, _), ())| *until)
    }

    /// A name is no more.
    pub(super) fn lose(&mut self, key: Key) {
        if self.hold > 0 {
            self.put(key, self.now.saturating_add(self.hold));
        }
    }

    /// The same, with the moment at which it is over.
    pub(super) fn lose_until(&mut self, key: Key, until: Seconds) {
        if self.hold > 0 && until > self.now {
            self.put(key, until);
        }
    }

    fn put(&mut self, key: Key, until: Seconds) {
        self.forget(&key);
        self.order.insert((until, key.clone()), ());
        self.until.insert(key, until);
        if self.until.len() > MAX_LOST
            && let Some(((_, oldest), ())) = self.order.get_min()
        {
            let oldest = oldest.clone();
            self.forget(&oldest);
        }
    }

    /// A name is there again, or an operator says that it may be looked for.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(until) = self.until.remove(key) {
            self.order.remove(&(until, key.clone()));
        }
    }

    /// Until when a name is held.
    pub(super) fn until(&self, key: &[u8]) -> Option<Seconds> {
        // Most hosts have lost nothing.
        if self.until.is_empty() { None } else { self.until.get(key).copied() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, Seconds)> {
        self.until.iter().map(|(key, until)| (key, *until))
    }
}
