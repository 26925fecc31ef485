//! The complete path over UDP, on a thread of its own behind a bounded queue: odd queries never delay ordinary ones.

use std::{
    sync::{Arc, Weak, mpsc},
    thread,
};

use rand::rngs::SmallRng;
use tokio::sync::mpsc as tokio_mpsc;

use super::{
    Shared,
    metrics::Counter,
    query::{Verdict, decide},
    udp::{Endpoint, Job, Way},
};
use crate::dns::wire::{Pace, Transport};

/// Odd queries that wait, of 4 KiB at most: some 50 ms of work. Beyond that they are dropped, as a full socket would.
const WAITING: usize = 1024;

/// A query that the hot path leaves alone.
pub(super) struct Odd {
    pub(super) packet: Box<[u8]>,
    pub(super) way: Way,
    pub(super) pace: Pace,
    pub(super) endpoint: Weak<Endpoint>,
}

/// Where workers put odd queries.
pub(super) type Queue = mpsc::SyncSender<Odd>;

/// Starts the thread; it ends when no worker is left.
pub(super) fn start(
    shared: &Arc<Shared>,
    jobs: &tokio_mpsc::Sender<Job>,
) -> std::io::Result<(Queue, thread::JoinHandle<()>)> {
    let (queue, waiting) = mpsc::sync_channel(WAITING);
    let (shared, jobs) = (Arc::clone(shared), jobs.clone());
    let thread = thread::Builder::new().name("dns-odd".into()).spawn(move || {
        let mut rng: SmallRng = rand::make_rng();
        for odd in waiting {
            answer(&shared, &jobs, odd, &mut rng);
        }
    })?;
    Ok((queue, thread))
}

fn answer(shared: &Shared, jobs: &tokio_mpsc::Sender<Job>, odd: Odd, rng: &mut SmallRng) {
    let Odd { packet, way, pace, endpoint } = odd;
    // The address may have been closed meanwhile.
    let Some(socket) = endpoint.upgrade() else { return };
    let shard = shared.metrics.odd();
    match decide(shared, shard, way.peer.ip(), &packet, Transport::Udp, pace, rng) {
        Verdict::Reply(reply) | Verdict::Refuse(Some(reply)) => socket.send(shard, &reply, way),
        Verdict::Drop | Verdict::Refuse(None) => shard.count(Counter::Dropped),
        Verdict::Later(later) => {
            // There is room for as many jobs as there are permits, so this fails only when the server ends.
            let _ = jobs.try_send(Job { later, endpoint, way });
        }
    }
}
