//! Names of others: asked of an upstream on behalf of our asker. \[IO\]
//!
//! In comes a query as the client sent it, out goes what to send back. The message passes through unchanged but for
//! its id, so flags and options (DO, AD, CD) mean what the client and the upstream say they mean; what little must be
//! understood of it is read in `forward/message.rs`, what resolv.conf says in `forward/resolv.rs`, both pure.
//!
//! A forged reply must guess (RFC 5452): every attempt has a random id and a socket of its own with a random port,
//! connected, so that the kernel takes packets of the upstream alone. A reply that is not to this very question is
//! skipped and counted, and waiting goes on until the deadline. An upstream that is silent, unreachable, or says
//! SERVFAIL or REFUSED gives way to the next; the silent ones are tried again while time remains. A truncated reply is
//! fetched over TCP.
//!
//! Upstreams come from `--upstream` or from resolv.conf, which is read again every few seconds. We are never among
//! them: addresses we listen on are left out, however they came in. Where nothing is left the answer is REFUSED, so
//! that Docker tries its next server, and [`Forwarder::problems`] says why. A file that cannot be read leaves the list
//! as it was.
//!
//! Deliberately absent: retries at the caller (each answer is final), and any wish to judge what an upstream says. Our
//! own zone and single labels never leave; `answer.rs` sees to that, and a check here makes sure.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    name::Apex,
    wire::{ResponseCode, Transport, failure},
};
use crate::model::{Local, Problem};

mod message;
mod resolv;

use message::Question;
use resolv::Own;

/// Where upstreams come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// `--upstream none`: names of others are REFUSED.
    None,
    /// `--upstream ADDR`, in the order given.
    Fixed(Vec<SocketAddr>),
    /// `--resolv-conf PATH`.
    ResolvConf(PathBuf),
}

/// How to forward.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where upstreams come from.
    pub upstreams: Upstreams,
    /// Where systemd-resolved writes the real servers when resolv.conf names its stub alone.
    pub resolved: PathBuf,
    /// Wait this long for one upstream, TCP after truncation included. glibc waits 5 s for the whole of us.
    pub attempt: Duration,
    /// Wait this long in all; then SERVFAIL. Two silent upstreams and half of a third fit.
    pub total: Duration,
    /// Read the file again this often.
    pub reread: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            upstreams: Upstreams::ResolvConf("/etc/resolv.conf".into()),
            resolved: "/run/systemd/resolve/resolv.conf".into(),
            attempt: Duration::from_secs(2),
            total: Duration::from_secs(5),
            reread: Duration::from_secs(5),
        }
    }
}

/// What the forwarder has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardCounts {
    /// Questions handed to it.
    pub asked: u64,
    /// Answered by an upstream.
    pub answered: u64,
    /// SERVFAIL because every upstream failed.
    pub failed: u64,
    /// REFUSED because there is no upstream.
    pub refused: u64,
    /// Questions that must not leave, stopped here although nobody should have brought them.
    pub withheld: u64,
    /// Times that some upstream was asked.
    pub attempts: u64,
    /// Attempts that ended without a reply.
    pub timeouts: u64,
    /// Replies that were not to our question: late, confused or forged.
    pub mismatched: u64,
    /// Truncated replies fetched over TCP.
    pub over_tcp: u64,
}

#[derive(Default)]
struct Counters {
    asked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    withheld: AtomicU64,
    attempts: AtomicU64,
    timeouts: AtomicU64,
    mismatched: AtomicU64,
    over_tcp: AtomicU64,
}

/// Asks upstreams. One per agent; every method takes `&self`.
pub struct Forwarder {
    options: Options,
    /// Those of the options at first.
    upstreams: ArcSwap<Upstreams>,
    /// The labels of our zone's apex, first to last.
    apex: Vec<Box<[u8]>>,
    wanted: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
    local: watch::Receiver<Arc<Local>>,
    current: ArcSwap<Current>,
    counters: Counters,
}

/// Whom to ask, and what is wrong with that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Current {
    upstreams: Arc<[SocketAddr]>,
    problems: Arc<[Problem]>,
}

/// Why an upstream did not answer.
enum Failure {
    /// Nothing came in time: worth another try.
    Silent,
    /// The network, or the upstream itself, said no.
    Refused,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Refused
    }
}

impl Forwarder {
    /// Reads the list of upstreams at once. `wanted` holds the addresses we listen on, `local` those of this host.
    pub fn new(
        options: Options,
        apex: &Apex,
        wanted: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
        local: watch::Receiver<Arc<Local>>,
    ) -> Self {
        let apex = apex.name().iter().map(Box::from).collect();
        let (current, counters) = (ArcSwap::default(), Counters::default());
        let upstreams = ArcSwap::from_pointee(options.upstreams.clone());
        let forwarder = Self { options, upstreams, apex, wanted, local, current, counters };
        forwarder.look();
        forwarder
    }

    /// Keeps the list of upstreams right: follows the file, our listeners and our addresses. Never returns.
    pub async fn follow(&self) {
        let (mut wanted, mut local) = (self.wanted.clone(), self.local.clone());
        let mut ticks = interval(self.options.reread);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = wanted.changed() => {}
                Ok(()) = local.changed() => {}
            }
            self.look();
        }
    }

    /// Gets the answer to one well-formed query, for a client that is waiting over `transport`. The packet to send
    /// back, or `None` when the query was no query.
    pub async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let count = &self.counters;
        count.asked.fetch_add(1, Relaxed);
        let Some(question) = Question::of(query) else { return failure(query, ResponseCode::FormErr) };
        if self.must_stay(&question) {
            count.withheld.fetch_add(1, Relaxed);
            return failure(query, ResponseCode::Refused);
        }
        let upstreams = self.upstreams();
        if upstreams.is_empty() {
            count.refused.fetch_add(1, Relaxed);
            return failure(query, ResponseCode::Refused);
        }
        match timeout(self.options.total, self.ask_each(query, &upstreams)).await {
            Ok(Some(reply)) => {
                count.answered.fetch_add(1, Relaxed);
                Some(message::hand_back(query, transport, reply))
            }
            Ok(None) | Err(_) => {
                count.failed.fetch_add(1, Relaxed);
                failure(query, ResponseCode::ServFail)
            }
        }
    }

    /// The operator has chosen otherwise: others are asked from now on.
    pub fn set_upstreams(&self, upstreams: Upstreams) {
        if **self.upstreams.load() != upstreams {
            self.upstreams.store(Arc::new(upstreams));
            self.look();
        }
    }

    /// Whom we ask, in order.
    pub fn upstreams(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.current.load().upstreams)
    }

    /// What is wrong with the list of upstreams.
    pub fn problems(&self) -> Arc<[Problem]> {
        Arc::clone(&self.current.load().problems)
    }

    /// What was done so far.
    pub fn counts(&self) -> ForwardCounts {
        let count = &self.counters;
        ForwardCounts {
            asked: count.asked.load(Relaxed),
            answered: count.answered.load(Relaxed),
            failed: count.failed.load(Relaxed),
            refused: count.refused.load(Relaxed),
            withheld: count.withheld.load(Relaxed),
            attempts: count.attempts.load(Relaxed),
            timeouts: count.timeouts.load(Relaxed),
            mismatched: count.mismatched.load(Relaxed),
            over_tcp: count.over_tcp.load(Relaxed),
        }
    }

    /// Reads where upstreams come from and takes over what it says now.
    fn look(&self) {
        let own = Own {
            listens: self.wanted.borrow().as_ref().clone(),
            addresses: self.local.borrow().addresses.as_ref().clone(),
        };
        let previous = self.current.load_full();
        let options = Options { upstreams: Upstreams::clone(&self.upstreams.load()), ..self.options.clone() };
        let current = read(&options, &own, &previous);
        if current != *previous {
            for problem in current.problems.iter().filter(|problem| !previous.problems.contains(problem)) {
                tracing::warn!(place = problem.place, found = problem.found, "{}", problem.expected);
            }
            tracing::info!(upstreams = ?current.upstreams, "other names are asked of these");
            self.current.store(Arc::new(current));
        }
    }

    /// Whether this question is ours alone: a single label, or in our zone. The root itself may be asked for.
    fn must_stay(&self, question: &Question) -> bool {
        let labels: Vec<&[u8]> = question.labels().collect();
        let in_zone = labels.len() >= self.apex.len()
            && labels.iter().rev().zip(self.apex.iter().rev()).all(|(a, b)| a.eq_ignore_ascii_case(b));
        labels.len() == 1 || in_zone
    }

    /// Goes through the upstreams in order, then again through those that were silent; the caller's deadline ends it.
    async fn ask_each(&self, query: &[u8], upstreams: &[SocketAddr]) -> Option<Vec<u8>> {
        let mut round = upstreams.to_vec();
        while !round.is_empty() {
            let mut silent = Vec::new();
            for upstream in round {
                self.counters.attempts.fetch_add(1, Relaxed);
                let asked = timeout(self.options.attempt, self.ask(query, upstream)).await;
                match asked.unwrap_or(Err(Failure::Silent)) {
                    Ok(reply) => return Some(reply),
                    Err(Failure::Silent) => {
                        self.counters.timeouts.fetch_add(1, Relaxed);
                        silent.push(upstream);
                    }
                    Err(Failure::Refused) => {}
                }
            }
            round = silent;
        }
        None
    }

    /// Asks one upstream, over TCP too if it has more to say than fits.
    async fn ask(&self, query: &[u8], upstream: SocketAddr) -> Result<Vec<u8>, Failure> {
        // The thread's generator is seeded by the system and cryptographic: ids must not be foretold.
        let mut query = query.to_vec();
        query[..2].copy_from_slice(&rand::random::<[u8; 2]>());
        let mut reply = self.ask_over_udp(&query, upstream).await?;
        if message::is_truncated(&reply) {
            self.counters.over_tcp.fetch_add(1, Relaxed);
            reply = self.ask_over_tcp(&query, upstream).await?;
        }
        match message::rcode(&reply) {
            SERVFAIL | REFUSED => Err(Failure::Refused),
            _ => Ok(reply),
        }
    }

    async fn ask_over_udp(&self, query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
        // Port 0: the kernel picks a random free one.
        let socket = UdpSocket::bind((unspecified(upstream), 0)).await?;
        socket.connect(upstream).await?;
        socket.send(query).await?;
        let mut buffer = vec![0; UDP_BUFFER];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if message::answers(query, &buffer[..length]) {
                if length == UDP_BUFFER {
                    // The kernel cut off what did not fit: as good as truncated.
                    buffer[2] |= 0b10;
                }
                buffer.truncate(length);
                return Ok(buffer);
            }
            self.counters.mismatched.fetch_add(1, Relaxed);
        }
    }

    async fn ask_over_tcp(&self, query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(upstream).await?;
        stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
        let mut reply = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut reply).await?;
        if message::answers(query, &reply) {
            return Ok(reply);
        }
        self.counters.mismatched.fetch_add(1, Relaxed);
        Err(io::Error::other("the reply is not to our question"))
    }
}

/// Room for one reply; we pass the client's own EDNS size on, and 4096 is the largest that is common.
const UDP_BUFFER: usize = 4096 + 1;

/// Response codes after which the next upstream may know better (RFC 1035 section 4.1.1).
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// A resolv.conf is a few lines; more than this is none.
const MAX_FILE: u64 = 64 * 1024;

/// What the options mean right now. `previous` stays where a file cannot be read.
fn read(options: &Options, own: &Own, previous: &Current) -> Current {
    let (servers, place) = match &options.upstreams {
        Upstreams::None => return Current::default(),
        Upstreams::Fixed(servers) => (servers.clone(), "--upstream".to_owned()),
        Upstreams::ResolvConf(path) => match name_servers(path, &options.resolved) {
            Ok((_, servers)) => (servers, path.display().to_string()),
            Err(error) => {
                let expected = "a readable file; the upstreams known before stay in use";
                let problem = Problem::new(path.display().to_string(), &error.to_string(), expected);
                return Current { upstreams: Arc::clone(&previous.upstreams), problems: [problem].into() };
            }
        },
    };
    let upstreams = resolv::usable(servers.iter().copied(), own);
    let mut problems = Vec::new();
    if upstreams.is_empty() {
        let found = match servers.len() {
            0 => "no nameserver".to_owned(),
            _ => format!("only ourselves: {servers:?}"),
        };
        let expected = "a DNS server that is not this agent (or --upstream none); names outside of our zone are REFUSED until then";
        problems.push(Problem::new(place, &found, expected));
    }
    Current { upstreams: upstreams.into(), problems: problems.into() }
}

/// The servers of a resolv.conf, or of systemd-resolved's own one where only its stub is named, as Docker does, too; and
/// which of the two files names them.
pub fn name_servers<'a>(path: &'a Path, resolved: &'a Path) -> io::Result<(&'a Path, Vec<SocketAddr>)> {
    let (mut file, mut servers) = (path, resolv::nameservers(&read_text(path)?));
    if resolv::is_only_resolved(&servers) {
        // Without its file the stub itself is what there is.
        if let Ok(text) = read_text(resolved) {
            (file, servers) = (resolved, resolv::nameservers(&text));
        }
    }
    Ok((file, resolv::at_dns_port(servers).collect()))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unspecified(peer: SocketAddr) -> IpAddr {
    match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
