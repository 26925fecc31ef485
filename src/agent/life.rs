//! An agent's life: how it begins, what signals do, how it ends.
//!
//! SIGTERM keeps the lease (a restart must be invisible) unless `--on-term leave`; SIGINT withdraws. Either way queries that
//! have come are answered before the end. SIGHUP reads the configuration anew (`reload.rs`), SIGUSR2 starts the binary anew, which takes over from this one. A loop
//! that ends unasked is a bug: the agent ends loudly, so that the supervisor starts it anew while the lease still stands.

use std::{
    collections::BTreeMap, future::Future, io::Write, net::SocketAddr, os::fd::OwnedFd, pin::Pin,
    process::Command as Process, sync::Arc, time::Duration,
};

use anyhow::{Context, Result, anyhow};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    Agent, COMMANDS, Tasks,
    handover::{Heir, Lender},
    reload::{Load, Reloader, SetLog},
    sockets::Sockets,
    spawn,
    takeover::{self, Inheritance},
};
use crate::{
    api::takeover::Wire,
    config::{Config, OnTerm, Registry},
    dns::server::{BindState, Order, Parting},
    registry::{driver::Command, state::StateDirectory},
};

/// How long withdrawing may take at the end before the agent ends all the same; the names then leave with the lease.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long start-up waits for the listeners before it tells how they are; they are tried on for ever.
const BIND_DEADLINE: Duration = Duration::from_secs(3);
/// How long queries wait in sockets that systemd held meanwhile, until this host knows what to answer. Stub resolvers give
/// up a server after 5 s (glibc), and a new process takes some 0.1 s before that.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// How long the end waits for answers that are owed. Nobody reads new queries meanwhile: those wait for the next agent.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// The same when another agent answers meanwhile: as long as forwarding may take (5 s), and some air.
const LAST_ANSWERS_RELIEVED: Duration = Duration::from_secs(6);
/// TCP connections on their way to the next agent; who has one waits with it.
const CONNECTIONS: usize = 16;

/// How an agent is started.
pub struct Start {
    /// What the operator wants.
    pub config: Config,
    /// Sockets that systemd holds.
    pub held: Vec<OwnedFd>,
    /// Take over from the agent that runs, if one does.
    pub takeover: bool,
    /// Reads the configuration anew.
    pub load: Load,
    /// Changes what is logged.
    pub set_log: SetLog,
}

/// Why an agent ends.
enum End {
    /// Asked to, with what becomes of its names.
    Asked(OnTerm),
    /// Another one has taken over.
    Relieved(Heir),
}

/// Runs the agent until a signal ends it, or another agent takes over.
pub async fn run(start: Start) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut tasks = JoinSet::new();
    let keeps = start.config.on_term.value == OnTerm::Keep;
    let Start { config, held, takeover: takes_over, load, set_log } = start;
    let mut reloader = Reloader::new(load, set_log, &config);
    let (takeover, mut takeovers) = mpsc::channel(1);
    let (agent, lender) = tokio::select! {
        begun = begin(config, held, takes_over, takeover, &mut tasks) => begun?,
        // Names may have to be looked up and ports be waited for; a stop that keeps the lease need not wait with them.
        _ = terminate.recv(), if keeps => return Ok(()),
    };
    tell_systemd(&[NotifyState::Ready]);
    let lender = Arc::new(lender);
    let mut handing: Option<Pin<Box<dyn Future<Output = Result<Heir>> + Send>>> = None;
    let end = loop {
        tokio::select! {
            _ = terminate.recv() => break End::Asked(reloader.on_term),
            _ = interrupt.recv() => break End::Asked(OnTerm::Leave),
            Some(ended) = tasks.join_next() => return Err(unasked(ended)),
            Some(wire) = takeovers.recv(), if handing.is_none() => {
                handing = Some(Box::pin(Arc::clone(&lender).hand_over(wire)));
            }
            handed = async { handing.as_mut().expect("it is looked at first").await }, if handing.is_some() => {
                handing = None;
                match handed {
                    Ok(heir) => break End::Relieved(heir),
                    Err(error) => warn!(error = %format!("{error:#}"), "nobody has taken over; this agent goes on"),
                }
            }
            _ = hangup.recv() => {
                let reloading = NotifyState::monotonic_usec_now().map(|now| [NotifyState::Reloading, now]);
                reloading.iter().for_each(|reloading| tell_systemd(reloading));
                reloader.reload(&agent);
                tell_systemd(&[NotifyState::Ready]);
            }
            _ = upgrade.recv() => start_successor(),
        }
    };
    end_well(end, &agent, &mut tasks).await
}

/// Ends so that nobody notices.
async fn end_well(end: End, agent: &Agent, tasks: &mut Tasks) -> Result<()> {
    let (connections, handed_on) = mpsc::channel(CONNECTIONS);
    let (parting, deadline, giving): (_, _, Pin<Box<dyn Future<Output = ()> + Send>>) = match end {
        End::Relieved(heir) => {
            info!(process = heir.process, "another agent has taken over; this one ends");
            // systemd follows the process that runs on; it must be of the same unit.
            heir.process.into_iter().for_each(|process| tell_systemd(&[NotifyState::MainPid(process)]));
            (Parting::HandOn(connections), LAST_ANSWERS_RELIEVED, Box::pin(heir.give_connections(handed_on)))
        }
        End::Asked(names) => {
            tell_systemd(&[NotifyState::Stopping]);
            match names {
                OnTerm::Leave => leave(agent).await?,
                OnTerm::Keep => info!("stopping; the names stay until the lease ends"),
            }
            (Parting::Finish, LAST_ANSWERS, Box::pin(std::future::ready(())))
        }
    };
    agent.gates.stop.send_replace(true);
    // Without a DNS server nothing is owed.
    let _ = agent.orders.send(Order::Retire(parting)).await;
    let at = Instant::now() + deadline;
    let dns_ends = async {
        while let Ok(Some(ended)) = timeout_at(at, tasks.join_next()).await {
            if matches!(ended, Ok(("dns", _))) {
                return;
            }
        }
        warn!("not all that was asked is answered");
    };
    tokio::join!(dns_ends, timeout_at(at, giving)).1.unwrap_or_default();
    Ok(())
}

async fn leave(agent: &Agent) -> Result<()> {
    info!("withdrawing this host");
    let (done, outcome) = oneshot::channel();
    agent.commands.send(Command::Leave(done)).await.context("the registry side has ended")?;
    match timeout(LEAVE_DEADLINE, outcome).await {
        Ok(Ok(Ok(()))) => info!("withdrawn"),
        Ok(Ok(Err(reason))) => warn!(reason, "not withdrawn: the names leave when the lease ends"),
        Ok(Err(_)) | Err(_) => warn!("not withdrawn in time: the names leave when the lease ends"),
    }
    Ok(())
}

/// Starts everything and says so.
async fn begin(
    config: Config,
    held: Vec<OwnedFd>,
    takes_over: bool,
    takeover: mpsc::Sender<Wire>,
    tasks: &mut Tasks,
) -> Result<(Agent, Lender)> {
    let inherited = match takes_over {
        true => takeover::inherit(&config).await?,
        false => None,
    };
    if takes_over && inherited.is_none() {
        info!(control = %config.control.value.display(), "no agent runs there to take over from: starting as usual");
    }
    let (inheritance, state, sockets) = match inherited {
        Some((inheritance, state, sockets)) => (Some(inheritance), state, sockets),
        None => (
            None,
            StateDirectory::open(&config.state_dir.value)?,
            Sockets::held(held, config.http.value, &config.dns_tls.value),
        ),
    };
    let state = Arc::new(state);
    let agent = Agent::compose(config, &state, sockets)?;
    let lender = agent.spawn(tasks, state, mpsc::channel(COMMANDS), takeover).await?;
    tokio::select! {
        settled = settle(&agent, inheritance) => {
            if let Some(wire) = settled? {
                spawn(tasks, "connections of the agent before", takeover::take_connections(wire, agent.orders.clone()));
            }
        }
        Some(ended) = tasks.join_next() => return Err(unasked(ended)),
    }
    agent.introduce(tasks).await?;
    Ok((agent, lender))
}

/// Waits until sockets of others may be read from.
async fn settle(agent: &Agent, inheritance: Option<Inheritance>) -> Result<Option<Wire>> {
    if let Some(inheritance) = inheritance {
        return inheritance.take_over(agent).await.map(Some);
    }
    if !*agent.gates.may_read.borrow() {
        let mut catalog = agent.catalog.1.clone();
        if timeout(FIRST_ANSWERS, catalog.wait_for(|catalog| catalog.is_complete())).await.is_err() {
            warn!("Docker or the registry is not known yet: what waits in systemd's sockets is answered without");
        }
        agent.gates.may_read.send_replace(true);
    }
    Ok(None)
}

/// Starts this binary anew, as it is on disk now, to take over from this process.
fn start_successor() {
    let begun = || -> Result<u32> {
        let program = std::env::current_exe()?.into_os_string();
        // What Linux says of a binary that was replaced.
        let program = match program.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
            Some(path) => path.into(),
            None => program,
        };
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--takeover");
        let mut successor = Process::new(program);
        let mut child = successor.args(arguments).arg("--takeover").spawn()?;
        let process = child.id();
        // Somebody has to take note of its end, should it fail.
        std::thread::Builder::new().name("successor".into()).spawn(move || child.wait())?;
        Ok(process)
    };
    match begun() {
        Ok(process) => info!(process, "SIGUSR2: another agent was started to take over"),
        Err(error) => error!(error = %format!("{error:#}"), "SIGUSR2: no other agent can be started"),
    }
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, ?state, "systemd was not told");
    }
}

type Ended = Result<(&'static str, Result<()>), tokio::task::JoinError>;

/// A loop that ends although nobody asked it to.
fn unasked(ended: Ended) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} has ended unasked"),
        Ok((name, Err(error))) => error.context(format!("{name} has ended")),
        Err(error) => anyhow!("a task has died: {error}"),
    }
}

impl Agent {
    /// Says what we are and how to ask, once it is known where we listen.
    async fn introduce(&self, tasks: &mut Tasks) -> Result<()> {
        let mut bound = self.bound.1.clone();
        let is_up = |states: &Arc<BTreeMap<SocketAddr, BindState>>| {
            states.values().any(|state| matches!(state, BindState::Bound { .. }))
        };
        tokio::select! {
            _ = timeout(BIND_DEADLINE, bound.wait_for(is_up)) => {}
            Some(ended) = tasks.join_next() => return Err(unasked(ended)),
        }
        let mut advertised = self.advertised.1.clone();
        tokio::select! {
            _ = advertised.wait_for(|advertised| advertised.chosen) => {}
            Some(ended) = tasks.join_next() => return Err(unasked(ended)),
        }
        let states = Arc::clone(&self.bound.1.borrow());
        let zone = &self.config.zone.value;
        let mut lines = vec![format!("portolan {} on host {}", env!("CARGO_PKG_VERSION"), self.identity.host)];
        lines.push(format!("zone      {zone}"));
        for (address, state) in states.iter() {
            match state {
                BindState::Bound { .. } => lines.push(format!("dns       {address}")),
                BindState::Secured => lines.push(format!("dns+tls   {address}")),
                BindState::Failed { reason, .. } => lines.push(format!("dns       {address} not yet: {reason}")),
            }
        }
        lines.push(match self.config.registry.value {
            Registry::Memory => {
                "registry  memory (this host alone; name --etcd-endpoints to share with others)".to_owned()
            }
            Registry::Etcd => format!("registry  etcd {}", self.config.etcd_endpoints.value.join(" ")),
        });
        let advertise: Vec<String> = self.session.1.borrow().advertise.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "advertise {}",
            if advertise.is_empty() { "nothing".to_owned() } else { advertise.join(" ") }
        ));
        lines.push(format!("http      http://{}", self.config.http.value));
        let up =
            states.iter().filter(|(_, state)| matches!(state, BindState::Bound { .. })).map(|(address, _)| address);
        // Loopback is the address a person at this host asks most easily.
        if let Some(address) = up.min_by_key(|address| !address.ip().is_loopback()) {
            lines.push(format!("try       dig @{} -p {} NAME.{zone}", address.ip(), address.port()));
        }
        // Nobody may be reading any more, which is no reason to end.
        let _best_effort = writeln!(std::io::stdout(), "{}", lines.join("\n"));
        Ok(())
    }
}
