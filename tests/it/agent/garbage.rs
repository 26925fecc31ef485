//! Garbage below our prefix in etcd.

use super::{
    bed::{address, engine_bed, eventually},
    registry::Registry,
};

const RECORD: &str = r#"{"name":"good","image":"i","phase":"serving","health":"none","networks":[],
    "services":[{"service":"good","namespace":"shop","tags":[],"weight":1,
                 "ports":[{"port":80,"proto":"tcp","published":[{"ip":"0.0.0.0","port":8080,"chosen":true}]}]}]}"#;

#[test]
fn garbage_under_the_prefix_harms_only_itself_and_is_shown() {
    let (bed, registry) = (engine_bed("garbage"), Registry::single());
    bed.sleeper("web", &[]);
    let key = |rest: &str| [b"/portolan/v1/hosts/", rest.as_bytes()].concat();
    let mebibyte = vec![b'x'; 1 << 20];
    let listed: [(Vec<u8>, &[u8]); 5] = [
        (key("odd/instances/0123456789a0"), b"not JSON"),
        (key("odd/instances/0123456789a1"), br#"{"name":7}"#),
        (key("odd/instances/NO-CONTAINER"), b"{}"),
        (key("odd/instances/0123456789a2"), &mebibyte),
        ([key("odd/"), vec![0xff, 0xfe, b'/']].concat(), b"\xff"),
    ];
    let watched: [(Vec<u8>, &[u8]); 6] = [
        (key("odd/session"), b"[]"),
        (key("odd/instances/0123456789a3"), b"\xff\x00\xfe"),
        (key("odd/instances/0123456789a4"), &mebibyte),
        (key(""), b""),
        (key("\u{1b}[31m/\n"), b"{}"),
        ([key("").as_slice(), &[0xc3, 0x28]].concat(), &mebibyte),
    ];
    for (key, value) in &listed {
        registry.put(key, value);
    }
    registry.put(&key("good/session"), br#"{"nonce":"n","advertise":["192.0.2.9"],"locality":"","version":"9.9.9"}"#);
    registry.put(&key("good/instances/0123456789ab"), RECORD.as_bytes());
    let home = registry.home(&[]);
    let mut agent = home.start();
    home.until_ready();
    for (key, value) in &watched {
        registry.put(key, value);
    }
    let all = || listed.iter().chain(&watched);
    for (key, _) in all() {
        let place = format!("etcd key {}: ", key.escape_ascii());
        let problem = eventually(format_args!("a problem of {place}"), || {
            home.problems().into_iter().find(|problem| problem.starts_with(&place))
        });
        assert!(problem.len() < 1_000 && !problem.chars().any(char::is_control), "{problem:?}");
    }
    let undecodable = || home.metric("portolan_registry_undecodable");
    assert!((undecodable() - 11.0).abs() < f64::EPSILON, "{:?}", home.problems());
    home.until_address("good.shop", "192.0.2.9");
    home.until_address(&format!("{}.default", bed.name("web")), &address(&bed.name("web")));
    bed.sleeper("next", &[]);
    home.until_address(&format!("{}.default", bed.name("next")), &address(&bed.name("next")));
    home.until_synced();
    assert!(agent.runs());

    for (key, _) in all() {
        registry.delete(key);
    }
    eventually("all is well again", || (undecodable() < 0.5).then_some(()));
    assert!(!home.problems().iter().any(|problem| problem.starts_with("etcd key")), "{:?}", home.problems());
}
