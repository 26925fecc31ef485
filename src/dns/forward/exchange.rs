//! One question to one upstream. \[IO\]
//!
//! A forged reply must guess (RFC 5452): every attempt has a random id and a socket of its own with a random port,
//! connected, so that the kernel takes packets of the upstream alone. A reply that is not to this very question is skipped
//! and counted, and waiting goes on; after [`MAX_WRONG`] of them somebody is guessing, and the question goes on over TCP,
//! where there is nothing to guess (RFC 5452 section 9.3). A truncated reply is fetched over TCP, too.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::Instant,
};

use super::{
    counts::{Counters, count},
    key::{Edns, Key},
    message,
    reply::Reply,
};

/// Room for one reply. We offer 1,232 octets; whoever sends more than 4,096 is as good as truncated.
const UDP_BUFFER: usize = 4096 + 1;

/// Wrong replies that one attempt takes. Guessing an id with so many is one chance in a thousand for somebody who knows
/// the port, of which there are 28,000.
const MAX_WRONG: usize = 64;

/// Response codes after which the next upstream may know better (RFC 1035 section 4.1.1).
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// Those of servers that do not know EDNS (RFC 6891 section 7).
const FORMERR: u8 = 1;
const NOTIMP: u8 = 4;

/// Why an upstream did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing came in time: worth another try.
    Silent,
    /// It cannot be reached, or what it says is no message.
    Unreachable,
    /// It has replied that it does not know.
    Unwilling,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Unreachable
    }
}

/// Asks one upstream, over TCP too if it has more to say than fits. Gives its answer and how long its first reply took.
pub(super) async fn ask(key: &Key, upstream: SocketAddr, counters: &Counters) -> Result<(Reply, Duration), Failure> {
    let started = Instant::now();
    let reply = exchange(key, Edns::With, upstream, counters).await?;
    let took = started.elapsed();
    let without = match Reply::read(&reply) {
        Some(read) => match message::rcode(&reply) {
            SERVFAIL | REFUSED => return Err(Failure::Unwilling),
            FORMERR | NOTIMP => exchange(key, Edns::Without, upstream, counters).await?,
            _ => return Ok((read, took)),
        },
        None => exchange(key, Edns::Without, upstream, counters).await?,
    };
    match (Reply::read(&without), message::rcode(&without)) {
        (_, SERVFAIL | REFUSED) => Err(Failure::Unwilling),
        (Some(read), _) => Ok((read, took)),
        (None, _) => Err(Failure::Unreachable),
    }
}

async fn exchange(key: &Key, edns: Edns, upstream: SocketAddr, counters: &Counters) -> Result<Vec<u8>, Failure> {
    // The thread's generator is seeded by the system and cryptographic: ids must not be foretold.
    let query = key.query(rand::random(), edns);
    match ask_over_udp(&query, upstream, counters).await? {
        Some(reply) if !message::is_truncated(&reply) => return Ok(reply),
        Some(_) => count(&counters.over_tcp),
        None => count(&counters.besieged),
    }
    Ok(ask_over_tcp(&query, upstream, counters).await?)
}

/// `None`: so many wrong replies came that a right one is not to be trusted.
async fn ask_over_udp(query: &[u8], upstream: SocketAddr, counters: &Counters) -> io::Result<Option<Vec<u8>>> {
    // Port 0: the kernel picks a random free one.
    let socket = UdpSocket::bind((unspecified(upstream), 0)).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_BUFFER];
    for _ in 0..MAX_WRONG {
        let length = socket.recv(&mut buffer).await?;
        if message::answers(query, &buffer[..length]) {
            if length == UDP_BUFFER {
                // The kernel cut off what did not fit.
                buffer[2] |= 0b10;
            }
            buffer.truncate(length);
            return Ok(Some(buffer));
        }
        count(&counters.mismatched);
    }
    Ok(None)
}

async fn ask_over_tcp(query: &[u8], upstream: SocketAddr, counters: &Counters) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut reply = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut reply).await?;
    if message::answers(query, &reply) {
        return Ok(reply);
    }
    count(&counters.mismatched);
    Err(io::Error::other("the reply is not to our question"))
}

fn unspecified(peer: SocketAddr) -> IpAddr {
    match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
