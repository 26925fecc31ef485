//! Clients that resolve each request anew, and what became of their requests.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, RecordType},
};

use crate::Way;

/// How many there are: as many as keep two processors busy beside the engine.
pub(crate) const CLIENTS: usize = 3;
/// How long an answer, a connection or a reply may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Kinds of failures that are told.
const MAX_REASONS: usize = 8;

/// Asks one agent for one name.
pub(crate) struct Resolver {
    socket: UdpSocket,
    question: Vec<u8>,
    id: u16,
}

impl Resolver {
    pub(crate) fn new(agent: SocketAddr, service: &str) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(agent)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut message = Message::query();
        let name = Name::from_ascii(format!("{service}.global.svc.internal."))?;
        message.add_query(Query::query(name, RecordType::A));
        Ok(Self { socket, question: message.to_vec()?, id: 0 })
    }

    /// The addresses, in the order in which they were given.
    pub(crate) fn resolve(&mut self) -> Result<Vec<IpAddr>> {
        self.id = self.id.wrapping_add(1);
        self.question[..2].copy_from_slice(&self.id.to_be_bytes());
        self.socket.send(&self.question)?;
        let mut reply = [0; 1500];
        loop {
            let length = self.socket.recv(&mut reply).context("no answer")?;
            if reply[..2] != self.id.to_be_bytes() {
                continue;
            }
            let message = Message::from_vec(&reply[..length])?;
            let address = |data: &RData| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                _ => None,
            };
            return Ok(message.answers.iter().filter_map(|record| address(&record.data)).collect());
        }
    }
}

/// Requests that were served, and those that were not, with the reasons.
#[derive(Default)]
struct Tally {
    served: u32,
    failed: u32,
    reasons: BTreeMap<String, u32>,
}

/// What became of all requests.
pub(crate) struct Tallies {
    drained: Tally,
    plain: Tally,
}

impl Tallies {
    /// Served and failed.
    pub(crate) fn of(&self, way: Way) -> [f64; 2] {
        let tally = if way == Way::Drained { &self.drained } else { &self.plain };
        [tally.served.into(), tally.failed.into()]
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        let tell = |(way, tally): (&str, &Tally)| {
            let lines = tally.reasons.iter().take(MAX_REASONS);
            lines.map(|(reason, count)| format!("  {way}: {count} x {reason}")).collect::<Vec<_>>()
        };
        [("drained", &self.drained), ("plain", &self.plain)].into_iter().flat_map(tell).collect()
    }
}

/// The clients at work.
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    is_plain: Arc<AtomicBool>,
    clients: Vec<JoinHandle<[Tally; 2]>>,
}

impl Load {
    pub(crate) fn start(agent: SocketAddr, service: &str) -> Result<Self> {
        let (ends, is_plain) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let mut resolver = Resolver::new(agent, service)?;
            let (ends, is_plain) = (Arc::clone(&ends), Arc::clone(&is_plain));
            Ok(thread::spawn(move || {
                let mut tallies: [Tally; 2] = Default::default();
                while !ends.load(Ordering::Relaxed) {
                    let tally = &mut tallies[usize::from(is_plain.load(Ordering::Relaxed))];
                    match request(&mut resolver) {
                        Ok(()) => tally.served += 1,
                        Err(error) => {
                            tally.failed += 1;
                            *tally.reasons.entry(format!("{error:#}")).or_default() += 1;
                        }
                    }
                }
                tallies
            }))
        };
        let clients = (0..CLIENTS).map(client).collect::<Result<_>>()?;
        Ok(Self { ends, is_plain, clients })
    }

    /// What begins from now on belongs to such a turn.
    pub(crate) fn begin(&self, way: Way) {
        self.is_plain.store(way == Way::Plain, Ordering::Relaxed);
    }

    pub(crate) fn end(self) -> Tallies {
        self.ends.store(true, Ordering::Relaxed);
        let mut tallies = Tallies { drained: Tally::default(), plain: Tally::default() };
        for client in self.clients {
            let [drained, plain] = client.join().expect("a client ends");
            for (all, one) in [(&mut tallies.drained, drained), (&mut tallies.plain, plain)] {
                all.served += one.served;
                all.failed += one.failed;
                for (reason, count) in one.reasons {
                    *all.reasons.entry(reason).or_default() += count;
                }
            }
        }
        tallies
    }
}

/// One request to the first address that is given: answers come in another order each time.
fn request(resolver: &mut Resolver) -> Result<()> {
    let Some(address) = resolver.resolve()?.first().copied() else { bail!("no address") };
    let mut stream = TcpStream::connect_timeout(&(address, 80).into(), PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").context("write")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).context("read")?;
    ensure!(reply.starts_with("HTTP/1") && reply.ends_with("served\n"), "half a reply: {} octets", reply.len());
    Ok(())
}
