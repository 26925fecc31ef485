//! Which bare names the namespaces of this host's containers have had, kept over a restart: what ended while no agent ran must
//! not lead its clients to another team's service of that name either.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::sleep,
};
use tracing::warn;

use super::snapshots::seconds_since_1970;
use crate::{
    dns::{
        server::Shared,
        zone::{MAX_LOST, Service, Zone},
    },
    model::{Catalog, Label, Local},
    registry::state::{KeptName, StateDirectory},
};

/// What changes is on disk this much later, and no more often: a name that came and went within it is forgotten.
const EVERY: Duration = Duration::from_secs(5);

/// Keeps them on disk.
pub(super) struct Names {
    pub(super) state: Arc<StateDirectory>,
    pub(super) shared: Arc<Shared>,
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    pub(super) may_write: watch::Receiver<bool>,
}

impl Names {
    /// Ends only with the agent.
    pub(super) async fn follow(mut self) -> Result<()> {
        // Until then the files are another agent's.
        self.may_write.wait_for(|may| *may).await?;
        let mut written = Vec::new();
        let mut is_failing = false;
        loop {
            self.catalog.changed().await?;
            sleep(EVERY).await;
            self.catalog.mark_unchanged();
            let (zone, local) = (self.shared.zone(), self.shared.local());
            // What is not known yet may be on disk from before.
            if !zone.is_complete() {
                continue;
            }
            let state = Arc::clone(&self.state);
            let before = std::mem::take(&mut written);
            let (outcome, names) = spawn_blocking(move || {
                let names = names(&zone, &local);
                let outcome = if names == before { Ok(()) } else { state.save_names(&names) };
                (outcome, names)
            })
            .await?;
            match outcome {
                Ok(()) => {
                    written = names;
                    is_failing = false;
                }
                Err(error) if !is_failing => {
                    warn!(%error, "bare names that were held are not kept over a restart");
                    is_failing = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// Names that were lost, and those that the namespaces of this host's containers have now, which would be lost if they were
/// not there at the next start; at most [`MAX_LOST`].
fn names(zone: &Zone, local: &Local) -> Vec<KeptName> {
    let lost = zone.lost().map(|(name, namespace, until)| KeptName {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        until: Some(until),
    });
    let asking: BTreeSet<&Label> = local.askers.values().map(|asker| &asker.namespace).collect();
    let held = zone
        .services()
        .map(Service::name)
        .filter(|(namespace, _)| asking.contains(namespace) && **namespace != Label::global());
    let held = held.map(|(namespace, name)| KeptName {
        name: name.to_string(),
        namespace: namespace.to_string(),
        until: None,
    });
    let mut all: Vec<KeptName> = lost.chain(held).take(MAX_LOST).collect();
    all.sort();
    all
}

/// The zone of an agent that starts: what was on disk counts as lost until it is found again.
pub(super) fn remembered(state: &StateDirectory, hold: u64) -> Zone {
    let now = seconds_since_1970();
    let kept = state.names().into_iter().map(|kept| {
        // A clock that has gone back makes nothing last longer.
        let until = kept.until.unwrap_or(u64::MAX).min(now.saturating_add(hold));
        (kept.name, kept.namespace, until)
    });
    Zone::default().later(now, hold).with_lost(kept)
}

/// Lets a bare name be looked for in `global` again, whatever namespace has lost it: how many had.
pub(super) fn free(shared: &Shared, free: &mpsc::Sender<String>, name: &str) -> usize {
    let settings = shared.settings();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let name = name.strip_suffix(settings.apex.as_str()).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&name);
    let held = shared.zone().lost().filter(|(held, ..)| *held == name).count();
    // A queue that is full of such orders loses this one, which is as if it had not been given.
    if held > 0 && free.try_send(name.to_owned()).is_err() { 0 } else { held }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fixture::World;

    #[test]
    fn what_a_namespace_has_and_what_it_has_lost_is_lost_at_the_next_start_until_it_is_found() {
        let world = World::parse(
            "network n1 bridge 172.18.0.0/16
             asker f1 shop n1=172.18.0.9
             host own 192.0.2.1
               a1 @n1=172.18.0.2 name=shop-db-1 db.shop 5432/tcp web.shop 80/tcp
               a2 @n1=172.18.0.3 name=blog-db-1 db.blog 5432/tcp
               a3 @n1=172.18.0.4 name=team-db db.global 5432/tcp",
        );
        let now = seconds_since_1970();
        let mut catalog = world.catalog.clone();
        catalog.hosts.clear();
        let lost = world.zone.later(now, 3600).update(&world.catalog, &catalog);
        let shown = |names: Vec<KeptName>| -> Vec<String> {
            let until = |kept: &KeptName| kept.until.map_or("now".to_owned(), |until| (until - now).to_string());
            names.iter().map(|kept| format!("{}.{} {}", kept.name, kept.namespace, until(kept))).collect()
        };
        // Of other namespaces no container of this host asks.
        assert_eq!(shown(names(&world.zone, &world.local)), ["db.shop now", "web.shop now"]);
        let all = names(&lost, &world.local);
        assert_eq!(
            shown(all),
            ["blog-db-1.blog 3600", "db.blog 3600", "db.shop 3600", "shop-db-1.shop 3600", "web.shop 3600"]
        );

        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        assert_eq!(remembered(&state, 3600).lost().count(), 0, "nothing was kept");
        state.save_names(&names(&world.zone, &world.local)).unwrap();
        let first = remembered(&state, 3600);
        assert_eq!(first.lost().map(|(name, ..)| name).collect::<Vec<_>>(), ["db", "web"]);
        assert!(first.lost().all(|(.., until)| (now + 3600..now + 3700).contains(&until)));
        assert_eq!(first.update(&Catalog::default(), &world.catalog).lost().count(), 0, "all is there again");
        assert_eq!(remembered(&state, 0).lost().count(), 0, "--fallback-after 0s");
        // A file that cannot be read is as good as none.
        std::fs::write(directory.path().join("names.json"), b"{").unwrap();
        assert_eq!(remembered(&state, 3600).lost().count(), 0);
    }
}
