//! `make bench-converge`: how long from a Docker event's own timestamp until DNS answers it, on the host that owns the
//! container and on another host, beside the bare etcd put→watch time of the same run.
//!
//! One etcd (fsync on), two agents, the machine's real Docker engine. Agent A follows the engine; agent B has none and
//! learns everything from etcd. Each round starts a container, waits for both answers, kills it, waits for both to be
//! gone, and takes one put→watch sample in between, so that all figures see the same machine. One thread asks both
//! agents for the round's name from the moment the event reaches it too, over and over, and notes when each answer
//! changes: the figure includes the asking, at most [`agent::PAUSE`] plus one query. It asks no sooner, because two busy
//! processors would then be measured with a third thing to do.
//!
//! `make bench-crowd` is the same with [`CROWD`] more containers on the host, each with a health check of its own that the
//! agent runs.
//!
//! Two limits stand beside: a responder that does nothing but read the same events and answer from one flag, asked in the
//! same way at the same time; and etcd's put→watch time, both while nothing else happens and at the moment of the event,
//! when the engine keeps processors and disk busy (at every other event, for it is one more write to wait for).

use std::{thread, time::Duration};

use anyhow::{Context, Result};

#[path = "../../tests/support/agent.rs"]
mod agent;
#[path = "../../tests/support/etcd.rs"]
mod etcd_fixture;
#[path = "../../tests/support/figures.rs"]
mod figures;
mod limits;
#[path = "../../tests/support/sample.rs"]
mod sample;

use agent::{Agent, Asker, DEADLINE, Want};
use figures::{Figures, percentile};
use limits::{About, Bare, Events, Responder};
use sample::{Container, IMAGE, docker, make_image};

/// Starts and stops measured, unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 200;
/// Containers beside those that are measured, where `BENCH_CROWD` is set.
const CROWD: usize = 200;

fn main() -> Result<()> {
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
        Err(_) => ROUNDS,
    };
    let crowd = if std::env::var_os("BENCH_CROWD").is_some() { CROWD } else { 0 };
    make_image()?;
    let crowd: Vec<Container> = (0..crowd).map(run_checked).collect::<Result<_>>()?;
    let etcd = etcd_fixture::Cluster::single();
    let state = tempfile::tempdir()?;
    let own = Agent::start("bench-own", 5391, &etcd.endpoints(), None, state.path())?;
    let other =
        Agent::start("bench-other", 5392, &etcd.endpoints(), Some("unix:///nonexistent/docker.sock"), state.path())?;
    let responder = Responder::start("portolan-bench-")?;
    let asker = Asker::of(&[own.address, other.address, responder])?;
    let events = Events::follow()?;
    let bare = Bare::start(&etcd.endpoints())?;

    let mut start: [Vec<f64>; 3] = Default::default();
    let mut stop: [Vec<f64>; 3] = Default::default();
    let (mut quiet, mut busy) = (vec![], vec![]);
    for round in 0..rounds {
        let name = format!("portolan-bench-{round}");
        let question = format!("{name}.global.svc.internal");
        quiet.push(bare.sample()?);
        let (cue, started) = events.cue(About::Name(name.clone()), &["start"]);
        let answered = asker.await_change_after(cue, &question, Want::Present);
        let port = 20_000 + u16::try_from(round % 10_000)?;
        let running = thread::spawn(move || run(&name, port));
        let started = started.recv().context("no start event")?;
        if round % 2 == 0 {
            busy.push(bare.sample()?);
        }
        let answered = answered.recv_timeout(DEADLINE).context("a start was never answered")?;
        note(&mut start, started, &answered);
        let container = running.join().map_err(|_| anyhow::anyhow!("docker run panicked"))??;

        quiet.push(bare.sample()?);
        // The network may go before the process is reported dead; either is the end.
        let (cue, ended) = events.cue(About::Id(container.id.clone()), &["disconnect", "die"]);
        let answered = asker.await_change_after(cue, &question, Want::Absent);
        let killed = container.id.clone();
        let killing = thread::spawn(move || docker(&["kill", &killed]));
        let ended = ended.recv().context("no event of the end")?;
        if round % 2 == 1 {
            busy.push(bare.sample()?);
        }
        let answered = answered.recv_timeout(DEADLINE).context("a stop was never answered")?;
        note(&mut stop, ended, &answered);
        killing.join().map_err(|_| anyhow::anyhow!("docker kill panicked"))??;
        drop(container);
        if (round + 1) % 20 == 0 {
            eprintln!("{} of {rounds} rounds", round + 1);
        }
    }

    let mut figures = Figures::new(if crowd.is_empty() { "converge" } else { "crowd" });
    figures.say(&format!("{rounds} starts and {rounds} stops; milliseconds after the Docker event's own timestamp"));
    if !crowd.is_empty() {
        // Their addresses are given to their own host alone.
        let host = Asker::of(&[own.address])?;
        let answers = host.await_change("portolan-crowd.global.svc.internal", Want::Present);
        answers.recv_timeout(DEADLINE).context("no check has passed")?;
        figures.say(&format!("beside {} containers with a check each, which the agent runs every 10 s", crowd.len()));
    }
    let [own_start, other_start, bare_start] = &mut start;
    let [own_stop, other_stop, bare_stop] = &mut stop;
    for (name, samples) in [
        ("own host, start", own_start),
        ("own host, stop", own_stop),
        ("bare responder, start", bare_start),
        ("bare responder, stop", bare_stop),
        ("other host, start", other_start),
        ("other host, stop", other_stop),
        ("bare etcd put→watch, at the event", &mut busy),
        ("bare etcd put→watch, at rest", &mut quiet),
    ] {
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|share| percentile(samples, share));
        figures.row(name, &[("p50", p50, "ms"), ("p90", p90, "ms"), ("p99", p99, "ms")]);
    }
    figures.write()?;
    drop(crowd);
    let _removed = docker(&["rmi", IMAGE]);
    Ok(())
}

/// Notes how long after the event each of those asked had answered.
fn note(samples: &mut [Vec<f64>; 3], event: Duration, answered: &[Duration]) {
    for (samples, answered) in samples.iter_mut().zip(answered) {
        samples.push(since(event, *answered));
    }
}

/// Milliseconds from an event until it was answered; can be a little below 0 when the answer overtook the event's
/// own delivery to us, never by design.
fn since(event: Duration, answered: Duration) -> f64 {
    answered.as_secs_f64() * 1e3 - event.as_secs_f64() * 1e3
}

/// One that is started and ended again.
fn run(name: &str, port: u16) -> Result<Container> {
    let label = format!("portolan.service={name}");
    let publish = format!("{port}:80");
    Container::run(&["--name", name, "--label", &label, "-p", &publish, IMAGE, "/bin/busybox", "sleep", "600"])
}

/// One of a crowd: serves, and is asked by the agent whether it does.
fn run_checked(number: usize) -> Result<Container> {
    let name = format!("portolan-crowd-{number}");
    let labels = ["--name", &name, "--label", "portolan.service=portolan-crowd"];
    let check = ["--expose", "80", "--label", "portolan.check.tcp=true", IMAGE];
    if (number + 1).is_multiple_of(20) {
        eprintln!("{} of {CROWD} more containers", number + 1);
    }
    Container::run(&[&labels[..], &check, &["/bin/busybox", "httpd", "-f", "-p", "80"]].concat())
}
