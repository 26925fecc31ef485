//! One query, whatever it came over: decided at once, or settled later.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::Rng;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Shared,
    admission::Permit,
    metrics::{Counter, Shard},
    relay::Parting,
};
use crate::dns::{
    forward::Forwarder,
    wire::{Follow, Guard, Outcome, Pace, ResponseCode, Transport, Why, failure, followed, respond_guarded},
};

/// What becomes of a query right now.
pub(super) enum Verdict {
    /// Send this.
    Reply(Vec<u8>),
    /// Say nothing.
    Drop,
    /// Its source may not ask: send this, if anything, and be done with that client.
    Refuse(Option<Vec<u8>>),
    /// Takes time: [`settle`] it off the hot path.
    Later(Later),
}

/// A query that waits for somebody, with its place below the caps.
pub(super) struct Later {
    reason: Reason,
    source: IpAddr,
    packet: Vec<u8>,
    transport: Transport,
    permit: Permit,
}

enum Reason {
    Forward,
    Follow(Box<Follow>),
    UnknownAsker,
}

/// Decides on one packet: reads the current snapshots, waits for nothing, and takes no lock for our own names.
pub(super) fn decide(
    shared: &Shared,
    shard: &Shard,
    source: IpAddr,
    packet: &[u8],
    transport: Transport,
    pace: Pace,
    rng: &mut impl Rng,
) -> Verdict {
    let source = source.to_canonical();
    if let Some((code, why)) = refusal(shared, source) {
        shard.count(if code == ResponseCode::Refused { Counter::NotPermitted } else { Counter::StayedUnknown });
        return Verdict::Refuse(failure(packet, code, Some(why), false).filter(|_| pace != Pace::Drop));
    }
    let reason = match outcome(shared, shard, source, packet, transport, pace, rng) {
        Outcome::Reply(reply) => return Verdict::Reply(reply),
        Outcome::Drop => return Verdict::Drop,
        Outcome::Forward(_) => match at_once(shared, packet, transport) {
            Some(reply) => return Verdict::Reply(reply),
            None => Reason::Forward,
        },
        Outcome::Follow(follow) => Reason::Follow(follow),
        Outcome::Wait => Reason::UnknownAsker,
    };
    match later(shared, shard, source, packet, transport, reason) {
        Ok(later) => Verdict::Later(later),
        Err(busy) => busy.map_or(Verdict::Drop, Verdict::Reply),
    }
}

/// A query that takes time, with its place below the caps; the error is what to reply where there is none left.
fn later(
    shared: &Shared,
    shard: &Shard,
    source: IpAddr,
    packet: &[u8],
    transport: Transport,
    reason: Reason,
) -> Result<Later, Option<Vec<u8>>> {
    let (caps, forwards) = match &reason {
        Reason::Forward => (&shared.forwarding, true),
        Reason::Follow(follow) => (&shared.forwarding, follow.forwards()),
        Reason::UnknownAsker => (&shared.waiting, false),
    };
    match caps.admit(source) {
        Some(permit) => Ok(Later { reason, source, packet: packet.to_vec(), transport, permit }),
        None => {
            shard.count(Counter::OverCap);
            Err(failure(packet, ResponseCode::ServFail, Some(Why::Busy), forwards))
        }
    }
}

impl Later {
    /// A query over UDP that is to be forwarded, and that nothing can be said to at once: what [`decide`] makes of it.
    pub(super) fn forward(
        shared: &Shared,
        shard: &Shard,
        source: IpAddr,
        packet: &[u8],
    ) -> Result<Self, Option<Vec<u8>>> {
        later(shared, shard, source, packet, Transport::Udp, Reason::Forward)
    }
}

/// What can be said without asking anybody. Only ever asked for whom `wire::respond` would forward.
fn at_once(shared: &Shared, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut reply = Vec::new();
    shared.forwarder.get()?.at_once(packet, transport, std::time::Instant::now(), &mut reply).then_some(reply)
}

/// What to say to a source that may not ask; `None`: it may.
///
/// Before Docker was first listed its networks are not on the access list, so whoever is not may yet be a container:
/// that one is told that we do not know (SERVFAIL), and nothing else. The list is put up before it is said that Docker
/// was listed, which is why it is looked at again.
fn refusal(shared: &Shared, source: IpAddr) -> Option<(ResponseCode, Why)> {
    let permits = || shared.access.load().permits(source);
    if permits() {
        return None;
    }
    if !shared.ground.load().local.listed {
        return Some((ResponseCode::ServFail, Why::NotListed));
    }
    (!permits()).then_some((ResponseCode::Refused, Why::NotAllowed))
}

/// Brings a query that had to wait to its end: the packet to send, if any. Bounded by the forwarder's deadline and the
/// time that an unknown asker is waited for.
pub(super) async fn settle(shared: &Shared, forwarder: &Forwarder, later: Later) -> Option<Vec<u8>> {
    let Later { reason, source, packet, transport, permit } = later;
    let shard = shared.metrics.tasks();
    let (_place, follow) = match reason {
        Reason::Forward => (permit, None),
        Reason::Follow(follow) => (permit, Some(follow)),
        Reason::UnknownAsker => {
            shard.count(Counter::Waited);
            let outcome = await_asker(shared, source, &packet, transport).await;
            drop(permit);
            let follow = match outcome {
                Outcome::Reply(reply) => return Some(reply),
                Outcome::Drop => return None,
                Outcome::Wait => {
                    shard.count(Counter::StayedUnknown);
                    return failure(&packet, ResponseCode::ServFail, Some(Why::UnknownAsker), false);
                }
                Outcome::Forward(_) => None,
                Outcome::Follow(follow) => Some(follow),
            };
            match shared.forwarding.admit(source) {
                Some(place) => (place, follow),
                None => {
                    shard.count(Counter::OverCap);
                    let forwards = follow.as_ref().is_none_or(|follow| follow.forwards());
                    return failure(&packet, ResponseCode::ServFail, Some(Why::Busy), forwards);
                }
            }
        }
    };
    shard.count(Counter::Forwarded);
    match follow {
        None => forwarder.forward(&packet, transport).await,
        Some(follow) => {
            let reply = forwarder.follow_name(&follow.query()).await?;
            with_guard(shared, shard, source, Pace::Answer, |guard| {
                followed(&packet, transport, &follow, &reply, Some(guard), &mut rand::rng())
            })
        }
    }
}

/// Decides again on every change of what this host knows, until the asker is known or the time is up.
async fn await_asker(shared: &Shared, source: IpAddr, packet: &[u8], transport: Transport) -> Outcome {
    let deadline = Instant::now() + shared.limits.unknown_asker;
    let mut changes = shared.local_changes.subscribe();
    loop {
        let outcome =
            outcome(shared, shared.metrics.tasks(), source, packet, transport, Pace::Answer, &mut rand::rng());
        if outcome != Outcome::Wait || !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return outcome;
        }
    }
}

/// The pure decision, on the snapshots of this moment. A panic in it is our bug and costs one SERVFAIL, no worker (P8).
fn outcome(
    shared: &Shared,
    shard: &Shard,
    source: IpAddr,
    packet: &[u8],
    transport: Transport,
    pace: Pace,
    rng: &mut impl Rng,
) -> Outcome {
    let decided = catch_unwind(AssertUnwindSafe(|| {
        let (zone, ground) = (shared.zone.load(), shared.ground.load());
        let asker = shared.access.load().locate(&ground.local, source);
        with_guard(shared, shard, source, pace, |guard| {
            respond_guarded(&ground.snapshot(&zone), &asker, packet, transport, guard, rng)
        })
    }));
    decided.unwrap_or_else(|_| {
        shard.count(Counter::Panics);
        failure(packet, ResponseCode::ServFail, Some(Why::Fault), false).map_or(Outcome::Drop, Outcome::Reply)
    })
}

/// Does something with what protects others from replies to this source, as of now.
fn with_guard<T>(shared: &Shared, shard: &Shard, source: IpAddr, pace: Pace, act: impl FnOnce(&Guard<'_>) -> T) -> T {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Cookies count in 32 bits (RFC 9018 section 4.3).
    let now = u32::try_from(now & u64::from(u32::MAX)).unwrap_or_default();
    let allows = |octets| shared.allowance.take(source, octets, std::time::Instant::now());
    let is_part = Cell::new(false);
    let done = act(&Guard { cookies: &shared.cookies, address: source, now, pace, allows: &allows, is_part: &is_part });
    if is_part.get() {
        shard.count(Counter::PartAnswers);
    }
    done
}

/// Whether a packet can have come from there: no port 0, no address that stands for many or for none. A reply to such a
/// source would help only an attacker.
pub(super) fn is_martian(source: SocketAddr) -> bool {
    let nobody = match source.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    nobody || source.port() == 0
}

/// Everything that a task needs to settle queries.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) forwarder: Arc<Forwarder>,
    /// What becomes of connections.
    pub(super) parting: watch::Receiver<Parting>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sends_from_port_0_or_from_an_address_of_many() {
        let cases = [
            ("127.0.0.1:5353", false),
            ("[2001:db8::1]:53", false),
            ("10.0.0.1:0", true),
            ("0.0.0.0:53", true),
            ("255.255.255.255:53", true),
            ("239.1.2.3:53", true),
            ("[ff02::1]:53", true),
            ("[::ffff:239.1.2.3]:53", true),
            ("[::]:53", true),
        ];
        for (source, expected) in cases {
            assert_eq!(is_martian(source.parse().unwrap()), expected, "{source}");
        }
    }
}
