//! The one-port rule: addresses cannot carry a port number, so those of a service are only given where one and the same
//! number works on all of them. The rules that gave the addresses are in the folder's `reach.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::zone::Candidate, Family, Rule, Viewpoint, Way};

/// What addresses of a service stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnePort {
    /// The number that works on all of them; `None` for a portless service, and where no number works anywhere.
    pub number: Option<u16>,
    /// Whose number that is.
    pub basis: Basis,
    /// The ways on which it works, in the order of the candidates and of both families: a client that takes both uses
    /// one number.
    pub given: Vec<Given>,
}

/// Where the one number comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// It is the service's port, and somebody offers it under that number.
    Service,
    /// Nobody offers the service's port under its own number: most operators published it under this one.
    Published,
    /// No candidate has a port, or none that works.
    #[default]
    Nothing,
}

/// A way of one candidate on which the one number works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The candidate, by its place among those that were asked about.
    pub member: usize,
    /// Its address there.
    pub way: Way,
}

/// The addresses of a service on which one and the same port number works.
///
/// The *service's port* is the one most candidates name (`portolan.port`, else the lowest), the lower of two. If
/// anyone offers it under that number, the number is that. Else it is the number chosen by operators for it that
/// most candidates share, the lower of two. Numbers that Docker chose never count. Where no candidate has a port
/// at all, or none that works, the portless ones are given as they are.
pub fn one_port(view: &Viewpoint<'_>, candidates: &[&Candidate]) -> OnePort {
    let reach = |candidate: &&Candidate| Family::BOTH.map(|family| view.way(candidate, family).ok());
    let ways: Vec<[Option<Way>; 2]> = candidates.iter().map(reach).collect();
    let reached = || {
        let all = candidates.iter().zip(&ways).enumerate();
        all.flat_map(|(member, (c, ways))| ways.iter().flatten().map(move |way| (*c, Given { member, way: *way })))
    };
    let main = most_frequent(candidates.iter().filter_map(|candidate| candidate.offer().main_port()));
    let (number, basis) = match main {
        Some(main) if reached().any(|(candidate, given)| works(view, candidate, given.way, main)) => {
            (Some(main), Basis::Service)
        }
        Some(_) => {
            let shared = most_frequent(candidates.iter().zip(&ways).flat_map(|(candidate, ways)| {
                // Two families, or 53/tcp and 53/udp, under one number are one vote.
                let votes: BTreeSet<u16> =
                    ways.iter().flatten().flat_map(|way| main_numbers(view, candidate, *way)).collect();
                votes
            }));
            (shared, if shared.is_some() { Basis::Published } else { Basis::Nothing })
        }
        None => (None, Basis::Nothing),
    };
    let holds = |candidate: &Candidate, way| match number {
        Some(number) => {
            works(view, candidate, way, number) || main_numbers(view, candidate, way).any(|held| held == number)
        }
        None => candidate.offer().main_port().is_none(),
    };
    let given = reached().filter(|(candidate, given)| holds(candidate, given.way)).map(|(_, given)| given).collect();
    OnePort { number, basis, given }
}

/// Whether the container's port `number` answers under its own number, lastingly.
fn works(view: &Viewpoint<'_>, candidate: &Candidate, way: Way, number: u16) -> bool {
    let offer = candidate.offer();
    // A label may name a port that the image does not expose.
    way.rule != Rule::Published && offer.main_port() == Some(number)
        || lasting(view, candidate, way, number).any(|held| held == number)
}

/// The lasting numbers of a candidate's own main port.
pub(super) fn main_numbers<'s>(
    view: &'s Viewpoint<'_>,
    candidate: &'s Candidate,
    way: Way,
) -> impl Iterator<Item = u16> + 's {
    let main = candidate.offer().main_port();
    let unexposed = main.filter(|_| way.rule != Rule::Published);
    unexposed.into_iter().chain(main.into_iter().flat_map(move |main| lasting(view, candidate, way, main)))
}

/// The numbers under which a container port answers, without those that Docker chose.
fn lasting<'s>(
    view: &'s Viewpoint<'_>,
    candidate: &'s Candidate,
    way: Way,
    port: u16,
) -> impl Iterator<Item = u16> + 's {
    let ports = candidate.offer().ports.iter().filter(move |offered| offered.port == port);
    let numbers = ports.flat_map(move |offered| view.numbers(candidate, way, offered));
    numbers.filter(|held| held.lasting).map(|held| held.number)
}

/// The lower of two that are equally frequent.
pub(super) fn most_frequent(numbers: impl Iterator<Item = u16>) -> Option<u16> {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for number in numbers {
        *counts.entry(number).or_default() += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(number, _)| number)
}
