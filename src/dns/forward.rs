//! Names of others: asked of an upstream on behalf of our asker, and remembered. \[IO\]
//!
//! In comes a query as the client sent it, out goes what to send back. EDNS is between two neighbours only (RFC 6891), so
//! the query that goes up is made anew from what the answer depends on (`key.rs`): name, type, class, RD, CD, DO. What
//! comes back is read once (`reply.rs`), kept (`cache.rs`), and copied for each who asks.
//!
//! ```text
//! query ─► cache ─ fresh ──────────────────────────────────────────────────────────────► reply
//!            └─ no ─► flight: asked already? ─ no ─► race ─► exchange ─► upstream ─► cache ─┤
//!                         └─ yes: wait for the same ───────────────────────────────────────┤
//!                       1.8 s without an answer, or a failure: an older one if there is ────┘
//! ```
//!
//! The cache keeps working when the upstreams do not (RFC 8767): an answer that is over is kept for a day and given with a
//! TTL of 30 s when nobody upstream answers within [`Options::patience`], while the asking goes on behind the scenes. A failure
//! is remembered, too, for moments (RFC 9520). [`Forwarder::at_once`] is for the threads that answer: it looks, takes
//! one lock of many for that long, and waits for nothing. It says so, too, when there is nobody to ask: then a question that
//! nobody can answer costs little more than one that is known.
//!
//! `race.rs` asks the likeliest upstream first and the next one as soon as that is slow; `score.rs` says who is likely, and
//! who is down and not asked at all. `exchange.rs` makes one question hard to forge (RFC 5452). What is open at a time is
//! bounded: questions, those who wait for one, sockets.
//!
//! Upstreams come from `--upstream`, for all names or for those below a domain, or from resolv.conf, which is followed
//! (`source.rs`, `follow.rs`). When they change, nothing in the cache counts as true any more. We are never among them:
//! addresses we listen on are left out, however they came in, and `probe.rs` finds those that lead back to us in another way.
//! Where nothing is left the answer is REFUSED, so that Docker tries its next server, and [`Forwarder::problems`] says why.
//! A file that cannot be read leaves the list as it was.
//!
//! Deliberately absent: validation (an upstream's AD is handed on to whoever asks for it), and any wish to judge what an
//! upstream says, but for addresses inside networks where the operator wants that (`private.rs`). Our own
//! zone and most single labels never leave; `answer.rs` sees to that, and a check here makes sure. Names that belong to the site
//! are asked only of upstreams that may know them, and denied here where there are none (`site.rs`).

use std::{
    collections::BTreeSet,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use hickory_proto::rr::{Name, RecordType};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{timeout, timeout_at},
};

use super::{
    name::Apex,
    special::{self, Finding},
    wire::{ResponseCode, Transport, Why, failure, from_empty_zone},
};
use crate::model::{Local, Problem};

mod cache;
mod counts;
mod exchange;
mod flight;
mod follow;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod key;
mod message;
mod options;
mod private;
mod probe;
mod race;
mod reply;
mod resolv;
mod score;
mod site;
mod source;
mod suffix;

pub use cache::CacheCounts;
pub use counts::ForwardCounts;
pub use options::{Chosen, DEFAULT_CACHE, Options, PrivateAnswers, Upstreams};
pub use score::Standing;
pub use site::SiteNames;
pub use source::{name_servers, search_list};
pub use suffix::{Suffix, SuffixError};

use cache::{Again, Cache, Found};
use counts::{Counters, count};
use flight::{Boarding, Duty, Flights, Outcome, Unanswered};
use key::Key;
use message::{Asked, Question};
use probe::{Probes, Way, is_probe};
use reply::{Age, Inside};
use score::Scores;
use site::Whom;
use source::Current;

/// Questions under way to upstreams, whoever waits for them: half of those that may wait (`Limits::forwarding`), for
/// each may have two sockets.
const MAX_FLIGHTS: usize = 512;

/// Who may wait for one question. A service of 100 containers that starts asks for one name a few times each.
const MAX_WAITERS: usize = 256;

/// Sockets to upstreams. With 512 TCP connections of clients some hundred descriptors of the usual 1,024 are left.
const MAX_SOCKETS: usize = 384;

/// Room for most answers.
const USUAL_REPLY: usize = 512;

/// How an upstream stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    /// The domain that it is asked about; `None`: all others.
    pub domain: Option<String>,
    /// Where it is.
    pub address: SocketAddr,
    /// What was seen of it.
    pub standing: Standing,
    /// It leads back to us, and is not asked.
    pub is_looping: bool,
}

/// What becomes of a name that is to be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// These are asked.
    Asked(Vec<SocketAddr>),
    /// It is the site's and denied here, because these, which are asked for other names, may not be asked for it.
    Denied(Vec<SocketAddr>),
    /// It is refused: there is no upstream.
    NoUpstream,
    /// It never leaves.
    Stays,
}

/// Asks upstreams. One per agent; every method takes `&self`. Dropping it ends everything that is under way.
pub struct Forwarder {
    inner: Arc<Inner>,
}

/// What the tasks share.
struct Inner {
    options: Options,
    /// Those of the options at first.
    chosen: watch::Sender<Arc<Chosen>>,
    /// The labels of our zone's apex, first to last.
    apex: Vec<Box<[u8]>>,
    wanted: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
    local: watch::Receiver<Arc<Local>>,
    /// What the options mean, and that without those that lead back to us.
    configured: ArcSwap<Current>,
    current: ArcSwap<Current>,
    /// Told when `configured` has changed.
    changed: watch::Sender<()>,
    cache: Cache,
    flights: Arc<Flights>,
    scores: Mutex<Scores>,
    probes: Mutex<Probes>,
    sockets: Semaphore,
    tasks: Mutex<JoinSet<()>>,
    counters: Counters,
}

impl Forwarder {
    /// Reads the list of upstreams at once. `wanted` holds the addresses we listen on, `local` those of this host.
    pub fn new(
        options: Options,
        apex: &Apex,
        wanted: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
        local: watch::Receiver<Arc<Local>>,
    ) -> Self {
        let inner = Inner {
            apex: apex.name().iter().map(Box::from).collect(),
            wanted,
            local,
            chosen: watch::Sender::new(Arc::new(options.chosen.clone())),
            configured: ArcSwap::default(),
            current: ArcSwap::default(),
            changed: watch::Sender::default(),
            cache: Cache::new(options.cache),
            flights: Flights::new(MAX_FLIGHTS, MAX_WAITERS),
            scores: Mutex::default(),
            probes: Mutex::default(),
            sockets: Semaphore::new(MAX_SOCKETS),
            tasks: Mutex::default(),
            counters: Counters::default(),
            options,
        };
        inner.look();
        Self { inner: Arc::new(inner) }
    }

    /// Keeps the list of upstreams right: follows the files, our listeners and our addresses, and probes for loops. Never
    /// returns.
    pub async fn follow(&self) {
        tokio::join!(self.inner.follow_sources(), self.inner.probe_for_ever());
    }

    /// Writes the reply to a well-formed query to `out` if nobody need be asked for it: `true`. That is one which is true
    /// still, or, where nobody can be asked at the moment, an older one or SERVFAIL. Waits for nothing; `now` is the time of
    /// the batch. `false` says nothing but that [`Forwarder::forward`] must be asked; `out` is as it was then.
    pub fn at_once(&self, packet: &[u8], transport: Transport, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some(asked) = Asked::of(packet) else { return false };
        let inner = &self.inner;
        if special::may_be(asked.question.name)
            && !is_probe(asked.question.name)
            && let Some(reply) = inner.denied(&asked, transport)
        {
            count(&inner.counters.asked);
            *out = reply;
            return true;
        }
        let older = match inner.cache.known(Key::of(&asked).octets(), now) {
            Found::Fresh(reply, age) => {
                inner.write(&reply, Age::Seconds(age), For::Client, &asked, transport, out);
                return true;
            }
            Found::Failed => None,
            Found::Stale(reply, Again::NotYet) => Some(reply),
            Found::Stale(reply, Again::Now) if inner.nobody_replies(&asked.question) => Some(reply),
            Found::Nothing if inner.nobody_replies(&asked.question) => None,
            Found::Stale(_, Again::Now) | Found::Nothing => return false,
        };
        let Some(reply) = inner.fall_back(&asked, packet, For::Client, transport, older) else { return false };
        count(&inner.counters.asked);
        *out = reply;
        true
    }

    /// Gets the answer to one well-formed query, for a client that is waiting over `transport`. The packet to send
    /// back, or `None` when the query was no query.
    pub async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        self.ask(query, transport, For::Client).await
    }

    /// Gets the whole answer to a query that the operator's own words lead to: wherever they lead, it is handed on.
    pub async fn follow_name(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.ask(query, Transport::Tcp, For::Operator).await
    }

    async fn ask(&self, query: &[u8], transport: Transport, whom: For) -> Option<Vec<u8>> {
        let inner = &self.inner;
        let counters = &inner.counters;
        count(&counters.asked);
        let Some(asked) = Asked::of(query) else { return failure(query, ResponseCode::FormErr, None, true) };
        if query[2] & 0x80 != 0 {
            return None;
        }
        let withheld = || {
            count(&counters.withheld);
            failure(query, ResponseCode::Refused, Some(Why::Withheld), true)
        };
        if inner.is_ours(&asked.question) || inner.is_own_probe(&asked.question) {
            return withheld();
        }
        let upstreams = match inner.current.load().whom_for(&asked.question) {
            Whom::Upstreams(upstreams) => Arc::clone(upstreams),
            Whom::Here(found) => return inner.empty(&asked, found, transport),
            Whom::Stays => return withheld(),
            Whom::NoUpstream => {
                count(&counters.refused);
                return failure(query, ResponseCode::Refused, Some(Why::NoUpstream), true);
            }
        };
        let write = |reply: &reply::Reply, age| {
            let mut out = Vec::with_capacity(USUAL_REPLY);
            inner.write(reply, Age::Seconds(age), whom, &asked, transport, &mut out);
            count(&counters.answered);
            Some(out)
        };
        let key = Key::of(&asked);
        let (outcome, older) = match inner.cache.look(key.octets(), Instant::now()) {
            Found::Fresh(reply, age) => return write(&reply, age),
            Found::Failed => (Err(Unanswered::Failed), None),
            Found::Stale(reply, Again::NotYet) => (Err(Unanswered::Failed), Some(reply)),
            Found::Stale(reply, Again::Now) => (inner.ask(&key, upstreams, Waits::WithAnother).await, Some(reply)),
            Found::Nothing => (inner.ask(&key, upstreams, Waits::WithNothing).await, None),
        };
        match outcome {
            Ok(reply) => write(&reply, 0),
            Err(_) => inner.fall_back(&asked, query, whom, transport, older),
        }
    }

    /// The reply to a query that is answered here although its name is that of others: the site's, and no upstream may be
    /// asked for it.
    pub fn denied(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        self.inner.denied(&Asked::of(packet)?, transport)
    }

    /// What becomes of a name that is to be forwarded, for people.
    pub fn course(&self, name: &Name, kind: RecordType) -> Course {
        let labels: Vec<&[u8]> = name.iter().collect();
        let current = self.inner.current.load();
        match current.whom(&labels, kind.into()) {
            Whom::Upstreams(upstreams) => Course::Asked(upstreams.to_vec()),
            Whom::Here(_) => Course::Denied(current.general.to_vec()),
            Whom::NoUpstream => Course::NoUpstream,
            Whom::Stays => Course::Stays,
        }
    }

    /// The operator has chosen otherwise: others are asked from now on.
    pub fn choose(&self, chosen: Chosen) {
        self.inner.chosen.send_if_modified(|current| {
            let differs = **current != chosen;
            if differs {
                *current = Arc::new(chosen);
            }
            differs
        });
        self.inner.look();
    }

    /// Whom we ask for names that no suffix covers, in the order given.
    pub fn upstreams(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.inner.current.load().general)
    }

    /// Everybody whom we may ask, and how they stand.
    pub fn states(&self) -> Vec<UpstreamState> {
        let looping = self.inner.probes().looping().clone();
        let scores = self.inner.scores();
        let state = |way: Way| UpstreamState {
            is_looping: looping.contains(&way),
            standing: scores.standing(way.1),
            domain: way.0,
            address: way.1,
        };
        self.inner.configured.load().ways().map(state).collect()
    }

    /// What is wrong with the list of upstreams.
    pub fn problems(&self) -> Arc<[Problem]> {
        Arc::clone(&self.inner.current.load().problems)
    }

    /// What was done so far.
    pub fn counts(&self) -> ForwardCounts {
        self.inner.counters.counts()
    }

    /// How the cache stands.
    pub fn cache(&self) -> CacheCounts {
        self.inner.cache.counts()
    }

    /// Questions under way to upstreams at this moment.
    pub fn under_way(&self) -> usize {
        self.inner.flights.len()
    }

    /// Forgets everything that upstreams have said, or what they have said of a name and all below it. How many answers
    /// went; an error says that the text is no name.
    pub fn flush(&self, name: Option<&str>) -> Result<usize, String> {
        let Some(text) = name else { return Ok(self.inner.cache.flush(None)) };
        let name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no name: {error}"))?;
        let mut wire = Vec::new();
        for label in name.iter() {
            wire.push(u8::try_from(label.len()).map_err(|error| error.to_string())?);
            wire.extend(label.to_ascii_lowercase());
        }
        wire.push(0);
        Ok(self.inner.cache.flush(Some(&wire)))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // The tasks hold what they share, so they do not end with it.
        lock(&self.inner.tasks).abort_all();
    }
}

/// On whose behalf a question is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Client,
    Operator,
}

/// What one has who waits for an answer.
#[derive(Clone, Copy)]
enum Waits {
    /// Nothing: waits for as long as possible.
    WithNothing,
    /// An older answer.
    WithAnother,
}

impl Inner {
    /// Asks for a key, or joins those who do. Whoever stops waiting stops nobody else.
    async fn ask(self: &Arc<Self>, key: &Key, upstreams: Arc<[SocketAddr]>, waits: Waits) -> Outcome {
        let now = tokio::time::Instant::now();
        let ticket = match self.flights.board(key.octets(), now.into()) {
            Boarding::Full => {
                count(&self.counters.over_cap);
                return Err(Unanswered::Busy);
            }
            Boarding::Joined(ticket) => {
                count(&self.counters.coalesced);
                ticket
            }
            Boarding::First(ticket, duty) => {
                self.spawn(Arc::clone(self).fly(*key, upstreams, duty));
                ticket
            }
        };
        let deadline = match waits {
            Waits::WithNothing => now + self.options.total,
            // For those who come late the time is over already.
            Waits::WithAnother => tokio::time::Instant::from_std(ticket.started) + self.options.patience,
        };
        timeout_at(deadline, ticket.outcome()).await.unwrap_or(Err(Unanswered::Failed))
    }

    /// Gets an answer for everybody who waits for it, and for those who come later.
    async fn fly(self: Arc<Self>, key: Key, upstreams: Arc<[SocketAddr]>, duty: Duty) {
        let generation = self.cache.generation();
        let raced = timeout(self.options.total, race::race(&self, &key, &upstreams)).await;
        let now = tokio::time::Instant::now().into();
        let outcome = match raced.unwrap_or(Err(Unanswered::Failed)) {
            Ok(reply) => {
                let reply = Arc::new(reply);
                self.cache.store(duty.key(), &reply, generation, now);
                Ok(reply)
            }
            Err(unanswered) => {
                // That we had no room says nothing of the name.
                if unanswered == Unanswered::Failed {
                    self.cache.fail(duty.key(), generation, now);
                }
                Err(unanswered)
            }
        };
        duty.tell(outcome);
    }

    /// Whether this question is about our own zone.
    fn is_ours(&self, question: &Question<'_>) -> bool {
        let labels: Vec<&[u8]> = question.labels().collect();
        labels.len() >= self.apex.len()
            && labels.iter().rev().zip(self.apex.iter().rev()).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    /// The reply to a query for a name of the site that no upstream may be asked for.
    fn denied(&self, asked: &Asked<'_>, transport: Transport) -> Option<Vec<u8>> {
        match self.current.load().whom_for(&asked.question) {
            Whom::Here(found) if !self.is_ours(&asked.question) => self.empty(asked, found, transport),
            _ => None,
        }
    }

    /// What the empty zone says that was found for a name.
    fn empty(&self, asked: &Asked<'_>, found: Finding, transport: Transport) -> Option<Vec<u8>> {
        count(&self.counters.kept);
        from_empty_zone(asked.packet, found.labels, transport)
    }

    /// Whether everybody who may be asked this is down. A question of ours that came back is not for here to decide.
    fn nobody_replies(&self, question: &Question<'_>) -> bool {
        if self.is_ours(question) || is_probe(question.name) {
            return false;
        }
        match self.current.load().whom_for(question) {
            Whom::Upstreams(upstreams) => self.scores().are_down(upstreams),
            Whom::Here(_) | Whom::NoUpstream | Whom::Stays => false,
        }
    }

    /// What is said where no upstream answers: what one of them said before, with a short TTL, or SERVFAIL.
    fn fall_back(
        &self,
        asked: &Asked<'_>,
        query: &[u8],
        whom: For,
        transport: Transport,
        older: Option<Arc<reply::Reply>>,
    ) -> Option<Vec<u8>> {
        let Some(older) = older else {
            count(&self.counters.failed);
            return failure(query, ResponseCode::ServFail, Some(Why::Unanswered), true);
        };
        count(&self.counters.stale);
        let mut out = Vec::with_capacity(USUAL_REPLY);
        self.write(&older, Age::Stale, whom, asked, transport, &mut out);
        Some(out)
    }

    /// Writes what an upstream has said, or that it has said nothing, where it may not say that.
    fn write(
        &self,
        reply: &reply::Reply,
        age: Age,
        whom: For,
        asked: &Asked<'_>,
        transport: Transport,
        out: &mut Vec<u8>,
    ) {
        if reply.inside != Inside::Nowhere && whom == For::Client && self.refuses_private(&asked.question) {
            count(&self.counters.private);
            return reply.write_outer(asked, transport, age, out);
        }
        reply.write(asked, transport, age, out);
    }

    /// Whether an answer to this may tell of no address inside a network. Whoever has a domain of its own was given it by
    /// the operator.
    fn refuses_private(&self, question: &Question<'_>) -> bool {
        if self.chosen.borrow().private == PrivateAnswers::Allow {
            return false;
        }
        let labels: Vec<&[u8]> = question.labels().collect();
        self.current.load().special(&labels).is_none()
    }

    fn is_upstream(&self, upstream: SocketAddr) -> bool {
        self.configured.load().ways().any(|(_, other)| other == upstream)
    }

    fn scores(&self) -> MutexGuard<'_, Scores> {
        lock(&self.scores)
    }

    fn probes(&self) -> MutexGuard<'_, Probes> {
        lock(&self.probes)
    }

    /// Runs something that nobody waits for. What may be run is bounded by whoever calls this.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a question to an upstream has died");
            }
        }
        tasks.spawn(task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing below these locks can panic halfway, so a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
