//! The asker table: who sends a query from which address of this host, and what the host's networks are.
//!
//! It holds all containers, also ignored ones and those that are only starting: a container may ask as soon as it has an
//! address. Its name and namespace come with the create event, the address from the network's inspect at `connect`,
//! milliseconds later; an inspect of the container would block until it has started. Overlay containers ask from
//! docker_gwbridge, whose list is read for them.
//!
//! A container in another's network (`container:X`) shares the address of `X` and cannot be told from it: such a query is
//! X's. A container on the host's network asks from the host's addresses: it is the host.
//!
//! A freed address leaves the table with the `disconnect` or `die` that freed it. If two containers claim one address,
//! the one that came later has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::container::{Containers, Moment, NetworkFacts};
use crate::model::{Asker, Driver, Local, Network, NetworkId, Proto};

/// What the host knows of itself, read by `host.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Addresses of its interfaces.
    pub addresses: Arc<BTreeSet<IpAddr>>,
    /// The published ports that docker-proxy holds.
    pub proxies: Proxies,
    /// Bridges with containers that run, and whose gateways are no addresses of ours.
    pub apart: Arc<BTreeSet<NetworkId>>,
}

/// What is known of docker-proxy, which lets containers of other bridges reach a published port of their own host.
/// An engine with `userland-proxy=false` has none, and there such a port is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxies {
    /// Nobody has looked yet.
    #[default]
    Unread,
    /// No process of the engine can be seen: the agent has a process namespace of its own.
    Unseen,
    /// It holds these, and no others.
    Seen(Arc<BTreeSet<(Proto, u16)>>),
}

/// Builds the table. Takes the time of all containers (about 0.3 ms for 1,000), which no answer waits for.
/// What is equal in `previous` is shared with it; `None` if everything is.
pub fn local(previous: &Local, containers: &Containers, host: &HostFacts) -> Option<Local> {
    let mut claims: BTreeMap<IpAddr, (Moment, Arc<Asker>)> = BTreeMap::new();
    for entry in containers.entries.values() {
        let Some(identity) = &entry.identity else { continue };
        let networks: Vec<_> =
            entry.places.iter().filter(|(_, place)| !place.ips.is_empty()).map(|(id, _)| id.clone()).collect();
        if networks.is_empty() {
            continue;
        }
        let asker = Arc::new(Asker {
            container: entry.id.short(),
            name: identity.name.clone(),
            namespace: identity.namespace.clone(),
            networks,
        });
        for place in entry.places.values() {
            for ip in &place.ips {
                if claims.get(ip).is_none_or(|(moved, _)| *moved <= place.moved) {
                    claims.insert(*ip, (place.moved, asker.clone()));
                }
            }
        }
    }
    let mut next = previous.clone();
    next.listed = containers.is_listed();
    let gone: Vec<IpAddr> = previous.askers.keys().filter(|ip| !claims.contains_key(ip)).copied().collect();
    let mut changed = next.listed != previous.listed || !gone.is_empty();
    for ip in gone {
        next.askers.remove(&ip);
    }
    for (ip, (_, asker)) in claims {
        if previous.askers.get(&ip) != Some(&asker) {
            changed = true;
            next.askers.insert(ip, asker);
        }
    }
    let gone: Vec<_> = previous.networks.keys().filter(|id| !containers.networks.contains_key(*id)).cloned().collect();
    changed |= !gone.is_empty();
    for id in gone {
        next.networks.remove(&id);
    }
    for facts in containers.networks.values() {
        let network = network(facts, &host.addresses);
        if previous.networks.get(&facts.id).map(|held| &**held) != Some(&network) {
            changed = true;
            next.networks.insert(facts.id.clone(), Arc::new(network));
        }
    }
    if *previous.addresses != *host.addresses {
        changed = true;
        next.addresses = host.addresses.clone();
    }
    let apart = containers.apart();
    if *previous.apart != apart {
        changed = true;
        next.apart = Arc::new(apart);
    }
    let published = containers.bindings().filter(|binding| !binding.at.ip.is_loopback());
    let published = published.map(|binding| (binding.proto, binding.at.port));
    // What may be dropped is not offered (P6): of ports whose holder cannot be seen it is only said that there are some.
    let (proxied, unproven): (BTreeSet<_>, BTreeSet<_>) = match &host.proxies {
        Proxies::Unread => Default::default(),
        Proxies::Unseen => (BTreeSet::new(), published.collect()),
        Proxies::Seen(held) => (published.filter(|port| held.contains(port)).collect(), BTreeSet::new()),
    };
    for (was, is) in [(&mut next.proxied, proxied), (&mut next.unproven, unproven)] {
        if **was != is {
            changed = true;
            *was = Arc::new(is);
        }
    }
    changed.then_some(next)
}

/// A bridge's gateways are the host's own addresses on it: those that its address management names, which are known
/// before the interface is up, and those the interface has (the default bridge names none).
fn network(facts: &NetworkFacts, addresses: &BTreeSet<IpAddr>) -> Network {
    let mut gateways = BTreeSet::new();
    if facts.driver == Driver::Bridge {
        gateways.extend(facts.gateways.iter().copied());
        gateways.extend(addresses.iter().filter(|ip| facts.subnets.iter().any(|subnet| subnet.contains(*ip))).copied());
    }
    Network {
        id: facts.id.clone(),
        name: facts.name.clone(),
        driver: facts.driver.clone(),
        scope: facts.scope,
        internal: facts.internal,
        icc: facts.icc,
        subnets: facts.subnets.clone(),
        gateways: gateways.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
