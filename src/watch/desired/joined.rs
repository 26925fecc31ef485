//! Containers that live in the network of another one (`network_mode: container:vpn`, sidecars, pods).
//!
//! Docker makes a network namespace with each run of a container, and a container that joined it stays in it until it is
//! started again itself. So when the owner is started again, the joiner keeps running with nothing but `lo`, while Docker
//! goes on to name the owner's addresses. They share a namespace if its inode is the same for both, where the processes of
//! the host are visible; else if the joiner's `StartedAt` is not the earlier one.

use std::{cmp::Ordering, sync::Arc};

use super::super::container::{Containers, Entry, Inspected, NetworkMode};
use crate::model::{Detached, Lost, Problem, ShortId};

/// How many times a container may join the network of one that has itself joined another's. Docker sets no limit; a pod
/// needs one, and two containers restored from a backup may name each other.
const MAX_JOINS: usize = 8;

/// Whose network the container lives in, as Docker names it, if it is another container's.
pub(super) fn owner_of(entry: &Entry) -> Option<&str> {
    match &entry.inspected.as_ref()?.network_mode {
        NetworkMode::Container(owner) => Some(owner),
        _ => None,
    }
}

/// The container whose addresses and published ports an entry has: itself, or the one whose network it joined, through
/// several joins. An error if it shares the network of no present run; `None` for one that Docker has told nothing of.
pub(super) fn network_of<'a>(containers: &'a Containers, entry: &'a Entry) -> Option<Result<&'a Inspected, Detached>> {
    let mut entry = entry;
    // Those to be started again should a link be broken, the nearest to it first.
    let mut restart = Vec::new();
    for _ in 0..MAX_JOINS {
        let own = entry.inspected.as_ref()?;
        let Some(named) = owner_of(entry) else { return Some(Ok(own)) };
        restart.insert(0, Arc::clone(&own.name));
        let Some(owner) = resolve(containers, named) else {
            // Docker's word for it is an id of 64 digits.
            let owner = named.get(..12).unwrap_or(named).into();
            return Some(Err(Detached { lost: Lost::Gone, owner, restart }));
        };
        let Some(network) = owner.inspected.as_ref() else {
            let owner = owner.id.short().as_str().into();
            return Some(Err(Detached { lost: Lost::Unseen, owner, restart }));
        };
        let lost = match () {
            () if !network.state.is_alive() => Some(Lost::Stopped),
            () if !shares(own, network) => Some(Lost::Restarted),
            () => None,
        };
        if let Some(lost) = lost {
            return Some(Err(Detached { lost, owner: Arc::clone(&network.name), restart }));
        }
        entry = owner;
    }
    let owner = restart.first().cloned().unwrap_or_default();
    Some(Err(Detached { lost: Lost::Endless, owner, restart }))
}

/// Whether a container that joined the network of `owner` did so in the owner's present run. Unknown is no.
fn shares(own: &Inspected, owner: &Inspected) -> bool {
    if let (Some(own), Some(owner)) = (own.namespace, owner.namespace) {
        return own == owner;
    }
    match (&own.started, &owner.started) {
        (Some(own), Some(owner)) => compare(own, owner) != Ordering::Less,
        _ => false,
    }
}

/// Orders two moments as Docker writes them: RFC 3339 in UTC, with as many digits behind the point as it takes.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text: &'_ str| {
        let text = text.trim_end_matches('Z').to_owned();
        text.split_once('.').map_or((text.clone(), String::new()), |(seconds, rest)| (seconds.into(), rest.into()))
    };
    parts(a).cmp(&parts(b))
}

/// Docker resolves a name to the id when it creates the container; other engines leave the name.
fn resolve<'a>(containers: &'a Containers, owner: &str) -> Option<&'a Entry> {
    let by_id = ShortId::parse(owner).and_then(|id| containers.entries.get(&id));
    by_id.filter(|entry| entry.id.as_str().starts_with(owner)).or_else(|| {
        let named = |entry: &&Entry| entry.identity.as_ref().is_some_and(|identity| &*identity.name == owner);
        containers.entries.values().find(named)
    })
}

/// What is to be done about a container that runs in a network which is no more.
pub(super) fn problem(entry: &Entry, detached: &Detached) -> Option<Problem> {
    // Docker has not been asked yet, or its answer is under way.
    if detached.lost == Lost::Unseen {
        return None;
    }
    let name = entry.identity.as_ref().map_or("", |identity| &*identity.name);
    let place = format!("container {} ({name})", entry.id.short());
    Some(Problem::of_error(place, &detached.to_string(), detached.fix()))
}

#[cfg(test)]
mod tests;
