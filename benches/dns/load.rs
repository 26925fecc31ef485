//! The load: questions over UDP by `sendmmsg` and `recvmmsg`, every answer checked.
//!
//! The client has a core of its own and never sleeps: no server pays for waking it up, and what it measures is not its
//! own wake-up. In a closed loop a few batches are always under way, so that the server never waits for a question; in an
//! open loop questions leave when they are due, and latency counts from then, whatever the client was held up by.

use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg},
};
use rand::{Rng, RngExt};

/// Questions of one batch, and answers taken at once.
pub(crate) const BATCH: usize = 32;
/// Batches under way in a closed loop: 128 questions fit into the smallest receive buffer there is (256 small ones).
const DEPTH: usize = 4;
/// An answer that has not come after this is lost.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// Room for one answer over UDP.
const ROOM: usize = 2048;
/// Octets of the client's receive buffer: more than ever is under way.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What an answer must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expect {
    /// The question itself, from a server that only echoes.
    Echo,
    /// NOERROR with so many answers, and at least so many additional records.
    Records {
        /// ANCOUNT
        answers: u16,
        /// The least ARCOUNT.
        additionals: u16,
    },
    /// Anything with the right id: SERVFAIL counts, too.
    Any,
}

/// Questions to draw from, and what their answers must be.
pub(crate) struct Questions {
    /// Whole packets; the id is put in when they are sent.
    pub(crate) packets: Vec<Box<[u8]>>,
    /// What must come back.
    pub(crate) expect: Expect,
    /// The first eight octets of the first label are replaced by a counter, so that no name is asked for twice.
    pub(crate) unique: bool,
}

impl Questions {
    /// One packet for each name.
    pub(crate) fn of(names: impl Iterator<Item = String>, kind: u16, expect: Expect) -> Self {
        Self { packets: names.map(|name| packet(&name, kind)).collect(), expect, unique: false }
    }

    fn write(&self, buffer: &mut Vec<u8>, id: u16, counter: &mut u32, rng: &mut impl Rng) {
        buffer.clear();
        buffer.extend_from_slice(&self.packets[rng.random_range(0..self.packets.len())]);
        buffer[..2].copy_from_slice(&id.to_be_bytes());
        if self.unique {
            *counter = counter.wrapping_add(1);
            for (place, octet) in buffer[13..21].iter_mut().enumerate() {
                let digit = (*counter >> (28 - 4 * place)) & 0xf;
                *octet = char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8);
            }
        }
    }

    fn accepts(&self, question: &[u8], reply: &[u8]) -> bool {
        let count = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
        match self.expect {
            Expect::Any => true,
            Expect::Echo => reply == question,
            Expect::Records { answers, additionals } => {
                reply.len() > question.len()
                    && reply[2] & 0x80 != 0
                    && reply[3] & 0x0f == 0
                    && count(6) == answers
                    && count(10) >= additionals
                    && reply[12..question.len()] == question[12..]
            }
        }
    }
}

/// A plain question of class IN without EDNS, as the resolvers of C libraries send it.
pub(crate) fn packet(name: &str, kind: u16) -> Box<[u8]> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet.into()
}

/// What one measurement found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Questions with a right answer.
    pub(crate) answered: u64,
    /// Questions without any.
    pub(crate) lost: u64,
    /// Answers that were not what they must be.
    pub(crate) wrong: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Of each answer in an open loop, in microseconds.
    pub(crate) latencies: Vec<f64>,
}

impl Tally {
    /// Right answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }
}

/// One socket, connected to the server, and one batch of questions that is or will be under way.
struct Lane {
    socket: UdpSocket,
    send: MultiHeaders<()>,
    receive: MultiHeaders<()>,
    questions: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
    /// The id of the first question of the batch.
    base: u16,
    /// One bit for each question that has no answer yet.
    open: u32,
    since: Instant,
}

impl Lane {
    fn new(source: Ipv4Addr, server: SocketAddr) -> Result<Self> {
        Ok(Self {
            socket: socket(source, server)?,
            send: MultiHeaders::preallocate(BATCH, None),
            receive: MultiHeaders::preallocate(BATCH, None),
            questions: vec![Vec::new(); BATCH],
            replies: vec![vec![0; ROOM]; BATCH],
            base: 0,
            open: 0,
            since: Instant::now(),
        })
    }

    fn ask(&mut self, questions: &Questions, counter: &mut u32, rng: &mut impl Rng) -> Result<()> {
        // Ids of the batch before are not used again, so that a late answer is known as one.
        self.base = self.base.wrapping_add(u16::try_from(BATCH)?);
        for (place, buffer) in (0..).zip(&mut self.questions) {
            questions.write(buffer, self.base.wrapping_add(place), counter, rng);
        }
        let slices: Vec<[IoSlice<'_>; 1]> = self.questions.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let sent = sendmmsg(self.socket.as_raw_fd(), &mut self.send, &slices, [None; BATCH], [], MsgFlags::empty())
            .context("sendmmsg")?
            .count();
        ensure!(sent == BATCH, "only {sent} of {BATCH} questions could be sent");
        self.open = u32::MAX;
        self.since = Instant::now();
        Ok(())
    }

    /// Takes what is there. Returns how many answers were right, and how many were not.
    fn take(&mut self, questions: &Questions) -> Result<(u64, u64)> {
        let mut lengths = [0; BATCH];
        let received = receive(&self.socket, &mut self.receive, &mut self.replies, &mut lengths)?;
        let (mut right, mut wrong) = (0, 0);
        for (reply, length) in self.replies.iter().zip(lengths).take(received) {
            let reply = &reply[..length];
            if length < 12 {
                wrong += 1;
                continue;
            }
            let place = usize::from(u16::from_be_bytes([reply[0], reply[1]]).wrapping_sub(self.base));
            // An answer to a question that was given up: counted as lost already.
            if place >= BATCH || self.open & (1 << place) == 0 {
                continue;
            }
            self.open &= !(1 << place);
            if questions.accepts(&self.questions[place], reply) { right += 1 } else { wrong += 1 }
        }
        Ok((right, wrong))
    }
}

/// Asks from these addresses as fast as the server answers, for so long.
pub(crate) fn closed_loop(
    server: SocketAddr,
    sources: &[Ipv4Addr],
    questions: &Questions,
    duration: Duration,
    rng: &mut impl Rng,
) -> Result<Tally> {
    let lanes = sources.iter().cycle().take(sources.len().max(DEPTH));
    let mut lanes = lanes.map(|source| Lane::new(*source, server)).collect::<Result<Vec<_>>>()?;
    let (mut idle, mut busy): (VecDeque<usize>, VecDeque<usize>) = ((0..lanes.len()).collect(), VecDeque::new());
    let (mut tally, mut counter) = (Tally::default(), 0);
    let began = Instant::now();
    loop {
        while busy.len() < DEPTH && began.elapsed() < duration {
            let Some(next) = idle.pop_front() else { break };
            lanes[next].ask(questions, &mut counter, rng)?;
            busy.push_back(next);
        }
        let Some(oldest) = busy.pop_front() else { break };
        let lane = &mut lanes[oldest];
        while lane.open != 0 {
            let (right, wrong) = lane.take(questions)?;
            tally.answered += right;
            tally.wrong += wrong;
            if right + wrong == 0 {
                if lane.since.elapsed() > LOST_AFTER {
                    tally.lost += u64::from(lane.open.count_ones());
                    lane.open = 0;
                }
                std::hint::spin_loop();
            }
        }
        idle.push_back(oldest);
    }
    tally.seconds = began.elapsed().as_secs_f64();
    Ok(tally)
}

/// Questions that leave at a steady rate.
pub(crate) struct Stream<'q> {
    /// Per second.
    pub(crate) rate: u32,
    /// What to ask.
    pub(crate) questions: &'q Questions,
    /// From where.
    pub(crate) source: Ipv4Addr,
}

/// A stream under way.
struct Flow<'q> {
    stream: Stream<'q>,
    socket: UdpSocket,
    receive: MultiHeaders<()>,
    replies: Vec<Vec<u8>>,
    /// By id: the question, and when it was due.
    open: Vec<Option<(Vec<u8>, Duration)>>,
    sent: u32,
    counter: u32,
    tally: Tally,
}

/// Sends every stream at its rate for so long; a tally for each.
pub(crate) fn open_loop(
    server: SocketAddr,
    streams: Vec<Stream<'_>>,
    duration: Duration,
    rng: &mut impl Rng,
) -> Result<Vec<Tally>> {
    let mut flows = Vec::new();
    for stream in streams {
        flows.push(Flow {
            socket: socket(stream.source, server)?,
            stream,
            receive: MultiHeaders::preallocate(BATCH, None),
            replies: vec![vec![0; ROOM]; BATCH],
            open: vec![None; 1 << 16],
            sent: 0,
            counter: rng.random(),
            tally: Tally::default(),
        });
    }
    let began = Instant::now();
    while began.elapsed() < duration + LOST_AFTER {
        let sending = began.elapsed() < duration;
        if !sending && flows.iter().all(|flow| flow.stream.questions.expect == Expect::Any || flow.is_answered()) {
            break;
        }
        for flow in &mut flows {
            if sending {
                flow.send_what_is_due(began, rng)?;
            }
            flow.take(began)?;
        }
    }
    Ok(flows.into_iter().map(|flow| flow.end(duration)).collect())
}

impl Flow<'_> {
    fn send_what_is_due(&mut self, began: Instant, rng: &mut impl Rng) -> Result<()> {
        let mut packet = Vec::new();
        loop {
            let due = Duration::from_secs_f64(f64::from(self.sent) / f64::from(self.stream.rate));
            if began.elapsed() < due {
                return Ok(());
            }
            let id = u16::try_from(self.sent & 0xffff)?;
            self.stream.questions.write(&mut packet, id, &mut self.counter, rng);
            self.socket.send(&packet).context("send")?;
            self.sent += 1;
            if self.open[usize::from(id)].replace((packet.clone(), due)).is_some() {
                self.tally.lost += 1;
            }
        }
    }

    fn take(&mut self, began: Instant) -> Result<()> {
        let mut lengths = [0; BATCH];
        let received = receive(&self.socket, &mut self.receive, &mut self.replies, &mut lengths)?;
        let now = began.elapsed();
        for (reply, length) in self.replies.iter().zip(lengths).take(received) {
            let reply = &reply[..length];
            if length < 12 {
                self.tally.wrong += 1;
                continue;
            }
            let Some((question, due)) = self.open[usize::from(u16::from_be_bytes([reply[0], reply[1]]))].take() else {
                self.tally.wrong += 1;
                continue;
            };
            if self.stream.questions.accepts(&question, reply) {
                self.tally.answered += 1;
                self.tally.latencies.push((now - due).as_secs_f64() * 1e6);
            } else {
                self.tally.wrong += 1;
            }
        }
        Ok(())
    }

    fn is_answered(&self) -> bool {
        self.open.iter().all(Option::is_none)
    }

    fn end(mut self, duration: Duration) -> Tally {
        self.tally.lost += self.open.iter().flatten().count() as u64;
        self.tally.seconds = duration.as_secs_f64();
        self.tally
    }
}

fn socket(source: Ipv4Addr, server: SocketAddr) -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&SocketAddr::from((source, 0)).into()).with_context(|| format!("cannot ask from {source}"))?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

/// Takes up to a batch of datagrams, without waiting; returns how many.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<()>,
    replies: &mut [Vec<u8>],
    lengths: &mut [usize; BATCH],
) -> Result<usize> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = replies.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
        Ok(messages) => Ok(messages.zip(lengths).map(|(message, length)| *length = message.bytes).count()),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(error) => Err(error).context("recvmmsg"),
    }
}
