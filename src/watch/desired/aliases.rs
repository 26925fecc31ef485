//! What Docker's own DNS calls a container, as far as its name and its id do not say it.
//!
//! | name | from | not |
//! |---|---|---|
//! | host name | `hostname:`, `--hostname` | on the host's network and in another container's, where it is theirs; the 12 digits that Docker gives |
//! | alias | `aliases:`, `--network-alias`, on each of its networks; Compose gives the service | |
//! | `<stack>_<service>`, `tasks.…` | Swarm's labels | |
//!
//! Names of its own services, in its own namespace or in `global`, are left out: the service is meant. In `global` there are no aliases, and in
//! `default`, where containers of many owners meet, none with dots.

use std::{collections::BTreeSet, sync::Arc};

use super::super::container::{Containers, Endpoint, Entry, Inspected, NetworkMode};
use crate::model::{Aliases, Label, MAX_ALIASES, Offer, Problem, ShortId, alias, in_order, reserved};

/// The aliases that are published, in order.
pub(super) fn of(wanted: Aliases, entry: &Entry, own: &Inspected) -> Box<[Arc<str>]> {
    let mut all: Vec<Arc<str>> = found(wanted, entry, own).into_iter().collect();
    // Which of them are left out stays the same as long as they do; names without dots count more.
    all.sort_by_key(|name| name.contains('.'));
    all.truncate(MAX_ALIASES);
    in_order(all)
}

fn found(wanted: Aliases, entry: &Entry, own: &Inspected) -> BTreeSet<Arc<str>> {
    let claim = &entry.claim;
    let id = entry.id.short();
    if wanted == Aliases::Off || claim.namespace == Label::global() {
        return BTreeSet::new();
    }
    let hostname = matches!(own.network_mode, NetworkMode::Own | NetworkMode::None).then_some(&own.hostname);
    let given = own.endpoints.iter().flat_map(|endpoint| on(own, endpoint));
    let names = claim.swarm.iter().chain(hostname).chain(given).filter_map(|text| alias(text));
    let is_known = |name: &str| {
        let is_id = ShortId::parse(name) == Some(id);
        let is_service = |offer: &Offer| offer.is_in_place_of(name, &claim.namespace);
        is_id || name.eq_ignore_ascii_case(&own.name) || claim.offers.iter().any(is_service)
    };
    let is_one = |name: &str| {
        let is_free = Label::parse(name).map_or(true, |label| reserved(&label, &claim.namespace).is_none());
        wanted.has(name) && is_free && !(name.contains('.') && claim.namespace == Label::default_namespace())
    };
    names.filter(|name| is_one(name) && !is_known(name)).map(|name| Arc::from(&*name)).collect()
}

/// What it is called on one of its networks.
fn on<'a>(own: &'a Inspected, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a Arc<str>> {
    let named = own.aliases.get(&endpoint.name).or_else(|| own.aliases.get(&endpoint.network.0));
    named.into_iter().flatten()
}

/// That it has more of them than others learn of.
pub(super) fn problem(containers: &Containers, entry: &Entry) -> Option<Problem> {
    let own = entry.inspected.as_ref()?;
    let given: usize = own.aliases.values().map(|aliases| aliases.len()).sum();
    // Most have one or two, and are not gone through.
    if given + entry.claim.swarm.len() < MAX_ALIASES {
        return None;
    }
    let found = found(containers.options.aliases, entry, own).len();
    (found > MAX_ALIASES).then(|| {
        let place = format!("container {} ({})", entry.id.short(), own.name);
        Problem::new(
            place,
            &format!("{found} network aliases"),
            format!("at most {MAX_ALIASES}: the rest are no names"),
        )
    })
}

#[cfg(test)]
mod tests;
