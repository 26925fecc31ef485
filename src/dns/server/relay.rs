//! Sockets that outlive a process: handed in by whoever held them before, handed on to whoever comes next.
//!
//! A UDP socket holds the queries that nobody has read yet, a listener the connections that nobody has accepted yet. So
//! a restart loses nothing exactly when the sockets stay and only their reader changes: systemd keeps them while no agent
//! runs, or the agent before gives them to the next one. From the kernel's side it is one socket with several handles;
//! whoever reads a packet answers it.
//!
//! Reading is taken up late and laid down early: what was handed in is not read before this host knows what to answer
//! ([`Relay::may_read`]), and a server that retires reads nothing more, but answers what it has read. The listeners of DNS over
//! TLS are handed on like all others; its connections are not, for half of them is in our memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use socket2::{SockRef, Type};
use tokio::sync::{mpsc, oneshot, watch};

/// How a server begins with the sockets of another one, and ends by leaving them to the next.
#[derive(Debug)]
pub struct Relay {
    /// Sockets that are used instead of binding.
    pub handed: Handed,
    /// What was handed in is read from once this is true. All other addresses are bound at once.
    pub may_read: watch::Receiver<bool>,
    /// What the agent asks for.
    pub orders: mpsc::Receiver<Order>,
}

impl Relay {
    /// Nothing was handed in, and nobody asks for anything.
    pub fn alone() -> Self {
        let (_, may_read) = watch::channel(true);
        let (_, orders) = mpsc::channel(1);
        Self { handed: Handed::default(), may_read, orders }
    }
}

/// What a server can be asked for.
#[derive(Debug)]
pub enum Order {
    /// Further handles of all sockets, for another process. This one goes on reading.
    Lend(oneshot::Sender<io::Result<Vec<OwnedFd>>>),
    /// Read no more; the server ends when everything that was read is answered.
    Retire(Parting),
    /// Goes on with a connection of the server before.
    Continue(Connection),
}

/// What becomes of open TCP connections when their server retires.
#[derive(Clone, Debug, Default)]
pub enum Parting {
    /// It does not retire.
    #[default]
    Not,
    /// Each is closed as soon as it is idle (RFC 7766 section 6.2.3).
    Finish,
    /// Each is handed on as soon as it owes no answer; one over TLS, whose keys stay here, is closed as soon as it is idle.
    HandOn(mpsc::Sender<Connection>),
}

/// A TCP connection between two questions.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub socket: OwnedFd,
    /// What was read of the next question, below 64 KiB + 4 KiB.
    pub unread: Vec<u8>,
}

impl Connection {
    pub(super) fn stream(self) -> io::Result<(TcpStream, SocketAddr, Vec<u8>)> {
        let stream = TcpStream::from(self.socket);
        stream.set_nonblocking(true)?;
        let peer = stream.peer_addr()?;
        Ok((stream, peer, self.unread))
    }
}

/// What another process opened for us.
#[derive(Debug, Default)]
pub struct Handed {
    pairs: BTreeMap<SocketAddr, Pair>,
    /// Listeners of DNS over TLS.
    secured: BTreeMap<SocketAddr, TcpListener>,
}

/// What was handed in for one address.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// Several share the address by SO_REUSEPORT: the kernel gives each its clients, so each must be read.
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Option<TcpListener>,
}

/// A socket that was handed in, but is none of DNS.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Useless(String);

/// What a handed socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams at this address.
    Udp(SocketAddr),
    /// A listener at this address.
    Tcp(SocketAddr),
}

impl Kind {
    /// Looks at a socket.
    pub fn of(socket: &OwnedFd) -> Result<Self, Useless> {
        let useless = |why: &dyn std::fmt::Display| Useless(why.to_string());
        let socket = SockRef::from(socket);
        let address = socket.local_addr().map_err(|error| useless(&error))?;
        let address = address.as_socket().ok_or_else(|| useless(&"not of an internet address"))?;
        match socket.r#type().map_err(|error| useless(&error))? {
            Type::DGRAM => Ok(Self::Udp(address)),
            Type::STREAM if socket.is_listener().unwrap_or(false) => Ok(Self::Tcp(address)),
            _ => Err(useless(&"neither a datagram socket nor a listener")),
        }
    }
}

impl Handed {
    /// Takes in a socket.
    pub fn add(&mut self, kind: Kind, socket: OwnedFd) {
        match kind {
            Kind::Udp(address) => self.pairs.entry(address).or_default().udp.push(socket.into()),
            Kind::Tcp(address) => self.pairs.entry(address).or_default().tcp = Some(socket.into()),
        }
    }

    /// The addresses that there are datagram sockets for.
    pub fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.pairs.keys().copied().collect()
    }

    /// Whether nothing was handed in that is of use.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.secured.is_empty()
    }

    /// The listeners at these addresses are those of DNS over TLS: no datagram socket belongs to them.
    pub fn set_apart(&mut self, secured: &[SocketAddr]) {
        for address in secured {
            if let Some(listener) = self.pairs.get_mut(address).and_then(|pair| pair.tcp.take()) {
                self.secured.insert(*address, listener);
            }
        }
        self.pairs.retain(|_, pair| !pair.udp.is_empty() || pair.tcp.is_some());
    }

    /// Closes what no datagram socket belongs to: DNS is asked over UDP first (RFC 7766 section 5), so such a listener is
    /// meant for something else.
    pub fn close_lone_listeners(&mut self) -> Vec<SocketAddr> {
        let lone = self.pairs.iter().filter(|(_, pair)| pair.udp.is_empty()).map(|(address, _)| *address).collect();
        self.pairs.retain(|_, pair| !pair.udp.is_empty());
        lone
    }

    pub(super) fn get(&self, address: SocketAddr) -> Option<&Pair> {
        self.pairs.get(&address)
    }

    pub(super) fn secured(&self, address: SocketAddr) -> Option<&TcpListener> {
        self.secured.get(&address)
    }

    /// Nobody wants to be asked there.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.pairs.remove(&address);
        self.secured.remove(&address);
    }
}
