//! Two catalogs → what happened between them, in O(what changed): unchanged parts are shared and skipped.

use std::{collections::BTreeMap, sync::Arc};

use imbl::ordmap::DiffItem;

use super::json;
use crate::model::{Catalog, HostId, Origin, Publication, ShortId};

/// What happened to one publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Added, changed or removed.
    pub kind: Kind,
    /// Whose it is.
    pub host: HostId,
    /// As it is now; for a removed one, as it was.
    pub publication: Arc<Publication>,
}

/// The kinds of [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was not there before.
    Added,
    /// It is another now.
    Changed,
    /// It is not there any more.
    Removed,
}

impl Kind {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

type Publications = imbl::OrdMap<ShortId, Arc<Publication>>;

/// What happened between two catalogs, ordered by host and container. A publication that only changes its origin, as
/// ours do when Docker is first listed, has not changed.
pub fn changes(before: &Catalog, after: &Catalog, own: &HostId) -> Vec<Change> {
    type Pair = (Option<Arc<Publication>>, Option<Arc<Publication>>);
    let mut pairs: BTreeMap<(HostId, ShortId), Pair> = BTreeMap::new();
    let none = Publications::new();
    let mut compare = |origin: &Origin, before: &Publications, after: &Publications| {
        let host = json::host_of(origin, own);
        let mut note = |id: &ShortId, old: Option<&Arc<Publication>>, new: Option<&Arc<Publication>>| {
            let pair = pairs.entry((host.clone(), *id)).or_default();
            pair.0 = pair.0.take().or_else(|| old.cloned());
            pair.1 = pair.1.take().or_else(|| new.cloned());
        };
        for item in before.diff(after) {
            match item {
                DiffItem::Add(id, new) => note(id, None, Some(new)),
                DiffItem::Update { old: (_, old), new: (id, new) } => note(id, Some(old), Some(new)),
                DiffItem::Remove(id, old) => note(id, Some(old), None),
            }
        }
    };
    for item in before.hosts.diff(&after.hosts) {
        match item {
            DiffItem::Add(origin, new) => compare(origin, &none, &new.publications),
            DiffItem::Update { old: (_, old), new: (origin, new) } => {
                compare(origin, &old.publications, &new.publications);
            }
            DiffItem::Remove(origin, old) => compare(origin, &old.publications, &none),
        }
    }
    let change = |((host, _), pair): ((HostId, ShortId), Pair)| {
        let (kind, publication) = match pair {
            (None, Some(new)) => (Kind::Added, new),
            (Some(old), Some(new)) if old != new => (Kind::Changed, new),
            (Some(old), None) => (Kind::Removed, old),
            _ => return None,
        };
        Some(Change { kind, host, publication })
    };
    pairs.into_iter().filter_map(change).collect()
}
