//! Containers by what Docker's own DNS calls them: name, id and aliases, each within the container's own namespace.
//!
//! Names and ids stand in the catalog already, some 200,000 of 100,000 containers. So the index holds no text: an entry is a
//! hash of name and namespace, and where to read them, 24 octets. Hashes are seeded, so containers cannot choose names
//! that meet; where two do by chance, the texts decide.
//!
//! What may not be a name is not in here, whatever host wrote the record: in `global` there are no aliases; those without dots
//! keep off reserved names, those with dots off `default` and off names that have a meaning of their own everywhere.

use std::{
    borrow::Cow,
    cmp::Ordering,
    hash::{BuildHasher, Hasher},
    sync::{Arc, LazyLock},
};

use imbl::OrdSet;

use super::{super::special, Candidate, Home};
use crate::model::{Aliases, Label, Origin, Publication, ShortId, alias, reserved};

/// Where no container's name lies either, besides the special names: outside of DNS (RFC 9476, RFC 6762), and where reverse
/// names are.
const APART: [&str; 3] = ["alt", "local", "arpa"];

/// One seed for all zones of a process, so that equal zones hold equal entries.
static HASH: LazyLock<foldhash::fast::RandomState> = LazyLock::new(foldhash::fast::RandomState::default);

/// The index. Cheap to copy; what two copies have in common is held once.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    held: OrdSet<Entry>,
    /// Names with dots, counted: most questions for names of others need not look.
    dotted: usize,
}

/// One name of one container.
#[derive(Clone, Debug)]
struct Entry {
    hash: u32,
    /// 0 the id, 1 the name, 2 and more the aliases.
    which: u16,
    /// `None` comes before all others with this hash.
    whose: Option<(Arc<Home>, Arc<Publication>)>,
}

impl Entry {
    fn first(hash: u32) -> Self {
        Self { hash, which: 0, whose: None }
    }

    fn place(&self) -> (u32, Option<(ShortId, &Origin)>, u16) {
        let whose = self.whose.as_ref().map(|(home, publication)| (publication.container, &home.origin));
        (self.hash, whose, self.which)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

fn hash(name: &[u8], namespace: &[u8]) -> u32 {
    let mut hasher = HASH.build_hasher();
    hasher.write(name);
    hasher.write(namespace);
    let [_, _, _, _, hash @ ..] = hasher.finish().to_be_bytes();
    u32::from_be_bytes(hash)
}

/// The name of a publication in this place, in lower case.
fn text(publication: &Publication, which: u16) -> Option<Cow<'_, str>> {
    match usize::from(which) {
        0 => Some(publication.container.as_str().into()),
        1 => alias(&publication.name),
        other => publication.aliases.get(other - 2).map(|name| Cow::Borrowed(&**name)),
    }
}

/// Whether a container may be called so in its namespace.
fn is_allowed(name: &str, namespace: &Label) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    let is_free = |label: &str| Label::parse(label).is_ok_and(|label| reserved(&label, namespace).is_none());
    match name.rsplit_once('.') {
        None => is_free(name),
        Some((_, last)) => {
            *namespace != Label::default_namespace()
                && !APART.contains(&last)
                && special::find_text(name).is_none()
                // Programs look for `wpad` below every domain that they are in.
                && is_free(first)
        }
    }
}

/// The names under which a publication is found, with their places.
fn names(publication: &Publication) -> impl Iterator<Item = (u16, Cow<'_, str>)> {
    let namespace = &publication.namespace;
    let count = if *namespace == Label::global() { 0 } else { 2 + publication.aliases.len() };
    let all = (0..).take(count).filter_map(|which| Some((which, text(publication, which)?)));
    let is_service = |name: &str| publication.services.iter().any(|offer| offer.is_in_place_of(name, namespace));
    all.filter(move |(which, name)| *which == 0 || (is_allowed(name, namespace) && !is_service(name)))
}

/// All names under which a publication is found.
pub(super) fn all(publication: &Publication) -> impl Iterator<Item = Cow<'_, str>> {
    names(publication).map(|(_, name)| name)
}

/// Those that bare questions may ask for, and that say more than an id.
pub(super) fn plain(publication: &Publication) -> impl Iterator<Item = Cow<'_, str>> {
    names(publication).filter(|(which, name)| *which != 0 && !name.contains('.')).map(|(_, name)| name)
}

/// Whether two publications of one container are found under the same names.
pub(super) fn are_same(before: &Publication, after: &Publication) -> bool {
    let of = |held: &Publication| (held.name.clone(), held.namespace.clone());
    (Arc::ptr_eq(&before.common, &after.common) && before.name == after.name)
        || (of(before) == of(after) && before.aliases == after.aliases && names(before).eq(names(after)))
}

impl Index {
    /// Adds a publication, in the place of one that is found under the same names.
    pub(super) fn add(&mut self, home: &Arc<Home>, publication: &Arc<Publication>) {
        for (which, name) in names(publication) {
            let hash = hash(name.as_bytes(), publication.namespace.as_str().as_bytes());
            let whose = Some((Arc::clone(home), Arc::clone(publication)));
            let replaced = self.held.insert(Entry { hash, which, whose });
            self.dotted += usize::from(name.contains('.') && replaced.is_none());
        }
    }

    /// Removes a publication.
    pub(super) fn remove(&mut self, home: &Arc<Home>, publication: &Arc<Publication>) {
        for (which, name) in names(publication) {
            let hash = hash(name.as_bytes(), publication.namespace.as_str().as_bytes());
            let whose = Some((Arc::clone(home), Arc::clone(publication)));
            let removed = self.held.remove(&Entry { hash, which, whose });
            self.dotted -= usize::from(name.contains('.') && removed.is_some());
        }
    }

    /// Its names as of [`plain`] that no container has.
    pub(super) fn lost<'p>(&self, publication: &'p Publication) -> impl Iterator<Item = Cow<'p, str>> {
        plain(publication).filter(|name| !self.has(publication.namespace.as_str(), name))
    }

    pub(super) fn has(&self, namespace: &str, name: &str) -> bool {
        self.holders(namespace, name).next().is_some()
    }

    /// Whether a container may have this name, in lower case: a look that waits for few lines of memory and is never wrong
    /// in saying no.
    pub(super) fn may_have(&self, namespace: &[u8], name: &[u8]) -> bool {
        let hash = hash(name, namespace);
        self.held.get_next(&Entry::first(hash)).is_some_and(|entry| entry.hash == hash)
    }

    /// The same for a name with dots.
    pub(super) fn may_have_dotted(&self, namespace: &[u8], name: impl FnOnce() -> Vec<u8>) -> bool {
        self.dotted > 0 && self.may_have(namespace, &name())
    }

    fn holders<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> impl Iterator<Item = &'a (Arc<Home>, Arc<Publication>)> {
        let hash = hash(name.as_bytes(), namespace.as_bytes());
        let from = self.held.range(Entry::first(hash)..).take_while(move |entry| entry.hash == hash);
        from.filter_map(move |entry| {
            let whose = entry.whose.as_ref()?;
            let publication = &whose.1;
            let is_it = publication.namespace.as_str() == namespace
                && text(publication, entry.which).is_some_and(|text| text == name);
            is_it.then_some(whose)
        })
    }

    /// What the containers offer that are called `name`, in lower case, in a namespace: as if it were one service.
    pub(super) fn find(&self, wanted: Aliases, namespace: &str, name: &str) -> Vec<Candidate> {
        if !wanted.has(name) {
            return Vec::new();
        }
        let mut all: Vec<Candidate> = self
            .holders(namespace, name)
            .flat_map(|(home, publication)| {
                (0..).zip(&publication.services).map(|(offer, _)| Candidate {
                    home: Arc::clone(home),
                    publication: Arc::clone(publication),
                    offer,
                })
            })
            .collect();
        all.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        // A record may say its container's name once more.
        all.dedup_by(|a, b| a.order() == b.order());
        all
    }
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        self.held.len() == other.held.len()
            && self.held.iter().zip(&other.held).all(|(a, b)| a == b && a.whose == b.whose)
    }
}
