//! Services that stand in the place of a host's name: those of a namespace called `host`. Pure; worked out when the problems are
//! read, never on the way of a change.

use std::collections::BTreeSet;

use crate::{
    dns::{answer::is_written, name::HOST},
    model::{Catalog, HostId, Label, Origin, Problem},
};

/// One problem for each such service. Takes the time of the whole catalog.
pub(super) fn problems(catalog: &Catalog, own: &HostId) -> Vec<Problem> {
    let offers = catalog.hosts.values().flat_map(|host| host.publications.values()).flat_map(|held| &held.services);
    let services: BTreeSet<&Label> =
        offers.filter(|offer| offer.namespace.as_str() == HOST).map(|offer| &offer.service).collect();
    let hosts = catalog.hosts.iter().filter_map(|(origin, host)| match origin {
        Origin::Own => Some((own.as_str(), host)),
        Origin::Registry(id) => Some((id.as_str(), host)),
        Origin::External => None,
    });
    let hosts: Vec<(&str, &str)> = hosts.map(|(id, host)| (id, &*host.session.hostname)).collect();
    let problem = |service: &Label| {
        let is_it = |(id, name): &&(&str, &str)| is_written(id, service.as_str()) || is_written(name, service.as_str());
        let (id, _) = hosts.iter().find(is_it)?;
        Some(Problem::new(
            format!("service {service}.{HOST}"),
            &format!("it has the name of host {id}"),
            format!("another portolan.namespace than `{HOST}`; until then {service}.{HOST} is the service"),
        ))
    };
    services.into_iter().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fixture::World;

    #[test]
    fn a_service_that_has_a_hosts_name_is_a_problem() {
        let mut world = World::parse(
            "host own
               a1 node-1.host 80/tcp other.host 80/tcp b.shop 80/tcp
             host b
               b1 b.host 80/tcp twin.host 80/tcp",
        );
        let mut own = (**world.catalog.hosts.get(&Origin::Own).unwrap()).clone();
        own.session.hostname = "Twin".into();
        world.catalog.hosts.insert(Origin::Own, own.into());
        let problems = problems(&world.catalog, &HostId::parse("Node.1").unwrap());
        let shown: Vec<_> = problems.iter().map(|problem| (&*problem.place, &*problem.found)).collect();
        assert_eq!(
            shown,
            [
                ("service b.host", "it has the name of host b"),
                ("service node-1.host", "it has the name of host Node.1"),
                ("service twin.host", "it has the name of host Node.1"),
            ]
        );
    }
}
