//! What about this host keeps names from working as well as they could, though nothing of ours is broken: told as
//! problems, each with its fix, and once in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use super::holders;
use crate::{
    dns::{forward, listen::DNS_PORT, server::BindState},
    model::{Local, Problem, Resident, Residents, Silence},
};

/// How often resolv.conf is looked at, as often as for our own upstreams.
const REREAD: Duration = Duration::from_secs(5);

/// Looks at the host, and again whenever something has changed.
pub(super) struct Surroundings {
    /// The file that dockerd reads, too.
    pub(super) resolv_conf: PathBuf,
    pub(super) local: watch::Receiver<Arc<Local>>,
    pub(super) bound: watch::Receiver<Arc<BTreeMap<SocketAddr, BindState>>>,
    pub(super) residents: watch::Receiver<Arc<Residents>>,
    pub(super) problems: watch::Sender<Arc<Vec<Problem>>>,
}

impl Surroundings {
    pub(super) async fn follow(mut self) -> Result<()> {
        let resolved = forward::Options::default().resolved;
        let mut ticks = interval(REREAD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = self.local.changed() => changed?,
                changed = self.bound.changed() => changed?,
            }
            let states = Arc::clone(&self.bound.borrow_and_update());
            let holders = match holders::worth_a_look(&states) {
                // It goes through all processes if there is one.
                Some((ports, tables)) => {
                    spawn_blocking(move || holders::look(Path::new("/proc"), &ports, tables)).await.unwrap_or_default()
                }
                None => BTreeSet::new(),
            };
            let mut found: Vec<Problem> = {
                let local = self.local.borrow_and_update();
                unproven(&local).into_iter().chain(apart(&local)).collect()
            };
            found.extend(holders::problems(&holders, &states));
            found.extend(kept_from_starting(&self.residents.borrow(), &states));
            // A file that cannot be read is a problem of the forwarder, if it is one at all.
            if let Ok((path, servers)) = forward::name_servers(&self.resolv_conf, &resolved) {
                let bound = states.iter().filter(|(_, state)| matches!(state, BindState::Bound { .. }));
                found.extend(circles(path, &servers, &bound.map(|(address, _)| *address).collect::<Vec<_>>()));
            }
            self.problems.send_if_modified(|known| {
                let is_new = |problem: &&Problem| known.iter().all(|known| known.place != problem.place);
                for Problem { place, found, expected } in found.iter().filter(is_new) {
                    warn!(place, found, "{expected}");
                }
                let changed = **known != found;
                *known = Arc::new(found);
                changed
            });
        }
    }
}

/// Published ports that are not offered to other bridges, because it cannot be seen who holds them.
fn unproven(local: &Local) -> Option<Problem> {
    let ports: Vec<String> = local.unproven.iter().map(|(proto, port)| format!("{port}/{}", proto.as_str())).collect();
    let expected = "the engine's processes in sight of the agent (`pid: host` in Compose, `--pid host`): until then \
                    these ports are not offered to containers on other bridges of this host, for without docker-proxy \
                    they would be dropped";
    (!ports.is_empty()).then(|| Problem::new("published ports", &ports.join(" "), expected))
}

/// Containers that cannot start because they want port 53 of all addresses, some of which we answer on.
fn kept_from_starting(residents: &Residents, bound: &BTreeMap<SocketAddr, BindState>) -> Vec<Problem> {
    let is_ours = |(address, state): &(&SocketAddr, &BindState)| {
        address.port() == DNS_PORT && matches!(state, BindState::Bound { .. })
    };
    let ours: Vec<String> = bound.iter().filter(is_ours).map(|(address, _)| address.to_string()).collect();
    // A problem shows the first 80 characters of what was found, so one address stands for all.
    let Some((first, others)) = ours.split_first() else { return Vec::new() };
    let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    let waits = |resident: &&Arc<Resident>| {
        resident.wants_dns_port && matches!(resident.silence, Some(Silence::Stopped | Silence::Restarting))
    };
    let problem = |resident: &Arc<Resident>| {
        Problem::new(
            format!("container {} ({}), published port 53", resident.name, resident.container),
            &format!("on all addresses, and this agent answers on {first}{others}"),
            "one address of this host in front of it (`-p 10.0.0.5:53:53`), or `--dns` of the agent without docker and auto, such \
             as `--dns 127.0.0.1:5300`: until then Docker cannot start the container",
        )
    };
    residents.values().filter(waits).map(problem).collect()
}

/// Bridges of the engine that are not in the agent's network namespace.
fn apart(local: &Local) -> Option<Problem> {
    let names = local.networks.iter().filter(|(id, _)| local.apart.contains(*id)).map(|(_, network)| &*network.name);
    let names: Vec<&str> = names.collect();
    let expected = "the agent in the network namespace of its engine (not with rootless Docker): until then processes \
                    of this host are given published ports in the place of containers' own addresses";
    (!names.is_empty())
        .then(|| Problem::new("bridge networks in another network namespace", &names.join(" "), expected))
}

/// Name servers by which dockerd would pass containers' questions on to us. It asks those on loopback from the host's
/// own network, so that every container looks like this host.
fn circles(path: &Path, servers: &[SocketAddr], bound: &[SocketAddr]) -> Vec<Problem> {
    let is_ours = |server: &SocketAddr| {
        let wildcard = |ours: &SocketAddr| ours.ip().is_unspecified() && ours.is_ipv4() == server.is_ipv4();
        bound.iter().any(|ours| ours.port() == server.port() && (ours.ip() == server.ip() || wildcard(ours)))
    };
    let problem = |server: &SocketAddr| {
        Problem::new(
            format!("{}, nameserver {}", path.display(), server.ip()),
            "this agent's own listener on loopback",
            "containers that are given the gateway of a bridge or another fixed address of this host, by `--dns` or by \
             `dns` in daemon.json: Docker asks servers on loopback from the host itself, so that nobody can tell which \
             container asks",
        )
    };
    servers.iter().filter(|server| server.ip().is_loopback() && is_ours(server)).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proto;

    #[test]
    fn docker_would_ask_us_by_loopback_addresses_that_we_listen_on() {
        let rows = [
            // name servers of the host, where we listen, those that are told
            ("127.0.0.1:53", "127.0.0.1:53", "127.0.0.1"),
            ("127.0.0.1:53", "0.0.0.0:53", "127.0.0.1"),
            ("[::1]:53", "[::]:53", "::1"),
            ("[::1]:53", "0.0.0.0:53", ""),
            ("10.0.0.1:53 127.0.0.5:53 127.0.0.6:53", "127.0.0.5:53 127.0.0.6:53", "127.0.0.5 127.0.0.6"),
            ("127.0.0.1:53", "127.0.0.1:5300", ""),
            ("127.0.0.53:53", "127.0.0.1:53", ""),
            // Not on loopback: asked from inside the container, whose address we see.
            ("172.17.0.1:53", "172.17.0.1:53", ""),
            ("172.17.0.1:53", "0.0.0.0:53", ""),
            ("", "127.0.0.1:53", ""),
        ];
        let parse = |text: &str| text.split_whitespace().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (servers, bound, told) in rows {
            let problems = circles("/etc/resolv.conf".as_ref(), &parse(servers), &parse(bound));
            let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
            let expected: Vec<String> =
                told.split_whitespace().map(|ip| format!("/etc/resolv.conf, nameserver {ip}")).collect();
            assert_eq!(places, expected, "{servers} while we listen on {bound}");
        }
    }

    #[test]
    fn a_container_that_wants_our_port_is_told_the_way_out() {
        let resident = |name: &str, silence: Option<Silence>, wants_dns_port: bool| {
            let container = crate::model::ShortId::parse(&format!("{:0<12}", name.len())).unwrap();
            let namespace = crate::model::Label::default_namespace();
            let resident = Resident {
                container,
                name: name.into(),
                namespace,
                silence,
                problems: Box::default(),
                outsider: None,
                search: Box::default(),
                wants_dns_port,
            };
            (container, Arc::new(resident))
        };
        let residents = Residents::from_iter([
            resident("pihole", Some(Silence::Stopped), true),
            resident("restarts", Some(Silence::Restarting), true),
            resident("web", Some(Silence::Stopped), false),
            // It has the port, so it is we who do not.
            resident("running", None, true),
        ]);
        let bound = |text: &str| BTreeMap::from([(text.parse().unwrap(), BindState::Bound { receive_buffer: 1 })]);
        let problems = kept_from_starting(&residents, &bound("172.17.0.1:53"));
        let mut places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
        places.sort_unstable();
        let expected = [
            "container pihole (600000000000), published port 53",
            "container restarts (800000000000), published port 53",
        ];
        assert_eq!(places, expected);
        assert!(problems[0].found.ends_with("172.17.0.1:53") && problems[0].expected.contains("-p 10.0.0.5:53:53"));
        assert_eq!(kept_from_starting(&residents, &bound("127.0.0.1:5300")), []);
    }

    #[test]
    fn ports_whose_holder_is_hidden_are_named() {
        let mut local = Local::default();
        assert_eq!(unproven(&local), None);
        local.unproven = Arc::new([(Proto::Tcp, 8080), (Proto::Udp, 53)].into());
        assert_eq!(unproven(&local).unwrap().found, "8080/tcp 53/udp");
    }
}
