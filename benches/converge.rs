//! `make bench-converge`: how long from a Docker event's own timestamp until DNS answers it, on the host that owns the
//! container and on another host, beside the bare etcd put→watch time of the same run.
//!
//! One etcd (fsync on), two agents, the machine's real Docker engine. Agent A follows the engine; agent B has none and
//! learns everything from etcd. Each round starts a container, waits for both answers, kills it, waits for both to be
//! gone, and takes one put→watch sample in between, so that all figures see the same machine. One thread per agent
//! asks for the round's name over and over and notes when the answer changes: the figure includes the asking, at most
//! [`agent::PAUSE`] plus one query.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portolan::registry::{
    call::{LeaseId, Op, Reply, Request, WatchEvent, WatchRange, prefix_end},
    etcd::{Etcd, Options},
};

#[path = "../tests/support/agent.rs"]
mod agent;
#[path = "../tests/support/etcd.rs"]
mod etcd_fixture;
#[path = "../tests/support/figures.rs"]
mod figures;

use agent::{Agent, DEADLINE, Want};
use figures::{Figures, percentile};

/// Starts and stops measured, unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 200;
/// Image of the sample containers, made from busybox.
const IMAGE: &str = "portolan-bench-busybox";

fn main() -> Result<()> {
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
        Err(_) => ROUNDS,
    };
    make_image()?;
    let etcd = etcd_fixture::Cluster::single();
    let state = tempfile::tempdir()?;
    let own = Agent::start("bench-own", 5391, &etcd.endpoints(), None, state.path())?;
    let other =
        Agent::start("bench-other", 5392, &etcd.endpoints(), Some("unix:///nonexistent/docker.sock"), state.path())?;
    let mut events = Events::follow()?;
    let bare = Bare::start(&etcd.endpoints())?;

    let (mut own_start, mut own_stop, mut other_start, mut other_stop) = (vec![], vec![], vec![], vec![]);
    let mut put_watch = vec![];
    for round in 0..rounds {
        let name = format!("portolan-bench-{round}");
        let question = format!("{name}.global.svc.internal");
        put_watch.push(bare.sample()?);

        let seen = [own.await_change(&question, Want::Present), other.await_change(&question, Want::Present)];
        let container = Container::run(&name, 20_000 + u16::try_from(round % 10_000)?)?;
        let started = events.of(&container.id, &["start"])?;
        let [at_own, at_other] = seen.map(|seen| seen.recv_timeout(DEADLINE));
        own_start.push(since(started, at_own.context("the own host never answered the start")?));
        other_start.push(since(started, at_other.context("the other host never answered the start")?));

        put_watch.push(bare.sample()?);
        let seen = [own.await_change(&question, Want::Absent), other.await_change(&question, Want::Absent)];
        docker(&["kill", &container.id])?;
        // On `docker kill` the network goes before the process is reported dead; either is the end.
        let ended = events.of(&container.id, &["disconnect", "die"])?;
        let [at_own, at_other] = seen.map(|seen| seen.recv_timeout(DEADLINE));
        own_stop.push(since(ended, at_own.context("the own host never answered the stop")?));
        other_stop.push(since(ended, at_other.context("the other host never answered the stop")?));
        drop(container);
        if (round + 1) % 20 == 0 {
            eprintln!("{} of {rounds} rounds", round + 1);
        }
    }

    let mut figures = Figures::new("converge");
    figures.say(&format!("{rounds} starts and {rounds} stops; milliseconds after the Docker event's own timestamp"));
    for (name, samples) in [
        ("own host, start", &mut own_start),
        ("own host, stop", &mut own_stop),
        ("other host, start", &mut other_start),
        ("other host, stop", &mut other_stop),
        ("bare etcd put→watch", &mut put_watch),
    ] {
        let [p50, p99] = [50.0, 99.0].map(|share| percentile(samples, share));
        figures.row(name, &[("p50", p50, "ms"), ("p99", p99, "ms")]);
    }
    figures.write()?;
    let _removed = docker(&["rmi", IMAGE]);
    Ok(())
}

/// Milliseconds from an event until it was answered; can be a little below 0 when the answer overtook the event's
/// own delivery to us, never by design.
fn since(event: Duration, answered: Duration) -> f64 {
    answered.as_secs_f64() * 1e3 - event.as_secs_f64() * 1e3
}

fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().context("docker")?;
    ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// An image of nothing but busybox: there may be no registry.
fn make_image() -> Result<()> {
    let script = format!(
        "d=$(mktemp -d) && mkdir $d/bin && cp $(command -v busybox) $d/bin/busybox && tar -C $d -c . | docker import - {IMAGE} >/dev/null && rm -r $d"
    );
    let status = Command::new("sh").args(["-ec", &script]).status()?;
    ensure!(status.success(), "no sample image: is busybox-static installed? (make setup)");
    Ok(())
}

/// A running sample container, removed when dropped.
struct Container {
    id: String,
}

impl Container {
    fn run(name: &str, port: u16) -> Result<Self> {
        let label = format!("portolan.service={name}");
        let publish = format!("{port}:80");
        let run =
            ["run", "-d", "--name", name, "--label", &label, "-p", &publish, IMAGE, "/bin/busybox", "sleep", "600"];
        Ok(Self { id: docker(&run)? })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _gone = docker(&["rm", "-f", &self.id]);
    }
}

/// The engine's own event stream, read by the docker command.
struct Events {
    process: Child,
    seen: mpsc::Receiver<serde_json::Value>,
}

impl Events {
    fn follow() -> Result<Self> {
        let mut process = Command::new("docker")
            .args(["events", "--filter", "type=container", "--filter", "type=network", "--format", "{{json .}}"])
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(process.stdout.take().context("piped")?).lines();
        let (tell, seen) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _told = tell.send(event);
                }
            }
        });
        Ok(Self { process, seen })
    }

    /// The timestamp of the first event of these about a container.
    fn of(&mut self, container: &str, actions: &[&str]) -> Result<Duration> {
        let until = Instant::now() + DEADLINE;
        while let Ok(event) = self.seen.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let about = [&event["Actor"]["ID"], &event["Actor"]["Attributes"]["container"]];
            let is_ours = about.iter().any(|id| id.as_str() == Some(container));
            if is_ours && event["Action"].as_str().is_some_and(|action| actions.contains(&action)) {
                return Ok(Duration::from_nanos(event["timeNano"].as_u64().context("timeNano")?));
            }
        }
        bail!("no event {actions:?} of container {container}");
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The bare put→watch time of the same etcd: the floor under every other host's figure.
struct Bare {
    runtime: tokio::runtime::Runtime,
    etcd: Etcd,
    lease: LeaseId,
    delivered: Arc<Mutex<tokio::sync::mpsc::Receiver<WatchEvent>>>,
}

impl Bare {
    fn start(endpoints: &[String]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let prefix = b"/bench/".to_vec();
        let (etcd, lease, delivered) = runtime.block_on(async {
            let etcd = Etcd::new(Options {
                endpoints: endpoints.to_vec(),
                own_prefixes: vec![prefix.clone()],
                ..Options::default()
            })?;
            let Reply::Granted { lease, header, .. } = etcd.call(Request::Grant { ttl: 3600 }).await? else {
                bail!("no lease");
            };
            let range = WatchRange { start: prefix.clone(), end: prefix_end(&prefix) };
            let mut delivered = etcd.watch(vec![range], header.revision + 1);
            while !matches!(delivered.recv().await.context("the watch ended")?, WatchEvent::Created { .. }) {}
            Ok((etcd, lease, delivered))
        })?;
        Ok(Self { runtime, etcd, lease, delivered: Arc::new(Mutex::new(delivered)) })
    }

    /// Milliseconds from a put until its watcher has it.
    fn sample(&self) -> Result<f64> {
        let mut delivered = self.delivered.lock().map_err(|_| anyhow::anyhow!("a sample panicked"))?;
        self.runtime.block_on(async {
            let started = Instant::now();
            let put = Op::Put { key: b"/bench/key".to_vec(), value: vec![b'x'; 400], lease: self.lease };
            let etcd = self.etcd.clone();
            let writing = tokio::spawn(async move {
                etcd.call(Request::Txn { compare: vec![], then: vec![put], otherwise: vec![] }).await
            });
            while !matches!(delivered.recv().await.context("the watch ended")?, WatchEvent::Changes { .. }) {}
            let took = started.elapsed().as_secs_f64() * 1e3;
            writing.await??;
            Ok(took)
        })
    }
}
