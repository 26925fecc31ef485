//! Two agents with one host id, as a cloned machine makes them.

use super::{
    bed::{Home, address, engine_bed, eventually},
    registry::Registry,
};
use nix::sys::signal::Signal;

#[test]
fn of_two_agents_with_one_host_id_the_later_wins_and_the_loser_takes_over_when_it_leaves() {
    let (bed, registry) = (engine_bed("conflict"), Registry::single());
    bed.sleeper("before", &[]);
    let loser = registry.home(&["--advertise", "192.0.2.1"]);
    let mut losing = loser.start();
    loser.until_ready();
    loser.until_synced();

    // The later one sees no engine, so all that is published from now on would be the loser's.
    let endpoint = registry.url();
    let absent = ["--docker-host", "unix:///nonexistent/docker.sock"];
    let arguments = [&["--etcd-endpoints", &endpoint, "--advertise", "192.0.2.2"][..], &absent].concat();
    let winner = Home::clone_of(&loser, &arguments);
    let winning = winner.start();
    let conflict = eventually("the loser knows that it lost", || {
        loser.json("/v1/status")["facts"]["registry"]["conflict"].as_str().map(str::to_owned)
    });
    assert!(conflict.contains("192.0.2.2") && conflict.contains("--host-id"), "{conflict}");
    assert!(loser.problems().iter().any(|problem| problem.starts_with("--host-id: ")), "{:?}", loser.problems());
    let (status, body) = loser.get("/readyz").expect("it answers");
    assert_eq!(status, 200, "it answers as well as before: {body}");
    assert!(body.contains("192.0.2.2"), "{body}");
    assert!((loser.metric("portolan_registry_conflict") - 1.0).abs() < f64::EPSILON);

    let writes = loser.metric("portolan_registry_writes_total");
    let id = bed.sleeper("after", &[]);
    loser.until_address(&format!("{}.default", bed.name("after")), &address(&bed.name("after")));
    assert!(registry.instance(&id).is_none(), "the loser publishes nothing");
    assert!((loser.metric("portolan_registry_writes_total") - writes).abs() < f64::EPSILON);

    assert!(winning.end(Signal::SIGINT).success());
    eventually("the loser publishes", || registry.instance(&id));
    loser.until_synced();
    assert!(loser.json("/v1/status")["facts"]["registry"]["conflict"].is_null());
    let (_, body) = loser.get("/readyz").expect("it answers");
    assert_eq!(body, "ready\n");
    assert!(losing.runs());
}
