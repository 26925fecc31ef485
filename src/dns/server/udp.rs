//! UDP: a few threads of their own, each with one socket per address, so that neither a busy runtime nor a slow
//! upstream delays an answer to a name of ours. A thread waits in epoll for its sockets and its commands, takes what
//! came in batches, and answers in place; what takes time goes to the runtime as a [`Job`].

use std::{
    collections::HashMap,
    io::{self, ErrorKind, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Weak, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg},
    },
};
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    metrics::{Counter, Shard},
    query::{Desk, Later, Verdict, decide, is_martian, settle},
};
use crate::dns::wire::Transport;

/// Most datagrams taken from one socket before the others have their turn.
const BATCH: usize = 32;

/// Longest query over UDP. The longest name with every option in use stays far below it.
const MAX_QUERY: usize = 4096;

/// Pause of a worker after an error that may come again at once: at most 1,000 turns a second are wasted on it.
const PAUSE: Duration = Duration::from_millis(1);

/// Sockets told of in one turn of epoll; the rest is told of in the next.
const EVENTS: usize = 64;

/// The event that says: there are commands.
const WAKE: u64 = 0;

/// The worker threads. Dropping them stops and joins them: each ends after its current batch.
pub(super) struct Workers {
    workers: Vec<Handle>,
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
        let mut workers = Self { workers: Vec::new() };
        for index in 0..shared.limits.udp_workers {
            let (commands, inbox) = std_mpsc::channel();
            let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
            let mut worker = Worker {
                index,
                shared: Arc::clone(shared),
                jobs: jobs.clone(),
                commands: inbox,
                wake: Arc::clone(&wake),
                epoll,
                endpoints: HashMap::new(),
                next_token: WAKE + 1,
                rng: rand::make_rng(),
                buffer: vec![0; MAX_QUERY + 1].into(),
                control: cmsg_space!(in6_pktinfo, in_pktinfo),
            };
            let thread = thread::Builder::new().name(format!("dns-udp-{index}")).spawn(move || worker.run())?;
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
        self.workers.iter().all(|worker| !worker.thread.is_finished())
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
    jobs: mpsc::Sender<Job>,
    commands: std_mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    endpoints: HashMap<u64, Arc<Endpoint>>,
    /// Never used twice: an event of a socket just closed finds nothing.
    next_token: u64,
    rng: SmallRng,
    buffer: Box<[u8]>,
    control: Vec<u8>,
}

impl Worker {
    fn run(&mut self) {
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
                    trouble |= self.take_batch(&endpoint).is_err();
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
                    // They stay open: answers to what was read go out by them.
                    for endpoint in self.endpoints.values() {
                        let _ = self.epoll.delete(&endpoint.socket);
                    }
                    let _ = done.send(());
                }
                Err(std_mpsc::TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(std_mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
    }

    /// Answers what is there, up to a batch. An error is one that may come again at once.
    fn take_batch(&mut self, endpoint: &Arc<Endpoint>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let shard = shared.metrics.worker(self.index);
        for _ in 0..BATCH {
            match endpoint.receive(&mut self.buffer, &mut self.control) {
                Ok((length, way)) => self.take(shard, endpoint, length, way),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    shard.count(Counter::ReceiveErrors);
                    // An ICMP error of an earlier reply is delivered once; interruptions pass.
                    if !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, shard: &Shard, endpoint: &Arc<Endpoint>, length: usize, way: Way) {
        shard.count(Counter::UdpQueries);
        if length > MAX_QUERY || is_martian(way.peer) || way.is_to_many() {
            return shard.count(Counter::Dropped);
        }
        let packet = &self.buffer[..length];
        match decide(&self.shared, shard, way.peer.ip(), packet, Transport::Udp, &mut self.rng) {
            Verdict::Reply(reply) | Verdict::Refuse(Some(reply)) => endpoint.send(shard, &reply, way),
            Verdict::Drop | Verdict::Refuse(None) => shard.count(Counter::Dropped),
            Verdict::Later(later) => {
                // There is room for as many jobs as there are permits, so this fails only when the server ends.
                let _ = self.jobs.try_send(Job { later, endpoint: Arc::downgrade(endpoint), way });
            }
        }
    }
}

/// A query to be settled on the runtime.
pub(super) struct Job {
    later: Later,
    endpoint: Weak<Endpoint>,
    way: Way,
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
struct Endpoint {
    address: SocketAddr,
    socket: UdpSocket,
}

/// Where a query came from, and which address of ours it went to: the reply takes the same way back.
#[derive(Clone, Copy, Debug)]
struct Way {
    peer: SocketAddr,
    asked: Asked,
}

/// The address that was asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
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
    fn receive(&self, buffer: &mut [u8], control: &mut [u8]) -> io::Result<(usize, Way)> {
        if !self.address.ip().is_unspecified() {
            let (length, peer) = self.socket.recv_from(buffer)?;
            return Ok((length, Way { peer, asked: Asked::Bound }));
        }
        let mut parts = [IoSliceMut::new(buffer)];
        let message =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::empty())?;
        let peer = message.address.as_ref().and_then(to_std).ok_or(ErrorKind::InvalidData)?;
        let asked = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Asked::V4(u32::from_be(info.ipi_addr.s_addr).into())),
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Asked::V6(info.ipi6_addr.s6_addr.into(), info.ipi6_ifindex))
            }
            _ => None,
        });
        Ok((message.bytes, Way { peer, asked: asked.unwrap_or(Asked::Bound) }))
    }

    /// Counts a reply and sends it. Whether it arrives is the client's affair, as always with UDP.
    fn send(&self, shard: &Shard, reply: &[u8], way: Way) {
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

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|a| SocketAddr::new(IpAddr::V4(a.ip()), a.port()));
    v4().or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}
