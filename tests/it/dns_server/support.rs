//! A server, clients that choose the address they come from, and the little zone that is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use portolan::{
    dns::{
        access::AccessList,
        answer::Settings,
        forward::{Forwarder, Options, Upstreams},
        name::Apex,
        server::{BindState, Counter, Limits, Relay, Shared, serve},
        zone::Zone,
    },
    model::*,
};
use socket2::{Domain, Socket, Type};
use tokio::{sync::watch, task::JoinHandle};

/// Nothing here takes as long as this unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Who asks, unless a test says otherwise.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Somebody else.
pub(crate) const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

pub(crate) type States = BTreeMap<SocketAddr, BindState>;

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) wanted: watch::Sender<Arc<BTreeSet<SocketAddr>>>,
    pub(crate) bound: watch::Receiver<Arc<States>>,
    pub(crate) serving: JoinHandle<io::Result<()>>,
}

impl Server {
    /// One that answers on an address of its own and forwards to nobody.
    pub(crate) async fn start(limits: Limits) -> Self {
        Self::forwarding(limits, Upstreams::None).await
    }

    pub(crate) async fn forwarding(limits: Limits, upstreams: Upstreams) -> Self {
        let address = fresh_address();
        let mut server = Self::listening(limits, upstreams, [address]);
        server.until(|states| matches!(states.get(&address), Some(BindState::Bound { .. }))).await;
        server
    }

    pub(crate) fn listening(
        limits: Limits,
        upstreams: Upstreams,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let addresses: BTreeSet<SocketAddr> = addresses.into_iter().collect();
        let address = *addresses.first().expect("an address");
        let shared = Arc::new(Shared::new(Settings::default(), limits));
        shared.set_zone(Arc::new(Zone::of(&catalog())));
        shared.set_local(Arc::new(Local { listed: true, ..Local::default() }));
        shared.set_access(Arc::new(AccessList::only(["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])));
        let (wanted, watched) = watch::channel(Arc::new(addresses));
        let (states, bound) = watch::channel(Arc::default());
        let (_, local) = watch::channel(shared.local());
        let options = Options { chosen: upstreams.into(), ..Options::default() };
        let forwarder = Arc::new(Forwarder::new(options, &Apex::default(), watched.clone(), local));
        let serving = tokio::spawn(serve(Arc::clone(&shared), watched, Arc::clone(&forwarder), states, Relay::alone()));
        Self { address, shared, forwarder, wanted, bound, serving }
    }

    /// Waits until what became of the addresses is as it should be.
    pub(crate) async fn until(&mut self, holds: impl Fn(&States) -> bool) -> Arc<States> {
        let waiting = self.bound.wait_for(|states| holds(states));
        tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("a running server").clone()
    }

    pub(crate) fn want(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.wanted.send_replace(Arc::new(addresses.into_iter().collect()));
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.shared.counts().get(counter)
    }

    /// Asks over UDP and expects the address of `web`.
    pub(crate) fn assert_answers(&self, client: IpAddr) {
        assert_eq!(addresses(&ask(client, self.address, &web()).expect("a reply")), WEB);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An address on loopback that no other test of this machine uses at the moment.
pub(crate) fn fresh_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | high & 0x3f, low, NEXT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((ip, 5399))
}

/// Waits for a condition that nothing tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What `web` has.
pub(crate) const WEB: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(172, 30, 0, 2))];

/// As many instances has `many`: their SRV records fit into no datagram.
pub(crate) const MANY: usize = 60;

/// `web` with one instance and `many` with [`MANY`], on a bridge of this host.
fn catalog() -> Catalog {
    let one = ("web", Ipv4Addr::new(172, 30, 0, 2));
    let many = (0..MANY).map(|i| ("many", Ipv4Addr::new(172, 30, 1, u8::try_from(i).unwrap())));
    let publications = [one].into_iter().chain(many).enumerate().map(|(i, (service, ip))| {
        let publication = publication(&format!("{i:012x}"), service, ip);
        (publication.container, Arc::new(publication))
    });
    let host = Host { session: Session::default(), publications: publications.collect() };
    Catalog {
        hosts: [(Origin::Own, Arc::new(host))].into_iter().collect(),
        docker_listed: true,
        registry_listed: true,
        ..Catalog::default()
    }
}

fn publication(id: &str, service: &str, ip: Ipv4Addr) -> Publication {
    let port = Port { name: None, port: 80, proto: Proto::Tcp, published: [].into(), extra: None };
    Publication {
        container: ShortId::parse(id).unwrap(),
        name: id.into(),
        common: Arc::new(Common {
            image: "image".into(),
            services: [Offer {
                service: Label::parse(service).unwrap(),
                namespace: Label::default_namespace(),
                tags: [].into(),
                weight: 1,
                port: None,
                ports: [port].into(),
                when_none_ready: None,
            }]
            .into(),
            directory: None,
            namespace: Label::default_namespace(),
            aliases: [].into(),
        }),
        phase: Phase::Serving,
        health: Health::None,
        elsewhere: None,
        networks: [Attachment {
            segment: Arc::new(Segment {
                id: NetworkId("n".into()),
                name: "n".into(),
                driver: Driver::Bridge,
                scope: Scope::Local,
                internal: false,
            }),
            ips: [ip.into()].into(),
        }]
        .into(),
    }
}

/// The plainest question.
pub(crate) fn web() -> Vec<u8> {
    query(7, "web.default.svc.internal.", RecordType::A)
}

/// The question whose answer is too long for UDP.
pub(crate) fn many() -> Vec<u8> {
    query(8, "many.default.svc.internal.", RecordType::SRV)
}

pub(crate) fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

pub(crate) fn with_edns(query: &[u8], size: u16) -> Vec<u8> {
    let mut message = decode(query);
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.edns = Some(edns);
    message.to_vec().unwrap()
}

pub(crate) fn decode(packet: &[u8]) -> Message {
    Message::from_vec(packet).unwrap_or_else(|error| panic!("{error}: {packet:02x?}"))
}

pub(crate) fn addresses(reply: &[u8]) -> Vec<IpAddr> {
    decode(reply).answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

pub(crate) fn rcode(reply: &[u8]) -> ResponseCode {
    decode(reply).metadata.response_code
}

/// A client's socket that takes packets of `server` only, and waits no longer than the deadline for them.
pub(crate) fn udp_client(client: IpAddr, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((client, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Asks over UDP.
pub(crate) fn ask(client: IpAddr, server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let socket = udp_client(client, server);
    socket.send(packet)?;
    receive(&socket)
}

pub(crate) fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// What `dig` says of the server.
pub(crate) fn dig(server: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+tries=1", "+time=10"])
        .args(arguments)
        .output()
        .expect("dig is installed (make setup)");
    String::from_utf8(output.stdout).unwrap()
}

/// A client's end of a connection.
pub(crate) struct Connection<S = TcpStream>(pub(crate) S);

impl Connection {
    pub(crate) fn open(client: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(client, 0).into())?;
        socket.connect(&server.into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self(stream))
    }

    /// Whether the server closed it, now or before the deadline.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.write_all(&framed(packet))?;
        self.0.flush()
    }

    pub(crate) fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        self.0.read_exact(&mut reply)?;
        Ok(reply)
    }

    pub(crate) fn ask(&mut self, packet: &[u8]) -> io::Result<Vec<u8>> {
        self.send(packet)?;
        self.receive()
    }
}

/// A message behind its length.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], packet].concat()
}
