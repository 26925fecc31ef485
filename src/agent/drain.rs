//! Carries out `drain` and `undrain`, and tells how far a drain has come.
//!
//! Who drains must know when nobody sends clients any more: `registry/round.rs` decides that from what is known here and
//! from what the others have acknowledged in etcd. Nothing is written for it by anybody while nobody drains, and nobody
//! polls but the one who waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    api::drain::{Drained, DrainedContainer, Progress},
    dns::server::Shared,
    model::{Desired, HostId},
    registry::{
        driver::{self, Command},
        mirror::View,
        round::{self, Behind, Standing},
        state::{StateDirectory, StateError},
    },
    watch::{
        container::{self, Drains, NotDone},
        docker::Asked,
    },
};

/// What is drained, on disk. Commands are carried out one after the other, but each is written by whoever is free.
pub(super) struct KeptDrains {
    state: Arc<StateDirectory>,
    /// The last round that is on disk.
    round: Mutex<u64>,
}

impl KeptDrains {
    pub(super) fn new(state: Arc<StateDirectory>) -> Self {
        Self { state, round: Mutex::default() }
    }

    /// Writes what a command came to, unless a later one, which stands for it too, is there already.
    fn keep(&self, drains: &Drains) -> Result<(), StateError> {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        if *round < drains.round {
            self.state.save_drains(drains)?;
            *round = drains.round;
        }
        Ok(())
    }
}

/// The way to everything that a drain concerns.
#[derive(Clone)]
pub(super) struct Drainer {
    pub(super) host: HostId,
    pub(super) shared: Arc<Shared>,
    pub(super) drains: Arc<KeptDrains>,
    pub(super) docker: mpsc::Sender<Asked>,
    pub(super) served: watch::Receiver<Arc<Desired>>,
    pub(super) registry: watch::Receiver<driver::Status>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) commands: mpsc::Sender<Command>,
}

impl Drainer {
    /// Carries out a command. Answered when it will survive a restart of the agent, and before anybody else knows.
    pub(super) async fn order(self, command: container::Command) -> Result<Drained, NotDone> {
        let (reply, outcome) = oneshot::channel();
        let stopping = || NotDone::Impossible("the agent is stopping".into());
        self.docker.send(Asked { command, reply }).await.map_err(|_| stopping())?;
        let outcome = outcome.await.map_err(|_| stopping())??;
        let (kept, drains) = (Arc::clone(&self.drains), outcome.drains.clone());
        let saved = tokio::task::spawn_blocking(move || kept.keep(&drains)).await;
        if let Err(error) = saved.map_err(anyhow::Error::from).and_then(|saved| saved.map_err(Into::into)) {
            return Err(NotDone::Impossible(format!("done, but a restart of the agent would undo it: {error:#}")));
        }
        let containers = outcome
            .containers
            .into_iter()
            .map(|(container, name)| DrainedContainer { container: container.to_string(), name: name.to_string() });
        Ok(Drained { host: self.host.to_string(), round: outcome.drains.round, containers: containers.collect() })
    }

    /// Who does not know of this round yet.
    pub(super) async fn progress(self, round: u64) -> Progress {
        let waits_for: Vec<String> = self.waits_for(round).await.iter().map(ToString::to_string).collect();
        Progress { round, known: waits_for.is_empty(), waits_for, ttl: self.shared.settings().ttl }
    }

    async fn waits_for(&self, round: u64) -> Vec<Behind> {
        let standing = round::standing(round, &self.served.borrow(), &self.registry.borrow().publisher);
        let told = match standing {
            Standing::Told(revision) => revision,
            Standing::Over => return Vec::new(),
            Standing::Behind(behind) => return vec![behind],
        };
        let (reply, acks) = oneshot::channel();
        let stopping = || vec![Behind::Registry(Some("the agent is stopping".into()))];
        if self.commands.send(Command::Acknowledged(reply)).await.is_err() {
            return stopping();
        }
        match acks.await {
            Ok(Ok(acks)) => round::behind(told, &self.host, &self.view.borrow(), &acks),
            Ok(Err(error)) => vec![Behind::Registry(Some(error))],
            Err(_) => stopping(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_command_is_kept_whichever_is_written_last() {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDirectory::open(directory.path()).unwrap());
        let kept = KeptDrains::new(Arc::clone(&state));
        let (first, second) =
            (Drains { round: 1, ..Drains::default() }, Drains { round: 2, host: true, ..Drains::default() });
        kept.keep(&second).unwrap();
        kept.keep(&first).unwrap();
        assert_eq!(state.drains(), second);
    }
}
