//! The one-port rule: addresses cannot carry a port number, so those of a service are only given where one and the same
//! number works on all of them. The rules that gave the addresses are in the folder's `reach.rs`.

use std::{cmp::Reverse, collections::BTreeMap, ptr};

use smallvec::SmallVec;

use super::{super::zone::Candidate, Family, Rule, Viewpoint, Way};

/// What addresses of a service stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnePort {
    /// The number, and why it is that one.
    pub choice: Choice,
    /// The ways on which it works, in the order of the members and of both families: a client that takes both uses
    /// one number.
    pub given: Vec<Given>,
}

/// The number that addresses of a service stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `None` for a portless service, and where no number works anywhere.
    pub number: Option<u16>,
    /// What kind of number it is.
    pub basis: Basis,
    /// The container port that `portolan.port` names; only its numbers count.
    pub port: Option<u16>,
    /// The instances name different ones.
    pub disputed: bool,
    /// How many instances answer under the number for this asker, ready or not.
    pub offering: usize,
    /// How many instances there are.
    pub of: usize,
}

/// Where the one number comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// A container port answers under its own number.
    Itself,
    /// No port answers under its own number: it is one that an operator published a port under.
    Published,
    /// No instance has a port, or none that answers under a lasting number.
    #[default]
    Nothing,
}

/// A way of one candidate on which the one number works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The candidate, by its place among the members that were asked about.
    pub member: usize,
    /// Its address there.
    pub way: Way,
}

/// A number under which a container port answers, and the way that leads there. Docker's own choices are none: the next
/// start changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// The number.
    pub number: u16,
    /// The container port.
    pub port: u16,
    /// The address and its rule.
    pub way: Way,
}

/// Few containers have more.
pub(super) type Offers = SmallVec<[Lasting; 4]>;

/// The addresses of a service on which one and the same port number works.
///
/// The number is sought over `all` instances, ready or not, so that neither health nor nearness changes it; `members` are
/// those of them that are to be given, in the same order. Where `portolan.port` is given, only the numbers of that
/// container port count: the one that most instances name, the lowest of several. First come numbers under which a
/// container port is offered as itself; only if there is none, those that operators published one under. Of these the
/// number that most instances offer is taken, the lowest of several. Where none has a port, or none that works, the
/// portless ones are given as they are.
pub fn one_port(view: &Viewpoint<'_>, all: &[Candidate], members: &[&Candidate]) -> OnePort {
    let named = || all.iter().filter_map(|candidate| candidate.offer().port);
    let port = most_frequent(named());
    let counts = |offered: &Lasting| port.is_none_or(|port| offered.port == port);
    let offers = |candidate| -> Offers {
        let both = Family::BOTH.into_iter().flat_map(|family| view.lasting(candidate, family));
        both.filter(counts).collect()
    };
    let offers: Vec<Offers> = all.iter().map(offers).collect();
    let (number, basis, offering) = choose(&offers);
    let mut given = Vec::new();
    let mut places = all.iter().zip(&offers);
    for (member, candidate) in members.iter().enumerate() {
        let Some((_, offers)) = places.find(|(held, _)| ptr::eq(*held, *candidate)) else { break };
        given.extend(Family::BOTH.into_iter().filter_map(|family| {
            let way = match number {
                Some(number) => {
                    let mut offers = offers.iter().filter(|offered| family.holds(offered.way.address));
                    offers.find(|offered| offered.number == number)?.way
                }
                None if candidate.offer().is_portless() => view.way(candidate, family).ok()?,
                None => return None,
            };
            Some(Given { member, way })
        }));
    }
    let choice =
        Choice { number, basis, port, disputed: named().any(|named| Some(named) != port), offering, of: all.len() };
    OnePort { choice, given }
}

/// The number, its kind, and how many instances offer it.
fn choose(offers: &[Offers]) -> (Option<u16>, Basis, usize) {
    let mut votes: BTreeMap<u16, Votes> = BTreeMap::new();
    for offers in offers {
        // Two families, or 53/tcp and 53/udp, under one number are one vote.
        let mut seen: SmallVec<[u16; 4]> = SmallVec::new();
        for offered in offers {
            let votes = votes.entry(offered.number).or_default();
            votes.as_itself |= offered.is_itself();
            if !seen.contains(&offered.number) {
                seen.push(offered.number);
                votes.count += 1;
            }
        }
    }
    let most = |as_itself: bool| {
        let meant = votes.iter().filter(|(_, votes)| votes.as_itself == as_itself);
        meant.max_by_key(|(number, votes)| (votes.count, Reverse(**number)))
    };
    let chosen = |(number, votes): (&u16, &Votes), basis| (Some(*number), basis, votes.count);
    most(true)
        .map(|found| chosen(found, Basis::Itself))
        .or_else(|| most(false).map(|found| chosen(found, Basis::Published)))
        .unwrap_or_default()
}

#[derive(Default)]
struct Votes {
    count: usize,
    as_itself: bool,
}

impl Lasting {
    fn is_itself(&self) -> bool {
        self.number == self.port
    }
}

impl Viewpoint<'_> {
    /// Every lasting number under which a candidate answers this asker in one family, with the address of each: by rules 1 to
    /// 3 its ports themselves, by rule 4 the numbers that operators published them under.
    pub fn lasting(&self, candidate: &Candidate, family: Family) -> Offers {
        let Ok(way) = self.way(candidate, family) else { return Offers::new() };
        let offer = candidate.offer();
        if way.rule == Rule::Published {
            let bound =
                offer.ports.iter().flat_map(|port| port.published.iter().map(move |published| (port, published)));
            let chosen = bound.filter(|(_, published)| published.chosen);
            let reached = chosen.filter_map(|(port, published)| {
                let address = self.published_address(&candidate.home, port.proto, published, family).ok()?;
                let way = Way { address, rule: Rule::Published };
                Some(Lasting { number: published.port, port: port.port, way })
            });
            return reached.collect();
        }
        // A label may name a port that the image does not expose.
        let ports = offer.port.into_iter().chain(offer.ports.iter().map(|port| port.port));
        ports.map(|port| Lasting { number: port, port, way }).collect()
    }
}

/// The lower of two that are equally frequent.
pub(super) fn most_frequent(numbers: impl Iterator<Item = u16>) -> Option<u16> {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for number in numbers {
        *counts.entry(number).or_default() += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(number, _)| number)
}
