//! Who may ask at all. Pure.
//!
//! An open resolver is a weapon for others, so the list exists from the first listener on (D16) and there is no way to
//! switch it off: `--allow 0.0.0.0/0` has to be written out. Whoever is not on it gets REFUSED and is counted; before
//! Docker was first listed SERVFAIL, for it may be a container of a network that we have not heard of yet.
//!
//! By default these may ask:
//! - loopback, and the addresses of this host's own interfaces;
//! - the subnets of this host's Docker networks. Macvlan and ipvlan are left out: their subnet is the LAN's, so most of
//!   it are machines that Docker knows nothing of. Of those networks only the containers' own addresses are let in;
//! - the advertise addresses of the hosts in the catalog.

use std::{collections::BTreeSet, net::IpAddr};

use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use super::source::{Source, locate};
use crate::model::{Catalog, Driver, Host, Local};

/// The networks that may ask. Immutable; made anew whenever one of its sources changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// Disjoint and sorted by their first address, so that one binary search decides.
    networks: Box<[IpNet]>,
    /// The addresses that known hosts advertise.
    peers: BTreeSet<IpAddr>,
}

impl AccessList {
    /// The list from what this host knows, plus the subnets of `--allow`.
    pub fn new(local: &Local, catalog: &Catalog, allow: &[IpNet]) -> Self {
        let loopback = [IpNet::V4(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)), host_net(LOOPBACK_6)];
        let shared_with_the_lan: Vec<&IpNet> =
            local.networks.values().filter(|n| !is_dockers_own(&n.driver)).flat_map(|n| &n.subnets).collect();
        let containers = (!shared_with_the_lan.is_empty())
            .then(|| local.askers.keys())
            .into_iter()
            .flatten()
            .filter(|ip| shared_with_the_lan.iter().any(|subnet| subnet.contains(*ip)))
            .map(|ip| host_net(*ip));
        let peers: BTreeSet<IpAddr> =
            catalog.hosts.values().flat_map(|host| &host.session.advertise).map(IpAddr::to_canonical).collect();
        let list = Self::only(
            loopback
                .into_iter()
                .chain(local.addresses.iter().map(|ip| host_net(*ip)))
                .chain(
                    local
                        .networks
                        .values()
                        .filter(|n| is_dockers_own(&n.driver))
                        .flat_map(|n| n.subnets.iter().copied()),
                )
                .chain(containers)
                .chain(peers.iter().map(|ip| host_net(*ip)))
                .chain(allow.iter().copied()),
        );
        Self { peers, ..list }
    }

    /// Exactly these networks.
    pub fn only(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let networks: Vec<IpNet> = networks.into_iter().map(|net| canonical(net).trunc()).collect();
        let mut networks = IpNet::aggregate(&networks);
        networks.sort_unstable_by_key(IpNet::network);
        Self { networks: networks.into(), peers: BTreeSet::new() }
    }

    /// Who asks from `source`, known hosts told from other strangers.
    pub fn locate(&self, local: &Local, source: IpAddr) -> Source {
        match locate(local, source) {
            Source::Stranger if self.peers.contains(&source.to_canonical()) => Source::Peer,
            other => other,
        }
    }

    /// Whether this address may ask. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn permits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let after = self.networks.partition_point(|net| net.network() <= source);
        after > 0 && self.networks[after - 1].contains(&source)
    }

    /// The networks, disjoint and in order.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Whether a change of the catalog changes the list: some host came, went or advertises something else. Costs what
    /// differs, not what there is (D15), so it may be asked on every change.
    pub fn is_affected(old: &Catalog, new: &Catalog) -> bool {
        let advertises = |host: &Host| !host.session.advertise.is_empty();
        old.hosts.diff(&new.hosts).any(|item| match item {
            DiffItem::Add(_, host) | DiffItem::Remove(_, host) => advertises(host),
            DiffItem::Update { old: (_, old), new: (_, new) } => old.session.advertise != new.session.advertise,
        })
    }
}

const LOOPBACK_6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

/// Whether the network's subnets hold nothing but Docker's containers and this host.
fn is_dockers_own(driver: &Driver) -> bool {
    matches!(driver, Driver::Bridge | Driver::Overlay)
}

/// The network of one address.
fn host_net(ip: IpAddr) -> IpNet {
    IpNet::from(ip.to_canonical())
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::V4(ipnet::Ipv4Net::new_assert(v4, v6.prefix_len() - 96)),
            None => net,
        },
        _ => net,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Asker, HostId, Label, Network, NetworkId, Origin, Scope, Session, ShortId};

    fn network(name: &str, driver: Driver, subnet: &str) -> (NetworkId, Arc<Network>) {
        let id = NetworkId(name.into());
        let network = Network {
            id: id.clone(),
            name: name.into(),
            driver,
            scope: Scope::Local,
            internal: false,
            icc: true,
            subnets: vec![subnet.parse().unwrap()],
            gateways: vec![],
        };
        (id, Arc::new(network))
    }

    fn asker(ip: &str) -> (IpAddr, Arc<Asker>) {
        let asker = Asker {
            container: ShortId::parse("0123456789ab").unwrap(),
            name: "a".into(),
            namespace: Label::default_namespace(),
            networks: vec![],
        };
        (ip.parse().unwrap(), Arc::new(asker))
    }

    fn catalog(advertise: &[&str]) -> Catalog {
        let session =
            Session { advertise: advertise.iter().map(|ip| ip.parse().unwrap()).collect(), ..Session::default() };
        let host = Host { session, ..Host::default() };
        let origin = Origin::Registry(HostId::parse("b").unwrap());
        Catalog { hosts: [(origin, Arc::new(host))].into_iter().collect(), ..Catalog::default() }
    }

    fn local() -> Local {
        Local {
            listed: true,
            askers: [asker("192.168.1.77"), asker("172.18.0.2")].into_iter().collect(),
            networks: [
                network("shop", Driver::Bridge, "172.18.0.0/16"),
                network("six", Driver::Bridge, "fd00:18::/64"),
                network("swarm", Driver::Overlay, "10.0.9.0/24"),
                network("lan", Driver::Macvlan, "192.168.1.0/24"),
            ]
            .into_iter()
            .collect(),
            addresses: Arc::new(["203.0.113.7".parse().unwrap()].into()),
            ..Local::default()
        }
    }

    #[test]
    fn each_source_is_let_in_or_refused_by_its_address() {
        let list =
            AccessList::new(&local(), &catalog(&["198.51.100.5", "2001:db8::5"]), &["10.9.0.0/16".parse().unwrap()]);
        let cases = [
            ("127.0.0.1", true),
            ("127.255.255.254", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("172.18.3.4", true),
            ("::ffff:172.18.3.4", true),
            ("172.19.0.1", false),
            ("fd00:18::2", true),
            ("fd00:19::2", false),
            ("10.0.9.200", true),
            ("203.0.113.7", true),   // our own interface
            ("203.0.113.8", false),  // its neighbour
            ("192.168.1.77", true),  // our container on the LAN
            ("192.168.1.78", false), // somebody else on the LAN
            ("198.51.100.5", true),  // another host
            ("2001:db8::5", true),
            ("198.51.100.6", false),
            ("10.9.255.255", true), // --allow
            ("10.10.0.0", false),
            ("0.0.0.0", false),
            ("8.8.8.8", false),
            ("2001:4860:4860::8888", false),
        ];
        for (source, expected) in cases {
            assert_eq!(list.permits(source.parse().unwrap()), expected, "{source}");
        }
    }

    #[test]
    fn another_host_is_told_from_a_stranger_by_what_it_advertises() {
        let list =
            AccessList::new(&local(), &catalog(&["198.51.100.5", "203.0.113.7"]), &["10.9.0.0/16".parse().unwrap()]);
        for (source, expected) in [
            ("198.51.100.5", Source::Peer),
            ("::ffff:198.51.100.5", Source::Peer),
            ("10.9.0.1", Source::Stranger),
            // Ours, though another host advertises it.
            ("203.0.113.7", Source::Host),
        ] {
            assert_eq!(list.locate(&local(), source.parse().unwrap()), expected, "{source}");
        }
        let unlisted = Local { listed: false, ..local() };
        assert_eq!(list.locate(&unlisted, "198.51.100.5".parse().unwrap()), Source::Unknown);
    }

    #[test]
    fn an_empty_list_refuses_everybody() {
        assert!(!AccessList::default().permits("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_mapped_subnet_is_its_ipv4_subnet() {
        let list = AccessList::only(["::ffff:10.0.0.0/104".parse().unwrap()]);
        assert_eq!(list.networks(), ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn only_a_change_of_what_hosts_advertise_affects_the_list() {
        let old = catalog(&["198.51.100.5"]);
        let mut noise = old.clone();
        noise.revision += 1;
        let (origin, host) = old.hosts.iter().next().unwrap();
        let mut host = Host::clone(host);
        host.session.nonce = "new".into();
        noise.hosts.insert(origin.clone(), Arc::new(host));
        noise.hosts.insert(Origin::Own, Arc::default());
        assert!(!AccessList::is_affected(&old, &noise));
        assert!(AccessList::is_affected(&old, &catalog(&["198.51.100.6"])));
        assert!(AccessList::is_affected(&old, &Catalog::default()));
        assert!(AccessList::is_affected(&Catalog::default(), &old));
    }

    proptest! {
        #[test]
        fn the_list_permits_what_any_of_its_networks_holds(
            nets in proptest::collection::vec((0u32..1 << 12, 20u8..=32), 0..12),
            probes in proptest::collection::vec(0u32..1 << 13, 1..64),
        ) {
            let nets: Vec<IpNet> =
                nets.into_iter().map(|(at, bits)| IpNet::new(IpAddr::V4(at.into()), bits).unwrap()).collect();
            let list = AccessList::only(nets.iter().copied());
            for probe in probes {
                let probe = IpAddr::V4(probe.into());
                prop_assert_eq!(list.permits(probe), nets.iter().any(|net| net.contains(&probe)), "{}", probe);
            }
        }
    }
}
