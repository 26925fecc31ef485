//! TCP: one task per listener, one per connection, both capped. Queries of a connection are answered as soon as their
//! answers are there, in any order (RFC 7766 section 6.2.1.1). A client that is slow, silent or gone costs its own
//! connection and no other.

use std::{fs::File, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::rngs::SmallRng;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    admission::Permit,
    metrics::Counter,
    query::{Desk, Verdict, decide, is_martian, settle},
    relay::{Connection, Parting},
    tls,
};
use crate::dns::wire::{HEADER, Pace, Transport, asks_for_padding, pad};

/// Pause after an error of accept that comes again at once, such as no file descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// Octets read at once.
const CHUNK: usize = 4096;

/// Replies are collected up to this many octets before they are written; one more may come on top.
const MAX_UNSENT: usize = 64 * 1024;

/// With this share of all places taken, in sixteenths, each new connection costs the one its place that has been idle for
/// longest: whoever only holds places cannot keep others out.
const CROWDED: usize = 15;

/// A connection of a server that retires is idle when it has been silent for this long: a client that asks one question
/// after the other over it is not cut off between two of them, and a restart does not wait.
const QUIET: Duration = Duration::from_millis(50);

/// What a listener's connections begin with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    /// A question. Another server that takes over goes on with the connection.
    Plain,
    /// A handshake of TLS. The connection cannot be handed on; this server brings it to an end. Replies are padded for
    /// clients that ask for it.
    Tls,
}

/// Accepts connections until it is dropped, and its connections with it. When the server retires it accepts no more and
/// ends with its last connection.
pub(super) async fn accept(listener: Arc<TcpListener>, mut desk: Desk, protocol: Protocol) -> io::Result<()> {
    let shard = desk.shared.metrics.tasks();
    let mut connections = JoinSet::new();
    // Given up for a moment when descriptors run out, so that waiting clients are told instead of left hanging.
    let mut reserve = File::open("/dev/null").ok();
    loop {
        if !matches!(*desk.parting.borrow_and_update(), Parting::Not) {
            while connections.join_next().await.is_some() {}
            return Ok(());
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = desk.parting.changed() => continue,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if ended.is_err() {
                    shard.count(Counter::Panics);
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => match admit(&desk, peer) {
                Some(permit) => {
                    shard.count(Counter::TcpConnections);
                    match protocol {
                        Protocol::Plain => {
                            connections.spawn(hold(stream, peer, desk.clone(), permit, Inbox::default()))
                        }
                        Protocol::Tls => connections.spawn(tls::hold(stream, peer, desk.clone(), permit)),
                    };
                }
                None => shard.count(Counter::TcpOverCap),
            },
            Err(error) => {
                shard.count(Counter::ReceiveErrors);
                if is_out_of_descriptors(&error) {
                    drop(reserve.take());
                    // Whoever is accepted here is closed at once.
                    let _ = timeout(PAUSE, listener.accept()).await;
                    reserve = File::open("/dev/null").ok();
                }
                // Errors of the connection that was not to be (ECONNABORTED and the like) need no pause, but who can
                // tell them all?
                sleep(PAUSE).await;
            }
        }
    }
}

/// A place for a connection, if its client may have one more. Those who may not ask have a few places of their own,
/// to be told so, and cannot take those of the others.
fn admit(desk: &Desk, peer: SocketAddr) -> Option<Permit> {
    if is_martian(peer) {
        return None;
    }
    let (shared, client) = (&desk.shared, peer.ip().to_canonical());
    if !shared.access.load().permits(client) {
        return shared.strangers.admit(client);
    }
    let permit = shared.connections.admit(client);
    if shared.connections.inside() * 16 > shared.limits.tcp_connections * CROWDED {
        // Those who wait to be told stand in the order in which they became idle.
        shared.crowded.notify_one();
    }
    permit
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By the client, or because it was done.
    Closed,
    /// It was too slow, or silent for too long.
    TimedOut,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

async fn hold(mut stream: TcpStream, peer: SocketAddr, desk: Desk, _permit: Permit, mut inbox: Inbox) {
    // Answers are small and each is written whole: waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    let metrics = desk.shared.metrics.tasks();
    match converse(&mut stream, peer, &desk, &mut inbox, Protocol::Plain).await {
        Ok(Some(heir)) => {
            if let Ok(stream) = stream.into_std() {
                // An heir that is gone takes nothing: the connection is closed, as it would have been without one.
                let _ = heir.send(Connection { socket: stream.into(), unread: inbox.into_rest() }).await;
            }
        }
        Err(End::TimedOut) => metrics.count(Counter::TcpTimeouts),
        Ok(None) | Err(End::Closed) => {}
    }
}

/// Goes on with a connection of the server before.
pub(super) async fn resume(connection: Connection, desk: Desk) {
    let resumed = connection.stream().and_then(|(stream, peer, rest)| Ok((TcpStream::from_std(stream)?, peer, rest)));
    // One that broke on the way is its client's affair, as any that breaks.
    let Ok((stream, peer, rest)) = resumed else { return };
    let mut inbox = Inbox::default();
    inbox.extend(&rest);
    match admit(&desk, peer) {
        Some(permit) => hold(stream, peer, desk, permit, inbox).await,
        None => desk.shared.metrics.tasks().count(Counter::TcpOverCap),
    }
}

/// Reads queries and writes answers until either side is done, or somebody else is to go on with it.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    peer: SocketAddr,
    desk: &Desk,
    inbox: &mut Inbox,
    protocol: Protocol,
) -> Result<Option<mpsc::Sender<Connection>>, End> {
    let Desk { shared, forwarder, parting } = desk;
    let mut parting = parting.clone();
    let (limits, shard) = (&shared.limits, shared.metrics.tasks());
    let mut rng = rand::make_rng::<SmallRng>();
    let mut outbox = Vec::new();
    let mut pending: FuturesUnordered<BoxFuture<'static, Option<Vec<u8>>>> = FuturesUnordered::new();
    let mut chunk = [0; CHUNK];
    let mut reading = true;
    // When the client last sent something whole, and when the message began that it has sent a part of.
    let mut idle_since = Instant::now();
    let mut part_since = None;
    loop {
        while pending.len() < limits.tcp_in_flight && outbox.len() < MAX_UNSENT {
            let Some(message) = inbox.next_message() else { break };
            (idle_since, part_since) = (Instant::now(), None);
            shard.count(Counter::TcpQueries);
            // Shorter it cannot be answered, so whoever sends it speaks something else.
            if message.len() < HEADER {
                shard.count(Counter::Dropped);
                return Err(End::Closed);
            }
            let is_padded = matches!(protocol, Protocol::Tls) && asks_for_padding(message);
            let finish = move |reply| if is_padded { pad(reply) } else { reply };
            match decide(shared, shard, peer.ip(), message, Transport::Tcp, Pace::Answer, &mut rng) {
                Verdict::Reply(reply) => push(&mut outbox, &finish(reply)),
                Verdict::Drop => shard.count(Counter::Dropped),
                Verdict::Refuse(reply) => {
                    push(&mut outbox, &reply.map(finish).unwrap_or_default());
                    reading = false;
                    *inbox = Inbox::default();
                }
                Verdict::Later(later) => {
                    let (shared, forwarder) = (Arc::clone(shared), Arc::clone(forwarder));
                    pending.push(Box::pin(async move { settle(&shared, &forwarder, later).await.map(finish) }));
                }
            }
        }
        if !outbox.is_empty() {
            for reply in Replies(&outbox) {
                shard.count_reply(reply);
            }
            let written = async {
                stream.write_all(&outbox).await?;
                // Encrypted is not sent.
                stream.flush().await
            };
            timeout(limits.tcp_write, written).await.map_err(|_| End::TimedOut)??;
            outbox.clear();
            continue;
        }
        if !reading && pending.is_empty() {
            // FIN behind the last reply, where a mere close might be a reset that overtakes it.
            timeout(limits.tcp_write, stream.shutdown()).await.map_err(|_| End::TimedOut)??;
            return Ok(None);
        }
        let parts = parting.borrow_and_update().clone();
        let idle = match (parts, protocol) {
            (Parting::Not, _) => limits.tcp_idle,
            (Parting::Finish, _) | (Parting::HandOn(_), Protocol::Tls) => limits.tcp_idle.min(QUIET),
            (Parting::HandOn(heir), _) if reading && pending.is_empty() => return Ok(Some(heir)),
            (Parting::HandOn(_), _) => limits.tcp_idle,
        };
        // A client with 32 questions open is not read from, so that it is not late either.
        let listening = reading && pending.len() < limits.tcp_in_flight;
        let deadline = match (listening, inbox.is_empty()) {
            (true, false) => Some(*part_since.get_or_insert_with(Instant::now) + limits.tcp_read),
            (true, true) if pending.is_empty() => Some(idle_since + idle),
            _ => None,
        };
        if !listening {
            part_since = None;
        }
        tokio::select! {
            // What a client has sent is read before its place is taken away.
            biased;
            Some(reply) = pending.next(), if !pending.is_empty() => {
                idle_since = Instant::now();
                push(&mut outbox, &reply.unwrap_or_default());
            }
            read = stream.read(&mut chunk), if listening => match read? {
                0 => reading = false,
                length => inbox.extend(&chunk[..length]),
            },
            Ok(()) = parting.changed() => {}
            () = shared.crowded.notified(), if listening && inbox.is_empty() && pending.is_empty() => {
                shard.count(Counter::TcpEvicted);
                return Err(End::Closed);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                if idle < limits.tcp_idle && inbox.is_empty() {
                    reading = false;
                    continue;
                }
                return Err(End::TimedOut);
            }
        }
    }
}

/// Appends a reply behind its length (RFC 1035 section 4.2.2); nothing for none.
fn push(outbox: &mut Vec<u8>, reply: &[u8]) {
    // wire.rs keeps replies below 64 KiB, and upstreams cannot send more.
    if let (Ok(length), false) = (u16::try_from(reply.len()), reply.is_empty()) {
        outbox.extend(length.to_be_bytes());
        outbox.extend(reply);
    }
}

/// The replies in an outbox.
struct Replies<'a>(&'a [u8]);

impl<'a> Iterator for Replies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (reply, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        self.0 = rest;
        Some(reply)
    }
}

/// What was read and not taken yet: at most one message in part (64 KiB) and one chunk.
#[derive(Default)]
pub(super) struct Inbox {
    octets: Vec<u8>,
    /// How many of them were taken.
    taken: usize,
}

impl Inbox {
    fn extend(&mut self, octets: &[u8]) {
        self.octets.drain(..self.taken);
        self.taken = 0;
        self.octets.extend_from_slice(octets);
    }

    /// Takes the next whole message.
    fn next_message(&mut self) -> Option<&[u8]> {
        let mut rest = Replies(&self.octets[self.taken..]);
        let message = rest.next()?;
        self.taken += 2 + message.len();
        Some(message)
    }

    /// What was not taken.
    fn into_rest(mut self) -> Vec<u8> {
        self.octets.split_off(self.taken)
    }

    fn is_empty(&self) -> bool {
        self.taken == self.octets.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            cut in 1usize..50,
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                push(&mut stream, message);
            }
            let (mut inbox, mut taken) = (Inbox::default(), Vec::new());
            for part in stream.chunks(cut) {
                inbox.extend(part);
                while let Some(message) = inbox.next_message() {
                    taken.push(message.to_vec());
                }
            }
            prop_assert_eq!(taken, messages);
            prop_assert!(inbox.is_empty());
        }
    }
}
