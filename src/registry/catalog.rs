//! Everything known, in one place: our own truth from Docker over what the registry says. Pure.
//!
//! This is the one explicit merge of the two flows (P3): the own host's containers come straight from [`Desired`], with
//! etcd gone too. Their copies in the registry are left out only when Docker has been listed *and* the session beside
//! them carries our own nonce. Before that they are answered like any other host's, and so are those of a stranger who
//! took our host id.
//!
//! A merge costs O(log hosts): the view's map is keyed as the catalog's and is shared with it, not copied.

use std::sync::Arc;

use super::mirror::View;
use crate::model::{Catalog, Desired, Host, HostId, Origin, Session};

/// Who we are among the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Our id.
    pub host: HostId,
    /// What our session key says, or would say.
    pub session: Session,
}

/// The catalog of what is known now. `previous` lends what has not changed; `externals` are what operators registered,
/// with what our own checks of them found.
pub fn merge(previous: &Catalog, own: &Own, desired: &Desired, externals: &Desired, view: &View) -> Catalog {
    let mut hosts = view.hosts.clone();
    let registered = Origin::Registry(own.host.clone());
    let is_copy = hosts.get(&registered).is_some_and(|host| host.session.nonce == own.session.nonce);
    if desired.listed && is_copy {
        hosts.remove(&registered);
    }
    if desired.listed {
        hosts.insert(Origin::Own, host(previous, &Origin::Own, &own.session, desired));
    }
    if !externals.publications.is_empty() {
        hosts.insert(Origin::External, host(previous, &Origin::External, &Session::default(), externals));
    }
    Catalog {
        hosts,
        docker_listed: desired.listed,
        // What operators registered is part of the registry: without it an absence cannot be stated.
        registry_listed: view.listed && externals.listed,
        stale: view.stale_since.is_some(),
        revision: view.revision,
        cluster: view.cluster,
        problems: Arc::clone(&view.problems),
    }
}

fn host(previous: &Catalog, origin: &Origin, session: &Session, desired: &Desired) -> Arc<Host> {
    match previous.hosts.get(origin) {
        Some(known) if known.session == *session && known.publications.ptr_eq(&desired.publications) => {
            Arc::clone(known)
        }
        _ => Arc::new(Host { session: session.clone(), publications: desired.publications.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use imbl::OrdMap;

    use super::*;
    use crate::{
        model::{Publication, ShortId},
        registry::record::tests::publication,
    };

    fn own() -> Own {
        Own { host: HostId::parse("a").unwrap(), session: Session { nonce: "n1".into(), ..Session::default() } }
    }

    fn publications(container: &str) -> OrdMap<ShortId, Arc<Publication>> {
        let publication = Arc::new(publication(container));
        OrdMap::unit(publication.container, publication)
    }

    fn desired(listed: bool) -> Desired {
        Desired { listed, publications: publications("aaaaaaaaaaaa"), ..Desired::default() }
    }

    fn view(nonce: &str) -> View {
        let host = |nonce: &str, container| {
            let session = Session { nonce: nonce.into(), ..Session::default() };
            Arc::new(Host { session, publications: publications(container) })
        };
        let origin = |id| Origin::Registry(HostId::parse(id).unwrap());
        let hosts =
            OrdMap::from_iter([(origin("a"), host(nonce, "aaaaaaaaaaaa")), (origin("b"), host("x", "bbbbbbbbbbbb"))]);
        View { listed: true, hosts, revision: 7, ..View::default() }
    }

    /// Docker listed, nonce beside our copies → origins in the catalog.
    #[test]
    fn own_copies_are_left_out_only_once_docker_is_listed_and_they_are_ours() {
        for (listed, nonce, expected) in
            [(true, "n1", vec!["own", "b"]), (false, "n1", vec!["a", "b"]), (true, "stranger", vec!["own", "a", "b"])]
        {
            let catalog = merge(&Catalog::default(), &own(), &desired(listed), &listed_externals(), &view(nonce));
            let origins: Vec<_> = catalog
                .hosts
                .keys()
                .map(|origin| match origin {
                    Origin::Own => "own",
                    Origin::Registry(id) => id.as_str(),
                    Origin::External => "external",
                })
                .collect();
            assert_eq!(origins, expected, "listed {listed}, nonce {nonce}");
        }
    }

    fn listed_externals() -> Desired {
        Desired { listed: true, ..Desired::default() }
    }

    #[test]
    fn nothing_is_complete_before_external_services_have_been_looked_at() {
        let merged = |externals: &Desired| merge(&Catalog::default(), &own(), &desired(true), externals, &view("n1"));
        assert!(merged(&listed_externals()).is_complete());
        assert!(!merged(&Desired::default()).is_complete());
    }

    #[test]
    fn what_has_not_changed_is_shared_with_the_catalog_before() {
        let (desired, view) = (desired(true), view("n1"));
        let externals = Desired { publications: publications("eeeeeeeeeeee"), ..Desired::default() };
        let first = merge(&Catalog::default(), &own(), &desired, &externals, &view);
        assert!(first.hosts.contains_key(&Origin::External));
        let mut later = view.clone();
        later.revision += 1;
        let second = merge(&first, &own(), &desired, &externals, &later);
        for (origin, host) in &first.hosts {
            assert!(Arc::ptr_eq(host, &second.hosts[origin]), "{origin:?}");
        }
        assert_eq!(second.revision, 8);
    }
}
