//! The composition root: makes the channels, starts every loop in one [`JoinSet`], and takes them down in order.
//!
//! ```text
//! watch/docker ──Desired──► watch/probe ──Desired──► snapshots ──Desired──► registry/driver
//!      └──────────────────Local────────────────────► ▲ │ └──Zone──► dns/server     │
//!                                                    │ └──Catalog──► api/http      │
//!                                                    └────────────View─────────────┘
//! ```
//!
//! Everything here is wiring. The one decision made in this file is what a signal does: SIGTERM keeps the lease (a
//! restart must be invisible) unless `--on-term leave`, SIGINT and the control socket withdraw. A loop that ends
//! unasked is a bug: the agent ends loudly, so that the supervisor starts it anew while the lease still stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    api::{ApiState, ResolveError, ResolveReply, ResolveRequest, control, drain::Drains, external, http},
    config::{Config, OnTerm, Registry, Upstreams},
    dns::{
        answer::{Settings, Snapshot},
        forward::{self, Forwarder},
        listen::Listen,
        name::Apex,
        prefer::Preference,
        server::{self, BindState, Limits, Shared},
    },
    model::{Catalog, Desired, Externals, Local, Problem, Residents, Session},
    registry::{
        call::Revision,
        driver::{self, Backend, Command},
        etcd::{self, Etcd},
        memory::Store,
        mirror::View,
        publisher::Identity,
        record::Keys,
        state::StateDirectory,
    },
    watch::{docker, health::Presume, host, labels, probe},
};

mod advertise;
mod drain;
mod explain;
mod externals;
mod facts;
mod resolve;
mod route;
mod snapshots;
mod surroundings;

use drain::{Drainer, KeptDrains};
use externals::{Keeper, Order, Sources};
use route::{Advertised, Advertiser, Route};
use snapshots::{Snapshots, on_one_thread};
use surroundings::Surroundings;

/// How long withdrawing may take at the end before the agent ends all the same; the names then leave with the lease.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long start-up waits for the listeners before it tells how they are; they are tried on for ever.
const BIND_DEADLINE: Duration = Duration::from_secs(3);
/// Commands to the registry side that may wait.
const COMMANDS: usize = 16;

/// Runs the agent until a signal ends it.
pub async fn run(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state = Arc::new(StateDirectory::open(&config.state_dir.value)?);
    let mut tasks = JoinSet::new();
    let keeps = config.on_term.value == OnTerm::Keep;
    let agent = tokio::select! {
        agent = start(config, state, &mut tasks) => agent?,
        // Names may have to be looked up and ports be waited for; a stop that keeps the lease need not wait with them.
        _ = terminate.recv(), if keeps => return Ok(()),
    };
    let notified = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Err(error) = notified {
        warn!(%error, "systemd was not told that we are ready");
    }
    let leave = tokio::select! {
        _ = terminate.recv() => agent.config.on_term.value == OnTerm::Leave,
        _ = interrupt.recv() => true,
        Some(ended) = tasks.join_next() => return Err(unasked(ended)),
    };
    let _best_effort = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if leave {
        info!("withdrawing this host");
        let (done, outcome) = oneshot::channel();
        agent.commands.send(Command::Leave(done)).await.context("the registry side has ended")?;
        match timeout(LEAVE_DEADLINE, outcome).await {
            Ok(Ok(Ok(()))) => info!("withdrawn"),
            Ok(Ok(Err(reason))) => warn!(reason, "not withdrawn: the names leave when the lease ends"),
            Ok(Err(_)) | Err(_) => warn!("not withdrawn in time: the names leave when the lease ends"),
        }
    } else {
        info!("stopping; the names stay until the lease ends");
    }
    Ok(())
}

/// Starts everything and says so.
async fn start(config: Config, state: Arc<StateDirectory>, tasks: &mut Tasks) -> Result<Agent> {
    let agent = Agent::compose(config, &state)?;
    let (leaves_out, leaves) = mpsc::channel(COMMANDS);
    agent.spawn(tasks, state, leaves_out, leaves).await?;
    agent.introduce(tasks).await?;
    Ok(agent)
}

/// Every loop, by name.
type Tasks = JoinSet<(&'static str, Result<()>)>;

type Ended = Result<(&'static str, Result<()>), tokio::task::JoinError>;

/// A loop that ends although nobody asked it to.
fn unasked(ended: Ended) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} has ended unasked"),
        Ok((name, Err(error))) => error.context(format!("{name} has ended")),
        Err(error) => anyhow!("a task has died: {error}"),
    }
}

/// The channels between the loops: their receiving ends, which can be had any number of times.
struct Agent {
    config: Config,
    identity: Identity,
    shared: Arc<Shared>,
    forwarder: Arc<Forwarder>,
    listens: Vec<Listen>,
    commands: mpsc::Sender<Command>,
    /// As Docker says it.
    docker_desired: Channel<Desired>,
    /// With what our own checks found.
    desired: Channel<Desired>,
    /// External services, as they are registered; and with what our own checks found.
    registered: Channel<Desired>,
    externals: Channel<Desired>,
    /// What the embedded registry keeps of them.
    kept: Channel<Externals>,
    /// As `desired`, once the own host answers from it.
    served: Channel<Desired>,
    /// The revision to acknowledge that the own host answers from.
    asked: (watch::Sender<Revision>, watch::Receiver<Revision>),
    local: Channel<Local>,
    residents: Channel<Residents>,
    view: Channel<View>,
    catalog: Channel<Catalog>,
    session: Channel<Session>,
    wanted: Channel<BTreeSet<SocketAddr>>,
    bound: Channel<BTreeMap<SocketAddr, BindState>>,
    docker: (watch::Sender<docker::Status>, watch::Receiver<docker::Status>),
    registry: (watch::Sender<driver::Status>, watch::Receiver<driver::Status>),
    advertised: Channel<Advertised>,
    surroundings: Channel<Vec<Problem>>,
    checked: Arc<probe::Counts>,
    pending: Mutex<Option<mpsc::Receiver<Command>>>,
}

/// Both ends of a `watch` channel of snapshots.
struct Channel<T>(watch::Sender<Arc<T>>, watch::Receiver<Arc<T>>);

impl<T: Default> Default for Channel<T> {
    fn default() -> Self {
        let (sender, receiver) = watch::channel(Arc::default());
        Self(sender, receiver)
    }
}

impl Agent {
    /// Everything that can be wrong with the configuration is found here, before anything runs.
    fn compose(config: Config, state: &StateDirectory) -> Result<Self> {
        let host = state.host_id(config.host_id.value.as_ref())?;
        let apex = Apex::parse(&config.zone.value).context("--zone")?;
        let listens: Vec<Listen> = config.dns.value.clone();
        let nameserver = |listen: &Listen| match listen {
            Listen::Address(address) if address.port() == 53 && !address.ip().is_unspecified() => Some(address.ip()),
            _ => None,
        };
        let settings = Settings {
            apex: apex.clone(),
            ttl: config.ttl.value,
            routed: config.routed.value.clone(),
            nameserver: listens.iter().filter_map(nameserver).collect(),
            forwarding: config.upstream.value != Upstreams::None,
            when_none_ready: config.when_none_ready.value,
            prefer: Preference {
                by: config.prefer.value,
                floor: usize::try_from(config.prefer_floor.value)?,
                locality: config.locality.value.as_deref().unwrap_or_default().into(),
            },
            ..Settings::default()
        };
        let upstreams = match &config.upstream.value {
            Upstreams::System => forward::Upstreams::ResolvConf(config.resolv_conf.value.clone()),
            Upstreams::None => forward::Upstreams::None,
            Upstreams::Addresses(addresses) => forward::Upstreams::Fixed(addresses.clone()),
        };
        let (local, wanted) = (Channel::<Local>::default(), Channel::default());
        let options = forward::Options { upstreams, ..forward::Options::default() };
        let forwarder = Forwarder::new(options, &apex, wanted.1.clone(), local.1.clone());
        let session = Session {
            nonce: format!("{:032x}", rand::random::<u128>()).into(),
            // Nothing before it is known which addresses are Docker's own: see `route.rs`.
            advertise: Vec::new(),
            locality: config.locality.value.as_deref().unwrap_or_default().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            waits: None,
        };
        let lease_ttl = i64::try_from(config.lease.value.as_secs()).context("--lease")?;
        let keys = Keys::new(&config.etcd_prefix.value);
        let identity = Identity { host, keys, session: session.clone(), lease_ttl };
        let (commands, pending) = mpsc::channel(COMMANDS);
        let agent = Self {
            identity,
            shared: Arc::new(Shared::new(settings, Limits::default())),
            forwarder: Arc::new(forwarder),
            listens,
            commands,
            docker_desired: Channel::default(),
            desired: Channel::default(),
            registered: Channel::default(),
            externals: Channel::default(),
            kept: Channel::default(),
            served: Channel::default(),
            asked: watch::channel(0),
            local,
            residents: Channel::default(),
            view: Channel::default(),
            catalog: Channel::default(),
            session: Channel::default(),
            wanted,
            bound: Channel::default(),
            docker: watch::channel(docker::Status::default()),
            registry: watch::channel(driver::Status::default()),
            advertised: Channel::default(),
            surroundings: Channel::default(),
            checked: Arc::default(),
            pending: Mutex::new(Some(pending)),
            config,
        };
        agent.session.0.send_replace(Arc::new(session));
        // Known before Docker is, so that this host may ask from its own addresses at once.
        let addresses = Arc::new(host::addresses().unwrap_or_default());
        agent.local.0.send_replace(Arc::new(Local { addresses, ..Local::default() }));
        Ok(agent)
    }

    fn backend(&self) -> Result<Backend> {
        if self.config.registry.value == Registry::Memory {
            return Ok(Backend::Memory(Store::embedded(rand::random())));
        }
        let Identity { keys, host, .. } = &self.identity;
        Ok(Backend::Etcd(etcd_of(&self.config, vec![keys.host_prefix(host), keys.echo(host), keys.ack(host)])?))
    }
    /// Starts every loop.
    async fn spawn(
        &self,
        tasks: &mut Tasks,
        state: Arc<StateDirectory>,
        leaves_out: mpsc::Sender<control::Leave>,
        leaves: mpsc::Receiver<control::Leave>,
    ) -> Result<()> {
        let http_address = self.config.http.value;
        let listener = http::listen(http_address).await.with_context(|| {
            format!("--http {http_address} cannot be listened on: free it, or choose another address")
        })?;
        let control_path = &self.config.control.value;
        let socket = control::ControlSocket::bind(control_path)
            .with_context(|| format!("--control {} cannot be made: choose another path", control_path.display()))?;

        spawn(tasks, "dns", {
            let (shared, forwarder) = (Arc::clone(&self.shared), Arc::clone(&self.forwarder));
            let serve =
                server::serve(shared, self.wanted.1.clone(), forwarder, self.bound.0.clone(), server::Relay::alone());
            async move { serve.await.map_err(Into::into) }
        });
        let forwarder = Arc::clone(&self.forwarder);
        spawn(tasks, "forwarder", async move {
            forwarder.follow().await;
            Ok(())
        });
        let docker_options = docker::Options {
            endpoint: self.config.docker_host.value.parse()?,
            drains: state.drains(),
            labels: labels::Options {
                namespaces: self.config.namespaces.value,
                claims: self.config.claim.value.clone().into(),
                compat: self.config.compat.value,
                explicit: self.config.explicit.value,
                tags: self.config.tags.value.iter().map(|tag| Arc::from(tag.as_str())).collect(),
                precedence: self.config.precedence.value,
            },
            ..docker::Options::default()
        };
        let (ask_docker, asked) = mpsc::channel(COMMANDS);
        let outputs = docker::Outputs {
            desired: self.docker_desired.0.clone(),
            local: self.local.0.clone(),
            residents: self.residents.0.clone(),
            status: self.docker.0.clone(),
        };
        let checks = probe::Options {
            commands: self.config.check_commands.value.clone(),
            presume: Presume::AtFirst,
            // Whoever follows Docker has a thread of their own.
            runtime: Handle::current(),
            counts: Arc::clone(&self.checked),
        };
        let checks = probe::follow(checks, self.docker_desired.1.clone(), self.desired.0.clone());
        let snapshots = Snapshots::of(self);
        let found = externals::found(&state);
        let remembered = found.externals.clone();
        let keeper = Arc::new(Keeper::new(&self.config, Arc::clone(&state), self.kept.0.clone(), found));
        let sources = Sources {
            configured: externals::configured(&self.config.external.value),
            remembers: (self.config.registry.value == Registry::Etcd).then(|| (remembered, Arc::clone(&state))),
            kept: self.kept.1.clone(),
            view: self.view.1.clone(),
            apex: self.config.zone.value.clone(),
            desired: self.registered.0.clone(),
        };
        spawn(tasks, "externals", sources.follow());
        let asked_elsewhere = probe::Options {
            commands: None,
            presume: Presume::Always,
            runtime: Handle::current(),
            counts: Arc::clone(&self.checked),
        };
        let checked = probe::follow(asked_elsewhere, self.registered.1.clone(), self.externals.0.clone());
        spawn(tasks, "checks of externals", async move { checked.await.context("checks") });
        spawn(
            tasks,
            "docker",
            on_one_thread(move || async move {
                tokio::select! {
                    // In the order of the flow: what one has sent the next takes in the same breath.
                    biased;
                    () = docker::follow(docker_options, outputs, asked) => Ok(()),
                    ended = checks => ended.context("checks"),
                    ended = snapshots.follow() => ended.context("snapshots"),
                }
            }),
        );
        let commands = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take().context("started twice")?;
        let (identity, backend, kept) = (self.identity.clone(), self.backend()?, Arc::clone(&state));
        let inputs = driver::Inputs { desired: self.served.1.clone(), asked: self.asked.1.clone(), commands };
        let outputs = driver::Outputs { view: self.view.0.clone(), status: self.registry.0.clone() };
        spawn(tasks, "registry", async move {
            driver::run(driver::Options { identity, state }, backend, inputs, outputs).await;
            Ok(())
        });
        let advertiser = Advertiser {
            route: Route::new(&self.config),
            local: self.local.1.clone(),
            docker: self.docker.1.clone(),
            session: self.session.0.clone(),
            advertised: self.advertised.0.clone(),
            commands: self.commands.clone(),
        };
        spawn(tasks, "advertise", advertiser.follow());
        let surroundings = Surroundings {
            resolv_conf: self.config.resolv_conf.value.clone(),
            local: self.local.1.clone(),
            bound: self.bound.1.clone(),
            problems: self.surroundings.0.clone(),
        };
        spawn(tasks, "surroundings", surroundings.follow());
        spawn(tasks, "withdrawals", withdraw(leaves, self.commands.clone()));
        let bound = listener.local_addr()?;
        let public = http::public(self.api(), bound);
        spawn(tasks, "http", async move { match http::serve_tcp(listener, public, http::Limits::default()).await {} });
        let drainer = Drainer {
            host: self.identity.host.clone(),
            ttl: self.config.ttl.value,
            drains: Arc::new(KeptDrains::new(kept)),
            docker: ask_docker,
            served: self.served.1.clone(),
            registry: self.registry.1.clone(),
            view: self.view.1.clone(),
            commands: self.commands.clone(),
        };
        let observer = drainer.clone();
        let drains = Drains {
            order: Arc::new(move |order| Box::pin(drainer.clone().order(order))),
            progress: Arc::new(move |round| Box::pin(observer.clone().progress(round))),
        };
        let forgetter = Arc::clone(&keeper);
        let externals = external::Externals {
            register: Arc::new(move |text| Box::pin(Arc::clone(&keeper).obey(Order::Register(text)))),
            unregister: Arc::new(move |text| Box::pin(Arc::clone(&forgetter).obey(Order::Unregister(text)))),
        };
        let control_of = control::Control { host: self.identity.host.clone(), leave: leaves_out, drains, externals };
        let router = control::control(control_of);
        spawn(tasks, "control", async move {
            match control::serve_control(socket, router, http::Limits::default()).await {}
        });
        Ok(())
    }

    fn api(&self) -> ApiState {
        let shared = Arc::clone(&self.shared);
        ApiState {
            host: self.identity.host.clone(),
            zone: self.config.zone.value.as_str().into(),
            catalog: self.catalog.1.clone(),
            local: self.local.1.clone(),
            when_none_ready: self.config.when_none_ready.value,
            facts: facts::collector(facts::Sources {
                kind: if self.config.registry.value == Registry::Memory { "memory" } else { "etcd" },
                desired: self.desired.1.clone(),
                externals: self.externals.1.clone(),
                docker: self.docker.1.clone(),
                registry: self.registry.1.clone(),
                view: self.view.1.clone(),
                bound: self.bound.1.clone(),
                shared: Arc::clone(&self.shared),
                forwarder: Arc::clone(&self.forwarder),
                advertised: self.advertised.1.clone(),
                surroundings: self.surroundings.1.clone(),
                checked: Arc::clone(&self.checked),
            }),
            resolve: Arc::new({
                let shared = Arc::clone(&shared);
                move |request| answer(&shared, &request)
            }),
            explain: explain::explainer(self.identity.host.clone(), shared, self.residents.1.clone()),
        }
    }

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

fn spawn(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
    tasks.spawn(async move { (name, task.await) });
}

/// The etcd of the configuration, in which we write only below `own_prefixes`.
pub(crate) fn etcd_of(config: &Config, own_prefixes: Vec<Vec<u8>>) -> Result<Etcd> {
    let user = config.etcd_user.value.as_ref().map(|user| {
        let password = user.password.as_ref().map_or("", |password| password.reveal());
        (user.name.clone(), password.to_owned())
    });
    let (ca, cert, key) = (&config.etcd_ca.value, &config.etcd_cert.value, &config.etcd_key.value);
    let has_tls = ca.is_some() || cert.is_some() || key.is_some();
    Ok(Etcd::new(etcd::Options {
        endpoints: config.etcd_endpoints.value.clone(),
        user,
        tls: has_tls.then(|| etcd::Tls { ca: ca.clone(), cert: cert.clone(), key: key.clone() }),
        own_prefixes,
        ..etcd::Options::default()
    })?)
}

fn answer(shared: &Shared, request: &ResolveRequest) -> Result<ResolveReply, ResolveError> {
    let (zone, local, settings) = (shared.zone(), shared.local(), shared.settings());
    let snapshot = Snapshot { zone: &zone, local: &local, settings: &settings };
    resolve::resolve(&snapshot, request, &mut rand::rng())
}

/// The control socket's withdrawals, one after the other.
async fn withdraw(mut leaves: mpsc::Receiver<control::Leave>, commands: mpsc::Sender<Command>) -> Result<()> {
    while let Some(leave) = leaves.recv().await {
        commands.send(Command::Leave(leave)).await?;
    }
    bail!("the control socket is gone")
}
