//! A follower of the engine, with the ends of its channels, and what tests ask of them.

use std::{path::Path, sync::Arc};

use portolan::{
    model::{Asker, Desired, Label, Local, Publication},
    watch::docker::{self, Options, Outputs, Status},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::engine::{DEADLINE, SOCKET};

/// A follower of the engine, with the ends of its channels.
pub(crate) struct Follower {
    pub(crate) desired: watch::Receiver<Arc<Desired>>,
    pub(crate) local: watch::Receiver<Arc<Local>>,
    pub(crate) status: watch::Receiver<Status>,
    _task: JoinSet<()>,
}

impl Follower {
    /// Follows the engine itself, and waits for its first list.
    pub(crate) async fn listed() -> Self {
        let mut follower = Self::start(SOCKET, Options::default());
        follower.desired("the first list", |desired| desired.listed).await;
        follower
    }

    pub(crate) fn start(socket: impl AsRef<Path>, mut options: Options) -> Self {
        let (desired, desired_end) = watch::channel(Arc::default());
        let (local, local_end) = watch::channel(Arc::default());
        let (status, status_end) = watch::channel(Status::default());
        options.endpoint = format!("unix://{}", socket.as_ref().display()).parse().expect("an endpoint");
        let mut task = JoinSet::new();
        // Nobody commands it.
        let (_, commands) = mpsc::channel(1);
        let outputs = Outputs { desired, local, residents: watch::Sender::default(), status };
        task.spawn(docker::follow(options, outputs, commands));
        Self { desired: desired_end, local: local_end, status: status_end, _task: task }
    }

    /// Waits until what is published meets a condition.
    pub(crate) async fn desired(&mut self, what: &str, mut condition: impl FnMut(&Desired) -> bool) {
        wait(&mut self.desired, what, |desired| condition(desired)).await;
    }

    /// Waits until the publication of a container meets a condition.
    pub(crate) async fn publishes(&mut self, name: &str, mut condition: impl FnMut(&Publication) -> bool) {
        self.desired(&format!("{name} is published as expected"), |desired| {
            find(desired, name).is_some_and(|publication| condition(publication))
        })
        .await;
    }

    /// Waits until a container is not published.
    pub(crate) async fn withdraws(&mut self, name: &str) {
        self.desired(&format!("{name} is withdrawn"), |desired| find(desired, name).is_none()).await;
    }

    pub(crate) fn publication(&self, name: &str) -> Option<Arc<Publication>> {
        find(&self.desired.borrow(), name).cloned()
    }

    pub(crate) async fn local(&mut self, what: &str, mut condition: impl FnMut(&Local) -> bool) {
        wait(&mut self.local, what, |local| condition(local)).await;
    }

    pub(crate) async fn status(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) {
        wait(&mut self.status, what, condition).await;
    }
}

fn find<'a>(desired: &'a Desired, name: &str) -> Option<&'a Arc<Publication>> {
    desired.publications.values().find(|publication| &*publication.name == name)
}

/// All entries of the asker table for a container.
pub(crate) fn askers<'a>(local: &'a Local, name: &str) -> Vec<&'a Asker> {
    local.askers.values().map(|asker| &**asker).filter(|asker| &*asker.name == name).collect()
}

pub(crate) fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

async fn wait<T>(receiver: &mut watch::Receiver<T>, what: &str, mut condition: impl FnMut(&T) -> bool) {
    let met = tokio::time::timeout(DEADLINE, receiver.wait_for(|value| condition(value))).await;
    let met = met.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
    drop(met.expect("the follower lives"));
}
