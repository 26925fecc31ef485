//! Why an instance is, or is not, in the answer that an asker gets: the same stages as in `answer.rs`, kept apart.
//!
//! No rule is written down here. Each stage is the very function that answers use (`name::classify`, `answer::find`,
//! `ready::choose`, `reach::one_port`, `answer::near`, …); this file only notes, for every instance of the service, at
//! which stage it was left out. A property test holds explanations against answers. `words.rs` says it to people.

use std::{collections::BTreeSet, net::IpAddr};

use hickory_proto::rr::Name;

use super::{
    answer::{Members, Settings, Snapshot, hosts, instances, near, numbers, priorities},
    find::{Found, Missing, dotted, find, settle},
    name::{self, Loose, Named, Subject},
    reach::{Choice, Family, Obstacle, Viewpoint, Way, one_port},
    ready::{self, Chosen},
    source::Source,
    zone::Candidate,
};
use crate::model::{Label, Port, Standing, WhenNoneReady};

pub mod words;

/// A name as one asker sees it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// How the name was read, for people.
    pub reading: String,
    /// The namespaces that were looked into, in order, and whether the service is there. The first that has it wins.
    pub searched: Vec<(Label, bool)>,
    /// Why nothing was found.
    pub missing: Option<Missing>,
    /// What there is to say of the service; `None`: there is none of that name.
    pub service: Option<Service>,
    /// Every instance of the service, in or out.
    pub candidates: Vec<Judged>,
}

/// What holds for a service as a whole.
#[derive(Clone, Debug)]
pub struct Service {
    /// What those are that are given; `None`: nobody is, or readiness does not count for this name.
    pub standing: Option<Standing>,
    /// Who is given while nobody is ready.
    pub policy: WhenNoneReady,
    /// The one number that addresses stand for, and why; `None` for a name that needs none.
    pub number: Option<Choice>,
    /// Different addresses that might be given, per family: an answer holds as many as there is room for.
    pub addresses: [usize; 2],
}

/// One instance and what becomes of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The instance.
    pub candidate: Candidate,
    /// Per family: A, AAAA.
    pub families: [Seen; 2],
    /// The ports in SRV answers with their numbers, and the priority; empty: SRV does not hold it.
    pub targets: Vec<(Port, u16)>,
    /// The priority there.
    pub priority: u16,
}

impl Judged {
    /// A or AAAA hold it, or lead to it by its name.
    pub fn is_in(&self) -> bool {
        self.families.iter().any(|seen| seen.out.is_none())
    }
}

/// One instance in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How the asker reaches it.
    pub way: Option<Way>,
    /// Why it is left out all the same; `None`: it is given.
    pub out: Option<Out>,
}

/// Why an instance is left out of A or AAAA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// It is not what the question is about.
    Other,
    /// Addresses do not answer that kind of name: it is one for SRV.
    SrvOnly,
    /// It is of this standing, and others are better.
    Unready(Standing),
    /// The asker does not reach it.
    Unreached(Obstacle),
    /// The one number does not work there; of the container port that counts (`None`: of all of them) these do.
    Number {
        /// `portolan.port`
        port: Option<u16>,
        /// In order.
        here: BTreeSet<u16>,
    },
    /// Docker published it under other numbers in this family than in IPv4.
    Differs,
    /// Enough others are nearer.
    Far,
    /// An external service stands in its place.
    Replaced,
}

/// Explains what `source` gets for a whole name.
pub fn explain(snapshot: &Snapshot<'_>, source: &Source, name: &Name) -> Explanation {
    let text = name::fold(name);
    let Snapshot { zone, settings, .. } = snapshot;
    let subject = settle(zone, source, settings.aliases, name::classify(&text, &settings.apex));
    let mut explanation = Explanation {
        reading: words::reading(&subject, &text, &settings.apex),
        searched: Vec::new(),
        missing: None,
        service: None,
        candidates: Vec::new(),
    };
    let named = match subject {
        Subject::Bare(service) => Named { service, namespace: None },
        Subject::Loose(loose) => loose.named(),
        Subject::Service(named)
        | Subject::All(named)
        | Subject::Instance(_, named)
        | Subject::Port(_, _, named)
        | Subject::Transport(_, named)
        | Subject::On(named, _) => named,
        Subject::Outside => {
            if let Some(found) = dotted(zone, source, &text, settings.aliases) {
                explanation.reading = words::shadowing(&found);
                explanation.judge(snapshot, source, &subject, &found);
            }
            return explanation;
        }
        _ => return explanation,
    };
    explanation.searched = match named.namespace {
        Some(namespace) => Label::parse(namespace).into_iter().collect(),
        None => vec![source.namespace(), Label::global()],
    }
    .into_iter()
    .map(|label| {
        let there = zone.service(label.as_str(), named.service).is_some();
        (label, there)
    })
    .collect();
    match find(zone, source, named, settings.aliases) {
        Ok(found) => {
            if found.by_alias {
                explanation.reading = words::by_alias(&explanation.reading, &found);
            }
            explanation.judge(snapshot, source, &subject, &found);
            let replaced = zone.replaced(found.namespace.as_str(), named.service);
            explanation.candidates.extend(replaced.iter().map(|candidate| Judged {
                candidate: candidate.clone(),
                families: [(); 2].map(|()| Seen { way: None, out: Some(Out::Replaced) }),
                targets: Vec::new(),
                priority: 0,
            }));
        }
        Err(missing) => {
            explanation.reading = words::missing(&explanation.reading, missing, &source.namespace());
            explanation.missing = Some(missing);
        }
    }
    explanation
}

impl Explanation {
    fn judge(&mut self, snapshot: &Snapshot<'_>, source: &Source, subject: &Subject<'_>, found: &Found<'_>) {
        let view = Viewpoint::new(snapshot.local, &snapshot.settings.routed, source);
        let there: Vec<Candidate>;
        let all = match subject {
            Subject::On(_, host) => {
                let home = hosts::find(snapshot, host);
                let runs_there = |candidate: &&Candidate| home.is_some_and(|home| home.origin == candidate.home.origin);
                there = found.candidates.iter().filter(runs_there).cloned().collect();
                &there
            }
            _ => &*found.candidates,
        };
        let stages = Stages { settings: snapshot.settings, view: &view, all };
        let (service, candidates) = match *subject {
            Subject::All(_) | Subject::Loose(Loose::All(_)) => stages.service(Members::All),
            Subject::Instance(label, _) => stages.instance(label),
            Subject::Port(port, proto, _) | Subject::Loose(Loose::Port(port, proto, _)) => {
                let meant = |offered: &Port| offered.is_called(port, proto);
                stages.port(&meant)
            }
            Subject::Transport(proto, _) | Subject::Loose(Loose::Transport(proto, _)) => {
                stages.port(&|offered| offered.proto == proto && offered.name.is_some())
            }
            _ => stages.service(Members::Ready),
        };
        self.service = Some(service);
        self.candidates = candidates;
    }
}

/// What is needed at every stage.
struct Stages<'a> {
    settings: &'a Settings,
    view: &'a Viewpoint<'a>,
    all: &'a [Candidate],
}

impl<'a> Stages<'a> {
    fn service(&self, members: Members) -> (Service, Vec<Judged>) {
        let chosen = members.choose(self.all, self.settings);
        let one = one_port(self.view, self.all, &chosen.members);
        let near: [Vec<usize>; 2] = Family::BOTH.map(|family| {
            near(self.view, self.settings, &chosen, &one.given, family).map(|given| given.member).collect()
        });
        let targets = priorities(self.view, self.settings, &chosen, &|_| true);
        let seen = |candidate: &Candidate, place: Option<usize>, family: Family| {
            let reached = self.view.way(candidate, family);
            let is_it = |place| one.given.iter().find(|given| given.member == place && family.holds(given.way.address));
            // The way of the one number may be another than that to the instance alone.
            let given = place.and_then(is_it).map(|given| given.way);
            let out = match (reached, place) {
                (_, None) => Some(Out::Unready(candidate.publication.standing())),
                // The other name is given in place of an address.
                (Err(Obstacle::Named), _) => None,
                (Err(obstacle), _) => Some(Out::Unreached(obstacle)),
                (Ok(_), Some(_)) if given.is_none() => {
                    let all = self.view.lasting(candidate, family).into_iter();
                    let counting = all.filter(|held| one.choice.port.is_none_or(|port| port == held.port));
                    Some(Out::Number { port: one.choice.port, here: counting.map(|held| held.number).collect() })
                }
                (Ok(_), Some(place)) => (!near[family as usize].contains(&place)).then_some(Out::Far),
            };
            Seen { way: given.or(reached.ok()), out }
        };
        let candidates = self.judge(&chosen, &targets, &|_| true, &seen);
        (self.about(&chosen, Some(one.choice), &candidates), candidates)
    }

    fn instance(&self, label: &str) -> (Service, Vec<Judged>) {
        let chosen = Chosen { members: instances(self.all, label), standing: None };
        let targets = priorities(self.view, self.settings, &chosen, &|_| true);
        let seen = |candidate: &Candidate, place: Option<usize>, family: Family| {
            let reached = self.view.way(candidate, family);
            let given = self.view.ways(candidate).iter().any(|way| family.holds(way.address));
            let out = match reached {
                _ if place.is_none() => Some(Out::Other),
                Err(Obstacle::Named) => None,
                Err(obstacle) => Some(Out::Unreached(obstacle)),
                Ok(_) => (!given).then_some(Out::Differs),
            };
            Seen { way: reached.ok(), out }
        };
        let candidates = self.judge(&chosen, &targets, &|_| true, &seen);
        (self.about(&chosen, None, &candidates), candidates)
    }

    fn port(&self, is_meant: &dyn Fn(&Port) -> bool) -> (Service, Vec<Judged>) {
        let chosen = Members::Ready.choose(self.all, self.settings);
        let targets = priorities(self.view, self.settings, &chosen, is_meant);
        let seen = |candidate: &Candidate, place: Option<usize>, family: Family| {
            let reached = self.view.way(candidate, family);
            let out = match reached {
                _ if !candidate.offer().ports.iter().any(is_meant) => Out::Other,
                _ if place.is_none() => Out::Unready(candidate.publication.standing()),
                Err(obstacle) => Out::Unreached(obstacle),
                Ok(_) => Out::SrvOnly,
            };
            Seen { way: reached.ok(), out: Some(out) }
        };
        let candidates = self.judge(&chosen, &targets, is_meant, &seen);
        (self.about(&chosen, None, &candidates), candidates)
    }

    /// Every instance, with what was found out about the chosen ones. These are in the order of all.
    fn judge(
        &self,
        chosen: &Chosen<'a>,
        targets: &[(&'a Candidate, u16)],
        is_meant: &dyn Fn(&Port) -> bool,
        seen: &dyn Fn(&Candidate, Option<usize>, Family) -> Seen,
    ) -> Vec<Judged> {
        let mut members = chosen.members.iter().enumerate().peekable();
        let mut targets = targets.iter().peekable();
        let judge = |candidate: &'a Candidate| {
            let place = members.next_if(|(_, member)| std::ptr::eq(**member, candidate)).map(|(place, _)| place);
            let target = targets.next_if(|(target, _)| std::ptr::eq(*target, candidate));
            let ways = self.view.ways(candidate);
            Judged {
                candidate: candidate.clone(),
                families: Family::BOTH.map(|family| seen(candidate, place, family)),
                targets: target.map_or_else(Vec::new, |_| {
                    let given: Vec<(usize, u16)> = numbers(self.view, candidate, ways, is_meant)
                        .filter_map(|(port, number)| Some((place_of(candidate, port)?, number)))
                        .collect();
                    given.into_iter().map(|(place, number)| (candidate.offer().ports[place].clone(), number)).collect()
                }),
                priority: target.map_or(0, |(_, priority)| *priority),
            }
        };
        self.all.iter().map(judge).collect()
    }

    fn about(&self, chosen: &Chosen<'_>, number: Option<Choice>, candidates: &[Judged]) -> Service {
        let given = |family: Family| {
            let seen = candidates.iter().map(|judged| &judged.families[family as usize]);
            let given = seen.filter(|seen| seen.out.is_none()).filter_map(|seen| seen.way);
            given.map(|way| way.address).collect::<BTreeSet<IpAddr>>().len()
        };
        Service {
            standing: chosen.standing,
            policy: ready::policy(self.all, self.settings.when_none_ready),
            number,
            addresses: Family::BOTH.map(given),
        }
    }
}

fn place_of(candidate: &Candidate, port: &Port) -> Option<usize> {
    candidate.offer().ports.iter().position(|own| std::ptr::eq(own, port))
}

#[cfg(test)]
mod tests;
