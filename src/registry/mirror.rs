//! Follows what every host has in the registry. A state machine without IO: inputs and the time go in, effects come
//! out, and [`Mirror::wake_at`] says when to call again without an input.
//!
//! ```text
//! list, page by page at one revision ─► swap it in whole ─► watch from the next revision ─► one swap per delivery
//!        ▲                                                        │            ▲    │ broken: resume after the
//!        └── compacted, gap, repeat, other cluster, difference ◄──┘            └────┘ last revision, with a pause
//! ```
//!
//! **Nothing is patched.** A change that does not follow from what we hold (a delete of what we never had, a key created
//! at a revision we did not see, a revision that does not grow) means that the watch lost or repeated something: we list
//! anew. Until the new list is complete the old view stands, so that no failure empties an answer (P2, I7).
//!
//! **A watch that is silent is not trusted.** Our own writes and, every 10 s, our echo must come back over the watch
//! within [`PROOF_WITHIN`]; else it is watched anew, then listed anew. What even that does not find, a full compare does.
//!
//! **Broken values** harm only themselves: they are skipped, counted, and shown as problems.
//!
//! **Failure.** With etcd gone the view stays as it is, is marked stale, and everything is retried for ever with a
//! growing, jittered pause. A list at a lower revision than ours (an etcd restored from a backup) is believed only when
//! it has been seen three times in a row, and what it lacks is held until its hosts had the time to write it again
//! (`held.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;
use rand::{Rng, RngExt};

use self::{
    compare::Compare,
    contents::{Contents, Seen},
    held::Held,
    list::Draft,
    pages::Pages,
};
use super::{
    call::{CallError, Change, Failing, Header, Reply, Request, Revision, WatchEvent, WatchRange, Why},
    record::{Interner, Key, Keys},
};
use crate::model::{Externals, Host, HostId, Origin, Problem};

pub use self::pages::PageSizes;

mod compare;
mod contents;
mod held;
mod list;
mod pages;
#[cfg(test)]
mod tests;

/// Our own writes and echoes come back over a living watch within this time: an etcd that is overloaded still manages.
pub const PROOF_WITHIN: Duration = Duration::from_secs(5);
/// A new watch is confirmed within this time.
const CREATED_WITHIN: Duration = Duration::from_secs(5);
/// Longest silence of a watch: two echoes.
const SILENCE: Duration = Duration::from_secs(20);
/// Without a watch for this long we say that we are stale; shorter breaks are none of anybody's business.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// Two lists are at least this far apart, whatever is wrong with the watch.
const LIST_EVERY: Duration = Duration::from_millis(500);
/// A full compare happens between these, at random: no fleet does it at once.
const COMPARE_EVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));
/// What a compare found different is looked at again after this time: the watch may just have been behind.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Deletions remembered during a compare; with more it is given up.
const MAX_GONE: usize = 10_000;
/// Pauses after failures: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often a list has to show a lower revision of the same cluster to be believed.
const BACKWARDS: u32 = 3;

/// What is known of all hosts. Immutable; made by the [`Mirror`].
#[derive(Clone, Debug, Default)]
pub struct View {
    /// etcd's cluster id.
    pub cluster: u64,
    /// The last revision that changed `hosts`, or that of the list. Never falls within one `cluster`.
    pub revision: Revision,
    /// The registry has been listed since we started.
    pub listed: bool,
    /// The revision that last wrote this host's own session; 0: it is not there.
    pub session: Revision,
    /// The revision that this host has to acknowledge as soon as it answers from it; 0: nobody waits for that.
    pub asked: Revision,
    /// When the registry was last heard, if that is too long ago; since the agent's start.
    pub stale_since: Option<Duration>,
    /// All hosts, keyed as in the catalog so that merging copies nothing; [`Origin::Own`] is never among them.
    pub hosts: OrdMap<Origin, Arc<Host>>,
    /// What operators registered.
    pub externals: Externals,
    /// What could not be read, by key.
    pub problems: Arc<[Problem]>,
    /// How many keys that is.
    pub undecodable: usize,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// To [`Effect::Call`].
    Replied(Result<Reply, CallError>),
    /// The watch of the last [`Effect::Watch`] told this.
    Watched(WatchEvent),
    /// The publisher wrote keys of ours at this revision.
    Wrote(Revision),
    /// The publisher wrote our echo at this revision.
    Echoed(Revision),
    /// Nothing, but it is time.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this call; answered by [`Input::Replied`]. At most one is in flight.
    Call(Request),
    /// Watch [`Mirror::ranges`] from this revision on, instead of what was watched before.
    Watch(Revision),
    /// Stop watching.
    Unwatch,
    /// Keys of our own host changed at this revision. 0: they may have, for etcd has gone back or is another one.
    Touched(Revision),
}

/// How it goes, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Full lists taken.
    pub relists: u64,
    /// Differences that a full compare found.
    pub repairs: u64,
    /// Watches that did not prove to be alive.
    pub stalls: u64,
    /// Changes that did not follow from what we held.
    pub gaps: u64,
    /// What last went wrong; `None` when all is well.
    pub last_error: Option<String>,
    /// The registry cannot be followed: every try since has failed. A watch that ends is no failure by itself; the try to
    /// watch again may be one.
    pub failing: Option<Failing>,
}

/// What the call in flight is for.
#[derive(Debug)]
enum Call {
    /// A page of it is on its way, or what has come is worked on, or both.
    List(Box<Draft>),
    /// As with a list.
    Compare(Box<Compare>),
    /// Nothing any more.
    Abandoned,
}

#[derive(Debug)]
enum Watching {
    No,
    Asked { until: Duration, reached: Revision },
    Created,
}

/// Something that a living watch tells soon.
#[derive(Clone, Copy, Debug, Default)]
struct Proof {
    seen: Revision,
    /// The last that was said to come.
    latest: Revision,
    expected: Option<(Revision, Duration)>,
}

/// Mirrors all hosts.
#[derive(Debug)]
pub struct Mirror {
    keys: Keys,
    own: HostId,
    listed: WatchRange,
    contents: Contents,
    held: Held,
    interner: Interner,
    view: Arc<View>,
    must_list: bool,
    /// How often in a row a list showed that etcd has gone back; it may have overtaken us since.
    backwards: u32,
    /// etcd has been here: at our last list, or our own last write since. The catalog's revision may be far behind that, and
    /// an etcd that went back has soon overtaken it.
    reached: Revision,
    listed_at: Duration,
    call: Option<Call>,
    watching: Watching,
    heard_at: Duration,
    wrote: Proof,
    echo: Proof,
    /// Both proofs failed once since the last list.
    doubted: bool,
    compare_at: Duration,
    /// While a compare runs: what was deleted meanwhile.
    gone: BTreeSet<Key>,
    /// What a compare found, to be judged then: the revision in etcd at the compared one.
    suspects: Option<(Duration, Revision, BTreeMap<Key, Option<Seen>>)>,
    not_before: Duration,
    failures: u32,
    /// Keys of a page at most; fewer after one that did not come.
    largest_page: i64,
    sizes: PageSizes,
    status: Status,
}

impl Mirror {
    /// A mirror that knows nothing yet, for the agent of host `own`.
    pub fn new(keys: Keys, own: HostId) -> Self {
        Self {
            listed: keys.catalog_range(),
            keys,
            own,
            contents: Contents::default(),
            held: Held::default(),
            interner: Interner::default(),
            view: Arc::default(),
            must_list: true,
            backwards: 0,
            reached: 0,
            listed_at: Duration::ZERO,
            call: None,
            watching: Watching::No,
            heard_at: Duration::ZERO,
            wrote: Proof::default(),
            echo: Proof::default(),
            doubted: false,
            compare_at: Duration::MAX,
            gone: BTreeSet::new(),
            suspects: None,
            not_before: Duration::ZERO,
            failures: 0,
            largest_page: PageSizes::default().largest,
            sizes: PageSizes::default(),
            status: Status::default(),
        }
    }

    /// The same with other pages: a simulation has few keys.
    #[must_use]
    pub fn with_pages(self, sizes: PageSizes) -> Self {
        Self { sizes, largest_page: sizes.largest, ..self }
    }

    /// What [`Effect::Watch`] watches: external services and all hosts, and our own echo.
    pub fn ranges(&self) -> Vec<WatchRange> {
        vec![self.listed.clone(), self.keys.echo_range(&self.own)]
    }

    /// The registry is listed and every change is seen.
    pub fn is_following(&self) -> bool {
        !self.must_list && matches!(self.watching, Watching::Created)
    }

    /// What is known. The same `Arc` until something changes.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// How it goes.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// A list or a compare can go on: call [`handle`](Self::handle) again as soon as nothing else is to be done.
    pub fn is_reading(&self) -> bool {
        match &self.call {
            Some(Call::List(draft)) => draft.pages.has_piece(),
            Some(Call::Compare(compare)) => compare.has_piece(),
            None | Some(Call::Abandoned) => false,
        }
    }

    /// When to call [`handle`](Self::handle) with [`Input::Tick`] if nothing else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        let idle = self.call.is_none();
        let watching = match self.watching {
            Watching::No => (!self.must_list).then_some(self.not_before),
            Watching::Asked { until, .. } => Some(until),
            Watching::Created => [self.wrote, self.echo]
                .iter()
                .filter_map(|proof| Some(proof.expected?.1))
                .chain([self.heard_at + SILENCE])
                .min(),
        };
        let list = (self.must_list && idle).then_some(self.not_before);
        let compare = (self.can_compare() && idle).then_some(self.compare_at);
        let judge = self.suspects.as_ref().map(|suspects| suspects.0);
        let read = self.is_reading().then_some(Duration::ZERO);
        let stale = self.view.stale_since.is_none().then(|| self.stale_at());
        [watching, list, compare, judge, read, stale, self.release_at()].into_iter().flatten().min()
    }

    /// Takes in what happened and says what to do now.
    pub fn handle(&mut self, now: Duration, input: Input, rng: &mut impl Rng) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Replied(outcome) => self.take_reply(now, outcome, rng, &mut effects),
            Input::Watched(event) => self.take_event(now, event, rng, &mut effects),
            Input::Wrote(revision) => {
                self.reached = self.reached.max(revision);
                self.wrote.expect(revision, now);
            }
            Input::Echoed(revision) => {
                self.reached = self.reached.max(revision);
                self.echo.expect(revision, now);
            }
            Input::Tick => {}
        }
        self.advance(now, rng, &mut effects);
        self.refresh_stale(now);
        effects
    }

    fn advance(&mut self, now: Duration, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        self.read_on(now, rng, effects);
        self.judge_watch(now, rng, effects);
        self.judge_suspects(now, effects);
        self.release(now);
        if now >= self.not_before && !self.must_list && matches!(self.watching, Watching::No) {
            self.watching = Watching::Asked { until: now + CREATED_WITHIN, reached: self.reached() };
            effects.push(Effect::Watch(self.view.revision + 1));
        }
        if self.call.is_some() {
            return;
        }
        if self.must_list {
            if now >= self.not_before {
                self.begin_list(now, self.reached(), effects);
            }
        } else if self.can_compare() && now >= self.compare_at {
            self.begin_compare(effects);
        }
    }

    /// Begins to read all that is listed.
    fn first_page(&self, effects: &mut Vec<Effect>) -> Pages {
        let mut pages = Pages::of(&self.listed, self.sizes);
        effects.extend(pages.ask(self.largest_page));
        pages
    }

    fn read_on(&mut self, now: Duration, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        match self.call.take() {
            Some(Call::List(draft)) => self.list_on(now, draft, rng, effects),
            Some(Call::Compare(compare)) => self.compare_on(now, compare, rng, effects),
            call => self.call = call,
        }
    }

    /// Where etcd has been, as far as we know.
    fn reached(&self) -> Revision {
        self.reached.max(self.view.revision)
    }

    fn can_compare(&self) -> bool {
        !self.must_list && self.suspects.is_none() && matches!(self.watching, Watching::Created)
    }

    fn take_reply(
        &mut self,
        now: Duration,
        outcome: Result<Reply, CallError>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let call = self.call.take();
        match (call, outcome) {
            (None | Some(Call::Abandoned), _) => {}
            (Some(Call::List(draft)), Ok(Reply::Range { header, kvs, more })) => {
                self.take_page(now, draft, header, kvs, more, rng);
            }
            (Some(Call::Compare(compare)), Ok(Reply::Range { header, kvs, more })) => {
                self.take_compared(now, compare, header, kvs, more, effects);
            }
            (Some(Call::List(_)), Ok(_)) => {
                self.fail(now, Why::Overtaken("etcd answered another question".into()), rng);
            }
            (Some(Call::List(draft)), Err(error)) => {
                self.dare_less(&draft.pages, &error);
                self.fail(now, Why::from(&error), rng);
            }
            (Some(Call::Compare(compare)), Err(error)) => {
                self.dare_less(&compare.pages, &error);
                self.compare_later(now, rng);
            }
            (Some(Call::Compare(_)), Ok(_)) => self.compare_later(now, rng),
        }
    }

    /// Pages that come late are asked for smaller; what could not be asked at all says nothing about them.
    fn dare_less(&mut self, pages: &Pages, error: &CallError) {
        if matches!(error, CallError::Unknown(_)) {
            self.largest_page = pages.less();
        }
    }

    fn dare_more(&mut self) {
        self.largest_page = (2 * self.largest_page).min(self.sizes.largest);
    }

    fn take_event(&mut self, now: Duration, event: WatchEvent, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        if matches!(self.watching, Watching::No) {
            return;
        }
        let header = match &event {
            WatchEvent::Created { header } | WatchEvent::Changes { header, .. } | WatchEvent::Progress { header } => {
                *header
            }
            WatchEvent::Compacted { .. } => {
                return self.list_anew(now, "what we had not seen yet has been compacted away".into(), effects);
            }
            WatchEvent::Broken(reason) => return self.lose_watch(now, Why::Silent(reason.clone()), rng),
            WatchEvent::Denied(reason) => return self.lose_watch(now, Why::Refused(reason.clone()), rng),
        };
        if header.cluster != self.view.cluster {
            return self.list_anew(now, "another cluster answers".into(), effects);
        }
        if let (WatchEvent::Created { .. }, Watching::Asked { reached, .. }) = (&event, &self.watching)
            && header.revision < *reached
        {
            // The same cluster went back, as after a restored backup: a watch from the future would stay silent.
            return self.list_anew(now, format!("etcd is at revision {}, before ours", header.revision), effects);
        }
        self.heard_at = now;
        match event {
            WatchEvent::Created { .. } => {
                self.watching = Watching::Created;
                self.failures = 0;
                self.status.last_error = None;
                self.status.failing = None;
                self.wrote.restart(now);
                self.echo.restart(now);
                self.held.restart(now);
            }
            WatchEvent::Changes { changes, .. } => self.take_changes(now, header, changes, effects),
            _ => {}
        }
    }

    fn take_changes(&mut self, now: Duration, header: Header, changes: Vec<Change>, effects: &mut Vec<Effect>) {
        let known = self.view.revision;
        let mut last = known;
        for change in changes {
            let revision = change.mod_revision();
            match self.keys.parse(change.key()) {
                Some(Key::Echo(_)) => {
                    self.echo.see(revision, now);
                    continue;
                }
                Some(key) => {
                    let is_own = matches!(&key, Key::Session(host) | Key::Instance(host, _) if *host == self.own);
                    if is_own && effects.last() != Some(&Effect::Touched(revision)) {
                        effects.push(Effect::Touched(revision));
                    }
                    let compares = matches!(self.call, Some(Call::Compare(_))) || self.suspects.is_some();
                    self.held.hear(now, &key, &change);
                    if compares && matches!(change, Change::Delete { .. }) && self.gone.len() <= MAX_GONE {
                        self.gone.insert(key);
                    }
                }
                None => {}
            }
            let outcome = if revision <= known || revision < last {
                Err(contents::Gap(revision))
            } else {
                self.contents.apply(&self.keys, change, &mut self.interner)
            };
            if let Err(gap) = outcome {
                self.status.gaps += 1;
                return self.list_anew(now, gap.to_string(), effects);
            }
            last = revision;
        }
        self.wrote.see(last, now);
        if last > known {
            self.publish(Header { cluster: header.cluster, revision: last });
        }
    }

    /// A watch that is not confirmed, silent, or does not tell what it must, is not trusted any longer.
    fn judge_watch(&mut self, now: Duration, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        let reason = match self.watching {
            Watching::No => return,
            Watching::Asked { until, .. } if now >= until => "the watch was not confirmed",
            Watching::Created if self.wrote.has_failed(now) || self.echo.has_failed(now) => {
                self.status.stalls += 1;
                tracing::warn!("our own write did not come back over the watch: following anew");
                if self.doubted {
                    return self.list_anew(now, "our own writes do not come back over the watch".into(), effects);
                }
                self.doubted = true;
                "our own write did not come back over the watch"
            }
            Watching::Created if now >= self.heard_at + SILENCE => "the watch is silent",
            _ => return,
        };
        effects.push(Effect::Unwatch);
        self.lose_watch(now, Why::Silent(reason.into()), rng);
        if self.doubted {
            // Nobody is down: watch anew at once.
            self.not_before = now;
        }
    }

    fn list_anew(&mut self, now: Duration, reason: String, effects: &mut Vec<Effect>) {
        tracing::info!(reason, "listing the registry anew");
        self.status.last_error = Some(reason);
        self.must_list = true;
        self.suspects = None;
        if let Some(Call::Compare(compare)) = &self.call {
            self.call = compare.pages.is_asked().then_some(Call::Abandoned);
        }
        if !matches!(self.watching, Watching::No) {
            self.watching = Watching::No;
            effects.push(Effect::Unwatch);
        }
        self.not_before = if self.status.relists > 1 { now.max(self.listed_at + LIST_EVERY) } else { now };
    }

    fn publish(&mut self, at: Header) {
        let known: &[Problem] = &self.view.problems;
        let is_same = known.iter().eq(self.contents.broken.values());
        let problems =
            if is_same { Arc::clone(&self.view.problems) } else { self.contents.broken.values().cloned().collect() };
        self.view = Arc::new(View {
            cluster: at.cluster,
            revision: at.revision,
            listed: true,
            session: self.contents.ledger.session(&self.own).map_or(0, |seen| seen.modified),
            asked: self.contents.asked_of(&self.own),
            stale_since: self.view.stale_since,
            hosts: self.contents.hosts.clone(),
            externals: self.contents.externals.clone(),
            undecodable: problems.len(),
            problems,
        });
    }

    fn stale_at(&self) -> Duration {
        let patience = if matches!(self.watching, Watching::Created) { SILENCE } else { STALE_AFTER };
        self.heard_at + patience
    }

    fn refresh_stale(&mut self, now: Duration) {
        let stale_since = (now >= self.stale_at()).then_some(self.heard_at);
        if self.view.stale_since != stale_since {
            Arc::make_mut(&mut self.view).stale_since = stale_since;
        }
    }

    /// The watch has ended, or could not be had. One that ends is no failure by itself: the member may just be restarting.
    fn lose_watch(&mut self, now: Duration, why: Why, rng: &mut impl Rng) {
        match std::mem::replace(&mut self.watching, Watching::No) {
            Watching::Created => self.back_off(now, why.text().to_owned(), rng),
            Watching::No | Watching::Asked { .. } => self.fail(now, why, rng),
        }
    }

    /// A try to list or to watch has failed.
    fn fail(&mut self, now: Duration, why: Why, rng: &mut impl Rng) {
        let text = why.text().to_owned();
        self.status.failing = Some(Failing::again(self.status.failing.take(), self.heard_at, now, why));
        self.back_off(now, text, rng);
    }

    /// Tries again after a pause.
    fn back_off(&mut self, now: Duration, reason: String, rng: &mut impl Rng) {
        let longest = BACKOFF.0.saturating_mul(1 << self.failures.min(10)).min(BACKOFF.1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + rng.random_range(longest / 2..=longest);
        self.status.last_error = Some(reason);
    }
}

impl Proof {
    fn expect(&mut self, revision: Revision, now: Duration) {
        self.latest = self.latest.max(revision);
        if revision > self.seen && self.expected.is_none() {
            self.expected = Some((revision, now + PROOF_WITHIN));
        }
    }

    fn see(&mut self, revision: Revision, now: Duration) {
        self.seen = self.seen.max(revision);
        if self.expected.is_some_and(|(expected, _)| expected <= revision) {
            self.expected = (self.latest > self.seen).then_some((self.latest, now + PROOF_WITHIN));
        }
    }

    fn restart(&mut self, now: Duration) {
        self.expected = self.expected.map(|(expected, _)| (expected, now + PROOF_WITHIN));
    }

    fn has_failed(&self, now: Duration) -> bool {
        self.expected.is_some_and(|(_, until)| now >= until)
    }
}
