//! The composition root: makes the channels, starts every loop in one [`JoinSet`], and takes them down in order.
//!
//! ```text
//! watch/docker ──Desired──► watch/probe ──Desired──► snapshots ──Desired──► registry/driver
//!      └──────────────────Local────────────────────► ▲ │ └──Zone──► dns/server     │
//!                                                    │ └──Catalog──► api/http      │
//!                                                    └────────────View─────────────┘
//! ```
//!
//! Everything here is wiring. How an agent begins and ends, and what signals do, is in `agent/life.rs`; with whose sockets
//! it begins, and to whom it leaves them, in `agent/sockets.rs`, `agent/takeover.rs` and `agent/handover.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    api::{
        ApiState, ResolveError, ResolveReply, ResolveRequest, control, drain::Drains, external, http, takeover::Wire,
    },
    config::{Config, Registry},
    dns::{
        answer::Snapshot,
        forward::{self, Forwarder},
        listen::Listen,
        name::Apex,
        server::{self, BindState, Relay, Shared, Tls},
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
mod handover;
mod holders;
mod life;
mod names;
mod reload;
mod resolve;
mod route;
mod snapshots;
mod sockets;
mod surroundings;
mod takeover;

pub use life::{Start, run};
pub use reload::{Load, SetLog};

use drain::{Drainer, KeptDrains};
use externals::{Keeper, Order, Sources};
use handover::Lender;
use names::Names;
use reload::Live;
use route::{Advertised, Advertiser, Route};
use snapshots::{Snapshots, on_one_thread};
use sockets::Sockets;
use surroundings::Surroundings;

/// Commands to the registry side that may wait.
const COMMANDS: usize = 16;

/// Every loop, by name.
type Tasks = JoinSet<(&'static str, Result<()>)>;

/// The channels between the loops: their receiving ends, which can be had any number of times.
struct Agent {
    config: Config,
    identity: Identity,
    backend: Backend,
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
    gates: Gates,
    /// What may change while we run.
    live: Channel<Live>,
    /// The addresses that sockets of others are for.
    handed: BTreeSet<SocketAddr>,
    /// What the DNS server can be asked for.
    orders: mpsc::Sender<server::Order>,
    pending: Mutex<Option<Pending>>,
}

/// What an agent with sockets of another one does only when it is time.
struct Gates {
    /// Read from the sockets of others: this host knows what to answer.
    may_read: watch::Sender<bool>,
    /// Publish, write to the state directory and take commands: nobody else does.
    may_publish: watch::Sender<bool>,
    /// Begin no new request of the API any more.
    stop: watch::Sender<bool>,
}

/// What the loops take with them when they start.
struct Pending {
    commands: mpsc::Receiver<Command>,
    orders: mpsc::Receiver<server::Order>,
    sockets: Sockets,
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
    fn compose(config: Config, state: &StateDirectory, sockets: Sockets) -> Result<Self> {
        let host = state.host_id(config.host_id.value.as_ref())?;
        let apex = Apex::parse(&config.zone.value).context("--zone")?;
        let mut listens: Vec<Listen> = config.dns.value.clone();
        // Whoever holds a socket for us means us to answer there.
        listens.extend(sockets.held.iter().map(|address| Listen::Address(*address)));
        let settings = reload::settings(&config, &host, &listens)?;
        let chosen = reload::upstreams(&config);
        let (local, wanted) = (Channel::<Local>::default(), Channel::default());
        let cache = config.cache_size.value.0;
        let options = forward::Options { chosen, cache, ..forward::Options::default() };
        let forwarder = Forwarder::new(options, &apex, wanted.1.clone(), local.1.clone());
        let session = Session {
            nonce: format!("{:032x}", rand::random::<u128>()).into(),
            // Nothing before it is known which addresses are Docker's own: see `route.rs`.
            advertise: Vec::new(),
            locality: config.locality.value.as_deref().unwrap_or_default().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            hostname: host::hostname(),
            waits: None,
        };
        let lease_ttl = i64::try_from(config.lease.value.as_secs()).context("--lease")?;
        let keys = Keys::new(&config.etcd_prefix.value);
        let identity = Identity { host, keys, session: session.clone(), lease_ttl };
        let backend = backend(&config, &identity)?;
        let (commands, commanded) = mpsc::channel(COMMANDS);
        let (orders, ordered) = mpsc::channel(COMMANDS);
        let gates = Gates {
            // Where nobody has asked yet, nothing waits.
            may_read: watch::Sender::new(sockets.dns.is_empty()),
            may_publish: watch::Sender::new(!sockets.is_of_an_agent()),
            stop: watch::Sender::new(false),
        };
        let agent = Self {
            identity,
            backend,
            shared: Arc::new(Shared::new(settings, reload::limits(&config))),
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
            gates,
            live: Channel::default(),
            handed: sockets.dns.addresses(),
            orders,
            pending: Mutex::new(Some(Pending { commands: commanded, orders: ordered, sockets })),
            config,
        };
        if let Some(certificate) = agent.config.certificate.clone() {
            let addresses = agent.config.dns_tls.value.iter().copied().collect();
            agent.shared.set_tls(Tls { addresses, certificate });
        }
        agent.session.0.send_replace(Arc::new(session));
        agent.live.0.send_replace(Arc::new(Live::of(&agent.config)));
        // Known before Docker is, so that this host may ask from its own addresses at once.
        let addresses = Arc::new(host::addresses().unwrap_or_default());
        agent.local.0.send_replace(Arc::new(Local { addresses, ..Local::default() }));
        Ok(agent)
    }

    /// Starts every loop, and tells what can be lent to the next agent.
    async fn spawn(
        &self,
        tasks: &mut Tasks,
        state: Arc<StateDirectory>,
        leaves: (mpsc::Sender<control::Leave>, mpsc::Receiver<control::Leave>),
        takeover: mpsc::Sender<Wire>,
    ) -> Result<Lender> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take().context("started twice")?;
        let Pending { commands, orders, sockets } = pending;
        let (leaves_out, leaves) = leaves;
        let http_address = self.config.http.value;
        let listener = http::listen(http_address, sockets.http).await.with_context(|| {
            format!("--http {http_address} cannot be listened on: free it, or choose another address")
        })?;
        let control_path = &self.config.control.value;
        let socket = match sockets.control {
            Some(socket) => control::ControlSocket::succeed(control_path, socket),
            None => control::ControlSocket::bind(control_path),
        };
        let socket = socket
            .with_context(|| format!("--control {} cannot be made: choose another path", control_path.display()))?;
        let lender = Lender::new(
            self,
            &state,
            (listener.as_fd().try_clone_to_owned()?, listener.local_addr()?),
            &socket,
            sockets.held,
        )?;

        spawn(tasks, "dns", {
            let (shared, forwarder) = (Arc::clone(&self.shared), Arc::clone(&self.forwarder));
            let relay = Relay { handed: sockets.dns, may_read: self.gates.may_read.subscribe(), orders };
            let serve = server::serve(shared, self.wanted.1.clone(), forwarder, self.bound.0.clone(), relay);
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
                without_environment: !self.config.service_env.value,
                aliases: self.config.aliases.value,
            },
            crash_hold: self.config.crash_hold.value,
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
        let (free, freed) = mpsc::channel(COMMANDS);
        let first = names::remembered(&state, self.config.fallback_after.value.as_secs());
        let snapshots = Snapshots::of(self, first, freed);
        let names = Names {
            state: Arc::clone(&state),
            shared: Arc::clone(&self.shared),
            catalog: self.catalog.1.clone(),
            may_write: self.gates.may_publish.subscribe(),
        };
        spawn(tasks, "names", names.follow());
        let found = externals::found(&state);
        let remembered = found.externals.clone();
        let keeper = Arc::new(Keeper::new(&self.config, Arc::clone(&state), self.kept.0.clone(), found));
        let sources = Sources {
            live: self.live.1.clone(),
            remembers: (self.config.registry.value == Registry::Etcd).then(|| (remembered, Arc::clone(&state))),
            kept: self.kept.1.clone(),
            may_write: self.gates.may_publish.subscribe(),
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
        let (identity, backend, kept) = (self.identity.clone(), self.backend.clone(), Arc::clone(&state));
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
            may_publish: self.gates.may_publish.subscribe(),
        };
        spawn(tasks, "advertise", advertiser.follow());
        let surroundings = Surroundings {
            resolv_conf: self.config.resolv_conf.value.clone(),
            local: self.local.1.clone(),
            bound: self.bound.1.clone(),
            residents: self.residents.1.clone(),
            problems: self.surroundings.0.clone(),
        };
        spawn(tasks, "surroundings", surroundings.follow());
        spawn(tasks, "withdrawals", withdraw(leaves, self.commands.clone()));
        let bound = listener.local_addr()?;
        let public = http::public(self.api(), bound);
        let (mut may_read, stop) = (self.gates.may_read.subscribe(), self.gates.stop.subscribe());
        spawn(tasks, "http", async move {
            may_read.wait_for(|may| *may).await?;
            http::serve_tcp(listener, public, http::Limits::default(), stop).await;
            Ok(())
        });
        let drainer = Drainer {
            host: self.identity.host.clone(),
            shared: Arc::clone(&self.shared),
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
        let (forwarder, shared) = (Arc::clone(&self.forwarder), Arc::clone(&self.shared));
        let router = control::control(control::Control {
            host: self.identity.host.clone(),
            leave: leaves_out,
            drains,
            externals,
            flush: Arc::new(move |name: Option<&str>| {
                let flushed = forwarder.flush(name)?;
                let freed = name.map_or(0, |name| names::free(&shared, &free, name));
                Ok((flushed, freed))
            }),
            takeover,
            handing: Arc::clone(&lender.handing),
        });
        let (mut may_publish, stop) = (self.gates.may_publish.subscribe(), self.gates.stop.subscribe());
        spawn(tasks, "control", async move {
            may_publish.wait_for(|may| *may).await?;
            socket.own_name();
            control::serve_control(socket, router, http::Limits::default(), stop).await;
            Ok(())
        });
        Ok(lender)
    }

    fn api(&self) -> ApiState {
        let shared = Arc::clone(&self.shared);
        ApiState {
            host: self.identity.host.clone(),
            zone: self.config.zone.value.as_str().into(),
            catalog: self.catalog.1.clone(),
            local: self.local.1.clone(),
            when_none_ready: Arc::new({
                let shared = Arc::clone(&shared);
                move || shared.settings().when_none_ready
            }),
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
                let (shared, forwarder) = (Arc::clone(&shared), Arc::clone(&self.forwarder));
                move |request| answer(&shared, &forwarder, &request)
            }),
            dump: Arc::new({
                let shared = Arc::clone(&shared);
                move |request| resolve::dump(&shared, &request)
            }),
            explain: explain::explainer(explain::Sources {
                host: self.identity.host.clone(),
                shared,
                forwarder: Arc::clone(&self.forwarder),
                residents: self.residents.1.clone(),
                resolv_conf: self.config.resolv_conf.value.clone(),
            }),
        }
    }
}

fn spawn(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
    tasks.spawn(async move { (name, task.await) });
}

/// The registry of the configuration, in which a host writes its own keys only.
fn backend(config: &Config, identity: &Identity) -> Result<Backend> {
    if config.registry.value == Registry::Memory {
        return Ok(Backend::Memory(Store::embedded(rand::random())));
    }
    let Identity { keys, host, .. } = identity;
    Ok(Backend::Etcd(etcd_of(config, vec![keys.host_prefix(host), keys.echo(host), keys.ack(host)])?))
}

/// The etcd of the configuration, in which we write only below `own_prefixes`.
pub(crate) fn etcd_of(config: &Config, own_prefixes: Vec<Vec<u8>>) -> Result<Etcd> {
    Ok(Etcd::new(etcd::Options { own_prefixes, ..etcd_options(config) })?)
}

/// Where etcd is and who we are to it, and no keys of ours.
fn etcd_options(config: &Config) -> etcd::Options {
    let user = config.etcd_user.value.as_ref().map(|user| {
        let password = user.password.as_ref().map_or("", |password| password.reveal());
        (user.name.clone(), password.to_owned())
    });
    let (ca, cert, key) = (&config.etcd_ca.value, &config.etcd_cert.value, &config.etcd_key.value);
    let has_tls = ca.is_some() || cert.is_some() || key.is_some();
    etcd::Options {
        endpoints: config.etcd_endpoints.value.clone(),
        user,
        password_file: config.etcd_password_file.value.clone(),
        tls: has_tls.then(|| etcd::Tls { ca: ca.clone(), cert: cert.clone(), key: key.clone() }),
        ..etcd::Options::default()
    }
}

fn answer(shared: &Shared, forwarder: &Forwarder, request: &ResolveRequest) -> Result<ResolveReply, ResolveError> {
    let (zone, local, settings) = (shared.zone(), shared.local(), shared.settings());
    let snapshot = Snapshot { zone: &zone, local: &local, settings: &settings };
    let neighbours = resolve::Neighbours { access: &shared.access(), forwarder };
    resolve::resolve(&snapshot, &neighbours, request, &mut rand::rng())
}

/// The control socket's withdrawals, one after the other.
async fn withdraw(mut leaves: mpsc::Receiver<control::Leave>, commands: mpsc::Sender<Command>) -> Result<()> {
    while let Some(leave) = leaves.recv().await {
        commands.send(Command::Leave(leave)).await?;
    }
    bail!("the control socket is gone")
}
