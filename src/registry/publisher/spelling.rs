//! Records of ours that say in other words what they said before.
//!
//! A new version may write what an old one left out. If all hosts of a fleet are upgraded within a minute, and each writes
//! its records again at once, etcd tells every host of every record: 1,000 hosts with 100 containers would pull some 45 GB out of
//! it for nothing. So what changes no meaning waits for a moment of its own within an hour, and is written by and by. A record
//! that changes anyway is written at once, in the new words.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    call::LeaseId,
    plan::Stored,
    record::{Interner, decode},
};
use crate::model::{Publication, ShortId, fnv1a};

/// The moments lie within this time from when a difference was first seen.
const WITHIN: Duration = Duration::from_secs(3600);
/// Records of one host that are written so within a second, at most.
const A_SECOND: usize = 5;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Spellings {
    waiting: BTreeMap<Vec<u8>, Spelling>,
    /// The next ones may be written from then on.
    not_before: Duration,
}

/// One record that waits: both of its values, and when it is written.
#[derive(Debug)]
struct Spelling {
    stored: Vec<u8>,
    wanted: Vec<u8>,
    due: Duration,
}

impl Spellings {
    /// Looks at all keys, and says which are not to be written yet.
    pub(super) fn look(
        &mut self,
        now: Duration,
        wanted: &BTreeMap<Vec<u8>, &[u8]>,
        stored: &BTreeMap<Vec<u8>, Stored>,
        lease: LeaseId,
    ) -> BTreeSet<Vec<u8>> {
        let mut before = std::mem::take(&mut self.waiting);
        for (key, wanted) in wanted {
            let Some(held) = stored.get(key).filter(|held| held.value != *wanted && held.lease == Some(lease)) else {
                continue;
            };
            let known = before.remove(key).filter(|known| known.stored == held.value && known.wanted == *wanted);
            let spelling = known.or_else(|| {
                let due = now + within(key);
                means_the_same(key, &held.value, wanted).then(|| Spelling {
                    stored: held.value.clone(),
                    wanted: wanted.to_vec(),
                    due,
                })
            });
            if let Some(spelling) = spelling {
                self.waiting.insert(key.clone(), spelling);
            }
        }
        let due = |(_, spelling): &(&Vec<u8>, &Spelling)| now >= self.not_before && spelling.due <= now;
        let may: BTreeSet<&Vec<u8>> = self.waiting.iter().filter(due).map(|(key, _)| key).take(A_SECOND).collect();
        if !may.is_empty() {
            self.not_before = now + Duration::from_secs(1);
        }
        self.waiting.keys().filter(|key| !may.contains(key)).cloned().collect()
    }

    /// When the next one may be written.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.waiting.values().map(|spelling| spelling.due).min().map(|due| due.max(self.not_before))
    }

    /// Whether a key that was written had waited for this value.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.waiting.remove(key).is_some_and(|spelling| spelling.wanted == value)
    }
}

/// Each key has a moment of its own, the same after every start.
fn within(key: &[u8]) -> Duration {
    let most = u64::try_from(WITHIN.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(fnv1a(&String::from_utf8_lossy(key)) % most)
}

fn means_the_same(key: &[u8], stored: &[u8], wanted: &[u8]) -> bool {
    let container = key.rsplit(|octet| *octet == b'/').next().and_then(|id| str::from_utf8(id).ok());
    // A session is none.
    let Some(container) = container.and_then(ShortId::parse) else { return false };
    let read = |value: &[u8]| -> Option<Publication> { decode(container, value, &mut Interner::default()).ok() };
    read(stored).is_some_and(|stored| read(wanted).as_ref() == Some(&stored))
}

#[cfg(test)]
impl Spellings {
    /// The moments of all that wait have come.
    pub(super) fn all_are_due(&mut self) {
        self.waiting.values_mut().for_each(|spelling| spelling.due = Duration::ZERO);
    }
}
