//! One round: a container is started and ended, and one of the contenders is asked meanwhile.

use std::{path::Path, sync::mpsc, thread, time::Duration};

use anyhow::{Context, Result};

use crate::{
    agent::{Agent, Asker, DEADLINE, Want},
    limits::{About, Bare, Events, Responder},
    sample::{Container, IMAGE, docker},
};

/// Whose turn it is to be measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The agent of the container's own host.
    Own,
    /// The bare responder.
    Responder,
    /// The agent of another host.
    Other,
    /// etcd alone.
    Etcd,
}

impl Turn {
    pub(crate) const ALL: [Self; 4] = [Self::Own, Self::Responder, Self::Other, Self::Etcd];
}

/// The agents of two hosts, one of which has the engine.
pub(crate) struct Agents {
    pub(crate) own: Agent,
    pub(crate) other: Agent,
}

impl Agents {
    /// Starts both from one binary. Another `name` makes other host ids, and these agents inherit nothing from those.
    pub(crate) fn start(binary: &Path, name: &str, endpoints: &[String], state: &Path) -> Result<Self> {
        let start = |role: &str, port: u16, docker: Option<&str>| {
            Agent::start_binary(binary, &format!("{name}-{role}"), port, endpoints, docker, state)
        };
        let own = start("own", 5391, None)?;
        let other = start("other", 5392, Some("unix:///nonexistent/docker.sock"))?;
        Ok(Self { own, other })
    }
}

/// All that takes part in a round.
pub(crate) struct Stage {
    /// In the order of turns; etcd has none.
    askers: Vec<Asker>,
    responder: Responder,
    events: Events,
    bare: Bare,
}

/// What one round found, in milliseconds.
pub(crate) struct Round {
    /// From the start's own timestamp until it was answered.
    pub(crate) start: f64,
    /// From the end's own timestamp until it was answered.
    pub(crate) stop: f64,
    /// From a put until its watcher had it, before the start and before the end.
    pub(crate) rest: [f64; 2],
}

/// What is done to a container, and how the engine tells of it.
struct Change {
    about: About,
    /// The event with which asking begins, where that is an earlier one.
    cue: Option<&'static str>,
    actions: &'static [&'static str],
    want: Want,
    /// Runs on a thread of its own; a container that it leaves.
    act: Box<dyn FnOnce() -> Result<Option<Container>> + Send>,
}

impl Stage {
    /// With nobody to ask yet.
    pub(crate) fn new(endpoints: &[String]) -> Result<Self> {
        let (responder, events, bare) = (Responder::start()?, Events::follow()?, Bare::start(endpoints)?);
        Ok(Self { askers: vec![], responder, events, bare })
    }

    /// Asks these agents from now on.
    pub(crate) fn ask(&mut self, agents: &Agents) -> Result<()> {
        let addresses = [agents.own.address, self.responder.address, agents.other.address];
        self.askers = addresses.iter().map(|address| Asker::of(&[*address])).collect::<Result<_>>()?;
        Ok(())
    }

    /// Starts a container and ends it again. Its number makes its name and its port.
    pub(crate) fn round(&self, turn: Turn, number: usize) -> Result<Round> {
        let name = format!("portolan-bench-{number}");
        let question = format!("{name}.global.svc.internal");
        let port = 20_000 + u16::try_from(number % 10_000)?;
        let _following = (turn == Turn::Responder).then(|| self.responder.follow(&name)).transpose()?;

        let rest_before_start = self.bare.sample()?;
        let about = About::Name(name.clone());
        let act = Box::new(move || run(&name, port).map(Some));
        let started = Change { about, cue: None, actions: &["start"], want: Want::Present, act };
        let (start, container) = self.measure(turn, &question, started)?;
        let container = container.context("no container was started")?;

        let rest_before_stop = self.bare.sample()?;
        // The network may go before the process is reported dead; either is the end.
        let (about, killed) = (About::Id(container.id.clone()), container.id.clone());
        let act = Box::new(move || docker(&["kill", &killed]).map(|_| None));
        let ended = Change { about, cue: Some("kill"), actions: &["disconnect", "die"], want: Want::Absent, act };
        let (stop, _) = self.measure(turn, &question, ended)?;
        Ok(Round { start, stop, rest: [rest_before_start, rest_before_stop] })
    }

    /// Milliseconds from the engine's event until it was answered, or until etcd's watcher had a put. Waits for all
    /// others afterwards.
    fn measure(&self, turn: Turn, question: &str, change: Change) -> Result<(f64, Option<Container>)> {
        let Change { about, cue, actions, want, act } = change;
        let (tell, told) = mpsc::channel();
        let measured = self.askers.get(turn as usize).map(|asker| {
            let (events, about) = (self.events.clone(), about.clone());
            // The end may be told before the signal.
            let cues: Vec<&'static str> = cue.into_iter().chain(actions.iter().copied()).collect();
            let cue = move || drop(tell.send(events.await_event(&about, &cues)));
            asker.await_change_after(Box::new(cue), question, want)
        });
        let changing = thread::spawn(act);
        let took = match measured {
            Some(answered) => {
                let answered = answered.recv_timeout(DEADLINE).context("the event was never answered")?[0];
                let (action, mut came) = told.recv()??;
                if !actions.contains(&action) {
                    (_, came) = self.events.await_event(&about, actions)?;
                }
                since(came, answered)
            }
            None => {
                self.events.await_event(&about, actions)?;
                self.bare.sample()?
            }
        };
        let knows = |(index, _): &(usize, &Asker)| *index != Turn::Responder as usize || turn == Turn::Responder;
        for (_, asker) in self.askers.iter().enumerate().filter(knows) {
            let answered = asker.await_change(question, want);
            answered.recv_timeout(DEADLINE).context("somebody has never answered the event")?;
        }
        let changed = changing.join().map_err(|_| anyhow::anyhow!("docker panicked"))??;
        Ok((took, changed))
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
