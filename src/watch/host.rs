//! \[IO\] What the host knows of itself: addresses of its interfaces, ports that are listened on, the source address
//! towards a destination. Linux only, through the kernel's own tables; nothing is sent.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use crate::model::Proto;

/// Addresses of all interfaces, loopback among them.
pub fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

/// Ports that some process of this network namespace listens on: docker-proxy's are among them. SCTP, which has no table
/// in this form, is left out.
pub fn listening() -> io::Result<BTreeSet<(Proto, u16)>> {
    // States of include/net/tcp_states.h: 0A is LISTEN; an unconnected UDP socket is in 07, CLOSE.
    let tables = [
        ("/proc/net/tcp", Proto::Tcp, "0A"),
        ("/proc/net/tcp6", Proto::Tcp, "0A"),
        ("/proc/net/udp", Proto::Udp, "07"),
        ("/proc/net/udp6", Proto::Udp, "07"),
    ];
    let mut ports = BTreeSet::new();
    for (path, proto, state) in tables {
        let file = match File::open(path) {
            // A kernel without IPv6 has no table of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        for line in BufReader::new(file).lines() {
            ports.extend(local_port(&line?, state).map(|port| (proto, port)));
        }
    }
    Ok(ports)
}

/// The local port of one line of a socket table (`  0: 0100007F:0CEA 00000000:0000 0A …`) in this state.
fn local_port(line: &str, state: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let listens = fields.nth(1)? == state;
    u16::from_str_radix(port, 16).ok().filter(|_| listens)
}

/// The address this host would send from to reach `destination`. Connecting a UDP socket asks the routing table only.
pub fn source_towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

/// The source addresses of the default routes, IPv4 first; a family without one is left out.
///
/// Asked towards addresses reserved for documentation (RFC 5737, RFC 3849), which only a default route covers.
pub fn default_source() -> Vec<IpAddr> {
    let nowhere: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let sources = nowhere.into_iter().filter_map(|ip| source_towards(SocketAddr::new(ip, 9)).ok());
    sources.filter(|ip| !ip.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_loopback_address_is_among_the_addresses() {
        assert!(addresses().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn a_port_is_listed_while_it_is_listened_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tcp, udp) = (listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port());
        let ports = listening().unwrap();
        assert!(ports.contains(&(Proto::Tcp, tcp)) && ports.contains(&(Proto::Udp, udp)));
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let line = |state: &str| format!("   1: 0100007F:0035 00000000:0000 {state} 00000000:00000000 00:00000000");
        assert_eq!(local_port(&line("0A"), "0A"), Some(53));
        assert_eq!(local_port(&line("01"), "0A"), None);
        assert_eq!(local_port("  sl  local_address rem_address   st", "0A"), None);
        assert_eq!(local_port("", "0A"), None);
    }

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        let source = source_towards("127.0.0.9:53".parse().unwrap()).unwrap();
        assert_eq!(source, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
