//! etcd is lost and restored from a snapshot while agents run: what they answer does not go back in time with it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use portolan::registry::call::KeyValue;

use super::{
    bed::{Home, SetOnDrop, address, engine_bed, eventually},
    registry::Registry,
};
use crate::{engine, etcd::TOKEN};

/// What a restored etcd has too much is gone this long after it answers again. Until then agents have looked for it in
/// vain and pause: the publisher 5 s at most, the mirror 2 s before its watch and before each of the three lists that
/// make it believe in an older revision. The rest is for a machine that is busy.
const BOUND: Duration = Duration::from_secs(20);

/// What was seen at an agent, and when.
struct Sample {
    at: Instant,
    agent: &'static str,
    name: &'static str,
    /// Of its answer; `None`: no reply.
    data: Option<Vec<String>>,
}

/// A catalog's cluster and revision.
type Version = (u64, i64);

/// A container: short name, name below the zone, address.
struct Container {
    short: &'static str,
    name: String,
    ip: String,
    id: String,
}

impl Container {
    fn start(bed: &engine::Bed, short: &'static str) -> Self {
        let id = bed.sleeper(short, &["--expose", "80"]);
        Self { short, name: format!("{}.default", bed.name(short)), ip: address(&bed.name(short)), id }
    }
}

/// Asks an agent for all names, over and over, until it is over.
fn probe(agent: &'static str, home: &Home, containers: &[&Container], over: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    while !over.load(Ordering::Relaxed) {
        for container in containers {
            let at = Instant::now();
            let data = home.ask(&container.name).map(|answer| answer.data);
            samples.push(Sample { at, agent, name: container.short, data });
        }
        thread::sleep(Duration::from_millis(5));
    }
    samples
}

/// Notes each change of an agent's catalog's version.
fn versions(home: &Home, over: &AtomicBool) -> Vec<Version> {
    let mut seen = Vec::new();
    loop {
        // Once more when it is over: what was waited for is to be among what was seen.
        let is_over = over.load(Ordering::Relaxed);
        let status = home.json("/v1/status");
        let catalog = &status["catalog"];
        let version = (catalog["cluster"].as_u64().expect("a number"), catalog["revision"].as_i64().expect("a number"));
        if seen.last() != Some(&version) {
            seen.push(version);
        }
        if is_over {
            return seen;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Every answer for a container that lives is its address, in every agent.
fn judge_live(samples: &[Sample], live: &Container) {
    let asked: Vec<_> = samples.iter().filter(|sample| sample.name == live.short).collect();
    assert!(asked.len() > 100, "{} was asked for {} times: that proves nothing", live.short, asked.len());
    let is_right = |sample: &&&Sample| sample.data.as_ref().is_some_and(|data| *data == [live.ip.as_str()]);
    let began = asked[0].at;
    let wrong = asked.iter().filter(|sample| !is_right(sample));
    let shown = |sample: &&&Sample| format!("{:?} {} {:?}", sample.at - began, sample.agent, sample.data);
    let wrong: Vec<String> = wrong.map(|sample| shown(&sample)).collect();
    let some = &wrong[..wrong.len().min(20)];
    assert!(wrong.is_empty(), "{}: {} of {} answers were wrong: {some:#?}", live.short, wrong.len(), asked.len());
}

/// Nobody gives a container that has ended later than this, and its own host never does.
fn judge_ended(samples: &[Sample], ended: &Container, until: Instant) {
    let asked = samples.iter().filter(|sample| sample.name == ended.short);
    let given = asked.filter(|sample| sample.data.as_ref().is_some_and(|data| !data.is_empty()));
    let late = given.filter(|sample| sample.agent == "near" || sample.at > until);
    let late: Vec<_> = late.map(|sample| (sample.agent, sample.at - samples[0].at)).collect();
    assert!(late.is_empty(), "{} was given: {late:?}", ended.short);
}

/// How often an agent has listed the registry.
fn listed(home: &Home) -> u64 {
    home.json("/v1/status")["facts"]["registry"]["relists"].as_u64().expect("a number")
}

struct Stage {
    bed: engine::Bed,
    registry: Registry,
    near: Home,
    far: Home,
}

impl Stage {
    fn new(test: &str) -> Self {
        let registry = Registry::single();
        let (near, far) = (registry.home(&["--host-id", "near"]), registry.far_home("far"));
        Self { bed: engine_bed(test), registry, near, far }
    }

    fn until_known(&self, container: &Container) {
        for home in [&self.near, &self.far] {
            home.until_address(&container.name, &container.ip);
        }
    }

    fn until_gone(&self, container: &Container) {
        for home in [&self.near, &self.far] {
            let is_gone = || home.ask(&container.name).filter(|answer| answer.data.is_empty());
            eventually(format_args!("{} is gone", container.name), is_gone);
        }
    }

    fn end(&self, container: &Container) {
        engine::docker(&["rm", "-f", &self.bed.name(container.short)]);
    }
}

/// Takes etcd back to a snapshot from before some changes, as a cluster with this token, and tells of each agent which
/// versions its catalog had, and which one etcd had when it was restored.
fn goes_back(test: &str, token: &str) -> ([Vec<Version>; 2], i64) {
    let mut stage = Stage::new(test);
    let stays = Container::start(&stage.bed, "stays");
    let ends = Container::start(&stage.bed, "ends");
    let (_near, _far) = (stage.near.start(), stage.far.start());
    stage.until_known(&stays);
    stage.until_known(&ends);
    stage.near.until_synced();
    let saved = stage.registry.put(b"/portolan/saved", b"");
    let snapshot = stage.registry.cluster.save_snapshot();

    stage.end(&ends);
    let comes = Container::start(&stage.bed, "comes");
    stage.until_known(&comes);
    stage.until_gone(&ends);
    stage.near.until_synced();
    // Revisions of the catalog that the restored etcd will not reach while it is looked at.
    for _ in 0..300 {
        stage.registry.put(b"/portolan/v1/external/global/others", br#"{"cname":"others.example"}"#);
    }

    let over = AtomicBool::new(false);
    let versions = thread::scope(|scope| {
        let end = SetOnDrop(&over);
        let (near, far, over) = (&stage.near, &stage.far, &over);
        let containers = [&stays, &ends, &comes];
        let probes = [("near", near), ("far", far)]
            .map(|(agent, home)| scope.spawn(move || probe(agent, home, &containers, over)));
        let versions = [near, far].map(|home| scope.spawn(move || versions(home, over)));

        stage.registry.cluster.restore_snapshot(&snapshot, token);
        // The near host has something to write, and by now both pause for seconds between two tries.
        let meanwhile = Container::start(&stage.bed, "meanwhile");
        near.until_address(&meanwhile.name, &meanwhile.ip);
        for home in [near, far] {
            eventually("it says that it is stale", || {
                (home.json("/v1/status")["catalog"]["stale"] == true).then_some(())
            });
        }
        let lists = [near, far].map(listed);
        stage.registry.cluster.restart(0);
        stage.registry.cluster.wait_healthy(0);
        let healthy = Instant::now();
        eventually("what it has too much is withdrawn, and what it lacks is written", || {
            let (ended, came) = (stage.registry.instance(&ends.id), stage.registry.instance(&comes.id));
            (ended.is_none() && came.is_some()).then_some(())
        });
        let registry = healthy.elapsed();
        assert!(registry < BOUND, "{registry:?}");
        near.until_synced();
        for (home, before) in [near, far].into_iter().zip(lists) {
            eventually("it follows the restored etcd", || {
                let follows = home.json("/v1/status")["catalog"]["stale"] == false && listed(home) > before;
                follows.then_some(())
            });
            home.until_address(&meanwhile.name, &meanwhile.ip);
            let is_gone = || home.ask(&ends.name).filter(|answer| answer.data.is_empty());
            eventually("what has ended is gone", is_gone);
        }
        drop(end);
        let samples: Vec<Sample> = probes.into_iter().flat_map(|probe| probe.join().expect("it asks")).collect();
        judge_live(&samples, &stays);
        judge_live(&samples, &comes);
        judge_ended(&samples, &ends, healthy + BOUND);
        versions.map(|versions| versions.join().expect("it asks"))
    });
    let session = |kv: &KeyValue| kv.key == b"/portolan/v1/hosts/near/session";
    let keys = stage.registry.keys();
    let lease = keys.iter().find(|kv| session(kv)).expect("a session").lease;
    assert!(lease.is_some());
    for container in [&stays, &comes] {
        assert_eq!(stage.registry.instance(&container.id).expect("it is published").lease, lease);
    }
    (versions, saved)
}

/// The revisions at which a catalog's revision fell within one cluster.
fn falls(versions: &[Version]) -> Vec<Version> {
    let falls = versions.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[1].1 < pair[0].1);
    falls.map(|pair| pair[1]).collect()
}

fn clusters(versions: &[Version]) -> usize {
    versions.windows(2).filter(|pair| pair[0].0 != pair[1].0).count()
}

#[test]
fn of_a_snapshot_restored_as_the_same_cluster_agents_lose_no_live_name_and_mend_what_differs() {
    let (agents, saved) = goes_back("restored", TOKEN);
    for versions in agents {
        let falls = falls(&versions);
        let is_restored = |fall: &Version| (saved..saved + 300).contains(&fall.1);
        assert!(falls.len() == 1 && is_restored(&falls[0]), "once, to what was restored: {falls:?}");
        assert_eq!(clusters(&versions), 0, "{versions:?}");
    }
}

#[test]
fn of_a_snapshot_restored_as_another_cluster_agents_lose_no_live_name_and_mend_what_differs() {
    let (agents, _) = goes_back("restoredanew", "another");
    for versions in agents {
        assert_eq!((falls(&versions), clusters(&versions)), (Vec::new(), 1), "{versions:?}");
    }
}
