//! Containers → [`Residents`]: all of them, also those that publish nothing, with the reason. For `portolan explain`.
//!
//! Nobody waits for this table, so it is made after everything that somebody waits for, in the time of what changed.

use std::sync::Arc;

use super::{
    container::{Changes, Containers, Entry},
    desired,
    facts::Requested,
};
use crate::model::{Resident, Residents};

/// Brings the table up to date. Whether anything in it differs now.
pub fn update(residents: &mut Residents, containers: &Containers, changes: &Changes) -> bool {
    let mut changed = false;
    for id in &desired::with_dependents(containers, &changes.containers) {
        let now = containers.entries.get(id).map(|entry| resident(containers, entry));
        if residents.get(id).map(|held| &**held) == now.as_ref() {
            continue;
        }
        changed = true;
        match now {
            Some(resident) => residents.insert(*id, Arc::new(resident)),
            None => residents.remove(id),
        };
    }
    changed
}

fn resident(containers: &Containers, entry: &Entry) -> Resident {
    let (name, namespace) = match &entry.identity {
        Some(identity) => (identity.name.clone(), identity.namespace.clone()),
        None => (Arc::default(), entry.claim.namespace.clone()),
    };
    Resident {
        container: entry.id.short(),
        name,
        namespace,
        silence: desired::silence(containers, entry),
        problems: entry.problems.as_slice().into(),
        outsider: entry.claim.outsider.clone(),
        search: entry.inspected.as_ref().map(|inspected| inspected.search.clone()).unwrap_or_default(),
        wants_dns_port: entry.inspected.iter().flat_map(|inspected| &inspected.requested).any(is_dns_everywhere),
    }
}

/// Whether a port is to be published as port 53 of every address.
fn is_dns_everywhere(request: &Requested) -> bool {
    const DNS_PORT: u16 = 53;
    request.number == Some(DNS_PORT) && request.ip.is_none_or(|ip| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Silence,
        watch::container::{
            Event, State,
            tests::{Bed, DB, WEB, id, labels_of, running, stopped},
        },
    };

    /// Why the container says nothing, after these changes to one that runs.
    fn silence_of(labels: &[(&str, &str)], change: impl FnOnce(&mut Bed)) -> Option<Silence> {
        let mut bed = Bed::new();
        let mut web = running(WEB, "10.0.0.2");
        web.metadata = labels_of(labels);
        bed.start(&web);
        change(&mut bed);
        bed.residents[&id(WEB).short()].silence.clone()
    }

    #[test]
    fn a_container_that_wants_port_53_of_all_addresses_is_known_by_what_it_asks_for() {
        let request = |ip: Option<&str>, number: Option<u16>| Requested {
            port: 5353,
            proto: crate::model::Proto::Udp,
            ip: ip.map(|ip| ip.parse().unwrap()),
            number,
        };
        for (requested, expected) in [
            (vec![request(None, Some(53))], true),
            (vec![request(Some("0.0.0.0"), Some(53))], true),
            (vec![request(Some("::"), Some(53))], true),
            (vec![request(None, Some(80)), request(None, Some(53))], true),
            (vec![request(Some("10.0.0.5"), Some(53))], false),
            (vec![request(None, Some(5353))], false),
            (vec![request(None, None)], false),
            (vec![], false),
        ] {
            let mut bed = Bed::new();
            let mut web = running(WEB, "10.0.0.2");
            web.requested = requested.clone();
            web.search = ["corp.test".into()].into();
            bed.start(&web);
            let resident = &bed.residents[&id(WEB).short()];
            assert_eq!(resident.wants_dns_port, expected, "{requested:?}");
            assert_eq!(resident.search[..], ["corp.test".into()]);
        }
    }

    #[test]
    fn whoever_is_not_published_has_its_reason() {
        let (project, service) = ("com.docker.compose.project", "com.docker.compose.service");
        let compose = [(project, "shop"), (service, "web")];
        let with = |label| [compose[0], compose[1], label];
        let ignored = |key: &str| Some(Silence::Ignored(key.into()));
        for (labels, expected) in [
            (&compose[..], None),
            (&[], None),
            (&with(("portolan.ignore", "true")), ignored("portolan.ignore")),
            (&with(("SERVICE_IGNORE", "x")), ignored("SERVICE_IGNORE")),
            (&with(("com.docker.compose.oneoff", "True")), Some(Silence::OneOff)),
            (&with(("com.docker.compose.hook", "post_start")), Some(Silence::Hook)),
            (&with(("portolan.service", "a b")), Some(Silence::Nameless)),
            (&with(("portolan.namespace", "a b")), Some(Silence::Nameless)),
            (&[(project, "global"), (service, "web")], Some(Silence::Nameless)),
        ] {
            assert_eq!(silence_of(labels, |_| ()), expected, "{labels:?}");
        }
        let restarting = |bed: &mut Bed| {
            let mut web = running(WEB, "10.0.0.2");
            web.state = State::Restarting;
            bed.apply(Event::Changed(id(WEB))).answer(&web);
        };
        assert_eq!(silence_of(&[], restarting), Some(Silence::Restarting));
        assert_eq!(silence_of(&[], |bed| _ = bed.died(WEB)), Some(Silence::Stopped));
        let inspected =
            |bed: &mut Bed| _ = bed.apply(Event::Changed(id(WEB))).answer(&stopped(running(WEB, "10.0.0.2")));
        assert_eq!(silence_of(&with(("portolan.ignore", "true")), inspected), Some(Silence::Stopped));
    }

    #[test]
    fn a_container_is_known_from_its_creation_to_its_end() {
        let mut bed = Bed::new();
        bed.apply(Event::Created { id: id(DB), name: "db".into(), labels: labels_of(&[]) });
        let db = id(DB).short();
        assert_eq!((&*bed.residents[&db].name, &bed.residents[&db].silence), ("db", &Some(Silence::Unseen)));
        bed.apply(Event::Started { id: id(DB), newest: true });
        let ticket = bed.ticket();
        bed.apply(Event::Failed { ticket, id: id(DB), error: "stuck".into() });
        assert_eq!(bed.residents[&db].silence, Some(Silence::Failed("stuck".into())));
        bed.apply(Event::Destroyed(id(DB)));
        assert!(bed.residents.is_empty());
    }
}
