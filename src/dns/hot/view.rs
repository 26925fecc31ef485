//! Askers as answers see them: whom the same answers hold for.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::super::{
    answer::{Settings, Snapshot, may_forward},
    reach::Viewpoint,
    source::Source,
    zone::{Candidate, Zone},
};
use crate::model::{Aliases, Attachment, Driver, Label, Local, NetworkId, Origin, Scope, ShortId};

/// Views that are told apart at once; more share no answers until the ground changes. A host has as many as its networks
/// and the combinations of them that its containers are on.
const MAX_VIEWS: usize = 4096;

/// What answers depend on besides the zone and the asker.
#[derive(Clone, Debug)]
pub struct Ground {
    /// What this host knows of itself and its containers.
    pub local: Arc<Local>,
    /// What the operator chose.
    pub settings: Arc<Settings>,
    /// The zone's name as it stands in a question, the root label included.
    pub(super) apex: Arc<[u8]>,
    /// Stands for all of that but the askers: what was encoded holds as long as it is the same.
    pub(super) terrain: Arc<Terrain>,
}

/// The identity of a ground, and the views that were met on it.
#[derive(Default)]
pub(super) struct Terrain {
    views: Mutex<HashMap<Standpoint, u32>>,
}

impl fmt::Debug for Terrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Terrain")
    }
}

impl Ground {
    /// A ground of its own: nothing that was encoded before holds on it.
    pub fn new(local: Arc<Local>, settings: Arc<Settings>) -> Self {
        let apex = settings.apex.name();
        let labels = apex.iter().flat_map(|label| {
            let length = u8::try_from(label.len()).expect("a label is shorter than 64 octets");
            std::iter::once(length).chain(label.iter().copied())
        });
        let apex = labels.chain([0]).collect();
        Self { local, settings, apex, terrain: Arc::default() }
    }

    /// The ground after a change of what this host knows. Askers come and go with every container; as long as nothing
    /// else changes, what was encoded stays good.
    #[must_use]
    pub fn with_local(&self, local: Arc<Local>) -> Self {
        let before = &self.local;
        let same = local.listed == before.listed
            && (local.networks.ptr_eq(&before.networks) || local.networks == before.networks)
            && local.addresses == before.addresses
            && local.proxied == before.proxied
            && local.unproven == before.unproven
            && local.apart == before.apart;
        match same {
            true => Self { local, ..self.clone() },
            false => Self { local, terrain: Arc::default(), ..self.clone() },
        }
    }

    /// The same as a snapshot for the complete rules.
    pub fn snapshot<'a>(&'a self, zone: &'a Zone) -> Snapshot<'a> {
        Snapshot { zone, local: &self.local, settings: &self.settings }
    }
}

/// One asker, prepared for its next questions.
#[derive(Clone, Debug)]
pub struct View {
    /// Who it is,
    pub(super) source: Source,
    /// and where it asks from.
    pub(super) address: IpAddr,
    /// Where its bare names are looked up first.
    pub(super) namespace: Box<[u8]>,
    /// Names of others are asked for on its behalf: the RA bit.
    pub(super) forwards: bool,
    /// Aliases with dots are names for it.
    pub(super) dotted: bool,
    /// Who it is to services which nobody shares a network with.
    pub(super) category: u32,
    /// Who it is to all others; `None`: nobody in particular, so nothing can be kept for it.
    pub(super) index: Option<u32>,
    /// Has addresses in the network around this host, so that no category holds it.
    pub(super) linked: bool,
}

/// What the address rules know of an asker: two with the same standpoint are given the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Standpoint {
    Host,
    Stranger,
    Container {
        networks: Vec<NetworkId>,
        /// Where a network keeps containers apart, each still reaches itself.
        itself: Option<ShortId>,
    },
}

impl View {
    /// A container of this host, or the host: nobody else's packets pass between them and us.
    pub fn is_near(&self) -> bool {
        matches!(self.source, Source::Container(_) | Source::Host)
    }

    /// The view of `source`; `None` for one that is not known yet.
    pub fn of(ground: &Ground, source: &Source, address: IpAddr) -> Option<Self> {
        let Ground { local, settings, terrain, .. } = ground;
        let viewpoint = Viewpoint::new(local, &settings.routed, source);
        let (category, standpoint, linked) = match source {
            Source::Unknown => return None,
            Source::Host => (0, Standpoint::Host, false),
            Source::Peer | Source::Stranger => (1, Standpoint::Stranger, false),
            Source::Container(asker) => {
                let networks = || asker.networks.iter().filter_map(|id| local.networks.get(id));
                let standpoint = Standpoint::Container {
                    networks: asker.networks.clone(),
                    itself: networks().any(|network| !network.icc).then_some(asker.container),
                };
                let linked = networks().any(|network| matches!(network.driver, Driver::Macvlan | Driver::Ipvlan));
                let speaks = viewpoint.speaks();
                let kind = [viewpoint.is_confined(), viewpoint.is_bridged(), speaks.v4, speaks.v6];
                let category = 2 + kind.into_iter().rev().fold(0, |bits, bit| bits * 2 + u32::from(bit));
                (category, standpoint, linked)
            }
        };
        // An empty zone is enough to know whether one may forward.
        let forwards = may_forward(&ground.snapshot(&Zone::default()), source);
        let namespace = source.namespace();
        let is_shared = namespace == Label::default_namespace() || namespace == Label::global();
        Some(Self {
            source: source.clone(),
            address,
            dotted: matches!(source, Source::Container(_)) && !is_shared && settings.aliases == Aliases::All,
            namespace: namespace.as_str().as_bytes().into(),
            forwards,
            category,
            index: terrain.index(standpoint),
            linked,
        })
    }
}

/// Views below this number are categories.
pub(super) const CATEGORIES: u32 = 2 + (1 << 4);

impl Terrain {
    fn index(&self, standpoint: Standpoint) -> Option<u32> {
        // Nothing below the lock can panic halfway.
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(views.len()).ok()? + CATEGORIES;
        match views.get(&standpoint) {
            Some(index) => Some(*index),
            None if views.len() >= MAX_VIEWS => None,
            None => Some(*views.entry(standpoint).or_insert(next)),
        }
    }
}

/// Whether what an asker is given of these instances depends on its category alone: none of them is on this host, and no
/// network of this host that spans hosts has one of them on it.
///
/// The address rules of other hosts' instances then ask for an asker's kind, for whether it may leave its networks, for
/// whether its way out is a bridge, and for the families it leaves with; only for who has an address in the surrounding network do they ask for more
/// ([`View::linked`]). The property test in `tests.rs` would find a rule that asks for anything else.
pub(super) fn are_told_by_category(local: &Local, candidates: &[Candidate]) -> bool {
    candidates.iter().all(|candidate| {
        let spans = |network: &Attachment| network.scope != Scope::Local && local.networks.contains_key(&network.id);
        candidate.home.origin != Origin::Own && !candidate.publication.networks.iter().any(spans)
    })
}
