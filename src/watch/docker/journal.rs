//! What the log and the problems say of the engine: that it cannot be reached, or lets no container be inspected, what
//! this means, and that it is over.
//!
//! The loop that follows the engine retries every few seconds; a person reads of an outage at its first failure, after
//! a minute and every ten minutes ([`Outage`]).

use std::{collections::BTreeSet, time::Duration};

use tracing::{debug, info, warn};

use super::Endpoint;
use crate::model::{Outage, Problem, ShortId, in_words};

/// The request without which no container is published.
pub(super) const INSPECT: &str = "GET /containers/<id>/json";

/// What it means that inspects are refused.
const UNINSPECTED: &str = "containers that were not known before are not published, and the others stay as last seen";

/// Follows how it goes. Times are durations since any fixed moment, the same for all calls.
#[derive(Debug)]
pub(super) struct Journal {
    endpoint: Endpoint,
    /// When the engine was last connected; `None`: it has not been reached yet.
    heard_at: Option<Duration>,
    outage: Outage,
    /// Containers whose last inspect was refused, though the engine can be listed.
    refused: BTreeSet<ShortId>,
    refusal: Outage,
}

impl Journal {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            heard_at: None,
            outage: Outage::default(),
            refused: BTreeSet::new(),
            refusal: Outage::default(),
        }
    }

    /// A connection has ended, or could not be had. One that ends is no outage yet: the engine is usually there at the
    /// next try.
    pub(super) fn take_loss(&mut self, now: Duration, was_connected: bool, error: &str) {
        let (endpoint, meaning) = (&self.endpoint, self.meaning());
        if was_connected {
            self.heard_at = Some(now);
            info!(%endpoint, reason = error, "docker's connection has ended: connecting again");
        } else if let Some(lasted) = self.outage.fail(now, self.heard_at.unwrap_or_default(), error) {
            let (lasted, yet) = (in_words(lasted), if self.heard_at.is_none() { " yet" } else { "" });
            warn!(%endpoint, error, lasted, "docker cannot be reached{yet}: {meaning}");
        } else {
            debug!(%endpoint, error, "docker is still away");
        }
    }

    /// The engine is connected and listed.
    pub(super) fn take_return(&mut self, now: Duration) {
        let endpoint = &self.endpoint;
        let away = self.outage.end(now).map(in_words);
        match (self.heard_at.replace(now), away) {
            (Some(_), Some(away)) => info!(%endpoint, away, "docker is back"),
            (Some(_), None) => debug!(%endpoint, "docker is connected again"),
            (None, away) => info!(%endpoint, after = away.as_deref(), "docker connected and listed"),
        }
    }

    /// An inspect was refused: one warning for all containers, however often they are asked for.
    pub(super) fn take_refusal(&mut self, now: Duration, container: ShortId, error: &str) {
        self.refused.insert(container);
        if let Some(lasted) = self.refusal.fail(now, now, error) {
            let (endpoint, lasted) = (&self.endpoint, in_words(lasted));
            warn!(%endpoint, error, lasted, "docker lets no container be inspected: {UNINSPECTED}");
        }
    }

    /// Forgets refused containers that no longer fail. Whether that was the last of them, so that a problem has ended.
    pub(super) fn settle(&mut self, now: Duration, still_fails: impl Fn(ShortId) -> bool) -> bool {
        if self.refused.is_empty() {
            return false;
        }
        self.refused.retain(|id| still_fails(*id));
        let away = if self.refused.is_empty() { self.refusal.end(now).map(in_words) } else { None };
        if let Some(away) = &away {
            info!(endpoint = %self.endpoint, away, "docker refuses no inspect any more");
        }
        away.is_some()
    }

    /// What is wrong now, for `/v1/problems`.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let place = || format!("--docker-host {}", self.endpoint);
        let engine = "a Docker engine that answers there: start it, or correct --docker-host";
        let proxy = format!("a proxy before the engine that allows {INSPECT}");
        let outage = self.outage.problem(place, engine, self.meaning());
        let refusal = self.refusal.problem(|| format!("{}, {INSPECT}", place()), &proxy, UNINSPECTED);
        outage.into_iter().chain(refusal).collect()
    }

    /// What it means that the engine cannot be reached.
    fn meaning(&self) -> &'static str {
        match self.heard_at {
            None => "containers of this host are not known yet; names of other hosts are answered",
            Some(_) => "names of this host stay as last seen",
        }
    }
}

#[cfg(test)]
mod tests;
