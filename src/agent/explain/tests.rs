use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    api::AskAs,
    dns::{
        access::AccessList,
        fixture::{World, short},
        forward::Upstreams,
        name::Apex,
    },
    model::{Problem, Silence},
};

fn world() -> World {
    World::parse(
        "network shop_default bridge 172.18.0.0/16
         network blog_default bridge 172.19.0.0/16
         foreign theirs bridge
         asker a1 shop shop_default=172.18.0.2
         asker frontend shop blog_default=172.19.0.9
         host own 192.0.2.1
           a1 @shop_default=172.18.0.2 name=shop-web-1 web.shop http:80/tcp>0.0.0.0:8081
           a2 @shop_default=172.18.0.3 name=shop-web-2 draining web.shop http:80/tcp
         host b 192.0.2.2
           b1 @theirs=172.18.0.2 name=shop-web-3 web.shop http:80/tcp>0.0.0.0:80
           b2 @theirs=172.18.0.3 name=shop-web-4 web.shop http:80/tcp>127.0.0.1:80
           b3 @theirs=172.18.0.4 name=blog-web-1 web.global 80/tcp",
    )
}

fn residents() -> Residents {
    let resident = |id: &str, name: &str, silence: Option<Silence>, problems: &[Problem]| {
        let namespace = Label::parse("shop").unwrap();
        let container = short(id);
        let problems = problems.into();
        (container, Arc::new(Resident { container, name: name.into(), namespace, silence, problems, outsider: None, search: Box::default(), wants_dns_port: false }))
    };
    let broken = Problem::new("container d20000000000 (bad), label portolan.service", "a b", "a name without blanks");
    Residents::from_iter([
        resident("a1", "shop-web-1", None, &[]),
        resident("a2", "shop-web-2", None, &[]),
        resident("d1", "shop-job-1", Some(Silence::Ignored("SERVICE_IGNORE".into())), &[]),
        resident("d2", "bad", Some(Silence::Nameless), &[broken]),
        resident("d3", "web", Some(Silence::Stopped), &[]),
    ])
}

/// One that asks these, and is never asked itself.
fn forwarder(upstreams: Upstreams) -> Forwarder {
    let (_, wanted) = watch::channel(Arc::default());
    let (_, local) = watch::channel(Arc::default());
    Forwarder::new(forward::Options { chosen: upstreams.into(), ..Default::default() }, &Apex::default(), wanted, local)
}

fn reply(name: Option<&str>, container: Option<&str>, asker: Option<&str>) -> Result<ExplainReply, ResolveError> {
    let (world, residents) = (world(), residents());
    let host = HostId::parse("a").unwrap();
    let (access, forwarder) = (AccessList::default(), forwarder(Upstreams::None));
    let neighbours = Neighbours { access: &access, forwarder: &forwarder };
    let explainer =
        Explainer { host: &host, snapshot: world.snapshot(), neighbours, residents: &residents, search: &[] };
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let request =
        ExplainRequest { name: owned(name), container: owned(container), asker: owned(asker).map(AskAs::from) };
    explainer.reply(&request, &mut SmallRng::seed_from_u64(3))
}

/// The replies that the command line's tests print, held against what is really said. To take over a change, run with
/// `PORTOLAN_EXPLAINED` naming their folder.
#[test]
fn replies_are_those_that_the_command_line_prints() {
    for (file, text, asker) in [
        ("name", "web.shop", None),
        ("as", "web", Some("frontend")),
        ("container", "shop-web-1", None),
        ("silent", "d100", None),
    ] {
        let reply = reply(Some(text), Some(text), asker).unwrap();
        let json = serde_json::to_string_pretty(&reply).unwrap() + "\n";
        if let Ok(folder) = std::env::var("PORTOLAN_EXPLAINED") {
            std::fs::write(format!("{folder}/{file}.json"), &json).unwrap();
        }
        let path = format!("{}/tests/it/cli/explained/{file}.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(json, std::fs::read_to_string(path).unwrap(), "{file}");
    }
}

#[test]
fn another_host_is_asked_within_the_namespace_that_was_found() {
    for (name, asker, expected) in [
        ("web", Some("frontend"), "web.shop.svc.internal."),
        ("web.svc.internal", Some("frontend"), "web.shop.svc.internal."),
        ("web", None, "web.global.svc.internal."),
        ("web.shop", None, "web.shop.svc.internal."),
        ("_http._tcp.web.svc.internal", Some("frontend"), "_http._tcp.web.shop.svc.internal."),
        ("none", None, "none."),
    ] {
        let explained = reply(Some(name), None, asker).unwrap().name.unwrap();
        assert_eq!((explained.views.len(), &*explained.views[1].name), (2, expected), "{name} as {asker:?}");
    }
    let stranger = reply(Some("web.shop"), None, Some("198.51.100.1")).unwrap().name.unwrap();
    assert_eq!(stranger.views.len(), 1, "it sees what another host sees");
}

#[test]
fn containers_are_found_by_name_and_by_four_digits_of_their_id() {
    let found = |text: &str| -> Vec<String> {
        let containers = reply(None, Some(text), None).unwrap().containers.unwrap();
        containers.into_iter().map(|container| container.name).collect()
    };
    assert_eq!(found("shop-web-1"), ["shop-web-1"]);
    assert_eq!(found("/shop-web-1"), ["shop-web-1"]);
    assert_eq!(found("a100"), ["shop-web-1"]);
    assert_eq!(found("a1000000000077"), ["shop-web-1"]);
    assert_eq!(found("a1"), [""; 0]);
    assert_eq!(found("shop"), [""; 0]);
    // A container may be called as a service is: both are told.
    let both = reply(Some("web"), Some("web"), Some("frontend")).unwrap();
    assert_eq!((both.name.unwrap().views[0].candidates.len(), both.containers.unwrap().len()), (4, 1));
    // And its name may be none for DNS.
    let long = "x".repeat(70);
    assert_eq!(reply(Some(&long), Some(&long), None).unwrap(), ExplainReply { name: None, containers: Some(vec![]) });
    assert!(matches!(reply(Some(&long), None, None), Err(ResolveError::Invalid(_))));
    assert!(matches!(reply(Some("web"), None, Some("ghost")), Err(ResolveError::NoSuchAsker(_))));
}

#[test]
fn a_container_of_no_project_on_a_project_s_network_is_told_how_to_ask_from_there() {
    let world = World::parse(
        "network shop_default bridge 172.18.0.0/16
         network shared bridge 172.19.0.0/16
         network bridge bridge 172.17.0.0/16
         asker a1 shop shop_default=172.18.0.2 shared=172.19.0.2
         asker b1 blog shared=172.19.0.3
         asker c1 default shop_default=172.18.0.3
         asker d1 default shared=172.19.0.4
         asker e1 default bridge=172.17.0.2
         asker f1 default bridge=172.17.0.3
         asker 91 global shop_default=172.18.0.4",
    );
    for (who, expected) in
        [("c1", Some("portolan.namespace=shop")), ("a1", None), ("d1", None), ("e1", None), ("91", None)]
    {
        let Source::Container(asker) = world.source(who) else { panic!("{who} is a container") };
        let told = neighbours(&world.local, &asker);
        assert_eq!(told.is_some(), expected.is_some(), "{who}: {told:?}");
        assert!(told.is_none_or(|told| expected.is_some_and(|text| told.contains(text))), "{who}");
    }
}
