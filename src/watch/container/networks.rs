//! The networks of this host, and who is on them as far as their own inspects tell.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Cause, ContainerId, Containers, Entry, Moment, NetworkFacts, Place, Wish};
use crate::model::{Driver, GWBRIDGE, NetworkId};

impl Containers {
    /// Asks for a network, or notes that it must be asked once more.
    pub(super) fn look(&mut self, id: NetworkId) -> Option<Wish> {
        match self.looking.get_mut(&id) {
            Some(again) => {
                *again = true;
                None
            }
            None => {
                self.looking.insert(id.clone(), false);
                Some(Wish::InspectNetwork { id, began: self.now })
            }
        }
    }

    pub(super) fn looked(&mut self, id: NetworkId) -> Vec<Wish> {
        let again = self.looking.remove(&id).unwrap_or_default();
        if again { self.look(id).into_iter().collect() } else { Vec::new() }
    }

    pub(super) fn network_present(
        &mut self,
        began: Moment,
        facts: NetworkFacts,
        endpoints: Vec<(ContainerId, Box<[IpAddr]>)>,
    ) -> Vec<Wish> {
        let id = facts.id.clone();
        let gateway = &*facts.name == GWBRIDGE;
        if self.is_destroyed_since(&id, began) {
            return self.looked(id);
        }
        let overlay = facts.driver == Driver::Overlay;
        let mut wishes = Vec::new();
        self.hold_network(facts);
        let mut seen = BTreeSet::new();
        for (container, ips) in endpoints {
            seen.insert(container.short());
            let Some(entry) = self.entries.get_mut(&container.short()) else {
                // Its create event was lost, or it is gone by now: its inspect tells.
                wishes.push(self.ask(&container, Cause::Restore));
                continue;
            };
            let held = entry.places.get(&id);
            let overtaken = entry.ended > began
                || held.is_some_and(|place| place.moved > began)
                || (!gateway && entry.seen > began);
            if !overtaken && held.is_none_or(|place| place.ips != ips) {
                entry.places.insert(id.clone(), Place { ips, moved: entry.touched });
                self.changes.askers = true;
            }
        }
        if gateway {
            // Nothing announces that a container left docker_gwbridge.
            for (container, entry) in &mut self.entries {
                if !seen.contains(container) && entry.places.get(&id).is_some_and(|place| place.moved <= began) {
                    entry.places.remove(&id);
                    self.changes.askers = true;
                }
            }
        }
        wishes.extend(self.looked(id));
        if gateway {
            wishes.extend(self.looked(NetworkId(GWBRIDGE.into())));
        }
        if overlay {
            wishes.extend(self.look_at_gateway());
        }
        wishes
    }

    /// Asks for docker_gwbridge, by its name while its id is not known: it is made with the first container on an overlay,
    /// and no event announces it.
    pub(super) fn look_at_gateway(&mut self) -> Option<Wish> {
        let gateway = self.gateway_bridge().unwrap_or_else(|| NetworkId(GWBRIDGE.into()));
        self.look(gateway)
    }

    pub(super) fn gateway_bridge(&self) -> Option<NetworkId> {
        self.networks.values().find(|network| &*network.name == GWBRIDGE).map(|network| network.id.clone())
    }

    pub(super) fn is_destroyed_since(&self, id: &NetworkId, began: Moment) -> bool {
        self.destroyed.get(id).is_some_and(|moment| *moment > began)
    }

    pub(super) fn hold_network(&mut self, facts: NetworkFacts) {
        if self.networks.get(&facts.id) != Some(&facts) {
            self.networks_changed(&facts.id);
            self.networks.insert(facts.id.clone(), facts);
        }
    }

    pub(super) fn remove_network(&mut self, id: &NetworkId) {
        self.publishing.remove(id);
        if self.networks.remove(id).is_some() {
            self.networks_changed(id);
        }
    }

    pub(super) fn networks_changed(&mut self, id: &NetworkId) {
        let on = |entry: &Entry| {
            entry.inspected.as_ref().is_some_and(|held| held.endpoints.iter().any(|endpoint| endpoint.network == *id))
        };
        self.changes.networks = true;
        self.changes.containers.extend(self.entries.iter().filter(|(_, entry)| on(entry)).map(|(id, _)| *id));
        self.changes.askers = true;
    }
}
