//! External services of all sources → one [`Desired`], on its way to the catalog past our own checks.
//!
//! They come from the configuration file (this host's own), from the state directory (registered over the control socket
//! of an agent with the embedded registry) and from etcd (everybody's). Of one name the file's counts, then the state
//! directory's: who writes closest to the host means it most.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::{Mutex, watch};

use super::reload::Live;
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
    /// The configured ones, as they are now.
    pub(super) live: watch::Receiver<Arc<Live>>,
    /// With etcd: what it last had, and where that is kept. Until etcd is heard it stands in, so that a service which
    /// has moved away does not move back because this agent is restarted while etcd is down.
    pub(super) remembers: Option<(Externals, Arc<StateDirectory>)>,
    pub(super) kept: watch::Receiver<Arc<Externals>>,
    /// Whether the state directory is ours alone.
    pub(super) may_write: watch::Receiver<bool>,
    pub(super) view: watch::Receiver<Arc<View>>,
    /// `--zone`
    pub(super) apex: String,
    pub(super) desired: watch::Sender<Arc<Desired>>,
}

impl Sources {
    /// Ends only with the agent.
    pub(super) async fn follow(mut self) -> Result<()> {
        let mut known: Option<(bool, Externals, Arc<Externals>, Arc<Live>)> = None;
        loop {
            let (listed, registered) = {
                let view = self.view.borrow_and_update();
                (view.listed, view.externals.clone())
            };
            let kept = Arc::clone(&self.kept.borrow_and_update());
            let live = Arc::clone(&self.live.borrow_and_update());
            // The view changes with every container of the fleet.
            let is_known = known.as_ref().is_some_and(|(before, externals, own, configured)| {
                *before == listed
                    && externals.ptr_eq(&registered)
                    && Arc::ptr_eq(own, &kept)
                    && Arc::ptr_eq(configured, &live)
            });
            if !is_known {
                let theirs = match &self.remembers {
                    Some((remembered, _)) if !listed => remembered.clone(),
                    _ => registered.clone(),
                };
                let all = live.externals.clone().union(Externals::clone(&kept)).union(theirs);
                self.desired.send_replace(Arc::new(external::desired(&all, &self.apex, listed)));
                known = Some((listed, registered.clone(), kept, live));
            }
            if listed && *self.may_write.borrow_and_update() {
                self.remember(&registered).await;
            }
            tokio::select! {
                Ok(()) = self.may_write.changed() => {}
                changed = self.view.changed() => changed?,
                changed = self.kept.changed() => changed?,
                changed = self.live.changed() => changed?,
            }
        }
    }

    async fn remember(&mut self, registered: &Externals) {
        let Some((remembered, state)) = &mut self.remembers else { return };
        if remembered.ptr_eq(registered) {
            return;
        }
        if remembered != registered
            && let Err(error) = save(state, texts(registered)).await
        {
            tracing::warn!(error, "what is registered is not kept: a restart while etcd is down will not know it");
        }
        *remembered = registered.clone();
    }
}

fn texts(externals: &Externals) -> Vec<String> {
    externals.iter().map(|(name, external)| external::words(name, external)).collect()
}

/// It is synced to disk, which takes as long as it takes.
async fn save(state: &Arc<StateDirectory>, texts: Vec<String>) -> Result<(), String> {
    let state = Arc::clone(state);
    let saved = tokio::task::spawn_blocking(move || state.save_externals(&texts)).await;
    saved.map_err(|_| "the agent is ending".to_owned())?.map_err(|error| error.to_string())
}

/// What the state directory holds.
pub(super) struct Found {
    pub(super) externals: Externals,
    /// Of a later version, perhaps: written back as it is.
    unread: Vec<String>,
}

/// Reads what the last agent left.
pub(super) fn found(state: &StateDirectory) -> Found {
    let (mut externals, mut unread) = (Externals::new(), Vec::new());
    for text in state.externals() {
        match external::parse(&text) {
            Ok((name, external)) => drop(externals.insert(name, Arc::new(external))),
            Err(error) => {
                tracing::warn!(%error, text, "a registered service cannot be read and is left out");
                unread.push(text);
            }
        }
    }
    Found { externals, unread }
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
    unread: Vec<String>,
    /// One change after the other, for each begins with what is kept.
    turn: Mutex<()>,
}

impl Keeper {
    /// Begins with what the last agent kept. With etcd nothing is: then everything is there.
    pub(super) fn new(
        config: &Config,
        state: Arc<StateDirectory>,
        kept: watch::Sender<Arc<Externals>>,
        Found { externals, unread }: Found,
    ) -> Self {
        let (registry, apex) = (config.registry.value, config.zone.value.clone());
        if registry == Registry::Memory {
            kept.send_replace(Arc::new(externals));
        }
        Self { registry, apex, state, kept, unread, turn: Mutex::new(()) }
    }

    /// Carries out `register` with the words of [`external`](mod@external), or `unregister` with a name alone. To its end,
    /// also when nobody waits for it any more: file and answers must not part.
    pub(super) async fn obey(self: Arc<Self>, order: Order) -> Result<Registered, NotRegistered> {
        let changed = tokio::spawn(async move { self.change(order).await }).await;
        changed.unwrap_or_else(|_| Err(NotRegistered::Unkept("the agent is ending".into())))
    }

    async fn change(&self, order: Order) -> Result<Registered, NotRegistered> {
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
                    let most = format!("at most {} external services", external::MAX_EXTERNALS);
                    return Err(NotRegistered::Invalid(most));
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
        let mut lines = texts(&next);
        lines.extend_from_slice(&self.unread);
        save(&self.state, lines).await.map_err(NotRegistered::Unkept)?;
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
