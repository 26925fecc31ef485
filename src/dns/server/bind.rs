//! Sockets for one address, with the options that matter, and what to say when there are none.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{
    super::listen::{DNS_PORT, Port53},
    relay::Pair,
};

/// How many connections the kernel keeps for us while we are not accepting.
const BACKLOG: i32 = 1024;

/// Everything that listens on one address.
pub(super) struct Sockets {
    /// At least one per worker; the kernel spreads clients over them, or the workers share them.
    pub(super) udp: Vec<UdpSocket>,
    /// The UDP sockets are handles of fewer: several workers read one.
    pub(super) shared: bool,
    pub(super) tcp: TcpListener,
    /// The octets of each UDP socket's receive buffer that the kernel granted.
    pub(super) receive_buffer: usize,
}

/// Binds both transports of an address, or neither.
///
/// Nobody else may hold the port: SO_REUSEPORT would let a second agent take half of the queries silently. So TCP is
/// bound without it, and the first UDP socket gets it only after it was bound.
pub(super) fn bind(address: SocketAddr, workers: usize, receive_buffer: usize) -> io::Result<Sockets> {
    let tcp = listen(address)?;
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
    Ok(Sockets { udp, shared: false, tcp, receive_buffer: granted })
}

/// Takes up what was handed in for an address, and binds what is missing.
///
/// Every socket must be read, for the kernel has spread clients over them: with more sockets than workers some have
/// several. With fewer, workers share them: another one beside it (SO_REUSEPORT) would take a part of the clients along
/// when it is closed, with what they had sent.
pub(super) fn adopt(pair: &Pair, address: SocketAddr, workers: usize, receive_buffer: usize) -> io::Result<Sockets> {
    let tcp = match &pair.tcp {
        Some(tcp) => adopt_listener(tcp)?,
        None => listen(address)?,
    };
    let mut granted = usize::MAX;
    for socket in &pair.udp {
        let socket = SockRef::from(socket);
        socket.set_nonblocking(true)?;
        prepare(&socket, address)?;
        // Asking for what systemd has granted already would make it smaller where we may not exceed the maximum.
        let has = socket.recv_buffer_size()? / 2;
        granted = granted.min(if has < receive_buffer { enlarge(&socket, receive_buffer)? } else { has });
    }
    let udp = pair.udp.iter().cycle().take(pair.udp.len().max(workers)).map(UdpSocket::try_clone);
    let shared = pair.udp.len() < workers;
    Ok(Sockets { udp: udp.collect::<io::Result<_>>()?, shared, tcp, receive_buffer: granted })
}

/// Takes up a listener that was handed in.
pub(super) fn adopt_listener(handed: &TcpListener) -> io::Result<TcpListener> {
    let tcp = handed.try_clone()?;
    tcp.set_nonblocking(true)?;
    Ok(tcp)
}

/// Binds the listener of an address.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let tcp = new_socket(address, Type::STREAM, Protocol::TCP)?;
    // Connections in TIME_WAIT do not keep us from starting again; a listener does, in spite of this option.
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    Ok(tcp.into())
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
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    if kind == Type::DGRAM {
        prepare(&socket, address)?;
    }
    Ok(socket)
}

/// Has the kernel tell which address was asked, where that is not known from the socket; and forbids fragments: what we
/// send fits every path that IPv6 fits (1,280 octets), and a fragment could be exchanged for a forged one (RFC 9715).
/// Nobody's word on the path's MTU is needed for that, or believed. Where it cannot be had it is done without.
fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE);
    } else {
        let _ = set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE);
    }
    match address.ip() {
        ip if !ip.is_unspecified() => {}
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// Asks for a receive buffer, beyond net.core.rmem_max where we may; gives what was granted.
fn enlarge(socket: &Socket, octets: usize) -> io::Result<usize> {
    if setsockopt(socket, sockopt::RcvBufForce, &octets).is_err() {
        socket.set_recv_buffer_size(octets)?;
    }
    // The kernel doubles the number for its own bookkeeping and says so.
    Ok(socket.recv_buffer_size()? / 2)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover};

    use super::*;

    /// Those that are handed in were made by somebody else, who need not know of it.
    #[test]
    fn no_reply_may_be_fragmented_whoever_made_the_socket() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let bound = bind(address, 2, 1 << 16).unwrap();
            let handed = Pair { udp: vec![UdpSocket::bind(address).unwrap()], ..Pair::default() };
            let adopted = adopt(&handed, address, 2, 1 << 16).unwrap();
            for udp in bound.udp.iter().chain(&adopted.udp) {
                match address {
                    SocketAddr::V4(_) => assert_eq!(ip_mtu_discover(udp.as_fd()), Ok(Ipv4PathMtuDiscovery::PROBE)),
                    SocketAddr::V6(_) => assert_eq!(ipv6_mtu_discover(udp.as_fd()), Ok(Ipv6PathMtuDiscovery::PROBE)),
                }
            }
        }
    }

    #[test]
    fn sockets_are_shared_where_fewer_than_workers_were_handed_in() {
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for (sockets, workers, expected) in [(1, 1, (1, false)), (1, 3, (3, true)), (3, 2, (3, false))] {
            let udp = (0..sockets).map(|_| UdpSocket::bind(address).unwrap()).collect();
            let adopted = adopt(&Pair { udp, ..Pair::default() }, address, workers, 1 << 16).unwrap();
            assert_eq!((adopted.udp.len(), adopted.shared), expected, "{sockets} for {workers}");
        }
        assert!(!bind(address, 4, 1 << 16).unwrap().shared);
    }
}
