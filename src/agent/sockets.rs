//! With whose sockets an agent begins: systemd's, those of the agent before, or none.

use std::{collections::BTreeSet, net::SocketAddr, os::fd::OwnedFd};

use tracing::{info, warn};

use crate::dns::server::{Handed, Kind};

/// What an agent begins with. What it wants beyond that is bound as usual.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) dns: Handed,
    /// The listener of `--http`.
    pub(super) http: Option<OwnedFd>,
    /// The control socket of the agent before.
    pub(super) control: Option<OwnedFd>,
    /// Addresses of DNS whose sockets systemd holds. They are answered on even if `--dns` does not name them: what is
    /// sent there waits in a socket that only we can read.
    pub(super) held: BTreeSet<SocketAddr>,
}

impl Sockets {
    /// Sorts what systemd holds for us, by local address: the listener at `--http`'s is the API's, all others are of DNS.
    /// Those at the addresses of `--dns-tls` are for DNS over TLS.
    pub(super) fn held(descriptors: Vec<OwnedFd>, http: SocketAddr, tls: &[SocketAddr]) -> Self {
        let mut sockets = Self::default();
        sockets.add(descriptors, http, http);
        sockets.dns.set_apart(tls);
        for address in sockets.dns.close_lone_listeners() {
            warn!(
                %address,
                "a TCP listener from systemd is closed: it is neither --http {http} nor one of --dns-tls, nor beside a datagram \
                 socket; name it there, or add ListenDatagram={address}"
            );
        }
        sockets.held = sockets.dns.addresses();
        if !sockets.held.is_empty() || sockets.http.is_some() {
            let http = sockets.http.as_ref().map(|_| http);
            info!(dns = ?sockets.held, ?http, "these sockets are systemd's: a restart loses nothing that comes there");
        }
        sockets
    }

    /// Adds sockets; `listens` is where the one of the API listens, and `wanted` where it should.
    pub(super) fn add(&mut self, descriptors: Vec<OwnedFd>, listens: SocketAddr, wanted: SocketAddr) {
        for descriptor in descriptors {
            match Kind::of(&descriptor) {
                Ok(Kind::Tcp(address)) if address == listens => {
                    // At another address it is closed, and ours is bound.
                    self.http = Some(descriptor).filter(|_| address == wanted);
                }
                Ok(kind) => self.dns.add(kind, descriptor),
                Err(error) => warn!(%error, "a socket that was handed to us is of no use here and is closed"),
            }
        }
    }

    /// Whether another agent runs that hands over.
    pub(super) fn is_of_an_agent(&self) -> bool {
        self.control.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_of_systemd_are_known_by_their_addresses() {
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let (dns, tcp) = std::iter::repeat_with(|| {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            UdpSocket::bind(tcp.local_addr().unwrap()).ok().zip(Some(tcp))
        })
        .find_map(|found| found)
        .unwrap();
        let lone = TcpListener::bind("127.0.0.1:0").unwrap();
        let secured = TcpListener::bind("127.0.0.1:0").unwrap();
        let (useless, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let (address, at) = (dns.local_addr().unwrap(), http.local_addr().unwrap());
        let over_tls = secured.local_addr().unwrap();
        let descriptors = vec![http.into(), dns.into(), tcp.into(), lone.into(), secured.into(), useless.into()];
        let sockets = Sockets::held(descriptors, at, &[over_tls]);
        assert!(sockets.http.is_some());
        assert_eq!(sockets.held, [address].into());
        assert_eq!(sockets.dns.addresses(), [address].into(), "a listener of its own is none of DNS");
        assert!(!sockets.is_of_an_agent());
        let secured = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at_all, nowhere) = (secured.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap());
        assert!(!Sockets::held(vec![secured.try_clone().unwrap().into()], at, &[at_all]).dns.is_empty());
        assert!(Sockets::held(vec![secured.into()], at, &[nowhere]).dns.is_empty(), "nobody asks there");
    }
}
