use proptest::prelude::*;

use super::*;

fn read(name: &str) -> String {
    let labels = name.strip_suffix('.').unwrap_or(name).split('.').filter(|label| !label.is_empty());
    let name = Name::from_labels(labels.map(str::as_bytes)).unwrap();
    let text = fold(&name);
    let near = |named: Named<'_>| match named.namespace {
        Some(namespace) => format!("{} in {namespace}", named.service),
        None => named.service.to_owned(),
    };
    match classify(&text, &Apex::default()) {
        Subject::Apex => "apex".into(),
        Subject::Bare(service) => format!("bare {service}"),
        Subject::Service(named) => format!("service {}", near(named)),
        Subject::Instance(instance, named) => format!("instance {instance} of {}", near(named)),
        Subject::All(named) => format!("all of {}", near(named)),
        Subject::Port(port, proto, named) => format!("port {port}/{} of {}", proto.as_str(), near(named)),
        Subject::Transport(proto, named) => format!("ports {} of {}", proto.as_str(), near(named)),
        Subject::On(named, host) => format!("{} on {host}", near(named)),
        Subject::Host(host) => format!("host {host}"),
        Subject::Loose(Loose::All(service)) => format!("perhaps all of {service}"),
        Subject::Loose(Loose::Port(port, proto, service)) => {
            format!("perhaps port {port}/{} of {service}", proto.as_str())
        }
        Subject::Loose(Loose::Transport(proto, service)) => format!("perhaps ports {} of {service}", proto.as_str()),
        Subject::Nothing => "nothing".into(),
        Subject::Reverse(prefix) => format!("reverse {prefix}"),
        Subject::BelowReverse(prefix) => format!("below {prefix}"),
        Subject::Outside => "outside".into(),
    }
}

#[test]
fn a_name_means_one_thing() {
    for (name, expected) in [
        (".", "outside"),
        ("svc.internal", "apex"),
        ("SVC.Internal", "apex"),
        ("internal", "bare internal"),
        ("web", "bare web"),
        ("WeB", "bare web"),
        ("web.svc.internal", "service web"),
        ("wEb.sVc.iNternal", "service web"),
        ("web.shop.svc.internal", "service web in shop"),
        ("my_app.shop.svc.internal", "service my_app in shop"),
        ("all.svc.internal", "service all"),
        ("all.web.svc.internal", "service all in web"),
        ("all.web.shop.svc.internal", "all of web in shop"),
        ("0123456789ab.web.shop.svc.internal", "instance 0123456789ab of web in shop"),
        ("shop-web-1.web.shop.svc.internal", "instance shop-web-1 of web in shop"),
        ("_http._tcp.web.svc.internal", "port http/tcp of web"),
        ("_dns._udp.web.shop.svc.internal", "port dns/udp of web in shop"),
        ("_m3ua._sctp.web.shop.svc.internal", "port m3ua/sctp of web in shop"),
        ("_tcp.web.svc.internal", "ports tcp of web"),
        ("_tcp.web.shop.svc.internal", "ports tcp of web in shop"),
        ("_tcp.svc.internal", "service _tcp"),
        ("_http._quic.web.svc.internal", "instance _http of _quic in web"),
        ("http._tcp.web.shop.svc.internal", "nothing"),
        ("a.b.c.d.e.svc.internal", "nothing"),
        ("a.b.c.d.e.f.g.svc.internal", "nothing"),
        ("all.web", "perhaps all of web"),
        ("ALL.Web", "perhaps all of web"),
        ("all.web.shop", "outside"),
        ("_tcp.web", "perhaps ports tcp of web"),
        ("_http._tcp.web", "perhaps port http/tcp of web"),
        ("_http._quic.web", "outside"),
        ("_http._tcp.web.shop", "outside"),
        ("http._tcp.web", "outside"),
        ("_acme-challenge.web", "outside"),
        ("web.on.h1.host.svc.internal", "web on h1"),
        ("web.on.h1.shop.svc.internal", "nothing"),
        ("websvc.internal", "outside"),
        ("xsvc.internal", "outside"),
        ("example.com", "outside"),
        ("svc.internal.example.com", "outside"),
        ("in-addr.arpa", "outside"),
        ("1.in-addr.arpa", "reverse 1.0.0.0/8"),
        ("18.172.in-addr.arpa", "reverse 172.18.0.0/16"),
        ("2.0.18.172.in-addr.arpa", "reverse 172.18.0.2/32"),
        ("2.0.18.172.IN-ADDR.ARPA", "reverse 172.18.0.2/32"),
        ("x.2.0.18.172.in-addr.arpa", "below 172.18.0.2/32"),
        ("1.2.0.18.172.in-addr.arpa", "below 172.18.0.2/32"),
        ("b._dns-sd._udp.0.0.18.172.in-addr.arpa", "below 172.18.0.0/32"),
        ("x.18.172.in-addr.arpa", "below 172.18.0.0/16"),
        ("02.0.18.172.in-addr.arpa", "below 172.18.0.0/24"),
        ("256.in-addr.arpa", "outside"),
        ("+1.in-addr.arpa", "outside"),
        ("d.f.ip6.arpa", "reverse fd00::/8"),
        ("D.F.ip6.arpa", "reverse fd00::/8"),
        ("g.d.f.ip6.arpa", "below fd00::/8"),
        ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "reverse fd00::2/128"),
    ] {
        assert_eq!(read(name), expected, "{name}");
    }
}

#[test]
fn a_dot_or_a_foreign_octet_inside_a_label_equals_no_name_of_ours() {
    let dotted = Name::from_labels([b"web.shop".as_slice(), b"svc", b"internal"]).unwrap();
    assert_eq!(fold(&dotted), "web?shop.svc.internal");
    let across = Name::from_labels([b"web".as_slice(), b"svc.internal"]).unwrap();
    assert_eq!(classify(&fold(&across), &Apex::default()), Subject::Outside);
    let foreign = Name::from_labels([b"caf\xc3\xa9\0".as_slice(), b"svc", b"internal"]).unwrap();
    assert_eq!(fold(&foreign), "caf???.svc.internal");
}

#[test]
fn an_apex_is_a_name_that_leaves_room() {
    let long = |length: usize| format!("{}.{}", "a".repeat(63), "b".repeat(length - 64));
    for (text, expected) in [
        ("svc.internal", Ok("svc.internal")),
        ("svc.internal.", Ok("svc.internal")),
        ("Docker.Example.COM", Ok("docker.example.com")),
        ("internal", Ok("internal")),
        ("", Err("a zone needs at least one label, such as svc.internal")),
        (".", Err("a zone needs at least one label, such as svc.internal")),
        ("a..b", Err("zone \"a..b\" has a bad label \"\": a name must not be empty")),
        ("a.b c", Err("zone \"a.b c\" has a bad label \"b c\": a name holds letters, digits, '-' and '_', not ' '")),
        (
            "x.10.in-addr.arpa",
            Err(
                "zone \"x.10.in-addr.arpa\" lies in arpa, where addresses have their names: choose one such as svc.internal",
            ),
        ),
    ] {
        let read = Apex::parse(text).map(|apex| apex.to_string()).map_err(|error| error.to_string());
        assert_eq!(read, expected.map(str::to_owned).map_err(str::to_owned), "{text:?}");
    }
    assert!(Apex::parse(&long(112)).is_ok());
    assert!(Apex::parse(&long(113)).unwrap_err().to_string().ends_with("choose one of at most 112 characters"));
}

#[test]
fn the_longest_instance_fits_below_the_longest_apex() {
    let apex = Apex::parse(&format!("{}.{}", "a".repeat(63), "b".repeat(48))).unwrap();
    let label = Label::parse(&"x".repeat(63)).unwrap();
    let offer = Offer {
        service: label.clone(),
        namespace: label,
        tags: Box::default(),
        weight: 1,
        port: None,
        ports: Box::default(),
        when_none_ready: None,
    };
    // `len` counts a dot per label; the wire has the root besides.
    assert_eq!(apex.instance(ShortId::parse("0123456789ab").unwrap(), &offer).len() + 1, 255);
}

proptest! {
    #[test]
    fn a_reverse_name_reads_back_as_its_prefix(bits: u128, octets in 1u8..=4, nibbles in 1u8..=32) {
        let v4 = Ipv4Net::new(Ipv4Addr::from((bits >> 96) as u32), octets * 8).unwrap().trunc();
        let v6 = Ipv6Net::new(Ipv6Addr::from(bits), nibbles * 4).unwrap().trunc();
        for prefix in [IpNet::V4(v4), IpNet::V6(v6)] {
            let text = fold(&reverse_name(prefix));
            prop_assert_eq!(classify(&text, &Apex::default()), Subject::Reverse(prefix));
        }
    }

    #[test]
    fn any_labels_are_read_without_panic(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..12)) {
        if let Ok(name) = Name::from_labels(labels.iter().map(Vec::as_slice)) {
            classify(&fold(&name), &Apex::default());
        }
    }
}

#[test]
fn two_labels_that_are_no_service_have_one_second_reading() {
    let within = |service, namespace| Named { service, namespace: Some(namespace) };
    let near = |service| Named { service, namespace: None };
    for (named, expected) in [
        (within("all", "web"), Some(Second::All(near("web")))),
        (within("0123456789ab", "web"), Some(Second::Instance("0123456789ab", near("web")))),
        (within("0123456789a", "web"), None),
        (within("0123456789ax", "web"), None),
        (within("h1", "host"), Some(Second::Host("h1"))),
        (within("all", "host"), Some(Second::Host("all"))),
        (within("web", "shop"), None),
        (near("all"), None),
    ] {
        assert_eq!(second(named), expected, "{named:?}");
    }
}
