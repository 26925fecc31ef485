//! The catalog as DNS asks for it: by service, and by address for reverse names.
//!
//! A [`Zone`] is immutable and holds references only: one entry of 24 bytes per instance beside the publication that
//! the catalog holds anyway, so 100,000 instances of 10,000 services cost 7 MB in all. Answers are not pre-encoded.
//!
//! [`Zone::update`] follows the structure that two catalogs share: what they hold in common is never visited. Each
//! service that changed is rebuilt once, in the time of its own instances.

use std::{collections::BTreeMap, net::IpAddr, ops::Bound, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

use crate::model::{Catalog, Driver, Host, Offer, Origin, Publication, Scope, Session, ShortId};

/// What an answer needs to know of the host an instance runs on.
#[derive(Debug, PartialEq, Eq)]
pub struct Home {
    /// Which host.
    pub origin: Origin,
    /// The addresses under which other hosts reach it.
    pub advertise: Box<[IpAddr]>,
    /// Where it stands, from large to small: `eu/a`. Empty: it does not say.
    pub locality: Arc<str>,
}

impl Home {
    fn of(origin: &Origin, session: &Session) -> Self {
        Self {
            origin: origin.clone(),
            advertise: session.advertise.as_slice().into(),
            locality: Arc::clone(&session.locality),
        }
    }

    /// Whether another session of the host would make the same home.
    fn is_same(before: &Session, after: &Session) -> bool {
        before.advertise == after.advertise && before.locality == after.locality
    }
}

/// One instance of a service: a publication, the offer in it that is meant, and the host it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it runs.
    pub home: Arc<Home>,
    /// The container.
    pub publication: Arc<Publication>,
    offer: u16,
}

impl Candidate {
    /// What it offers under this service's name.
    pub fn offer(&self) -> &Offer {
        &self.publication.services[usize::from(self.offer)]
    }

    /// Whether an operator registered it, rather than a host.
    pub fn is_external(&self) -> bool {
        self.home.origin == Origin::External
    }

    /// External ones first, so that those that count stand together.
    fn order(&self) -> (bool, ShortId, &Origin, u16) {
        (!self.is_external(), self.publication.container, &self.home.origin, self.offer)
    }
}

/// The immutable index DNS answers from. [`Zone::default`] knows nothing and is not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// By `namespace.service`, so that a namespace is a range. External instances first, then sorted by container; never
    /// empty.
    services: OrdMap<Arc<str>, Arc<[Candidate]>>,
    /// Containers by address: this host's own, and others' on networks that span hosts.
    addresses: OrdMap<(IpAddr, Origin, ShortId), Arc<Publication>>,
    homes: OrdMap<Origin, Arc<Home>>,
    complete: bool,
    revision: i64,
}

/// What happened to one service: containers of a host that are gone from it, and candidates that are new.
#[derive(Default)]
struct Change {
    gone: Vec<(ShortId, Origin)>,
    new: Vec<Candidate>,
}

impl Zone {
    /// The zone of a catalog, from nothing.
    pub fn of(catalog: &Catalog) -> Self {
        Self::default().update(&Catalog::default(), catalog)
    }

    /// The zone of `new`, given that this is the zone of `old`: in the time of what differs between them.
    #[must_use]
    pub fn update(&self, old: &Catalog, new: &Catalog) -> Self {
        let mut next = self.clone();
        next.complete = new.is_complete();
        next.revision = new.revision;
        let mut changes: BTreeMap<Arc<str>, Change> = BTreeMap::new();
        for difference in old.hosts.diff(&new.hosts) {
            match difference {
                DiffItem::Add(origin, host) => next.add_host(origin, host, &mut changes),
                DiffItem::Remove(origin, host) => next.remove_host(origin, host, &mut changes),
                DiffItem::Update { old: (origin, before), new: (_, after) } => {
                    if Home::is_same(&before.session, &after.session) {
                        next.update_host(origin, before, after, &mut changes);
                    } else {
                        next.remove_host(origin, before, &mut changes);
                        next.add_host(origin, after, &mut changes);
                    }
                }
            }
        }
        for (key, change) in changes {
            next.rebuild(key, change);
        }
        next
    }

    fn add_host(&mut self, origin: &Origin, host: &Host, changes: &mut BTreeMap<Arc<str>, Change>) {
        let home = Arc::new(Home::of(origin, &host.session));
        for publication in host.publications.values() {
            self.add(&home, publication, changes);
        }
        self.homes.insert(origin.clone(), home);
    }

    fn remove_host(&mut self, origin: &Origin, host: &Host, changes: &mut BTreeMap<Arc<str>, Change>) {
        for publication in host.publications.values() {
            self.remove(origin, publication, changes);
        }
        self.homes.remove(origin);
    }

    fn update_host(&mut self, origin: &Origin, old: &Host, new: &Host, changes: &mut BTreeMap<Arc<str>, Change>) {
        let Some(home) = self.homes.get(origin).cloned() else {
            debug_assert!(false, "the zone is not that of the old catalog: {origin:?} is missing");
            return self.add_host(origin, new, changes);
        };
        for difference in old.publications.diff(&new.publications) {
            match difference {
                DiffItem::Add(_, publication) => self.add(&home, publication, changes),
                DiffItem::Remove(_, publication) => self.remove(origin, publication, changes),
                DiffItem::Update { old: (_, before), new: (_, after) } => {
                    self.remove(origin, before, changes);
                    self.add(&home, after, changes);
                }
            }
        }
    }

    fn add(&mut self, home: &Arc<Home>, publication: &Arc<Publication>, changes: &mut BTreeMap<Arc<str>, Change>) {
        for (offer, offered) in (0..).zip(&publication.services) {
            let candidate = Candidate { home: Arc::clone(home), publication: Arc::clone(publication), offer };
            changes.entry(self.key(offered)).or_default().new.push(candidate);
        }
        for address in findable(&home.origin, publication) {
            let key = (address, home.origin.clone(), publication.container);
            self.addresses.insert(key, Arc::clone(publication));
        }
    }

    fn remove(&mut self, origin: &Origin, publication: &Publication, changes: &mut BTreeMap<Arc<str>, Change>) {
        for offered in &publication.services {
            let gone = (publication.container, origin.clone());
            changes.entry(self.key(offered)).or_default().gone.push(gone);
        }
        for address in findable(origin, publication) {
            self.addresses.remove(&(address, origin.clone(), publication.container));
        }
    }

    /// The key of an offer: the one in use where there is one, so that its text is held once.
    fn key(&self, offer: &Offer) -> Arc<str> {
        let text = key(offer.namespace.as_str(), offer.service.as_str());
        match self.services.get_key_value(text.as_str()) {
            Some((known, _)) => Arc::clone(known),
            None => text.into(),
        }
    }

    fn rebuild(&mut self, key: Arc<str>, mut change: Change) {
        change.gone.sort_unstable();
        let stays = |candidate: &&Candidate| {
            let place = |(container, origin): &(ShortId, Origin)| {
                (container, origin).cmp(&(&candidate.publication.container, &candidate.home.origin))
            };
            change.gone.binary_search_by(place).is_err()
        };
        let mut candidates: Vec<Candidate> =
            self.services.get(&*key).into_iter().flat_map(|known| known.iter()).filter(stays).cloned().collect();
        candidates.extend(change.new);
        if candidates.is_empty() {
            self.services.remove(&*key);
            return;
        }
        candidates.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        self.services.insert(key, candidates.into());
    }

    /// The instances of a service, ready or not, ordered by container; `None` where there is no such service. Where an
    /// operator has registered it as an external one, that is all of it: the operator's word counts for the whole name, so
    /// that a service moves at one stroke and is never in two places.
    pub fn service(&self, namespace: &str, service: &str) -> Option<&[Candidate]> {
        let all = self.services.get(key(namespace, service).as_str())?;
        match all.partition_point(Candidate::is_external) {
            0 => Some(all),
            externals => Some(&all[..externals]),
        }
    }

    /// The containers in whose place an external service stands.
    pub fn replaced(&self, namespace: &str, service: &str) -> &[Candidate] {
        match self.services.get(key(namespace, service).as_str()) {
            Some(all) if all[0].is_external() => &all[all.partition_point(Candidate::is_external)..],
            _ => &[],
        }
    }

    /// Whether the namespace has a service.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let first = key(namespace, "");
        let from = (Bound::Included(first.as_str()), Bound::Unbounded);
        self.services.range::<_, str>(from).next().is_some_and(|(key, _)| key.starts_with(&first))
    }

    /// The containers that have an address: several only while one that left and one that came overlap.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = (&Origin, &Arc<Publication>)> {
        self.from(address).take_while(move |((at, ..), _)| *at == address).map(|((_, origin, _), held)| (origin, held))
    }

    /// The containers with addresses from `address` on, in the order of addresses.
    fn from(&self, address: IpAddr) -> impl Iterator<Item = (&(IpAddr, Origin, ShortId), &Arc<Publication>)> {
        let first = ShortId::parse("000000000000").expect("twelve zeros are hexadecimal digits");
        self.addresses.range((address, Origin::Own, first)..)
    }

    /// The lowest address of a container from `address` on.
    pub fn next_address(&self, address: IpAddr) -> Option<IpAddr> {
        self.from(address).next().map(|((at, ..), _)| *at)
    }

    /// What is known of a host.
    pub fn home(&self, origin: &Origin) -> Option<&Arc<Home>> {
        self.homes.get(origin)
    }

    /// All hosts.
    pub fn homes(&self) -> impl Iterator<Item = &Arc<Home>> {
        self.homes.values()
    }

    /// All services, each as its instances, ordered by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &[Candidate]> {
        self.services.values().map(|candidates| &**candidates)
    }

    /// Whether a name's absence may be stated (see [`Catalog::is_complete`]).
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The registry's revision this zone was made from.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

/// Labels hold no dot, so this is unambiguous.
fn key(namespace: &str, service: &str) -> String {
    let mut key = String::with_capacity(namespace.len() + 1 + service.len());
    key.push_str(namespace);
    key.push('.');
    key.push_str(service);
    key
}

/// The addresses of a container by which it may be found: another host's local addresses mean nothing here.
fn findable(origin: &Origin, publication: &Publication) -> impl Iterator<Item = IpAddr> {
    let means_something = *origin == Origin::Own;
    publication
        .networks
        .iter()
        .filter(move |network| network.driver != Driver::Host && (means_something || network.scope != Scope::Local))
        .flat_map(|network| network.ips.iter().copied())
}

#[cfg(test)]
mod tests;
