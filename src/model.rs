//! The words of the project as types. Parsing is validating: a value of one of these types is always well formed.
//!
//! Nothing here touches the outside, knows a wire format or reads a clock. Every type is cheap to clone (names are
//! shared) and is passed on in immutable snapshots: [`Desired`] and [`Local`] come out of `watch/`, [`Catalog`]
//! out of `registry/`, and `dns/` answers from what it makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod alias;
mod check;
mod external;
mod names;
mod outage;
mod publication;
mod resident;
mod standing;

pub use alias::{Aliases, AliasesError, MAX_ALIAS, MAX_ALIASES, alias, in_order};
pub use check::{Ask, Check, Checks, Initial, Security, Unshown};
pub use external::{Elsewhere, External, ExternalName, ExternalTarget, Externals};
pub use names::{
    EXTERNAL, HostId, HostIdError, Label, LabelError, ShortId, external_host, fnv1a, reserved, unfindable,
};
pub use outage::{Outage, in_words};
pub use publication::{Attachment, Common, Ips, Publication, Segment};
pub use resident::{Detached, Lost, Resident, Residents, Silence};
pub use standing::{Standing, WhenNoneReady, WhenNoneReadyError};

/// Longest DNS label in octets (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// Docker's id of a network: unique on its host for local networks, in the swarm for overlay networks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub Arc<str>);

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// `80/tcp`
    Tcp,
    /// `53/udp`
    Udp,
    /// `3868/sctp`
    Sctp,
}

impl Proto {
    /// As Docker and SRV names write it, without the underscore.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Takes Docker's word for it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|proto| proto.as_str() == text)
    }
}

/// Whether a container takes part in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Running, and not asked to stop.
    Serving,
    /// On its way out; takes no new clients.
    Draining,
    /// `docker pause`: alive, but answers nobody.
    Paused,
}

/// What Docker's HEALTHCHECK and our own checks of a container come to. The policy on it belongs to a later hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The check passes.
    Healthy,
    /// The check fails.
    Unhealthy,
    /// The check has not decided yet.
    Starting,
    /// There is no check.
    None,
    /// There is no check, and it crashed a moment ago: given only while no other instance is ready. A record has it as
    /// `"health":"none","held":true`, so that agents which do not know of it take it for healthy.
    #[serde(skip)]
    Held,
}

/// Where Docker published a container port on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Published {
    /// The host address it is bound to; unspecified (`0.0.0.0`, `::`) means all of that family.
    pub ip: IpAddr,
    /// The number on the host.
    pub port: u16,
    /// Chosen by the operator (`-p 8080:80`) rather than by Docker (`-p 80`).
    pub chosen: bool,
}

/// One port of one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// What `_name._tcp` SRV questions call it.
    pub name: Option<Label>,
    /// The number inside the container.
    pub port: u16,
    /// The transport.
    pub proto: Proto,
    /// Where the host publishes it, possibly nowhere.
    pub published: Box<[Published]>,
    /// What Registrator's users say of it, with `--compat registrator`.
    pub extra: Option<Arc<Extra>>,
}

/// What a `SERVICE_*` key says of a port, and nobody here reads: it is published for those who do.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extra {
    /// `SERVICE_ID`
    pub id: Option<Arc<str>>,
    /// Every key that means nothing else, in lower case.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
}

impl Port {
    /// Whether `_name._proto` questions mean it.
    pub fn is_called(&self, name: &str, proto: Proto) -> bool {
        self.proto == proto && self.name.as_ref().is_some_and(|own| own.as_str() == name)
    }
}

/// One service offered by one container. With its [`Publication`] it is an *instance*.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The service's name.
    pub service: Label,
    /// The service's namespace.
    pub namespace: Label,
    /// Free words for the application's own use.
    pub tags: Box<[Arc<str>]>,
    /// Relative share among the instances, 1 by default.
    pub weight: u16,
    /// The container port whose numbers A answers may stand for, where `portolan.port` names one; else all do.
    pub port: Option<u16>,
    /// All ports, ordered by number and transport; empty for a portless service.
    pub ports: Box<[Port]>,
    /// Who is given while no instance is ready, where a label says so.
    pub when_none_ready: Option<WhenNoneReady>,
}

impl Offer {
    /// Whether it is what a bare name means, in the place of an alias of its container: found before it in the container's own
    /// namespace; and in `global` it is the name that the container was given explicitly, which other instances share, or
    /// an external service replaces.
    pub fn is_in_place_of(&self, alias: &str, namespace: &Label) -> bool {
        self.service.as_str() == alias && (self.namespace == *namespace || self.namespace == Label::global())
    }

    /// Whether it has no port at all.
    pub fn is_portless(&self) -> bool {
        self.port.is_none() && self.ports.is_empty()
    }
}

/// How a network of Docker connects: decides who reaches an address on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Driver {
    /// A bridge of one host.
    Bridge,
    /// The host's own network.
    Host,
    /// Swarm's VXLAN.
    Overlay,
    /// Containers with link-layer addresses of their own.
    Macvlan,
    /// Containers with network-layer addresses of their own.
    Ipvlan,
    /// A plugin we know nothing about.
    Other(Arc<str>),
}

impl Driver {
    /// Takes Docker's word for it.
    pub fn parse(text: &str) -> Self {
        match text {
            "bridge" => Self::Bridge,
            "host" => Self::Host,
            "overlay" => Self::Overlay,
            "macvlan" => Self::Macvlan,
            "ipvlan" => Self::Ipvlan,
            other => Self::Other(other.into()),
        }
    }

    /// Docker's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Overlay => "overlay",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Other(name) => name,
        }
    }
}

/// Whether a network's id means anything beyond its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One host only.
    Local,
    /// The whole swarm.
    Swarm,
    /// A plugin's cluster.
    Global,
}

/// Broken input as data: where it was, what was found, what was expected. Never a value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about: `container 0123456789ab (shop-web-1), label portolan.port`, an etcd key, a file.
    pub place: String,
    /// What was there, shortened.
    pub found: String,
    /// What would have been right, as the fix.
    pub expected: String,
}

/// How much of a foreign text a problem quotes, in characters.
pub const MAX_QUOTED: usize = 80;
/// How much of an error's text a problem keeps, in characters: three endpoints with the reason of each.
pub const MAX_ERROR: usize = 400;

impl Problem {
    /// A problem; `found` is shortened to [`MAX_QUOTED`] characters and control characters are escaped.
    pub fn new(place: impl Into<String>, found: &str, expected: impl Into<String>) -> Self {
        Self { place: place.into(), found: quote(found, MAX_QUOTED), expected: expected.into() }
    }

    /// A problem whose cause an error's text names, often at its end: the text is kept up to [`MAX_ERROR`] characters.
    pub fn of_error(place: impl Into<String>, error: &str, expected: impl Into<String>) -> Self {
        Self { place: place.into(), found: quote(error, MAX_ERROR), expected: expected.into() }
    }
}

/// A foreign text, shortened to so many characters, with control characters escaped.
fn quote(text: &str, most: usize) -> String {
    let mut quoted: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() {
        quoted.push('…');
    }
    quoted
}

/// Everything this host should publish, derived only from Docker's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Docker has been listed since we started. Before that, silence means nothing.
    pub listed: bool,
    /// One per container that offers something.
    pub publications: OrdMap<ShortId, Arc<Publication>>,
    /// How the health of some of them is found out, besides what Docker says.
    pub checks: OrdMap<ShortId, Checks>,
    /// What was broken in labels and environment.
    pub problems: Arc<[Problem]>,
    /// How many commands to drain and undrain it has followed, over the host's life.
    pub round: u64,
    /// Something is drained by command, so that somebody may wait for all hosts to know.
    pub drained: bool,
    /// As [`Local::apart`]: checks are not asked there.
    pub apart: Arc<BTreeSet<NetworkId>>,
}

/// A network of this host, as the asker rules need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Docker's id.
    pub id: NetworkId,
    /// Docker's name.
    pub name: Arc<str>,
    /// How it connects.
    pub driver: Driver,
    /// How far its id carries.
    pub scope: Scope,
    /// Cut off from everything outside.
    pub internal: bool,
    /// Its containers may talk to each other (`com.docker.network.bridge.enable_icc`).
    pub icc: bool,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// The host's addresses in them: where `--dns docker` listens on bridges.
    pub gateways: Vec<IpAddr>,
}

/// `docker_gwbridge`: gives overlay containers their way out; never a way between containers.
pub const GWBRIDGE: &str = "docker_gwbridge";

/// A container of this host as one that may ask, also when it publishes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The container.
    pub container: ShortId,
    /// Its name.
    pub name: Arc<str>,
    /// Its own namespace: where bare names are looked up first.
    pub namespace: Label,
    /// The networks it is on.
    pub networks: Vec<NetworkId>,
}

/// What this host alone knows: who may ask from which address, and what the host's networks are.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Docker's networks and containers have been listed since we started.
    pub listed: bool,
    /// Every container's addresses, on every network, docker_gwbridge among them.
    pub askers: HashMap<IpAddr, Arc<Asker>>,
    /// Docker's networks on this host.
    pub networks: OrdMap<NetworkId, Arc<Network>>,
    /// Addresses of the host's own interfaces.
    pub addresses: Arc<BTreeSet<IpAddr>>,
    /// Published ports that docker-proxy holds: other bridges of this host reach those.
    pub proxied: Arc<BTreeSet<(Proto, u16)>>,
    /// Published ports of which it cannot be seen who holds them: other bridges may reach them, or may not.
    pub unproven: Arc<BTreeSet<(Proto, u16)>>,
    /// Bridges of the engine that are not in our network namespace: processes of this host do not reach their containers.
    pub apart: Arc<BTreeSet<NetworkId>>,
}

/// What a host says of itself in its session key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Made anew at every start: which of two agents with one host id is meant.
    pub nonce: Arc<str>,
    /// The addresses under which other hosts reach published ports, at most one per family.
    pub advertise: Vec<IpAddr>,
    /// Free path such as `eu/a`.
    pub locality: Arc<str>,
    /// The agent's version.
    pub version: Arc<str>,
    /// What the machine calls itself; empty where an older agent does not say.
    pub hostname: Arc<str>,
    /// The round of commands that somebody may wait for: every other host acknowledges the revision at which this was
    /// written, once it answers from it.
    pub waits: Option<u64>,
}

/// One host in the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its session, if its key was seen; records of a host without one still answer.
    pub session: Session,
    /// What it publishes.
    pub publications: OrdMap<ShortId, Arc<Publication>>,
}

/// Which copy of a host is meant: our own truth from Docker, or what the registry says of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// This host, straight from Docker.
    Own,
    /// A host of the registry: also ourselves before Docker was listed, and a stranger who took our id.
    Registry(HostId),
    /// No host: what the operator registered.
    External,
}

/// Everything known: our own Desired over the registry's view. Immutable; made by `registry/catalog.rs`.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// All hosts with all they publish.
    pub hosts: OrdMap<Origin, Arc<Host>>,
    /// Docker has been listed.
    pub docker_listed: bool,
    /// The registry has been listed.
    pub registry_listed: bool,
    /// The registry cannot be heard at the moment: remote changes are unseen.
    pub stale: bool,
    /// etcd's revision up to which `hosts` is known; 0 before the first list. Never falls within one `cluster`.
    pub revision: i64,
    /// etcd's cluster id.
    pub cluster: u64,
    /// What was broken in the registry's data.
    pub problems: Arc<[Problem]>,
}

impl Catalog {
    /// How many hosts are known, this one included.
    pub fn docker_hosts(&self) -> usize {
        self.hosts.keys().filter(|origin| **origin != Origin::External).count()
    }

    /// Whether a name's absence may be stated: only when both sources have been listed.
    pub fn is_complete(&self) -> bool {
        self.docker_listed && self.registry_listed
    }
}
