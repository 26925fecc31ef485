//! What an agent finds on its host: addresses that are Docker's own, and a way for Docker to ask us in disguise.

use std::net::Ipv4Addr;

use portolan::registry::call::Change;

use super::{
    bed::{Home, engine_bed, eventually},
    registry::Registry,
};
use crate::engine::docker;

#[test]
fn an_address_inside_a_docker_network_is_never_published_not_even_at_first() {
    let (bed, registry) = (engine_bed("inside"), Registry::single());
    let network = bed.network("net", &[]);
    let inside = docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network]);
    let home = registry.home(&["--advertise", &inside]);
    let agent = home.start();
    home.until_ready();
    home.until_synced();
    assert_eq!(agent.introduces("advertise"), ["nothing"]);
    assert!(home.problems().iter().any(|problem| problem.contains(&inside) && problem.contains(&network)));
    let sessions: Vec<serde_json::Value> = registry
        .history()
        .into_iter()
        .filter_map(|change| match change {
            Change::Put(kv) if kv.key.ends_with(b"/session") => serde_json::from_slice(&kv.value).ok(),
            _ => None,
        })
        .collect();
    assert!(!sessions.is_empty());
    assert!(sessions.iter().all(|session| session["advertise"] == serde_json::json!([])), "{sessions:?}");
}

#[test]
fn a_resolv_conf_that_leads_docker_back_to_us_is_told_and_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("resolv.conf");
    let path = file.to_str().expect("text");
    let [.., high, low] = std::process::id().to_be_bytes();
    let ours = Ipv4Addr::new(127, 32 | high & 0x1f, low, 53);
    std::fs::write(&file, format!("nameserver 10.9.9.9\nnameserver {ours}\n")).expect("a file");
    let home = Home::new(&["--dns", &format!("{ours}:53"), "--resolv-conf", path]);
    let _agent = home.start();
    let told =
        || home.problems().into_iter().find(|problem| problem.starts_with(&format!("{path}, nameserver {ours}:")));
    let problem = eventually("it is told", told);
    assert!(problem.contains("--dns") && problem.contains("daemon.json"), "{problem}");
    assert_eq!(home.logged("Docker asks servers on loopback"), 1, "once in the log");
    std::fs::write(&file, "nameserver 10.9.9.9\n").expect("a file");
    eventually("it is over", || told().is_none().then_some(()));
}
