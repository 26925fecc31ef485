//! What etcd holds, and what it means: keys and JSON values ↔ the model's types. The only place that knows both.
//!
//! Values are versioned by the path (`v1`). Reading tolerates fields it does not know; a value it cannot read is an
//! [`Undecodable`], which harms only itself. A container's record looks like this (one line in etcd):
//!
//! ```json
//! {"name":"shop-web-1","image":"nginx:1","phase":"serving","health":"healthy",
//!  "services":[{"service":"web","namespace":"shop","tags":["a"],"weight":1,
//!               "ports":[{"name":"http","port":80,"proto":"tcp",
//!                         "published":[{"ip":"0.0.0.0","port":8080,"chosen":true}]}]}],
//!  "networks":[{"id":"3f…","name":"shop_default","driver":"bridge","scope":"local","internal":false,
//!               "ips":["172.18.0.2"]}]}
//! ```
//!
//! With `--compat registrator` a port may have an `"id"` and `"attributes":{"region":"us2"}`.
//! A service whose main port was chosen by a label carries it as `"port":80`. A container whose namespace is its Compose
//! project carries a digest of the directory that project was started from as `"directory":"9ae16a3b2f90404f"`.
//!
//! `"namespace":"shop"` is the container's own, in which its name, its id and `"aliases":["db","db.example.com"]` are names,
//! too. Older agents write neither; such a container's
//! namespace is taken for that of its services.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{interner::Interner, limits::fit};
use super::call::{Revision, WatchRange, prefix_end};
use crate::model::{
    Attachment, Common, Driver, ExternalName, Extra, Health, HostId, Label, MAX_ALIAS, NetworkId, Offer, Phase, Port,
    Proto, Publication, Published, Scope, Segment, Session, ShortId, WhenNoneReady, alias, in_order,
};

/// Largest value we read or write: a record of 64 services with 256 ports each never comes near.
pub const MAX_VALUE: usize = 256 * 1024;
/// Most services of one container.
pub const MAX_SERVICES: usize = 64;
/// Most ports of one service.
pub const MAX_PORTS: usize = 256;
/// Most networks of one container.
pub const MAX_NETWORKS: usize = 64;
/// Most addresses of a container on one network, of a port on its host, or of a host.
pub const MAX_ADDRESSES: usize = 32;
/// Longest digest of a project's directory that is read, in octets: four times ours.
const MAX_DIRECTORY: usize = 64;
/// Most tags of one service.
pub const MAX_TAGS: usize = 128;
/// Most attributes of one port: more than a container may have keys.
pub const MAX_ATTRIBUTES: usize = 512;

/// Why a value cannot be read; said to people, so it names what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undecodable(String);

impl Undecodable {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Builds and reads keys below one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    hosts: Vec<u8>,
    echo: Vec<u8>,
    acks: Vec<u8>,
    external: Vec<u8>,
}

/// What a key means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A host's session.
    Session(HostId),
    /// A container's record.
    Instance(HostId, ShortId),
    /// The proof that a host's watch lives.
    Echo(HostId),
    /// An external service.
    External(ExternalName),
}

impl Keys {
    /// Keys below `<prefix>/v1/`.
    pub fn new(prefix: &str) -> Self {
        let root = prefix.trim_end_matches('/');
        let below = |name: &str| format!("{root}/v1/{name}/").into_bytes();
        Self { hosts: below("hosts"), echo: below("echo"), acks: below("acks"), external: below("external") }
    }

    /// `<prefix>/v1/hosts/<host>/`: all that an agent may write, but for its echo.
    pub fn host_prefix(&self, host: &HostId) -> Vec<u8> {
        [&self.hosts, host.as_str().as_bytes(), b"/"].concat()
    }

    /// A host's session key.
    pub fn session(&self, host: &HostId) -> Vec<u8> {
        [&self.hosts, host.as_str().as_bytes(), b"/session"].concat()
    }

    /// A container's key.
    pub fn instance(&self, host: &HostId, container: ShortId) -> Vec<u8> {
        [&self.hosts, host.as_str().as_bytes(), b"/instances/", container.as_str().as_bytes()].concat()
    }

    /// A host's echo key.
    pub fn echo(&self, host: &HostId) -> Vec<u8> {
        [&self.echo, host.as_str().as_bytes()].concat()
    }

    /// A host's acknowledgement.
    pub fn ack(&self, host: &HostId) -> Vec<u8> {
        [&self.acks, host.as_str().as_bytes()].concat()
    }

    /// The acknowledgements of all hosts.
    pub fn acks_range(&self) -> WatchRange {
        WatchRange { start: self.acks.clone(), end: prefix_end(&self.acks) }
    }

    /// Whose acknowledgement this is.
    pub fn acknowledger(&self, key: &[u8]) -> Option<HostId> {
        HostId::parse(str::from_utf8(key.strip_prefix(self.acks.as_slice())?).ok()?).ok()
    }

    /// `<prefix>/v1/external/`: what operators may write.
    pub fn external_prefix(&self) -> &[u8] {
        &self.external
    }

    /// An external service's key.
    pub fn external(&self, name: &ExternalName) -> Vec<u8> {
        let ExternalName { namespace, service } = name;
        [&self.external, namespace.as_str().as_bytes(), b"/", service.as_str().as_bytes()].concat()
    }

    /// All that answers are made from: external services and everything of every host, which are neighbours.
    pub fn catalog_range(&self) -> WatchRange {
        WatchRange { start: self.external.clone(), end: prefix_end(&self.hosts) }
    }

    /// Whether a key lies where only keys lie that we know: what lies between may be of a later version.
    pub fn is_ours(&self, key: &[u8]) -> bool {
        key.starts_with(&self.external) || key.starts_with(&self.hosts)
    }

    /// Everything of one host, but for its echo.
    pub fn host_range(&self, host: &HostId) -> WatchRange {
        let start = self.host_prefix(host);
        WatchRange { end: prefix_end(&start), start }
    }

    /// One host's echo.
    pub fn echo_range(&self, host: &HostId) -> WatchRange {
        let start = self.echo(host);
        WatchRange { end: [start.as_slice(), b"\0"].concat(), start }
    }

    /// What a key means; `None` for what we do not know.
    pub fn parse(&self, key: &[u8]) -> Option<Key> {
        if let Some(host) = key.strip_prefix(self.echo.as_slice()) {
            return HostId::parse(str::from_utf8(host).ok()?).ok().map(Key::Echo);
        }
        if let Some(name) = key.strip_prefix(self.external.as_slice()) {
            let (namespace, service) = str::from_utf8(name).ok()?.split_once('/')?;
            // What is written otherwise would be a second key of the same name.
            let label = |text: &str| Label::parse(text).ok().filter(|label| label.as_str() == text);
            return Some(Key::External(ExternalName { namespace: label(namespace)?, service: label(service)? }));
        }
        let (host, rest) = str::from_utf8(key.strip_prefix(self.hosts.as_slice())?).ok()?.split_once('/')?;
        let host = HostId::parse(host).ok()?;
        match rest.strip_prefix("instances/") {
            Some(container) => {
                (container.len() == 12).then(|| ShortId::parse(container)).flatten().map(|id| Key::Instance(host, id))
            }
            None => (rest == "session").then_some(Key::Session(host)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct SessionWire<'a> {
    #[serde(borrow)]
    nonce: Cow<'a, str>,
    #[serde(default)]
    advertise: Vec<IpAddr>,
    #[serde(default, borrow)]
    locality: Cow<'a, str>,
    #[serde(default, borrow)]
    version: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    hostname: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waits: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct AckWire {
    revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct RecordWire<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    image: Cow<'a, str>,
    phase: Phase,
    #[serde(default = "no_check")]
    health: Health,
    #[serde(default, skip_serializing_if = "is_not")]
    held: bool,
    #[serde(borrow)]
    services: Vec<ServiceWire<'a>>,
    #[serde(default, borrow)]
    networks: Vec<NetworkWire<'a>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    directory: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    namespace: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ServiceWire<'a> {
    #[serde(borrow)]
    pub(crate) service: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) namespace: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(crate) tags: Vec<Cow<'a, str>>,
    #[serde(default = "one")]
    pub(crate) weight: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) when_none_ready: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(crate) ports: Vec<PortWire<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PortWire<'a> {
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) port: u16,
    #[serde(default = "tcp")]
    pub(crate) proto: Proto,
    #[serde(default)]
    pub(crate) published: Vec<PublishedWire>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PublishedWire {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) chosen: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct NetworkWire<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) driver: Cow<'a, str>,
    #[serde(default = "local")]
    pub(crate) scope: Scope,
    #[serde(default)]
    pub(crate) internal: bool,
    #[serde(default)]
    pub(crate) ips: Vec<IpAddr>,
}

impl<'a> ServiceWire<'a> {
    /// As it is written, in etcd and by the API.
    pub(crate) fn of(offer: &'a Offer) -> Self {
        Self {
            service: Cow::Borrowed(offer.service.as_str()),
            namespace: Cow::Borrowed(offer.namespace.as_str()),
            tags: offer.tags.iter().map(|tag| Cow::Borrowed(tag.as_ref())).collect(),
            weight: offer.weight,
            port: offer.port,
            when_none_ready: offer.when_none_ready.map(|policy| Cow::Owned(policy.to_string())),
            ports: offer.ports.iter().map(PortWire::of).collect(),
        }
    }
}

impl<'a> PortWire<'a> {
    fn of(port: &'a Port) -> Self {
        Self {
            name: port.name.as_ref().map(|name| Cow::Borrowed(name.as_str())),
            port: port.port,
            proto: port.proto,
            published: port
                .published
                .iter()
                .map(|p| PublishedWire { ip: p.ip, port: p.port, chosen: p.chosen })
                .collect(),
            id: port.extra.as_ref().and_then(|extra| extra.id.as_deref()).map(Cow::Borrowed),
            attributes: port.extra.iter().flat_map(|extra| &extra.attributes).map(borrowed).collect(),
        }
    }
}

impl<'a> NetworkWire<'a> {
    /// As it is written, in etcd and by the API.
    pub(crate) fn of(network: &'a Attachment) -> Self {
        Self {
            id: Cow::Borrowed(&network.id.0),
            name: Cow::Borrowed(&network.name),
            driver: Cow::Borrowed(network.driver.as_str()),
            scope: network.scope,
            internal: network.internal,
            ips: network.ips.to_vec(),
        }
    }
}

fn borrowed<'a>((name, value): (&'a Arc<str>, &'a Arc<str>)) -> (Cow<'a, str>, Cow<'a, str>) {
    (Cow::Borrowed(name.as_ref()), Cow::Borrowed(value.as_ref()))
}

/// Health as a word: those that are held have no check.
pub(crate) fn written(health: Health) -> Health {
    if health == Health::Held { Health::None } else { health }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
pub(crate) fn is_not(held: &bool) -> bool {
    !held
}

fn no_check() -> Health {
    Health::None
}

fn one() -> u16 {
    1
}

fn tcp() -> Proto {
    Proto::Tcp
}

fn local() -> Scope {
    Scope::Local
}

/// A session as it is stored.
pub fn encode_session(session: &Session) -> Vec<u8> {
    let wire = SessionWire {
        nonce: Cow::Borrowed(&session.nonce),
        advertise: session.advertise.clone(),
        locality: Cow::Borrowed(&session.locality),
        version: Cow::Borrowed(&session.version),
        hostname: Cow::Borrowed(&session.hostname),
        waits: session.waits,
    };
    serde_json::to_vec(&wire).expect("texts and addresses are always JSON")
}

/// Reads a session.
pub fn decode_session(value: &[u8], interner: &mut Interner) -> Result<Session, Undecodable> {
    let wire: SessionWire<'_> = read(value)?;
    within("advertise", wire.advertise.len(), MAX_ADDRESSES)?;
    // Whoever wrote it: nobody reaches another host there, and an answer with it would lead to the asker itself.
    let leads_nowhere = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    if let Some(address) = wire.advertise.iter().find(|ip| leads_nowhere(ip)) {
        return Err(Undecodable::new(format!("addresses that other hosts reach, not {address}")));
    }
    Ok(Session {
        nonce: interner.text(&wire.nonce),
        advertise: wire.advertise,
        locality: interner.text(&wire.locality),
        version: interner.text(&wire.version),
        // Longer than a DNS name none is.
        hostname: interner.text(if wire.hostname.len() <= MAX_ALIAS { &wire.hostname } else { "" }),
        waits: wire.waits,
    })
}

/// An acknowledgement as it is stored.
pub fn encode_ack(revision: Revision) -> Vec<u8> {
    serde_json::to_vec(&AckWire { revision }).expect("numbers are always JSON")
}

/// Reads an acknowledgement.
pub fn decode_ack(value: &[u8]) -> Result<Revision, Undecodable> {
    Ok(read::<AckWire>(value)?.revision)
}

/// A container's record as it is stored. Equal publications give equal bytes, so that nothing is written twice. Readers
/// take only what [`fit`]s.
pub fn encode(publication: &Publication) -> Vec<u8> {
    let wire = RecordWire {
        name: Cow::Borrowed(&publication.name),
        image: Cow::Borrowed(&publication.image),
        phase: publication.phase,
        health: written(publication.health),
        held: publication.health == Health::Held,
        services: publication.services.iter().map(ServiceWire::of).collect(),
        networks: publication.networks.iter().map(NetworkWire::of).collect(),
        directory: publication.directory.as_deref().map(Cow::Borrowed),
        namespace: Some(Cow::Borrowed(publication.namespace.as_str())),
        aliases: publication.aliases.iter().map(|alias| Cow::Borrowed(alias.as_ref())).collect(),
    };
    serde_json::to_vec(&wire).expect("texts, numbers and addresses are always JSON")
}

/// Reads a container's record.
pub fn decode(container: ShortId, value: &[u8], interner: &mut Interner) -> Result<Publication, Undecodable> {
    let wire: RecordWire<'_> = read(value)?;
    within("services", wire.services.len(), MAX_SERVICES)?;
    within("networks", wire.networks.len(), MAX_NETWORKS)?;
    if wire.services.is_empty() {
        return Err(Undecodable::new("at least one service"));
    }
    let services = wire.services.into_iter().map(|wire| offer(wire, interner)).collect::<Result<Box<[_]>, _>>()?;
    let namespace = match &wire.namespace {
        Some(namespace) => interner.label(namespace)?,
        None => namespace_of(&services),
    };
    // Those that cannot be asked for, or are more than we take, harm only themselves.
    let aliases = wire.aliases.iter().filter_map(|text| alias(text));
    let aliases = in_order(aliases.map(|text| interner.text(&text)).collect());
    let networks = wire.networks.into_iter().map(|wire| attachment(wire, interner)).collect::<Result<_, _>>()?;
    let common = Common {
        image: interner.text(&wire.image),
        services,
        // Compared with others and shown to nobody; a longer one is of no version we know.
        directory: wire.directory.filter(|text| text.len() <= MAX_DIRECTORY).map(|text| interner.text(&text)),
        namespace,
        aliases,
    };
    Ok(Publication {
        container,
        name: wire.name.into(),
        phase: wire.phase,
        health: if wire.held && wire.health == Health::None { Health::Held } else { wire.health },
        common: interner.common(common),
        networks,
        elsewhere: None,
    })
}

/// A container's own namespace, as far as its services tell: names that are given to it explicitly are `global`.
fn namespace_of(services: &[Offer]) -> Label {
    let own = services.iter().map(|offer| &offer.namespace).find(|namespace| **namespace != Label::global());
    own.cloned().unwrap_or_else(Label::global)
}

fn offer(wire: ServiceWire<'_>, interner: &mut Interner) -> Result<Offer, Undecodable> {
    within("tags", wire.tags.len(), MAX_TAGS)?;
    within("ports", wire.ports.len(), MAX_PORTS)?;
    Ok(Offer {
        service: interner.label(&wire.service)?,
        namespace: interner.label(&wire.namespace)?,
        tags: wire.tags.iter().map(|tag| interner.text(tag)).collect(),
        weight: wire.weight,
        port: wire.port,
        ports: wire.ports.into_iter().map(|wire| port(wire, interner)).collect::<Result<_, _>>()?,
        // Of a later version, perhaps: then the operator's policy stands.
        when_none_ready: wire.when_none_ready.and_then(|text| WhenNoneReady::parse(&text).ok()),
    })
}

fn port(wire: PortWire<'_>, interner: &mut Interner) -> Result<Port, Undecodable> {
    within("published", wire.published.len(), MAX_ADDRESSES)?;
    let published =
        wire.published.into_iter().map(|p| Published { ip: p.ip, port: p.port, chosen: p.chosen }).collect();
    let name = wire.name.map(|name| interner.label(&name)).transpose()?;
    within("attributes", wire.attributes.len(), MAX_ATTRIBUTES)?;
    let attributes = wire.attributes.iter().map(|(name, value)| (interner.text(name), interner.text(value)));
    let extra = Extra { id: wire.id.map(|id| id.as_ref().into()), attributes: attributes.collect() };
    let extra = (extra != Extra::default()).then(|| Arc::new(extra));
    Ok(Port { name, port: wire.port, proto: wire.proto, published, extra })
}

fn attachment(wire: NetworkWire<'_>, interner: &mut Interner) -> Result<Attachment, Undecodable> {
    within("ips", wire.ips.len(), MAX_ADDRESSES)?;
    let segment = Segment {
        id: NetworkId(interner.text(&wire.id)),
        name: interner.text(&wire.name),
        driver: Driver::parse(&wire.driver),
        scope: wire.scope,
        internal: wire.internal,
    };
    Ok(Attachment { segment: interner.segment(segment), ips: wire.ips.into_iter().collect() })
}

pub(super) fn read<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, Undecodable> {
    within("octets", value.len(), MAX_VALUE)?;
    serde_json::from_slice(value).map_err(|error| Undecodable::new(error.to_string()))
}

pub(super) fn within(what: &str, found: usize, most: usize) -> Result<(), Undecodable> {
    if found > most { Err(Undecodable::new(format!("at most {most} {what}, not {found}"))) } else { Ok(()) }
}

mod interner;
mod limits;
#[cfg(test)]
pub(crate) mod tests;
