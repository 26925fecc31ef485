//! What upstreams said, kept for as long as it is true, and a day longer for when they say nothing any more. Pure: time
//! is an argument.
//!
//! It is bounded by octets, everything counted that an entry takes. When it is full, S3-FIFO says who goes (Yang et al.,
//! SOSP 2023): a newcomer is on *probation* in a queue of a tenth of the room; whoever is asked for again there is
//! *protected* in the other nine tenths, the others leave only their fingerprint, by which they are protected at once
//! should they come back. So a flood of random names runs through the tenth and touches nothing that is used. A hit
//! moves nothing: it counts up to three, and each time an entry's turn to go comes it pays with one.
//!
//! The cache is split by a keyed hash into shards, each with a lock that is held for one look-up, so that threads seldom
//! meet and nobody can choose names that do.
//!
//! A failure is an entry, too (RFC 9520): for a second at first, twice as long each time up to [`MAX_RETRY`], nobody
//! upstream is bothered with that question. With an older answer at hand that is given instead (RFC 8767), and the pause is
//! [`STALE_RETRY`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{key, reply::Reply};

/// How long an answer is kept behind its end (RFC 8767 section 5 suggests one to three days).
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The pause after a first failure (RFC 9520 section 3.2: at least 1 s).
const MIN_RETRY: Duration = Duration::from_secs(1);

/// The longest pause. RFC 9520 allows five minutes; but a name that fails with its network must be back soon after it.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// The pause where there is an older answer to give (RFC 8767 section 5: "failure recheck timer", at least 30 s).
const STALE_RETRY: Duration = Duration::from_secs(30);

/// Octets that an entry takes besides its key and its message: its slot, the message's own header, its places in the
/// index and in a queue, and the allocator's rounding.
const OVERHEAD: usize = size_of::<Option<Slot>>() + size_of::<Reply>() + 16 + 24 + 8 + 32;

/// The smallest shard: entries of 4 KiB still find room in an eighth of it.
const MIN_SHARD: usize = 128 * 1024;

/// Most shards: several times the threads there are.
const MAX_SHARDS: usize = 32;

/// The part of a shard that is for newcomers, as S3-FIFO's authors found best.
const PROBATION: usize = 10;

/// One entry may take this part of its shard.
const LARGEST: usize = 8;

/// Fingerprints of those who went, per octet of the shard: as many as entries of average size find room, at 32 octets
/// each a sixteenth of the shard, which is part of its bound.
const OCTETS_PER_GHOST: usize = 512;
const GHOST: usize = 32;

/// How often an entry can pay for staying.
const MAX_HITS: u8 = 3;

/// What a look-up finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// True still, and so many seconds old.
    Fresh(Arc<Reply>, u32),
    /// Older than it should be; ask again now, or not yet.
    Stale(Arc<Reply>, Again),
    /// Nobody knew a moment ago.
    Failed,
    /// Ask.
    Nothing,
}

/// Whether an upstream should be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Now,
    NotYet,
}

/// How the cache stands. Counters count since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Questions in it, failures included.
    pub entries: u64,
    /// Octets they take, everything counted.
    pub octets: u64,
    /// The most octets they may take; 0: there is no cache.
    pub limit: u64,
    /// Looked up and true still.
    pub hits: u64,
    /// Looked up, and an upstream had to be asked.
    pub misses: u64,
    /// Looked up, and known to have failed a moment ago: nobody was asked.
    pub failures: u64,
    /// Entries that had to make room.
    pub evictions: u64,
}

/// The cache. Every method takes `&self`.
pub(super) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// What was stored before the last change of upstreams is of another generation, and no longer fresh.
    generation: AtomicU32,
}

impl Cache {
    /// One of at most so many octets; 0: it holds nothing.
    pub(super) fn new(octets: usize) -> Self {
        let shards = (octets / MIN_SHARD).clamp(1, MAX_SHARDS);
        // A power of two, so that bits of the hash choose.
        let shards = 1 << shards.ilog2();
        let shards = (0..shards).map(|_| Mutex::new(Shard::new(octets / shards))).collect();
        Self { shards, hasher: RandomState::new(), generation: AtomicU32::new(0) }
    }

    /// What there is on a question. Where that is not enough it counts for nothing: whoever then asks an upstream goes on to
    /// [`Cache::look`].
    pub(super) fn known(&self, key: &[u8], now: Instant) -> Found {
        self.find(key, now, false)
    }

    /// What there is on a question; unless that is enough, an upstream is asked.
    pub(super) fn look(&self, key: &[u8], now: Instant) -> Found {
        self.find(key, now, true)
    }

    fn find(&self, key: &[u8], now: Instant, will_ask: bool) -> Found {
        let (hash, mut shard) = self.shard(key);
        let generation = self.generation.load(Relaxed);
        let mut held = shard.get(hash, key);
        let found = held.as_ref().map_or(Found::Nothing, |held| held.found(generation, now));
        let is_enough = !matches!(found, Found::Stale(_, Again::Now) | Found::Nothing);
        if let Some(held) = held.as_mut().filter(|_| is_enough || will_ask) {
            // Whoever comes back for it after its end has asked for it, too.
            held.hits = (held.hits + 1).min(MAX_HITS);
        }
        match &found {
            Found::Fresh(..) => shard.counts.hits += 1,
            Found::Failed | Found::Stale(_, Again::NotYet) => shard.counts.failures += 1,
            Found::Stale(_, Again::Now) | Found::Nothing => shard.counts.misses += u64::from(will_ask),
        }
        found
    }

    /// To be given to [`Cache::store`] and [`Cache::fail`] with what is asked for from now on.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// Keeps an answer for its lifetime; one without stays out, and takes an older one along.
    pub(super) fn store(&self, key: &[u8], reply: &Arc<Reply>, generation: u32, now: Instant) {
        let (hash, mut shard) = self.shard(key);
        if reply.lifetime == 0 {
            return shard.remove(hash, key);
        }
        let fresh_until = now + Duration::from_secs(reply.lifetime.into());
        let answer = Some(Answer { reply: Arc::clone(reply), stored: now, fresh_until });
        shard.put(hash, Held { key: key.into(), answer, retry_at: now, failures: 0, hits: 0, generation }, now);
    }

    /// Notes that nobody knew, of those upstreams who were there in that generation. An older answer stays.
    pub(super) fn fail(&self, key: &[u8], generation: u32, now: Instant) {
        let (hash, mut shard) = self.shard(key);
        if generation != self.generation.load(Relaxed) {
            return;
        }
        if let Some(held) = shard.get(hash, key) {
            if let Some(answer) = held.answer.as_mut().filter(|_| held.generation != generation) {
                answer.fresh_until = answer.fresh_until.min(now);
            }
            held.generation = generation;
            held.failures = held.failures.saturating_add(1);
            let doubled = MIN_RETRY.saturating_mul(1 << (held.failures - 1).min(16)).min(MAX_RETRY);
            held.retry_at = now + if held.answer.is_some() { STALE_RETRY } else { doubled };
            return;
        }
        let retry_at = now + MIN_RETRY;
        shard.put(hash, Held { key: key.into(), answer: None, retry_at, failures: 1, hits: 0, generation }, now);
    }

    /// Nothing in it counts as true any more, as the upstreams are others now. It stays for when they know nothing.
    pub(super) fn outdate(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Forgets everything, or a name (in wire form, lower case) and all below it. How many entries went.
    pub(super) fn flush(&self, name: Option<&[u8]>) -> usize {
        self.shards.iter().map(|shard| lock(shard).flush(|key| name.is_none_or(|name| is_below(key, name)))).sum()
    }

    /// How it stands.
    pub(super) fn counts(&self) -> CacheCounts {
        let mut sum = CacheCounts::default();
        for shard in &self.shards {
            let shard = lock(shard);
            sum.entries += shard.index.len() as u64;
            sum.octets += (shard.octets() + shard.ghosts.len() * GHOST) as u64;
            sum.limit += shard.limit as u64;
            sum.hits += shard.counts.hits;
            sum.misses += shard.counts.misses;
            sum.failures += shard.counts.failures;
            sum.evictions += shard.counts.evictions;
        }
        sum
    }

    fn shard(&self, key: &[u8]) -> (u64, MutexGuard<'_, Shard>) {
        let hash = self.hasher.hash_one(key);
        // The index takes its bits from both ends.
        let place = usize::try_from(hash >> 24 & 0xffff).unwrap_or(0) & (self.shards.len() - 1);
        (hash, lock(&self.shards[place]))
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A panic below the lock would be ours, in a cache: what is there is as good as any.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a key's name is that name, or ends in it.
fn is_below(key: &[u8], name: &[u8]) -> bool {
    let mut rest = key::name(key);
    loop {
        if rest.len() <= name.len() {
            return rest == name;
        }
        let label = usize::from(rest[0]) + 1;
        rest = rest.get(label..).unwrap_or_default();
    }
}

/// One question, and what is known of it.
struct Held {
    key: Box<[u8]>,
    answer: Option<Answer>,
    /// Nobody is asked again before.
    retry_at: Instant,
    failures: u8,
    hits: u8,
    generation: u32,
}

struct Answer {
    reply: Arc<Reply>,
    stored: Instant,
    fresh_until: Instant,
}

impl Held {
    fn fresh(&self, generation: u32, now: Instant) -> Option<(Arc<Reply>, u32)> {
        let answer = self.answer.as_ref().filter(|answer| self.generation == generation && now < answer.fresh_until)?;
        // Below its lifetime, so below a day.
        let age = u32::try_from(now.saturating_duration_since(answer.stored).as_secs()).unwrap_or(u32::MAX);
        Some((Arc::clone(&answer.reply), age))
    }

    fn found(&self, generation: u32, now: Instant) -> Found {
        if let Some((reply, age)) = self.fresh(generation, now) {
            return Found::Fresh(reply, age);
        }
        // Other upstreams may know better.
        let again = if now < self.retry_at && self.generation == generation { Again::NotYet } else { Again::Now };
        match (&self.answer, again) {
            (Some(answer), again) if now < answer.fresh_until + STALE => Found::Stale(Arc::clone(&answer.reply), again),
            (_, Again::NotYet) => Found::Failed,
            (_, Again::Now) => Found::Nothing,
        }
    }

    /// Whether it is of no use to anybody any more.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.retry_at && self.answer.as_ref().is_none_or(|answer| now >= answer.fresh_until + STALE)
    }

    fn octets(&self) -> usize {
        OVERHEAD + self.key.len() + self.answer.as_ref().map_or(0, |answer| answer.reply.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Probation,
    Protected,
}

struct Slot {
    held: Held,
    segment: Segment,
}

/// One part of the cache.
struct Shard {
    limit: usize,
    /// Where each is, by its hash. Two keys with one hash of 64 bits push each other out, which nobody will live to see.
    index: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Hash and place, oldest first.
    probation: VecDeque<(u64, usize)>,
    protected: VecDeque<(u64, usize)>,
    on_probation: usize,
    in_protection: usize,
    ghosts: HashSet<u64, BuildHasherDefault<AsIs>>,
    gone: VecDeque<u64>,
    counts: CacheCounts,
}

impl Shard {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            probation: VecDeque::new(),
            protected: VecDeque::new(),
            on_probation: 0,
            in_protection: 0,
            ghosts: HashSet::default(),
            gone: VecDeque::new(),
            counts: CacheCounts::default(),
        }
    }

    fn octets(&self) -> usize {
        self.on_probation + self.in_protection
    }

    /// What entries may take: the rest is for fingerprints.
    fn room(&self) -> usize {
        self.limit - self.limit / OCTETS_PER_GHOST * GHOST
    }

    fn get(&mut self, hash: u64, key: &[u8]) -> Option<&mut Held> {
        let place = *self.index.get(&hash)?;
        self.slots.get_mut(place)?.as_mut().map(|slot| &mut slot.held).filter(|held| *held.key == *key)
    }

    /// Puts an entry in, in the place of one with its hash if there is one, and makes room for it.
    fn put(&mut self, hash: u64, mut held: Held, now: Instant) {
        let octets = held.octets();
        if octets > self.room() / LARGEST {
            return self.remove(hash, &held.key);
        }
        if let Some(slot) = self.index.get(&hash).and_then(|place| self.slots.get_mut(*place)).and_then(Option::as_mut)
        {
            held.hits = slot.held.hits;
            let before = std::mem::replace(&mut slot.held, held).octets();
            let sum = match slot.segment {
                Segment::Probation => &mut self.on_probation,
                Segment::Protected => &mut self.in_protection,
            };
            *sum = *sum + octets - before;
        } else {
            let segment = if self.ghosts.remove(&hash) { Segment::Protected } else { Segment::Probation };
            let slot = Some(Slot { held, segment });
            let place = match self.free.pop() {
                Some(place) => {
                    self.slots[place] = slot;
                    place
                }
                None => {
                    self.slots.push(slot);
                    self.slots.len() - 1
                }
            };
            self.index.insert(hash, place);
            match segment {
                Segment::Probation => {
                    self.probation.push_back((hash, place));
                    self.on_probation += octets;
                }
                Segment::Protected => {
                    self.protected.push_back((hash, place));
                    self.in_protection += octets;
                }
            }
        }
        while self.octets() > self.room() && self.make_room(now) {}
    }

    /// Looks at one entry whose turn it is: it moves on, stays once more, or goes. `false`: there is none.
    fn make_room(&mut self, now: Instant) -> bool {
        let from_probation = self.on_probation > self.room() / PROBATION || self.protected.is_empty();
        let queue = if from_probation { &mut self.probation } else { &mut self.protected };
        let Some((hash, place)) = queue.pop_front() else { return false };
        let Some(slot) = self.slots.get_mut(place).and_then(Option::as_mut) else { return true };
        let octets = slot.held.octets();
        let stays = slot.held.hits > 0 && !slot.held.is_over(now);
        match (stays, from_probation) {
            (true, true) => {
                slot.held.hits = 0;
                slot.segment = Segment::Protected;
                self.protected.push_back((hash, place));
                self.on_probation -= octets;
                self.in_protection += octets;
            }
            (true, false) => {
                slot.held.hits -= 1;
                self.protected.push_back((hash, place));
            }
            (false, _) => {
                self.forget(hash, place);
                self.counts.evictions += 1;
                if from_probation {
                    self.remember(hash);
                }
            }
        }
        true
    }

    /// Keeps the fingerprint of one that went.
    fn remember(&mut self, hash: u64) {
        if self.ghosts.insert(hash) {
            self.gone.push_back(hash);
        }
        while self.gone.len() > self.limit / OCTETS_PER_GHOST {
            if let Some(oldest) = self.gone.pop_front() {
                self.ghosts.remove(&oldest);
            }
        }
    }

    /// Empties a slot that stands in no queue any more.
    fn forget(&mut self, hash: u64, place: usize) {
        if let Some(slot) = self.slots.get_mut(place).and_then(Option::take) {
            match slot.segment {
                Segment::Probation => self.on_probation -= slot.held.octets(),
                Segment::Protected => self.in_protection -= slot.held.octets(),
            }
            self.index.remove(&hash);
            self.free.push(place);
        }
    }

    /// Removes one. It is rare, so the queues may be walked.
    fn remove(&mut self, hash: u64, key: &[u8]) {
        if self.get(hash, key).is_none() {
            return;
        }
        let Some(place) = self.index.get(&hash).copied() else { return };
        for queue in [&mut self.probation, &mut self.protected] {
            queue.retain(|(_, other)| *other != place);
        }
        self.forget(hash, place);
    }

    fn flush(&mut self, goes: impl Fn(&[u8]) -> bool) -> usize {
        let slots = &self.slots;
        let gone: Vec<(u64, usize)> = self
            .index
            .iter()
            .filter(|(_, place)| slots[**place].as_ref().is_some_and(|slot| goes(&slot.held.key)))
            .map(|(hash, place)| (*hash, *place))
            .collect();
        let places: HashSet<usize> = gone.iter().map(|(_, place)| *place).collect();
        for queue in [&mut self.probation, &mut self.protected] {
            queue.retain(|(_, place)| !places.contains(place));
        }
        gone.iter().for_each(|(hash, place)| self.forget(*hash, *place));
        gone.len()
    }
}

/// What it is given is a keyed hash already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        // Not called for numbers; still a hash.
        octets.iter().for_each(|octet| self.0 = self.0.rotate_left(8) ^ u64::from(*octet));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests;
