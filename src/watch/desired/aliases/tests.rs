//! Which of the names that Docker gives are published, and that they come and go with what gives them.

use std::sync::Arc;

use crate::{
    model::{Aliases, MAX_ALIASES},
    watch::{
        container::{
            Event, Inspected, NetworkMode,
            tests::{Bed, DB, NET, WEB, endpoint, id, labels_of, running},
        },
        labels::{self, Namespaces},
    },
};

/// A container that has been given `names` on its network.
fn with(names: &[&str]) -> Inspected {
    let mut web = running(WEB, "10.0.0.2");
    web.hostname = web.id.short().as_str().into();
    web.aliases.insert(NET.into(), names.iter().map(|name| Arc::from(*name)).collect());
    web
}

/// Namespace and aliases as they are published, on a host with these options.
fn published(options: labels::Options, web: &Inspected) -> (String, Vec<String>) {
    let mut bed = Bed::with(options);
    bed.start(web);
    let publication = &bed.desired.publications[&web.id.short()];
    (publication.namespace.to_string(), publication.aliases.iter().map(ToString::to_string).collect())
}

#[test]
fn names_of_docker_that_name_id_and_services_do_not_say_are_published() {
    let swarm: &[(&str, &str)] =
        &[("com.docker.swarm.service.name", "shop_web"), ("com.docker.stack.namespace", "shop")];
    let compose: &[(&str, &str)] = &[("com.docker.compose.project", "shop"), ("com.docker.compose.service", "web")];
    let alone: &[(&str, &str)] = &[("com.docker.swarm.service.name", "web")];
    let own = WEB.get(..12).unwrap();
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str, &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        // What Compose gives says nothing new.
        (compose, &["web", "shop-web-1", own], "", &[]),
        (compose, &["Front", "web.shop.example.com"], "", &["front", "web.shop.example.com"]),
        (compose, &[], "mail.example.com", &["mail.example.com"]),
        (compose, &[], "app1", &["app1"]),
        // Another container's id is a name like others.
        (compose, &["cccccccccccc"], "", &["cccccccccccc"]),
        // What no question can ask for, and what belongs to all.
        (compose, &["a b", "ä", "x..y", "localhost", "all", "wpad", "_tcp", ""], "", &[]),
        (swarm, &["web"], "", &["shop_web", "tasks.shop_web", "tasks.web"]),
        // In `default` there are none with dots.
        (alone, &["www"], "", &["www"]),
        (&[], &["www"], "mail.example.com", &["www"]),
        (&[("portolan.namespace", "global")], &["www"], "mail", &[]),
        (&[("portolan.namespace", "team")], &["www"], "mail.x", &["mail.x", "www"]),
        // Where the user gave the service that name explicitly, the service is meant.
        (&[("portolan.service", "web"), compose[0], compose[1]], &["web", "www"], "", &["www"]),
        (&[("portolan.service", "front"), compose[0], compose[1]], &["web"], "", &["web"]),
    ];
    for (labels, names, hostname, expected) in rows {
        let mut web = with(names);
        web.metadata = labels_of(labels);
        if !hostname.is_empty() {
            web.hostname = (*hostname).into();
        }
        let (_, aliases) = published(labels::Options::default(), &web);
        assert_eq!(aliases, *expected, "{labels:?} {names:?} {hostname}");
    }
}

#[test]
fn a_host_name_that_is_anothers_is_none() {
    for (mode, expected) in [(NetworkMode::Own, &["app1"][..]), (NetworkMode::Host, &[])] {
        let mut web = with(&[]);
        (web.hostname, web.network_mode) = ("app1".into(), mode.clone());
        assert_eq!(published(labels::Options::default(), &web).1, *expected, "{mode:?}");
    }
    let mut bed = Bed::new();
    bed.start(&running(DB, "10.0.0.3"));
    let mut app = with(&[]);
    app.endpoints.clear();
    (app.hostname, app.network_mode) = ("db".into(), NetworkMode::Container(DB.into()));
    bed.start(&app);
    assert_eq!(bed.desired.publications[&app.id.short()].aliases.len(), 0);
}

#[test]
fn options_take_them_away() {
    let web = with(&["front", "front.example.com"]);
    let of = |aliases, namespaces| published(labels::Options { aliases, namespaces, ..Default::default() }, &web);
    assert_eq!(of(Aliases::All, Namespaces::On), ("shop".into(), vec!["front".into(), "front.example.com".into()]));
    assert_eq!(of(Aliases::Plain, Namespaces::On), ("shop".into(), vec!["front".into()]));
    assert_eq!(of(Aliases::Off, Namespaces::On), ("shop".into(), vec![]));
    assert_eq!(of(Aliases::All, Namespaces::Off), ("global".into(), vec![]));
}

#[test]
fn they_come_and_go_with_what_gives_them() {
    let mut bed = Bed::new();
    let mut web = with(&[]);
    bed.start(&web);
    let aliases = |bed: &Bed| bed.desired.publications[&web.id.short()].aliases.len();
    assert_eq!(aliases(&bed), 0);
    web.endpoints.push(endpoint("net2", &["10.0.0.9"]));
    web.aliases.insert("net2".into(), ["blue".into()].into());
    bed.apply(Event::Changed(id(WEB)));
    bed.answer(&web);
    assert_eq!(aliases(&bed), 1);
    bed.apply(Event::Disconnected { id: id(WEB), network: web.endpoints[1].network.clone() });
    assert_eq!(aliases(&bed), 0, "at once");
}

#[test]
fn more_than_others_learn_of_are_a_problem_and_those_without_dots_stay() {
    let names: Vec<String> = (0..30).map(|n| format!("a{n:02}")).chain((0..30).map(|n| format!("0.b{n:02}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bed = Bed::new();
    bed.start(&with(&names));
    let aliases = &bed.desired.publications[&id(WEB).short()].aliases;
    assert_eq!((aliases.len(), aliases.iter().filter(|name| !name.contains('.')).count()), (MAX_ALIASES, 30));
    let [problem] = &*bed.desired.problems else { panic!("{:?}", bed.desired.problems) };
    assert_eq!(problem.found, "60 network aliases");
}
