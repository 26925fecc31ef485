//! Compose projects of one name that were started from different directories: one namespace, though perhaps not meant
//! as one. Pure; worked out when somebody reads the problems, never on the way of a change.

use std::collections::{BTreeMap, BTreeSet};

use super::json::host_of;
use crate::model::{Catalog, HostId, Label, Problem};

/// Hosts named for one directory; a fleet needs no list of itself.
const MAX_HOSTS: usize = 4;

/// One problem for each namespace that is a project with several directories. Takes the time of the whole catalog.
pub(super) fn problems(catalog: &Catalog, own: &HostId) -> Vec<Problem> {
    let mut places: BTreeMap<&Label, BTreeMap<&str, BTreeSet<&HostId>>> = BTreeMap::new();
    let global = Label::global();
    for (origin, host) in &catalog.hosts {
        for publication in host.publications.values() {
            let Some(directory) = publication.directory.as_deref() else { continue };
            // Names that were given are in `global`, whatever the project.
            for offer in publication.services.iter().filter(|offer| offer.namespace != global) {
                let hosts = places.entry(&offer.namespace).or_default().entry(directory).or_default();
                hosts.insert(host_of(origin, own));
            }
        }
    }
    let problem = |(namespace, directories): (&Label, BTreeMap<&str, BTreeSet<&HostId>>)| {
        let named = directories.values().map(|hosts| {
            let shown: Vec<&str> = hosts.iter().take(MAX_HOSTS).map(|host| host.as_str()).collect();
            let more = hosts.len().saturating_sub(MAX_HOSTS);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("host {}{more}", shown.join(", "))
        });
        Problem::new(
            format!("namespace {namespace}"),
            &format!("{} directories: {}", directories.len(), named.collect::<Vec<_>>().join("; ")),
            "one directory for one Compose project; where these are different projects, give one another name (-p) or \
             a portolan.namespace",
        )
    };
    places.into_iter().filter(|(_, directories)| directories.len() > 1).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fixture::World;

    #[test]
    fn a_project_with_several_directories_names_its_hosts() {
        let world = World::parse(
            "host own
               a1 dir=d1 web.shop
               a2 dir=d1 db.shop api.global
               a3 dir=d5 once.blog
             host b
               b1 dir=d2 web.shop
               b2 dir=d1 more.shop
               b3 dir=d6 mail.global
               b4 other.blog
             host c
               c1 dir=d7 mail.global",
        );
        let problems = problems(&world.catalog, &HostId::parse("a").unwrap());
        let shown: Vec<_> = problems.iter().map(|problem| (&*problem.place, &*problem.found)).collect();
        assert_eq!(shown, [("namespace shop", "2 directories: host a, b; host b")]);
    }

    #[test]
    fn a_fleet_is_not_listed() {
        let hosts: String = (0..9).map(|n| format!("host h{n}\n{n:012x} dir=d1 web.shop\n")).collect();
        let world = World::parse(&format!("host x\n f1 dir=d2 web.shop\n{hosts}"));
        let problems = problems(&world.catalog, &HostId::parse("a").unwrap());
        assert_eq!(problems[0].found, "2 directories: host h0, h1, h2, h3 and 5 more; host x");
    }
}
