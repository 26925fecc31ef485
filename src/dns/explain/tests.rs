use hickory_proto::rr::{RData, RecordType};
use proptest::{prelude::*, sample::select};
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::dns::{
    answer::{Answer, Room, answer, named},
    fixture::{ADDRESS, World},
    prefer::Prefer,
    reach::oracle::{ASKERS, world},
};

const NAMES: [&str; 6] = ["web.shop", "all.web.shop", "web", "_http._tcp.web.shop", "000000000011.web.shop", "no.shop"];

/// What the explanation says the answer holds.
fn claimed(explanation: &Explanation, kind: RecordType, world: &World) -> Vec<String> {
    let judged = explanation.candidates.iter();
    let mut all: Vec<String> = match kind {
        RecordType::SRV => judged
            .flat_map(|judged| {
                let (candidate, priority) = (&judged.candidate, judged.priority);
                let instance = || world.settings.apex.instance(candidate.publication.container, candidate.offer());
                let target = named(candidate).unwrap_or_else(instance);
                judged.targets.iter().map(move |(_, number)| format!("{priority} {number} {target}"))
            })
            .collect(),
        _ => judged
            .map(|judged| &judged.families[usize::from(kind == RecordType::AAAA)])
            .filter(|seen| seen.out.is_none())
            // Another name is no address: it is an answer of another kind.
            .filter_map(|seen| seen.way.map(|way| way.address.to_string()))
            .collect(),
    };
    all.sort();
    all.dedup();
    all
}

fn given(world: &World, source: &Source, name: &Name, kind: RecordType) -> Vec<String> {
    let Answer::Records { answers, .. } =
        answer(&world.snapshot(), source, name, kind, Room::whole(ADDRESS), &mut SmallRng::seed_from_u64(1))
    else {
        return Vec::new();
    };
    let mut all: Vec<String> = answers
        .iter()
        .map(|record| match &record.data {
            RData::SRV(srv) => format!("{} {} {}", srv.priority, srv.port, srv.target),
            other => other.to_string(),
        })
        .collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn explanations_say_what_answers_hold(
        text in world(),
        who in select(&ASKERS),
        name in select(&NAMES),
        by in select(&[Prefer::None, Prefer::Host, Prefer::Locality]),
        floor in 1usize..4,
    ) {
        let mut world = World::parse(&text);
        world.settings.prefer = super::super::prefer::Preference { by, floor, locality: "eu/a".into() };
        let source = world.source(who);
        let name = Name::from_ascii(format!("{name}.svc.internal.")).unwrap();
        let snapshot = world.snapshot();
        let explanation = explain(&snapshot, &source, &name);
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
            prop_assert_eq!(
                claimed(&explanation, kind, &world), given(&world, &source, &name, kind),
                "{} {} for {} in {}", name, kind, who, text
            );
        }
        // Whoever is out has a reason.
        for judged in &explanation.candidates {
            for seen in &judged.families {
                prop_assert!(seen.out.is_some() || seen.way.is_some() || named(&judged.candidate).is_some());
                let unreached = matches!(seen.out, Some(Out::Unreached(_)));
                prop_assert!(!unreached || seen.way.is_none());
            }
        }
    }
}

/// Per candidate: `in`, or why it is out of A; then of AAAA.
fn reasons(world: &World, who: &str, name: &str) -> String {
    let source = world.source(who);
    let name = Name::from_ascii(format!("{name}.svc.internal.")).unwrap();
    let snapshot = world.snapshot();
    let explanation = explain(&snapshot, &source, &name);
    let number = explanation.service.as_ref().and_then(|service| service.number).and_then(|choice| choice.number);
    let shown = |judged: &Judged| {
        let id = judged.candidate.publication.container.as_str().trim_end_matches('0').to_owned();
        let word = |seen: &Seen| match (&seen.out, seen.way) {
            (Some(out), _) => words::out(out, number).code,
            (None, Some(way)) => words::rule(way, &judged.candidate).code,
            (None, None) => "?",
        };
        format!("{id} {} {} {}", word(&judged.families[0]), word(&judged.families[1]), judged.targets.len())
    };
    explanation.candidates.iter().map(shown).collect::<Vec<_>>().join("; ")
}

#[test]
fn each_stage_leaves_its_own_reason() {
    let mut world = World::parse(
        "network front bridge 172.18.0.0/16
         network back bridge 172.19.0.0/16
         foreign theirs bridge
         asker f1 shop front=172.18.0.9
         host own 192.0.2.1
           a1 @front=172.18.0.2 web.shop http:80/tcp
           a2 @back=172.19.0.2 web.shop http:80/tcp>0.0.0.0:8081
           a3 @front=172.18.0.4 draining web.shop http:80/tcp
           a4 @back=172.19.0.3 web.shop 80/tcp
         host b 192.0.2.2
           b1 @theirs=172.30.0.2 web.shop http:80/tcp>0.0.0.0:80
           b2 @theirs=172.30.0.3 web.shop http:80/tcp>0.0.0.0:8080
           b3 @theirs=172.30.0.4 starting web.shop 80/tcp",
    );
    let not = "not-published";
    let six = "not-ready not-ready 0";
    assert_eq!(
        reasons(&world, "f1", "web"),
        format!(
            "a1 shared-network {not} 1; a2 no-proxy {not} 0; a3 {six}; a4 {not} {not} 0; \
                 b1 published {not} 1; b2 other-number {not} 1; b3 {six}"
        )
    );
    world.settings.prefer.by = Prefer::Host;
    assert!(reasons(&world, "f1", "web").contains("b1 far not-published 1"));
    assert!(reasons(&world, "f1", "all.web.shop").contains("a3 shared-network not-published 1"));
    assert!(
        reasons(&world, "f1", "a30000000000.web.shop").starts_with("a1 other other 0; a2 other other 0; a3 shared")
    );
    assert!(reasons(&world, "f1", "_http._tcp.web.shop").starts_with("a1 srv-only not-published 1; "));
    assert_eq!(reasons(&world, "f1", "no"), "");
}

#[test]
fn the_own_namespace_is_searched_first() {
    let world = World::parse(
        "network n1 bridge 172.18.0.0/16
         asker f1 shop n1=172.18.0.9
         host own
           a1 @n1=172.18.0.2 web.shop
           a2 @n1=172.18.0.3 web.global mail.global",
    );
    let searched = |who: &str, name: &str| {
        let (source, name) = (world.source(who), Name::from_ascii(name).unwrap());
        let explanation = explain(&world.snapshot(), &source, &name);
        let shown = explanation.searched.iter().map(|(label, there)| format!("{label}={there}"));
        (shown.collect::<Vec<_>>().join(" "), explanation.candidates.len(), explanation.reading)
    };
    let own = "service web of the asker's own namespace, else of global".to_owned();
    assert_eq!(searched("f1", "web.svc.internal."), ("shop=true global=true".into(), 1, own.clone()));
    assert_eq!(searched("f1", "web."), ("shop=true global=true".into(), 1, format!("a bare name: {own}")));
    assert_eq!(searched("host", "mail.").0, "default=false global=true");
    assert_eq!(searched("host", "mail.shop.svc.internal.").0, "shop=false");
    assert_eq!(searched("host", "example.com.").2, "a name of others");
}
