//! Labels as people write them, and as an enemy would.

use proptest::prelude::*;

use self::hostile::HOSTILE;
use super::*;
use crate::watch::metadata::ENGINE_KEYS;

#[path = "../../../tests/support/hostile.rs"]
mod hostile;

const SECRET: &str = "s3cr3t,Wort!";

/// Offers as text: `service.namespace[:main] port/proto[=name]… {tag|tag} xweight`, then problems as `key: expected`.
fn show(claim: &Claim, problems: &[Problem]) -> String {
    let offer = |offer: &Offer| {
        let mut text = format!("{}.{}", offer.service, offer.namespace);
        if let Some(port) = offer.port {
            text += &format!(":{port}");
        }
        for port in &offer.ports {
            text += &format!(" {}/{}", port.port, port.proto.as_str());
            if let Some(name) = &port.name {
                text += &format!("={name}");
            }
        }
        if !offer.tags.is_empty() {
            text += &format!(" {{{}}}", offer.tags.join("|"));
        }
        if offer.weight != 1 {
            text += &format!(" x{}", offer.weight);
        }
        if let Some(policy) = offer.when_none_ready {
            text += &format!(" or {policy}");
        }
        text
    };
    let mut lines: Vec<String> = claim.offers.iter().map(offer).collect();
    let key = |problem: &Problem| {
        let place = problem.place.strip_prefix("here").expect("each place begins with the given one");
        format!("!{}", place.trim_start_matches(", ").trim_start_matches("label "))
    };
    lines.extend(problems.iter().map(key));
    lines.join("; ")
}

/// A container called `box` with these ports, all of them published.
fn read_box(options: &Options, metadata: &Metadata, ports: &BTreeSet<(u16, Proto)>) -> (Claim, Vec<Problem>) {
    read(options, "here", Subject { name: "box", image: "image", ports, published: ports, metadata, member: true })
}

/// Reads labels (and `$KEY=value` as environment) of a container called `box` with ports 80/tcp and 443/tcp.
fn read_words(words: &[&str]) -> (Claim, Vec<Problem>) {
    let (environment, labels): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with('$'));
    let labels = labels.iter().map(|label| label.split_once('=').expect("key=value"));
    let metadata = Metadata::gather(labels, environment.iter().map(|variable| &variable[1..]));
    read_box(&Options::default(), &metadata, &[(80, Proto::Tcp), (443, Proto::Tcp)].into())
}

#[track_caller]
fn check(words: &[&str], expected: &str) {
    let (claim, problems) = read_words(words);
    assert_eq!(show(&claim, &problems), expected, "{words:?}");
}

const SHOP: &str = "com.docker.compose.project=shop";
const WEB: &str = "com.docker.compose.service=web";
const ONE_OFF: &str = "com.docker.compose.oneoff=True";

#[test]
fn names_are_derived_where_none_is_given() {
    check(&[], "box.default 80/tcp 443/tcp");
    check(&[SHOP, WEB], "web.shop 80/tcp 443/tcp");
    check(&[SHOP, WEB, "com.docker.compose.oneoff=False"], "web.shop 80/tcp 443/tcp");
    check(&[SHOP, WEB, "com.docker.compose.oneoff=True"], "");
    check(&[SHOP, WEB, ONE_OFF, "portolan.ignore=false"], "web.shop 80/tcp 443/tcp");
    check(&[SHOP, WEB, ONE_OFF, "portolan.service=api"], "api.global 80/tcp 443/tcp");
    check(&[SHOP, WEB, ONE_OFF, "portolan.ignore=true", "portolan.service=api"], "");
    // Not by what the application has for itself, nor by a label that is about something else.
    check(&[SHOP, WEB, ONE_OFF, "$SERVICE_NAME=api"], "");
    check(&[SHOP, WEB, ONE_OFF, "SERVICE_NAME=api"], "");
    check(&[SHOP, WEB, ONE_OFF, "$SERVICE_IGNORE="], "");
    check(&[SHOP, WEB, ONE_OFF, "portolan.port=80", "portolan.namespace=x"], "");
    check(&[SHOP, WEB, "com.docker.compose.hook=pre_start"], "");
    check(&["com.docker.swarm.service.name=st_web", "com.docker.stack.namespace=st"], "web.st 80/tcp 443/tcp");
    check(&["com.docker.swarm.service.name=st_web"], "st_web.default 80/tcp 443/tcp");
    check(&["com.docker.swarm.service.name=other", "com.docker.stack.namespace=st"], "other.st 80/tcp 443/tcp");
}

#[test]
fn a_given_name_is_global_unless_a_namespace_is_given_too() {
    check(&["portolan.service=api", SHOP, WEB], "api.global 80/tcp 443/tcp");
    check(&["portolan.service=api", "portolan.namespace=front", SHOP], "api.front 80/tcp 443/tcp");
    check(&["portolan.namespace=front", SHOP, WEB], "web.front 80/tcp 443/tcp");
    check(&["portolan.namespace=global", SHOP, WEB], "web.global 80/tcp 443/tcp");
    check(&["portolan.service=My.Api"], "my-api.global 80/tcp 443/tcp");
}

#[test]
fn portolan_labels_beat_service_labels_and_those_beat_the_environment() {
    check(&["$SERVICE_NAME=c", "SERVICE_NAME=b", "portolan.service=a"], "a.global 80/tcp 443/tcp");
    check(&["$SERVICE_NAME=c", "SERVICE_NAME=b"], "b.global 80/tcp 443/tcp");
    check(&["$SERVICE_NAME=c", "$SERVICE_name=d"], "box.default 80/tcp 443/tcp; d.global 80/tcp 443/tcp");
    check(&["$service_NAME=c"], "box.default 80/tcp 443/tcp");
}

#[test]
fn a_name_from_the_environment_comes_beside_the_derived_one_and_costs_nothing() {
    let own = "web.shop 80/tcp 443/tcp";
    check(&["$SERVICE_NAME=api", SHOP, WEB], &format!("api.global 80/tcp 443/tcp; {own}"));
    check(&["$SERVICE_NAME=web", SHOP, WEB], &format!("web.global 80/tcp 443/tcp; {own}"));
    check(&["$SERVICE_NAME=web", "portolan.namespace=shop", SHOP, WEB], own);
    check(
        &["$SERVICE_NAME=api", "portolan.namespace=front", SHOP, WEB],
        "api.front 80/tcp 443/tcp; web.front 80/tcp 443/tcp",
    );
    check(&["$SERVICE_NAME=box", "portolan.namespace=default"], "box.default 80/tcp 443/tcp");
    for broken in ["Order Service", "a=b", "*", "web,api"] {
        check(&[&format!("$SERVICE_NAME={broken}"), SHOP, WEB], &format!("{own}; !environment SERVICE_NAME"));
    }
    check(&[&format!("$SERVICE_NAME={}", "x".repeat(5000)), SHOP, WEB], &format!("{own}; !environment SERVICE_NAME"));
    check(&["$SERVICE_NAME=", "$SERVICE_80_NAME=", SHOP, WEB], own);
    // Of one port.
    check(&["$SERVICE_80_NAME=api", SHOP, WEB], &format!("api.global 80/tcp; {own}"));
    check(&["$SERVICE_80_NAME=a b", SHOP, WEB], &format!("{own}; !environment SERVICE_80_NAME"));
    check(
        &["$SERVICE_80_NAME=api", "$SERVICE_NAME=both", SHOP, WEB],
        &format!("api.global 80/tcp; both.global 80/tcp 443/tcp; {own}"),
    );
    // A label is the user's own word for it.
    check(&["$SERVICE_80_NAME=api", "portolan.service=given"], "api.global 80/tcp; given.global 80/tcp 443/tcp");
    check(
        &["$SERVICE_NAME=both", "portolan.port.80.service=api"],
        "api.global 80/tcp; both.global 443/tcp; box.default 443/tcp",
    );
    check(&["$SERVICE_NAME=c", "SERVICE_NAME=a b"], "!SERVICE_NAME");

    let read_as = |options: &Options, variables: &[&str], ports: &[(u16, Proto)]| {
        let metadata = Metadata::with(options.gather(), [], variables.iter().copied());
        let (claim, problems) = read_box(options, &metadata, &ports.iter().copied().collect());
        show(&claim, &problems)
    };
    let both = [(80, Proto::Tcp), (443, Proto::Tcp)];
    let explicit = Options { explicit: true, ..Options::default() };
    assert_eq!(read_as(&explicit, &["SERVICE_NAME=api"], &both), "api.global 80/tcp 443/tcp");
    assert_eq!(read_as(&explicit, &["SERVICE_80_NAME=api"], &both), "api.global 80/tcp");
    let off = Options { without_environment: true, ..Options::default() };
    assert_eq!(
        read_as(&off, &["SERVICE_NAME=api", "SERVICE_80_NAME=x", "SERVICE_IGNORE=1"], &both),
        "box.default 80/tcp 443/tcp"
    );
    assert_eq!(read_as(&Options::default(), &["SERVICE_NAME=api"], &[]), "api.global; box.default", "without a port");
    let registrator = Options { compat: Compat::RegistratorInternal, ..Options::default() };
    assert_eq!(read_as(&registrator, &["SERVICE_NAME=api"], &both[..1]), "api.global 80/tcp", "there it is the name");
}

#[test]
fn a_port_may_have_a_service_of_its_own() {
    check(&["SERVICE_80_NAME=api"], "api.global 80/tcp; box.default 443/tcp");
    check(&["portolan.port.80.service=api"], "api.global 80/tcp; box.default 443/tcp");
    check(&["SERVICE_80_name=api", "SERVICE_443_NAME=tls"], "api.global 80/tcp; tls.global 443/tcp");
    check(&["SERVICE_80_NAME=api", "SERVICE_443_NAME=api"], "api.global 80/tcp 443/tcp");
    check(&["SERVICE_80_NAME=api", "SERVICE_NAME=api"], "api.global 80/tcp 443/tcp");
    check(&["SERVICE_80-443_NAME=both"], "both.global 80/tcp 443/tcp");
    check(&["SERVICE_1-90_NAME=low", "SERVICE_1-60000_NAME=wide"], "low.global 80/tcp; wide.global 443/tcp");
    check(&["SERVICE_80_NAME=api", "SERVICE_1-60000_NAME=wide"], "api.global 80/tcp; wide.global 443/tcp");
    check(
        &["SERVICE_80_TCP_NAME=api", "SERVICE_80_NAME=web", "SERVICE_443_udp_NAME=no"],
        "api.global 80/tcp; box.default 443/tcp",
    );
    check(&["SERVICE_90-80_NAME=no", "SERVICE_0-80_NAME=no"], "box.default 80/tcp 443/tcp");
    check(&["SERVICE_9000_NAME=extra"], "box.default 80/tcp 443/tcp; extra.global 9000/tcp");
    check(&["SERVICE_80_NAME=api", "portolan.port=443"], "api.global 80/tcp; box.default:443 443/tcp");
}

#[test]
fn the_main_port_and_port_names_are_taken_and_may_add_ports() {
    check(&["portolan.port=443", "portolan.port.80.name=http"], "box.default:443 80/tcp=http 443/tcp");
    check(&["portolan.port=8080"], "box.default:8080 80/tcp 443/tcp 8080/tcp");
}

#[test]
fn tags_and_weight() {
    check(&[r"portolan.tags= a,b\,c ,,a", "portolan.weight=7"], "box.default 80/tcp 443/tcp {a|b,c} x7");
    check(
        &["SERVICE_TAGS=g", "SERVICE_80_NAME=api", "SERVICE_80_TAGS=p"],
        "api.global 80/tcp {p}; box.default 443/tcp {g}",
    );
    check(&["SERVICE_TAGS=g", "SERVICE_80_TAGS=p"], "box.default 80/tcp 443/tcp {g|p}");
    check(&["SERVICE_TAGS=g", "SERVICE_80-443_TAGS=p"], "box.default 80/tcp 443/tcp {p}");
    let options = Options { tags: ["host".into(), "p".into()].into(), ..Options::default() };
    let metadata = Metadata::gather([("SERVICE_TAGS", "p")], []);
    let (claim, _) = read_box(&options, &metadata, &BTreeSet::new());
    assert_eq!(show(&claim, &[]), "box.default {p|host}");
}

#[test]
fn ignoring() {
    check(&["portolan.ignore=true"], "");
    check(&["portolan.ignore="], "");
    check(&["portolan.ignore=false"], "box.default 80/tcp 443/tcp");
    check(&["$SERVICE_IGNORE=false"], "");
    check(&["$SERVICE_IGNORE="], "box.default 80/tcp 443/tcp");
    check(&["$SERVICE_IGNORE=1", "portolan.ignore=no"], "box.default 80/tcp 443/tcp");
    check(&["SERVICE_80_IGNORE=true"], "box.default 443/tcp");
    check(&["$SERVICE_80_IGNORE=false", "SERVICE_443_IGNORE="], "box.default 443/tcp");
    check(&["SERVICE_80_IGNORE=1", "SERVICE_443_IGNORE=1"], "");
    let (claim, _) = read_words(&["SERVICE_1-9999_IGNORE=1"]);
    assert_eq!(claim.silence, Some(Silence::Ignored("SERVICE_1-9999_IGNORE".into())));
}

#[test]
fn a_variable_may_beat_a_label_but_not_our_own() {
    let wanted = Gather { precedence: Precedence::Environment, ..Gather::default() };
    for (label, service) in [("SERVICE_NAME", "variable"), ("portolan.service", "label")] {
        let metadata = Metadata::with(wanted, [(label, "label")], ["SERVICE_NAME=variable"]);
        let options = Options { precedence: Precedence::Environment, ..Options::default() };
        let (claim, _) = read_box(&options, &metadata, &BTreeSet::new());
        let services: Vec<_> = claim.offers.iter().map(|offer| offer.service.as_str()).collect();
        assert_eq!(services, [service], "in the place of the derived one");
    }
}

#[test]
fn only_what_was_given_a_name_is_offered_if_the_operator_wants_it_explicit() {
    let options = Options { explicit: true, ..Options::default() };
    let of = |labels: &[(&str, &str)]| {
        let metadata = Metadata::gather(labels.iter().copied(), []);
        let (claim, problems) = read_box(&options, &metadata, &[(80, Proto::Tcp), (443, Proto::Tcp)].into());
        (show(&claim, &problems), claim.silence)
    };
    assert_eq!(of(&[]), (String::new(), Some(Silence::Unnamed)));
    assert_eq!(of(&[("com.docker.compose.service", "web")]).1, Some(Silence::Unnamed));
    assert_eq!(of(&[("portolan.service", "web")]), ("web.global 80/tcp 443/tcp".into(), None));
    assert_eq!(of(&[("SERVICE_80_NAME", "web")]), ("web.global 80/tcp".into(), None));
    assert_eq!(of(&[("portolan.service", "a b")]).1, Some(Silence::Nameless));
}

#[test]
fn a_portless_container_offers_its_service() {
    let (claim, problems) = read_box(&Options::default(), &Metadata::default(), &BTreeSet::new());
    assert_eq!(show(&claim, &problems), "box.default");
}

#[test]
fn without_namespaces_everything_is_global() {
    let off = Options { namespaces: Namespaces::Off, ..Options::default() };
    for (labels, service) in [
        (&[("com.docker.compose.project", "shop"), ("com.docker.compose.service", "web")][..], "web"),
        (&[("com.docker.stack.namespace", "shop"), ("com.docker.swarm.service.name", "shop_web")], "web"),
        (&[("portolan.namespace", "shop"), ("portolan.service", "api")], "api"),
        // What namespaces would refuse.
        (&[("com.docker.compose.project", "global"), ("portolan.namespace", "a b")], "box"),
        (&[], "box"),
    ] {
        let metadata = Metadata::gather(labels.iter().copied(), []);
        let (claim, problems) = read_box(&off, &metadata, &BTreeSet::new());
        let offers: Vec<_> = claim.offers.iter().map(|o| (o.service.as_str(), o.namespace.as_str())).collect();
        assert_eq!((offers, claim.namespace, problems), (vec![(service, "global")], Label::global(), Vec::new()));
        assert_eq!((namespace(&off, &metadata), claim.directory), (Label::global(), None));
    }
}

#[test]
fn a_project_has_a_digest_of_its_directory_where_it_is_the_namespace() {
    let (project, place) = ("com.docker.compose.project", "com.docker.compose.project.working_dir");
    let digest = |labels: &[(&str, &str)]| {
        let metadata = Metadata::gather(labels.iter().copied(), []);
        read_box(&Options::default(), &metadata, &BTreeSet::new()).0.directory
    };
    let of = |path| digest(&[(project, "shop"), (place, path)]);
    assert_eq!(of("/a"), of("/a/"), "one directory");
    assert!(of("/srv/shop").is_some_and(|digest| digest.len() == 16 && !digest.contains("shop")));
    assert_ne!(of("/srv/shop"), of("/srv/shop2"));
    assert_eq!((of(""), digest(&[(place, "/a")])), (None, None));
    assert_eq!(digest(&[(project, "shop"), (place, "/a"), ("portolan.namespace", "both")]), None);
}

#[test]
fn an_ignored_container_still_asks_from_its_namespace() {
    assert_eq!(read_words(&[SHOP, "portolan.ignore=true"]).0.namespace.as_str(), "shop");
    assert_eq!(read_words(&[SHOP, "portolan.namespace=front"]).0.namespace.as_str(), "front");
    assert_eq!(read_words(&[SHOP, "portolan.namespace=not one"]).0.namespace.as_str(), "shop");
    assert_eq!(read_words(&["com.docker.compose.project=global"]).0.namespace.as_str(), "default");
    assert_eq!(read_words(&[]).0.namespace.as_str(), "default");
}

#[test]
fn hostile_labels_are_problems_and_harm_only_what_they_say() {
    assert!(HOSTILE.len() >= 30);
    for (words, expected) in HOSTILE {
        check(words, &expected.replace("REST", "box.default 80/tcp 443/tcp"));
    }
}

#[test]
fn a_mistyped_label_is_told_the_right_one() {
    for (wrong, right) in [
        ("portolan.servcie", "portolan.service"),
        ("portolan.port.80.nmae", "portolan.port.<n>.name"),
        ("portolan.Namespace", "portolan.namespace"),
    ] {
        let (_, problems) = read_words(&[&format!("{wrong}=x")]);
        assert_eq!(problems[0].expected, format!("a known label; did you mean {right}?"));
    }
    let (_, problems) = read_words(&["portolan.entirely.different=x"]);
    assert!(problems[0].expected.starts_with("one of portolan.service, "), "{problems:?}");
}

/// It is published all the same, so that nothing else of the container is lost.
#[test]
fn a_name_that_programs_do_not_find_is_a_problem() {
    for (name, is_found) in [
        ("web", true),
        ("web-1", true),
        ("1web", true),
        ("_web", true),
        ("0x", true),
        ("0xg", true),
        ("10", false),
        ("0x7f", false),
        ("007", false),
        ("-web-", false),
        ("web-", false),
        ("-web", false),
    ] {
        let (claim, problems) = read_words(&[&format!("portolan.service={name}")]);
        assert_eq!(claim.offers.len(), 1, "{name}");
        let told: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
        let expected = [format!("here, service {name}")];
        assert_eq!(told, if is_found { vec![] } else { vec![expected[0].as_str()] }, "{name}");
    }
    let (_, problems) = read_words(&["portolan.port.80.service=10", "portolan.port.443.service=web"]);
    assert!(problems[0].expected.contains("for an address"), "{problems:?}");
    let metadata = Metadata::default();
    let ports = BTreeSet::new();
    let subject =
        Subject { name: "12", image: "image", ports: &ports, published: &ports, metadata: &metadata, member: true };
    let (_, problems) = read(&Options::default(), "here", subject);
    assert_eq!(problems.len(), 1, "a container's own name, too: {problems:?}");
}

#[test]
fn a_list_of_services_is_told_how_to_name_several() {
    let (_, problems) = read_words(&["portolan.service=web,api"]);
    assert_eq!(problems[0].expected, "one name; several services are named by portolan.port.<n>.service");
}

#[test]
fn a_label_of_a_mebibyte_is_neither_held_nor_quoted() {
    let huge = "x".repeat(1 << 20);
    for key in ["portolan.service", "portolan.tags", "portolan.ignore", "SERVICE_NAME", "com.docker.compose.project"] {
        let metadata = Metadata::gather([(key, huge.as_str())], []);
        let (claim, problems) = read_box(&Options::default(), &metadata, &BTreeSet::new());
        assert_eq!(problems.len(), 1, "{key}");
        assert!(format!("{metadata:?}{claim:?}{problems:?}").len() < 1000, "{key}");
    }
    let unknown = format!("portolan.{huge}");
    let metadata = Metadata::gather([(unknown.as_str(), "")], []);
    let (_, problems) = read_box(&Options::default(), &metadata, &BTreeSet::new());
    assert!(format!("{problems:?}").len() < 1000);
}

#[test]
fn more_ports_tags_keys_and_problems_than_anybody_needs_are_cut() {
    let ports: BTreeSet<_> = (1..=1000).map(|port| (port, Proto::Udp)).collect();
    let metadata = Metadata::gather([("portolan.port.777.name", "mine")], []);
    let (claim, problems) = read_box(&Options::default(), &metadata, &ports);
    assert_eq!((claim.offers[0].ports.len(), problems.len()), (MAX_PORTS, 1));
    assert!(claim.offers[0].ports.iter().any(|port| port.port == 777), "a named port is kept before others");
    let published = (901..=963).map(|port| (port, Proto::Udp)).collect();
    for (words, kept) in [
        (&[][..], (1, 901)),
        (&[("portolan.port", "999")], (901, 999)),
        (&[("portolan.port.999.name", "x")], (901, 999)),
    ] {
        let metadata = Metadata::gather(words.iter().copied(), []);
        let subject = Subject {
            name: "box",
            image: "image",
            ports: &ports,
            published: &published,
            metadata: &metadata,
            member: true,
        };
        let held = read(&Options::default(), "here", subject).0.offers[0].ports.clone();
        assert_eq!((held.len(), held[0].port), (MAX_PORTS, kept.0), "published ones are kept before others: {words:?}");
        assert!((901..=963).all(|port| held.iter().any(|held| held.port == port)), "{words:?}");
        assert!(held.iter().any(|held| held.port == kept.1), "{words:?}");
    }

    let tags = (0..100).map(|tag| tag.to_string()).collect::<Vec<_>>().join(",") + ",";
    let long = "t".repeat(256);
    let (claim, problems) = read_words(&[&format!("portolan.tags={long},{tags}")]);
    assert_eq!((claim.offers[0].tags.len(), problems.len()), (MAX_TAGS, 2));

    let labels: Vec<String> = (0..5000).map(|number| format!("portolan.x{number}=")).collect();
    let (claim, problems) = read_words(&labels.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((claim.offers.len(), problems.len()), (1, MAX_PROBLEMS + 1));
}

#[test]
fn only_recognised_keys_are_held() {
    let metadata = Metadata::gather(
        [("password", SECRET), ("SERVICE_ID", SECRET), ("com.docker.compose.version", SECRET)],
        ["PASSWORD=s3cr3t", "SERVICE_PASSWORD=s3cr3t", "SERVICE_80_CHECK_NOTES=s3cr3t"],
    );
    assert!(metadata.entries.is_empty());
}

/// Keys that mean something, that nearly do, and any others.
fn key() -> impl Strategy<Value = String> {
    let port = prop_oneof![Just("80".to_owned()), Just("443".to_owned()), "[0-9]{0,6}"];
    prop_oneof![
        prop::sample::select(ENGINE_KEYS.as_slice()).prop_map(str::to_owned),
        prop::sample::select(KNOWN_KEYS.as_slice()).prop_map(str::to_owned),
        (port.clone(), "name|service|nam|").prop_map(|(port, field)| format!("portolan.port.{port}.{field}")),
        (port, "NAME|TAGS|IGNORE|UDP_NAME|name|ID").prop_map(|(port, field)| format!("SERVICE_{port}_{field}")),
        "SERVICE_(NAME|TAGS|IGNORE|name|ID)",
        "portolan\\.\\PC{0,20}",
        any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,5}", "[0-9]{1,6}", "\\PC{0,70}", any::<String>(), Just("x,".repeat(3000)), Just("true".into())]
}

proptest! {
    #[test]
    fn any_metadata_is_read_without_panic_and_within_limits(
        labels in prop::collection::vec((key(), value()), 0..12),
        environment in prop::collection::vec((key(), value()), 0..12),
        name in any::<String>(),
        ports in prop::collection::btree_set((1u16.., prop::sample::select(vec![Proto::Tcp, Proto::Udp])), 0..80),
    ) {
        let variables: Vec<String> = environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let metadata = Metadata::gather(labels, variables.iter().map(String::as_str));
        let (claim, problems) = read(
            &Options::default(),
            "here",
            Subject { name: &name, image: "image", ports: &ports, published: &ports, metadata: &metadata, member: true },
        );
        prop_assert!(problems.len() <= MAX_PROBLEMS + 1);
        let services: BTreeSet<_> = claim.offers.iter().map(|offer| (&offer.service, &offer.namespace)).collect();
        prop_assert_eq!(services.len(), claim.offers.len());
        let mut all = 0;
        for offer in &claim.offers {
            for label in [&offer.service, &offer.namespace] {
                prop_assert_eq!(&Label::parse(label.as_str()).unwrap(), label);
            }
            all += offer.ports.len();
            prop_assert!(offer.ports.is_sorted_by_key(|port| (port.port, port.proto)));
            prop_assert!(offer.port.is_none_or(|main| offer.ports.iter().any(|port| port.port == main)));
            prop_assert!(offer.tags.len() <= MAX_TAGS);
            prop_assert!(offer.tags.iter().all(|tag| !tag.is_empty() && tag.len() <= MAX_TAG));
        }
        // A port may have its container's name, and two more from the environment.
        prop_assert!(all <= 3 * MAX_PORTS);
    }

    #[test]
    fn no_problem_shows_a_value_of_the_environment(
        keys in prop::collection::vec(
            "SERVICE_(NAME|TAGS|IGNORE|80_NAME|81_NAME|80_TAGS|[0-9]{1,5}_NAME)", 1..6),
        before in "[ ,!é]{0,3}",
        repeat in prop_oneof![Just(1usize), Just(30), Just(1000)],
        ignored in any::<bool>(),
    ) {
        let value = format!("{before}ZQXJ {}", "ZQXJ,".repeat(repeat));
        let variables: Vec<String> = keys.iter().map(|key| format!("{key}={value}")).collect();
        let labels = ignored.then_some(("portolan.ignore", "perhaps"));
        let metadata = Metadata::gather(labels, variables.iter().map(String::as_str));
        let (_, problems) = read_box(&Options::default(), &metadata, &[(80, Proto::Tcp)].into());
        for text in [format!("{problems:?}"), format!("{metadata:?}")] {
            prop_assert!(!text.contains("ZQ") && !text.contains('é') && !text.contains("'!'"), "{}", text);
        }
    }
}

#[test]
fn whom_to_give_while_none_is_ready_is_the_services_own_choice() {
    check(&["portolan.when-none-ready=unhealthy,draining"], "box.default 80/tcp 443/tcp or unhealthy,draining");
    check(&["portolan.when-none-ready= none"], "box.default 80/tcp 443/tcp or none");
    let both = ["portolan.port.443.service=api", "portolan.when-none-ready=draining"];
    check(&both, "api.global 443/tcp or draining; box.default 80/tcp or draining");
    check(&["portolan.when-none-ready=starting"], "box.default 80/tcp 443/tcp; !portolan.when-none-ready");
    check(&["portolan.when-none-raedy=none"], "box.default 80/tcp 443/tcp; !portolan.when-none-raedy");
}
