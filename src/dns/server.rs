//! The sockets of DNS: who asked, what, on which address; and back the same way. \[IO\]
//!
//! In come packets and the current snapshots ([`Shared`]); out go replies. All decisions are made elsewhere: whether
//! one may ask in `access.rs`, where to listen in `listen.rs`, what to reply in `wire.rs`.
//!
//! ```text
//! wanted addresses ─► serve ─► bind.rs ─► udp.rs   threads, one socket each per address ─► front.rs ─► hot::respond
//!                                    │      └─ odd queries ─► odd.rs   one thread        ─┐
//!                                    └──► tcp.rs   a task per listener and connection    ─┼─► query.rs ─► wire::respond
//!                                           └─ tls.rs   the same behind a handshake       ─┤
//!                                                                                         └─ Later ─► forwarder
//! ```
//!
//! A name of ours is answered from memory: an ordinary question over UDP on the worker's own thread, from what was encoded
//! before, with no lock, no allocation and no other thread in between; all others by the complete path, behind a bounded
//! queue. What takes time goes elsewhere, below caps: questions to forward, and questions of an asker whom Docker has not
//! told us of yet. Over a cap the reply is SERVFAIL at once, so that the client turns to its next server instead of waiting.
//!
//! A server may begin with sockets that others opened, and end by leaving them to the next one: `relay.rs`.
//!
//! Nothing here gives up. An address that cannot be bound is reported with the reason and tried again for ever; an
//! error of one socket, connection or packet is counted and costs nobody else anything. The set of addresses may
//! change at any time; what is no longer wanted is closed before [`serve`] looks at anything new.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    access::AccessList, answer::Settings, cookie::Cookies, forward::Forwarder, hot::Ground, tls::Certificate,
    zone::Zone,
};
use crate::model::Local;

mod admission;
mod allowance;
mod batch;
mod bind;
mod front;
mod metrics;
mod odd;
mod query;
mod rate;
mod relay;
mod tcp;
mod tls;
mod udp;
mod wait;

pub use bind::may_bind_53;
pub use metrics::{Counter, Counts};
pub use relay::{Connection, Handed, Kind, Order, Parting, Relay};
pub use tls::Tls;

use admission::Admission;
use allowance::Allowance;
use metrics::Metrics;
use query::Desk;
use tcp::Protocol;

/// How much of everything there may be at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads that answer over UDP. By default one per core, at most 4: each answers some 100,000 questions a second.
    pub udp_workers: usize,
    /// Octets of a UDP socket's receive buffer: 8 MiB hold 20,000 small queries, the default of 208 KiB holds 256.
    /// Only what waits is held.
    pub receive_buffer: usize,
    /// TCP connections in all. With 512 of them, one descriptor each, half of the usual limit of 1,024 is left.
    pub tcp_connections: usize,
    /// TCP connections of one client.
    pub tcp_per_client: usize,
    /// TCP connections of clients that may not ask: to be told so.
    pub tcp_strangers: usize,
    /// Questions of one TCP connection that wait for their answers; no more are read until then.
    pub tcp_in_flight: usize,
    /// A TCP connection without a question is closed after this (RFC 7766 section 6.2.3: a few seconds).
    pub tcp_idle: Duration,
    /// A message that has begun must be there after this.
    pub tcp_read: Duration,
    /// A client must take its replies within this.
    pub tcp_write: Duration,
    /// A handshake of TLS must be done after this: two ways there and back (RFC 8446 section 2), each of them repeated once.
    pub tls_handshake: Duration,
    /// Queries per second over UDP that one source is answered, twice as many at once, by each worker; 0: any number. This
    /// host and its containers are not counted: nobody else's packets come from there.
    pub per_source: u32,
    /// Octets per second over UDP that an address is sent beyond three times those of its queries, where it may be forged.
    pub allowance: u32,
    /// The same for its network: the /24 of an IPv4 address, the /56 of an IPv6 one.
    pub network_allowance: u32,
    /// Questions being forwarded: as many as Docker's own DNS forwards. At 5 s each, 200 a second to dead upstreams.
    pub forwarding: usize,
    /// Questions of one source being forwarded.
    pub forwarding_per_source: usize,
    /// Questions of unknown askers being held back; they need no more than `unknown_asker` each.
    pub waiting: usize,
    /// Questions of one unknown asker being held back.
    pub waiting_per_source: usize,
    /// How long an unknown asker is waited for. Docker's `connect` shows its address within milliseconds.
    pub unknown_asker: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            udp_workers: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            receive_buffer: 8 * 1024 * 1024,
            tcp_connections: 512,
            tcp_per_client: 32,
            tcp_strangers: 16,
            tcp_in_flight: 32,
            tcp_idle: Duration::from_secs(10),
            tcp_read: Duration::from_secs(5),
            tcp_write: Duration::from_secs(5),
            tls_handshake: Duration::from_secs(5),
            per_source: 1000,
            allowance: 128 * 1024,
            network_allowance: 512 * 1024,
            forwarding: 1024,
            forwarding_per_source: 128,
            waiting: 256,
            waiting_per_source: 32,
            unknown_asker: Duration::from_millis(100),
        }
    }
}

/// Connections of one client that may not ask.
const STRANGERS_PER_CLIENT: usize = 2;

/// What answers are made from, shared by everybody who makes them. Each snapshot is swapped whole.
pub struct Shared {
    zone: ArcSwap<Zone>,
    /// What this host knows of itself, and what the operator chose.
    ground: ArcSwap<Ground>,
    /// Held by whoever changes `ground`.
    writing: Mutex<()>,
    /// Told of every change of what this host knows.
    local_changes: watch::Sender<()>,
    access: ArcSwap<AccessList>,
    /// `None`: TLS is not spoken.
    tls: ArcSwapOption<Tls>,
    cookies: Cookies,
    allowance: Allowance,
    limits: Limits,
    metrics: Metrics,
    /// What upstreams have said before, once somebody serves.
    forwarder: OnceLock<Arc<Forwarder>>,
    forwarding: Arc<Admission>,
    waiting: Arc<Admission>,
    connections: Arc<Admission>,
    /// Tells the connection that has been idle for longest to make room.
    crowded: Notify,
    strangers: Arc<Admission>,
}

impl Shared {
    /// Before anything is set: an empty zone that answers SERVFAIL, and nobody may ask.
    pub fn new(settings: Settings, limits: Limits) -> Self {
        Self {
            zone: ArcSwap::default(),
            ground: ArcSwap::from_pointee(Ground::new(Arc::default(), Arc::new(settings))),
            writing: Mutex::default(),
            local_changes: watch::Sender::default(),
            access: ArcSwap::default(),
            tls: ArcSwapOption::empty(),
            cookies: Cookies::new(rand::random()),
            allowance: Allowance::new(limits.allowance, limits.network_allowance),
            metrics: Metrics::new(limits.udp_workers),
            forwarder: OnceLock::new(),
            forwarding: Admission::new(limits.forwarding, limits.forwarding_per_source),
            waiting: Admission::new(limits.waiting, limits.waiting_per_source),
            crowded: Notify::new(),
            connections: Admission::new(limits.tcp_connections, limits.tcp_per_client),
            strangers: Admission::new(limits.tcp_strangers, STRANGERS_PER_CLIENT),
            limits,
        }
    }

    /// Answers are made from this zone from now on.
    pub fn set_zone(&self, zone: Arc<Zone>) {
        self.zone.store(zone);
    }

    /// Askers are told apart by this from now on; those who wait to become known are looked at again.
    pub fn set_local(&self, local: Arc<Local>) {
        self.change_ground(|ground| ground.with_local(local));
        self.local_changes.send_replace(());
    }

    /// These may ask from now on.
    pub fn set_access(&self, access: Arc<AccessList>) {
        self.access.store(access);
    }

    /// TLS is spoken there, too, and new connections get this certificate. Whoever [`serve`]s looks at the addresses whenever
    /// it looks at the others.
    pub fn set_tls(&self, tls: Tls) {
        self.tls.store(Some(Arc::new(tls)));
    }

    /// New connections get this certificate from now on, where TLS is spoken at all. Whether it is another one.
    pub fn renew(&self, certificate: &Certificate) -> bool {
        let Some(tls) = self.tls.load_full().filter(|tls| tls.certificate != *certificate) else { return false };
        self.set_tls(Tls { addresses: tls.addresses.clone(), certificate: certificate.clone() });
        true
    }

    /// The zone that answers are made from.
    pub fn zone(&self) -> Arc<Zone> {
        self.zone.load_full()
    }

    /// What askers are told apart by.
    pub fn local(&self) -> Arc<Local> {
        Arc::clone(&self.ground.load().local)
    }

    /// Who may ask.
    pub fn access(&self) -> Arc<AccessList> {
        self.access.load_full()
    }

    /// The operator has chosen otherwise: answers are made by this from now on.
    pub fn set_settings(&self, settings: Arc<Settings>) {
        self.change_ground(|ground| Ground::new(Arc::clone(&ground.local), settings));
    }

    /// One writer after the other; readers see either the old or the new.
    fn change_ground(&self, change: impl FnOnce(&Ground) -> Ground) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.ground.store(Arc::new(change(&self.ground.load())));
    }

    /// What the operator chose.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.ground.load().settings)
    }

    /// TCP connections that are open now.
    pub fn tcp_connections(&self) -> u64 {
        (self.connections.inside() + self.strangers.inside()) as u64
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.metrics.counts()
    }
}

/// What became of an address that we should listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindState {
    /// Answered on, over UDP and TCP.
    Bound {
        /// Octets of each UDP socket's receive buffer; less than [`Limits::receive_buffer`] where the kernel refused.
        receive_buffer: usize,
    },
    /// Answered on, over TLS alone.
    Secured,
    /// Not answered on. It is tried again.
    Failed {
        /// Why, and what to do.
        reason: String,
        /// How often it was tried in a row.
        attempts: u32,
    },
}

/// First pause after an address could not be bound; doubled up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(250);

/// Longest such pause: who freed a port is answered soon, and four attempts a minute are nothing.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// How often it is checked that every thread and listener still runs.
const CHECK: Duration = Duration::from_secs(5);

/// How long a server that ends lets clients of its TCP connections finish before it stops reading UDP, too. Whoever asks
/// without a pause is cut off after that, and asks again (RFC 7766 section 6.2.4).
const FINISH: Duration = Duration::from_millis(500);

/// Answers on the wanted addresses, and tells in `bound` what became of each.
///
/// Returns `Ok` when `wanted` has no sender any more, or when it has retired and owes no answer. An error says that the
/// UDP threads could not be started or have died; an address that cannot be bound is none. Dropping the future closes
/// everything within milliseconds.
pub async fn serve(
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
    forwarder: Arc<Forwarder>,
    bound: watch::Sender<Arc<BTreeMap<SocketAddr, BindState>>>,
    relay: Relay,
) -> io::Result<()> {
    // Whoever serves twice with one `Shared` has the first one's cache.
    let _ = shared.forwarder.set(Arc::clone(&forwarder));
    let Relay { handed, mut may_read, mut orders } = relay;
    let (jobs, queue) = mpsc::channel((shared.limits.forwarding + shared.limits.waiting).max(1));
    let workers = udp::Workers::start(&shared, &jobs)?;
    let (part, parting) = watch::channel(Parting::Not);
    let (retire, retired) = watch::channel(false);
    let desk = Desk { shared, forwarder, parting };
    let mut listeners =
        Listeners { desk: desk.clone(), workers, listeners: BTreeMap::new(), handed, continued: JoinSet::new() };
    let (mut has_orders, mut waits) = (true, !*may_read.borrow());
    let listen = async {
        loop {
            let mut wish = wanted.borrow_and_update().clone();
            if waits {
                // Over TLS nobody is answered yet: its listener may have been handed in, too.
                let unread = listeners.handed.addresses();
                wish = Arc::new(wish.difference(&unread).copied().collect());
            } else if let Some(tls) = listeners.desk.shared.tls.load_full() {
                wish = Arc::new(wish.union(&tls.addresses).copied().collect());
            }
            listeners.reconcile(&wish).await?;
            bound.send_if_modified(|current| {
                let states = listeners.states();
                let changed = **current != states;
                if changed {
                    *current = Arc::new(states);
                }
                changed
            });
            let wake = listeners.wake_at();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() {
                    return Ok(());
                },
                changed = may_read.changed(), if waits => {
                    waits = changed.is_ok() && !*may_read.borrow();
                    if !waits {
                        listeners.close_unwanted(&wanted.borrow());
                    }
                }
                order = orders.recv(), if has_orders => match order {
                    // Whoever asked may have gone.
                    Some(Order::Lend(reply)) => drop(reply.send(listeners.lend().await)),
                    Some(Order::Continue(connection)) => {
                        listeners.continued.spawn(tcp::resume(connection, listeners.desk.clone()));
                    }
                    Some(Order::Retire(how)) => {
                        // Connections first: theirs is the longest way to an end, and queries over UDP are read meanwhile,
                        // unless somebody else does that already.
                        let is_relieved = matches!(how, Parting::HandOn(_));
                        part.send_replace(how);
                        if !is_relieved {
                            let _late = timeout(FINISH, listeners.connections_end()).await;
                        }
                        listeners.workers.retire().await;
                        if is_relieved {
                            listeners.connections_end().await;
                        }
                        retire.send_replace(true);
                        return std::future::pending().await;
                    }
                    None => has_orders = false,
                },
                Some(_) = listeners.continued.join_next(), if !listeners.continued.is_empty() => {}
                () = sleep_until(wake) => {}
            }
        }
    };
    tokio::select! {
        ended = listen => ended,
        () = settle_jobs(queue, desk, retired) => Ok(()),
    }
}

/// Runs what the UDP workers hand over. The permits that jobs carry bound how many there are.
async fn settle_jobs(mut queue: mpsc::Receiver<udp::Job>, desk: Desk, mut retired: watch::Receiver<bool>) {
    let mut running = JoinSet::new();
    loop {
        let is_retired = *retired.borrow_and_update();
        if is_retired && queue.is_empty() && running.is_empty() {
            return;
        }
        tokio::select! {
            Ok(()) = retired.changed() => {}
            Some(job) = queue.recv() => drop(running.spawn(job.run(desk.clone()))),
            Some(ended) = running.join_next(), if !running.is_empty() => if ended.is_err() {
                desk.shared.metrics.tasks().count(Counter::Panics);
            },
            else => return,
        }
    }
}

/// What is open, made equal to what is wanted.
struct Listeners {
    desk: Desk,
    workers: udp::Workers,
    listeners: BTreeMap<SocketAddr, Listener>,
    /// Sockets of others, as long as their addresses are wanted: they could not be opened a second time.
    handed: Handed,
    /// Connections of the server before.
    continued: JoinSet<()>,
}

enum Listener {
    Open { state: BindState, accepting: Task, tcp: Arc<TcpListener> },
    Failed { reason: String, attempts: u32, again_at: Instant },
}

impl Listeners {
    async fn reconcile(&mut self, wanted: &BTreeSet<SocketAddr>) -> io::Result<()> {
        if !self.workers.are_alive() {
            return Err(io::Error::other("a UDP thread of the DNS server has ended"));
        }
        let unwanted: Vec<SocketAddr> = self.listeners.keys().filter(|a| !wanted.contains(a)).copied().collect();
        for address in unwanted {
            self.close(address).await;
            self.handed.forget(address);
            tracing::info!(%address, "no longer answering here");
        }
        let now = Instant::now();
        for address in wanted {
            match self.listeners.get(address) {
                Some(Listener::Open { accepting, .. }) if accepting.has_ended() => {
                    tracing::error!(%address, "the TCP listener has ended; opening it anew");
                    self.close(*address).await;
                    self.open(*address, 0);
                }
                Some(Listener::Open { .. }) => {}
                Some(Listener::Failed { again_at, .. }) if *again_at > now => {}
                Some(Listener::Failed { attempts, .. }) => self.open(*address, *attempts),
                None => self.open(*address, 0),
            }
        }
        Ok(())
    }

    fn open(&mut self, address: SocketAddr, attempts: u32) {
        let is_tls = self.desk.shared.tls.load().as_ref().is_some_and(|tls| tls.addresses.contains(&address));
        let opened = if is_tls { self.open_secured(address) } else { self.open_plain(address) };
        let listener = opened.unwrap_or_else(|error| {
            let reason = bind::explain(address, &error);
            if attempts == 0 {
                tracing::warn!(%address, reason, "cannot answer here yet; trying again");
            }
            let pause = MIN_PAUSE.saturating_mul(1 << attempts.min(16)).min(MAX_PAUSE);
            let again_at = Instant::now() + pause;
            Listener::Failed { reason, attempts: attempts.saturating_add(1), again_at }
        });
        self.listeners.insert(address, listener);
    }

    fn open_plain(&mut self, address: SocketAddr) -> io::Result<Listener> {
        let limits = &self.desk.shared.limits;
        let sockets = match self.handed.get(address) {
            Some(pair) => bind::adopt(pair, address, limits.udp_workers, limits.receive_buffer),
            None => bind::bind(address, limits.udp_workers, limits.receive_buffer),
        };
        let bind::Sockets { udp, shared, tcp, receive_buffer } = sockets?;
        let tcp = Arc::new(TcpListener::from_std(tcp)?);
        tracing::info!(%address, "answering here");
        if receive_buffer < limits.receive_buffer {
            tracing::warn!(
                %address, granted = receive_buffer, wanted = limits.receive_buffer,
                "the receive buffer is small and bursts may be lost: raise net.core.rmem_max or give CAP_NET_ADMIN"
            );
        }
        self.workers.open(address, udp, shared);
        let accepting = self.accept(&tcp, Protocol::Plain);
        Ok(Listener::Open { state: BindState::Bound { receive_buffer }, accepting, tcp })
    }

    fn open_secured(&self, address: SocketAddr) -> io::Result<Listener> {
        let listener = match self.handed.secured(address) {
            Some(listener) => bind::adopt_listener(listener)?,
            None => bind::listen(address)?,
        };
        let tcp = Arc::new(TcpListener::from_std(listener)?);
        tracing::info!(%address, "answering here over TLS");
        let accepting = self.accept(&tcp, Protocol::Tls);
        Ok(Listener::Open { state: BindState::Secured, accepting, tcp })
    }

    fn accept(&self, listener: &Arc<TcpListener>, protocol: Protocol) -> Task {
        Task(tokio::spawn(tcp::accept(Arc::clone(listener), self.desk.clone(), protocol)))
    }

    /// Returns when the address is free again.
    async fn close(&mut self, address: SocketAddr) {
        if let Some(Listener::Open { state, accepting, .. }) = self.listeners.remove(&address) {
            if state != BindState::Secured {
                self.workers.close(address).await;
            }
            accepting.stop().await;
        }
    }

    /// Closes what was handed in, but is not wanted now that it is known what is.
    fn close_unwanted(&mut self, wanted: &BTreeSet<SocketAddr>) {
        for address in self.handed.addresses().difference(wanted) {
            tracing::info!(%address, "sockets for this address were handed over, but nobody is to be answered there");
            self.handed.forget(*address);
        }
    }

    /// Further handles of everything that is open.
    async fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        let mut lent = self.workers.lend().await?;
        for listener in self.listeners.values() {
            if let Listener::Open { tcp, .. } = listener {
                lent.push(tcp.as_fd().try_clone_to_owned()?);
            }
        }
        Ok(lent)
    }

    /// Returns when no TCP connection is open any more; those who accept them must have been told.
    async fn connections_end(&mut self) {
        for listener in self.listeners.values_mut() {
            if let Listener::Open { accepting, .. } = listener {
                // Its outcome does not matter any more. What has ended must not be polled again.
                if !accepting.has_ended() {
                    let _ = (&mut accepting.0).await;
                }
            }
        }
        while self.continued.join_next().await.is_some() {}
    }

    fn states(&self) -> BTreeMap<SocketAddr, BindState> {
        let state = |listener: &Listener| match listener {
            Listener::Open { state, .. } => state.clone(),
            Listener::Failed { reason, attempts, .. } => {
                BindState::Failed { reason: reason.clone(), attempts: *attempts }
            }
        };
        self.listeners.iter().map(|(address, listener)| (*address, state(listener))).collect()
    }

    fn wake_at(&self) -> Instant {
        let failed = self.listeners.values().filter_map(|listener| match listener {
            Listener::Failed { again_at, .. } => Some(*again_at),
            Listener::Open { .. } => None,
        });
        failed.chain([Instant::now() + CHECK]).min().expect("it has at least one element")
    }
}

/// A task that ends with its handle.
struct Task(JoinHandle<io::Result<()>>);

impl Task {
    fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// Returns when everything that the task held is closed.
    async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
