//! Where a name is looked for: the asker's own namespace, what Docker's own DNS calls its containers, `global`.
//!
//! ```text
//! web          service `web` of the asker's namespace ─ no ─► alias `web` there ─ no ─► service `web` of `global`
//! web.shop     service `web` of `shop`
//! ```
//!
//! The last step is not taken by a zone that does not know everything yet, nor for a name that the namespace has had a
//! moment ago: another team's `db` is worse than none.

use std::borrow::Cow;

use super::{
    name::{self, Named, Second, Subject},
    source::Source,
    zone::{Candidate, Seconds, Zone},
};
use crate::model::{Aliases, Label};

/// What was found.
#[derive(Clone, Debug)]
pub struct Found<'z> {
    /// The namespace that has it.
    pub namespace: Label,
    /// It is no service's name, but one that Docker's own DNS gives to containers.
    pub by_alias: bool,
    /// All instances; at least one.
    pub candidates: Cow<'z, [Candidate]>,
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is no such name.
    Nothing,
    /// The asker's namespace has lost it, and until then it is not looked for in `global`.
    Lost(Seconds),
    /// Not enough is known to look for it in `global`.
    NotYet,
}

/// Finds a service, in the namespace that is meant.
pub fn find<'z>(zone: &'z Zone, source: &Source, named: Named<'_>, aliases: Aliases) -> Result<Found<'z>, Missing> {
    let within = |namespace: &str| {
        let candidates = zone.service(namespace, named.service)?;
        let namespace = candidates.first()?.offer().namespace.clone();
        Some(Found { namespace, by_alias: false, candidates: Cow::Borrowed(candidates) })
    };
    if let Some(namespace) = named.namespace {
        return within(namespace).ok_or(Missing::Nothing);
    }
    let own = source.namespace();
    if let Some(found) = within(own.as_str()).or_else(|| alias(zone, own.clone(), named.service, aliases)) {
        return Ok(found);
    }
    if own == Label::global() {
        return Err(Missing::Nothing);
    }
    if let Some(until) = zone.lost_until(own.as_str(), named.service) {
        return Err(Missing::Lost(until));
    }
    if !zone.is_complete() {
        return Err(Missing::NotYet);
    }
    within(Label::GLOBAL).ok_or(Missing::Nothing)
}

/// What a name means to this asker, where its text leaves that open: two labels that are no service and namespace have a
/// [second reading](name::second), and words in front of a bare name count only where its service is.
pub(super) fn settle<'t>(zone: &Zone, source: &Source, aliases: Aliases, subject: Subject<'t>) -> Subject<'t> {
    let missing = |named: Named<'_>| find(zone, source, named, aliases).err();
    match subject {
        Subject::Service(named)
            if named.namespace.is_some_and(|namespace| zone.service(namespace, named.service).is_none()) =>
        {
            match name::second(named) {
                Some(Second::All(near)) if missing(near).is_none() => Subject::All(near),
                Some(Second::Instance(id, near)) if missing(near).is_none() => Subject::Instance(id, near),
                Some(Second::Host(host)) => Subject::Host(host),
                _ => subject,
            }
        }
        Subject::Loose(loose) if missing(loose.named()) == Some(Missing::Nothing) => Subject::Outside,
        _ => subject,
    }
}

/// Finds the containers that Docker's own DNS calls so, within one namespace.
pub(super) fn alias<'z>(zone: &'z Zone, namespace: Label, name: &str, aliases: Aliases) -> Option<Found<'z>> {
    let candidates = zone.alias(aliases, namespace.as_str(), name);
    (!candidates.is_empty()).then(|| Found { namespace, by_alias: true, candidates: candidates.into() })
}

/// Finds the containers with a name of dots, such as `db.example.com`: for containers alone, and not in `default`, where
/// those of many owners meet.
pub(super) fn dotted<'z>(zone: &'z Zone, source: &Source, name: &str, aliases: Aliases) -> Option<Found<'z>> {
    let Source::Container(asker) = source else { return None };
    if asker.namespace == Label::default_namespace() || !name.contains('.') {
        return None;
    }
    alias(zone, asker.namespace.clone(), name, aliases)
}

#[cfg(test)]
mod tests;
