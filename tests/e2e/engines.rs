//! Host D, whose engine is 26.1: the scenarios that other modules run on engine 20.10, what this engine does
//! differently, and Podman, which serves Docker's API and is refused.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use super::{
    bed::{A, C, Container, D, Host, SOON, addresses, eventually, everywhere, unique, unique_port},
    lifecycle, networks,
    prober::Prober,
};

/// How often Docker looks after the containers of these tests, as a flag.
const INTERVAL: Duration = Duration::from_secs(10);

#[test]
fn host_d_has_an_engine_of_another_generation() {
    let version = D.docker(&["version", "-f", "{{.Server.Version}} {{.Server.APIVersion}}"]);
    assert!(version.starts_with("26.1."), "{version}");
}

#[test]
fn on_26_a_start_a_stop_and_a_start_again_are_seen_by_all_hosts() {
    lifecycle::starts_and_stops(D, A);
}

#[test]
fn on_26_a_paused_replica_is_left_out_until_it_is_unpaused() {
    lifecycle::pauses(D, A);
}

#[test]
fn on_26_connecting_and_disconnecting_a_network_changes_the_address_for_those_on_it() {
    lifecycle::joins_and_leaves_a_network(D);
}

#[test]
fn on_26_a_network_of_both_families_is_answered_and_opened_in_both() {
    networks::answers_in_both_families(D);
}

/// A service with a replica on host C, which has no check, and one on `host`, whose check passes while it has the file
/// `/tmp/well`.
struct Checked {
    name: String,
    on_host: Container,
    _on_c: Container,
}

impl Checked {
    fn start(host: Host, options: &[&str]) -> Self {
        let stem = unique("checked");
        let (label, publish) = (format!("portolan.service={stem}"), format!("{}:80", unique_port()));
        let plain = ["--label", &label, "-p", &publish];
        let on_c = C.run(&unique("r"), &plain);
        let on_host = host.run(&unique("r"), &[&plain[..], &["--health-cmd", "test -e /tmp/well"], options].concat());
        let service = Self { name: format!("{stem}.svc.internal"), on_host, _on_c: on_c };
        everywhere(&format!("all.{stem}.global.svc.internal"), RecordType::A, &addresses([C, host]));
        service
    }

    fn is_told(&self, hosts: &[Host]) {
        everywhere(&self.name, RecordType::A, &addresses(hosts.iter().copied()));
    }

    fn set_well(&self, is_well: bool) {
        let verb = if is_well { "touch" } else { "rm" };
        self.on_host.host.docker(&["exec", &self.on_host.name, verb, "/tmp/well"]);
    }

    /// What the engine says of the replica's health.
    fn health(&self) -> String {
        self.on_host.docker(&["inspect", "-f", "{{.State.Health.Status}}"]).trim().to_owned()
    }
}

#[test]
fn on_26_docker_s_checks_decide_who_is_given() {
    let service = Checked::start(D, &["--health-interval", "500ms", "--health-retries", "1"]);
    service.is_told(&[C]);
    service.set_well(true);
    service.is_told(&[C, D]);
    service.set_well(false);
    service.is_told(&[C]);
}

#[test]
fn on_26_a_check_that_is_made_more_often_while_a_container_starts_is_heard_at_once() {
    // With the interval alone the first check would come after 10 minutes.
    let often = "--health-interval 10m --health-start-period 10m --health-start-interval 500ms";
    let service = Checked::start(D, &often.split(' ').collect::<Vec<_>>());
    service.is_told(&[C]);
    service.set_well(true);
    service.is_told(&[C, D]);
}

/// A restarted engine keeps its containers alive (live-restore). Since version 25 it reports each as `starting` until
/// the next check. Gives what the engine says right after its restart.
fn restarts_and_nothing_is_lost(host: Host) -> [String; 2] {
    let options = ["--health-interval", &format!("{}s", INTERVAL.as_secs()), "--health-retries", "1"];
    let well = Checked::start(host, &options);
    let ill = Checked::start(host, &options);
    well.set_well(true);
    well.is_told(&[C, host]);
    eventually("the engine has found out who is ill", SOON + INTERVAL, || match ill.health() {
        health if health == "unhealthy" => Ok(()),
        health => Err(health),
    });
    ill.is_told(&[C]);

    let began = Instant::now();
    let (probing_well, probing_ill) = (Prober::start(&well.name), Prober::start(&ill.name));
    networks::restart_engine(host);
    let said = [well.health(), ill.health()];
    // Probe until the engine has checked again and every host knows what it found.
    for (service, verdict) in [(&well, "healthy"), (&ill, "unhealthy")] {
        eventually("the engine has looked again", SOON + INTERVAL, || match service.health() {
            health if health == verdict => Ok(()),
            health => Err(health),
        });
    }
    lifecycle::starts_and_stops(host, C);
    probing_well.finish(began).judge(&addresses([C, host]), &[]);
    probing_ill.finish(began).judge(&addresses([C]), &[]);
    said
}

#[test]
fn on_26_an_engine_s_restart_loses_no_answer_though_it_takes_every_verdict_back() {
    let said = restarts_and_nothing_is_lost(D);
    assert_eq!(said, ["starting", "starting"], "the engine kept its verdicts, so this proves nothing");
}

#[test]
fn on_20_an_engine_s_restart_loses_no_answer() {
    restarts_and_nothing_is_lost(A);
}

/// Ends Podman's service, also when the test fails.
struct Podman;

impl Podman {
    const SOCKET: &str = "/run/podman.sock";

    fn start() -> Self {
        // Its default storage needs whiteouts, which this kernel lacks; no container runs here.
        let storage = "--root /tmp/podman/root --runroot /tmp/podman/run --storage-driver vfs";
        let serve = format!("podman {storage} system service --time 0 unix://{}", Self::SOCKET);
        D.shell(&format!("nohup {serve} >/tmp/podman.log 2>&1 &"));
        eventually("Podman listens", SOON, || {
            let is_there = D.shell(&format!("[ -S {} ] && echo yes || cat /tmp/podman.log", Self::SOCKET));
            if is_there.trim() == "yes" { Ok(()) } else { Err(is_there) }
        });
        Self
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Not `shell`: a second panic would end the process before it says why the test failed.
        let end = format!("pkill -x podman; umount -R /tmp/podman/root/vfs; rm -rf {} /tmp/podman", Self::SOCKET);
        drop(D.try_shell(&format!("({end}) || true")));
    }
}

#[test]
fn podman_is_refused_and_named() {
    let _podman = Podman::start();
    let agent = Container { host: D, name: unique("podman") };
    let http = unique_port();
    let run = format!(
        "run -d --network host --cap-drop ALL --cap-add NET_BIND_SERVICE --read-only --tmpfs /run -v /var/run:/host/run:ro \
         --name {} portolan:dev agent --docker-host unix:///host{} --upstream none --dns 127.0.0.1:{} --http 127.0.0.1:{http}",
        agent.name,
        Podman::SOCKET,
        unique_port(),
    );
    D.docker(&run.split_whitespace().collect::<Vec<_>>());
    let said = eventually("it is among the problems", SOON, || {
        let problems = D.try_http_at(http, "/v1/problems")?;
        if problems.contains("Podman") { Ok(problems) } else { Err(problems) }
    });
    let version = D.shell("podman --version");
    let version = version.trim().rsplit(' ').next().expect("the last word");
    assert!(said.contains(version) && said.contains("not supported yet"), "{said}");
    let log = D.shell(&format!("docker logs {} 2>&1", agent.name));
    assert_eq!(log.matches("Podman").count(), 1, "one line in the log: {log}");
}
