//! `portolan explain`: questions of the HTTP API, answered from the snapshots of the moment.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use hickory_proto::rr::{Name, RecordType};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::watch;

use super::resolve::{self, Neighbours};
use crate::{
    api::{
        Explain, ExplainRequest, ResolveError,
        explain::{
            ExplainReply, ExplainedAnswer, ExplainedCandidate, ExplainedContainer, ExplainedFamily, ExplainedName,
            ExplainedPort, ExplainedReason, ExplainedView, Searched, SeenBy,
        },
    },
    dns::{
        answer::{Answer, Room, Snapshot, answer},
        explain::{Explanation, Judged, Out, Seen, explain, words},
        forward::{self, Forwarder},
        name,
        reach::Obstacle,
        server::Shared,
        source::Source,
        zone::{Service, Zone},
    },
    model::{
        Asker, Driver, GWBRIDGE, HostId, Label, Local, Network, NetworkId, Origin, Resident, Residents, ShortId,
        Standing, external_host,
    },
};

/// Most containers in one reply: a short prefix of an id may be that of many.
const MAX_CONTAINERS: usize = 16;

/// What another host is called; it sees what a stranger sees.
const ANOTHER_HOST: &str = "another host";

/// What explanations are made from.
pub(super) struct Sources {
    pub(super) host: HostId,
    pub(super) shared: Arc<Shared>,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) residents: watch::Receiver<Arc<Residents>>,
    /// The file that dockerd reads, too.
    pub(super) resolv_conf: PathBuf,
}

/// A function that explains.
pub(super) fn explainer(sources: Sources) -> Explain {
    let resolved = forward::Options::default().resolved;
    Arc::new(move |request| {
        let Sources { host, shared, forwarder, residents, resolv_conf } = &sources;
        let (zone, local, settings) = (shared.zone(), shared.local(), shared.settings());
        let residents = Arc::clone(&residents.borrow());
        let explainer = Explainer {
            host,
            snapshot: Snapshot { zone: &zone, local: &local, settings: &settings },
            neighbours: Neighbours { access: &shared.access(), forwarder },
            residents: &residents,
            // Without the file there is nothing that a container could lose.
            search: &forward::search_list(resolv_conf, &resolved).unwrap_or_default(),
        };
        explainer.reply(&request, &mut rand::rng())
    })
}

struct Explainer<'a> {
    host: &'a HostId,
    snapshot: Snapshot<'a>,
    neighbours: Neighbours<'a>,
    residents: &'a Residents,
    /// This host's search list.
    search: &'a [String],
}

impl Explainer<'_> {
    fn reply(&self, request: &ExplainRequest, rng: &mut impl Rng) -> Result<ExplainReply, ResolveError> {
        let source = resolve::find(self.snapshot.local, self.neighbours.access, request.asker.as_ref())?;
        let name = request.name.as_ref().map(|text| {
            let name = resolve::absolute(text, self.snapshot.settings.apex.as_str());
            // What is no DNS name may still be a container.
            name.map(|name| self.name(&name, &source, rng))
        });
        let name = match (name, &request.container) {
            (Some(Err(_)), Some(_)) => None,
            (name, _) => name.transpose()?,
        };
        let asked_as = request.asker.is_some().then_some(&source);
        let containers = request.container.as_ref().map(|text| self.containers(text, asked_as));
        Ok(ExplainReply { name, containers })
    }

    fn name(&self, name: &Name, source: &Source, rng: &mut impl Rng) -> ExplainedName {
        let explanation = explain(&self.snapshot, source, name);
        // Another host's containers of that namespace ask for the same service; a stranger is of none.
        let found = explanation.searched.iter().find(|(_, found)| *found).map(|(namespace, _)| namespace.clone());
        let elsewhere = match (found, explanation.searched.len()) {
            (Some(namespace), 2) => self.within(name, &namespace).unwrap_or_else(|| name.clone()),
            _ => name.clone(),
        };
        let mut views = vec![self.view(words::asker(source), name, source, explanation, rng)];
        if !matches!(source, Source::Peer | Source::Stranger) {
            let seen = explain(&self.snapshot, &Source::Peer, &elsewhere);
            views.push(self.view(ANOTHER_HOST.to_owned(), &elsewhere, &Source::Peer, seen, rng));
        }
        ExplainedName { name: name.to_string(), views }
    }

    /// A name without a namespace, with it.
    fn within(&self, name: &Name, namespace: &Label) -> Option<Name> {
        let apex = self.snapshot.settings.apex.as_str();
        let text = name::fold(name);
        let relative = text.strip_suffix(apex).map_or(text.as_str(), |rest| rest.trim_end_matches('.'));
        Name::from_ascii(format!("{relative}.{namespace}.{apex}.")).ok()
    }

    fn view(
        &self,
        asker: String,
        name: &Name,
        source: &Source,
        explanation: Explanation,
        rng: &mut impl Rng,
    ) -> ExplainedView {
        let is_reverse = name::fold(name).ends_with(".arpa");
        let kinds: &[RecordType] = match is_reverse {
            true => &[RecordType::PTR],
            false => &[RecordType::A, RecordType::AAAA, RecordType::SRV],
        };
        let shown = |kind: &RecordType, rng: &mut _| {
            let asked = resolve::ask(&self.snapshot, &self.neighbours, source, name, *kind, rng);
            let (rcode, answers) = asked.map_or_else(
                |error| (error.to_string(), Vec::new()),
                |asked| {
                    let elsewhere = asked.elsewhere.map(|name| format!("those of {name}, asked of the upstreams"));
                    let data = asked.answers.into_iter().map(|record| record.data).chain(elsewhere);
                    (asked.rcode, data.collect())
                },
            );
            ExplainedAnswer { kind: kind.to_string(), rcode, data: answers }
        };
        let searched =
            |(namespace, found): &(Label, bool)| Searched { namespace: namespace.to_string(), found: *found };
        let service = explanation.service.as_ref();
        let choice = service.and_then(|service| service.number);
        let held = service.and_then(|service| words::held::held(name, service.addresses));
        let judged = explanation.candidates.iter();
        let text = name::fold(name);
        let is_known = explanation.searched.iter().any(|(_, found)| *found);
        // In which order it is given does not matter here.
        let decided = answer(
            &self.snapshot,
            source,
            name,
            kinds[0],
            Room::whole(resolve::ADDRESS),
            &mut SmallRng::seed_from_u64(0),
        );
        let leaves = matches!(decided, Answer::Forward | Answer::Refused);
        let course = || self.neighbours.forwarder.course(name, kinds[0]);
        ExplainedView {
            course: words::others::course(&self.snapshot, source, &text, is_known, leaves, course),
            asker,
            name: name.to_string(),
            searched: explanation.searched.iter().map(searched).collect(),
            advice: match source {
                Source::Container(asker) => neighbours(self.snapshot.local, asker),
                Source::Host | Source::Peer | Source::Stranger | Source::Unknown => None,
            },
            standing: service.and_then(|service| service.standing).map(|standing| standing.as_str().to_owned()),
            when_none_ready: service.map(|service| service.policy.to_string()),
            number: choice.as_ref().map(words::number),
            sampled: held.is_some(),
            held,
            answers: kinds.iter().map(|kind| shown(kind, rng)).collect(),
            candidates: judged.map(|judged| self.candidate(judged, choice.and_then(|choice| choice.number))).collect(),
            reading: explanation.reading,
        }
    }

    fn candidate(&self, judged: &Judged, number: Option<u16>) -> ExplainedCandidate {
        let (publication, offer) = (&judged.candidate.publication, judged.candidate.offer());
        let family = |seen: &Seen| {
            // What is given without an address leads to one by its name.
            let named = || seen.out.is_none().then(|| words::obstacle(Obstacle::Named));
            let rule = seen.way.map(|way| words::rule(way, &judged.candidate)).or_else(named);
            let out = seen.out.as_ref().map(|out| words::out(out, number));
            // Whoever is not ready is not given, whatever the rules say: first things first.
            let reasons =
                rule.filter(|_| !matches!(seen.out, Some(Out::Unready(_) | Out::Other))).into_iter().chain(out);
            ExplainedFamily {
                address: seen.way.map(|way| way.address.to_string()),
                given: seen.out.is_none(),
                reasons: reasons.map(reason).collect(),
            }
        };
        let verdict = match (judged.is_in(), judged.targets.is_empty()) {
            (true, _) => "in",
            (false, false) => "srv",
            (false, true) => "out",
        };
        let host = match &judged.candidate.home.origin {
            Origin::Own => self.host,
            Origin::Registry(host) => host,
            Origin::External => external_host(),
        };
        ExplainedCandidate {
            host: host.to_string(),
            container: publication.container.to_string(),
            name: publication.name.to_string(),
            service: offer.service.to_string(),
            namespace: offer.namespace.to_string(),
            phase: word(&publication.phase),
            health: word(&publication.health),
            standing: Standing::as_str(publication.standing()).to_owned(),
            weight: offer.weight,
            verdict: verdict.to_owned(),
            ipv4: family(&judged.families[0]),
            ipv6: family(&judged.families[1]),
            ports: judged
                .targets
                .iter()
                .map(|(port, number)| ExplainedPort {
                    name: port.name.as_ref().map(ToString::to_string),
                    port: port.port,
                    proto: port.proto.as_str().to_owned(),
                    number: *number,
                })
                .collect(),
            priority: judged.priority,
        }
    }

    fn containers(&self, text: &str, asker: Option<&Source>) -> Vec<ExplainedContainer> {
        let meant = self
            .residents
            .values()
            .filter(|resident| resolve::is_meant(text, &resident.name, resident.container.as_str()));
        meant.take(MAX_CONTAINERS).map(|resident| self.container(resident, asker)).collect()
    }

    fn container(&self, resident: &Resident, asker: Option<&Source>) -> ExplainedContainer {
        let Snapshot { zone, settings, .. } = self.snapshot;
        let own = zone.services().flat_map(Service::all).filter(|candidate| {
            candidate.home.origin == Origin::Own && candidate.publication.container == resident.container
        });
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|candidate| (candidate.offer().namespace.clone(), candidate.offer().service.clone()));
        let apex = &settings.apex;
        let names = own.iter().flat_map(|candidate| {
            let offer = candidate.offer();
            let service = format!("{}.{}.{apex}.", offer.service, offer.namespace);
            [service, apex.instance(resident.container, offer).to_string()]
        });
        let instances: Vec<Name> =
            own.iter().map(|candidate| apex.instance(resident.container, candidate.offer())).collect();
        let seen_by = |(asker, source): (String, Source)| SeenBy {
            asker,
            instances: instances.iter().flat_map(|name| self.seen(name, resident.container, &source)).collect(),
        };
        let published = !own.is_empty();
        let sources = if published { self.sources(resident, asker) } else { Vec::new() };
        ExplainedContainer {
            host: self.host.to_string(),
            container: resident.container.to_string(),
            name: resident.name.to_string(),
            namespace: resident.namespace.to_string(),
            advice: lost_search(resident, self.search).or_else(|| match &resident.outsider {
                Some((service, project)) => Some(format!(
                    "its labels of Compose come from its image, so it is no member of service {service} of project {project}: \
                     the labels portolan.service={service} and portolan.namespace={project} make it one"
                )),
                None => self.asker_of(resident).and_then(|asker| neighbours(self.snapshot.local, asker)),
            }),
            published,
            reason: resident.silence.as_ref().map(|silence| reason(words::silence(silence))),
            problems: resident.problems.to_vec(),
            names: names.collect(),
            aliases: own
                .first()
                .map_or_else(Vec::new, |candidate| Zone::names_of(settings.aliases, &candidate.publication).collect()),
            seen_by: sources.into_iter().map(seen_by).collect(),
        }
    }

    fn seen(&self, name: &Name, container: ShortId, source: &Source) -> Vec<ExplainedCandidate> {
        let explanation = explain(&self.snapshot, source, name);
        let is_it = |judged: &&Judged| {
            judged.candidate.home.origin == Origin::Own && judged.candidate.publication.container == container
        };
        explanation.candidates.iter().filter(is_it).map(|judged| self.candidate(judged, None)).collect()
    }

    fn asker_of(&self, resident: &Resident) -> Option<&Arc<Asker>> {
        self.snapshot.local.askers.values().find(|asker| asker.container == resident.container)
    }

    /// Who may want to reach a container: whoever was named, it itself, this host, another host, and somebody on each of
    /// the networks here.
    fn sources(&self, resident: &Resident, asker: Option<&Source>) -> Vec<(String, Source)> {
        let local = self.snapshot.local;
        let itself = self.asker_of(resident);
        let mut sources: Vec<(String, Source)> = Vec::new();
        sources.extend(asker.map(|source| (words::asker(source), source.clone())));
        sources.extend(itself.map(|asker| ("itself".to_owned(), Source::Container(Arc::clone(asker)))));
        sources.push(("this host".to_owned(), Source::Host));
        sources.push((ANOTHER_HOST.to_owned(), Source::Peer));
        let gateway = local.networks.values().find(|network| &*network.name == GWBRIDGE).map(|found| found.id.clone());
        let has_containers = |network: &&Arc<Network>| {
            &*network.name != GWBRIDGE && network.driver != Driver::Host && !network.subnets.is_empty()
        };
        sources.extend(local.networks.values().filter(has_containers).map(|network| {
            let way_out = gateway.clone().filter(|_| network.driver == Driver::Overlay && !network.internal);
            let networks: Vec<NetworkId> = std::iter::once(network.id.clone()).chain(way_out).collect();
            let somebody = Asker {
                container: ShortId::parse("000000000000").expect("twelve zeros are hexadecimal digits"),
                name: network.name.clone(),
                namespace: Label::default_namespace(),
                networks,
            };
            (format!("a container on network {}", network.name), Source::Container(Arc::new(somebody)))
        }));
        sources
    }
}

/// What to tell a container whose own search list leaves out what this host's has: Docker gives it one or the other.
fn lost_search(resident: &Resident, of_the_host: &[String]) -> Option<String> {
    let has =
        |domain: &&String| resident.search.iter().any(|own| own.trim_end_matches('.').eq_ignore_ascii_case(domain));
    let lost: Vec<&str> = of_the_host.iter().filter(|domain| !has(domain)).map(String::as_str).collect();
    if resident.search.is_empty() || lost.is_empty() {
        return None;
    }
    let own: Vec<&str> = resident.search.iter().map(|domain| &**domain).filter(|domain| *domain != ".").collect();
    Some(format!(
        "its own dns_search ({}) replaces this host's search list, so short names below {} are not found: dns_search with [{}] \
         finds both",
        resident.search.join(", "),
        lost.join(", "),
        own.iter().chain(&lost).copied().collect::<Vec<_>>().join(", ")
    ))
}

/// What to tell a container of no project that sits on a network of one: it finds the project's services there by Docker's
/// own names, and asks us from another namespace. Networks that several namespaces share say nothing.
fn neighbours(local: &Local, asker: &Asker) -> Option<String> {
    let (default, global) = (Label::default_namespace(), Label::global());
    if asker.namespace != default {
        return None;
    }
    asker.networks.iter().find_map(|id| {
        let others = local.askers.values().filter(|other| other.networks.contains(id));
        let namespaces: BTreeSet<&Label> = others.map(|other| &other.namespace).collect();
        let mut others = namespaces.into_iter().filter(|namespace| **namespace != default && **namespace != global);
        let (project, None) = (others.next()?, others.next()) else { return None };
        let network = &local.networks.get(id)?.name;
        Some(format!(
            "it asks from namespace default, though it is on network {network} with containers of namespace {project}: \
             the label portolan.namespace={project} lets it ask from there"
        ))
    })
}

fn reason(words::Reason { code, sentence, fix }: words::Reason) -> ExplainedReason {
    ExplainedReason { code: code.to_owned(), reason: sentence, fix }
}

/// The word that records have for it.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
