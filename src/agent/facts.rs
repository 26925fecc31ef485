//! The numbers of every part, collected when somebody asks the API for them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::route::Advertised;
use crate::{
    api::{CacheFacts, CheckFacts, Collect, DnsFacts, DockerFacts, Facts, Listener, RegistryFacts, UpstreamFacts},
    dns::{
        forward::{Forwarder, UpstreamState},
        server::{BindState, Counter, Shared},
    },
    model::{Desired, Problem},
    registry::{driver, mirror::View},
    watch::{docker, probe},
};

/// Where the numbers are.
pub(super) struct Sources {
    pub(super) kind: &'static str,
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    pub(super) externals: watch::Receiver<Arc<Desired>>,
    pub(super) docker: watch::Receiver<docker::Status>,
    pub(super) registry: watch::Receiver<driver::Status>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) bound: watch::Receiver<Arc<BTreeMap<SocketAddr, BindState>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) advertised: watch::Receiver<Arc<Advertised>>,
    pub(super) surroundings: watch::Receiver<Arc<Vec<Problem>>>,
    pub(super) checked: Arc<probe::Counts>,
}

/// Response codes by their number (RFC 1035 section 4.1.1).
const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// A function that collects them.
pub(super) fn collector(sources: Sources) -> Collect {
    Arc::new(move || sources.collect())
}

impl Sources {
    fn collect(&self) -> Facts {
        let listeners: Vec<Listener> =
            self.bound.borrow().iter().map(|(address, state)| listener(*address, state)).collect();
        Facts {
            docker: self.docker(),
            registry: self.registry(),
            dns: self.dns(),
            cache: self.cache(),
            checks: self.checks(),
            problems: self.problems(&listeners),
            listeners,
        }
    }

    fn docker(&self) -> DockerFacts {
        let docker::Status { connected, last_error, events, resyncs, lists, .. } = self.docker.borrow().clone();
        DockerFacts { connected, last_error, events, resyncs, lists }
    }

    fn checks(&self) -> CheckFacts {
        let (passed, failed) = self.checked.get();
        CheckFacts { containers: self.desired.borrow().checks.len() as u64, passed, failed }
    }

    fn registry(&self) -> RegistryFacts {
        let status = self.registry.borrow().clone();
        RegistryFacts {
            kind: self.kind,
            synced: status.publisher.synced,
            stale_for: status.stale_since.map(|since| since.elapsed()),
            lease: status.publisher.lease.map(|lease| lease.0),
            conflict: status.publisher.conflict,
            published: status.publisher.published as u64,
            writes: status.publisher.writes,
            relists: status.mirror.relists,
            lease_losses: status.publisher.lease_losses,
            undecodable: self.view.borrow().undecodable as u64,
            repairs: status.mirror.repairs + status.publisher.repairs,
            respelled: status.publisher.respelled,
            last_error: status.publisher.last_error.or(status.mirror.last_error),
        }
    }

    fn dns(&self) -> DnsFacts {
        let counts = self.shared.counts();
        let forwarded = self.forwarder.counts();
        let replies = RCODES.iter().zip(counts.rcodes()).map(|(name, count)| (*name, *count)).collect();
        DnsFacts {
            udp_queries: counts.get(Counter::UdpQueries),
            tcp_queries: counts.get(Counter::TcpQueries),
            replies,
            dropped: counts.get(Counter::Dropped),
            too_often: counts.get(Counter::TooOften),
            part_answers: counts.get(Counter::PartAnswers),
            truncated: counts.get(Counter::Truncated),
            odd_over_cap: counts.get(Counter::OddOverCap),
            forwarded: counts.get(Counter::Forwarded),
            forward_failures: forwarded.failed,
            private_answers: forwarded.private,
            tcp_connections: self.shared.tcp_connections(),
            tls_handshakes: counts.get(Counter::TlsHandshakes),
            tls_failures: counts.get(Counter::TlsFailures),
        }
    }

    fn cache(&self) -> CacheFacts {
        let (held, done) = (self.forwarder.cache(), self.forwarder.counts());
        CacheFacts {
            entries: held.entries,
            octets: held.octets,
            limit: held.limit,
            hits: held.hits,
            misses: held.misses,
            stale: done.stale,
            coalesced: done.coalesced,
            evictions: held.evictions,
            mismatched: done.mismatched,
            upstreams: self.forwarder.states().into_iter().map(upstream).collect(),
        }
    }

    fn problems(&self, listeners: &[Listener]) -> Vec<Problem> {
        let failed = listeners.iter().filter_map(|listener| {
            let reason = listener.error.as_ref()?;
            Some(Problem::new(
                format!("dns listener {}", listener.address),
                reason,
                "an address that can be bound; it is tried again",
            ))
        });
        let mut problems: Vec<Problem> = failed.collect();
        problems.extend_from_slice(&self.desired.borrow().problems);
        problems.extend_from_slice(&self.externals.borrow().problems);
        problems.extend_from_slice(&self.docker.borrow().problems);
        problems.extend(self.registry.borrow().problems());
        problems.extend_from_slice(&self.forwarder.problems());
        problems.extend_from_slice(&self.advertised.borrow().problems);
        problems.extend_from_slice(&self.surroundings.borrow());
        problems
    }
}

fn listener(address: SocketAddr, state: &BindState) -> Listener {
    let error = match state {
        BindState::Bound { .. } | BindState::Secured => None,
        BindState::Failed { reason, .. } => Some(reason.clone()),
    };
    Listener { address, error }
}

fn upstream(state: UpstreamState) -> UpstreamFacts {
    let word = match (state.is_looping, state.standing.is_down) {
        (true, _) => "loop",
        (_, true) => "down",
        _ => "up",
    };
    UpstreamFacts {
        domain: state.domain,
        address: state.address,
        state: word.to_owned(),
        rtt_ms: state.standing.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        failures: state.standing.failures,
    }
}
