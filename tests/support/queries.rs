//! Clients that ask one name all the time, over UDP and TCP, and take note of every query that is not answered. Nothing is
//! asked twice: what a resolver would make good by asking again counts as lost.

#![allow(dead_code, unreachable_pub, reason = "each user includes this file and uses a part of it")]

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a query may wait for its answer: as long as glibc waits.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Sockets that ask over UDP: several, for the kernel chooses the server's socket by the client's port.
const FLOWS: usize = 8;
/// Pause between two looks at the sockets.
const PAUSE: Duration = Duration::from_micros(100);
/// Failures that are told.
const MAX_TOLD: usize = 5;

/// Who asks how often.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Queries a second over UDP. They are sent when it is time, whether others are answered or not.
    pub udp: u32,
    /// Connections a second, each with one query.
    pub connections: u32,
    /// Pause after each answer on a connection that is held. Above 50 ms it is idle in between (RFC 7766), and may be closed.
    pub held: Duration,
}

/// What became of the queries of one kind.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub asked: u64,
    /// Not answered, or not as they should be.
    pub lost: u64,
    /// How, of the first few.
    pub told: Vec<String>,
    /// The longest wait for an answer.
    pub longest: Duration,
    /// Connections that were closed between two queries.
    pub closed: u64,
}

impl Tally {
    fn lose(&mut self, how: impl Into<String>) {
        self.lost += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(how.into());
        }
    }

    fn answer(&mut self, asked: Instant, reply: &[u8], address: Ipv4Addr) {
        self.longest = self.longest.max(asked.elapsed());
        // One A record at the end of a reply without EDNS (RFC 1035 section 4.1).
        let is_right = reply.len() > 16 && reply[3] & 15 == 0 && reply[7] == 1 && reply.ends_with(&address.octets());
        if !is_right {
            self.lose(format!("{reply:?}"));
        }
    }
}

/// What became of all of them.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    pub udp: Tally,
    /// Each over a connection of its own.
    pub connections: Tally,
    /// All over one connection.
    pub held: Tally,
}

impl Tallies {
    pub fn asked(&self) -> u64 {
        self.udp.asked + self.connections.asked + self.held.asked
    }

    pub fn lost(&self) -> u64 {
        self.udp.lost + self.connections.lost + self.held.lost
    }
}

/// The clients at work.
pub struct Load {
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    udp: JoinHandle<Tally>,
    connections: JoinHandle<Tally>,
    held: JoinHandle<Tally>,
}

impl Load {
    /// Asks a server for the one address of a name.
    pub fn start(server: SocketAddr, name: &str, address: Ipv4Addr, rates: Rates) -> Self {
        let (ends, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let question = question(name);
        let spawn = |work: fn(&Client) -> Tally| {
            let (ends, asked) = (Arc::clone(&ends), Arc::clone(&asked));
            let client = Client { server, question: question.clone(), address, rates, ends, asked };
            thread::spawn(move || work(&client))
        };
        let (udp, connections, held) = (spawn(Client::over_udp), spawn(Client::by_connections), spawn(Client::held));
        Self { ends, asked, udp, connections, held }
    }

    /// How many queries were sent until now.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends when every query is answered or lost.
    pub fn end(self) -> Tallies {
        self.ends.store(true, Ordering::Relaxed);
        let of = |client: JoinHandle<Tally>| client.join().expect("a client ends");
        Tallies { udp: of(self.udp), connections: of(self.connections), held: of(self.held) }
    }
}

struct Client {
    server: SocketAddr,
    question: Vec<u8>,
    address: Ipv4Addr,
    rates: Rates,
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::Relaxed)
    }

    fn query(&self, tally: &mut Tally) -> Vec<u8> {
        let mut query = self.question.clone();
        query[..2].copy_from_slice(&id(tally.asked).to_be_bytes());
        tally.asked += 1;
        self.asked.fetch_add(1, Ordering::Relaxed);
        query
    }

    fn over_udp(&self) -> Tally {
        let flow = |_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
            socket.connect(self.server).expect("an address of this host");
            socket.set_nonblocking(true).expect("a socket");
            (socket, HashMap::<u16, Instant>::new())
        };
        let mut flows: Vec<_> = (0..FLOWS).map(flow).collect();
        let (mut tally, began) = (Tally::default(), Instant::now());
        let mut last_sent = began;
        let mut reply = [0; 1500];
        loop {
            let due = (began.elapsed().as_secs_f64() * f64::from(self.rates.udp)).floor();
            while self.goes_on() && (tally.asked as f64) < due {
                let number = tally.asked;
                let query = self.query(&mut tally);
                let (socket, open) = &mut flows[usize::from(id(number)) % FLOWS];
                // A socket that is closed at the other end says so when the next query is sent.
                match socket.send(&query).or_else(|_| socket.send(&query)) {
                    Ok(_) => drop(open.insert(id(number), Instant::now())),
                    Err(error) => tally.lose(format!("query {number} cannot be sent: {error}")),
                }
                last_sent = Instant::now();
            }
            let mut waiting = 0;
            for (socket, open) in &mut flows {
                loop {
                    match socket.recv(&mut reply) {
                        Ok(length) => {
                            let known = reply.first_chunk().and_then(|id| open.remove(&u16::from_be_bytes(*id)));
                            if let Some(asked) = known {
                                tally.answer(asked, &reply[..length], self.address);
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        // Nobody has the port: some query was lost, and is counted when its time is over.
                        Err(_) => {}
                    }
                }
                open.retain(|id, asked| {
                    let waits = asked.elapsed() < PATIENCE;
                    if !waits {
                        tally.lose(format!("query {id} after {:?} of load", asked.duration_since(began)));
                    }
                    waits
                });
                waiting += open.len();
            }
            if !self.goes_on() && (waiting == 0 || last_sent.elapsed() > PATIENCE * 2) {
                return tally;
            }
            thread::sleep(PAUSE);
        }
    }

    fn by_connections(&self) -> Tally {
        let mut tally = Tally::default();
        let pause = Duration::from_secs(1) / self.rates.connections.max(1);
        while self.goes_on() {
            let asked = Instant::now();
            let query = self.query(&mut tally);
            match self.connect().and_then(|mut stream| exchange(&mut stream, &query)) {
                Ok(reply) => tally.answer(asked, &reply, self.address),
                Err(error) => tally.lose(format!("a connection of its own: {error}")),
            }
            thread::sleep(pause.saturating_sub(asked.elapsed()));
        }
        tally
    }

    fn held(&self) -> Tally {
        let mut tally = Tally::default();
        let mut stream = None;
        while self.goes_on() {
            // Who finds the connection closed has not asked yet.
            if stream.as_ref().is_some_and(is_closed) {
                (stream, tally.closed) = (None, tally.closed + 1);
            }
            let asked = Instant::now();
            let query = self.query(&mut tally);
            let used = stream.take().map_or_else(|| self.connect(), Ok);
            let answered = used.and_then(|mut used| {
                let reply = exchange(&mut used, &query)?;
                stream = Some(used);
                Ok(reply)
            });
            match answered {
                Ok(reply) => tally.answer(asked, &reply, self.address),
                Err(error) => tally.lose(format!("a held connection: {error}")),
            }
            thread::sleep(self.rates.held);
        }
        tally
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Ids repeat after 65,536 queries: at 5,000 a second after 13 s, when the last one's time has long been over.
fn id(number: u64) -> u16 {
    u16::try_from(number % 65_536).expect("it is below")
}

fn exchange(stream: &mut TcpStream, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).expect("a short query");
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    if reply.get(..2) != query.get(..2) {
        return Err(std::io::Error::other("the reply is to another query"));
    }
    Ok(reply)
}

/// Whether the other side has closed a connection on which nothing is owed.
fn is_closed(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let looked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        looked
    };
    !look().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A question for the A records of a name (RFC 1035 section 4.1).
fn question(name: &str) -> Vec<u8> {
    let mut question = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).expect("a label"));
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}
