//! Keeping the list of upstreams right: what it is made from is followed, and who leads back to us is found. \[IO\]

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    Inner, Upstreams,
    counts::count,
    exchange,
    key::Key,
    message::Question,
    probe::{Way, is_probe},
    resolv::Own,
    source::{Watch, read},
};

/// Upstreams are probed for loops this often, and when they change. A loop is made by people, who notice after minutes.
const PROBE: Duration = Duration::from_secs(300);

/// One that is disabled is looked at again this often.
const PROBE_AGAIN: Duration = Duration::from_secs(30);

impl Inner {
    /// Reads where upstreams come from and takes over what it says now.
    pub(super) fn look(&self) {
        let own = Own {
            listens: self.wanted.borrow().as_ref().clone(),
            addresses: self.local.borrow().addresses.as_ref().clone(),
        };
        // Two who look at once must not overtake each other.
        let probes = self.probes();
        let before = self.configured.load_full();
        let chosen = Arc::clone(&self.chosen.borrow());
        let configured = read(&chosen, &self.options.resolved, &own, &before);
        let current = configured.clone().without(probes.looping());
        if configured != *before {
            self.configured.store(Arc::new(configured));
            self.changed.send_replace(());
        }
        let previous = self.current.load_full();
        if current == *previous {
            return;
        }
        for problem in current.problems.iter().filter(|problem| !previous.problems.contains(problem)) {
            tracing::warn!(place = problem.place, found = problem.found, "{}", problem.expected);
        }
        let asks_as_before = current.site_names == previous.site_names
            && current.single_labels == previous.single_labels
            && (&current.general, &current.suffixes) == (&previous.general, &previous.suffixes);
        if !asks_as_before {
            let special: Vec<String> =
                current.suffixes.iter().map(|(suffix, upstreams)| format!("{suffix}={upstreams:?}")).collect();
            tracing::info!(upstreams = ?current.general, ?special, "other names are asked of these");
            self.cache.outdate();
        }
        self.current.store(Arc::new(current));
    }

    pub(super) async fn follow_sources(&self) {
        let (mut wanted, mut local) = (self.wanted.clone(), self.local.clone());
        let mut ticks = interval(self.options.reread);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut chosen = self.chosen.subscribe();
        let mut files = self.watch_files();
        loop {
            let changed = async {
                match &mut files {
                    Some(files) => files.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = ticks.tick() => {}
                () = changed => {}
                Ok(()) = wanted.changed() => {}
                Ok(()) = local.changed() => {}
                Ok(()) = chosen.changed() => files = self.watch_files(),
            }
            self.look();
        }
    }

    /// Tells of changes of the files that name upstreams, if files do.
    fn watch_files(&self) -> Option<Watch> {
        match &self.chosen.borrow().general {
            Upstreams::ResolvConf(path) => Watch::new(vec![path.clone(), self.options.resolved.clone()])
                .inspect_err(|error| tracing::warn!(%error, "resolv.conf is not followed, only read every few seconds"))
                .ok(),
            Upstreams::None | Upstreams::Fixed(_) => None,
        }
    }

    pub(super) async fn probe_for_ever(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let ways: Vec<Way> = self.configured.load().ways().collect();
            futures_util::future::join_all(ways.iter().map(|way| self.probe(way))).await;
            let pause = if self.probes().looping().is_empty() { PROBE } else { PROBE_AGAIN };
            // Whoever is no upstream any more disappears from the list by itself.
            let _ = timeout(pause, changed.changed()).await;
        }
    }

    /// Asks one upstream for a name that only we know. If it comes back meanwhile [`Inner::is_own_probe`] notices.
    async fn probe(&self, way: &Way) {
        let name = self.probes().begin(way, rand::random());
        let key = Key::address(&name);
        // What it replies tells nothing; that it takes its time neither.
        let _ = timeout(self.options.attempt, exchange::ask(&key, way.1, &self.counters)).await;
        if self.probes().end(&name) {
            tracing::info!(upstream = %way.1, "this upstream no longer leads back to us");
            self.look();
        }
    }

    /// Whether this is a question that we have asked to find loops.
    pub(super) fn is_own_probe(&self, question: &Question<'_>) -> bool {
        if !is_probe(question.name) {
            return false;
        }
        let Some(is_news) = self.probes().came_back(question.name) else { return false };
        count(&self.counters.loops);
        if is_news {
            self.look();
        }
        true
    }
}
