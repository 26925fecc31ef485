//! The full compare: all keys at one revision against what we hold, while the watch goes on.
//!
//! etcd has lost watch events before (D7). A compare finds that: what differs is looked at again after [`CATCH_UP`], for
//! the watch may just have been behind, and what then still differs is counted and cured by a new list.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use rand::{Rng, RngExt};

use super::{
    super::{
        call::{Header, KeyValue, Revision},
        record::Key,
    },
    CATCH_UP, COMPARE_EVERY, Call, Effect, MAX_GONE, Mirror, Watching,
    contents::Seen,
    pages::Pages,
};
use crate::model::HostId;

/// A full compare that is not complete yet.
#[derive(Debug)]
pub(super) struct Compare {
    pub(super) pages: Pages,
    /// Digests of the keys that etcd has; two keys of one digest would hide from us that one of them is absent.
    found: HashSet<u64>,
    /// Keys that mean nothing and that we showed as a problem when it began, but for those that are still there.
    meaningless: BTreeSet<Vec<u8>>,
    /// What differs, with what etcd has of it.
    suspects: BTreeMap<Key, Option<Seen>>,
    /// The last host of ours that has been looked for among `found`.
    looked_for: Option<HostId>,
}

impl Compare {
    /// There is something to do now.
    pub(super) fn has_piece(&self) -> bool {
        self.pages.has_piece() || self.pages.end().is_some()
    }
}

fn digest(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Mirror {
    pub(super) fn begin_compare(&mut self, effects: &mut Vec<Effect>) {
        self.gone.clear();
        self.call = Some(Call::Compare(Box::new(Compare {
            pages: self.first_page(effects),
            found: HashSet::new(),
            meaningless: self.contents.broken.keys().filter(|key| self.keys.parse(key).is_none()).cloned().collect(),
            suspects: BTreeMap::new(),
            looked_for: None,
        })));
    }

    pub(super) fn take_compared(
        &mut self,
        now: Duration,
        mut compare: Box<Compare>,
        header: Header,
        kvs: Vec<KeyValue>,
        more: bool,
        effects: &mut Vec<Effect>,
    ) {
        if header.cluster != self.view.cluster {
            return self.list_anew(now, "another cluster answers".into(), effects);
        }
        compare.pages.take(header, kvs, more);
        self.call = Some(Call::Compare(compare));
    }

    /// Goes on with a compare: with a piece of what etcd has or, once all that has come, of what we hold.
    pub(super) fn compare_on(
        &mut self,
        now: Duration,
        mut compare: Box<Compare>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let Compare { pages, found, meaningless, suspects, looked_for } = &mut *compare;
        if let Some(at) = pages.end() {
            let (keys, last) = self.contents.ledger.piece(looked_for.as_ref(), self.sizes.piece);
            for (key, _) in keys {
                if !found.contains(&digest(&key)) && self.differs(&key, None, at.revision) {
                    suspects.insert(key, None);
                }
            }
            *looked_for = last;
            if looked_for.is_none() {
                return self.take_compare(now, *compare, at, rng, effects);
            }
        } else if let Some(at) = pages.at() {
            for kv in pages.piece() {
                let Some(key) = self.keys.parse(&kv.key) else {
                    meaningless.remove(&kv.key);
                    continue;
                };
                found.insert(digest(&key));
                let seen = Some(Seen::of(&kv));
                if self.differs(&key, seen, at.revision) {
                    suspects.insert(key, seen);
                }
            }
            effects.extend(pages.ask(self.largest_page));
        }
        self.call = Some(Call::Compare(compare));
    }

    /// Takes in a compare that is complete.
    fn take_compare(
        &mut self,
        now: Duration,
        compare: Compare,
        at: Header,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        self.dare_more();
        let Compare { meaningless, suspects, .. } = compare;
        let gone = meaningless.iter().filter(|key| self.contents.broken.contains_key(*key)).count();
        if gone > 0 {
            self.status.repairs += gone as u64;
            return self.list_anew(now, format!("{gone} keys that mean nothing are gone from etcd"), effects);
        }
        if !suspects.is_empty() {
            self.suspects = Some((now + CATCH_UP, at.revision, suspects));
        }
        self.compare_later(now, rng);
    }

    /// Whether a key that etcd had as `found` when it was at `at` contradicts what we hold.
    fn differs(&self, key: &Key, found: Option<Seen>, at: Revision) -> bool {
        match (self.contents.ledger.get(key), found) {
            (Some(seen), Some(found)) => match seen.modified.cmp(&found.modified) {
                Ordering::Less => true,
                Ordering::Equal => seen.digest != found.digest,
                Ordering::Greater => seen.modified <= at,
            },
            (Some(seen), None) => seen.modified <= at,
            (None, Some(_)) => !self.gone.contains(key),
            (None, None) => false,
        }
    }

    pub(super) fn judge_suspects(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.suspects.as_ref().is_none_or(|(when, ..)| now < *when) {
            return;
        }
        let Some((_, at, suspects)) = self.suspects.take() else { return };
        if !matches!(self.watching, Watching::Created) || self.gone.len() > MAX_GONE {
            return;
        }
        let differing = suspects.iter().filter(|(key, found)| self.differs(key, **found, at)).count();
        if differing > 0 {
            tracing::error!(differing, "the watch lost changes: what we hold is not what etcd has");
            self.status.repairs += differing as u64;
            self.list_anew(now, format!("{differing} keys differ from etcd"), effects);
        }
    }

    pub(super) fn compare_later(&mut self, now: Duration, rng: &mut impl Rng) {
        self.compare_at = now + rng.random_range(COMPARE_EVERY.0..COMPARE_EVERY.1);
    }
}
