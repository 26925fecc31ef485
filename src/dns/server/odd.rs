//! The complete path over UDP, on a thread of its own behind a bounded queue: odd queries never delay ordinary ones.

use std::{
    sync::{Arc, Weak, mpsc},
    thread,
};

use rand::rngs::SmallRng;
use tokio::{
    sync::{mpsc as tokio_mpsc, oneshot},
    task::spawn_blocking,
};

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
#[derive(Clone)]
pub(super) struct Queue(mpsc::SyncSender<Work>);

enum Work {
    Answer(Odd),
    /// Tell when everything before is done.
    Tell(oneshot::Sender<()>),
}

impl Queue {
    /// False where too many wait.
    pub(super) fn put(&self, odd: Odd) -> bool {
        self.0.try_send(Work::Answer(odd)).is_ok()
    }
}

/// The complete path's thread. Dropping it ends the thread, once no worker is left.
pub(super) struct Thread {
    queue: Option<Queue>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(shared: &Arc<Shared>, jobs: &tokio_mpsc::Sender<Job>) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(WAITING);
        let (shared, jobs) = (Arc::clone(shared), jobs.clone());
        let thread = thread::Builder::new().name("dns-odd".into()).spawn(move || {
            let mut rng: SmallRng = rand::make_rng();
            for work in waiting {
                match work {
                    Work::Answer(odd) => answer(&shared, &jobs, odd, &mut rng),
                    Work::Tell(done) => drop(done.send(())),
                }
            }
        })?;
        Ok(Self { queue: Some(Queue(queue)), thread: Some(thread) })
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone().expect("it is taken only to end")
    }

    pub(super) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Returns when everything that was put into the queue before is answered, or is a job.
    pub(super) async fn settle(&self) {
        let (done, told) = oneshot::channel();
        let queue = self.queue();
        // The queue may be full for a moment.
        let _ = spawn_blocking(move || queue.0.send(Work::Tell(done))).await;
        let _ = told.await;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
