use proptest::prelude::*;

use super::*;

/// The record of the module's documentation and of the README, byte for byte as etcd holds it.
const EXAMPLE: &str = concat!(
    r#"{"name":"shop-web-1","image":"nginx:1","phase":"serving","health":"healthy","#,
    r#""services":[{"service":"web","namespace":"shop","tags":["a"],"weight":1,"#,
    r#""ports":[{"name":"http","port":80,"proto":"tcp","published":[{"ip":"0.0.0.0","port":8080,"chosen":true}]}]}],"#,
    r#""networks":[{"id":"3f","name":"shop_default","driver":"bridge","scope":"local","internal":false,"#,
    r#""ips":["172.18.0.2"]}],"namespace":"shop"}"#,
);

/// The example's publication, of this container.
pub(crate) fn publication(container: &str) -> Publication {
    decode(ShortId::parse(container).unwrap(), EXAMPLE.as_bytes(), &mut Interner::default()).unwrap()
}

#[test]
fn the_documented_record_is_read_and_written_byte_for_byte() {
    let publication = publication("0123456789ab");
    assert_eq!(publication.services[0].ports[0].published[0].port, 8080);
    assert_eq!(publication.networks[0].ips[0].to_string(), "172.18.0.2");
    assert_eq!(String::from_utf8(encode(&publication)).unwrap(), EXAMPLE);
}

/// What an agent writes that knows of no aliases, the namespace it is taken for, and what one reads that knows of them.
#[test]
fn a_record_of_an_older_agent_is_in_the_namespace_of_its_services_and_an_older_agent_reads_ours() {
    for (namespaces, expected) in
        [(&["shop"][..], "shop"), (&["global"], "global"), (&["global", "shop"], "shop"), (&["default"], "default")]
    {
        let services: Vec<String> = (0..)
            .zip(namespaces)
            .map(|(number, namespace)| format!(r#"{{"service":"s{number}","namespace":"{namespace}"}}"#))
            .collect();
        let text = format!(r#"{{"name":"a","phase":"serving","services":[{}]}}"#, services.join(","));
        let read = decode(ShortId::parse("0123456789ab").unwrap(), text.as_bytes(), &mut Interner::default()).unwrap();
        assert_eq!((read.namespace.as_str(), read.aliases.len()), (expected, 0), "{namespaces:?}");
    }
    // An older one reads every field but these two.
    let written: serde_json::Value = serde_json::from_str(EXAMPLE).unwrap();
    let mut older = written.clone();
    older.as_object_mut().unwrap().remove("namespace");
    let read = decode(ShortId::parse("0123456789ab").unwrap(), older.to_string().as_bytes(), &mut Interner::default());
    assert_eq!(read.unwrap(), publication("0123456789ab"), "nothing else changed");
}

#[test]
fn aliases_are_read_in_order_and_those_beyond_the_limits_harm_only_themselves() {
    let plain = publication("0123456789ab");
    let many: Vec<String> = (0..40).map(|number| format!("a{number:02}")).collect();
    let long = "x".repeat(64);
    for (given, expected) in [
        (vec!["db", "DB.Example.com", "a b", "", &*long], vec!["db", "db.example.com"]),
        (vec!["b", "a", "b"], vec!["a", "b"]),
        (many.iter().map(String::as_str).collect(), many[..32].iter().map(String::as_str).collect()),
    ] {
        let mut text: serde_json::Value = serde_json::from_slice(&encode(&plain)).unwrap();
        text["aliases"] = given.iter().copied().collect();
        let read = decode(plain.container, text.to_string().as_bytes(), &mut Interner::default()).unwrap();
        let aliases: Vec<&str> = read.aliases.iter().map(|alias| &**alias).collect();
        assert_eq!(aliases, expected);
        assert_eq!(decode(plain.container, &encode(&read), &mut Interner::default()).unwrap(), read);
    }
}

#[test]
fn the_documented_session_is_read_and_written_byte_for_byte() {
    let text = r#"{"nonce":"n1","advertise":["10.0.0.5"],"locality":"eu/a","version":"0.1.0"}"#;
    let session = decode_session(text.as_bytes(), &mut Interner::default()).unwrap();
    assert_eq!(String::from_utf8(encode_session(&session)).unwrap(), text);
}

/// Value → whether it is read, and what the error must name.
#[test]
fn unknown_and_missing_fields_are_tolerated_and_broken_ones_named() {
    let service = r#"{"service":"web","namespace":"shop"}"#;
    let many = vec![service; MAX_SERVICES + 1].join(",");
    let huge = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_VALUE));
    let rows: &[(String, Result<(), &str>)] = &[
        (format!(r#"{{"name":"a","phase":"serving","services":[{service}]}}"#), Ok(())),
        (format!(r#"{{"name":"a","phase":"serving","services":[{service}],"later":{{"x":[1]}}}}"#), Ok(())),
        (r#"{"name":"a","phase":"serving","services":[]}"#.into(), Err("at least one service")),
        (format!(r#"{{"name":"a","phase":"serving","services":[{many}]}}"#), Err("at most 64 services")),
        (format!(r#"{{"name":"a","phase":"dancing","services":[{service}]}}"#), Err("dancing")),
        (r#"{"name":"a","phase":"serving","services":[{"service":"wéb","namespace":"x"}]}"#.into(), Err("wéb")),
        (
            format!(
                r#"{{"name":"a","phase":"serving","services":[{service}],"networks":[{{"id":"1","driver":"x","ips":["1.2.3"]}}]}}"#
            ),
            Err("IP address"),
        ),
        (huge, Err("octets")),
        ("garbage".into(), Err("expected")),
        (String::new(), Err("EOF")),
    ];
    for (value, expected) in rows {
        let found = decode(ShortId::parse("0123456789ab").unwrap(), value.as_bytes(), &mut Interner::default());
        match (found, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} names {part}"),
            (found, expected) => panic!("{value:.200}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn keys_are_read_back_and_foreign_ones_are_not_ours() {
    let keys = Keys::new("/portolan/");
    let (host, container) = (HostId::parse("h-1").unwrap(), ShortId::parse("0123456789ab").unwrap());
    assert_eq!(keys.instance(&host, container), b"/portolan/v1/hosts/h-1/instances/0123456789ab");
    assert_eq!(keys.parse(&keys.session(&host)), Some(Key::Session(host.clone())));
    assert_eq!(keys.parse(&keys.instance(&host, container)), Some(Key::Instance(host.clone(), container)));
    assert_eq!(keys.parse(&keys.echo(&host)), Some(Key::Echo(host)));
    for foreign in [
        "/portolan/v1/hosts/h-1",
        "/portolan/v1/hosts//session",
        "/portolan/v1/hosts/h-1/session/x",
        "/portolan/v2/hosts/h-1/session",
        "/portolan/v1/hosts/h-1/instances/0123456789abcdef",
        "/portolan/v1/hosts/h-1/instances/0123456789AB",
        "/portolan/v1/hosts/h/i/session",
        "",
    ] {
        assert_eq!(keys.parse(foreign.as_bytes()), None, "{foreign}");
    }
    assert_eq!(keys.parse(b"/portolan/v1/hosts/\xff/session"), None);
}

/// Where the numbers of a publication beyond some limits come from: each part as long as its limit, or a little longer.
#[derive(Clone, Debug)]
struct Sizes {
    services: usize,
    ports: usize,
    published: usize,
    tags: usize,
    networks: usize,
    ips: usize,
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let around = |most: usize| prop_oneof![3 => 1..4usize, 1 => most - 1..most + 3, 1 => Just(4 * most)];
    let part = (around(MAX_SERVICES), around(MAX_PORTS), around(MAX_ADDRESSES));
    (part, around(MAX_TAGS), around(MAX_NETWORKS), around(MAX_ADDRESSES)).prop_map(
        |((services, ports, published), tags, networks, ips)| Sizes { services, ports, published, tags, networks, ips },
    )
}

/// The first service and its first port are large, the others small: it is the numbers that matter.
fn large(sizes: &Sizes) -> Publication {
    let number = |at: usize| u16::try_from(at).unwrap();
    let ip = |at: usize| IpAddr::from([10, 0, number(at).to_be_bytes()[0], number(at).to_be_bytes()[1]]);
    let published = |at| Published { ip: ip(at), port: 8080, chosen: at % 2 == 1 };
    let port = |at: usize| Port {
        name: None,
        port: number(at + 1),
        proto: Proto::Tcp,
        published: (0..if at == 0 { sizes.published } else { 1 }).map(published).collect(),
        extra: None,
    };
    let offer = |at: usize| Offer {
        service: Label::parse(&format!("s{at}")).unwrap(),
        namespace: Label::parse("shop").unwrap(),
        tags: (0..if at == 0 { sizes.tags } else { 1 }).map(|tag| format!("t{tag}").into()).collect(),
        weight: 1,
        port: Some(number(sizes.ports)),
        ports: (0..if at == 0 { sizes.ports } else { 1 }).map(port).collect(),
        when_none_ready: None,
    };
    let network = |at: usize| Attachment {
        segment: Arc::new(Segment {
            id: NetworkId(format!("{at:04}").into()),
            name: format!("n{at}").into(),
            driver: if at.is_multiple_of(2) { Driver::Bridge } else { Driver::Overlay },
            scope: if at.is_multiple_of(2) { Scope::Local } else { Scope::Swarm },
            internal: false,
        }),
        ips: (0..if at == 0 { sizes.ips } else { 1 }).map(ip).collect(),
    };
    let publication = publication("0123456789ab");
    Publication {
        common: Arc::new(Common {
            services: (0..sizes.services).map(offer).collect(),
            ..Common::clone(&publication.common)
        }),
        networks: (0..sizes.networks).map(network).collect(),
        ..publication
    }
}

#[test]
fn a_projects_directory_is_optional_and_a_long_one_is_none() {
    let plain = publication("0123456789ab");
    assert!(!String::from_utf8(encode(&plain)).unwrap().contains("directory"));
    for (text, expected) in [("9ae16a3b2f90404f", true), (&*"x".repeat(65), false)] {
        let common = Common { directory: Some(text.into()), ..Common::clone(&plain.common) };
        let made = Publication { common: Arc::new(common), ..plain.clone() };
        let read = decode(made.container, &encode(&made), &mut Interner::default()).unwrap();
        assert_eq!(read.directory, made.directory.clone().filter(|_| expected));
    }
}

#[test]
fn what_others_need_least_is_left_out_first() {
    let sizes = Sizes { services: 1, ports: 300, published: 40, tags: 1, networks: 100, ips: 1 };
    let mut publication = large(&sizes);
    Arc::make_mut(&mut publication.common).services[0].ports[298].name = Some(Label::parse("late").unwrap());
    let (fitting, problems) = fit(&publication);
    let ports = &fitting.services[0].ports;
    assert_eq!(
        (ports.len(), ports[253].port, ports[254].port, ports[255].port),
        (256, 254, 299, 300),
        "named, and main"
    );
    let published = &ports[0].published;
    assert_eq!((published.len(), published.iter().filter(|p| p.chosen).count()), (32, 20), "all that were chosen");
    let networks = fitting.networks.iter();
    assert_eq!(networks.clone().filter(|network| network.scope == Scope::Swarm).count(), 50, "all that others share");
    assert!(networks.is_sorted_by_key(|network| network.id.0.clone()));
    let said: Vec<_> = problems.iter().map(|problem| (problem.found.as_str(), &problem.expected[..10])).collect();
    assert_eq!(
        said,
        [
            ("300 ports of service s0", "at most 25"),
            ("40 addresses that port 1/tcp is published on", "at most 32"),
            ("100 networks", "at most 64"),
        ]
    );
    assert!(problems.iter().all(|problem| problem.place == "container 0123456789ab (shop-web-1)"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_we_write_is_read_again_and_as_whole_as_it_may_be(sizes in sizes()) {
        let publication = large(&sizes);
        let id = publication.container;
        let (fitting, problems) = fit(&publication);
        let value = encode(&fitting);
        prop_assert!(value.len() <= MAX_VALUE);
        let read = decode(id, &value, &mut Interner::default());
        prop_assert_eq!(read.as_ref(), Ok(fitting.as_ref()));
        let as_it_is = decode(id, &encode(&publication), &mut Interner::default());
        prop_assert_eq!(as_it_is.is_ok(), problems.is_empty(), "nothing is left out without need, or unsaid");
        prop_assert_eq!(fit(&fitting), (Cow::Borrowed(fitting.as_ref()), vec![]), "once is enough");
        let Sizes { services, ports, published, tags, networks, ips } = sizes;
        prop_assert_eq!(fitting.services.len(), services.min(MAX_SERVICES));
        prop_assert_eq!(fitting.services[0].ports.len(), ports.min(MAX_PORTS));
        prop_assert_eq!(fitting.services[0].tags.len(), tags.min(MAX_TAGS));
        prop_assert_eq!(fitting.networks.len(), networks.min(MAX_NETWORKS));
        if ports <= MAX_PORTS {
            prop_assert_eq!(fitting.services[0].ports[0].published.len(), published.min(MAX_ADDRESSES));
        }
        if networks <= MAX_NETWORKS {
            prop_assert_eq!(fitting.networks[0].ips.len(), ips.min(MAX_ADDRESSES));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let id = ShortId::parse("0123456789ab").unwrap();
        let mut interner = Interner::default();
        let _ = decode(id, &value, &mut interner);
        let _ = decode_session(&value, &mut interner);
        let mut bent = EXAMPLE.as_bytes().to_vec();
        let at = at.index(bent.len());
        bent[at] = byte;
        if let Ok(publication) = decode(id, &bent, &mut interner) {
            let again = decode(id, &encode(&publication), &mut interner).unwrap();
            prop_assert_eq!(again, publication);
        }
    }
}

#[test]
fn an_instance_that_is_held_is_one_without_a_check_to_those_who_do_not_know() {
    let plain = publication("0123456789ab");
    for health in [Health::None, Health::Healthy, Health::Unhealthy, Health::Starting, Health::Held] {
        let made = Publication { health, ..plain.clone() };
        let text = String::from_utf8(encode(&made)).unwrap();
        assert_eq!(text.contains("\"held\":true"), health == Health::Held, "{text}");
        assert!(health != Health::Held || text.contains("\"health\":\"none\""), "{text}");
        assert_eq!(decode(made.container, text.as_bytes(), &mut Interner::default()).unwrap(), made);
    }
    let odd = String::from_utf8(encode(&Publication { health: Health::Unhealthy, ..plain.clone() })).unwrap();
    let odd = odd.replace("\"unhealthy\"", "\"unhealthy\",\"held\":true");
    let read = decode(plain.container, odd.as_bytes(), &mut Interner::default()).unwrap();
    assert_eq!(read.health, Health::Unhealthy, "a check decides");
}
