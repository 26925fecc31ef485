//! Who asks, from the address a query came from.

use std::{net::IpAddr, sync::Arc};

use crate::model::{Asker, Driver, Label, Local, Network};

/// Who sent a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A container of this host.
    Container(Arc<Asker>),
    /// This host itself, or a container on its network.
    Host,
    /// Another host of ours, or one of its containers: they share that host's address. Given what a stranger is given.
    Peer,
    /// Somebody else whom the access list lets in: seen like a process of another host.
    Stranger,
    /// An address that must belong to a container of this host, but to none we have heard of yet. It is never taken
    /// for a stranger: it might be a container that may not leave its network (P7).
    Unknown,
}

impl Source {
    /// Where this one's bare names are looked up before `global`.
    pub fn namespace(&self) -> Label {
        match self {
            Self::Container(asker) => asker.namespace.clone(),
            Self::Host | Self::Peer | Self::Stranger | Self::Unknown => Label::default_namespace(),
        }
    }
}

/// Finds who asks from `source`.
///
/// Until Docker has been listed nobody can be told from a container, so everybody but this host is unknown. A link-local
/// source may be a container on any bridge, so it is unknown too. Subnets of macvlan and ipvlan networks are the
/// surrounding network's: a host cannot be reached from its own containers there, so whoever asks from one is
/// somebody else. Which strangers are peers is known to the access list (`AccessList::locate`).
pub fn locate(local: &Local, source: IpAddr) -> Source {
    let source = source.to_canonical();
    if let Some(asker) = local.askers.get(&source) {
        return Source::Container(Arc::clone(asker));
    }
    if source.is_loopback() || local.addresses.contains(&source) {
        return Source::Host;
    }
    let link_local = matches!(source, IpAddr::V6(address) if address.is_unicast_link_local());
    let contained = |network: &Arc<Network>| is_ours(network) && network.subnets.iter().any(|s| s.contains(&source));
    if !local.listed || link_local || local.networks.values().any(contained) {
        return Source::Unknown;
    }
    Source::Stranger
}

/// Whether a network's subnets are Docker's own, so that nobody else has addresses in them.
pub(super) fn is_ours(network: &Network) -> bool {
    !matches!(network.driver, Driver::Macvlan | Driver::Ipvlan | Driver::Host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fixture::World;

    #[test]
    fn a_source_is_found_by_its_address_and_never_guessed() {
        let mut world = World::parse(
            "network n1 bridge 172.18.0.0/16
             network lan macvlan 192.168.1.0/24
             asker a1 shop n1=172.18.0.9 lan=192.168.1.9
             address 172.18.0.1
             address 192.0.2.1",
        );
        for (address, expected) in [
            ("172.18.0.9", "container"),
            ("::ffff:172.18.0.9", "container"),
            ("192.168.1.9", "container"),
            ("127.0.0.1", "host"),
            ("127.0.0.53", "host"),
            ("::1", "host"),
            ("172.18.0.1", "host"),
            ("192.0.2.1", "host"),
            ("172.18.0.77", "unknown"),
            ("fe80::1", "unknown"),
            ("192.168.1.77", "stranger"),
            ("198.51.100.1", "stranger"),
        ] {
            assert_eq!(kind(&world.local, address), expected, "{address}");
        }
        world.local.listed = false;
        for (address, expected) in
            [("127.0.0.1", "host"), ("192.0.2.1", "host"), ("198.51.100.1", "unknown"), ("172.18.0.9", "container")]
        {
            assert_eq!(kind(&world.local, address), expected, "{address} before Docker was listed");
        }
    }

    fn kind(local: &Local, address: &str) -> &'static str {
        match locate(local, address.parse().unwrap()) {
            Source::Container(_) => "container",
            Source::Host => "host",
            Source::Peer => "peer",
            Source::Stranger => "stranger",
            Source::Unknown => "unknown",
        }
    }
}
