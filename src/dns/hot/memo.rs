//! What was encoded of a service, and for whom.

use std::{fmt, net::IpAddr, ptr, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};
use smallvec::SmallVec;

use super::{
    super::{
        answer::{self, Members},
        reach::{Family, Viewpoint, one_port},
        zone::Candidate,
    },
    Kind,
    trail::Trail,
    view::{CATEGORIES, Ground, Terrain, View, are_told_by_category},
};
use crate::model::ShortId;

/// Answers kept of one service: three kinds for 256 views. Beyond that it is begun anew.
const MAX_KEPT: usize = 3 * 256;

/// For whom, and for which kind of question, something was encoded. `None`: for nobody else, so it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    key: Option<u32>,
    by_category: bool,
}

impl Slot {
    pub(super) fn of(candidates: &[Candidate], ground: &Ground, view: &View, kind: Kind) -> Self {
        let by_category = are_told_by_category(&ground.local, candidates);
        Self { key: key(by_category, view, kind), by_category }
    }
}

#[inline]
fn key(by_category: bool, view: &View, kind: Kind) -> Option<u32> {
    debug_assert!(view.category < CATEGORIES);
    let who = if by_category && !view.linked { Some(view.category) } else { view.index };
    who.map(|who| who * 4 + kind as u32)
}

/// What was encoded so far, for the ground it was encoded on. It begins empty; readers never wait, and of two who encode
/// the same at once both are right.
#[derive(Default)]
pub(in crate::dns) struct Memo(ArcSwapOption<Page>);

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

/// One state of a memo.
struct Page {
    terrain: Arc<Terrain>,
    /// See [`are_told_by_category`].
    by_category: bool,
    /// In the order of keys.
    kept: Kept,
}

/// One or two kinds for one category are the most that is kept of most services.
type Kept = SmallVec<[(u32, Arc<Encoded>); 2]>;

/// A memo being read.
pub(super) struct Reading(Guard<Option<Arc<Page>>>);

impl Memo {
    #[inline]
    pub(super) fn read(&self) -> Reading {
        Reading(self.0.load())
    }

    pub(super) fn keep(&self, ground: &Ground, slot: Slot, encoded: Encoded) -> Arc<Encoded> {
        let encoded = Arc::new(encoded);
        let Some(key) = slot.key else { return encoded };
        self.0.rcu(|page| {
            let held = page.as_ref().filter(|page| Arc::ptr_eq(&page.terrain, &ground.terrain));
            let held = held.map_or(&[][..], |page| &page.kept[..]);
            let held = if held.len() < MAX_KEPT { held } else { &[] };
            // One encoding for all who are given the same.
            let same = held.iter().find(|(_, known)| **known == *encoded).map_or(&encoded, |(_, known)| known);
            let place = held.partition_point(|(other, _)| *other < key);
            let rest = &held[place..];
            let rest = if rest.first().is_some_and(|(other, _)| *other == key) { &rest[1..] } else { rest };
            let kept = held[..place].iter().cloned().chain([(key, Arc::clone(same))]).chain(rest.iter().cloned());
            let mut kept: Kept = kept.collect();
            kept.shrink_to_fit();
            let terrain = Arc::clone(&ground.terrain);
            Some(Arc::new(Page { terrain, by_category: slot.by_category, kept }))
        });
        encoded
    }
}

#[cfg(test)]
impl Memo {
    /// How many answers are kept for a ground.
    pub(super) fn kept(&self, ground: &Ground) -> usize {
        let page = self.0.load();
        page.as_ref().filter(|page| Arc::ptr_eq(&page.terrain, &ground.terrain)).map_or(0, |page| page.kept.len())
    }
}

impl Reading {
    #[inline]
    pub(super) fn find(&self, ground: &Ground, view: &View, kind: Kind, trail: &mut Trail) -> Option<&Encoded> {
        let page = self.0.as_ref()?;
        trail.pass(Arc::as_ptr(page).cast());
        if !Arc::ptr_eq(&page.terrain, &ground.terrain) {
            return None;
        }
        let key = key(page.by_category, view, kind)?;
        // Most services are asked for one or two kinds, by one category.
        let place = match page.kept.len() {
            0..=8 => page.kept.iter().position(|(other, _)| *other == key)?,
            _ => page.kept.binary_search_by_key(&key, |(other, _)| *other).ok()?,
        };
        let (_, encoded) = &page.kept[place];
        trail.pass((&raw const page.kept[place]).cast::<u8>());
        trail.pass(Arc::as_ptr(encoded).cast());
        trail.pass(encoded.octets());
        Some(encoded)
    }
}

/// What an answer holds, without what differs from question to question.
#[derive(Debug, PartialEq)]
pub(super) enum Encoded {
    /// A or AAAA records: at least one address, in the order of addresses.
    Addresses(Addresses),
    /// SRV records with the addresses of their targets: at least one record.
    Targets(Targets),
    /// None of this kind. `any`: but of the other family.
    NoData { any: bool },
    /// The complete path decides.
    Unknown,
}

/// Addresses of one family.
#[derive(Debug, PartialEq)]
pub(super) struct Addresses {
    /// One after the other.
    octets: SmallVec<[u8; 16]>,
    /// Of each address: 4 or 16.
    pub(super) size: usize,
    /// One per address, unless all are equal.
    weights: Option<Box<[u32]>>,
}

impl Addresses {
    pub(super) fn len(&self) -> usize {
        self.octets.len() / self.size
    }

    pub(super) fn weights(&self) -> Option<&[u32]> {
        self.weights.as_deref()
    }

    #[inline]
    pub(super) fn get(&self, place: usize) -> &[u8] {
        &self.octets[place * self.size..][..self.size]
    }
}

/// The instances of a service as SRV records carry them.
#[derive(Debug, PartialEq)]
pub(super) struct Targets {
    pub(super) members: Box<[Target]>,
    pub(super) numbers: Box<[u16]>,
}

impl Targets {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The port numbers of one of them; possibly none.
    pub(super) fn numbers(&self, target: &Target) -> &[u16] {
        &self.numbers[usize::from(target.first)..][..usize::from(target.ports)]
    }
}

/// One instance.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) container: ShortId,
    pub(super) priority: u16,
    pub(super) weight: u16,
    /// Where its numbers begin.
    first: u16,
    /// How many there are.
    ports: u8,
    pub(super) v4: Option<[u8; 4]>,
    /// Rarely there, and four times as long.
    pub(super) v6: Option<Box<[u8; 16]>>,
}

/// Addresses of which each asker's are chosen here: of more the complete path chooses, which is the time of some 10
/// microseconds.
const MAX_ADDRESSES: usize = 512;

/// Instances whose SRV records may still fit into a datagram: more are left to the complete path.
const MAX_TARGETS: usize = 16;

impl Encoded {
    /// Where what it holds begins.
    #[inline]
    fn octets(&self) -> *const u8 {
        match self {
            Self::Addresses(addresses) => addresses.octets.as_ptr(),
            Self::Targets(targets) => targets.members.as_ptr().cast(),
            Self::NoData { .. } | Self::Unknown => ptr::null(),
        }
    }

    pub(super) fn of(candidates: &[Candidate], ground: &Ground, view: &View, kind: Kind) -> Self {
        let settings = &*ground.settings;
        let viewpoint = Viewpoint::new(&ground.local, &settings.routed, &view.source);
        let chosen = Members::Ready.choose(candidates, settings);
        if chosen.members.iter().any(|candidate| answer::named(candidate).is_some()) {
            return Self::Unknown;
        }
        let family = match kind {
            Kind::A => Family::V4,
            Kind::Aaaa => Family::V6,
            Kind::Srv => return Self::targets(&viewpoint, settings, &chosen),
        };
        let one = one_port(&viewpoint, candidates, &chosen.members);
        let wanted = answer::near(&viewpoint, settings, &chosen, &one.given, family);
        let weighted = wanted.map(|given| answer::weighted(chosen.members[given.member], given.way.address));
        let addresses = answer::distinct(weighted.collect());
        if addresses.is_empty() {
            return Self::NoData { any: !one.given.is_empty() };
        }
        if addresses.len() > MAX_ADDRESSES {
            return Self::Unknown;
        }
        let octets = addresses.iter().flat_map(|(address, _)| answer::octets(*address));
        let equal = addresses.windows(2).all(|pair| pair[0].1 == pair[1].1);
        Self::Addresses(Addresses {
            octets: octets.collect(),
            size: if kind == Kind::A { 4 } else { 16 },
            weights: (!equal).then(|| addresses.iter().map(|(_, weight)| *weight).collect()),
        })
    }

    fn targets(
        viewpoint: &Viewpoint<'_>,
        settings: &answer::Settings,
        chosen: &super::super::ready::Chosen<'_>,
    ) -> Self {
        if chosen.members.len() > MAX_TARGETS {
            return Self::Unknown;
        }
        let any_port = |_: &crate::model::Port| true;
        let (mut members, mut numbers) = (Vec::<Target>::new(), Vec::new());
        for (candidate, priority) in answer::priorities(viewpoint, settings, chosen, &any_port) {
            let container = candidate.publication.container;
            // Two offers of one container are one target, whose addresses stand in the answer twice.
            if members.iter().any(|other| other.container == container) {
                return Self::Unknown;
            }
            let ways = viewpoint.ways(candidate);
            let first = numbers.len();
            for (_, number) in answer::numbers(viewpoint, candidate, ways, &any_port) {
                if !numbers[first..].contains(&number) {
                    numbers.push(number);
                }
            }
            let (Ok(ports), Ok(first)) = (u8::try_from(numbers.len() - first), u16::try_from(first)) else {
                return Self::Unknown;
            };
            members.push(Target {
                container,
                priority,
                weight: candidate.offer().weight,
                first,
                ports,
                v4: ways.v4.and_then(|way| if let IpAddr::V4(ip) = way.address { Some(ip.octets()) } else { None }),
                v6: ways
                    .v6
                    .and_then(|way| if let IpAddr::V6(ip) = way.address { Some(Box::new(ip.octets())) } else { None }),
            });
        }
        if numbers.is_empty() {
            return Self::NoData { any: false };
        }
        Self::Targets(Targets { members: members.into(), numbers: numbers.into() })
    }
}
