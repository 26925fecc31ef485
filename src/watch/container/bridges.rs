//! Which bridges of the engine are in our network namespace, and which are not.
//!
//! A rootless engine has a network namespace of its own, and so has one in a container: processes of this host do not reach
//! its bridges, and another container may have the very address there.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::Containers;
use crate::{
    model::{Driver, NetworkId},
    watch::facts::NetworkFacts,
};

/// A bridge with containers that run, and the host's own addresses on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Which.
    pub id: NetworkId,
    gateways: Vec<IpAddr>,
    subnets: Vec<IpNet>,
}

impl Bridge {
    /// Whether it is in the network namespace whose addresses these are. Where the engine names no gateway, any address
    /// in a subnet will do.
    pub fn is_here(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        match self.gateways.as_slice() {
            [] => addresses.iter().any(|address| self.subnets.iter().any(|subnet| subnet.contains(address))),
            gateways => gateways.iter().any(|gateway| addresses.contains(gateway)),
        }
    }
}

impl Containers {
    /// Takes the engine's word for how it runs.
    pub fn take_rootless(&mut self, rootless: bool) {
        self.changes.askers |= self.rootless != rootless;
        self.rootless = rootless;
    }

    /// Takes the bridges whose gateways are no addresses of ours.
    pub fn take_apart(&mut self, apart: &Arc<BTreeSet<NetworkId>>) {
        self.changes.askers |= self.apart != *apart;
        self.apart = Arc::clone(apart);
    }

    /// The bridges that are not in our network namespace. An engine without a root's rights has one of its own, and maybe
    /// the very subnets that we have: then it is all of them.
    pub fn apart(&self) -> BTreeSet<NetworkId> {
        let bridges = self.networks.values().filter(|network| network.driver == Driver::Bridge);
        let apart = bridges.filter(|network| self.rootless || self.apart.contains(&network.id));
        apart.map(|network| network.id.clone()).collect()
    }

    /// All bridges with containers that run.
    pub fn bridges(&self) -> Vec<Bridge> {
        let inspected = self.entries.values().filter_map(|entry| entry.inspected.as_ref());
        let placed =
            inspected.filter(|inspected| inspected.state.is_alive()).flat_map(|inspected| &inspected.endpoints);
        let used: BTreeSet<&NetworkId> =
            placed.filter(|endpoint| !endpoint.ips.is_empty()).map(|endpoint| &endpoint.network).collect();
        let networks = used.into_iter().filter_map(|id| self.networks.get(id));
        let bridges = networks.filter(|network| network.driver == Driver::Bridge && !network.subnets.is_empty());
        let bridge = |network: &NetworkFacts| Bridge {
            id: network.id.clone(),
            gateways: network.gateways.clone(),
            subnets: network.subnets.clone(),
        };
        bridges.map(bridge).collect()
    }
}
