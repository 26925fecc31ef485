//! The running agent's side of a takeover: lends its sockets, stops publishing, leaves the rest to the next one.
//!
//! Until the next one has said `Taken` this one answers and, but for the last moment, publishes, so that whatever
//! becomes of the other changes nothing. From then on it only finishes what it has begun.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    sync::{OwnedRwLockWriteGuard, RwLock, mpsc, oneshot},
    time::timeout,
};
use tracing::{info, warn};

use super::Agent;
use crate::{
    api::{
        control::ControlSocket,
        takeover::{Answer, Ask, Wire},
    },
    dns::server::{Connection, Order},
    registry::{driver::Command, state::StateDirectory},
};

/// How long one word of the other may take to come, and ours to be taken.
const WORD: Duration = Duration::from_secs(5);
/// How long the other may take to know everything. It gives up itself before.
const START: Duration = Duration::from_secs(60);
/// How long commands that change state may take to their end: as long as the longest may take at all.
const COMMANDS_END: Duration = Duration::from_secs(10);

/// Everything that can be lent.
pub(super) struct Lender {
    state: Arc<StateDirectory>,
    http: (OwnedFd, SocketAddr),
    control: (OwnedFd, Arc<AtomicBool>),
    held: BTreeSet<SocketAddr>,
    orders: mpsc::Sender<Order>,
    commands: mpsc::Sender<Command>,
    /// Held for writing during a takeover.
    pub(super) handing: Arc<RwLock<()>>,
}

/// Who has taken over.
pub(super) struct Heir {
    wire: Wire,
    /// Its process.
    pub(super) process: Option<u32>,
    _handing: OwnedRwLockWriteGuard<()>,
}

impl Lender {
    pub(super) fn new(
        agent: &Agent,
        state: &Arc<StateDirectory>,
        http: (OwnedFd, SocketAddr),
        control: &ControlSocket,
        held: BTreeSet<SocketAddr>,
    ) -> Result<Self> {
        Ok(Self {
            state: Arc::clone(state),
            http,
            control: control.lend()?,
            held,
            orders: agent.orders.clone(),
            commands: agent.commands.clone(),
            handing: Arc::default(),
        })
    }

    /// Hands everything over but what is being answered. An error says why nothing has changed.
    pub(super) async fn hand_over(self: Arc<Self>, mut wire: Wire) -> Result<Heir> {
        let process = wire.peer();
        info!(process, "another agent wants to take over; this one goes on until it is ready");
        let handing = timeout(COMMANDS_END, Arc::clone(&self.handing).write_owned());
        let handing = handing.await.context("a command did not come to its end")?;
        expect(&mut wire, Ask::Hello, WORD).await?;
        self.offer(&mut wire).await?;
        expect(&mut wire, Ask::Ready, START).await?;
        let (done, suspended) = oneshot::channel();
        self.commands.send(Command::Suspend(done)).await?;
        let given_up = async {
            timeout(WORD, suspended).await.context("publishing did not end")??;
            timeout(WORD, wire.say(&Answer::Released)).await??;
            expect(&mut wire, Ask::Taken, WORD).await
        };
        if let Err(error) = given_up.await {
            self.commands.send(Command::Resume).await?;
            return Err(error);
        }
        self.control.1.store(true, Ordering::Relaxed);
        Ok(Heir { wire, process, _handing: handing })
    }

    async fn offer(&self, wire: &mut Wire) -> Result<()> {
        let (reply, lent) = oneshot::channel();
        self.orders.send(Order::Lend(reply)).await?;
        let mut descriptors = vec![self.state.lock()?, self.control.0.try_clone()?, self.http.0.try_clone()?];
        descriptors.extend(lent.await??);
        let offer = Answer::Offer {
            state_dir: std::path::absolute(self.state.path())?,
            http: self.http.1,
            held: self.held.iter().copied().collect(),
            descriptors: descriptors.len(),
        };
        timeout(WORD, wire.say(&offer)).await??;
        timeout(WORD, wire.give(&descriptors)).await??;
        Ok(())
    }
}

impl Heir {
    /// Hands connections on until there is none left.
    pub(super) async fn give_connections(mut self, mut connections: mpsc::Receiver<Connection>) {
        while let Some(Connection { socket, unread }) = connections.recv().await {
            let given = async {
                self.wire.say(&Answer::Connection { unread }).await?;
                self.wire.give(&[socket]).await
            };
            if let Err(error) = given.await {
                warn!(%error, "the other agent takes no more connections: their clients connect again");
                return;
            }
        }
    }
}

async fn expect(wire: &mut Wire, expected: Ask, deadline: Duration) -> Result<()> {
    let heard: Ask = timeout(deadline, wire.hear())
        .await
        .with_context(|| format!("it did not say {expected:?} within {} s", deadline.as_secs()))?
        .with_context(|| format!("it did not say {expected:?}"))?;
    if heard != expected {
        bail!("it said {heard:?}, not {expected:?}");
    }
    Ok(())
}
