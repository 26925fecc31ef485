//! Which instances clients are sent to: what phase and health come to, and what to do when no instance is ready.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use super::{Health, Phase, Publication};

/// What phase and health of an instance come to, for the one who looks for a backend. Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Serves, and no check says otherwise: answers hold it.
    Ready,
    /// It crashed a moment ago, and has no check that could say how it does now: given while no other is ready.
    Held,
    /// Asked to stop, but still able to serve.
    Draining,
    /// Its check fails.
    Unhealthy,
    /// Its check has not decided yet: never given.
    Starting,
    /// Answers nobody: never given.
    Paused,
}

impl Standing {
    /// As people and JSON read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Held | Self::Starting => "starting",
            Self::Paused => "paused",
        }
    }
}

impl Publication {
    /// How far clients may be sent to it. A check that fails weighs more than a stop that was asked for: such an
    /// instance serves nobody even now.
    pub fn standing(&self) -> Standing {
        match (self.phase, self.health) {
            (Phase::Paused, _) => Standing::Paused,
            (_, Health::Starting) => Standing::Starting,
            (_, Health::Unhealthy) => Standing::Unhealthy,
            (Phase::Draining, _) => Standing::Draining,
            (Phase::Serving, Health::Held) => Standing::Held,
            (Phase::Serving, Health::Healthy | Health::None) => Standing::Ready,
        }
    }

    /// Whether answers hold it.
    pub fn is_ready(&self) -> bool {
        self.standing() == Standing::Ready
    }
}

/// Who is given while no instance of a service is ready: the first of these standings that any instance has.
/// `draining,unhealthy` unless the operator or the service says otherwise; empty: nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WhenNoneReady([Option<Standing>; 2]);

/// A text that is no [`WhenNoneReady`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`draining`, `unhealthy`, both with a comma between them in the order to try, or `none`")]
pub struct WhenNoneReadyError;

impl WhenNoneReady {
    /// Takes `draining`, `unhealthy`, both in either order with a comma, or `none`.
    pub fn parse(text: &str) -> Result<Self, WhenNoneReadyError> {
        let mut steps = [None; 2];
        if text.trim() == "none" {
            return Ok(Self(steps));
        }
        for (place, word) in text.split(',').enumerate() {
            let step = match word.trim() {
                "draining" => Standing::Draining,
                "unhealthy" => Standing::Unhealthy,
                _ => return Err(WhenNoneReadyError),
            };
            if steps.contains(&Some(step)) {
                return Err(WhenNoneReadyError);
            }
            *steps.get_mut(place).ok_or(WhenNoneReadyError)? = Some(step);
        }
        Ok(Self(steps))
    }

    /// Whom clients are sent to among instances of these standings: the ready ones, else those that are held only for the
    /// sake of others, else those of the first step that has any; `None`: there is none to give.
    pub fn given(self, standings: &BTreeSet<Standing>) -> Option<Standing> {
        [Standing::Ready, Standing::Held].into_iter().chain(self.steps()).find(|standing| standings.contains(standing))
    }

    /// The standings to try, in order.
    pub fn steps(self) -> impl Iterator<Item = Standing> {
        self.0.into_iter().flatten()
    }
}

impl Default for WhenNoneReady {
    fn default() -> Self {
        Self([Some(Standing::Draining), Some(Standing::Unhealthy)])
    }
}

impl fmt::Display for WhenNoneReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.steps().map(Standing::as_str).collect();
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_written_alike() {
        for text in ["draining,unhealthy", "unhealthy,draining", "draining", "unhealthy", "none"] {
            assert_eq!(WhenNoneReady::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(WhenNoneReady::default().to_string(), "draining,unhealthy");
        assert_eq!(WhenNoneReady::parse(" draining , unhealthy ").unwrap(), WhenNoneReady::default());
        for text in ["", "draining,draining", "starting", "paused", "none,draining", "draining,unhealthy,", "ready"] {
            assert!(WhenNoneReady::parse(text).is_err(), "{text:?}");
        }
    }
}
