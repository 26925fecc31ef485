//! All keys at one revision, page by page: what a list and a compare read.
//!
//! - **etcd walks its index to the end of the range for every page**, to count, whatever the limit is (3.4 and 3.5,
//!   `KV.Range`). 100,000 keys in pages of 1,000 take a bare reader three times as long as in pages of 10,000, and etcd that
//!   much more of its processor. So pages are cut by their weight, [`PageSizes::octets`], not by a number of keys.
//! - **The next page is on its way while the last one is worked on**, and one page waits at most: memory is bounded.
//! - **Work goes piece by piece**, so that what this host publishes meanwhile has its turn in between.

use std::collections::VecDeque;

use super::{
    super::call::{Header, KeyValue, Request, WatchRange, next_page},
    Effect,
};

/// How much is read and worked on at a time.
#[derive(Clone, Copy, Debug)]
pub struct PageSizes {
    /// Keys of the first page, before it is known what they weigh.
    pub first: i64,
    /// However heavy its values are, a page has so many keys; what is too large for a reply comes in parts.
    pub smallest: i64,
    /// However light they are.
    pub largest: i64,
    /// What a page should weigh, keys and values.
    pub octets: usize,
    /// Keys worked on at a time.
    pub piece: usize,
}

impl Default for PageSizes {
    /// A piece takes some 2 ms where its values are decoded.
    fn default() -> Self {
        Self { first: 1_000, smallest: 100, largest: 10_000, octets: 4 << 20, piece: 250 }
    }
}

/// A page has at most so many times the keys of the one before: what comes may be heavier.
const GROWTH: usize = 4;

/// Where a read of a range is.
#[derive(Debug)]
pub(super) struct Pages {
    sizes: PageSizes,
    range: WatchRange,
    /// What the first page said; all others are read at its revision.
    at: Option<Header>,
    /// Where the next page begins; `None`: there is none.
    next: Option<Vec<u8>>,
    limit: i64,
    /// A page is on its way.
    asked: bool,
    /// What has come and is not worked on yet.
    raw: VecDeque<KeyValue>,
}

impl Pages {
    /// From the beginning of a range.
    pub(super) fn of(range: &WatchRange, sizes: PageSizes) -> Self {
        let (range, next) = (range.clone(), Some(range.start.clone()));
        Self { sizes, range, at: None, next, limit: sizes.first, asked: false, raw: VecDeque::new() }
    }

    /// Asks for the next page, of at most `largest` keys, if there is one and not more than a page waits.
    pub(super) fn ask(&mut self, largest: i64) -> Option<Effect> {
        let waiting = i64::try_from(self.raw.len()).unwrap_or(i64::MAX);
        if self.asked || waiting > self.limit {
            return None;
        }
        let start = self.next.clone()?;
        self.asked = true;
        self.limit = self.limit.min(largest);
        let revision = self.at.map(|header| header.revision);
        Some(Effect::Call(Request::Range { start, end: self.range.end.clone(), limit: self.limit, revision }))
    }

    /// Takes in a page that has come.
    pub(super) fn take(&mut self, header: Header, kvs: Vec<KeyValue>, more: bool) {
        self.asked = false;
        self.at.get_or_insert(header);
        self.next = next_page(&kvs, more);
        let octets: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let fit = self.sizes.octets.saturating_mul(kvs.len()).checked_div(octets).unwrap_or_default();
        let fit = i64::try_from(fit.min(GROWTH * kvs.len())).unwrap_or(i64::MAX);
        self.limit = fit.clamp(self.sizes.smallest, self.sizes.largest);
        self.raw.extend(kvs);
    }

    /// The next keys to work on.
    pub(super) fn piece(&mut self) -> impl Iterator<Item = KeyValue> {
        self.raw.drain(..self.sizes.piece.min(self.raw.len()))
    }

    /// What the first page said.
    pub(super) fn at(&self) -> Option<Header> {
        self.at
    }

    /// A page is on its way.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Something waits to be worked on.
    pub(super) fn has_piece(&self) -> bool {
        !self.raw.is_empty()
    }

    /// All has come and has been worked on: at this revision.
    pub(super) fn end(&self) -> Option<Header> {
        self.at.filter(|_| !self.asked && self.next.is_none() && self.raw.is_empty())
    }

    /// How large pages may be after this one did not come in time: the way to etcd may be narrow, and what fails at its
    /// largest page each time never ends. Not much smaller than a first page, for many pages cost etcd more than they save;
    /// a page that was smaller is heavy, and stays.
    pub(super) fn less(&self) -> i64 {
        (self.limit / 2).max(self.sizes.first / 4).max(1)
    }
}
