//! An outage of something that the agent depends on, as a person reads of it in the log: at its first failure, after a
//! minute, then every ten minutes, and when it is over. The loop that retries every second calls this on each failure and
//! logs only when it is due.

use std::{fmt, time::Duration};

use super::Problem;

/// The second warning follows the first by this: most restarts are over by then, and the operator who caused the outage
/// still looks at the log.
const SECOND_AFTER: Duration = Duration::from_secs(60);
/// Later warnings are this far apart: 144 a day, so that the log of a week names the outage without being filled by it.
const REPEAT_EVERY: Duration = Duration::from_secs(600);

/// The current outage of one dependency, or none. Times are durations since any fixed moment, the same for all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outage(Option<Current>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Current {
    since: Duration,
    warn_at: Duration,
    reason: String,
}

impl Outage {
    /// Takes a failure. `since` begins the outage, where there is none yet: the moment the dependency was last heard.
    /// Returns how long the outage has lasted if a warning is due now.
    pub fn fail(&mut self, now: Duration, since: Duration, reason: &str) -> Option<Duration> {
        let is_first = self.0.is_none();
        let current = self.0.get_or_insert_with(|| Current { since, warn_at: now, reason: String::new() });
        if current.reason != reason {
            reason.clone_into(&mut current.reason);
        }
        if now < current.warn_at {
            return None;
        }
        current.warn_at = now + if is_first { SECOND_AFTER } else { REPEAT_EVERY };
        Some(now.saturating_sub(current.since))
    }

    /// The cause is another one than was told: the next failure is warned of at once.
    pub fn retell(&mut self, now: Duration) {
        if let Some(current) = &mut self.0 {
            current.warn_at = now;
        }
    }

    /// The dependency answers: ends the outage. Returns how long it lasted, if there was one.
    pub fn end(&mut self, now: Duration) -> Option<Duration> {
        self.0.take().map(|current| now.saturating_sub(current.since))
    }

    /// Why the last attempt failed, while the outage lasts.
    pub fn reason(&self) -> Option<&str> {
        self.0.as_ref().map(|current| current.reason.as_str())
    }

    /// What is wrong, for `/v1/problems`, while the outage lasts: `wanted` would end it, and until then `meanwhile`
    /// holds.
    pub fn problem(
        &self,
        place: impl FnOnce() -> String,
        wanted: &str,
        meanwhile: impl fmt::Display,
    ) -> Option<Problem> {
        let expected = || format!("{wanted}; until then {meanwhile}");
        self.reason().map(|reason| Problem::of_error(place(), reason, expected()))
    }
}

/// A duration as the log tells it: whole seconds, minutes or hours and minutes. `0 s` is under a second.
pub fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_outage_is_warned_of_at_once_after_a_minute_and_every_ten_minutes_and_told_when_it_ends() {
        let mut outage = Outage::default();
        // A failure every second for an hour, as the loops that retry make them.
        let warned: Vec<u64> = (100..3700)
            .filter_map(|now| Some((now, outage.fail(seconds(now), seconds(98), "refused")?)))
            .map(|(now, lasted)| {
                assert_eq!(lasted, seconds(now - 98));
                now - 100
            })
            .collect();
        assert_eq!(warned, [0, 60, 660, 1260, 1860, 2460, 3060]);
        assert_eq!(outage.reason(), Some("refused"));
        assert_eq!(outage.end(seconds(4000)), Some(seconds(3902)));
        assert_eq!(outage, Outage::default());
        assert_eq!(outage.end(seconds(4001)), None, "it is told once");
    }

    #[test]
    fn a_new_outage_is_warned_of_at_once_and_the_reason_is_that_of_the_last_failure() {
        let mut outage = Outage::default();
        assert_eq!(outage.fail(seconds(5), seconds(5), "refused"), Some(seconds(0)));
        assert_eq!(outage.fail(seconds(6), seconds(6), "no reply"), None);
        assert_eq!(outage.reason(), Some("no reply"));
        assert_eq!(outage.end(seconds(7)), Some(seconds(2)));
        assert_eq!(outage.fail(seconds(8), seconds(8), "refused"), Some(seconds(0)));
    }

    #[test]
    fn a_problem_stands_while_the_outage_lasts_and_says_what_ends_it_and_what_holds_until_then() {
        let mut outage = Outage::default();
        let problem = |outage: &Outage| outage.problem(|| "a place".into(), "a fix", "names stay");
        assert_eq!(problem(&outage), None);
        outage.fail(seconds(1), seconds(1), "refused");
        let expected = "a fix; until then names stay".into();
        assert_eq!(problem(&outage), Some(Problem { place: "a place".into(), found: "refused".into(), expected }));
        outage.end(seconds(2));
        assert_eq!(problem(&outage), None);
    }

    #[test]
    fn durations_are_told_in_the_unit_that_a_person_thinks_in() {
        let told = [0, 1, 119, 120, 659, 7199, 7200, 90_061].map(|time| in_words(seconds(time)));
        assert_eq!(told, ["0 s", "1 s", "119 s", "2 min", "10 min", "119 min", "2 h 0 min", "25 h 1 min"]);
    }
}
