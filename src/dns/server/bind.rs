//! Sockets for one address, with the options that matter, and what to say when there are none.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::listen::{DNS_PORT, Port53};

/// How many connections the kernel keeps for us while we are not accepting.
const BACKLOG: i32 = 1024;

/// Everything that listens on one address.
pub(super) struct Sockets {
    /// One per worker; the kernel spreads clients over them.
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: TcpListener,
    /// The octets of each UDP socket's receive buffer that the kernel granted.
    pub(super) receive_buffer: usize,
}

/// Binds both transports of an address, or neither.
///
/// Nobody else may hold the port: SO_REUSEPORT would let a second agent take half of the queries silently. So TCP is
/// bound without it, and the first UDP socket gets it only after it was bound.
pub(super) fn bind(address: SocketAddr, workers: usize, receive_buffer: usize) -> io::Result<Sockets> {
    let tcp = new_socket(address, Type::STREAM, Protocol::TCP)?;
    // Connections in TIME_WAIT do not keep us from starting again; a listener does, in spite of this option.
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    let mut udp: Vec<UdpSocket> = Vec::with_capacity(workers);
    let mut granted = usize::MAX;
    for _ in 0..workers.max(1) {
        let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
        granted = granted.min(enlarge(&socket, receive_buffer)?);
        socket.set_reuse_port(!udp.is_empty())?;
        socket.bind(&address.into())?;
        socket.set_reuse_port(true)?;
        udp.push(socket.into());
    }
    Ok(Sockets { udp, tcp: tcp.into(), receive_buffer: granted })
}

/// Whether this process may bind port 53, found by trying it where nobody listens.
pub fn may_bind_53() -> Port53 {
    let probe = SocketAddr::from((Ipv4Addr::new(127, 53, 53, 53), DNS_PORT));
    match UdpSocket::bind(probe) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Port53::Denied,
        // Another failure is about the address, not about us.
        Ok(_) | Err(_) => Port53::Allowed,
    }
}

/// Why an address could not be bound, as a fragment with the fix.
pub(super) fn explain(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse if port == DNS_PORT => format!(
            "address in use (systemd-resolved, dnsmasq, another agent?): `ss -lntup sport = :{port}` shows by whom"
        ),
        io::ErrorKind::AddrInUse => format!("address in use: `ss -lntup sport = :{port}` shows by whom"),
        io::ErrorKind::PermissionDenied if port < 1024 => {
            format!("permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE (asked for {port})")
        }
        _ => error.to_string(),
    }
}

/// A socket that may be bound before its address exists (IP_FREEBIND), and tells which address was asked where it is
/// bound to all of them.
fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    let tell_address = kind == Type::DGRAM && address.ip().is_unspecified();
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
        if tell_address {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
        if tell_address {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    Ok(socket)
}

/// Asks for a receive buffer, beyond net.core.rmem_max where we may; gives what was granted.
fn enlarge(socket: &Socket, octets: usize) -> io::Result<usize> {
    if setsockopt(socket, sockopt::RcvBufForce, &octets).is_err() {
        socket.set_recv_buffer_size(octets)?;
    }
    // The kernel doubles the number for its own bookkeeping and says so.
    Ok(socket.recv_buffer_size()? / 2)
}
