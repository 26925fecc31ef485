//! One question to several upstreams, the likeliest first. \[IO\]
//!
//! An upstream that says SERVFAIL or REFUSED, or cannot be reached, gives way to the next at once. One that is slower than
//! it usually is gets a competitor, and the first answer wins: a silent upstream costs a fraction of a second, not an
//! attempt. Those that stayed silent are asked again while time remains, with another id and port.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Inner,
    counts::count,
    exchange::{self, Failure},
    flight::Unanswered,
    key::Key,
    reply::Reply,
    score::Scores,
};

/// Questions that one upstream has open at a time, each a socket: 256 in 20 ms are 13,000 a second.
const PER_UPSTREAM: usize = 256;

/// How often an upstream that may be down is asked a question of our own, and how long it has for its reply.
const CHECK: Duration = Duration::from_secs(1);

/// Checks without a reply before an upstream is down: one packet may be lost.
const CHECKS: u32 = 2;

/// Gets the answer of whoever is first to have one. The caller's deadline ends it.
pub(super) async fn race(inner: &Arc<Inner>, key: &Key, upstreams: &[SocketAddr]) -> Result<Reply, Unanswered> {
    let mut next: VecDeque<SocketAddr> = scores(inner, |scores| scores.order(upstreams, Instant::now().into())).into();
    let mut running = FuturesUnordered::new();
    // Who is being asked, in the order of their start.
    let mut open: Vec<SocketAddr> = Vec::new();
    let mut reason = Unanswered::Failed;
    loop {
        let mut patience = None;
        while let Some(upstream) = next.pop_front() {
            let attempt = match Attempt::start(inner, upstream) {
                Ok(attempt) => attempt,
                Err(unanswered) => {
                    reason = unanswered;
                    continue;
                }
            };
            running.push(attempt.run(key));
            open.push(upstream);
            let (least, most) = (inner.options.attempt / 20, inner.options.attempt / 4);
            patience = Some((upstream, scores(inner, |scores| scores.patience(upstream, least, most))));
            break;
        }
        if running.is_empty() {
            return Err(reason);
        }
        // A copy: it may be over before the future is.
        let waits = patience;
        let hurry = async move {
            match waits {
                Some((upstream, patience)) => {
                    sleep(patience).await;
                    upstream
                }
                None => std::future::pending().await,
            }
        };
        let mut hurry = std::pin::pin!(hurry);
        loop {
            tokio::select! {
                Some((upstream, outcome)) = running.next() => {
                    let place = open.iter().position(|other| *other == upstream);
                    match outcome {
                        Ok(reply) => {
                            // Whoever was asked before and has not answered yet is slower than the next one's.
                            let overtaken = open.into_iter().take(place.unwrap_or(0));
                            let now = Instant::now().into();
                            scores(inner, |scores| overtaken.for_each(|slow| scores.failed(slow, now)));
                            return Ok(reply);
                        }
                        Err(Failure::Silent) => next.push_back(upstream),
                        Err(Failure::Unreachable | Failure::Unwilling) => {}
                    }
                    place.map(|place| open.remove(place));
                    break;
                }
                slow = &mut hurry, if patience.is_some() => {
                    check(inner, slow);
                    patience = None;
                    if !next.is_empty() {
                        break;
                    }
                }
            }
        }
    }
}

fn scores<T>(inner: &Inner, with: impl FnOnce(&mut Scores) -> T) -> T {
    with(&mut inner.scores())
}

/// A question to one upstream, with its places below the caps.
struct Attempt<'a> {
    inner: &'a Inner,
    upstream: SocketAddr,
    _socket: tokio::sync::SemaphorePermit<'a>,
}

impl<'a> Attempt<'a> {
    /// An error says that it is down, or that too much is open.
    fn start(inner: &'a Inner, upstream: SocketAddr) -> Result<Self, Unanswered> {
        let socket = inner.sockets.try_acquire().map_err(|_| Unanswered::Busy)?;
        let mut scores = inner.scores();
        if !scores.ask(upstream, PER_UPSTREAM) {
            return Err(if scores.standing(upstream).is_down { Unanswered::Failed } else { Unanswered::Busy });
        }
        count(&inner.counters.attempts);
        Ok(Self { inner, upstream, _socket: socket })
    }

    async fn run(self, key: &Key) -> (SocketAddr, Result<Reply, Failure>) {
        let (inner, upstream) = (self.inner, self.upstream);
        let asked = timeout(inner.options.attempt, exchange::ask(key, upstream, &inner.counters)).await;
        let now = Instant::now().into();
        let outcome = match asked.unwrap_or(Err(Failure::Silent)) {
            Ok((reply, took)) => {
                inner.scores().replied(upstream, took, now);
                Ok(reply)
            }
            // It lives; that it does not know this name says nothing of others.
            Err(Failure::Unwilling) => Err(Failure::Unwilling),
            Err(failure) => {
                if failure == Failure::Silent {
                    count(&inner.counters.timeouts);
                }
                inner.scores().failed(upstream, now);
                Err(failure)
            }
        };
        (upstream, outcome)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.inner.scores().done(self.upstream);
    }
}

/// Finds out whether a slow upstream replies to anything, unless somebody is at it; and stays at it until it does.
fn check(inner: &Arc<Inner>, upstream: SocketAddr) {
    if !inner.scores().suspect(upstream, Instant::now().into()) {
        return;
    }
    let checker = Arc::clone(inner);
    inner.spawn(async move {
        let mut silent = 0;
        // Whoever is no upstream any more is checked no longer.
        while checker.is_upstream(upstream) {
            let started = Instant::now();
            match timeout(CHECK, exchange::ask(&Key::root(), upstream, &checker.counters)).await {
                // Any word of it is a sign of life.
                Ok(Ok(_) | Err(Failure::Unwilling)) => {
                    checker.scores().replied(upstream, started.elapsed(), Instant::now().into());
                    if silent >= CHECKS {
                        tracing::info!(%upstream, "this upstream replies again");
                    }
                    break;
                }
                Ok(Err(Failure::Silent | Failure::Unreachable)) | Err(_) => {
                    silent += 1;
                    if silent == CHECKS {
                        tracing::warn!(%upstream, "this upstream replies to nothing; it is not asked until it does");
                        checker.scores().is_down(upstream);
                    }
                    tokio::time::sleep_until(started + CHECK).await;
                }
            }
        }
        checker.scores().checked(upstream);
    });
}
