//! The catalog as DNS asks for it: by service, and by address for reverse names.
//!
//! A [`Zone`] is immutable and holds references only: one entry of 24 bytes per instance beside the publication that
//! the catalog holds anyway. Services are found by one look-up of the octets that stand in a question. Beside each lies
//! what was encoded of it so far (`Memo`): it goes with the service, so that no answer outlives what it was made from.
//!
//! [`Zone::update`] follows the structure that two catalogs share: what they hold in common is never visited. Each
//! service that changed is rebuilt once, in the time of its own instances.

use std::{
    borrow::{Borrow, Cow},
    collections::BTreeMap,
    hash::{Hash, Hasher},
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};

use imbl::{GenericHashMap, OrdMap, ordmap::DiffItem, shared_ptr::DefaultSharedPtr};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::hot::Memo;
use crate::model::{
    Aliases, Attachment, Catalog, Driver, Host, Label, MAX_LABEL, Offer, Origin, Publication, Scope, Session, ShortId,
};

mod aliases;
mod lost;

pub use lost::{MAX_LOST, Seconds};

/// What an answer needs to know of the host an instance runs on.
#[derive(Debug, PartialEq, Eq)]
pub struct Home {
    /// Which host.
    pub origin: Origin,
    /// The addresses under which other hosts reach it.
    pub advertise: Box<[IpAddr]>,
    /// Where it stands, from large to small: `eu/a`. Empty: it does not say.
    pub locality: Arc<str>,
    /// What the machine calls itself. Empty: it does not say.
    pub hostname: Arc<str>,
}

impl Home {
    fn of(origin: &Origin, session: &Session) -> Self {
        Self {
            origin: origin.clone(),
            advertise: session.advertise.as_slice().into(),
            locality: Arc::clone(&session.locality),
            hostname: Arc::clone(&session.hostname),
        }
    }

    /// Whether another session of the host would make the same home.
    fn is_same(before: &Session, after: &Session) -> bool {
        before.advertise == after.advertise && before.locality == after.locality && before.hostname == after.hostname
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

/// The instances of one service, external ones first, then sorted by container; never empty.
///
/// What a query looks at stands together, in front.
#[derive(Debug)]
#[repr(C)]
pub struct Service {
    /// What was encoded of them.
    pub(super) memo: Memo,
    key: Key,
    candidates: Box<[Candidate]>,
    /// How many of them are external.
    externals: usize,
}

impl Service {
    fn new(key: Key, mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        let externals = candidates.partition_point(Candidate::is_external);
        Self { memo: Memo::default(), key, candidates: candidates.into(), externals }
    }

    /// Its namespace and its name.
    pub fn name(&self) -> (&Label, &Label) {
        let offer = self.candidates[0].offer();
        (&offer.namespace, &offer.service)
    }

    /// Those that answers are made from, ready or not. Where an operator has registered the service as an external one,
    /// that is all of it: the operator's word counts for the whole name, so that a service moves at one stroke and is
    /// never in two places.
    pub fn members(&self) -> &[Candidate] {
        match self.externals {
            0 => &self.candidates,
            externals => &self.candidates[..externals],
        }
    }

    /// All of them, those included in whose place an external service stands.
    pub fn all(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The containers in whose place an external service stands.
    pub fn replaced(&self) -> &[Candidate] {
        match self.externals {
            0 => &[],
            externals => &self.candidates[externals..],
        }
    }
}

/// What was encoded follows from the rest.
impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        self.candidates == other.candidates
    }
}

impl Eq for Service {}

/// A service's name as it begins in a question: service and namespace, each behind its length, in lower case. Most are
/// short enough to stand in the service itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(SmallVec<[u8; 24]>);

impl Key {
    fn of(service: &str, namespace: &str) -> Option<Self> {
        KeyText::of(service, namespace).map(|text| Self(SmallVec::from_slice(&text)))
    }

    /// Name and namespace.
    fn labels(&self) -> (&str, &str) {
        let label = |from: usize| {
            let length = usize::from(self.0.get(from).copied().unwrap_or_default());
            let octets = self.0.get(from + 1..from + 1 + length).unwrap_or_default();
            str::from_utf8(octets).unwrap_or_default()
        };
        let name = label(0);
        (name, label(1 + name.len()))
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// A service as the map holds it, which knows it by its key.
#[derive(Clone, Debug)]
struct Entry(Arc<Service>);

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        &self.0.key.0
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Entry {}

/// As that of the key's octets.
impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.0.hash(state);
    }
}

/// Room for a [`Key`] on the way to a look-up.
#[derive(Clone, Copy)]
pub(super) struct KeyText {
    octets: [u8; 2 * (1 + MAX_LABEL)],
    length: usize,
}

impl KeyText {
    pub(super) const fn new() -> Self {
        Self { octets: [0; 2 * (1 + MAX_LABEL)], length: 0 }
    }

    /// Adds a label; false where it is none.
    #[must_use]
    pub(super) fn push(&mut self, label: &[u8]) -> bool {
        let end = self.length + 1 + label.len();
        let Ok(length @ 1..=63) = u8::try_from(label.len()) else { return false };
        if end > self.octets.len() {
            return false;
        }
        self.octets[self.length] = length;
        self.octets[self.length + 1..end].copy_from_slice(label);
        self.length = end;
        true
    }

    pub(super) fn of(service: &str, namespace: &str) -> Option<Self> {
        let mut text = Self::new();
        (text.push(service.as_bytes()) && text.push(namespace.as_bytes())).then_some(text)
    }
}

impl Deref for KeyText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// Names come from containers, so the hash is seeded: nobody can choose names that collide.
type Services = GenericHashMap<Entry, (), foldhash::fast::RandomState, DefaultSharedPtr>;

/// The immutable index DNS answers from. [`Zone::default`] knows nothing and is not complete.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    services: Services,
    /// The services of each namespace, counted; never 0.
    namespaces: OrdMap<Label, usize>,
    /// Containers by address: this host's own, and others' on networks whose addresses mean something here.
    addresses: OrdMap<(IpAddr, Origin, ShortId), Arc<Publication>>,
    /// `--routed`: of other hosts' networks that end there, those whose addresses mean something here.
    routed: Arc<[IpNet]>,
    homes: OrdMap<Origin, Arc<Home>>,
    aliases: aliases::Index,
    lost: lost::Lost,
    complete: bool,
    revision: i64,
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        // The map compares keys alone.
        let is_held = |service: &Service| other.lookup(&service.key.0).is_some_and(|held| held == service);
        self.services.len() == other.services.len()
            && self.services().all(is_held)
            && self.namespaces == other.namespaces
            && self.addresses == other.addresses
            && self.homes == other.homes
            && self.aliases == other.aliases
            && self.lost == other.lost
            && (self.complete, self.revision) == (other.complete, other.revision)
    }
}

impl Eq for Zone {}

/// What happened to one service: containers of a host that are gone from it, and candidates that are new.
#[derive(Default)]
struct Change {
    gone: Vec<(ShortId, Origin)>,
    new: Vec<Candidate>,
}

impl Zone {
    /// The zone of nothing, in which addresses of these subnets will be found on whichever host they are. It remembers the
    /// names that this one has lost.
    #[must_use]
    pub fn routing(&self, routed: &[IpNet]) -> Self {
        Self { routed: routed.into(), lost: self.lost.clone(), ..Self::default() }
    }

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
        let mut changes: BTreeMap<Key, Change> = BTreeMap::new();
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

    fn add_host(&mut self, origin: &Origin, host: &Host, changes: &mut BTreeMap<Key, Change>) {
        let home = Arc::new(Home::of(origin, &host.session));
        for publication in host.publications.values() {
            self.add(&home, publication, changes);
        }
        self.homes.insert(origin.clone(), home);
    }

    fn remove_host(&mut self, origin: &Origin, host: &Host, changes: &mut BTreeMap<Key, Change>) {
        let Some(home) = self.homes.remove(origin) else { return };
        for publication in host.publications.values() {
            self.remove(&home, publication, changes);
        }
    }

    fn update_host(&mut self, origin: &Origin, old: &Host, new: &Host, changes: &mut BTreeMap<Key, Change>) {
        let Some(home) = self.homes.get(origin).cloned() else {
            debug_assert!(false, "the zone is not that of the old catalog: {origin:?} is missing");
            return self.add_host(origin, new, changes);
        };
        for difference in old.publications.diff(&new.publications) {
            match difference {
                DiffItem::Add(_, publication) => self.add(&home, publication, changes),
                DiffItem::Remove(_, publication) => self.remove(&home, publication, changes),
                DiffItem::Update { old: (_, before), new: (_, after) } => {
                    let renamed = !is_external(&home) && !aliases::are_same(before, after);
                    self.drop_offers(origin, before, changes);
                    if renamed {
                        self.aliases.remove(&home, before);
                    }
                    self.add(&home, after, changes);
                    if renamed {
                        self.lose(before);
                    }
                }
            }
        }
    }

    fn add(&mut self, home: &Arc<Home>, publication: &Arc<Publication>, changes: &mut BTreeMap<Key, Change>) {
        for (offer, offered) in (0..).zip(&publication.services) {
            let candidate = Candidate { home: Arc::clone(home), publication: Arc::clone(publication), offer };
            changes.entry(key(offered)).or_default().new.push(candidate);
        }
        for address in findable(&home.origin, publication, &Arc::clone(&self.routed)) {
            let key = (address, home.origin.clone(), publication.container);
            self.addresses.insert(key, Arc::clone(publication));
        }
        if is_external(home) {
            return;
        }
        self.aliases.add(home, publication);
        if !self.lost.is_empty() {
            let found = aliases::plain(publication).filter_map(|name| Key::of(&name, publication.namespace.as_str()));
            found.for_each(|key| self.lost.forget(&key));
        }
    }

    fn remove(&mut self, home: &Arc<Home>, publication: &Arc<Publication>, changes: &mut BTreeMap<Key, Change>) {
        self.drop_offers(&home.origin, publication, changes);
        if !is_external(home) {
            self.aliases.remove(home, publication);
            self.lose(publication);
        }
    }

    /// Its names are not looked for in `global` for a while, unless another container or a service has them.
    fn lose(&mut self, publication: &Publication) {
        for name in self.aliases.lost(publication) {
            let key = Key::of(&name, publication.namespace.as_str()).filter(|key| self.lookup(&key.0).is_none());
            if let Some(key) = key {
                self.lost.lose(key);
            }
        }
    }

    fn drop_offers(&mut self, origin: &Origin, publication: &Publication, changes: &mut BTreeMap<Key, Change>) {
        for offered in &publication.services {
            let gone = (publication.container, origin.clone());
            changes.entry(key(offered)).or_default().gone.push(gone);
        }
        for address in findable(origin, publication, &Arc::clone(&self.routed)) {
            self.addresses.remove(&(address, origin.clone(), publication.container));
        }
    }

    fn rebuild(&mut self, key: Key, mut change: Change) {
        change.gone.sort_unstable();
        let stays = |candidate: &&Candidate| {
            let place = |(container, origin): &(ShortId, Origin)| {
                (container, origin).cmp(&(&candidate.publication.container, &candidate.home.origin))
            };
            change.gone.binary_search_by(place).is_err()
        };
        let known = self.entry(&key.0).map(|entry| Arc::clone(&entry.0));
        let held = known.iter().flat_map(|service| &service.candidates);
        let candidates: Vec<Candidate> = held.filter(stays).cloned().chain(change.new).collect();
        let Some(namespace) = candidates.first().map(|candidate| candidate.offer().namespace.clone()) else {
            self.services.remove(&*key.0);
            let (name, namespace) = key.labels();
            if namespace != Label::GLOBAL && !self.aliases.has(namespace, name) {
                self.lost.lose(key);
            }
            if let Some(last) = known.iter().find_map(|service| service.candidates.first()) {
                self.uncount(&last.offer().namespace);
            }
            return;
        };
        if known.is_none() {
            self.lost.forget(&key);
            *self.namespaces.entry(namespace).or_insert(0) += 1;
        }
        self.services.insert(Entry(Arc::new(Service::new(key, candidates))), ());
    }

    fn uncount(&mut self, namespace: &Label) {
        match self.namespaces.get(namespace) {
            Some(1) => drop(self.namespaces.remove(namespace)),
            Some(services) => {
                let fewer = services - 1;
                self.namespaces.insert(namespace.clone(), fewer);
            }
            None => debug_assert!(false, "{namespace:?} was not counted"),
        }
    }

    /// The instances of a service that answers are made from; `None` where there is no such service.
    pub fn service(&self, namespace: &str, service: &str) -> Option<&[Candidate]> {
        self.lookup(&KeyText::of(service, namespace)?).map(Service::members)
    }

    /// What the containers of a namespace offer that are called `name`, in lower case, by Docker's own DNS.
    pub fn alias(&self, wanted: Aliases, namespace: &str, name: &str) -> Vec<Candidate> {
        self.aliases.find(wanted, namespace, name)
    }

    /// The names of a publication besides those of its services, for askers of its own namespace; of another host's, too.
    pub fn names_of(wanted: Aliases, publication: &Publication) -> impl Iterator<Item = String> {
        aliases::all(publication).filter(move |name| wanted.has(name)).map(Cow::into_owned)
    }

    /// Whether there may be such containers; no is certain.
    #[inline]
    pub(super) fn may_be_alias(&self, namespace: &[u8], name: &[u8]) -> bool {
        self.aliases.may_have(namespace, name)
    }

    /// The same for a name with dots, which is made only where any such is known.
    #[inline]
    pub(super) fn may_be_dotted_alias(&self, namespace: &[u8], name: impl FnOnce() -> Vec<u8>) -> bool {
        self.aliases.may_have_dotted(namespace, name)
    }

    /// The same zone at another time, in seconds since 1970: bare names that were lost more than `hold` seconds ago are
    /// looked for in `global` again.
    #[must_use]
    pub fn later(&self, now: Seconds, hold: Seconds) -> Self {
        let mut later = self.clone();
        later.lost.at(now, hold);
        later
    }

    /// When the next name that was lost is looked for in `global` again.
    pub fn next_return(&self) -> Option<Seconds> {
        self.lost.next()
    }

    /// Until when a bare name that the namespace has lost is not looked for in `global`.
    pub fn lost_until(&self, namespace: &str, name: &str) -> Option<Seconds> {
        KeyText::of(name, namespace).and_then(|key| self.lost.until(&key))
    }

    /// The same for its key.
    #[inline]
    pub(super) fn is_lost(&self, key: &[u8]) -> bool {
        self.lost.until(key).is_some()
    }

    /// All names that were lost: name, namespace, and until when.
    pub fn lost(&self) -> impl Iterator<Item = (&str, &str, Seconds)> {
        self.lost.iter().map(|(key, until)| {
            let (name, namespace) = key.labels();
            (name, namespace, until)
        })
    }

    /// The same zone, with names that were lost before: each with its namespace, and until when.
    #[must_use]
    pub fn with_lost(&self, names: impl Iterator<Item = (String, String, Seconds)>) -> Self {
        let mut next = self.clone();
        for (name, namespace, until) in names {
            let key = Key::of(&name, &namespace).filter(|key| self.lookup(&key.0).is_none());
            if let Some(key) = key {
                next.lost.lose_until(key, until);
            }
        }
        next
    }

    /// The same zone without what is remembered of a name that was lost, in every namespace.
    #[must_use]
    pub fn without_lost(&self, name: &str) -> Self {
        let mut next = self.clone();
        let meant: Vec<Key> =
            self.lost.iter().map(|(key, _)| key.clone()).filter(|key| key.labels().0 == name).collect();
        for key in &meant {
            next.lost.forget(key);
        }
        next
    }

    /// The service with this key: its own and its namespace's label, as they stand in a question, in lower case.
    #[inline]
    pub(super) fn lookup(&self, key: &[u8]) -> Option<&Service> {
        self.entry(key).map(|entry| &*entry.0)
    }

    #[inline]
    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.services.get_key_value(key).map(|(entry, ())| entry)
    }

    /// As [`Zone::lookup`]; `pass` is told where the way led.
    #[inline]
    pub(super) fn find(&self, key: &[u8], mut pass: impl FnMut(*const u8)) -> Option<&Service> {
        let entry = self.entry(key)?;
        let service = &*entry.0;
        pass((&raw const *entry).cast());
        pass((&raw const service.memo).cast());
        // Perhaps one line further.
        pass(service.key.0.as_ptr_range().end);
        Some(service)
    }

    /// The containers in whose place an external service stands.
    pub fn replaced(&self, namespace: &str, service: &str) -> &[Candidate] {
        KeyText::of(service, namespace).and_then(|key| self.lookup(&key)).map_or(&[], Service::replaced)
    }

    /// Whether the namespace has a service.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
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

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.keys().map(|entry| &*entry.0)
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

/// The key of the service that is offered.
fn key(offer: &Offer) -> Key {
    Key::of(offer.service.as_str(), offer.namespace.as_str()).expect("a label is one")
}

fn is_external(home: &Home) -> bool {
    home.origin == Origin::External
}

/// The addresses of a container by which it may be found. Of another host's, those of networks that end there mean
/// nothing here, unless they are routed, or lie in the network around all hosts.
fn findable(origin: &Origin, publication: &Publication, routed: &[IpNet]) -> impl Iterator<Item = IpAddr> {
    let is_own = *origin == Origin::Own;
    let means_something = move |network: &Attachment, address: &IpAddr| {
        is_own
            || network.scope != Scope::Local
            || matches!(network.driver, Driver::Macvlan | Driver::Ipvlan)
            || routed.iter().any(|subnet| subnet.contains(address))
    };
    let networks = publication.networks.iter().filter(|network| network.driver != Driver::Host);
    networks
        .flat_map(move |network| network.ips.iter().copied().filter(move |address| means_something(network, address)))
}

#[cfg(test)]
mod tests;
