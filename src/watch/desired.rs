//! Containers → [`Desired`]: what this host publishes.
//!
//! A container is published while it is alive (running or paused) and offers something. [`desired`] is the whole
//! definition; [`update`] gives the same from the last result in the time of what changed, and keeps the `Arc`s of all
//! publications that stay as they are. A property test compares the two.
//!
//! Whose network a container has, where it is not its own, is in `joined.rs`.
//!
//! An attachment to a network that is not known yet is left out until it is known (its inspect is under way): its driver
//! decides who may be given the address.

use std::{collections::BTreeSet, sync::Arc};

use super::container::{Binding, Changes, Containers, Entry, Inspected, State};
use crate::model::{
    Attachment, Checks, Common, Desired, Detached, Driver, Health, Offer, Phase, Port, Problem, Publication, Segment,
    ShortId, Silence,
};

mod aliases;
mod joined;

/// Everything this host should publish.
pub fn desired(containers: &Containers) -> Desired {
    let of = |entry: &Entry| Some((Arc::new(publication(containers, entry)?), checks(entry)));
    let all = || containers.entries.iter().filter_map(|(id, entry)| Some((*id, of(entry)?)));
    Desired {
        listed: containers.is_listed(),
        publications: all().map(|(id, (publication, _))| (id, publication)).collect(),
        checks: all().filter_map(|(id, (_, checks))| Some((id, checks?))).collect(),
        problems: problems(containers),
        round: containers.drains().round,
        drained: containers.drains().are_any(),
        apart: Arc::new(containers.apart()),
    }
}

/// As [`desired`], from its last result and what changed since; `None` if nothing to publish changed.
pub fn update(previous: &Desired, containers: &Containers, changes: &Changes) -> Option<Desired> {
    let mut next = previous.clone();
    let mut changed = previous.listed != containers.is_listed();
    next.listed = containers.is_listed();
    if changes.drains {
        let drains = containers.drains();
        changed |= (previous.round, previous.drained) != (drains.round, drains.are_any());
        (next.round, next.drained) = (drains.round, drains.are_any());
    }
    if changes.askers {
        let apart = containers.apart();
        if apart != *next.apart {
            changed = true;
            next.apart = Arc::new(apart);
        }
    }
    for id in with_dependents(containers, &changes.containers) {
        let entry = containers.entries.get(&id);
        let publication = entry.and_then(|entry| publication(containers, entry));
        let checks = publication.as_ref().and_then(|_| checks(entry?));
        if previous.checks.get(&id) != checks.as_ref() {
            changed = true;
            match checks {
                Some(checks) => next.checks.insert(id, checks),
                None => next.checks.remove(&id),
            };
        }
        if previous.publications.get(&id).map(|held| &**held) == publication.as_ref() {
            continue;
        }
        changed = true;
        match publication {
            Some(publication) => next.publications.insert(id, Arc::new(publication)),
            None => next.publications.remove(&id),
        };
    }
    if !changes.containers.is_empty() {
        let problems = problems(containers);
        if problems != next.problems {
            changed = true;
            next.problems = problems;
        }
    }
    changed.then_some(next)
}

/// These containers and those that live in the network of one of them.
pub(super) fn with_dependents(containers: &Containers, changed: &BTreeSet<ShortId>) -> BTreeSet<ShortId> {
    let mut all = changed.clone();
    if changed.is_empty() {
        return all;
    }
    // A name may have moved to or from another container, so everything that follows a name is looked at.
    all.extend(containers.entries.iter().filter(|(_, entry)| joined::owner_of(entry).is_some()).map(|(id, _)| *id));
    all
}

/// Why a container is not published; `None`: it is.
pub(super) fn silence(containers: &Containers, entry: &Entry) -> Option<Silence> {
    match (entry.inspected.as_ref().map(|inspected| inspected.state), &entry.failure) {
        (None, None) => Some(Silence::Unseen),
        (None, Some(error)) => Some(Silence::Failed(Arc::clone(error))),
        (Some(State::Stopped), _) => Some(Silence::Stopped),
        (Some(State::Restarting), _) => Some(Silence::Restarting),
        (Some(State::Running | State::Paused), _) => {
            entry.claim.silence.clone().or_else(|| detached(containers, entry).map(Silence::Detached))
        }
    }
}

fn detached(containers: &Containers, entry: &Entry) -> Option<Detached> {
    joined::network_of(containers, entry)?.err()
}

fn publication(containers: &Containers, entry: &Entry) -> Option<Publication> {
    if silence(containers, entry).is_some() {
        return None;
    }
    let own = entry.inspected.as_ref()?;
    let network = joined::network_of(containers, entry)?.ok()?;
    let phase = match own.state {
        State::Paused => Phase::Paused,
        _ if entry.stopping.is_some() || entry.is_drained(&containers.drains) => Phase::Draining,
        _ => Phase::Serving,
    };
    Some(Publication {
        container: entry.id.short(),
        name: own.name.clone(),
        common: Arc::new(Common {
            image: own.image.clone(),
            services: entry.claim.offers.iter().map(|offer| publish(offer, &network.bindings)).collect(),
            directory: entry.claim.directory.clone(),
            namespace: entry.claim.namespace.clone(),
            aliases: aliases::of(containers.options.aliases, entry, own),
        }),
        phase,
        health: if entry.runs.is_held() && own.health == Health::None { Health::Held } else { own.health },
        networks: attachments(containers, network),
        elsewhere: None,
    })
}

fn checks(entry: &Entry) -> Option<Checks> {
    let all = Arc::clone(&entry.claim.checks);
    (!all.is_empty()).then_some(Checks { life: entry.ended.0, all })
}

fn publish(offer: &Offer, bindings: &[Binding]) -> Offer {
    let ports = offer.ports.iter().map(|port| {
        let own = bindings.iter().filter(|binding| (binding.port, binding.proto) == (port.port, port.proto));
        Port { published: own.map(|binding| binding.at).collect(), ..port.clone() }
    });
    Offer { ports: ports.collect(), ..offer.clone() }
}

fn attachments(containers: &Containers, inspected: &Inspected) -> Box<[Attachment]> {
    let attachment = |endpoint: &super::container::Endpoint| {
        let network = containers.networks.get(&endpoint.network)?;
        (network.driver == Driver::Host || !endpoint.ips.is_empty()).then(|| Attachment {
            segment: Arc::new(Segment {
                id: network.id.clone(),
                name: network.name.clone(),
                driver: network.driver.clone(),
                scope: network.scope,
                internal: network.internal,
            }),
            ips: endpoint.ips.clone().into(),
        })
    };
    let mut all: Vec<Attachment> = inspected.endpoints.iter().filter_map(attachment).collect();
    all.sort();
    all.into()
}

fn problems(containers: &Containers) -> Arc<[Problem]> {
    let of = |entry: &Entry| {
        let failure = entry.failure.as_deref().map(|error| {
            let name = entry.identity.as_ref().map_or("", |identity| &*identity.name);
            let place = format!("container {} ({name})", entry.id.short());
            Problem::new(place, error, "an answer to inspect; what was known of it stays until there is one")
        });
        let detached = match silence(containers, entry) {
            Some(Silence::Detached(detached)) => joined::problem(entry, &detached),
            _ => None,
        };
        let named = aliases::problem(containers, entry);
        entry.problems.iter().cloned().chain(failure).chain(detached).chain(named).collect::<Vec<_>>()
    };
    containers.entries.values().flat_map(of).collect()
}

#[cfg(test)]
mod tests;
