//! What people and tools see of a running agent over HTTP, and the client that asks for it.
//!
//! Snapshots come in ([`ApiState`]: the catalog, this host's own facts, numbers from the other parts), text and JSON
//! go out. Nothing here owns state: each request reads the snapshots of its moment, metrics included. What is read is
//! offered over TCP, what changes something only over a unix socket that belongs to the agent's user.
//!
//! - `facts.rs`: the numbers the other parts hand in, as plain data;
//! - `json.rs`: the shapes of the answers; field names are those of the etcd records;
//! - `drain.rs`: the shapes of `drain` and `undrain`;
//! - `explain.rs`: the shapes of explanations;
//! - `projects.rs`: one Compose project in several directories, as a problem;
//! - `host_names.rs`: services that have the name of a host, as a problem;
//! - `main_ports.rs`: instances of one service that disagree on `portolan.port`, as a problem;
//! - `changes.rs`: two catalogs → what happened between them;
//! - `metrics.rs`: snapshots → OpenMetrics text;
//! - `http.rs` \[IO\]: routes, the Host check, the bounded accept loop, the control socket;
//! - `takeover.rs` \[IO\]: what two agents say to each other when one takes over from the other;
//! - `client.rs` \[IO\]: one request over TCP or the control socket, with deadlines.
//!
//! Deliberately absent: authentication (the TCP side reads only, and listens on loopback unless told otherwise), TLS,
//! and any route that writes over TCP. A failure here harms only the request that met it; DNS never waits for it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::{Catalog, HostId, Local, WhenNoneReady};

pub mod changes;
pub mod client;
pub mod control;
pub mod drain;
pub mod explain;
pub mod external;
pub mod facts;
mod host_names;
pub mod http;
pub mod json;
mod main_ports;
pub mod metrics;
mod projects;
pub mod takeover;

pub use explain::ExplainReply;
pub use facts::{CacheFacts, CheckFacts, DnsFacts, DockerFacts, Facts, Listener, RegistryFacts, UpstreamFacts};
pub use json::{ResolveRecord, ResolveReply};

/// Answers a question as the DNS side would, without a packet.
pub type Resolve = Arc<dyn Fn(ResolveRequest) -> Result<ResolveReply, ResolveError> + Send + Sync>;

/// Writes a zone as a zone file.
pub type Dump = Arc<dyn Fn(DumpRequest) -> Result<String, DumpError> + Send + Sync>;

/// Explains what becomes of a name, or of a container.
pub type Explain = Arc<dyn Fn(ExplainRequest) -> Result<ExplainReply, ResolveError> + Send + Sync>;

/// Collects the numbers of the moment.
pub type Collect = Arc<dyn Fn() -> Facts + Send + Sync>;

/// What the routes read. Everything in it is a snapshot or a function that makes one.
#[derive(Clone)]
pub struct ApiState {
    /// This host.
    pub host: HostId,
    /// The domain we answer for.
    pub zone: Arc<str>,
    /// Everything known.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// This host's askers and networks.
    pub local: watch::Receiver<Arc<Local>>,
    /// The operator's policy on services without a ready instance.
    pub when_none_ready: Arc<dyn Fn() -> WhenNoneReady + Send + Sync>,
    /// Numbers and problems of the other parts.
    pub facts: Collect,
    /// The DNS side's answer to a question.
    pub resolve: Resolve,
    /// The DNS side's reasons.
    pub explain: Explain,
    /// The DNS side's zones.
    pub dump: Dump,
}

/// A question of `portolan zone dump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpRequest {
    /// The zone's name as typed; `None`: the one of `--zone`.
    pub zone: Option<String>,
    /// Who would see it; `None`: this host.
    pub asker: Option<AskAs>,
}

/// Why a zone cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// The name is malformed.
    #[error("{0}")]
    Invalid(String),
    /// There is no such asker, or no such zone.
    #[error("{0}")]
    NotFound(String),
    /// Not everything is known yet.
    #[error("{0}")]
    NotYet(String),
}

/// A question of `portolan explain`. Both parts may be asked for at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// A name as typed.
    pub name: Option<String>,
    /// A container of this host, by name or id.
    pub container: Option<String>,
    /// Who asks; `None`: this host.
    pub asker: Option<AskAs>,
}

/// A question of `portolan resolve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveRequest {
    /// The name as typed: bare, partial or with the zone.
    pub name: String,
    /// The record type in upper case: `A`, `AAAA`, `SRV`, …
    pub kind: String,
    /// Who asks; `None`: this host.
    pub asker: Option<AskAs>,
}

/// On whose behalf a question is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskAs {
    /// A container of this host, by name or id.
    Container(String),
    /// Whoever has this address.
    Address(std::net::IpAddr),
}

impl From<String> for AskAs {
    fn from(text: String) -> Self {
        match text.parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Container(text),
        }
    }
}

/// Why a question cannot be asked. A negative DNS answer is a reply, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name or the type is malformed.
    #[error("{0}")]
    Invalid(String),
    /// There is no such asker.
    #[error("{0}")]
    NoSuchAsker(String),
}
