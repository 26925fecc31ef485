//! The examples of Registrator's documentation ("Service Object", "Quickstart", "Backend Reference") with the services
//! that it says they have.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Offer, Silence},
    watch::{
        labels::{self, Namespaces, Options, Subject, read},
        metadata::{Gather, Metadata},
    },
};

/// A container as its documentation runs it: `-e`, `-l`, `--expose` and `-p` as words, the image last.
struct Run {
    exposed: BTreeSet<(u16, Proto)>,
    published: BTreeSet<(u16, Proto)>,
    variables: Vec<String>,
    labels: Vec<(String, String)>,
    name: String,
    image: String,
}

fn port(text: &str) -> (u16, Proto) {
    let (number, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    (number.parse().unwrap(), Proto::parse(proto).unwrap())
}

/// Takes a command line apart; ports that an image exposes by itself are given as `--expose`, too.
fn run(command: &str) -> Run {
    let mut words = command.split(' ').filter(|word| !word.is_empty());
    let mut run = Run {
        exposed: BTreeSet::new(),
        published: BTreeSet::new(),
        variables: Vec::new(),
        labels: Vec::new(),
        name: "box".into(),
        image: String::new(),
    };
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("a value");
        match word {
            "-p" => _ = run.published.insert(port(next().rsplit(':').next().unwrap())),
            "--expose" => _ = run.exposed.insert(port(next())),
            "-P" => run.published = run.exposed.clone(),
            "-e" => run.variables.push(next().into()),
            "-l" => run.labels.push(next().split_once('=').map(|(key, value)| (key.into(), value.into())).unwrap()),
            "--name" => run.name = next().into(),
            image => run.image = image.into(),
        }
    }
    run.exposed.extend(&run.published);
    run
}

fn options(compat: Compat) -> Options {
    Options { compat, namespaces: Namespaces::Off, ..Options::default() }
}

/// The services as text: `name port/proto [tags] {attributes} id`, one after the other, and how many problems.
fn services(options: &Options, run: &Run) -> (String, labels::Claim, usize) {
    let labels = run.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let metadata = Metadata::with(options.gather(), labels, run.variables.iter().map(String::as_str));
    let subject = Subject {
        name: &run.name,
        image: &run.image,
        ports: &run.exposed,
        published: &run.published,
        metadata: &metadata,
        member: true,
    };
    let (claim, problems) = read(options, "here", subject);
    let show = |offer: &Offer| {
        assert_eq!(offer.namespace, Label::global());
        let port = |port: &crate::model::Port| {
            let mut text = format!(" {}/{}", port.port, port.proto.as_str());
            if let Some(extra) = &port.extra {
                let attributes: Vec<_> =
                    extra.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
                if !attributes.is_empty() {
                    text += &format!(" {{{}}}", attributes.join(" "));
                }
                if let Some(id) = &extra.id {
                    text += &format!(" #{id}");
                }
            }
            text
        };
        let tags = if offer.tags.is_empty() { String::new() } else { format!(" [{}]", offer.tags.join("|")) };
        format!("{}{}{tags}", offer.service, offer.ports.iter().map(port).collect::<String>())
    };
    let text = claim.offers.iter().map(show).collect::<Vec<_>>().join(", ");
    (text, claim, problems.len())
}

#[track_caller]
fn check(compat: Compat, command: &str, expected: &str) {
    let (services, _, problems) = services(&options(compat), &run(command));
    assert_eq!((services.as_str(), problems), (expected, 0), "docker run {command}");
}

#[test]
fn the_examples_of_registrators_documentation_have_the_services_it_says() {
    let check = |command: &str, expected| check(Compat::Registrator, command, expected);
    // Single service with defaults
    check("-p 10000:6379 --name redis.0 progrium/redis", "redis 6379/tcp");
    // Single service with metadata, as variables and as labels
    for option in ["-e", "-l"] {
        let metadata =
            format!("{option} SERVICE_NAME=db {option} SERVICE_TAGS=master,backups {option} SERVICE_REGION=us2");
        let command = format!("--name redis.0 -p 10000:6379 {metadata} progrium/redis");
        check(&command, "db 6379/tcp {region=us2} [master|backups]");
    }
    // A comma in a tag
    check(
        r"--name redis.0 -p 10000:6379 -e SERVICE_NAME=db -e SERVICE_TAGS=/(;\,:-_)/ -e SERVICE_REGION=us2 progrium/redis",
        "db 6379/tcp {region=us2} [/(;,:-_)/]",
    );
    // Multiple services with defaults
    check("--name nginx.0 -p 4443:443 -p 8000:80 progrium/nginx", "nginx-443 443/tcp, nginx-80 80/tcp");
    // Multiple services with metadata
    check(
        "--name nginx.0 -p 4443:443 -p 8000:80 -e SERVICE_443_NAME=https -e SERVICE_443_ID=https.12345 \
         -e SERVICE_443_SNI=enabled -e SERVICE_80_NAME=http -e SERVICE_TAGS=www progrium/nginx",
        "http 80/tcp [www], https 443/tcp {sni=enabled} #https.12345 [www]",
    );
    // Container overrides
    check("-p 80:80 -e SERVICE_NAME=customerdb image", "customerdb 80/tcp");
    check("-p 80:80 -e SERVICE_80_NAME=api image", "api 80/tcp");
    check("-p 80:80 -e SERVICE_REGION=us-east image", "image 80/tcp {region=us-east}");
    // Service name
    check("-p 80:80 gliderlabs/foobar", "foobar 80/tcp");
    check("-p 6379:6379 redis", "redis 6379/tcp");
    check("-p 80:80 -p 443:443 nginx", "nginx-443 443/tcp, nginx-80 80/tcp");
    check("-p 80:80 -p 443:443 -e SERVICE_NAME=web nginx", "web-443 443/tcp, web-80 80/tcp");
    // Ignoring a container, and a port
    check("-p 80:80 -l SERVICE_IGNORE=true nginx", "");
    check("-p 80:80 -p 443:443 -l SERVICE_443_IGNORE=true nginx", "nginx-80 80/tcp");
    // Quickstart
    check("-P --expose 6379 --name redis redis", "");
    check("--expose 6379 -P --name redis redis", "redis 6379/tcp");
    // SkyDNS 2
    check("--name redis-1 -e SERVICE_ID=redis-1 -p 6379:6379 redis", "redis 6379/tcp #redis-1");
    // Zookeeper
    check("-p 80 -e SERVICE_80_NAME=www ubuntu:14.04", "www 80/tcp");
    // Eureka: nobody here reads them, so they are attributes as any other
    check(
        "-p 80 -e SERVICE_EUREKA_STATUS=UP -e SERVICE_EUREKA_METADATA_MYROUTES=/route1*|/route2* web",
        "web 80/tcp {eureka_metadata_myroutes=/route1*|/route2* eureka_status=UP}",
    );
}

#[test]
fn the_checks_of_its_documentation_are_checks() {
    for (variables, expected) in [
        (
            "-e SERVICE_80_CHECK_HTTP=/health/endpoint/path -e SERVICE_80_CHECK_INTERVAL=15s -e SERVICE_80_CHECK_TIMEOUT=1s",
            1,
        ),
        ("-e SERVICE_CHECK_HTTP=/health", 1),
        ("-e SERVICE_80_CHECK_HTTPS=/health/endpoint/path -e SERVICE_80_CHECK_INTERVAL=15s", 1),
        ("-e SERVICE_80_CHECK_TCP=true -e SERVICE_80_CHECK_INTERVAL=15s -e SERVICE_80_CHECK_TIMEOUT=3s", 1),
        ("-e SERVICE_CHECK_TCP=true -e SERVICE_CHECK_INITIAL_STATUS=passing", 1),
        // Nobody reports to us: a problem that names the way out.
        ("-e SERVICE_CHECK_TTL=30s", 0),
    ] {
        let (services, claim, problems) =
            services(&options(Compat::Registrator), &run(&format!("-p 80:80 {variables} web")));
        assert_eq!(
            (services.as_str(), claim.checks.len(), problems),
            ("web 80/tcp", expected, 1 - expected),
            "{variables}"
        );
    }
}

#[test]
fn the_general_check_asks_a_port_that_is_a_service() {
    for (command, asked) in [
        ("--expose 80 -p 8080 -e SERVICE_CHECK_HTTP=/health image", 8080),
        ("-p 80 -p 8080 -e SERVICE_80_IGNORE=1 -e SERVICE_CHECK_HTTP=/health image", 8080),
        ("-p 80 -p 8080 -e SERVICE_CHECK_HTTP=/health image", 80),
    ] {
        let (_, claim, problems) = services(&options(Compat::Registrator), &run(command));
        assert_eq!((claim.checks[0].port, problems), (Some(asked), 0), "{command}");
    }
}

#[test]
fn which_ports_are_services_hangs_on_internal() {
    let published = "--expose 80 -p 8443:443 nginx";
    check(Compat::Registrator, published, "nginx 443/tcp");
    check(Compat::RegistratorInternal, published, "nginx-443 443/tcp, nginx-80 80/tcp");
    let none = "--expose 80 nginx";
    check(Compat::RegistratorInternal, none, "nginx 80/tcp");
    let (_, claim, _) = services(&options(Compat::Registrator), &run(none));
    assert_eq!(claim.silence, Some(Silence::Unpublished));
    assert_eq!(services(&options(Compat::None), &run(none)).0, "box 80/tcp");
}

#[test]
fn keys_are_read_as_registrator_reads_them() {
    let check = |command: &str, expected| check(Compat::Registrator, command, expected);
    // A label beats a variable; letter case matters in the prefix only.
    check("-p 80 -e SERVICE_NAME=a -l SERVICE_NAME=b image", "b 80/tcp");
    check("-p 80 -e SERVICE_name=a -e service_NAME=b image", "a 80/tcp");
    check("-p 80 -e SERVICE_NAME=a -e SERVICE_Region=EU image", "a 80/tcp {region=EU}");
    // What is said of a port beats what is said of all, for this port only.
    check(
        "-p 80 -p 81 -e SERVICE_REGION=eu -e SERVICE_80_REGION=us -l SERVICE_82_REGION=no image",
        "image-80 80/tcp {region=us}, image-81 81/tcp {region=eu}",
    );
    check("-p 80 -p 81 -e SERVICE_TAGS=a -e SERVICE_80_TAGS=b image", "image-80 80/tcp [b], image-81 81/tcp [a]");
    check("-p 80 -e SERVICE_ID=a -e SERVICE_80_ID=b image", "image 80/tcp #b");
    // UDP is told by a tag, and the two transports of a port are one name.
    check("-p 53/udp dns", "dns 53/udp [udp]");
    check("-p 53/udp -p 53/tcp -e SERVICE_TAGS=a dns", "dns-53 53/tcp 53/udp [a|udp]");
    // Two ports may be one service.
    check("-p 80 -p 81 -e SERVICE_80_NAME=web -e SERVICE_81_NAME=web image", "web 80/tcp 81/tcp");
    // fayrus/registrator
    check(
        "-p 53/udp -p 53/tcp -e SERVICE_53_UDP_NAME=dns -e SERVICE_53_TCP_NAME=axfr x",
        "axfr 53/tcp, dns 53/udp [udp]",
    );
    check("-p 8000 -p 8001 -e SERVICE_8000-8099_NAME=pool x", "pool 8000/tcp 8001/tcp");
    // Any value that is not empty ignores.
    check("-p 80 -e SERVICE_IGNORE=false image", "");
    check("-p 80 -e SERVICE_IGNORE= image", "image 80/tcp");
    check("-p 80 -p 81 -e SERVICE_IGNORE=1 -e SERVICE_80_IGNORE= image", "image-80 80/tcp");
    // An empty name is none.
    check("-p 80 -e SERVICE_NAME= image", "image 80/tcp");
    check("-p 80 -p 81 -e SERVICE_80_NAME= image", "image-80 80/tcp, image-81 81/tcp");
    // What Docker does not know is no port.
    check("-p 80 -e SERVICE_9000_NAME=extra image", "image 80/tcp");
    let exposed: String = (50_000..50_100).map(|port| format!("--expose {port} ")).collect();
    check(&format!("{exposed} -p 50099 pool"), "pool 50099/tcp");
    // Images
    check("-p 80 registry.example:5000/team/shop:1.2", "shop 80/tcp");
    check("-p 80 team/shop@sha256:0123456789", "shop 80/tcp");
    // Compose's name plays no part; ours is taken as it is.
    check("-p 80 -l com.docker.compose.service=web -l com.docker.compose.project=shop nginx:1", "nginx 80/tcp");
    check("-p 80 -p 81 -l portolan.service=web nginx", "web 80/tcp 81/tcp");
}

#[test]
fn without_it_nothing_of_registrators_extras_is_held() {
    let (services, _, problems) = services(
        &options(Compat::None),
        &run("-p 80 -p 81 --name web -e SERVICE_REGION=eu -e SERVICE_ID=x -e SERVICE_80_PASSWORD=y nginx"),
    );
    assert_eq!((services.as_str(), problems), ("web 80/tcp 81/tcp", 0));
}

#[test]
fn what_cannot_be_a_name_is_told_with_the_way_out() {
    let long = "n".repeat(61);
    let (services, claim, problems) =
        services(&options(Compat::Registrator), &run(&format!("-p 80 -p 443 -e SERVICE_443_NAME=tls x/{long}")));
    assert_eq!((services.as_str(), problems, claim.silence), ("tls 443/tcp", 1, None));
}

#[test]
fn attributes_are_bounded() {
    let many: String = (0..200).map(|n| format!("-e SERVICE_A{n}={} ", "x".repeat(250))).collect();
    let ports: String = (1..=64).map(|n| format!("-p {n} ")).collect();
    let (_, claim, problems) = services(&options(Compat::Registrator), &run(&format!("{ports}{many} x")));
    let octets = |offer: &Offer| {
        let extras = offer.ports.iter().filter_map(|port| port.extra.as_ref());
        extras.flat_map(|extra| &extra.attributes).map(|(name, value)| name.len() + value.len()).sum::<usize>()
    };
    assert!(claim.offers.iter().map(octets).sum::<usize>() <= MAX_ATTRIBUTES);
    assert_eq!((claim.offers.len(), problems), (64, 1), "all are offered, and it is said once");
    let long = format!("-p 80 -e SERVICE_A={} -e SERVICE_ID={0} x", "x".repeat(256));
    let (services, _, problems) = services_of(&long);
    assert_eq!((services.as_str(), problems), ("x 80/tcp", 2));
}

fn services_of(command: &str) -> (String, labels::Claim, usize) {
    services(&options(Compat::Registrator), &run(command))
}

proptest! {
    /// Whatever attributes hold, a record that was written is read again.
    #[test]
    fn a_record_with_extras_is_read_as_it_was_written(
        pairs in prop::collection::btree_map("[a-z_]{1,10}", "\\PC{0,40}", 0..8),
        id in prop::option::of("\\PC{1,40}"),
    ) {
        let variables: Vec<String> = pairs.iter().map(|(name, value)| format!("SERVICE_{name}={value}"))
            .chain(id.iter().map(|id| format!("SERVICE_ID={id}"))).collect();
        let metadata = Metadata::with(
            Gather { attributes: true, ..Gather::default() }, [], variables.iter().map(String::as_str));
        let ports: BTreeSet<_> = [(80, Proto::Tcp)].into();
        let subject =
            Subject { name: "box", image: "image", ports: &ports, published: &ports, metadata: &metadata, member: true };
        let (claim, _) = read(&options(Compat::Registrator), "here", subject);
        let held = |name: &str| matches!(name, "name" | "tags" | "ignore" | "id" | "check_tcp");
        for offer in &claim.offers {
            let extra = offer.ports[0].extra.clone().unwrap_or_default();
            // Letter case does not matter, and of two spellings the later one counts; an empty one is none.
            let named = id.as_ref().or_else(|| pairs.get("id")).map(String::as_str).filter(|id| !id.is_empty());
            prop_assert_eq!(extra.id.as_deref(), named);
            let expected: Vec<_> = pairs.iter().filter(|(name, _)| !held(name)).collect();
            let found: Vec<_> = extra.attributes.iter().collect();
            prop_assert_eq!(
                found.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>(),
                expected.iter().map(|(name, value)| ((*name).clone(), (*value).clone())).collect::<Vec<_>>()
            );
        }
    }
}
