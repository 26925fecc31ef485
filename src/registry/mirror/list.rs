//! The full list: all keys at one revision, page by page, beside the view that stands meanwhile.
//!
//! A start into a large fleet, and every recovery, waits for this. What it costs and what is done about it:
//!
//! - **etcd walks its index to the end of the range for every page**, to count, whatever the limit is (3.4, 3.5:
//!   `treeIndex.Revisions`). 100,000 keys in pages of 1,000 take a bare reader three times as long as in pages of 5,000, and
//!   etcd that much more of its processor. So pages are cut by their size, [`PAGE_OCTETS`], not by a number of keys.
//! - **The next page is on its way while the last one is decoded**, never more than that: memory is bounded.
//! - **Decoding goes piece by piece**, so that what this host publishes meanwhile has its turn in between.

use std::{collections::VecDeque, time::Duration};

use rand::Rng;

use super::{
    super::call::{Header, KeyValue, Request, Revision, WatchRange},
    Call, Effect, Mirror, Proof,
    contents::Contents,
};

/// What a page should weigh, keys and values.
const PAGE_OCTETS: usize = 4 << 20;
/// Keys of the first page, before it is known what they weigh.
const FIRST_PAGE: i64 = 1_000;
/// However heavy its values are, a page has so many keys; what is too large for a reply comes in parts.
const SMALLEST_PAGE: i64 = 100;
/// However light they are.
pub(super) const LARGEST_PAGE: i64 = 10_000;
/// Records decoded at a time, some 2 ms.
const PIECE: usize = 250;

/// Where a paged read at one revision is.
#[derive(Debug)]
pub(super) struct Paging {
    /// What the first page said; all others are read at its revision.
    pub(super) at: Option<Header>,
    /// Where the next page begins; `None`: there is none.
    next: Option<Vec<u8>>,
    limit: i64,
}

impl Paging {
    /// From the beginning of a range.
    pub(super) fn new(range: &WatchRange) -> Self {
        Self { at: None, next: Some(range.start.clone()), limit: FIRST_PAGE }
    }

    /// Takes note of a page that has come; says whether it is of the same cluster as the ones before.
    pub(super) fn take(&mut self, header: Header, kvs: &[KeyValue], more: bool) -> bool {
        self.next = kvs.last().filter(|_| more).map(|last| [last.key.as_slice(), b"\0"].concat());
        let octets: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let fit = PAGE_OCTETS.saturating_mul(kvs.len()).checked_div(octets).unwrap_or_default();
        self.limit = i64::try_from(fit).unwrap_or(LARGEST_PAGE).clamp(SMALLEST_PAGE, LARGEST_PAGE);
        self.at.get_or_insert(header).cluster == header.cluster
    }

    /// Asks for the next page, of at most `largest` keys; `None`: there is none.
    pub(super) fn ask(&mut self, range: &WatchRange, largest: i64) -> Option<Effect> {
        self.limit = self.limit.min(largest);
        let revision = self.at.map(|header| header.revision);
        let request = Request::Range { start: self.next.clone()?, end: range.end.clone(), limit: self.limit, revision };
        Some(Effect::Call(request))
    }

    /// Another page is to come.
    pub(super) fn has_more(&self) -> bool {
        self.next.is_some()
    }
}

/// A list that is not complete yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) paging: Paging,
    /// Where etcd had been when it was asked for: a write of ours may overtake the reply.
    reached: Revision,
    /// etcd was further then, and we have come to believe that it went back.
    is_behind: bool,
    /// A page is on its way.
    asked: bool,
    /// What has come and is not decoded yet.
    raw: VecDeque<KeyValue>,
    contents: Contents,
}

impl Draft {
    /// Asks for the next page, as long as no more than a page waits.
    fn ask(&mut self, range: &WatchRange, largest: i64) -> Option<Effect> {
        let fits = i64::try_from(self.raw.len()).is_ok_and(|waiting| waiting <= self.paging.limit);
        let effect = (fits && !self.asked).then(|| self.paging.ask(range, largest)).flatten();
        self.asked |= effect.is_some();
        effect
    }

    pub(super) fn is_reading(&self) -> bool {
        !self.raw.is_empty()
    }
}

impl Mirror {
    /// Begins a list; etcd had been at `reached`.
    pub(super) fn list(&mut self, reached: Revision) {
        self.call = Some(Call::List(Box::new(Draft {
            paging: Paging::new(&self.listed),
            reached,
            is_behind: false,
            asked: false,
            raw: VecDeque::new(),
            contents: Contents::default(),
        })));
    }

    pub(super) fn take_page(
        &mut self,
        now: Duration,
        mut draft: Box<Draft>,
        header: Header,
        kvs: Vec<KeyValue>,
        more: bool,
        rng: &mut impl Rng,
    ) {
        let is_first = draft.paging.at.is_none();
        if !draft.paging.take(header, &kvs, more) {
            return self.fail(now, "another cluster answered in the middle of a list".into(), rng);
        }
        if is_first {
            let reached = draft.reached;
            let found = header.revision;
            draft.is_behind = self.view.listed && header.cluster == self.view.cluster && found < reached;
            if draft.is_behind && self.backwards + 1 < super::BACKWARDS {
                self.backwards += 1;
                let reason = format!("etcd is at revision {found}, but was at {reached}: restored from a backup?");
                return self.fail(now, reason, rng);
            }
        }
        self.heard_at = now;
        draft.asked = false;
        draft.raw.extend(kvs);
        self.call = Some(Call::List(draft));
    }

    /// Goes on with a list: asks for its next page, and decodes a piece of what has come.
    pub(super) fn read_on(&mut self, now: Duration, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        let Some(Call::List(mut draft)) = self.call.take_if(|call| matches!(call, Call::List(_))) else { return };
        // Before decoding, so that it is on its way meanwhile; and after, for what waited may have been too much.
        effects.extend(draft.ask(&self.listed, self.largest_page));
        let is_known = draft.paging.at.is_some_and(|at| at.cluster == self.view.cluster) && !draft.is_behind;
        let known = is_known.then_some(&self.contents);
        for kv in draft.raw.drain(..PIECE.min(draft.raw.len())) {
            draft.contents.list(&self.keys, kv, &mut self.interner, known);
        }
        effects.extend(draft.ask(&self.listed, self.largest_page));
        match draft.paging.at {
            Some(at) if !draft.asked && !draft.paging.has_more() && draft.raw.is_empty() => {
                self.take_list(now, at, draft.is_behind, draft.contents, rng, effects);
            }
            _ => self.call = Some(Call::List(draft)),
        }
    }

    /// Swaps in a list that is complete.
    fn take_list(
        &mut self,
        now: Duration,
        at: Header,
        is_behind: bool,
        mut contents: Contents,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        if is_behind || self.backwards > 0 || self.view.listed && at.cluster != self.view.cluster {
            effects.push(Effect::Touched(0));
            self.held.hold(now, &self.own, &self.contents, &contents);
        } else {
            self.held.compare(now, &self.contents, &contents);
        }
        self.held.carry(&self.contents, &mut contents);
        contents.share_with(&self.view);
        self.contents = contents;
        self.must_list = false;
        self.reached = at.revision;
        self.backwards = 0;
        self.failures = 0;
        self.doubted = false;
        self.not_before = now;
        self.largest_page = (2 * self.largest_page).min(LARGEST_PAGE);
        self.status.relists += 1;
        self.status.last_error = None;
        // What was written before is in the list; a later write proves the next watch.
        self.wrote = Proof { seen: at.revision, expected: None };
        self.echo = self.wrote;
        self.listed_at = now;
        self.compare_later(now, rng);
        self.publish(at);
    }

    /// A page that does not come is asked for smaller: the way to etcd may be narrow, and a list that fails at its largest page
    /// each time never ends.
    pub(super) fn ask_less(&mut self, paging: &Paging) {
        self.largest_page = (paging.limit / 2).max(SMALLEST_PAGE);
    }
}
