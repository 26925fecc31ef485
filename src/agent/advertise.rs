//! Under which addresses other hosts reach this one: what the operator said, else what the kernel would use towards
//! etcd, else what it would use towards the default route. Pure; `route.rs` asks the kernel and the resolver.

use std::net::IpAddr;

use crate::model::{Local, Problem};

/// What is known when a choice is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// `--advertise`; if any is given, nothing is guessed.
    pub(super) configured: &'a [IpAddr],
    /// Source addresses towards the etcd endpoints, in the order of the endpoints.
    pub(super) towards_etcd: &'a [IpAddr],
    /// Source addresses of the default routes.
    pub(super) default_route: &'a [IpAddr],
    /// This host's Docker networks: an address inside one means nothing to other hosts.
    pub(super) local: &'a Local,
}

/// At most one address per family, IPv4 first, and a problem where a configured address cannot be used or none is left.
pub(super) fn choose(known: Known<'_>) -> (Vec<IpAddr>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut chosen: Vec<IpAddr> = Vec::new();
    for configured in known.configured {
        match inside_docker(known.local, *configured) {
            Some(network) => problems.push(Problem::new(
                "--advertise",
                &configured.to_string(),
                format!("an address that other hosts reach; this one lies inside the Docker network {network}"),
            )),
            None => chosen.push(*configured),
        }
    }
    if known.configured.is_empty() {
        let usable = |ip: &&IpAddr| {
            !ip.is_loopback()
                && !ip.is_unspecified()
                && !is_link_local(**ip)
                && inside_docker(known.local, **ip).is_none()
        };
        let guesses = || known.towards_etcd.iter().chain(known.default_route).filter(usable);
        chosen.extend(guesses().find(|ip| ip.is_ipv4()));
        chosen.extend(guesses().find(|ip| ip.is_ipv6()));
        if chosen.is_empty() {
            problems.push(Problem::new(
                "--advertise",
                "no address that other hosts could reach",
                "--advertise IP: until then published ports are not offered to other hosts",
            ));
        }
    }
    chosen.sort_by_key(IpAddr::is_ipv6);
    chosen.dedup_by_key(|ip| ip.is_ipv6());
    (chosen, problems)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The name of the local Docker network that holds an address. Macvlan and ipvlan networks share the subnet of the
/// real network around the host, and so do not count.
fn inside_docker(local: &Local, ip: IpAddr) -> Option<&str> {
    use crate::model::Driver::{Host, Ipvlan, Macvlan};
    let networks = local.networks.values().filter(|network| !matches!(network.driver, Host | Macvlan | Ipvlan));
    networks
        .into_iter()
        .find(|network| network.subnets.iter().any(|subnet| subnet.contains(&ip)))
        .map(|network| network.name.as_ref())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Driver, Network, NetworkId, Scope};

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    fn local(driver: Driver) -> Local {
        let id = NetworkId("n1".into());
        let network = Network {
            id: id.clone(),
            name: "shop_default".into(),
            driver,
            scope: Scope::Local,
            internal: false,
            icc: true,
            subnets: vec!["172.18.0.0/16".parse().unwrap()],
            gateways: ips("172.18.0.1"),
        };
        Local { networks: [(id, Arc::new(network))].into_iter().collect(), ..Local::default() }
    }

    #[test]
    fn the_operator_wins_then_the_way_to_etcd_then_the_default_route() {
        let rows = [
            // configured, towards etcd, default route, chosen, problems
            ("10.0.0.5", "10.1.0.5", "10.2.0.5", "10.0.0.5", 0),
            ("fd00::5 10.0.0.5", "", "", "10.0.0.5 fd00::5", 0),
            ("10.0.0.5", "fd00::6", "fd00::7", "10.0.0.5", 0),
            ("172.18.0.1", "10.1.0.5", "", "", 1),
            ("", "10.1.0.5", "10.2.0.5", "10.1.0.5", 0),
            ("", "127.0.0.1", "10.2.0.5", "10.2.0.5", 0),
            ("", "::1", "10.2.0.5 fd00::7", "10.2.0.5 fd00::7", 0),
            ("", "10.1.0.5", "fd00::7", "10.1.0.5 fd00::7", 0),
            ("", "172.18.0.1", "", "", 1),
            ("", "fe80::1 169.254.1.1", "", "", 1),
            ("", "", "", "", 1),
        ];
        for (configured, towards_etcd, default_route, expected, problems) in rows {
            let (configured, towards_etcd, default_route) = (ips(configured), ips(towards_etcd), ips(default_route));
            let local = local(Driver::Bridge);
            let known = Known {
                configured: &configured,
                towards_etcd: &towards_etcd,
                default_route: &default_route,
                local: &local,
            };
            let (chosen, found) = choose(known);
            assert_eq!(chosen, ips(expected), "{configured:?} {towards_etcd:?} {default_route:?}");
            assert_eq!(found.len(), problems, "{found:?}");
        }
    }

    #[test]
    fn an_address_on_the_real_network_below_a_macvlan_is_fine() {
        let local = local(Driver::Macvlan);
        let known = Known { configured: &ips("172.18.0.9"), towards_etcd: &[], default_route: &[], local: &local };
        assert_eq!(choose(known).0, ips("172.18.0.9"));
    }
}
