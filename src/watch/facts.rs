//! What the engine tells, as our own types: one container, one entry of a list, one network. Made in `docker.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::metadata::Metadata;
use crate::model::{Driver, Health, NetworkId, Proto, Published, Scope, ShortId};

/// A container's full id, as Docker's requests need it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(Arc<str>, ShortId);

impl ContainerId {
    /// `None` unless it is 12 to 64 lower-case hexadecimal digits.
    pub fn parse(id: &str) -> Option<Self> {
        let digits = id.bytes().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'));
        (digits && id.len() <= 64).then(|| ShortId::parse(id)).flatten().map(|short| Self(id.into(), short))
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits: the key of everything we hold.
    pub fn short(&self) -> ShortId {
        self.1
    }
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Running, neither restarting nor paused.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// Dead, with a restart ahead: Docker says `Running: true` of it, too.
    Restarting,
    /// Created, exited, being removed.
    Stopped,
}

impl State {
    /// It has a process, so its addresses are its own.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// Where a container gets its network from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Networks of its own.
    Own,
    /// The host's.
    Host,
    /// Another container's, by id or name.
    Container(Arc<str>),
    /// None at all.
    None,
}

impl NetworkMode {
    /// Takes Docker's word for it.
    pub fn parse(text: &str) -> Self {
        match text {
            "host" => Self::Host,
            "none" => Self::None,
            other => other.strip_prefix("container:").map_or(Self::Own, |id| Self::Container(id.into())),
        }
    }
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// The container's addresses there; none while it does not run, none on the host's network.
    pub ips: Box<[IpAddr]>,
}

/// One port of a container that the host publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The container port.
    pub port: u16,
    /// Its transport.
    pub proto: Proto,
    /// Where on the host.
    pub at: Published,
}

/// One port that the operator asked the host to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requested {
    /// The container port.
    pub port: u16,
    /// Its transport.
    pub proto: Proto,
    /// On which address of the host; `None`: on those that the engine takes where nobody names one.
    pub ip: Option<IpAddr>,
    /// Under which number; `None`: Docker chooses one, from a range or any.
    pub number: Option<u16>,
}

/// What a list tells of a container: enough to see that it changed, not enough to publish it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The container.
    pub id: ContainerId,
    /// Its name, without the leading slash.
    pub name: Arc<str>,
    /// Its labels; no environment.
    pub labels: Metadata,
    /// What it does. A list cannot tell [`State::Restarting`] reliably; it counts as not alive.
    pub state: State,
    /// Its networks.
    pub endpoints: Vec<Endpoint>,
}

/// What an inspect tells of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The container.
    pub id: ContainerId,
    /// Its name, without the leading slash.
    pub name: Arc<str>,
    /// The image it was started from.
    pub image: Arc<str>,
    /// The image's id; `None` where the engine does not say.
    pub image_id: Option<Arc<str>>,
    /// Its host name inside.
    pub hostname: Arc<str>,
    /// Labels and `SERVICE_*` environment.
    pub metadata: Metadata,
    /// What it does.
    pub state: State,
    /// When its run began, in Docker's words: tells one run from the next. Only while it is alive.
    pub started: Option<Arc<str>>,
    /// How often its restart policy has started it since a person or the engine did: not 0 if the policy began this run.
    pub restarts: u32,
    /// Its restart policy starts it again whenever it ends.
    pub restarts_itself: bool,
    /// The inode of its network namespace, where its process is visible.
    pub namespace: Option<u64>,
    /// What its own check says.
    pub health: Health,
    /// It has a check of its own, which says [`Health::Starting`] as it starts.
    pub checked: bool,
    /// How it is asked to stop, where its image says so: `SIGTERM` otherwise.
    pub stop_signal: Option<Arc<str>>,
    /// Seconds it may take to stop: 10 otherwise.
    pub stop_timeout: Option<i64>,
    /// Where its network comes from.
    pub network_mode: NetworkMode,
    /// Its networks, ordered by id.
    pub endpoints: Vec<Endpoint>,
    /// What it is called on them beside its name: by the network's name, or, before its first start, as it was asked for.
    pub aliases: BTreeMap<Arc<str>, Box<[Arc<str>]>>,
    /// Its exposed ports.
    pub exposed: BTreeSet<(u16, Proto)>,
    /// Its own search list.
    pub search: Box<[Arc<str>]>,
    /// The ports it was asked to publish, in order.
    pub requested: Vec<Requested>,
    /// Its published ports, in order; none while it does not run.
    pub bindings: Vec<Binding>,
}

impl Inspected {
    /// Keeps the verdict of the engine's health check on this run where the engine has forgotten it: an engine since 25 that
    /// is restarted under its containers says `starting` of each until its next check, though nothing restarted them.
    pub(super) fn keep_verdict(&mut self, known: &Self) {
        let is_same_run = self.started.is_some() && self.started == known.started;
        let is_verdict = matches!(known.health, Health::Healthy | Health::Unhealthy);
        if is_same_run && is_verdict && self.health == Health::Starting {
            self.health = known.health;
        }
    }
}

impl Inspected {
    /// Its process is gone, and its addresses and ports with it.
    pub(super) fn end(&mut self) {
        self.state = State::Stopped;
        self.started = None;
        self.namespace = None;
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.ips = Box::default());
        self.bindings.clear();
    }
}

/// What an image's labels say of Compose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// It has labels of Compose: Compose built it, or it was committed from one of its containers.
    pub composed: bool,
    /// Its `com.docker.compose.config-hash`, which only a commit gives it.
    pub hash: Option<Arc<str>>,
}

/// What the engine tells of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// How it connects.
    pub driver: Driver,
    /// How far its id carries.
    pub scope: Scope,
    /// Cut off from everything outside.
    pub internal: bool,
    /// Its containers may talk to each other.
    pub icc: bool,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// The gateways its address management names. The default bridge often has none.
    pub gateways: Vec<IpAddr>,
}
