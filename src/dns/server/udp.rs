//! UDP: a few threads of their own, each with one socket per address, so that neither a busy runtime nor a slow
//! upstream delays an answer to a name of ours. A thread waits for its sockets and its commands (`wait.rs`) and takes what
//! came in batches. Ordinary queries are answered in place (`front.rs`), and their replies leave as one batch; the others go
//! to the complete path on a thread of its own (`odd.rs`), and what takes time goes to the runtime, as a [`Job`].

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    batch::{BATCH, Batch, MAX_QUERY},
    front::{Beyond, Front},
    metrics::{Counter, Shard, Tally},
    odd::{self, Odd},
    query::{Desk, Later, is_martian, settle},
    wait::{Waiting, Wake},
};
use crate::{
    dns::{
        hot::Place,
        wire::{HEADER, Pace},
    },
    scheduler,
};

/// Pause of a worker after an error that may come again at once: at most 1,000 turns a second are wasted on it.
const PAUSE: Duration = Duration::from_millis(1);

/// Batches taken from one socket before others and commands have their turn.
const TURNS: usize = 16;

/// After so many datagrams at once more are likely to have come meanwhile: it is worth looking, without waiting first.
const CROWD: usize = 4;

/// The bit in a header's third octet that marks a response.
const QR: u8 = 0x80;

/// The worker threads. Dropping them stops and joins them: each ends after its current batch.
pub(super) struct Workers {
    workers: Vec<Handle>,
    /// The complete path's thread.
    odd: odd::Thread,
}

struct Handle {
    commands: std_mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    thread: thread::JoinHandle<()>,
}

enum Command {
    /// A socket for an address; whether other workers have the same one.
    Open(SocketAddr, UdpSocket, bool),
    Close(SocketAddr, oneshot::Sender<()>),
    Lend(oneshot::Sender<io::Result<Vec<OwnedFd>>>),
    Retire(oneshot::Sender<()>),
}

impl Workers {
    /// Starts as many threads as the limits say.
    pub(super) fn start(shared: &Arc<Shared>, jobs: &mpsc::Sender<Job>) -> io::Result<Self> {
        let odd = odd::Thread::start(shared, jobs)?;
        let mut workers = Self { workers: Vec::new(), odd };
        for index in 0..shared.limits.udp_workers {
            let (commands, inbox) = std_mpsc::channel();
            let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
            let mut worker = Worker {
                index,
                front: Front::new(shared, index),
                shared: Arc::clone(shared),
                odd: workers.odd.queue(),
                jobs: jobs.clone(),
                commands: inbox,
                wake: Arc::clone(&wake),
                endpoints: Vec::new(),
                retired: Vec::new(),
            };
            let run = move || {
                scheduler::run_soon();
                worker.run(&mut Batch::new());
            };
            let thread = thread::Builder::new().name(format!("dns-udp-{index}")).spawn(run)?;
            workers.workers.push(Handle { commands, wake, thread });
        }
        Ok(workers)
    }

    /// Gives each worker its sockets for an address; `shared`: they are handles of fewer sockets.
    pub(super) fn open(&self, address: SocketAddr, sockets: Vec<UdpSocket>, shared: bool) {
        for (worker, socket) in self.workers.iter().cycle().zip(sockets) {
            worker.tell(Command::Open(address, socket, shared));
        }
    }

    /// Further handles of all sockets.
    pub(super) async fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        let mut lent = Vec::new();
        for worker in &self.workers {
            let (reply, sockets) = oneshot::channel();
            worker.tell(Command::Lend(reply));
            lent.extend(sockets.await.map_err(io::Error::other)??);
        }
        Ok(lent)
    }

    /// Returns when nothing is read any more, and every job that comes of what was read is in the queue.
    pub(super) async fn retire(&self) {
        for worker in &self.workers {
            let (done, retired) = oneshot::channel();
            worker.tell(Command::Retire(done));
            let _ = retired.await;
        }
        self.odd.settle().await;
    }

    /// Closes an address's sockets and returns when they are closed.
    pub(super) async fn close(&self, address: SocketAddr) {
        for worker in &self.workers {
            let (done, closed) = oneshot::channel();
            worker.tell(Command::Close(address, done));
            // An error means that the worker is gone, and its sockets with it.
            let _ = closed.await;
        }
    }

    /// Whether all threads run.
    pub(super) fn are_alive(&self) -> bool {
        self.workers.iter().all(|worker| !worker.thread.is_finished()) && self.odd.is_alive()
    }
}

impl Handle {
    fn tell(&self, command: Command) {
        // A worker that is gone is found by `are_alive`.
        let _ = self.commands.send(command);
        self.wake();
    }

    fn wake(&self) {
        // It fails only when it is full, and then the worker is about to wake up anyway.
        let _ = self.wake.write(1);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for Handle { commands, wake, thread } in self.workers.drain(..) {
            // A worker whose commands can come no more ends.
            drop(commands);
            let _ = wake.write(1);
            let _ = thread.join();
        }
    }
}

struct Worker {
    index: usize,
    shared: Arc<Shared>,
    front: Front,
    odd: odd::Queue,
    jobs: mpsc::Sender<Job>,
    commands: std_mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    endpoints: Vec<Arc<Endpoint>>,
    /// Not read any more.
    retired: Vec<Arc<Endpoint>>,
}

impl Worker {
    fn run(&mut self, batch: &mut Batch) {
        loop {
            self.serve(batch);
            if self.obey().is_break() {
                return;
            }
        }
    }

    /// Answers what comes until there are commands. It holds no socket afterwards, so that commands can close them.
    fn serve(&mut self, batch: &mut Batch) {
        let endpoints = self.endpoints.clone();
        let sockets: Vec<BorrowedFd<'_>> = endpoints.iter().map(|endpoint| endpoint.socket.as_fd()).collect();
        let shared = endpoints.iter().any(|endpoint| endpoint.is_shared);
        let wake = Arc::clone(&self.wake);
        let mut waiting = Waiting::new(&wake, &sockets, shared);
        let mut ready = Vec::new();
        loop {
            let trouble = match waiting.wait(&mut ready) {
                Ok(Wake::Commands) => return,
                Ok(Wake::Sockets) => {
                    let mut trouble = false;
                    for place in &ready {
                        trouble |= self.take(&endpoints[*place], batch).is_err();
                    }
                    trouble
                }
                Err(error) => error != Errno::EINTR,
            };
            if trouble {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Carries out what was commanded; breaks when nobody can command any more.
    fn obey(&mut self) -> ControlFlow<()> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Open(address, socket, is_shared)) => {
                    self.endpoints.push(Arc::new(Endpoint { address, socket, is_shared }));
                }
                Ok(Command::Close(address, done)) => {
                    // Jobs hold it weakly.
                    self.endpoints.retain(|endpoint| endpoint.address != address);
                    let _ = done.send(());
                }
                Ok(Command::Lend(reply)) => {
                    let handle = |endpoint: &Arc<Endpoint>| endpoint.socket.as_fd().try_clone_to_owned();
                    let _ = reply.send(self.endpoints.iter().map(handle).collect());
                }
                Ok(Command::Retire(done)) => {
                    // They stay open: answers to what was read go out by them.
                    self.retired.append(&mut self.endpoints);
                    let _ = done.send(());
                }
                Err(std_mpsc::TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(std_mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
    }

    /// Answers what is there, and what comes meanwhile, as long as it is a crowd and the others' turn has not come.
    fn take(&mut self, endpoint: &Arc<Endpoint>, batch: &mut Batch) -> io::Result<()> {
        let mut most = CROWD;
        for _turn in 0..TURNS {
            if self.take_batch(endpoint, batch, most)? < CROWD {
                break;
            }
            most = BATCH;
        }
        Ok(())
    }

    /// Answers what is there, up to so many, and says how many came. An error is one that may come again at once.
    fn take_batch(&mut self, endpoint: &Arc<Endpoint>, batch: &mut Batch, most: usize) -> io::Result<usize> {
        let shared = Arc::clone(&self.shared);
        let shard = shared.metrics.worker(self.index);
        let came = match batch.receive(endpoint.socket.as_fd(), endpoint.address.ip().is_unspecified(), most) {
            Ok(came) => came,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => {
                shard.count(Counter::ReceiveErrors);
                // An ICMP error of an earlier reply is delivered once; interruptions pass.
                return match error.kind() {
                    ErrorKind::ConnectionRefused | ErrorKind::Interrupted => Ok(0),
                    _ => Err(error),
                };
            }
        };
        let mut tally = Tally::default();
        let zone = self.front.refresh(&shared);
        let mut places = [Place::default(); BATCH];
        for (place, at) in places[..came].iter_mut().enumerate() {
            *at = self.front.approach(batch.exchange(place).0);
        }
        for at in &places[..came] {
            self.front.follow(*at);
        }
        for (place, at) in places.into_iter().enumerate().take(came) {
            tally.count(Counter::UdpQueries);
            let way = batch.way(place).filter(|way| !is_martian(way.peer) && !way.is_to_many());
            let (packet, reply) = batch.exchange(place);
            let Some(way) = way.filter(|_| may_be_query(packet)) else {
                tally.count(Counter::Dropped);
                continue;
            };
            // A panic in it is our bug: the complete path looks at the packet, and no worker is lost (P8).
            let answered =
                catch_unwind(AssertUnwindSafe(|| self.front.answer(&shared, &zone, way.peer.ip(), packet, at, reply)));
            match answered {
                Ok(Ok(length)) => {
                    batch.reply(place, length);
                    if self.front.gave_part() {
                        tally.count(Counter::PartAnswers);
                    }
                }
                Ok(Err(Beyond::Odd(pace))) => self.hand_over(&mut tally, endpoint, packet, way, pace),
                Ok(Err(Beyond::Later(later))) => {
                    // There is room for as many jobs as there are permits, so this fails only when the server ends.
                    let _ = self.jobs.try_send(Job { later, endpoint: Arc::downgrade(endpoint), way });
                }
                Err(_) => {
                    tally.count(Counter::Panics);
                    self.hand_over(&mut tally, endpoint, packet, way, Pace::Answer);
                }
            }
        }
        for reply in batch.replies() {
            tally.count_reply(reply);
        }
        // Before the replies leave, so that who has one finds itself counted.
        shard.add(&tally);
        for _refused in 0..batch.send(endpoint.socket.as_fd()) {
            shard.count(Counter::SendErrors);
        }
        Ok(came)
    }

    fn hand_over(&self, tally: &mut Tally, endpoint: &Arc<Endpoint>, packet: &[u8], way: Way, pace: Pace) {
        let odd = Odd { packet: packet.into(), way, pace, endpoint: Arc::downgrade(endpoint) };
        if pace != Pace::Answer {
            tally.count(Counter::TooOften);
        }
        if !self.odd.put(odd) {
            tally.count(Counter::OddOverCap);
        }
    }
}

/// Whether there is anybody to answer: a header, that of a query, and not more octets than a query has.
fn may_be_query(packet: &[u8]) -> bool {
    (HEADER..=MAX_QUERY).contains(&packet.len()) && packet[2] & QR == 0
}

/// A query to be settled on the runtime.
pub(super) struct Job {
    pub(super) later: Later,
    pub(super) endpoint: Weak<Endpoint>,
    pub(super) way: Way,
}

impl Job {
    pub(super) async fn run(self, desk: Desk) {
        let reply = settle(&desk.shared, &desk.forwarder, self.later).await;
        // The address may have been closed meanwhile.
        if let (Some(reply), Some(endpoint)) = (reply, self.endpoint.upgrade()) {
            endpoint.send(desk.shared.metrics.tasks(), &reply, self.way);
        }
    }
}

/// One worker's socket for one address.
pub(super) struct Endpoint {
    address: SocketAddr,
    socket: UdpSocket,
    /// Other workers read it, too.
    is_shared: bool,
}

/// Where a query came from, and which address of ours it went to: the reply takes the same way back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) peer: SocketAddr,
    pub(super) asked: Asked,
}

/// The address that was asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// The one that the socket is bound to.
    Bound,
    V4(Ipv4Addr),
    /// With the interface, which only link-local addresses need.
    V6(Ipv6Addr, u32),
}

impl Way {
    /// Whether the query went to many: whoever sent it did not mean us.
    fn is_to_many(&self) -> bool {
        match self.asked {
            Asked::Bound => false,
            Asked::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            Asked::V6(ip, _) => ip.is_multicast(),
        }
    }
}

impl Endpoint {
    /// Counts a reply and sends it. Whether it arrives is the client's affair, as always with UDP.
    pub(super) fn send(&self, shard: &Shard, reply: &[u8], way: Way) {
        shard.count_reply(reply);
        let parts = [io::IoSlice::new(reply)];
        let control = |message: &[ControlMessage]| {
            let peer = SockaddrStorage::from(way.peer);
            sendmsg(self.socket.as_raw_fd(), &parts, message, MsgFlags::empty(), Some(&peer)).map_err(io::Error::from)
        };
        let sent = match way.asked {
            Asked::Bound => self.socket.send_to(reply, way.peer),
            Asked::V4(ip) => {
                let ours = in_addr { s_addr: u32::from(ip).to_be() };
                let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ours, ipi_addr: in_addr { s_addr: 0 } };
                control(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            Asked::V6(ip, interface) => {
                let ipi6_ifindex = if ip.is_unicast_link_local() { interface } else { 0 };
                let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex };
                control(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
        };
        if sent.is_err() {
            shard.count(Counter::SendErrors);
        }
    }
}
