//! The full compare: all keys at one revision against what we hold, while the watch goes on.
//!
//! etcd has lost watch events before (D7). A compare finds that: what differs is looked at again after [`CATCH_UP`], for
//! the watch may just have been behind, and what then still differs is counted and cured by a new list.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, RngExt};

use super::{
    super::{
        call::{Header, KeyValue, Revision, WatchRange},
        record::Key,
    },
    CATCH_UP, COMPARE_EVERY, Call, Effect, MAX_GONE, Mirror, Watching,
    contents::Seen,
    list::Paging,
};

/// A full compare that is not complete yet.
#[derive(Debug)]
pub(super) struct Compare {
    pub(super) paging: Paging,
    found: BTreeMap<Key, Seen>,
    /// Keys that mean nothing and that we show as a problem: they are still there.
    meaningless: BTreeSet<Vec<u8>>,
}

impl Compare {
    pub(super) fn new(range: &WatchRange) -> Self {
        Self { paging: Paging::new(range), found: BTreeMap::new(), meaningless: BTreeSet::new() }
    }
}

impl Mirror {
    pub(super) fn ask(&mut self, mut compare: Compare, effects: &mut Vec<Effect>) {
        effects.extend(compare.paging.ask(&self.listed, self.largest_page));
        self.call = Some(Call::Compare(compare));
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one reply")]
    pub(super) fn take_compared(
        &mut self,
        now: Duration,
        mut compare: Compare,
        header: Header,
        kvs: &[KeyValue],
        more: bool,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        compare.paging.take(header, kvs, more);
        if header.cluster != self.view.cluster {
            return self.list_anew(now, "another cluster answers".into(), effects);
        }
        compare.found.extend(kvs.iter().filter_map(|kv| Some((self.keys.parse(&kv.key)?, Seen::of(kv)))));
        let is_meaningless = |key: &[u8]| self.keys.parse(key).is_none();
        let shown = kvs.iter().filter(|kv| self.contents.broken.contains_key(&kv.key) && is_meaningless(&kv.key));
        compare.meaningless.extend(shown.map(|kv| kv.key.clone()));
        if compare.paging.has_more() {
            return self.ask(compare, effects);
        }
        let Compare { paging, found, meaningless } = compare;
        let at = paging.at.unwrap_or(header);
        // No revision is known of those. One that was put just now may be taken for gone: that costs a list.
        let is_gone = |key: &&Vec<u8>| is_meaningless(key) && !meaningless.contains(*key);
        let gone = self.contents.broken.keys().filter(is_gone).count();
        if gone > 0 {
            self.status.repairs += gone as u64;
            return self.list_anew(now, format!("{gone} keys that mean nothing are gone from etcd"), effects);
        }
        let absent =
            self.contents.ledger.iter().filter(|(key, _)| !found.contains_key(key)).map(|(key, _)| (key, None));
        let mut suspects: BTreeMap<_, _> = absent.collect();
        suspects.extend(found.into_iter().map(|(key, seen)| (key, Some(seen))));
        suspects.retain(|key, found| self.differs(key, *found, at.revision));
        if suspects.is_empty() {
            return self.compare_later(now, rng);
        }
        self.suspects = Some((now + CATCH_UP, at.revision, suspects));
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
