//! Swarm services over two engines: their tasks by name, each address opened, drained and scaled; and a stack as a
//! namespace. Services have `--endpoint-mode dnsrr`: a virtual address would need IPVS in the kernel.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use super::{
    bed::{A, B, C, Container, Host, Network, SAMPLE, SOON, etcdctl, eventually, expect, unique},
    dns::Answer,
    drain::portolan,
};

/// Swarm starts and ends tasks one after the other, on two cores.
const SWARM_SOON: Duration = Duration::from_secs(30);

/// How long an overlay may take until packets pass: engines tell each other of new endpoints by gossip, and what was missed
/// is exchanged every 30 s only.
pub(crate) const OVERLAY_SOON: Duration = Duration::from_secs(75);

/// A swarm, whose manager is the first of its members. Engines that keep containers alive over a restart cannot join one,
/// so that is off meanwhile. Dropped, all have left.
pub(crate) struct Swarm(Vec<Host>);

impl Swarm {
    pub(crate) fn form(members: &[Host]) -> Self {
        let swarm = Self(members.to_vec());
        let [manager, workers @ ..] = members else { panic!("a swarm has members") };
        swarm.live_restore(false);
        manager.docker(&["swarm", "init", "--advertise-addr", &manager.address.to_string()]);
        let token = manager.docker(&["swarm", "join-token", "-q", "worker"]);
        for worker in workers {
            let (own, manager) = (worker.address.to_string(), format!("{}:2377", manager.address));
            worker.docker(&["swarm", "join", "--token", token.trim(), "--advertise-addr", &own, &manager]);
        }
        swarm
    }

    /// Makes an overlay to which containers of all members can be attached.
    pub(crate) fn overlay(&self, name: &str) -> Network {
        self.0[0].docker(&["network", "create", "-d", "overlay", "--attachable", name]);
        Network { host: self.0[0], name: name.to_owned() }
    }

    fn live_restore(&self, on: bool) {
        let switch = format!(
            "sed -i 's/\"live-restore\": {}/\"live-restore\": {on}/' /etc/docker/daemon.json; kill -HUP $(pidof dockerd)",
            !on
        );
        for host in &self.0 {
            host.shell(&switch);
            eventually(&format!("{} has live-restore {on}", host.container), SOON, || {
                let is_on = host.docker(&["info", "-f", "{{.LiveRestoreEnabled}}"]);
                if is_on.trim() == on.to_string() { Ok(()) } else { Err(is_on) }
            });
        }
    }
}

/// Leaves the swarm, if the host is in one. A busy engine gives up on leaving ("context deadline exceeded") and stays in it:
/// it takes live-restore all the same, and then does not start a second time.
fn leave(host: Host) -> Result<(), String> {
    let until = Instant::now() + SWARM_SOON;
    loop {
        let left = host.try_docker(&["swarm", "leave", "--force"]);
        let state = host.try_docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"])?;
        // What it would join again by when it starts.
        let kept = host.try_shell("ls -A /var/lib/docker/swarm")?;
        if state.trim() == "inactive" && kept.trim().is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            let (name, state) = (host.container, state.trim());
            return Err(format!("{name} is still {state} in its swarm: {left:?}; {kept}"));
        }
        thread::park_timeout(Duration::from_millis(200));
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let left: Vec<Result<(), String>> = self.0.iter().rev().map(|host| leave(*host)).collect();
        let failed: Vec<String> = left.into_iter().filter_map(Result::err).collect();
        for host in &self.0 {
            drop(host.try_docker(&["network", "rm", "docker_gwbridge"]));
        }
        match (failed.is_empty(), thread::panicking()) {
            (true, _) => self.live_restore(true),
            (false, true) => eprintln!("{failed:?}"),
            (false, false) => panic!("{failed:?}"),
        }
    }
}

const MEMBERS: [Host; 2] = [B, C];
const MANAGER: Host = B;

/// A service of the swarm, or one of a stack; dropped, it and its tasks are gone.
struct Service {
    /// As Swarm calls it: with the stack before it.
    name: String,
    /// How it is removed.
    remove: Vec<String>,
    network: String,
}

impl Service {
    fn create(network: &Network, replicas: usize) -> Self {
        let name = unique("web");
        let (count, network) = (replicas.to_string(), network.name.clone());
        let remove = ["service", "rm", &name].map(str::to_owned).to_vec();
        let service = Self { name, remove, network };
        let options = ["--detach", "--no-resolve-image", "--endpoint-mode", "dnsrr", "--stop-grace-period", "1s"];
        let own = ["--name", &service.name, "--replicas", &count, "--network", &service.network, SAMPLE];
        MANAGER.docker(&[&["service", "create"], &options[..], &own[..]].concat());
        service
    }

    /// Deploys a stack with one service called `service`.
    fn deploy(stack: &str, service: &str, network: &Network, replicas: usize) -> Self {
        let file = format!(
            "{{\"version\": \"3.7\", \"networks\": {{\"default\": {{\"external\": true, \"name\": \"{}\"}}}},
              \"services\": {{\"{service}\": {{\"image\": \"{SAMPLE}\", \"stop_grace_period\": \"1s\",
              \"deploy\": {{\"replicas\": {replicas}, \"endpoint_mode\": \"dnsrr\"}}}}}}}}",
            network.name
        );
        let remove = ["stack", "rm", stack].map(str::to_owned).to_vec();
        let deployed = Self { name: format!("{stack}_{service}"), remove, network: network.name.clone() };
        MANAGER.shell(&format!("docker stack deploy --resolve-image never -c - {stack} <<<'{file}'"));
        deployed
    }

    fn scale(&self, replicas: usize) {
        MANAGER.docker(&["service", "scale", "--detach", &format!("{}={replicas}", self.name)]);
    }

    /// Its tasks' addresses, each with its host and the name of its container.
    fn tasks(&self) -> BTreeMap<String, (Host, String)> {
        let filter = format!("label=com.docker.swarm.service.name={}", self.name);
        let format = format!("{{{{.Name}}}} {{{{(index .NetworkSettings.Networks {:?}).IPAddress}}}}", self.network);
        let mut tasks = BTreeMap::new();
        for host in MEMBERS {
            let ids = host.docker(&["ps", "-q", "--filter", &filter]);
            for id in ids.lines() {
                // One that has ended since has no address, or is not there any more.
                let shown = host.try_docker(&["inspect", "-f", &format, id]).unwrap_or_default();
                if let [name, address] = shown.split_whitespace().collect::<Vec<_>>()[..] {
                    tasks.insert(address.to_owned(), (host, name.trim_start_matches('/').to_owned()));
                }
            }
        }
        tasks
    }

    /// Waits until so many tasks run.
    fn settled(&self, replicas: usize) -> BTreeMap<String, (Host, String)> {
        eventually(&format!("{} has {replicas} tasks", self.name), SWARM_SOON, || {
            let tasks = self.tasks();
            if tasks.len() == replicas { Ok(tasks) } else { Err(format!("{tasks:?}")) }
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(MANAGER.try_docker(&self.remove.iter().map(String::as_str).collect::<Vec<_>>()));
        // The network can only be removed once no task is on it. No panic here: the swarm has to be left in any case.
        let filter = format!("label=com.docker.swarm.service.name={}", self.name);
        let until = Instant::now() + SWARM_SOON;
        for host in MEMBERS {
            let remain =
                || host.try_docker(&["ps", "-aq", "--filter", &filter]).is_ok_and(|ids| !ids.trim().is_empty());
            while remain() && Instant::now() < until {
                thread::park_timeout(Duration::from_millis(50));
            }
        }
    }
}

/// Waits until every asker is given just these tasks.
fn given(askers: &[Container], name: &str, tasks: &BTreeMap<String, (Host, String)>) {
    let expected = Answer::found(tasks.keys());
    for asker in askers {
        expect(&format!("{} is given {name}", asker.name), &expected, || asker.ask(name, "A"));
    }
}

fn askers(network: &Network) -> [Container; 2] {
    MEMBERS.map(|host| host.run(&unique("asker"), &["--network", &network.name]))
}

/// The keys that etcd holds for these containers.
fn records(tasks: &BTreeMap<String, (Host, String)>) -> Vec<String> {
    let all = etcdctl(&["get", "--prefix", "/portolan/v1/hosts/"]).expect("etcd answers");
    // A record begins with its container's name, which ends in the task's id: nobody else has it.
    tasks.values().filter(|(_, name)| all.contains(name.as_str())).map(|(_, name)| name.clone()).collect()
}

#[test]
fn tasks_of_a_service_are_found_by_name_and_each_opens_and_drains_and_leaves_no_ghost() {
    let swarm = Swarm::form(&MEMBERS);
    let overlay = swarm.overlay(&unique("overlay"));
    let service = Service::create(&overlay, 4);
    let askers = askers(&overlay);
    let tasks = service.settled(4);
    let on = |host: Host| tasks.values().filter(|(other, _)| *other == host).count();
    assert!(MEMBERS.iter().all(|host| on(*host) > 0), "tasks on both: {tasks:?}");

    // A task has no stack: its namespace is `default`, and so is that of the askers.
    let name = format!("{}.default.svc.internal", service.name);
    given(&askers, &name, &tasks);
    given(&askers, &format!("{}.svc.internal", service.name), &tasks);
    for asker in &askers {
        for address in tasks.keys() {
            eventually(&format!("{address} opens from {}", asker.name), OVERLAY_SOON, || {
                asker.connect(&format!("{address}:80"))
            });
        }
    }
    expect("who is not on the overlay is given nothing", &Answer::NoData, || A.ask(&name, RecordType::A));

    let (drained, (host, container)) = tasks.iter().find(|(_, (host, _))| *host == C).expect("a task on host C");
    portolan(*host, &["drain", container, "--wait"]).expect("drained");
    let rest = Answer::found(tasks.keys().filter(|address| *address != drained));
    for asker in &askers {
        assert_eq!(asker.ask(&name, "A"), rest, "at once at {}", asker.name);
    }
    given(&askers, &format!("all.{name}"), &tasks);
    portolan(*host, &["undrain", container]).expect("undrained");
    given(&askers, &name, &tasks);

    service.scale(1);
    let remaining = service.settled(1);
    given(&askers, &name, &remaining);
    let left: BTreeMap<_, _> = tasks.into_iter().filter(|(address, _)| !remaining.contains_key(address)).collect();
    assert_eq!(records(&remaining).len(), 1, "the record that is there is found, or finding none proves nothing");
    eventually("etcd holds none of those that left", SOON, || match records(&left) {
        ghosts if ghosts.is_empty() => Ok(()),
        ghosts => Err(format!("{ghosts:?}")),
    });
    service.scale(3);
    given(&askers, &name, &service.settled(3));
    drop(service);
    for asker in &askers {
        expect("its end is seen", &Answer::NoName, || asker.ask(&name, "A"));
    }
}

#[test]
fn a_stack_is_a_namespace_and_its_tasks_find_their_own_service() {
    let swarm = Swarm::form(&MEMBERS);
    let overlay = swarm.overlay(&unique("overlay"));
    let plain = Service::create(&overlay, 2);
    let stack = unique("shop");
    // The same name, in and outside of the stack.
    let stacked = Service::deploy(&stack, &plain.name, &overlay, 3);
    let (plain_tasks, stack_tasks) = (plain.settled(2), stacked.settled(3));
    let askers = askers(&overlay);

    given(&askers, &format!("{}.{stack}.svc.internal", plain.name), &stack_tasks);
    given(&askers, &format!("{}.default.svc.internal", plain.name), &plain_tasks);
    given(&askers, &format!("{}.svc.internal", plain.name), &plain_tasks);
    for address in stack_tasks.keys() {
        eventually(&format!("{address} opens"), OVERLAY_SOON, || askers[0].connect(&format!("{address}:80")));
    }
    // Tasks ask from docker_gwbridge, and still each is known for what it is.
    for (tasks, own) in
        [(&stack_tasks, Answer::found(stack_tasks.keys())), (&plain_tasks, Answer::found(plain_tasks.keys()))]
    {
        for (host, name) in tasks.values() {
            // Not a `Container`: Swarm takes it away.
            let text = || host.docker(&["exec", name, "dig", "+short", &format!("{}.svc.internal", plain.name)]);
            expect(&format!("{name} is given its own"), &own, || Answer::found(text().lines()));
        }
    }
    // Swarm's own spellings of the service, asked of the agent itself: on the overlay the engine would answer them.
    let all = Answer::found(stack_tasks.keys());
    let (host, task) = stack_tasks.values().next().expect("a task");
    for spelling in [stacked.name.clone(), format!("tasks.{}", stacked.name), format!("tasks.{}", plain.name)] {
        let server = format!("@{}", host.address);
        let ask = |task: &str| host.docker(&["exec", task, "dig", "+short", &server, &format!("{spelling}.")]);
        expect(&format!("a task of the stack is given {spelling}"), &all, || Answer::found(ask(task).lines()));
    }
}
