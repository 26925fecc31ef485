//! Docker's wire types → ours. What is missing or makes no sense is left out; it never harms the rest.
//!
//! Only `NetworkSettings.Networks` and the `Type`, `Action` and `Actor` of events are read: API 1.52 has no other
//! place for addresses and names. Labels and environment go through [`Metadata::gather`] here, and the rest of them is
//! dropped with the answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    super::{
        container::{
            Binding, ContainerId, Endpoint, Event, ImageFacts, Inspected, NetworkFacts, NetworkMode, Requested, State,
            Summary,
        },
        metadata::{COMPOSE_HASH, Gather, Metadata},
    },
    wire,
};
use crate::model::{Driver, Health, NetworkId, Proto, Published, Scope};

/// An event that concerns us; `newest` unless others wait behind it.
pub(super) fn event(message: &wire::Message, newest: bool) -> Option<Event> {
    let actor = message.actor.as_ref()?;
    let attribute = |name: &str| actor.attributes.as_ref()?.get(name).map(String::as_str);
    let action = message.action.as_deref()?;
    match message.kind.as_deref()? {
        "container" => {
            let id = ContainerId::parse(actor.id.as_deref()?)?;
            // `health_status: healthy`
            match action.split(':').next()? {
                "create" => {
                    let name = attribute("name")?.trim_start_matches('/').into();
                    Some(Event::Created { id, name, labels: labels(actor.attributes.as_ref()) })
                }
                "start" => Some(Event::Started { id, newest }),
                "unpause" | "rename" | "update" | "health_status" => Some(Event::Changed(id)),
                "pause" => Some(Event::Paused(id)),
                "kill" => Some(Event::Killed { id, signal: attribute("signal")?.parse().ok()? }),
                "die" => Some(Event::Died(id)),
                "destroy" => Some(Event::Destroyed(id)),
                _ => None,
            }
        }
        "network" => {
            let network = NetworkId(actor.id.as_deref()?.into());
            let container = || ContainerId::parse(attribute("container")?);
            match action {
                "create" => Some(Event::NetworkCreated(network)),
                "destroy" => Some(Event::NetworkDestroyed(network)),
                "connect" => Some(Event::Connected { id: container()?, network }),
                "disconnect" => Some(Event::Disconnected { id: container()?, network }),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What an image's labels say of Compose.
pub(super) fn image(answer: wire::Image) -> ImageFacts {
    let labels = answer.config.and_then(|config| config.labels).unwrap_or_default();
    let hash = labels.get(COMPOSE_HASH).map(|hash| hash.as_str().into());
    ImageFacts { composed: labels.keys().any(|key| key.starts_with("com.docker.compose.")), hash }
}

/// `name=rootless` among the security options, each of which may have further words behind a comma.
pub(super) fn is_rootless(info: &wire::Info) -> bool {
    let is_it = |option: &String| option.split(',').any(|word| word == "name=rootless");
    info.security_options.as_deref().unwrap_or_default().iter().any(is_it)
}

/// One container of a list.
pub(super) fn summary(listed: wire::Listed) -> Option<Summary> {
    let names = listed.names.unwrap_or_default();
    // Links add names such as `/web/db`; the own one has a single slash.
    let own = names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'));
    Some(Summary {
        id: ContainerId::parse(&listed.id?)?,
        name: own.unwrap_or_default().into(),
        labels: labels(listed.labels.as_ref()),
        state: match listed.state.as_deref() {
            Some("created" | "exited" | "removing" | "dead") => State::Stopped,
            Some("paused") => State::Paused,
            Some("restarting") => State::Restarting,
            // Of a word that is not known only an inspect can tell whether the container is alive, and it is asked of
            // those that are.
            _ => State::Running,
        },
        endpoints: endpoints(listed.network_settings.and_then(|settings| settings.networks)),
    })
}

/// Search domains of a container that are kept. resolv.conf(5) had a limit of six until glibc 2.26; people have fewer.
const MAX_SEARCH: usize = 16;

/// The answer to an inspect, with what is wanted of its labels and its environment.
pub(super) fn inspect(wanted: Gather, id: ContainerId, answer: wire::Container) -> Inspected {
    let config = answer.config.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let network = answer.network_settings.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let variables = config.env.unwrap_or_default();
    let labels = config.labels.unwrap_or_default();
    let test = config.healthcheck.and_then(|check| check.test).unwrap_or_default();
    let unchecked = test.first().is_some_and(|kind| kind == "NONE");
    let configured = host.port_bindings.unwrap_or_default();
    let exposed: BTreeSet<_> =
        config.exposed_ports.unwrap_or_default().keys().filter_map(|port| container_port(port)).collect();
    let every = host.publish_all_ports.unwrap_or_default().then(|| exposed.clone());
    Inspected {
        id,
        name: answer.name.as_deref().unwrap_or_default().trim_start_matches('/').into(),
        image: config.image.unwrap_or_default().into(),
        image_id: answer.image.filter(|id| !id.is_empty()).map(Into::into),
        hostname: config.hostname.unwrap_or_default().into(),
        metadata: Metadata::with(
            wanted,
            labels.iter().map(|(key, value)| (key.as_str(), value.as_str())),
            variables.iter().map(String::as_str),
        ),
        health: if unchecked { Health::None } else { health(&state) },
        checked: !unchecked && !test.is_empty(),
        started: doing(&state).is_alive().then(|| state.started_at.as_deref().map(Into::into)).flatten(),
        restarts: answer.restart_count.unwrap_or_default(),
        restarts_itself: host
            .restart_policy
            .and_then(|policy| policy.name)
            .is_some_and(|name| !matches!(&*name, "" | "no")),
        namespace: None,
        state: doing(&state),
        stop_signal: config.stop_signal.map(Into::into),
        stop_timeout: config.stop_timeout,
        network_mode: NetworkMode::parse(host.network_mode.as_deref().unwrap_or_default()),
        aliases: aliases(network.networks.as_ref()),
        endpoints: endpoints(network.networks),
        exposed,
        search: host
            .dns_search
            .unwrap_or_default()
            .iter()
            .take(MAX_SEARCH)
            .map(|domain| domain.as_str().into())
            .collect(),
        requested: requested(&configured, every.as_ref()),
        bindings: bindings(network.ports, &configured),
    }
}

/// A network of a list.
pub(super) fn network(listed: wire::Network) -> Option<NetworkFacts> {
    facts(listed)
}

/// The addresses of containers on one network.
pub(super) type Endpoints = Vec<(ContainerId, Box<[IpAddr]>)>;

/// The answer to an inspect of a network.
pub(super) fn network_inspect(mut answer: wire::Network) -> Option<(NetworkFacts, Endpoints)> {
    let containers = answer.containers.take().unwrap_or_default();
    let facts = facts(answer)?;
    // Keys such as `ep-…` and `lb-…` are endpoints without a container.
    let endpoint = |(id, member): (String, wire::Member)| {
        let ips = [member.ipv4, member.ipv6].into_iter().flatten().filter_map(|text| address(&text));
        Some((ContainerId::parse(&id)?, ips.collect()))
    };
    Some((facts, containers.into_iter().filter_map(endpoint).collect()))
}

fn facts(network: wire::Network) -> Option<NetworkFacts> {
    let wire::Network { name, id, scope, driver, internal, options, ipam, .. } = network;
    let pools = ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let icc = options.and_then(|mut options| options.remove("com.docker.network.bridge.enable_icc"));
    Some(NetworkFacts {
        id: NetworkId(id.filter(|id| !id.is_empty())?.into()),
        name: name?.into(),
        driver: Driver::parse(&driver?),
        scope: match scope.as_deref() {
            Some("swarm") => Scope::Swarm,
            Some("global") => Scope::Global,
            _ => Scope::Local,
        },
        internal: internal.unwrap_or_default(),
        icc: icc.is_none_or(|value| value != "false"),
        subnets: pools.iter().filter_map(|pool| pool.subnet.as_ref()?.parse().ok()).collect(),
        gateways: pools.iter().filter_map(|pool| address(pool.gateway.as_ref()?)).collect(),
    })
}

fn labels(labels: Option<&HashMap<String, String>>) -> Metadata {
    let pairs = labels.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    Metadata::gather(pairs, [])
}

fn doing(state: &wire::State) -> State {
    let is = |flag: Option<bool>| flag.unwrap_or_default();
    // While a restart policy waits, Docker says `Running: true, Restarting: true, Pid: 0`.
    match () {
        () if is(state.restarting) => State::Restarting,
        () if !is(state.running) || state.pid == Some(0) => State::Stopped,
        () if is(state.paused) => State::Paused,
        () => State::Running,
    }
}

/// A word that is not known is no verdict: it takes nobody out of answers.
fn health(state: &wire::State) -> Health {
    match state.health.as_ref().and_then(|health| health.status.as_deref()) {
        Some("healthy") => Health::Healthy,
        Some("unhealthy") => Health::Unhealthy,
        Some("starting") => Health::Starting,
        _ => Health::None,
    }
}

fn endpoints(networks: wire::Map<wire::Endpoint>) -> Vec<Endpoint> {
    let endpoint = |(name, settings): (String, wire::Endpoint)| {
        let ips = [settings.ipv4, settings.ipv6];
        let ips: BTreeSet<IpAddr> = ips.into_iter().flatten().filter_map(|text| address(&text)).collect();
        let network = NetworkId(settings.network_id.filter(|id| !id.is_empty())?.into());
        Some(Endpoint { network, name: name.into(), ips: ips.into_iter().collect() })
    };
    let mut all: Vec<Endpoint> = networks.unwrap_or_default().into_iter().filter_map(endpoint).collect();
    all.sort();
    all
}

/// Names of one container on one network that are read: 32 of all are published, and each may stand here twice.
const MAX_NAMES: usize = 256;

/// What a container is called on its networks.
fn aliases(networks: Option<&HashMap<String, wire::Endpoint>>) -> BTreeMap<Arc<str>, Box<[Arc<str>]>> {
    let of = |(network, settings): (&String, &wire::Endpoint)| {
        let names: BTreeSet<&String> =
            [&settings.aliases, &settings.dns_names].into_iter().flatten().flatten().take(MAX_NAMES).collect();
        (!names.is_empty())
            .then(|| (network.as_str().into(), names.into_iter().map(|name| name.as_str().into()).collect()))
    };
    networks.into_iter().flatten().filter_map(of).collect()
}

/// `172.18.0.2` or `172.18.0.2/16`.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// `80/tcp`
fn container_port(text: &str) -> Option<(u16, Proto)> {
    let (port, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let proto = match proto {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        "sctp" => Proto::Sctp,
        _ => return None,
    };
    Some((port.parse().ok().filter(|port| *port != 0)?, proto))
}

/// The ports that the operator asked for, in order: those written, and with `-P` every exposed one.
fn requested(configured: &wire::PortMap, every: Option<&BTreeSet<(u16, Proto)>>) -> Vec<Requested> {
    let chosen = |(port, proto): &(u16, Proto)| Requested { port: *port, proto: *proto, ip: None, number: None };
    let mut all: BTreeSet<Requested> = every.into_iter().flatten().map(chosen).collect();
    for (key, wanted) in configured {
        let Some((port, proto)) = container_port(key) else { continue };
        for binding in wanted.iter().flatten() {
            let number = binding.host_port.as_ref().and_then(|port| port.parse().ok()).filter(|port| *port != 0);
            all.insert(Requested { port, proto, ip: binding.host_ip.as_deref().and_then(address), number });
        }
    }
    all.into_iter().collect()
}

/// Where ports are published now. Chosen is a number that the operator wrote, not one Docker took, also not from a range.
fn bindings(ports: Option<wire::PortMap>, configured: &wire::PortMap) -> Vec<Binding> {
    let mut all = BTreeMap::new();
    for (key, bound) in ports.unwrap_or_default() {
        let Some((port, proto)) = container_port(&key) else { continue };
        let written: BTreeSet<u16> = configured
            .get(&key)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|binding| binding.host_port.as_ref()?.parse().ok())
            .collect();
        for binding in bound.unwrap_or_default() {
            let number = binding.host_port.and_then(|port| port.parse().ok()).filter(|port| *port != 0);
            let ip = match binding.host_ip.as_deref() {
                None | Some("") => Some(IpAddr::from([0, 0, 0, 0])),
                Some(text) => address(text),
            };
            if let (Some(number), Some(ip)) = (number, ip) {
                all.insert((port, proto, ip, number), written.contains(&number));
            }
        }
    }
    all.into_iter()
        .map(|((port, proto, ip, number), chosen)| Binding { port, proto, at: Published { ip, port: number, chosen } })
        .collect()
}
