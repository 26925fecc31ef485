//! `make bench-converge`: how long from a Docker event's own timestamp until DNS answers it, on the host that owns the
//! container and on another host, beside the bare etcd put→watch time of the same run.
//!
//! One etcd (fsync on), two agents, the machine's real Docker engine. Agent A follows the engine; agent B has none and
//! learns everything from etcd. Each round starts a container, waits until both answer, kills it and waits until both are
//! silent. One thread asks for the round's name over and over, and notes when the answer changes: the figure includes the
//! asking, at most [`agent::PAUSE`] plus one query. It begins when the engine tells it of the start, or that the signal was
//! sent, which is some milliseconds before the end; and it asks one server alone, because two busy processors would else be
//! measured with a third thing to do: rounds are taken in turns, so that all figures see the same machine. The others are
//! waited for afterwards. The engine tells its followers one after the other: beside the agent, which always follows, and
//! whoever asks, the responder follows in its own turns only.
//!
//! `make bench-crowd` is the same with [`CROWD`] more containers on the host, each with a health check of its own that the
//! agent runs.
//!
//! Two limits have their turns, too: a responder that does nothing but read the same events and answer from one flag, asked
//! in the same way; and etcd's put→watch time at the moment of the event, when the engine keeps processors and disk busy,
//! beside the same while nothing else happens.
//!
//! `BENCH_BEFORE=PATH`, an older binary of the agent, measures its agents and the present ones in turns instead
//! (`blocks.rs`).

use std::path::Path;

use anyhow::{Context, Result};

#[path = "../../tests/support/agent.rs"]
mod agent;
mod blocks;
#[path = "../../tests/support/etcd.rs"]
mod etcd_fixture;
#[path = "../../tests/support/figures.rs"]
mod figures;
mod limits;
#[path = "../../tests/support/sample.rs"]
mod sample;
mod stage;
#[path = "../../tests/support/versions.rs"]
mod versions;

use agent::{Asker, DEADLINE, PORTOLAN, Want};
use figures::{Figures, percentile};
use sample::{Container, IMAGE, make_image};
use stage::{Agents, Stage, Turn};

/// Starts and stops measured for each figure, unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 200;
/// Containers beside those that are measured, where `BENCH_CROWD` is set.
const CROWD: usize = 200;

fn main() -> Result<()> {
    let rounds = match std::env::var("BENCH_ROUNDS").ok().filter(|text| !text.is_empty()) {
        Some(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
        None => ROUNDS,
    };
    let crowd = if std::env::var_os("BENCH_CROWD").is_some() { CROWD } else { 0 };
    let older = versions::older()?;
    let _image = make_image()?;
    let crowd: Vec<Container> = (0..crowd).map(run_checked).collect::<Result<_>>()?;
    let etcd = etcd_fixture::Cluster::single();
    let state = tempfile::tempdir()?;
    if let Some(older) = older {
        return blocks::compare(&older, rounds, &etcd.endpoints(), state.path());
    }
    let agents = Agents::start(Path::new(PORTOLAN), "bench", &etcd.endpoints(), state.path())?;
    let mut stage = Stage::new(&etcd.endpoints())?;
    stage.ask(&agents)?;

    // By turn.
    let mut start: [Vec<f64>; Turn::ALL.len()] = Default::default();
    let mut stop: [Vec<f64>; Turn::ALL.len()] = Default::default();
    let mut quiet = vec![];
    let all = rounds * Turn::ALL.len();
    for number in 0..all {
        let turn = Turn::ALL[number % Turn::ALL.len()];
        let round = stage.round(turn, number)?;
        start[turn as usize].push(round.start);
        stop[turn as usize].push(round.stop);
        quiet.extend(round.rest);
        if (number + 1) % 40 == 0 {
            eprintln!("{} of {all} rounds", number + 1);
        }
    }

    let mut figures = Figures::new(if crowd.is_empty() { "converge" } else { "crowd" });
    figures
        .say(&format!("{rounds} starts and {rounds} stops each; milliseconds after the Docker event's own timestamp"));
    if !crowd.is_empty() {
        // Their addresses are given to their own host alone.
        let host = Asker::of(&[agents.own.address])?;
        let answers = host.await_change("portolan-crowd.global.svc.internal", Want::Present);
        answers.recv_timeout(DEADLINE).context("no check has passed")?;
        figures.say(&format!("beside {} containers with a check each, which the agent runs every 10 s", crowd.len()));
    }
    let [own_start, bare_start, other_start, busy_start] = &mut start;
    let [own_stop, bare_stop, other_stop, busy_stop] = &mut stop;
    for (name, samples) in [
        ("own host, start", own_start),
        ("own host, stop", own_stop),
        ("bare responder, start", bare_start),
        ("bare responder, stop", bare_stop),
        ("other host, start", other_start),
        ("other host, stop", other_stop),
        ("bare etcd put→watch, at a start", busy_start),
        ("bare etcd put→watch, at a stop", busy_stop),
        ("bare etcd put→watch, at rest", &mut quiet),
    ] {
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|share| percentile(samples, share));
        figures.row(name, &[("p50", p50, "ms"), ("p90", p90, "ms"), ("p99", p99, "ms")]);
    }
    figures.write()
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
