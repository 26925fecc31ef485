//! What is read of Docker's answers, and nothing else: a field that is not here may hold anything.
//!
//! Docker's enumerations are texts here. A newer engine has words that are not known yet, and what each means is
//! decided in `decode.rs`, for its container alone. Go writes `null` for a list or a map that is empty, so everything
//! may be absent.

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};

/// A map as Go writes it.
pub(super) type Map<T> = Option<HashMap<String, T>>;
/// Host ports by container port; `null`: exposed only.
pub(super) type PortMap = HashMap<String, Option<Vec<PortBinding>>>;

/// A line of `GET /events`. The only fields that API 1.52 still has.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Message {
    #[serde(rename = "Type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "Action")]
    pub(super) action: Option<String>,
    #[serde(rename = "Actor")]
    pub(super) actor: Option<Actor>,
    #[serde(rename = "timeNano")]
    pub(super) nanoseconds: Option<i64>,
}

/// What an event is about.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Actor {
    #[serde(rename = "ID")]
    pub(super) id: Option<String>,
    #[serde(rename = "Attributes")]
    pub(super) attributes: Map<String>,
}

/// An element of `GET /containers/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: Option<String>,
    pub(super) names: Option<Vec<String>>,
    pub(super) labels: Map<String>,
    pub(super) state: Option<String>,
    pub(super) network_settings: Option<ListedNetworks>,
}

/// What a list tells of a container's networks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedNetworks {
    pub(super) networks: Map<Endpoint>,
}

/// `GET /containers/<id>/json`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) name: Option<String>,
    /// The image's id.
    pub(super) image: Option<String>,
    pub(super) restart_count: Option<u32>,
    pub(super) state: Option<State>,
    pub(super) config: Option<Config>,
    pub(super) host_config: Option<HostConfig>,
    pub(super) network_settings: Option<NetworkSettings>,
}

/// `State` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) running: Option<bool>,
    pub(super) paused: Option<bool>,
    pub(super) restarting: Option<bool>,
    pub(super) pid: Option<i64>,
    pub(super) started_at: Option<String>,
    pub(super) health: Option<Health>,
}

/// `State.Health` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Health {
    pub(super) status: Option<String>,
}

/// `Config` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    pub(super) hostname: Option<String>,
    pub(super) image: Option<String>,
    pub(super) env: Option<Vec<String>>,
    pub(super) labels: Map<String>,
    pub(super) exposed_ports: Map<IgnoredAny>,
    pub(super) healthcheck: Option<Healthcheck>,
    pub(super) stop_signal: Option<String>,
    pub(super) stop_timeout: Option<i64>,
}

/// `Config.Healthcheck` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Healthcheck {
    pub(super) test: Option<Vec<String>>,
}

/// `HostConfig` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HostConfig {
    pub(super) network_mode: Option<String>,
    pub(super) port_bindings: Option<PortMap>,
    pub(super) publish_all_ports: Option<bool>,
    pub(super) dns_search: Option<Vec<String>>,
    pub(super) restart_policy: Option<RestartPolicy>,
}

/// `HostConfig.RestartPolicy` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RestartPolicy {
    pub(super) name: Option<String>,
}

/// Where a port is published, or is to be.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PortBinding {
    pub(super) host_ip: Option<String>,
    pub(super) host_port: Option<String>,
}

/// `NetworkSettings` of an inspect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkSettings {
    pub(super) ports: Option<PortMap>,
    pub(super) networks: Map<Endpoint>,
}

/// A container's place on one network.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Endpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: Option<String>,
    #[serde(rename = "IPAddress")]
    pub(super) ipv4: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    pub(super) ipv6: Option<String>,
    /// What the user gave; until API 1.44 also the short id.
    #[serde(rename = "Aliases")]
    pub(super) aliases: Option<Vec<String>>,
    /// All that the engine's own DNS answers to, since API 1.44.
    #[serde(rename = "DNSNames")]
    pub(super) dns_names: Option<Vec<String>>,
}

/// An element of `GET /networks`, and `GET /networks/<id>`, which alone has `containers`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Network {
    pub(super) name: Option<String>,
    pub(super) id: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) internal: Option<bool>,
    pub(super) options: Map<String>,
    #[serde(rename = "IPAM")]
    pub(super) ipam: Option<Ipam>,
    pub(super) containers: Map<Member>,
}

/// `IPAM` of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ipam {
    pub(super) config: Option<Vec<Pool>>,
}

/// One pool of a network's addresses.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pool {
    pub(super) subnet: Option<String>,
    pub(super) gateway: Option<String>,
}

/// A container's addresses as its network tells them, with the length of the prefix.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Member {
    #[serde(rename = "IPv4Address")]
    pub(super) ipv4: Option<String>,
    #[serde(rename = "IPv6Address")]
    pub(super) ipv6: Option<String>,
}

/// `GET /version`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Version {
    pub(super) components: Option<Vec<Component>>,
}

/// `GET /images/<id>/json`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Image {
    pub(super) config: Option<ImageConfig>,
}

/// `Config` of an image.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageConfig {
    pub(super) labels: Map<String>,
}

/// `GET /info`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Info {
    pub(super) security_options: Option<Vec<String>>,
}

/// What the engine is made of.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Component {
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
}
