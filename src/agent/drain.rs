//! Carries out `drain` and `undrain`, and tells how far a drain has come.
//!
//! Who drains must know when nobody sends clients any more. That is so when this host answers without the drained
//! containers, when etcd holds that, and when every other live host answers from a revision that has it. The publisher
//! writes the round of the last command into our session once everything else is written; whoever sees that session
//! acknowledges its revision as soon as it answers from it (`acks/`). So nothing is written for it by anybody while nobody
//! drains, and nobody polls but the one who waits.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    api::drain::{Drained, DrainedContainer, Progress},
    model::{Desired, HostId, Origin},
    registry::{
        driver::{self, Command},
        mirror::View,
        state::StateDirectory,
    },
    watch::{
        container::{self, NotDone},
        docker::Asked,
    },
};

/// The way to everything that a drain concerns.
#[derive(Clone)]
pub(super) struct Drainer {
    pub(super) host: HostId,
    pub(super) ttl: u32,
    pub(super) state: Arc<StateDirectory>,
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
        let (state, drains) = (Arc::clone(&self.state), outcome.drains.clone());
        let saved = tokio::task::spawn_blocking(move || state.save_drains(&drains)).await;
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
        let waits_for = self.waits_for(round).await;
        Progress { round, known: waits_for.is_empty(), waits_for, ttl: self.ttl }
    }

    async fn waits_for(&self, round: u64) -> Vec<String> {
        let (served, drained) = {
            let served = self.served.borrow();
            (served.round, served.drained)
        };
        if served < round {
            return vec!["this host's own answers".into()];
        }
        let (asking, synced, error) = {
            let status = self.registry.borrow();
            (status.publisher.asking, status.publisher.synced, status.publisher.last_error.clone())
        };
        let etcd = |error: Option<String>| {
            vec![error.map_or_else(|| "the registry".to_owned(), |error| format!("the registry: {error}"))]
        };
        if !drained {
            // What was drained has ended meanwhile, or was taken back.
            return if synced { Vec::new() } else { etcd(error) };
        }
        let Some((_, revision)) = asking.filter(|(told, _)| *told >= round) else { return etcd(error) };
        let (reply, acks) = oneshot::channel();
        if self.commands.send(Command::Acknowledged(reply)).await.is_err() {
            return vec!["the agent, which is stopping".into()];
        }
        let acks = match acks.await {
            Ok(Ok(acks)) => acks,
            Ok(Err(error)) => return etcd(Some(error)),
            Err(_) => return vec!["the agent, which is stopping".into()],
        };
        let view = Arc::clone(&self.view.borrow());
        if !view.listed || view.stale_since.is_some() {
            return etcd(Some("it cannot be heard, so nobody knows which hosts live".into()));
        }
        let lives = |(origin, host): (&Origin, &Arc<crate::model::Host>)| match origin {
            Origin::Registry(id) if *id != self.host && !host.session.nonce.is_empty() => Some(id.clone()),
            _ => None,
        };
        let behind = view.hosts.iter().filter_map(lives).filter(|id| acks.get(id).is_none_or(|held| *held < revision));
        behind.map(|id| format!("host {id}")).collect()
    }
}
