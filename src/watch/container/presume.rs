//! What a container that starts looks like, said before Docker is asked.
//!
//! An inspect after `start` takes most of the time from a container's start to its first answer, and all that it tells
//! is known by then: the configuration from the inspect that the create event asked for, or from the container's last
//! life; its addresses from the networks' inspects at `connect`; its published ports where the operator wrote their
//! numbers. So `start` is answered with what is known, and the inspect that it asks for confirms that or puts it right.
//!
//! Nothing is guessed. A container is presumed only if each part is known for sure: Docker chooses no port, its one network
//! was seen to publish ports if it has any, each of its networks has shown its address since it connected, no inspect of it
//! is under way, the engine has been listed on this connection, and no event waits behind the start. Else the inspect is
//! waited for, as for everything that is not a start.

use std::net::IpAddr;

use super::{Binding, ContainerId, Containers, Endpoint, Entry, Inspected, NetworkMode, State, Wish, image::config_of};
use crate::{
    model::{Health, Published, ShortId},
    watch::event::Cause,
};

impl Containers {
    /// Asks for what a container that was just created will be.
    pub(super) fn prepare(&mut self, id: &ContainerId) -> Wish {
        let ticket = self.ticket();
        if let Some(entry) = self.entries.get_mut(&id.short()) {
            entry.preparing = Some(ticket);
        }
        Wish::Inspect { id: id.clone(), ticket, cause: Cause::Prepare }
    }

    /// Takes the answer to [`Self::prepare`]: of what the container is doing it says nothing, for that may be over.
    pub(super) fn prepared(&mut self, mut inspected: Inspected) {
        let (id, member) = (inspected.id.short(), self.is_member(&inspected));
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.preparing = None;
        // A later question tells more.
        if entry.inspected.is_some() || entry.awaiting.is_some() {
            return;
        }
        inspected.end();
        config_of(&self.options, entry, &inspected, member);
        entry.inspected = Some(inspected);
        self.changes.touch(id);
    }

    /// Learns that ports of containers on this network are published, which is not so on every network, and where one that
    /// names no address appears: at `0.0.0.0`, or at `::` as well. It depends on the kernel, the engine and the network.
    pub(super) fn learn(&mut self, inspected: &Inspected) {
        let [endpoint] = inspected.endpoints.as_slice() else { return };
        if !inspected.state.is_alive() || !self.networks.contains_key(&endpoint.network) {
            return;
        }
        for request in &inspected.requested {
            let shown: Box<[IpAddr]> = inspected
                .bindings
                .iter()
                .filter(|binding| (binding.port, binding.proto) == (request.port, request.proto))
                .filter(|binding| request.number == Some(binding.at.port))
                .map(|binding| binding.at.ip)
                .collect();
            match request.ip {
                None if !shown.is_empty() => {
                    self.publishing.insert(endpoint.network.clone(), shown);
                }
                Some(ip) if shown.contains(&ip) => {
                    self.publishing.entry(endpoint.network.clone()).or_default();
                }
                _ => {}
            }
        }
    }

    /// Takes a container that has started for what is known of it. Whether enough was known.
    pub(super) fn presume(&mut self, id: ShortId) -> bool {
        if !self.following {
            return false;
        }
        let presumed = self.entries.get(&id).and_then(|entry| {
            let config = entry.inspected.as_ref().filter(|config| !config.state.is_alive())?;
            let endpoints = self.presumed_endpoints(entry, config)?;
            let bindings = self.presumed_bindings(config, &endpoints)?;
            Some((endpoints, bindings))
        });
        let Some((endpoints, bindings)) = presumed else { return false };
        let Some(inspected) = self.entries.get_mut(&id).and_then(|entry| entry.inspected.as_mut()) else {
            return false;
        };
        inspected.state = State::Running;
        inspected.health = if inspected.checked { Health::Starting } else { Health::None };
        inspected.endpoints = endpoints;
        inspected.bindings = bindings;
        self.changes.bindings = true;
        true
    }

    fn presumed_endpoints(&self, entry: &Entry, config: &Inspected) -> Option<Vec<Endpoint>> {
        let gateway = self.gateway_bridge();
        let places = entry.places.iter().filter(|(network, _)| Some(*network) != gateway.as_ref());
        let endpoint = |(network, place): (&_, &super::Place)| {
            let name = self.networks.get(network)?.name.clone();
            (!place.ips.is_empty()).then(|| Endpoint { network: network.clone(), name, ips: place.ips.clone() })
        };
        let endpoints: Vec<Endpoint> = places.map(endpoint).collect::<Option<_>>()?;
        (config.network_mode == NetworkMode::Own && !endpoints.is_empty()).then_some(endpoints)
    }

    fn presumed_bindings(&self, config: &Inspected, endpoints: &[Endpoint]) -> Option<Vec<Binding>> {
        let mut bindings = Vec::new();
        for request in &config.requested {
            let port = request.number?;
            let [endpoint] = endpoints else { return None };
            let anywhere = self.publishing.get(&endpoint.network)?;
            let ips = request.ip.as_ref().map_or(&**anywhere, std::slice::from_ref);
            if ips.is_empty() {
                return None;
            }
            let published = ips.iter().map(|ip| Published { ip: *ip, port, chosen: true });
            bindings.extend(published.map(|at| Binding { port: request.port, proto: request.proto, at }));
        }
        bindings.sort();
        Some(bindings)
    }
}

#[cfg(test)]
mod tests;
