use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    api::AskAs,
    dns::{
        access::AccessList,
        answer::Settings,
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
        (
            container,
            Arc::new(Resident {
                container,
                name: name.into(),
                namespace,
                silence,
                problems,
                outsider: None,
                search: Box::default(),
                wants_dns_port: false,
            }),
        )
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

/// What becomes of a name, and its first answer, for an asker of this world and these upstreams.
fn course(settings: Settings, upstreams: &[&str], name: &str, asker: &str) -> (String, String) {
    let mut world = World::parse(
        "network n bridge 172.18.0.0/16
         network cut bridge 172.20.0.0/16 internal
         asker a1 shop n=172.18.0.2
         asker in shop cut=172.20.0.2
         host own 192.0.2.1
           a1 @n=172.18.0.2 name=shop-web-1 web.shop http:80/tcp",
    );
    world.settings = settings;
    let residents = Residents::default();
    let (access, forwarder) = (
        AccessList::default(),
        forwarder(Upstreams::Fixed(upstreams.iter().map(|ip| format!("{ip}:53").parse().unwrap()).collect())),
    );
    let (host, neighbours) = (HostId::parse("a").unwrap(), Neighbours { access: &access, forwarder: &forwarder });
    let explainer =
        Explainer { host: &host, snapshot: world.snapshot(), neighbours, residents: &residents, search: &[] };
    let asker = (asker != "host").then(|| AskAs::from(asker.to_owned()));
    let request = ExplainRequest { name: Some(name.to_owned()), container: None, asker };
    let view = explainer.reply(&request, &mut SmallRng::seed_from_u64(3)).unwrap().name.unwrap().views.remove(0);
    let course = view.course.unwrap_or_else(|| view.reading.clone());
    (course, view.answers[0].rcode.clone())
}

#[test]
fn what_becomes_of_a_name_of_others_is_told_with_its_reason() {
    let forwarding = Settings::default;
    let rows: [(&str, &str, &[&str], &str, &str); 18] = [
        ("www.example.org.", "host", &["9.9.9.9"], "asked of 9.9.9.9:53", "FORWARD"),
        ("www.example.org.", "host", &[], "REFUSED: there is no upstream to ask", "FORWARD"),
        ("www.example.org.", "in", &["9.9.9.9"], "REFUSED: the asker has only internal networks", "REFUSED"),
        (
            "www.example.org.",
            "198.51.100.1",
            &["9.9.9.9"],
            "REFUSED: names of others are asked for this host and",
            "REFUSED",
        ),
        (
            "localhost",
            "host",
            &["9.9.9.9"],
            "this machine itself, for every asker: always 127.0.0.1 and ::1 (RFC 6761)",
            "NOERROR",
        ),
        ("a.localhost.", "in", &["9.9.9.9"], "this machine itself", "NOERROR"),
        (
            "x.onion.",
            "a1",
            &["9.9.9.9"],
            "a name that nothing in DNS has: denied here and never forwarded (RFC 7686)",
            "NXDOMAIN",
        ),
        ("x.invalid.", "a1", &["9.9.9.9"], "a name that nothing in DNS has", "NXDOMAIN"),
        ("www.test.", "a1", &["9.9.9.9", "10.0.0.2"], "asked of 10.0.0.2:53", "FORWARD"),
        (
            "www.test.",
            "a1",
            &["9.9.9.9"],
            "denied here: it is a name of the site, and none of the upstreams 9.9.9.9:53",
            "NXDOMAIN",
        ),
        ("metadata.google.internal.", "a1", &["9.9.9.9"], "denied here: it is a name of the site", "NXDOMAIN"),
        ("nas.home.arpa.", "a1", &["9.9.9.9"], "denied here: it is a name of the site", "NXDOMAIN"),
        ("1.0.0.10.in-addr.arpa.", "a1", &["9.9.9.9"], "denied here: it is a name of the site", "NXDOMAIN"),
        ("1.0.0.10.in-addr.arpa.", "a1", &["169.254.169.254"], "asked of 169.254.169.254:53", "FORWARD"),
        ("2.0.18.172.in-addr.arpa.", "a1", &["9.9.9.9"], "the reverse name of 172.18.0.2/32", "NOERROR"),
        ("onion", "a1", &["9.9.9.9"], "a name that nothing in DNS has", "NXDOMAIN"),
        ("8.8.8.8.in-addr.arpa.", "a1", &["9.9.9.9"], "asked of 9.9.9.9:53", "FORWARD"),
        (
            "nas",
            "a1",
            &["9.9.9.9"],
            "denied here: no service near the asker has it, and a single label leaves only if `--upstream nas=ADDR`",
            "NXDOMAIN",
        ),
    ];
    for (name, asker, upstreams, expected, rcode) in rows {
        let (told, answer) = course(forwarding(), upstreams, name, asker);
        assert!(told.starts_with(expected), "{name} as {asker}: {told}");
        assert_eq!(answer, rcode, "{name} as {asker}");
    }
    let denied = course(forwarding(), &["9.9.9.9"], "nas.home.arpa.", "a1").0;
    assert!(denied.ends_with("`--upstream home.arpa=ADDR` or `--site-names forward` has it asked"), "{denied}");
    let none = Settings { forwarding: false, ..Settings::default() };
    assert_eq!(course(none, &[], "www.example.org.", "a1").0, "REFUSED: no name is forwarded (--upstream none)");
    // A service's name needs no such sentence.
    assert!(course(forwarding(), &["9.9.9.9"], "web", "a1").0.starts_with("a bare name: service web"));
}

#[test]
fn another_hosts_container_is_told_to_be_sent_on() {
    let explained = reply(Some("nothing"), None, None).unwrap().name.unwrap();
    let another = &explained.views[1];
    assert_eq!((&*another.asker, &*another.answers[0].rcode), ("another host", "REFUSED"));
    assert!(another.course.as_deref().is_some_and(|course| course.contains("tries its next server")), "{another:?}");
}

#[test]
fn a_container_with_a_search_list_of_its_own_is_told_what_it_loses() {
    let resident = |search: &[&str]| {
        let mut resident = Resident::clone(&residents()[&short("a1")]);
        resident.search = search.iter().map(|domain| Arc::from(*domain)).collect();
        resident
    };
    let host = ["corp.test".to_owned(), "example.org".to_owned()];
    for (own, lost, both) in [
        (&["svc.internal"][..], "corp.test, example.org", "[svc.internal, corp.test, example.org]"),
        (&["svc.internal", "Corp.Test."], "example.org", "[svc.internal, Corp.Test., example.org]"),
        (&["."], "corp.test, example.org", "[corp.test, example.org]"),
    ] {
        let told = lost_search(&resident(own), &host).unwrap();
        assert!(told.contains(&format!("below {lost} are not found")) && told.contains(both), "{told}");
    }
    assert_eq!(lost_search(&resident(&[]), &host), None);
    assert_eq!(lost_search(&resident(&["corp.test", "example.org"]), &host), None);
    assert_eq!(lost_search(&resident(&["svc.internal"]), &[]), None);
}
