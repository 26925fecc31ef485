//! UDP: a few threads of their own, each with one socket per address, so that neither a busy runtime nor a slow
//! upstream delays an answer to a name of ours. A thread waits in epoll for its sockets and its commands and takes what
//! came in batches. Ordinary queries are answered in place (`front.rs`), and their replies leave as one batch; the others go
//! to the complete path on a thread of its own (`odd.rs`), and what takes time from there to the runtime, as a [`Job`].

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    batch::{Batch, MAX_QUERY},
    front::Front,
    metrics::{Counter, Shard, Tally},
    odd::{self, Odd},
    query::{Desk, Later, is_martian, settle},
};
use crate::dns::wire::Pace;

/// Pause of a worker after an error that may come again at once: at most 1,000 turns a second are wasted on it.
const PAUSE: Duration = Duration::from_millis(1);

/// Sockets told of in one turn of epoll; the rest is told of in the next.
const EVENTS: usize = 64;

/// Octets of a header (RFC 1035 section 4.1.1), and the bit in its third that marks a response.
const HEADER: usize = 12;
const QR: u8 = 0x80;

/// The event that says: there are commands.
const WAKE: u64 = 0;

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
    Open(SocketAddr, UdpSocket),
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
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
            let mut worker = Worker {
                index,
                front: Front::new(shared),
                shared: Arc::clone(shared),
                odd: workers.odd.queue(),
                commands: inbox,
                wake: Arc::clone(&wake),
                epoll,
                endpoints: HashMap::new(),
                retired: Vec::new(),
                next_token: WAKE + 1,
            };
            let run = move || worker.run(&mut Batch::new());
            let thread = thread::Builder::new().name(format!("dns-udp-{index}")).spawn(run)?;
            workers.workers.push(Handle { commands, wake, thread });
        }
        Ok(workers)
    }

    /// Gives each worker its sockets for an address.
    pub(super) fn open(&self, address: SocketAddr, sockets: Vec<UdpSocket>) {
        for (worker, socket) in self.workers.iter().cycle().zip(sockets) {
            worker.tell(Command::Open(address, socket));
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
    commands: std_mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    endpoints: HashMap<u64, Arc<Endpoint>>,
    /// Not read any more.
    retired: Vec<Arc<Endpoint>>,
    /// Never used twice: an event of a socket just closed finds nothing.
    next_token: u64,
}

impl Worker {
    fn run(&mut self, batch: &mut Batch) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(_) => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let mut trouble = false;
            for event in &events[..ready] {
                if event.data() == WAKE {
                    let _ = self.wake.read();
                    if self.obey().is_break() {
                        return;
                    }
                } else if let Some(endpoint) = self.endpoints.get(&event.data()).cloned() {
                    trouble |= self.take_batch(&endpoint, batch).is_err();
                }
            }
            if trouble {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Carries out what was commanded; breaks when nobody can command any more.
    fn obey(&mut self) -> ControlFlow<()> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Open(address, socket)) => {
                    let token = self.next_token;
                    self.next_token += 1;
                    let endpoint = Arc::new(Endpoint { address, socket });
                    // Of workers that share a socket one is woken for a packet, not all.
                    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
                    match self.epoll.add(&endpoint.socket, EpollEvent::new(flags, token)) {
                        Ok(()) => drop(self.endpoints.insert(token, endpoint)),
                        Err(error) => tracing::error!(%address, %error, "cannot wait for queries on this address"),
                    }
                }
                Ok(Command::Close(address, done)) => {
                    // Closing takes a socket out of epoll only with its last handle, and others may have one: systemd,
                    // another worker, another agent. Jobs hold it weakly.
                    self.endpoints.retain(|_, endpoint| {
                        let stays = endpoint.address != address;
                        if !stays {
                            let _ = self.epoll.delete(&endpoint.socket);
                        }
                        stays
                    });
                    let _ = done.send(());
                }
                Ok(Command::Lend(reply)) => {
                    let handle = |endpoint: &Arc<Endpoint>| endpoint.socket.as_fd().try_clone_to_owned();
                    let _ = reply.send(self.endpoints.values().map(handle).collect());
                }
                Ok(Command::Retire(done)) => {
                    // They stay open: answers to what was read go out by them. But an event of this very turn finds none.
                    for (_, endpoint) in self.endpoints.drain() {
                        let _ = self.epoll.delete(&endpoint.socket);
                        self.retired.push(endpoint);
                    }
                    let _ = done.send(());
                }
                Err(std_mpsc::TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(std_mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
    }

    /// Answers what is there, up to a batch. An error is one that may come again at once.
    fn take_batch(&mut self, endpoint: &Arc<Endpoint>, batch: &mut Batch) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let shard = shared.metrics.worker(self.index);
        let came = match batch.receive(endpoint.socket.as_fd(), endpoint.address.ip().is_unspecified()) {
            Ok(came) => came,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => {
                shard.count(Counter::ReceiveErrors);
                // An ICMP error of an earlier reply is delivered once; interruptions pass.
                return match error.kind() {
                    ErrorKind::ConnectionRefused | ErrorKind::Interrupted => Ok(()),
                    _ => Err(error),
                };
            }
        };
        let mut tally = Tally::default();
        let zone = self.front.refresh(&shared);
        for place in 0..came {
            tally.count(Counter::UdpQueries);
            let way = batch.way(place).filter(|way| !is_martian(way.peer) && !way.is_to_many());
            let (packet, reply) = batch.exchange(place);
            let Some(way) = way.filter(|_| may_be_query(packet)) else {
                tally.count(Counter::Dropped);
                continue;
            };
            // A panic in it is our bug: the complete path looks at the packet, and no worker is lost (P8).
            let answered =
                catch_unwind(AssertUnwindSafe(|| self.front.answer(&shared, &zone, way.peer.ip(), packet, reply)));
            match answered {
                Ok(Ok(length)) => batch.reply(place, length),
                Ok(Err(pace)) => self.hand_over(&mut tally, endpoint, packet, way, pace),
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
        Ok(())
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
