//! The shapes of `register` and `unregister` on the control socket.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// The answer to `POST /v1/register` and `/v1/unregister`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The service with its namespace.
    pub name: String,
    /// What was registered under that name before, as one would register it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// What was given makes no external service.
    #[error("{0}")]
    Invalid(String),
    /// There is none of that name.
    #[error("no external service is registered as {0}")]
    NoSuch(String),
    /// The registry is etcd, where an agent writes only below its own host.
    #[error("this agent's registry is etcd: name --etcd-endpoints (and your own credentials) to register there")]
    Elsewhere,
    /// It could not be written down.
    #[error("{0}")]
    Unkept(String),
}

/// What the routes call, with the words of `register` or a name.
#[derive(Clone)]
pub struct Externals {
    /// Registers a service.
    pub register: Call,
    /// Forgets one.
    pub unregister: Call,
}

/// One of the two.
pub type Call = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Registered, NotRegistered>> + Send + Sync>;
