//! `make bench-rolling`: what a rolling restart under load costs its clients, with `portolan drain --wait` and without.
//!
//! Ten replicas on the machine's real Docker engine, one agent, one etcd (fsync on). [`load::CLIENTS`] clients resolve the
//! service anew for each request, take one of the addresses and ask it over HTTP, as fast as they can. Replicas have a
//! check of their own, so that none is given before it serves, and end at once when they are asked to.
//!
//! One replica after the other is restarted: drained and waited for, stopped, started, and waited for until all ten are
//! answered again. Beside each such turn, in the same run, stands the control: the same turn with `docker stop` alone. Their
//! order changes from round to round, and a request counts for the turn in which it began.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

#[path = "../../tests/support/agent.rs"]
mod agent;
#[path = "../../tests/support/etcd.rs"]
mod etcd_fixture;
#[path = "../../tests/support/figures.rs"]
mod figures;
mod load;
#[path = "../../tests/support/sample.rs"]
mod sample;

use agent::{Agent, DEADLINE};
use figures::{Figures, percentile};
use load::{Load, Resolver};
use sample::{Container, IMAGE, docker, make_image};

/// Replicas of the service.
const REPLICAS: usize = 10;
/// Times that all of them are restarted either way, unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// The service.
const SERVICE: &str = "portolan-bench-rolling";
/// Pause between two looks at the answer.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Serves at once and ends at once: an application that finishes nothing it has begun, which is the worst case.
const SERVE: &str = "echo served > /index.html; \
    /bin/busybox httpd -f -p 80 -h / & trap 'kill $!; exit 0' TERM; wait";

/// How a replica is taken out.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    /// Drained first, and waited until everybody knows.
    Drained,
    /// Just stopped.
    Plain,
}

/// What turns of one kind took, in milliseconds.
#[derive(Default)]
struct Turns {
    waits: Vec<f64>,
    turns: Vec<f64>,
}

fn main() -> Result<()> {
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
        Err(_) => ROUNDS,
    };
    let _image = make_image()?;
    let etcd = etcd_fixture::Cluster::single();
    let state = tempfile::tempdir()?;
    let agent = Agent::start("bench-rolling", 5395, &etcd.endpoints(), None, state.path())?;
    let control = state.path().join("bench-rolling.sock");
    let replicas: Vec<Container> = (0..REPLICAS).map(replica).collect::<Result<_>>()?;
    let mut resolver = Resolver::new(agent.address, SERVICE)?;
    until_all_serve(&mut resolver)?;

    let load = Load::start(agent.address, SERVICE)?;
    let (mut drained, mut plain) = (Turns::default(), Turns::default());
    for round in 0..rounds {
        for number in 0..replicas.len() {
            let ways = [Way::Drained, Way::Plain];
            for place in 0..ways.len() {
                let way = ways[(place + round + number) % ways.len()];
                let turns = if way == Way::Drained { &mut drained } else { &mut plain };
                load.begin(way);
                turn(way, number, &control, &mut resolver, turns)?;
            }
        }
        eprintln!("{} of {rounds} rounds", round + 1);
    }
    let tallies = load.end();

    let mut figures = Figures::new("rolling");
    let clients = load::CLIENTS;
    figures.say(&format!("{rounds} rolling restarts of {REPLICAS} replicas under {clients} clients, either way"));
    for (name, way, turns) in
        [("drain --wait, then stop", Way::Drained, &mut drained), ("docker stop alone", Way::Plain, &mut plain)]
    {
        let [served, failed] = tallies.of(way);
        let seconds = turns.turns.iter().sum::<f64>() / 1e3;
        let requests = [("served", served, ""), ("failed", failed, ""), ("rate", (served + failed) / seconds, "req/s")];
        figures.row(name, &requests);
        for (what, samples) in [("  drain --wait", &mut turns.waits), ("  one replica's turn", &mut turns.turns)] {
            if !samples.is_empty() {
                let [p50, p99] = [50.0, 99.0].map(|share| percentile(samples, share));
                figures.row(what, &[("p50", p50, "ms"), ("p99", p99, "ms")]);
            }
        }
    }
    for line in tallies.reasons() {
        figures.say(&line);
    }
    figures.write()
}

/// Takes one replica out and in again.
fn turn(way: Way, number: usize, control: &Path, resolver: &mut Resolver, turns: &mut Turns) -> Result<()> {
    let name = name(number);
    let began = Instant::now();
    if way == Way::Drained {
        let drain = Command::new(env!("CARGO_BIN_EXE_portolan"))
            .args(["drain", &name, "--wait", "--control"])
            .arg(control)
            .stdin(Stdio::null())
            .output()
            .context("portolan drain")?;
        ensure!(drain.status.success(), "portolan drain {name}: {}", String::from_utf8_lossy(&drain.stderr));
        turns.waits.push(milliseconds(began));
    }
    docker(&["stop", &name])?;
    docker(&["start", &name])?;
    until_all_serve(resolver)?;
    turns.turns.push(milliseconds(began));
    Ok(())
}

fn until_all_serve(resolver: &mut Resolver) -> Result<()> {
    let began = Instant::now();
    loop {
        let found = resolver.resolve().unwrap_or_default();
        if found.len() == REPLICAS {
            return Ok(());
        }
        ensure!(began.elapsed() < DEADLINE, "only {found:?} are answered");
        thread::sleep(LOOK_EVERY);
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn name(number: usize) -> String {
    format!("{SERVICE}-{number}")
}

fn replica(number: usize) -> Result<Container> {
    let (name, service) = (name(number), format!("portolan.service={SERVICE}"));
    let labels = ["--name", &name, "--expose", "80", "--label", &service, "--label", "portolan.check.http=/"];
    Container::run(&[&labels[..], &[IMAGE, "/bin/busybox", "sh", "-c", SERVE]].concat())
}
