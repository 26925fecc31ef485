//! The shapes of `drain` and `undrain` on the control socket.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::watch::container::{Command, NotDone};

/// The answer to `POST /v1/drain` and `/v1/undrain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// This host.
    pub host: String,
    /// Which command it was.
    pub round: u64,
    /// Whom it is about.
    pub containers: Vec<DrainedContainer>,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedContainer {
    /// The first 12 digits of its id.
    pub container: String,
    /// Its name.
    pub name: String,
}

/// The answer to `GET /v1/drain?round=…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The command that is meant.
    pub round: u64,
    /// Every live host answers accordingly.
    pub known: bool,
    /// Who does not, for people.
    pub waits_for: Vec<String>,
    /// Seconds for which resolvers may still hold an older answer.
    pub ttl: u32,
}

/// What the routes call.
#[derive(Clone)]
pub struct Drains {
    /// Carries out a command.
    pub order: Arc<dyn Fn(Command) -> BoxFuture<'static, Result<Drained, NotDone>> + Send + Sync>,
    /// How far a round has come.
    pub progress: Arc<dyn Fn(u64) -> BoxFuture<'static, Progress> + Send + Sync>,
}
