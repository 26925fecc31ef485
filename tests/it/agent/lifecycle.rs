//! Starts and ends of an agent, as etcd and another host see them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use hickory_proto::op::ResponseCode;
use nix::sys::signal::Signal;
use portolan::registry::call::{KeyValue, LeaseId};

use super::{
    bed::{Home, SetOnDrop, address, engine_bed, eventually},
    registry::Registry,
};

/// What of the keys must be the same after a restart: all but the session's value.
fn held(keys: &[KeyValue]) -> Vec<(String, i64, Option<LeaseId>)> {
    keys.iter().map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.create_revision, kv.lease)).collect()
}

fn session(keys: &[KeyValue]) -> &KeyValue {
    keys.iter().find(|kv| kv.key.ends_with(b"/session")).expect("a session key")
}

/// Waits until the next agent has taken the host over, and all is published.
fn until_claimed(registry: &Registry, home: &Home, before: &[KeyValue]) {
    eventually("the session is the new agent's", || {
        (session(&registry.keys()).mod_revision > session(before).mod_revision).then_some(())
    });
    home.until_synced();
}

/// Every key of the host hangs on one lease. Containers of other tests come and go: only ours are looked at.
fn own_keys(registry: &Registry, ids: &[&str]) -> Vec<KeyValue> {
    let is_ours = |kv: &KeyValue| ids.iter().any(|id| kv.key.ends_with(&id.as_bytes()[..12]));
    let keys: Vec<_> = registry.keys().into_iter().filter(|kv| kv.key.ends_with(b"/session") || is_ours(kv)).collect();
    assert_eq!(keys.len(), ids.len() + 1, "{keys:?}");
    assert!(keys.iter().all(|kv| kv.lease.is_some() && kv.lease == keys[0].lease), "{keys:?}");
    keys
}

#[test]
fn sigterm_keeps_the_keys_and_the_next_start_adopts_them() {
    let (bed, registry) = (engine_bed("term"), Registry::single());
    let id = bed.sleeper("web", &[]);
    let home = registry.home(&[]);
    let agent = home.start();
    assert_eq!(agent.introduces("registry"), [format!("etcd {}", registry.url())]);
    home.until_ready();
    home.until_synced();
    let before = own_keys(&registry, &[&id]);

    assert!(agent.end(Signal::SIGTERM).success());
    assert_eq!(own_keys(&registry, &[&id]), before);
    let _agent = home.start();
    until_claimed(&registry, &home, &before);
    let after = own_keys(&registry, &[&id]);
    assert_eq!(held(&after), held(&before));
    let own = String::from_utf8_lossy(&before[0].key).into_owned();
    let deleted = registry.deletions();
    assert!(deleted.iter().all(|(key, _)| *key != own && !key.ends_with("/session")), "{deleted:?}");
}

#[test]
fn a_kill_and_a_restart_are_invisible_to_another_host() {
    let (bed, registry) = (engine_bed("kill"), Registry::single());
    let id = bed.sleeper("web", &["--expose", "80"]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let (home, far) = (registry.home(&[]), registry.far_home("far"));
    let (agent, _far) = (home.start(), far.start());
    far.until_address(&name, &ip);
    home.until_synced();
    let host = home.json("/v1/status")["host"].as_str().expect("text").to_owned();
    let of_host = |keys: Vec<KeyValue>| -> Vec<KeyValue> {
        let prefix = format!("/portolan/v1/hosts/{host}/");
        let is_ours = |kv: &KeyValue| kv.key.ends_with(b"/session") || kv.key.ends_with(&id.as_bytes()[..12]);
        keys.into_iter().filter(|kv| kv.key.starts_with(prefix.as_bytes()) && is_ours(kv)).collect()
    };
    let before = of_host(registry.keys());
    assert_eq!(before.len(), 2, "{before:?}");

    let done = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let end = SetOnDrop(&done);
        let asking = scope.spawn(|| {
            let (mut asked, mut lost) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                let answer = far.ask(&name);
                asked += 1;
                if answer.as_ref().is_none_or(|answer| answer.data != [ip.as_str()]) {
                    lost.push(answer);
                }
            }
            assert!(lost.is_empty(), "of {asked} answers these were lost: {lost:?}");
            asked
        });
        assert!(!agent.end(Signal::SIGKILL).success());
        let _agent = home.start();
        eventually("the session is the new agent's", || {
            (session(&of_host(registry.keys())).mod_revision > session(&before).mod_revision).then_some(())
        });
        home.until_ready();
        home.until_synced();
        assert_eq!(held(&of_host(registry.keys())), held(&before));
        drop(end);
        asking.join().expect("no answer is lost")
    });
    assert!(asked > 100, "it asked only {asked} times: that proves nothing");
    let ours = format!("/{}", &id[..12]);
    let deleted = registry.deletions();
    assert!(deleted.iter().all(|(key, _)| !key.ends_with(&ours) && !key.ends_with("/session")), "{deleted:?}");
}

/// All keys of the host went, in one revision: of the container, the session and the echo.
fn assert_withdrawn_at_once(registry: &Registry, id: &str) {
    assert_eq!(held(&registry.keys()), []);
    let deleted = registry.deletions();
    let of = |end: &str| deleted.iter().filter(|(key, _)| key.contains(end)).map(|(_, revision)| *revision).collect();
    let (session, instance, echo): (Vec<_>, Vec<_>, Vec<_>) = (of("/session"), of(&id[..12]), of("/v1/echo/"));
    assert_eq!(session.len(), 1, "{deleted:?}");
    assert!(session == instance && session == echo, "{deleted:?}");
}

#[test]
fn sigint_withdraws_the_host_in_one_revision() {
    let (bed, registry) = (engine_bed("int"), Registry::single());
    let id = bed.sleeper("web", &[]);
    let home = registry.home(&[]);
    let agent = home.start();
    home.until_synced();
    eventually("the echo is there", || {
        registry.history().iter().find(|c| c.key().starts_with(b"/portolan/v1/echo/")).map(drop)
    });
    assert!(agent.end(Signal::SIGINT).success());
    assert_withdrawn_at_once(&registry, &id);
}

#[test]
fn leave_withdraws_the_host_while_its_agent_goes_on_answering() {
    let (bed, registry) = (engine_bed("leave"), Registry::single());
    let id = bed.sleeper("web", &["--expose", "80"]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let (home, far) = (registry.home(&[]), registry.far_home("far"));
    let (agent, _far) = (home.start(), far.start());
    far.until_address(&name, &ip);
    home.until_synced();
    let output = home.client(&["leave"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // The far host has no Docker, so it never knows enough to say NXDOMAIN.
    far.until_code(&name, ResponseCode::ServFail);
    home.until_address(&name, &ip);
    assert!(registry.instance(&id).is_none());
    assert_eq!(home.client(&["leave"]).status.code(), Some(0), "twice is no failure");
    assert!(agent.end(Signal::SIGTERM).success());
    let output = home.client(&["leave"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[test]
fn with_on_term_leave_sigterm_withdraws_too() {
    let (bed, registry) = (engine_bed("onterm"), Registry::single());
    let id = bed.sleeper("web", &[]);
    let home = registry.home(&["--on-term", "leave"]);
    let agent = home.start();
    home.until_synced();
    assert!(registry.instance(&id).is_some());
    assert!(agent.end(Signal::SIGTERM).success());
    assert_eq!(held(&registry.keys()), []);
}
