//! Which upstream is asked first. Pure: time is an argument.
//!
//! An upstream's round-trip time is smoothed as TCP's is (RFC 6298). Upstreams keep the order that the operator, or
//! resolv.conf, gave them, unless one is slower than another by more than a factor of two and by more than [`NEAR`]: the
//! first name server of a network often knows names that the second does not, so a millisecond is no reason to leave it.
//! Whoever was silent goes behind everybody who was not. What is known of an upstream is forgotten after [`MEMORY`], so
//! that one that has recovered is found, at the price of one question that is hedged.
//!
//! Silence has two causes: the upstream, or the name that was asked for, whose own servers are gone. They must be told
//! apart, or whoever asks for a few such names takes the upstream away from everybody. So one that is slow to reply is
//! *checked* with a question of our own that costs it nothing. One that does not reply to that either is *down*: it is
//! not asked at all until it replies to a check, so that a black hole costs neither time nor sockets.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Faster than this is fast: differences below it are those of one network.
const NEAR: Duration = Duration::from_millis(16);

/// What was seen is good for so long.
const MEMORY: Duration = Duration::from_secs(30);

/// More failures in a row than this make an upstream no worse.
const MAX_FAILURES: u32 = 3;

/// Whoever replied to anything within this time needs no check.
const LIVELY: Duration = Duration::from_millis(500);

/// Most upstreams that are known at a time: 64 of the configuration and a few of resolv.conf.
const MAX_KNOWN: usize = 256;

/// How one upstream stands, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Silent, unreachable or failing so often in a row.
    pub failures: u32,
    /// Questions that it has not answered yet.
    pub asking: usize,
    /// It replies to nothing at all.
    pub is_down: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    standing: Standing,
    seen: Option<Instant>,
    replied: Option<Instant>,
    is_checked: bool,
}

/// What is known of all upstreams.
#[derive(Debug, Default)]
pub(super) struct Scores {
    known: HashMap<SocketAddr, Known>,
}

impl Scores {
    /// The upstreams in the order in which to ask them.
    pub(super) fn order(&mut self, upstreams: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut order: Vec<(bool, u32, u32, SocketAddr)> = upstreams
            .iter()
            .map(|upstream| {
                let known = self.recent(*upstream, now);
                let rtt = known.rtt.unwrap_or(NEAR).max(NEAR).as_millis();
                let rtt = u32::try_from(rtt).unwrap_or(u32::MAX).ilog2();
                (known.is_down, known.failures.min(MAX_FAILURES), rtt, *upstream)
            })
            .collect();
        // Stable, so that the given order decides among equals.
        order.sort_by_key(|(is_down, failures, rtt, _)| (*is_down, *failures, *rtt));
        order.into_iter().map(|(.., upstream)| upstream).collect()
    }

    /// Whether one may be asked, with at most `limit` questions open to it. If so it counts as being asked, until
    /// [`Scores::done`].
    pub(super) fn ask(&mut self, upstream: SocketAddr, limit: usize) -> bool {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&upstream) {
            self.known.retain(|_, known| known.standing.asking > 0 || known.is_checked);
        }
        let known = self.known.entry(upstream).or_default();
        if known.standing.asking >= limit || known.standing.is_down {
            return false;
        }
        known.standing.asking += 1;
        true
    }

    /// A question to it has ended, in whatever way.
    pub(super) fn done(&mut self, upstream: SocketAddr) {
        if let Some(known) = self.known.get_mut(&upstream) {
            known.standing.asking = known.standing.asking.saturating_sub(1);
        }
    }

    /// It has replied after so long.
    pub(super) fn replied(&mut self, upstream: SocketAddr, after: Duration, now: Instant) {
        let known = self.known.entry(upstream).or_default();
        let rtt = match known.standing.rtt {
            Some(before) => (before * 7 + after) / 8,
            None => after,
        };
        known.standing.rtt = Some(rtt);
        known.standing.failures = 0;
        known.standing.is_down = false;
        known.seen = Some(now);
        known.replied = Some(now);
    }

    /// It takes its time. Whether to check it: nobody does, and nothing was heard of it lately. If so it counts as being
    /// checked, until [`Scores::checked`].
    pub(super) fn suspect(&mut self, upstream: SocketAddr, now: Instant) -> bool {
        let known = self.known.entry(upstream).or_default();
        let is_lively = known.replied.is_some_and(|replied| now < replied + LIVELY);
        !is_lively && !std::mem::replace(&mut known.is_checked, true)
    }

    /// It has not replied to a check.
    pub(super) fn is_down(&mut self, upstream: SocketAddr) {
        self.known.entry(upstream).or_default().standing.is_down = true;
    }

    /// Whether all of them are down.
    pub(super) fn are_down(&self, upstreams: &[SocketAddr]) -> bool {
        upstreams.iter().all(|upstream| self.standing(*upstream).is_down)
    }

    /// It is no longer checked: it has replied, or is no upstream any more. Should it become one again it is asked, for
    /// nobody else would find out that it replies.
    pub(super) fn checked(&mut self, upstream: SocketAddr) {
        if let Some(known) = self.known.get_mut(&upstream) {
            known.is_checked = false;
            known.standing.is_down = false;
        }
    }

    /// It was silent until we stopped waiting, cannot be reached, or said that it cannot.
    pub(super) fn failed(&mut self, upstream: SocketAddr, now: Instant) {
        let known = self.known.entry(upstream).or_default();
        known.standing.failures = known.standing.failures.saturating_add(1);
        known.seen = Some(now);
    }

    /// How long to wait for it before another is asked, too: three times what it usually takes, within these bounds.
    pub(super) fn patience(&self, upstream: SocketAddr, least: Duration, most: Duration) -> Duration {
        let usual = self.known.get(&upstream).and_then(|known| known.standing.rtt);
        usual.map_or(most, |rtt| (rtt * 3).clamp(least, most))
    }

    /// How one stands.
    pub(super) fn standing(&self, upstream: SocketAddr) -> Standing {
        self.known.get(&upstream).map(|known| known.standing).unwrap_or_default()
    }

    /// What is still good of what is known. One that is down stays so: its checks go on.
    fn recent(&mut self, upstream: SocketAddr, now: Instant) -> Standing {
        let Some(known) = self.known.get_mut(&upstream) else { return Standing::default() };
        if known.seen.is_some_and(|seen| now >= seen + MEMORY) {
            known.seen = None;
            known.standing = Standing { rtt: None, failures: 0, ..known.standing };
        }
        known.standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn upstreams() -> [SocketAddr; 3] {
        [1, 2, 3].map(|last| SocketAddr::from(([10, 0, 0, last], 53)))
    }

    #[test]
    fn the_given_order_holds_unless_somebody_is_much_slower() {
        let ([a, b, c], now) = (upstreams(), Instant::now());
        let mut scores = Scores::default();
        assert_eq!(scores.order(&[b, a, c], now), [b, a, c], "nothing is known");
        for (of_a, of_b, expected) in [
            (15, 1, [a, b]),  // both near
            (60, 33, [a, b]), // less than twice
            (200, 5, [b, a]),
            (70, 30, [b, a]),
        ] {
            let mut scores = Scores::default();
            scores.replied(a, of_a * MS, now);
            scores.replied(b, of_b * MS, now);
            assert_eq!(scores.order(&[a, b], now), expected, "{of_a} ms and {of_b} ms");
        }
        scores.replied(a, 200 * MS, now);
        assert_eq!(scores.order(&[a, c], now), [c, a], "who is not known is worth a try");
    }

    #[test]
    fn whoever_fails_goes_last_until_it_is_forgotten_or_replies() {
        let ([a, b, _], now) = (upstreams(), Instant::now());
        let mut scores = Scores::default();
        scores.failed(a, now);
        assert_eq!(scores.order(&[a, b], now), [b, a]);
        assert_eq!(scores.order(&[a, b], now + MEMORY - MS), [b, a]);
        assert_eq!(scores.order(&[a, b], now + MEMORY), [a, b]);
        scores.failed(a, now);
        scores.replied(a, MS, now);
        assert_eq!(scores.order(&[a, b], now), [a, b]);
    }

    #[test]
    fn one_that_is_down_is_not_asked_until_it_replies() {
        let ([a, b, _], now) = (upstreams(), Instant::now());
        let mut scores = Scores::default();
        assert!(scores.suspect(a, now) && !scores.suspect(a, now), "one check at a time");
        assert!(scores.ask(a, 2), "a suspicion is none yet");
        scores.is_down(a);
        assert!(!scores.ask(a, 2));
        assert_eq!(scores.order(&[a, b], now + MEMORY), [b, a], "however long it takes");
        scores.replied(a, MS, now);
        scores.checked(a);
        assert!(scores.ask(a, 2));
        assert_eq!(scores.order(&[a, b], now), [a, b]);
        assert!(!scores.suspect(a, now + LIVELY - MS), "heard of lately");
        assert!(scores.suspect(a, now + LIVELY));
    }

    #[test]
    fn no_more_questions_than_the_limit_are_open_to_one() {
        let [a, b, _] = upstreams();
        let mut scores = Scores::default();
        assert!(scores.ask(a, 2) && scores.ask(a, 2) && !scores.ask(a, 2));
        assert!(scores.ask(b, 2), "the other is another matter");
        scores.done(a);
        assert!(scores.ask(a, 2));
        assert_eq!(scores.standing(a).asking, 2);
    }

    #[test]
    fn patience_follows_the_usual_time_within_bounds() {
        let ([a, ..], now) = (upstreams(), Instant::now());
        let mut scores = Scores::default();
        assert_eq!(scores.patience(a, 100 * MS, 500 * MS), 500 * MS);
        scores.replied(a, 50 * MS, now);
        assert_eq!(scores.patience(a, 100 * MS, 500 * MS), 150 * MS);
        scores.replied(a, 3000 * MS, now);
        assert_eq!(scores.patience(a, 100 * MS, 500 * MS), 500 * MS);
        let mut scores = Scores::default();
        scores.replied(a, MS, now);
        assert_eq!(scores.patience(a, 100 * MS, 500 * MS), 100 * MS);
    }

    #[test]
    fn who_is_down_is_asked_again_once_nobody_checks_it() {
        let [a, ..] = upstreams();
        let mut scores = Scores::default();
        assert!(scores.suspect(a, Instant::now()));
        scores.is_down(a);
        assert!(!scores.ask(a, 9) && scores.are_down(&[a]));
        // It has left the list meanwhile, and comes back.
        scores.checked(a);
        assert!(scores.ask(a, 9) && !scores.are_down(&[a]));
        assert!(scores.suspect(a, Instant::now()), "and checked again");
    }
}
