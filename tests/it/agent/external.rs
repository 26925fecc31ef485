//! Services outside of Docker: they take a name over from a container and give it back.

use hickory_proto::rr::RecordType;

use super::{
    bed::{DEADLINE, Home, address, ask, engine_bed, eventually},
    registry::Registry,
};
use crate::forward::{Upstream, answer};

/// Where the service has moved. Nobody is there.
const AWAY: &str = "192.0.2.77";

fn done(home: &Home, arguments: &[&str]) -> String {
    let output = home.client(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[test]
fn a_service_moves_out_of_docker_and_back_on_a_single_host() {
    let bed = engine_bed("external");
    let home = Home::new(&[]);
    let agent = home.start();
    home.until_ready();
    let name = bed.name("redis");
    bed.sleeper("redis", &["--label", &format!("portolan.service={name}"), "--expose", "6379"]);
    home.until_address(&name, &address(&name));
    let said = done(&home, &["register", &name, "--address", &format!("{AWAY}:6379"), "--tag", "managed"]);
    assert!(said.contains(&format!("registered {name} address={AWAY}:6379 tag=managed")), "{said}");
    home.until_address(&name, AWAY);
    let srv = ask(home.dns, &format!("{name}.global.svc.internal"), RecordType::SRV).expect("an answer").data;
    assert!(srv.len() == 1 && srv[0].contains(" 6379 "), "{srv:?}");
    let explained = home.json(&format!("/v1/explain?name={name}.global"));
    let candidates = explained["name"]["views"][0]["candidates"].as_array().expect("a list").clone();
    let said: Vec<_> =
        candidates.iter().map(|held| (&held["host"], &held["verdict"], &held["ipv4"]["reasons"][0]["code"])).collect();
    assert_eq!((said[0].0, said[0].1, said[0].2), (&"external".into(), &"in".into(), &"external".into()));
    assert_eq!((said[1].1, said[1].2), (&"out".into(), &"replaced".into()), "{explained}");
    // Over a restart, too.
    agent.end(nix::sys::signal::Signal::SIGTERM);
    let _agent = home.start();
    home.until_ready();
    home.until_address(&name, AWAY);
    let said = done(&home, &["unregister", &name]);
    assert!(said.contains(&format!("unregistered {name} address={AWAY}:6379")), "{said}");
    home.until_address(&name, &address(&name));
    assert_eq!(home.client(&["unregister", &name]).status.code(), Some(3));
    let wrong = home.client(&["register", &name, "--address", "127.0.0.1"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("another machine for everybody"));
}

#[test]
fn an_operator_registers_for_every_host_with_credentials_of_their_own() {
    let registry = Registry::single();
    let (one, other) = (registry.far_home("one"), registry.far_home("other"));
    let (_one, _other) = (one.start(), other.start());
    let (one, other) = (&one, &other);
    let (url, place) = (registry.url(), format!("{AWAY}:5432"));
    let arguments = |verb: &'static str| [verb, "db.shop", "--etcd-endpoints"];
    done(one, &[&arguments("register")[..], &[&url, "--address", &place]].concat());
    [one, other].iter().for_each(|home| home.until_address("db.shop", AWAY));
    // Nobody answers there, so it is unhealthy; there is nobody better, so it is given all the same.
    done(
        one,
        &[
            &arguments("register")[..],
            &[&url, "--address", &place, "--check", "tcp", "--interval", "1s", "--timeout", "100ms", "--fall", "1"],
        ]
        .concat(),
    );
    eventually("its check fails", || {
        let services = other.json("/v1/services?service=db");
        (services["services"][0]["answers"] == "unhealthy").then_some(())
    });
    [one, other].iter().for_each(|home| home.until_address("db.shop", AWAY));
    done(other, &[&arguments("unregister")[..], &[&url]].concat());
    for home in [one, other] {
        eventually("it is gone", || {
            home.json("/v1/services?service=db")["services"].as_array()?.is_empty().then_some(())
        });
    }
    // An agent that shares etcd keeps nothing for itself.
    let refused = one.client(&["register", "db.shop", "--address", AWAY]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--etcd-endpoints"));
}

#[test]
fn another_name_is_looked_up_for_whoever_asks() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let upstream = runtime.block_on(Upstream::start(|packet, _| vec![answer(packet, 2)]));
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "[[external]]\nname = \"cache\"\ncname = \"Cache.Example.Com:6379\"\ntags = [\"managed\"]\n";
    std::fs::write(file.path(), text).expect("a file");
    let path = file.path().to_str().expect("text");
    let home = Home::new(&["--config", path, "--upstream", &upstream.address.to_string()]);
    let _agent = home.start();
    home.until_ready();
    let asked = |kind| {
        let answer = ask(home.dns, "cache.svc.internal", kind)?;
        (!answer.data.is_empty()).then_some(answer.data)
    };
    let followed = eventually("it is looked up", || asked(RecordType::A));
    assert!(
        followed.len() == 2 && followed.iter().all(|data| data.parse::<std::net::IpAddr>().is_ok()),
        "{followed:?}"
    );
    assert_eq!(asked(RecordType::CNAME), None, "beside it there may be no SRV");
    assert_eq!(asked(RecordType::SRV), Some(vec!["0 1 6379 cache.example.com.".into()]));
    assert_eq!(asked(RecordType::TXT), None, "tags are an instance's");
    let shown = home.client(&["resolve", "cache.global"]);
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(said.contains("has the addresses of `cache.example.com.`"), "{said}");
    let shown = home.client(&["explain", "cache.global"]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(said.contains("those of cache.example.com., asked of the upstreams"), "{said}");
    drop(upstream);
    // What the upstream said is kept for as long as it said so; what it was never asked nobody can tell.
    assert_eq!(asked(RecordType::A).map(|data| data.len()), Some(2));
    let began = std::time::Instant::now();
    let gone = ask(home.dns, "cache.svc.internal", RecordType::AAAA);
    assert!(gone.is_none_or(|answer| answer.data.is_empty()) && began.elapsed() < DEADLINE, "its upstream is gone");
}
