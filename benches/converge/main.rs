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

use std::{sync::mpsc, thread, time::Duration};

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

/// Starts and stops measured for each figure, unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 200;
/// Who is measured in turn: the own host, the responder, the other host, and etcd alone.
const TURNS: usize = 4;
/// The turn of the responder.
const RESPONDER: usize = 1;
/// What is done to a container on a thread of its own; a container that it leaves.
type Change = Box<dyn FnOnce() -> Result<Option<Container>> + Send>;

/// Containers beside those that are measured, where `BENCH_CROWD` is set.
const CROWD: usize = 200;

fn main() -> Result<()> {
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
        Err(_) => ROUNDS,
    };
    let crowd = if std::env::var_os("BENCH_CROWD").is_some() { CROWD } else { 0 };
    let _image = make_image()?;
    let crowd: Vec<Container> = (0..crowd).map(run_checked).collect::<Result<_>>()?;
    let etcd = etcd_fixture::Cluster::single();
    let state = tempfile::tempdir()?;
    let own = Agent::start("bench-own", 5391, &etcd.endpoints(), None, state.path())?;
    let other =
        Agent::start("bench-other", 5392, &etcd.endpoints(), Some("unix:///nonexistent/docker.sock"), state.path())?;
    let responder = Responder::start()?;
    let addresses = [own.address, responder.address, other.address];
    let askers = addresses.iter().map(|address| Asker::of(&[*address])).collect::<Result<Vec<Asker>>>()?;
    let events = Events::follow()?;
    let bare = Bare::start(&etcd.endpoints())?;

    // Of each asker, and behind them of the bare put at that moment.
    let mut start: [Vec<f64>; TURNS] = Default::default();
    let mut stop: [Vec<f64>; TURNS] = Default::default();
    let mut quiet = vec![];
    for round in 0..rounds * TURNS {
        let turn = round % TURNS;
        let name = format!("portolan-bench-{round}");
        let question = format!("{name}.global.svc.internal");
        let port = 20_000 + u16::try_from(round % 10_000)?;
        let measure =
            |about: About, cue: Option<&'static str>, actions: &'static [&'static str], want, change: Change| {
                let (tell, told) = mpsc::channel();
                let measured = askers.get(turn).map(|asker| {
                    let (events, about) = (events.clone(), about.clone());
                    // The end may be told before the signal.
                    let cues: Vec<&'static str> = cue.into_iter().chain(actions.iter().copied()).collect();
                    let cue = move || drop(tell.send(events.await_event(&about, &cues)));
                    asker.await_change_after(Box::new(cue), &question, want)
                });
                let changing = thread::spawn(change);
                let took = match measured {
                    Some(answered) => {
                        let answered = answered.recv_timeout(DEADLINE).context("the event was never answered")?[0];
                        let (action, mut came) = told.recv()??;
                        if !actions.contains(&action) {
                            (_, came) = events.await_event(&about, actions)?;
                        }
                        since(came, answered)
                    }
                    None => {
                        events.await_event(&about, actions)?;
                        bare.sample()?
                    }
                };
                let knows = |(index, _): &(usize, &Asker)| *index != RESPONDER || turn == RESPONDER;
                for (_, asker) in askers.iter().enumerate().filter(knows) {
                    let answered = asker.await_change(&question, want);
                    answered.recv_timeout(DEADLINE).context("somebody has never answered the event")?;
                }
                let changed = changing.join().map_err(|_| anyhow::anyhow!("docker panicked"))??;
                anyhow::Ok((took, changed))
            };
        let _following = (turn == RESPONDER).then(|| responder.follow(&name)).transpose()?;
        quiet.push(bare.sample()?);
        let about = About::Name(name.clone());
        let run = move || run(&name, port).map(Some);
        let (took, container) = measure(about, None, &["start"], Want::Present, Box::new(run))?;
        start[turn].push(took);
        let container = container.context("no container was started")?;

        quiet.push(bare.sample()?);
        // The network may go before the process is reported dead; either is the end.
        let (about, killed) = (About::Id(container.id.clone()), container.id.clone());
        let kill = move || docker(&["kill", &killed]).map(|_| None);
        let (took, _) = measure(about, Some("kill"), &["disconnect", "die"], Want::Absent, Box::new(kill))?;
        stop[turn].push(took);
        drop(container);
        if (round + 1) % 40 == 0 {
            eprintln!("{} of {} rounds", round + 1, rounds * TURNS);
        }
    }

    let mut figures = Figures::new(if crowd.is_empty() { "converge" } else { "crowd" });
    figures
        .say(&format!("{rounds} starts and {rounds} stops each; milliseconds after the Docker event's own timestamp"));
    if !crowd.is_empty() {
        // Their addresses are given to their own host alone.
        let host = Asker::of(&[own.address])?;
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
