//! Follows where other hosts reach us, and tells the registry side: asks the kernel and the resolver, and lets
//! `advertise.rs` choose.
//!
//! The first choice waits for Docker's first list, because an address inside one of Docker's subnets, such as the one
//! towards an etcd that runs in a container of this host, must not be published even for a moment. Only
//! publishing waits with it: the registry is followed and names are answered meanwhile. Where Docker is away the choice is made without it.
//! That may be wrong until Docker comes, but a restart that took our addresses away would be wrong on every host.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Result;
use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval_at, timeout},
};
use tracing::info;

use super::advertise::{Known, choose};
use crate::{
    config::Config,
    model::{Local, Problem, Session},
    registry::driver::Command,
    watch::{docker, host},
};

/// How often the addresses that others reach us by are looked at again: interfaces change without telling us.
const ADVERTISE_EVERY: Duration = Duration::from_secs(10);
/// How long the resolver may take for the name of an etcd endpoint when our own address is looked for.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);
/// How long the first choice waits for Docker's first list. 1,000 containers take half a second; and the shortest lease
/// (5 s), which a restart must renew in time, bears it.
const FIRST_LIST: Duration = Duration::from_secs(2);

/// What came of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Advertised {
    /// The first choice has been made, and stands in the session.
    pub(super) chosen: bool,
    /// What is wrong with what was found.
    pub(super) problems: Vec<Problem>,
}

/// What the kernel and the resolver say of our way to others.
pub(super) struct Route {
    configured: Vec<IpAddr>,
    /// Each etcd endpoint with our source address towards it, as last found: a lookup that fails changes nothing.
    towards: Vec<(String, Vec<IpAddr>)>,
    default_route: Vec<IpAddr>,
}

impl Route {
    pub(super) fn new(config: &Config) -> Self {
        let authority = |endpoint: &String| {
            let rest = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
            (rest.trim_end_matches('/').to_owned(), Vec::new())
        };
        let towards = config.etcd_endpoints.value.iter().map(authority).collect();
        Self { configured: config.advertise.value.clone(), towards, default_route: Vec::new() }
    }

    async fn look(&mut self) {
        if !self.configured.is_empty() {
            return;
        }
        let lookups = self.towards.iter_mut().map(|(authority, sources)| async move {
            if let Ok(Ok(found)) = timeout(LOOKUP_DEADLINE, tokio::net::lookup_host(authority.as_str())).await {
                let found: Vec<IpAddr> = found.filter_map(|address| host::source_towards(address).ok()).collect();
                if !found.is_empty() {
                    *sources = found;
                }
            }
        });
        join_all(lookups).await;
        self.default_route = host::default_source();
    }

    fn choose(&self, local: &Local) -> (Vec<IpAddr>, Vec<Problem>) {
        let towards_etcd: Vec<IpAddr> = self.towards.iter().flat_map(|(_, sources)| sources).copied().collect();
        let (configured, default_route) = (self.configured.as_slice(), self.default_route.as_slice());
        choose(Known { configured, towards_etcd: &towards_etcd, default_route, local })
    }
}

/// Keeps what others are told of our addresses right.
pub(super) struct Advertiser {
    pub(super) route: Route,
    pub(super) local: watch::Receiver<Arc<Local>>,
    pub(super) docker: watch::Receiver<docker::Status>,
    pub(super) session: watch::Sender<Arc<Session>>,
    pub(super) advertised: watch::Sender<Arc<Advertised>>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Whether no other agent of this host publishes.
    pub(super) may_publish: watch::Receiver<bool>,
}

impl Advertiser {
    /// Chooses, and chooses again whenever something it depends on has changed.
    pub(super) async fn follow(mut self) -> Result<()> {
        tokio::join!(self.route.look(), docker_is_known(&mut self.local, &mut self.docker));
        // The choice, be it that there is none, begins publishing: a restart must not look like a host without address.
        self.choose();
        self.may_publish.wait_for(|may| *may).await?;
        let first = self.session.borrow().advertise.clone();
        self.commands.send(Command::Advertise(first)).await?;
        let mut ticks = interval_at(Instant::now() + ADVERTISE_EVERY, ADVERTISE_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.route.look().await,
                changed = self.local.changed() => changed?,
            }
            if let Some(chosen) = self.choose() {
                info!(?chosen, "other hosts reach us here from now on");
                self.commands.send(Command::Advertise(chosen)).await?;
            }
        }
    }

    /// Puts the choice of the moment into the session; `None` if it stands there already.
    fn choose(&mut self) -> Option<Vec<IpAddr>> {
        let (chosen, problems) = self.route.choose(&self.local.borrow_and_update());
        let changed = self.session.send_if_modified(|session| {
            let changed = session.advertise != chosen;
            if changed {
                Arc::make_mut(session).advertise.clone_from(&chosen);
            }
            changed
        });
        self.advertised.send_replace(Arc::new(Advertised { chosen: true, problems }));
        changed.then_some(chosen)
    }
}

/// Waits until Docker has been listed or is known to be away, but not for ever.
async fn docker_is_known(local: &mut watch::Receiver<Arc<Local>>, docker: &mut watch::Receiver<docker::Status>) {
    let known = async {
        tokio::select! {
            _ = local.wait_for(|local| local.listed) => {}
            _ = docker.wait_for(|status| status.last_error.is_some()) => {}
        }
    };
    let _late = timeout(FIRST_LIST, known).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Driver, Network, NetworkId, Scope};

    struct Bed {
        local: watch::Sender<Arc<Local>>,
        docker: watch::Sender<docker::Status>,
        session: watch::Receiver<Arc<Session>>,
        advertised: watch::Receiver<Arc<Advertised>>,
        commands: mpsc::Receiver<Command>,
        started: Instant,
    }

    /// An advertiser that was told to use this address.
    fn bed(configured: &str) -> Bed {
        let (local, local_end) = watch::channel(Arc::default());
        let (docker, docker_end) = watch::channel(docker::Status::default());
        let (session, session_end) = watch::channel(Arc::default());
        let (advertised, advertised_end) = watch::channel(Arc::default());
        let (commands, commands_end) = mpsc::channel(16);
        let route =
            Route { configured: vec![configured.parse().unwrap()], towards: Vec::new(), default_route: Vec::new() };
        let (_, may_publish) = watch::channel(true);
        let advertiser =
            Advertiser { route, local: local_end, docker: docker_end, session, advertised, commands, may_publish };
        tokio::spawn(advertiser.follow());
        let (session, advertised, commands) = (session_end, advertised_end, commands_end);
        Bed { local, docker, session, advertised, commands, started: Instant::now() }
    }

    impl Bed {
        /// The first choice, and how long it took.
        async fn first(&mut self) -> (Vec<IpAddr>, Duration) {
            self.advertised.wait_for(|advertised| advertised.chosen).await.unwrap();
            (self.session.borrow().advertise.clone(), self.started.elapsed())
        }

        /// What the registry side is told next.
        async fn told(&mut self) -> Vec<IpAddr> {
            match self.commands.recv().await {
                Some(Command::Advertise(chosen)) => chosen,
                other => panic!("{other:?}"),
            }
        }
    }

    /// What Docker's first list shows: one bridge.
    fn listed() -> Arc<Local> {
        let id = NetworkId("n1".into());
        let network = Network {
            id: id.clone(),
            name: "shop_default".into(),
            driver: Driver::Bridge,
            scope: Scope::Local,
            internal: false,
            icc: true,
            subnets: vec!["172.18.0.0/16".parse().unwrap()],
            gateways: Vec::new(),
        };
        Arc::new(Local { listed: true, networks: [(id, Arc::new(network))].into_iter().collect(), ..Local::default() })
    }

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_choice_knows_dockers_networks() {
        for (configured, chosen) in [("172.18.0.1", ""), ("10.0.0.5", "10.0.0.5")] {
            let mut bed = bed(configured);
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(
                !bed.advertised.borrow().chosen && bed.session.borrow().advertise.is_empty(),
                "not before the list"
            );
            bed.local.send_replace(listed());
            assert_eq!(bed.first().await, (ips(chosen), Duration::from_millis(300)));
            assert_eq!(bed.advertised.borrow().problems.len(), usize::from(chosen.is_empty()));
            assert_eq!(bed.told().await, ips(chosen), "publishing begins with it, also with none");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_delays_nothing() {
        let mut bed = bed("172.18.0.1");
        bed.docker.send_modify(|status| status.last_error = Some("no such socket".to_owned()));
        assert_eq!(bed.first().await, (ips("172.18.0.1"), Duration::ZERO));
        bed.local.send_replace(listed());
        assert_eq!((bed.told().await, bed.told().await), (ips("172.18.0.1"), ips("")));
        assert_eq!(bed.session.borrow().advertise, ips(""), "taken back when Docker says so");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_says_nothing_is_waited_for_no_longer_than_so() {
        let mut bed = bed("10.0.0.5");
        assert_eq!(bed.first().await, (ips("10.0.0.5"), FIRST_LIST));
    }
}
