//! DNS over TLS: rustls as the client, over real sockets, with certificates that only these tests trust.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use portolan::dns::{
    access::AccessList,
    server::{BindState, Counter, Limits, Tls},
    tls::{ALPN, Certificate},
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::support::*;

pub(crate) const CERTIFICATE: &str = include_str!("tls/certificate.pem");
pub(crate) const KEY: &str = include_str!("tls/key.pem");
pub(crate) const RENEWED_CERTIFICATE: &str = include_str!("tls/renewed-certificate.pem");
pub(crate) const RENEWED_KEY: &str = include_str!("tls/renewed-key.pem");

/// A client's end of a connection over TLS.
pub(crate) type Client = Connection<StreamOwned<ClientConnection, TcpStream>>;

impl Client {
    /// Connects and shakes hands as RFC 7858 says, with whoever shows this certificate.
    pub(crate) fn greet(client: IpAddr, server: SocketAddr, trusted: &str) -> io::Result<Self> {
        Self::shake(client, server, trusted, &[&TLS13, &TLS12], &[ALPN])
    }

    fn shake(
        client: IpAddr,
        server: SocketAddr,
        trusted: &str,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(versions).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("dns.example").unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let Connection(mut stream) = Connection::open(client, server)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        Ok(Self(StreamOwned::new(tls, stream)))
    }

    /// Whether the server has said that it ends the connection, which nobody else can say (RFC 8446 section 6.1).
    pub(crate) fn is_ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 512]), Ok(0))
    }
}

fn certificate() -> Certificate {
    Certificate::parse(CERTIFICATE, KEY).unwrap()
}

/// A server that answers on an address of its own over TLS, besides the usual one.
async fn secured(limits: Limits) -> (Server, SocketAddr) {
    let mut server = Server::start(limits).await;
    let address = fresh_address();
    server.shared.set_tls(Tls { addresses: [address].into(), certificate: certificate() });
    server.want([server.address]);
    server.until(|states| states.get(&address) == Some(&BindState::Secured)).await;
    (server, address)
}

fn open(server: SocketAddr) -> Client {
    Client::greet(CLIENT, server, CERTIFICATE).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_either_version_is_answered_whole() {
    let (server, address) = secured(Limits::default()).await;
    for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let mut client = Client::shake(CLIENT, address, CERTIFICATE, &[version], &[ALPN]).unwrap();
        assert_eq!((client.0.conn.protocol_version(), client.0.conn.alpn_protocol()), (Some(name), Some(ALPN)));
        assert_eq!(addresses(&client.ask(&web()).unwrap()), WEB);
        let long = decode(&client.ask(&many()).unwrap());
        assert_eq!((long.answers.len(), long.metadata.truncation), (MANY, false), "as over TCP");
    }
    assert_eq!(server.count(Counter::TlsHandshakes), 2);
    assert_eq!(server.count(Counter::TcpQueries), 4);
    server.assert_answers(CLIENT);
}

/// RFC 7830: what is encrypted still has a length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_have_few_lengths_for_clients_that_ask_for_padding() {
    let (_server, address) = secured(Limits::default()).await;
    let padded = |query: &[u8]| {
        let mut query = query.to_vec();
        query[11] = 1;
        query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 12, 0, 0]);
        query
    };
    let mut client = open(address);
    let nothing = query(7, "nothing.svc.internal.", RecordType::A);
    let lengths: Vec<usize> =
        [web(), nothing.clone(), many()].iter().map(|query| client.ask(&padded(query)).unwrap().len()).collect();
    assert!(lengths.iter().all(|length| length % 468 == 0), "{lengths:?}");
    assert_eq!(lengths[0], lengths[1], "a service and none look alike");
    assert_eq!(addresses(&client.ask(&padded(&web())).unwrap()), WEB);
    assert_ne!(client.ask(&nothing).unwrap().len() % 468, 0, "without the option");
    let mut plain = Connection::open(CLIENT, _server.address).unwrap();
    assert_ne!(plain.ask(&padded(&nothing)).unwrap().len() % 468, 0, "in the clear padding hides nothing");
}

/// A client that names no protocol is served (RFC 7858 section 3.1 asks for none); one that wants to speak another is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_wants_to_speak_something_else_gets_no_handshake() {
    let (server, address) = secured(Limits::default()).await;
    let mut silent = Client::shake(CLIENT, address, CERTIFICATE, &[&TLS13], &[]).unwrap();
    assert_eq!(addresses(&silent.ask(&web()).unwrap()), WEB);
    assert!(Client::shake(CLIENT, address, CERTIFICATE, &[&TLS13], &[b"h2"]).is_err());
    eventually("it is counted", || server.count(Counter::TlsFailures) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_takes_many_queries_at_once() {
    let (server, address) = secured(Limits::default()).await;
    let mut client = open(address);
    let web = |id| query(id, "web.default.svc.internal.", RecordType::A);
    let all: Vec<u8> = (0..500).flat_map(|id| framed(&web(id))).collect();
    client.0.write_all(&all).unwrap();
    client.0.flush().unwrap();
    for id in 0..500 {
        let reply = client.receive().unwrap();
        assert_eq!((decode(&reply).metadata.id, addresses(&reply)), (id, WEB.to_vec()));
    }
    assert_eq!((server.count(Counter::TcpConnections), server.count(Counter::TcpQueries)), (1, 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_on_the_port_of_tls_costs_that_connection_alone() {
    let (server, address) = secured(Limits::default()).await;
    let mut other = open(address);
    let mut plain = Connection::open(OTHER, address).unwrap();
    plain.send(&web()).unwrap();
    assert!(plain.is_closed());
    eventually("it is counted", || server.count(Counter::TlsFailures) == 1).await;
    assert_eq!(server.count(Counter::TcpQueries), 0, "it was no question");
    assert_eq!(addresses(&other.ask(&web()).unwrap()), WEB);
    eventually("its place is free", || server.shared.tcp_connections() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_cut_and_holds_up_nobody() {
    let limits = Limits { tls_handshake: Duration::from_secs(1), ..Limits::default() };
    let (server, address) = secured(limits).await;
    let mut other = open(address);
    let mut silent = Connection::open(OTHER, address).unwrap();
    let mut slow = Connection::open(OTHER, address).unwrap();
    // A record of a handshake, of which the rest does not come.
    slow.0.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    assert_eq!(addresses(&other.ask(&web()).unwrap()), WEB);
    assert!(silent.is_closed() && slow.is_closed());
    eventually("both are counted", || server.count(Counter::TlsFailures) == 2).await;
    assert_eq!(server.count(Counter::TcpTimeouts), 2);
    assert_eq!(addresses(&other.ask(&web()).unwrap()), WEB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_is_refused() {
    let (server, address) = secured(Limits { tcp_strangers: 1, ..Limits::default() }).await;
    server.shared.set_access(Arc::new(AccessList::only(["127.0.0.1/32".parse().unwrap()])));
    let mut stranger = Client::greet(OTHER, address, CERTIFICATE).unwrap();
    let mut one_more = Connection::open(OTHER, address).unwrap();
    assert!(one_more.is_closed(), "strangers have a place of their own, and no other");
    assert_eq!(rcode(&stranger.ask(&web()).unwrap()), ResponseCode::Refused);
    assert!(stranger.is_ended(), "and that is all");
    assert_eq!(addresses(&open(address).ask(&web()).unwrap()), WEB);
    assert_eq!((server.count(Counter::NotPermitted), server.count(Counter::TcpOverCap)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_both_kinds_count_into_one_cap() {
    let (server, address) = secured(Limits { tcp_per_client: 2, ..Limits::default() }).await;
    let mut plain = Connection::open(OTHER, server.address).unwrap();
    assert_eq!(addresses(&plain.ask(&web()).unwrap()), WEB);
    let mut encrypted = Client::greet(OTHER, address, CERTIFICATE).unwrap();
    assert!(Client::greet(OTHER, address, CERTIFICATE).is_err(), "the third of one client");
    assert!(Connection::open(OTHER, server.address).unwrap().is_closed(), "and over TCP");
    assert_eq!(addresses(&encrypted.ask(&web()).unwrap()), WEB);
    assert_eq!(addresses(&open(address).ask(&web()).unwrap()), WEB, "somebody else");
    assert_eq!(server.count(Counter::TcpOverCap), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_idle_or_slow_is_told_that_the_connection_ends() {
    let limits = Limits { tcp_idle: Duration::from_secs(1), tcp_read: Duration::from_millis(100), ..Limits::default() };
    let (server, address) = secured(limits).await;
    let (mut idle, mut slow) = (open(address), open(address));
    slow.0.write_all(&framed(&web())[..9]).unwrap();
    slow.0.flush().unwrap();
    assert!(slow.is_ended() && idle.is_ended());
    eventually("both are counted", || server.count(Counter::TcpTimeouts) == 2).await;
    assert_eq!(server.count(Counter::TlsFailures), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_for_new_connections() {
    let (server, address) = secured(Limits::default()).await;
    let mut before = open(address);
    assert!(!server.shared.renew(&certificate()), "it is the same");
    assert!(server.shared.renew(&Certificate::parse(RENEWED_CERTIFICATE, RENEWED_KEY).unwrap()));
    let mut after = Client::greet(CLIENT, address, RENEWED_CERTIFICATE).unwrap();
    for client in [&mut before, &mut after] {
        assert_eq!(addresses(&client.ask(&web()).unwrap()), WEB);
    }
    let error = Client::greet(CLIENT, address, CERTIFICATE).err().expect("the one that it trusts is gone");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
}
