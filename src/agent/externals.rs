//! External services of all sources → one [`Desired`], on its way to the catalog past our own checks.
//!
//! They come from the configuration file (this host's own), from the state directory (registered over the control socket
//! of an agent with the embedded registry) and from etcd (everybody's). Of one name the file's counts, then the state
//! directory's: who writes closest to the host means it most.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::{Mutex, oneshot, watch};

use crate::{
    api::external::{NotRegistered, Registered},
    config::{Config, Registry},
    model::{Desired, ExternalName, Externals},
    registry::{
        external::{self, ExternalError},
        mirror::View,
        state::StateDirectory,
    },
};

/// What this host alone knows, and what everybody does.
pub(super) struct Sources {
    pub(super) configured: Externals,
    pub(super) kept: watch::Receiver<Arc<Externals>>,
    pub(super) view: watch::Receiver<Arc<View>>,
    /// `--zone`
    pub(super) apex: String,
    pub(super) desired: watch::Sender<Arc<Desired>>,
}

impl Sources {
    /// Ends only with the agent.
    pub(super) async fn follow(mut self) -> Result<()> {
        let mut known: Option<Externals> = None;
        loop {
            let registered = self.view.borrow_and_update().externals.clone();
            let kept = Externals::clone(&self.kept.borrow_and_update());
            let all = self.configured.clone().union(kept).union(registered);
            // The view changes with every container of the fleet.
            if known.as_ref().is_none_or(|known| *known != all) {
                self.desired.send_replace(Arc::new(external::desired(&all, &self.apex)));
                known = Some(all);
            }
            tokio::select! {
                changed = self.view.changed() => changed?,
                changed = self.kept.changed() => changed?,
            }
        }
    }
}

/// The configured ones; the file was checked before.
pub(super) fn configured(texts: &[(ExternalName, crate::model::External)]) -> Externals {
    texts.iter().map(|(name, external)| (name.clone(), Arc::new(external.clone()))).collect()
}

/// `register` and `unregister` on the control socket.
pub(super) struct Keeper {
    registry: Registry,
    apex: String,
    state: Arc<StateDirectory>,
    kept: watch::Sender<Arc<Externals>>,
    /// One change after the other, for each begins with what is kept.
    turn: Mutex<()>,
}

impl Keeper {
    /// Begins with what the last agent kept. With etcd nothing is: then everything is there.
    pub(super) fn new(config: &Config, state: Arc<StateDirectory>, kept: watch::Sender<Arc<Externals>>) -> Self {
        let (registry, apex) = (config.registry.value, config.zone.value.clone());
        if registry == Registry::Memory {
            let parsed = state.externals().into_iter().filter_map(|text| {
                let parsed = external::parse(&text);
                if let Err(error) = &parsed {
                    tracing::warn!(%error, text, "a registered service cannot be read and is left out");
                }
                parsed.ok()
            });
            kept.send_replace(Arc::new(parsed.map(|(name, external)| (name, Arc::new(external))).collect()));
        }
        Self { registry, apex, state, kept, turn: Mutex::new(()) }
    }

    /// Carries out `register` with the words of [`external`](mod@external), or `unregister` with a name alone.
    pub(super) async fn change(self: Arc<Self>, order: Order) -> Result<Registered, NotRegistered> {
        if self.registry != Registry::Memory {
            return Err(NotRegistered::Elsewhere);
        }
        let invalid = |error: ExternalError| NotRegistered::Invalid(error.to_string());
        let _turn = self.turn.lock().await;
        let mut next = Externals::clone(&self.kept.borrow());
        let (name, before) = match order {
            Order::Register(text) => {
                let (name, external) = external::parse(&text).map_err(invalid)?;
                external::leads_out(&external, &self.apex).map_err(invalid)?;
                if next.len() >= external::MAX_EXTERNALS && !next.contains_key(&name) {
                    return Err(NotRegistered::Invalid(format!(
                        "at most {} external services",
                        external::MAX_EXTERNALS
                    )));
                }
                let before = next.insert(name.clone(), Arc::new(external));
                (name, before)
            }
            Order::Unregister(text) => {
                let name = external::parse_name(&text).map_err(invalid)?;
                let Some(before) = next.remove(&name) else { return Err(NotRegistered::NoSuch(name.to_string())) };
                (name, Some(before))
            }
        };
        let texts: Vec<String> = next.iter().map(|(name, external)| external::words(name, external)).collect();
        let state = Arc::clone(&self.state);
        let (tell, told) = oneshot::channel();
        // It is synced to disk, which takes as long as it takes.
        tokio::task::spawn_blocking(move || tell.send(state.save_externals(&texts)));
        match told.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(NotRegistered::Unkept(error.to_string())),
            Err(_) => return Err(NotRegistered::Unkept("the agent is ending".into())),
        }
        self.kept.send_replace(Arc::new(next));
        Ok(Registered { name: name.to_string(), replaced: before.map(|before| external::words(&name, &before)) })
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Order {
    Register(String),
    Unregister(String),
}
