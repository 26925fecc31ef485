//! What is known → what is served: the loop that merges both flows, and the thread it shares with the loop that follows
//! Docker.

use std::{
    collections::BTreeSet,
    future::{self, Future},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use super::{Agent, reload::Live};
use crate::{
    dns::{
        access::AccessList,
        listen::{Listen, wanted},
        server::{Shared, may_bind_53},
        zone::{Seconds, Zone},
    },
    model::{Catalog, Desired, Local, Session},
    registry::{
        call::Revision,
        catalog::{self, Own},
        mirror::View,
    },
    scheduler,
};

/// The loop that turns what is known into what is served: one merge, one zone, one swap for each change.
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    live: watch::Receiver<Arc<Live>>,
    listens: Vec<Listen>,
    own: Own,
    desired: watch::Receiver<Arc<Desired>>,
    externals: watch::Receiver<Arc<Desired>>,
    local: watch::Receiver<Arc<Local>>,
    view: watch::Receiver<Arc<View>>,
    session: watch::Receiver<Arc<Session>>,
    served: watch::Sender<Arc<Desired>>,
    asked: watch::Sender<Revision>,
    catalog: watch::Sender<Arc<Catalog>>,
    wanted: watch::Sender<Arc<BTreeSet<SocketAddr>>>,
    /// `--fallback-after` in seconds.
    fallback_after: Seconds,
    /// Bare names that may be looked for in `global` again, by an operator's word.
    freed: mpsc::Receiver<String>,
    /// What is known at first: names that were lost before.
    first: Zone,
}

impl Snapshots {
    /// Joined to the agent's channels.
    pub(super) fn of(agent: &Agent, first: Zone, freed: mpsc::Receiver<String>) -> Self {
        let session = Session::clone(&agent.session.1.borrow());
        Self {
            shared: Arc::clone(&agent.shared),
            live: agent.live.1.clone(),
            listens: agent.listens.clone(),
            own: Own { host: agent.identity.host.clone(), session },
            desired: agent.desired.1.clone(),
            externals: agent.externals.1.clone(),
            local: agent.local.1.clone(),
            view: agent.view.1.clone(),
            session: agent.session.1.clone(),
            served: agent.served.0.clone(),
            asked: agent.asked.0.clone(),
            catalog: agent.catalog.0.clone(),
            wanted: agent.wanted.0.clone(),
            fallback_after: agent.config.fallback_after.value.as_secs(),
            freed,
            first,
        }
    }

    /// Ends only with the agent.
    pub(super) async fn follow(mut self) -> Result<()> {
        let port_53 = may_bind_53();
        let (mut catalog, mut zone) = (Arc::<Catalog>::default(), Arc::new(std::mem::take(&mut self.first)));
        let (mut known_local, mut known_live) = (None, None);
        self.local.mark_changed();
        loop {
            let mut freed = None;
            tokio::select! {
                biased;
                changed = self.desired.changed() => changed?,
                changed = self.local.changed() => changed?,
                changed = self.view.changed() => changed?,
                changed = self.externals.changed() => changed?,
                changed = self.session.changed() => changed?,
                changed = self.live.changed() => changed?,
                Some(name) = self.freed.recv() => freed = Some(name),
                () = until(zone.next_return()) => {}
            }
            let live = Arc::clone(&self.live.borrow_and_update());
            let live_changed = known_live.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &live));
            let local = Arc::clone(&self.local.borrow_and_update());
            let local_changed = known_local.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &local));
            self.own.session = Session::clone(&self.session.borrow_and_update());
            let view = Arc::clone(&self.view.borrow_and_update());
            let desired = Arc::clone(&self.desired.borrow_and_update());
            let externals = Arc::clone(&self.externals.borrow_and_update());
            let merged = Arc::new(catalog::merge(&catalog, &self.own, &desired, &externals, &view));
            let access_changed = local_changed || live_changed || AccessList::is_affected(&catalog, &merged);
            // In this order: who may ask before that Docker was listed, which says that the list is complete; and an
            // asker before names that only it may see.
            if access_changed {
                self.shared.set_access(Arc::new(AccessList::new(&local, &merged, &live.allow)));
            }
            if local_changed {
                self.shared.set_local(Arc::clone(&local));
            }
            // Which addresses are found depends on it, so all of them are looked at again.
            let routed_changed = known_live.as_ref().is_none_or(|known: &Arc<Live>| known.routed != live.routed);
            let (base, before) = match routed_changed {
                true => (zone.routing(&live.routed), Arc::default()),
                false => (Zone::clone(&zone), Arc::clone(&catalog)),
            };
            let mut next = base.later(seconds_since_1970(), self.fallback_after).update(&before, &merged);
            if let Some(name) = freed {
                next = next.without_lost(&name);
            }
            zone = Arc::new(next);
            self.shared.set_zone(Arc::clone(&zone));
            // Only now others are told: the own host answers first, and encoding and writing do not hold it up.
            self.served.send_if_modified(|served| {
                let differs = !Arc::ptr_eq(served, &desired);
                *served = Arc::clone(&desired);
                differs
            });
            self.asked.send_if_modified(|asked| std::mem::replace(asked, view.asked) != view.asked);
            if access_changed {
                let wanted = Arc::new(wanted(&self.listens, &local, port_53));
                self.wanted.send_if_modified(|known| {
                    let differs = *known != wanted;
                    *known = wanted;
                    differs
                });
            }
            self.catalog.send_replace(Arc::clone(&merged));
            (catalog, known_local, known_live) = (merged, Some(local), Some(live));
            // A registry that changes all the time must not keep Docker's events waiting, which share this thread.
            tokio::task::yield_now().await;
        }
    }
}

/// What time it is.
pub(super) fn seconds_since_1970() -> Seconds {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Waits for a moment; for ever, if there is none. A clock that jumps is looked at again within a minute.
async fn until(moment: Option<Seconds>) {
    const LOOK: u64 = 60;
    match moment {
        Some(moment) => sleep(Duration::from_secs(moment.saturating_sub(seconds_since_1970()).clamp(1, LOOK))).await,
        None => future::pending().await,
    }
}

/// Runs a loop on a thread of its own, with everything that it waits for. The way from a Docker event to an answer is such
/// a loop: handing over from one processor to another at each hop takes longer than all the work in between, and on a
/// host where a container is starting each may have to wait for its turn.
///
/// The thread ends with the loop, or when what this returns is dropped.
pub(super) async fn on_one_thread<F>(work: impl FnOnce() -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("follow".into()).spawn(move || {
        scheduler::run_soon();
        let mut tell = tell;
        let ended = runtime.block_on(async {
            tokio::select! {
                ended = work() => Some(ended),
                () = tell.closed() => None,
            }
        });
        if let Some(ended) = ended {
            // Nobody listens any more when the agent is ending.
            let _ended = tell.send(ended);
        }
        runtime.shutdown_background();
    })?;
    told.await.context("its thread has died")?
}
