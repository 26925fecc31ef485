//! Services whose instances name different ports as `portolan.port`. Pure; worked out when the problems are read, never on the way
//! of a change.

use std::collections::BTreeMap;

use crate::model::{Catalog, Label, Problem};

/// Ports shown for one service; a list of them all says no more.
const MAX_PORTS: usize = 4;

/// One problem for each service whose instances disagree. Takes the time of the whole catalog.
pub(super) fn problems(catalog: &Catalog) -> Vec<Problem> {
    let mut named: BTreeMap<(&Label, &Label), BTreeMap<u16, usize>> = BTreeMap::new();
    for publication in catalog.hosts.values().flat_map(|host| host.publications.values()) {
        for offer in &publication.services {
            if let Some(port) = offer.port {
                *named.entry((&offer.service, &offer.namespace)).or_default().entry(port).or_default() += 1;
            }
        }
    }
    let problem = |((service, namespace), ports): ((&Label, &Label), BTreeMap<u16, usize>)| {
        let mut ports: Vec<(u16, usize)> = ports.into_iter().collect();
        // As addresses have it: what most say, the lowest of several.
        ports.sort_by_key(|(port, count)| (std::cmp::Reverse(*count), *port));
        let counted = ports[0].0;
        let more = ports.len().saturating_sub(MAX_PORTS);
        let shown = ports.iter().take(MAX_PORTS).map(|(port, count)| {
            let instances = if *count == 1 { "instance" } else { "instances" };
            format!("{port} on {count} {instances}")
        });
        let shown: Vec<String> = shown.chain((more > 0).then(|| format!("{more} others"))).collect();
        Problem::new(
            format!("service {service}.{namespace}, label portolan.port"),
            &shown.join(", "),
            format!("one portolan.port on all instances; until then addresses stand for container port {counted}"),
        )
    };
    named.into_iter().filter(|(_, ports)| ports.len() > 1).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fixture::World;

    #[test]
    fn instances_that_name_different_ports_are_a_problem_of_their_service() {
        let world = World::parse(
            "host own
               a1 web.shop main=80 80/tcp 8080/tcp
               a2 web.blog main=8080 8080/tcp
               a3 even.shop main=9000 9000/tcp
               a4 same.shop main=80 80/tcp
             host b
               b1 web.shop main=8080 80/tcp 8080/tcp
               b2 web.shop main=8080 8080/tcp
               b3 even.shop main=443 443/tcp
               b4 same.shop 8080/tcp
               b5 same.shop main=80 80/tcp",
        );
        let problems = problems(&world.catalog);
        let shown: Vec<_> = problems.iter().map(|p| (&*p.place, &*p.found, p.expected.rsplit(' ').next())).collect();
        assert_eq!(
            shown,
            [
                ("service even.shop, label portolan.port", "443 on 1 instance, 9000 on 1 instance", Some("443")),
                ("service web.shop, label portolan.port", "8080 on 2 instances, 80 on 1 instance", Some("8080")),
            ]
        );
    }

    #[test]
    fn many_ports_are_counted() {
        let hosts: String = (1..=9).map(|n| format!("host h{n}\n{n:012x} web.shop main={n} {n}/tcp\n")).collect();
        let problems = problems(&World::parse(&hosts).catalog);
        assert!(problems[0].found.ends_with("4 on 1 instance, 5 others"), "{}", problems[0].found);
    }
}
