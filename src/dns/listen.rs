//! Where to listen: from the values of `--dns` and what Docker's networks are right now. Pure.
//!
//! The result is a complete set, made anew on every change of [`Local`]; the server compares it with what it has open.
//! `docker` follows the bridges because containers can always reach their own gateway, also from internal networks,
//! which reach nothing else. Addresses that do not exist (yet) are fine: sockets are bound with IP_FREEBIND.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use crate::model::{Driver, Local};

/// The port of DNS (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// Where everybody may listen, and the host's own tools find us: loopback, unprivileged, seldom taken.
pub const FALLBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5300);

/// One value of `--dns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// Port 53 on the gateway of every Docker bridge network, followed as networks come and go.
    Docker,
    /// `docker` where port 53 may be bound, and always 127.0.0.1:5300.
    Auto,
    /// This address.
    Address(SocketAddr),
}

/// Whether this process may bind port 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port53 {
    /// It may.
    Allowed,
    /// The kernel says no: not root, no CAP_NET_BIND_SERVICE.
    Denied,
}

/// Why a text is no [`Listen`]; says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// An address alone.
    #[error("`{text}` has no port: write {}", SocketAddr::new(*.ip, DNS_PORT))]
    NoPort {
        /// What was written.
        text: String,
        /// The address that it is.
        ip: IpAddr,
    },
    /// An address nobody can be asked on.
    #[error(
        "`{0}` cannot be listened on: write an address of this host and a port from 1 to 65535, such as 127.0.0.1:5300"
    )]
    Unusable(String),
    /// Nothing we know.
    #[error("`{0}` is no listen address: write `auto`, `docker` or ADDRESS:PORT, such as 10.0.0.5:53 or [fd00::5]:53")]
    Unknown(String),
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let text = text.trim();
        match text {
            "docker" => return Ok(Self::Docker),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            return match is_usable(address) {
                true => Ok(Self::Address(address)),
                false => Err(ListenError::Unusable(text.into())),
            };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse::<IpAddr>() {
            Ok(ip) => Err(ListenError::NoPort { text: text.into(), ip }),
            Err(_) => Err(ListenError::Unknown(text.into())),
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Docker => f.write_str("docker"),
            Self::Auto => f.write_str("auto"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// All addresses to listen on. A wildcard address stands for the specific ones of its family and port, which are left
/// out: the kernel would not let both be bound.
pub fn wanted(listens: &[Listen], local: &Local, port_53: Port53) -> BTreeSet<SocketAddr> {
    let mut wanted = BTreeSet::new();
    for listen in listens {
        match listen {
            Listen::Docker => wanted.extend(gateways(local)),
            Listen::Auto => {
                if port_53 == Port53::Allowed {
                    wanted.extend(gateways(local));
                }
                wanted.insert(FALLBACK);
            }
            Listen::Address(address) => {
                wanted.insert(*address);
            }
        }
    }
    let wildcards: Vec<SocketAddr> = wanted.iter().copied().filter(|a| a.ip().is_unspecified()).collect();
    let covered =
        |a: &SocketAddr| wildcards.iter().any(|w| w.port() == a.port() && w.is_ipv4() == a.is_ipv4() && w != a);
    wanted.retain(|address| !covered(address));
    wanted
}

/// Port 53 on the gateways of all bridges: internal ones and docker_gwbridge (overlay containers ask there) as well.
fn gateways(local: &Local) -> impl Iterator<Item = SocketAddr> {
    local
        .networks
        .values()
        .filter(|network| network.driver == Driver::Bridge)
        .flat_map(|network| &network.gateways)
        .map(|ip| SocketAddr::new(ip.to_canonical(), DNS_PORT))
        .filter(|address| is_usable(*address))
}

/// Whether a socket can be bound there and be asked. A link-local IPv6 address means nothing without its interface.
fn is_usable(address: SocketAddr) -> bool {
    let fits = match address.ip() {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    fits && address.port() != 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{GWBRIDGE, Network, NetworkId, Scope};

    fn local(networks: &[(&str, Driver, &[&str])]) -> Local {
        let networks = networks.iter().map(|(name, driver, gateways)| {
            let id = NetworkId((*name).into());
            let network = Network {
                id: id.clone(),
                name: (*name).into(),
                driver: driver.clone(),
                scope: Scope::Local,
                internal: *name == "internal",
                icc: true,
                subnets: vec![],
                gateways: gateways.iter().map(|ip| ip.parse().unwrap()).collect(),
            };
            (id, Arc::new(network))
        });
        Local { listed: true, networks: networks.collect(), ..Local::default() }
    }

    fn check(listens: &[&str], local: &Local, port_53: Port53, expected: &[&str]) {
        let listens: Vec<Listen> = listens.iter().map(|text| text.parse().unwrap()).collect();
        let expected: BTreeSet<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(wanted(&listens, local, port_53), expected, "{listens:?}");
    }

    #[test]
    fn docker_means_port_53_on_every_bridges_gateway() {
        let docker = local(&[
            ("bridge", Driver::Bridge, &["172.17.0.1"]),
            ("internal", Driver::Bridge, &["172.18.0.1", "fd00:18::1"]),
            (GWBRIDGE, Driver::Bridge, &["172.19.0.1"]),
            ("swarm", Driver::Overlay, &["10.0.9.1"]),
            ("lan", Driver::Macvlan, &["192.168.1.1"]),
            ("host", Driver::Host, &[]),
            ("link-local", Driver::Bridge, &["fe80::1"]),
        ]);
        let gateways = ["172.17.0.1:53", "172.18.0.1:53", "[fd00:18::1]:53", "172.19.0.1:53"];
        let with_fallback = [&gateways[..], &["127.0.0.1:5300"]].concat();
        check(&["docker"], &docker, Port53::Allowed, &gateways);
        check(&["docker"], &docker, Port53::Denied, &gateways);
        check(&["auto"], &docker, Port53::Allowed, &with_fallback);
        check(&["auto"], &docker, Port53::Denied, &["127.0.0.1:5300"]);
        check(&["auto"], &Local::default(), Port53::Allowed, &["127.0.0.1:5300"]);
        check(&["docker", "127.0.0.1:5300"], &docker, Port53::Denied, &with_fallback);
        check(&[], &docker, Port53::Allowed, &[]);
    }

    #[test]
    fn a_wildcard_stands_for_the_addresses_of_its_family_and_port() {
        let docker = local(&[("bridge", Driver::Bridge, &["172.17.0.1", "fd00:17::1"])]);
        check(&["0.0.0.0:53", "auto"], &docker, Port53::Allowed, &["0.0.0.0:53", "[fd00:17::1]:53", "127.0.0.1:5300"]);
        check(&["[::]:53", "docker"], &docker, Port53::Allowed, &["[::]:53", "172.17.0.1:53"]);
    }

    #[test]
    fn each_text_is_a_listen_address_or_says_what_to_write() {
        let ok = [
            ("auto", Listen::Auto),
            (" docker ", Listen::Docker),
            ("10.0.0.5:53", Listen::Address("10.0.0.5:53".parse().unwrap())),
            ("[fd00::5]:5353", Listen::Address("[fd00::5]:5353".parse().unwrap())),
            ("[::ffff:10.0.0.5]:53", Listen::Address("10.0.0.5:53".parse().unwrap())),
        ];
        for (text, expected) in ok {
            assert_eq!(text.parse::<Listen>().as_ref(), Ok(&expected));
            assert_eq!(expected.to_string().parse(), Ok(expected), "printing and parsing agree");
        }
        let broken = [
            ("10.0.0.5", "`10.0.0.5` has no port: write 10.0.0.5:53"),
            ("fd00::5", "`fd00::5` has no port: write [fd00::5]:53"),
            ("[fd00::5]", "`[fd00::5]` has no port: write [fd00::5]:53"),
            (
                "10.0.0.5:0",
                "`10.0.0.5:0` cannot be listened on: write an address of this host and a port from 1 to 65535, such as 127.0.0.1:5300",
            ),
            (
                "224.0.0.1:53",
                "`224.0.0.1:53` cannot be listened on: write an address of this host and a port from 1 to 65535, such as 127.0.0.1:5300",
            ),
            (
                "localhost:53",
                "`localhost:53` is no listen address: write `auto`, `docker` or ADDRESS:PORT, such as 10.0.0.5:53 or [fd00::5]:53",
            ),
            (
                "",
                "`` is no listen address: write `auto`, `docker` or ADDRESS:PORT, such as 10.0.0.5:53 or [fd00::5]:53",
            ),
            (
                "DOCKER",
                "`DOCKER` is no listen address: write `auto`, `docker` or ADDRESS:PORT, such as 10.0.0.5:53 or [fd00::5]:53",
            ),
        ];
        for (text, expected) in broken {
            assert_eq!(text.parse::<Listen>().unwrap_err().to_string(), expected);
        }
    }
}
