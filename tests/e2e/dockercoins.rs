//! DockerCoins, deploy/examples/dockercoins, as one Compose project over three hosts: no label, bare names, scaled while it
//! runs, and replicas and a whole host taken away and brought back. Once over routed subnets, once over a Swarm overlay.
//! Afterwards the workers' own logs are judged: no request failed but those that were under way on what died.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    bed::{A, B, C, Container, Host, Network, SOON, eventually, outer, run, unique},
    deploy::{Socket, compose, repository},
    drain::portolan,
    swarm::Swarm,
};

/// Where it runs: engines of one version, as a swarm wants them.
const HOSTS: [Host; 3] = [A, B, C];
/// Forty containers on two cores.
const LONG: Duration = Duration::from_secs(120);
/// An engine that starts its containers again: some 10 s here.
const ENGINE_SOON: Duration = Duration::from_secs(60);
/// The agents' lease, as it is without any flag; design P4: a host that crashed is gone 3 s after it.
const LEASE: Duration = Duration::from_secs(30);
const AFTER_LEASE: Duration = Duration::from_secs(3);
/// Design P4: an address is gone this long after its container's end.
const GONE: Duration = Duration::from_secs(1);
/// The bed's agents know this range as `--routed`.
const RANGE: &str = "10.77.0.0/16";
const IMAGE: &str = "portolan-test-dockercoins";
const SERVICES: [&str; 5] = ["rng", "hasher", "redis", "worker", "webui"];
/// What every worker asks.
const BACKENDS: [&str; 3] = ["rng", "hasher", "redis"];

/// Replicas on each host, in the order of `SERVICES`.
type Scale = [[usize; 5]; 3];
/// The first worker has none of its backends on its own host.
const SMALL: Scale = [[1, 1, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]];
const FULL: Scale = [[7, 2, 1, 3, 1], [7, 2, 0, 4, 1], [6, 1, 0, 3, 0]];
/// Some of `FULL` fewer.
const FEWER: Scale = [[5, 1, 1, 3, 1], [4, 1, 0, 4, 1], [6, 1, 0, 3, 0]];

const WITHOUT_C: Scale = [FULL[0], FULL[1], [0; 5]];

/// Mends what the test broke, also when it fails.
struct Mend<F: Fn()>(F);

impl<F: Fn()> Drop for Mend<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[derive(PartialEq)]
enum Kill {
    Host,
    Replicas,
}

/// How containers of different hosts reach each other.
trait Topology: Sync {
    /// The file beside compose.yaml.
    const FILE: &'static str;
    /// Whether a host is killed as well. It takes a lease's time, and is all the same to both.
    const KILL: Kill;
    fn lay() -> Self;
    /// What the files ask for.
    fn environment(&self, host: Host) -> (&'static str, String);
}

/// Each host has a subnet of its own, and routes to the others'.
struct Routed;

fn subnet(host: Host) -> String {
    format!("10.77.{}.0/24", host.address.octets()[3])
}

impl Topology for Routed {
    const FILE: &'static str = "routed.yaml";
    const KILL: Kill = Kill::Host;

    fn lay() -> Self {
        let routed = Self;
        let script = std::fs::read_to_string(example("routes.sh")).expect("the example's script");
        for host in HOSTS {
            let others = HOSTS.iter().filter(|other| **other != host);
            let routes: Vec<String> = others.map(|other| format!("{}={}", subnet(*other), other.address)).collect();
            let routes = routes.join(" ");
            // Docker sets this policy on a machine that forwarded nothing before; the bed's hosts did.
            host.shell(&format!(
                "mkdir -p /etc/host-up.d
                 cat >/usr/local/bin/routes.sh <<'END'\n{script}\nEND
                 printf '#!/bin/sh\\niptables -P FORWARD DROP\\nexec sh /usr/local/bin/routes.sh {RANGE} {routes}\\n' \
                     >/etc/host-up.d/routes
                 chmod +x /etc/host-up.d/routes
                 /etc/host-up.d/routes"
            ));
        }
        routed
    }

    fn environment(&self, host: Host) -> (&'static str, String) {
        ("DOCKERCOINS_SUBNET", subnet(host))
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for host in HOSTS {
            host.shell(&format!(
                "rm -f /etc/host-up.d/routes /usr/local/bin/routes.sh
                 iptables -P FORWARD ACCEPT
                 iptables -D DOCKER-USER -s {RANGE} -d {RANGE} -j ACCEPT || true
                 iptables -t nat -D POSTROUTING -s {RANGE} ! -d {RANGE} -j MASQUERADE || true
                 ip route show | grep '^10[.]77[.][0-9./]* via' | while read -r to _; do ip route del $to; done"
            ));
        }
    }
}

/// One overlay network of a swarm of all hosts.
struct Overlay {
    /// An overlay is on a worker only while a container is: Compose would not find it.
    _holders: Vec<Container>,
    network: Network,
    _swarm: Swarm,
}

impl Topology for Overlay {
    const FILE: &'static str = "overlay.yaml";
    const KILL: Kill = Kill::Replicas;

    fn lay() -> Self {
        let swarm = Swarm::form(&HOSTS);
        let network = swarm.overlay(&unique("coins"));
        let holder = |host: &Host| host.run_command(&unique("holder"), &["--network", &network.name], &["sleep", "1d"]);
        Self { _holders: HOSTS.iter().map(holder).collect(), network, _swarm: swarm }
    }

    fn environment(&self, _: Host) -> (&'static str, String) {
        ("DOCKERCOINS_NETWORK", self.network.name.clone())
    }
}

fn example(file: &str) -> PathBuf {
    repository("deploy/examples/dockercoins").join(file)
}

/// The project on all hosts; dropped, it is gone, and what it ran on after it.
struct Coins<T: Topology> {
    project: String,
    sockets: [Socket; 3],
    topology: T,
}

/// A container of the project.
#[derive(Clone, Debug)]
struct Instance {
    host: Host,
    id: String,
    service: String,
    address: String,
}

impl<T: Topology> Coins<T> {
    fn new() -> Self {
        Self { project: unique("coins"), sockets: HOSTS.map(Socket::to), topology: T::lay() }
    }

    fn compose(&self, host: usize, arguments: &[&str]) -> Result<String, String> {
        let (key, value) = self.topology.environment(HOSTS[host]);
        run(compose()
            .env("DOCKER_HOST", self.sockets[host].url())
            .env("DOCKERCOINS_IMAGE", IMAGE)
            .env(key, value)
            .args(["-p", &self.project, "-f"])
            .arg(example("compose.yaml"))
            .arg("-f")
            .arg(example(T::FILE))
            .args(arguments))
    }

    /// Does so on all hosts at a time.
    fn on_all(&self, act: impl Fn(usize) -> Result<String, String> + Sync) -> Result<(), String> {
        thread::scope(|scope| {
            let act = &act;
            let acts: Vec<_> = (0..HOSTS.len()).map(|host| scope.spawn(move || act(host))).collect();
            acts.into_iter().try_for_each(|act| act.join().expect("no panic").map(drop))
        })
    }

    fn scale(&self, to: Scale) {
        self.on_all(|host| {
            let scales: Vec<String> = SERVICES.iter().zip(to[host]).map(|(s, n)| format!("--scale={s}={n}")).collect();
            let scales: Vec<&str> = scales.iter().map(String::as_str).collect();
            self.compose(host, &[&["up", "-d", "--no-recreate"], &scales[..]].concat())
        })
        .unwrap_or_else(|error| panic!("compose up: {error}"));
        self.known(to);
    }

    /// Waits until every host knows just so many replicas, all ready.
    fn known(&self, scale: Scale) {
        self.known_at(&HOSTS, scale);
    }

    fn known_at(&self, hosts: &[Host], scale: Scale) {
        for host in hosts {
            let expected: BTreeMap<String, u64> = SERVICES
                .iter()
                .enumerate()
                .map(|(index, service)| ((*service).to_owned(), scale.iter().map(|on| on[index] as u64).sum()))
                .filter(|(_, count)| *count > 0)
                .collect();
            eventually(&format!("{} knows {expected:?}", host.container), LONG, || {
                let told = portolan(*host, &["services", &self.project, "-o", "json"])?;
                let told: serde_json::Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
                let services = told["services"].as_array().cloned().unwrap_or_default();
                let ready = |s: &serde_json::Value| Some((s["service"].as_str()?.to_owned(), s["ready"].as_u64()?));
                let ready: BTreeMap<String, u64> = services.iter().filter_map(ready).collect();
                if ready == expected { Ok(()) } else { Err(format!("{ready:?}")) }
            });
        }
    }

    fn instances(&self) -> Vec<Instance> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.Id}} {{index .Config.Labels \"com.docker.compose.service\"}} \
                      {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let on = |host: Host| {
            let list = format!("docker ps -q --filter {filter} | xargs -r docker inspect -f '{format}'");
            // A host that is away has none.
            let listed =
                run(Command::new("docker").args(["exec", host.container, "sh", "-c", &list])).unwrap_or_default();
            let read = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [id, service, address] => {
                    Some(Instance { host, id: id[..12].into(), service: service.into(), address: address.into() })
                }
                _ => None,
            };
            listed.lines().filter_map(read).collect::<Vec<_>>()
        };
        HOSTS.into_iter().flat_map(on).collect()
    }

    /// Waits until every worker has been served by every replica that there is.
    fn all_meet(&self) {
        let instances = self.instances();
        let backends: BTreeSet<String> = instances
            .iter()
            .filter(|instance| BACKENDS.contains(&instance.service.as_str()))
            .map(|instance| format!("served {} {}", instance.service, instance.address))
            .collect();
        for worker in instances.iter().filter(|instance| instance.service == "worker") {
            eventually(&format!("worker {} on {} is served by all", worker.id, worker.host.container), LONG, || {
                let log = log(worker);
                let missing: Vec<&String> =
                    backends.iter().filter(|line| !log.contains(&format!("{line}\n"))).collect();
                if missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?}")) }
            });
        }
    }

    /// Waits until the counter has grown by so much, read from both pages in turn.
    fn grow(&self, by: u64) {
        let pages: Vec<Host> =
            self.instances().into_iter().filter(|i| i.service == "webui").map(|instance| instance.host).collect();
        let (start, mut last, mut turn) = (hashes(A), 0, 0);
        eventually(&format!("the counter grows by {by} from {start}"), LONG, || {
            let now = hashes(pages[turn % pages.len()]);
            turn += 1;
            assert!(now >= last, "the counter fell from {last} to {now}");
            last = now;
            if now >= start + by { Ok(()) } else { Err(now.to_string()) }
        });
    }
}

impl<T: Topology> Drop for Coins<T> {
    fn drop(&mut self) {
        // Not by Compose: this is as good, and takes a second.
        let label = format!("--filter label=com.docker.compose.project={}", self.project);
        let down = format!(
            "docker ps -aq {label} | xargs -r docker rm -fv; docker network ls -q {label} | xargs -r docker network rm"
        );
        let down = |host: usize| run(Command::new("docker").args(["exec", HOSTS[host].container, "sh", "-c", &down]));
        let down = self.on_all(down);
        if !thread::panicking() {
            down.unwrap_or_else(|error| panic!("it is not taken down: {error}"));
        }
    }
}

/// The counter, from the page that a host publishes.
fn hashes(host: Host) -> u64 {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((host.address, 8000)), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET /json HTTP/1.0\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    let reply = fetch().unwrap_or_else(|error| panic!("the page of {}: {error}", host.container));
    let told = reply.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<serde_json::Value>(body).ok());
    told.and_then(|told| told["hashes"].as_u64()).unwrap_or_else(|| panic!("no counter in {reply}"))
}

/// What a worker has told, over all its lives.
fn log(worker: &Instance) -> String {
    worker.host.shell(&format!("docker logs {} 2>&1", worker.id))
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis()
}

/// The end of a container that nobody announced, in milliseconds since 1970.
#[derive(Debug)]
struct Death {
    host: Host,
    address: String,
    /// It lived until here at least,
    from: u128,
    /// and until here at most.
    until: u128,
    /// Until then its address may still be given.
    given: u128,
}

impl Death {
    /// Whether a request that began and ended then, and was taken by that address, was under way when it died.
    fn excuses_failure(&self, address: &str, begun: u128, ended: u128) -> bool {
        self.address == address && begun <= self.until && ended >= self.from
    }

    /// Whether it may have been tried in vain then.
    fn excuses_try(&self, address: &str, begun: u128) -> bool {
        self.address == address && begun <= self.given
    }
}

/// What all workers told.
#[derive(Debug, Default)]
struct Told {
    /// What the counter must have been raised by, and at most.
    added: u64,
    adding: u64,
    /// Requests under way on what died, and addresses tried in vain before they were withdrawn.
    excused: [usize; 2],
    failed: Vec<String>,
    skipped: Vec<String>,
    /// Addresses that refused: somebody is there and does not listen yet.
    refused: usize,
    waited: Vec<String>,
}

impl Told {
    fn read(&mut self, worker: &Instance, log: &str, deaths: &[Death]) {
        for line in log.lines() {
            let place = || format!("worker {} on {}: {line}", worker.id, worker.host.container);
            let time = |text: &str| text.parse::<u128>().unwrap_or_else(|_| panic!("{}", place()));
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["added", count] => self.added += count.parse::<u64>().expect("a number"),
                ["adding", count] => self.adding += count.parse::<u64>().expect("a number"),
                ["failed", _, address, begun, ended, ..] => {
                    if deaths.iter().any(|death| death.excuses_failure(address, time(begun), time(ended))) {
                        self.excused[0] += 1;
                    } else {
                        self.failed.push(place());
                    }
                }
                ["skipped", _, address, begun, ..] => {
                    if deaths.iter().any(|death| death.excuses_try(address, time(begun))) {
                        self.excused[1] += 1;
                    } else if line.contains("Connection refused") {
                        self.refused += 1;
                    } else {
                        self.skipped.push(place());
                    }
                }
                // Where a whole host starts, workers may be there before the agent is.
                ["waiting", _, at, ..]
                    if worker.host == C && deaths.iter().any(|d| d.host == C && d.until < time(at)) => {}
                ["waiting", ..] => self.waited.push(place()),
                ["served", _, _] => {}
                _ => panic!("not a line of a worker's: {}", place()),
            }
        }
    }
}

/// Waits until a host's engine answers; the error says what it has said, what runs there and, if it runs, what it waits for.
fn engine_is_up(host: Host) -> Result<(), String> {
    let until = Instant::now() + ENGINE_SOON;
    while let Err(why) = host.try_docker(&["info"]) {
        if Instant::now() >= until {
            let look =
                "ps ax; kill -USR1 $(pidof dockerd); sleep 2; cat /var/run/docker/goroutine-stacks-*.log | head -n 400";
            return Err(format!("{why}\n{}", host.try_shell(look).unwrap_or_else(|error| error)));
        }
        thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

/// Kills host C in the middle of its work, and brings it back once the others have forgotten it. Gives who died.
fn kill_a_host<T: Topology>(coins: &Coins<T>) -> Vec<Death> {
    let away = coins.instances().into_iter().filter(|instance| instance.host == C);
    let (from, addresses) = (now(), away.map(|instance| instance.address).collect::<Vec<_>>());
    outer(&["kill", C.container]);
    let back = Mend(|| {
        outer(&["start", C.container]);
        if let Err(why) = engine_is_up(C) {
            // Two of some ten runs on other machines ended so, and nothing had said why. A person would do the same.
            eprintln!("{} is started once more, its engine does not come up: {why}", C.container);
            outer(&["restart", "-t", "1", C.container]);
            if let Err(why) = engine_is_up(C)
                && !thread::panicking()
            {
                panic!("{} has no engine: {why}", C.container);
            }
        }
    });
    let (until, gone) = (now(), Instant::now() + LEASE + AFTER_LEASE);
    let given = until + (LEASE + AFTER_LEASE).as_millis();
    coins.grow(100);
    coins.known_at(&[A, B], WITHOUT_C);
    assert!(Instant::now() < gone, "the others are without host C in time");
    // Nobody is sent to its former addresses any more: when it is back, others of its containers may have them.
    coins.grow(100);
    drop(back);
    coins.known(FULL);
    addresses.into_iter().map(|address| Death { host: C, address, from, until, given }).collect()
}

/// Runs the application through all that may happen to it.
fn run_through<T: Topology>() {
    let coins = Coins::<T>::new();
    let mut deaths = Vec::new();
    let step = |what: &str, began: Instant| eprintln!("{:6.1} s  {what}: {}", began.elapsed().as_secs_f64(), hashes(A));
    let began = Instant::now();

    let mut backends = SMALL;
    backends.iter_mut().for_each(|on| on[3] = 0);
    coins.scale(backends);
    coins.scale(SMALL);
    coins.grow(10);
    step("one worker, its backends on another host", began);
    coins.scale(FULL);
    coins.all_meet();
    coins.grow(100);
    step("scaled up, everybody served by everybody", began);
    coins.scale(FEWER);
    coins.grow(100);
    coins.scale(FULL);
    coins.grow(100);
    step("scaled down and up again", began);

    // Without a word.
    let instances = coins.instances();
    let killed = [("rng", B), ("hasher", C)].map(|(service, host)| {
        let one = instances.iter().find(|i| i.service == service && i.host == host).expect("one there").clone();
        let from = now();
        host.docker(&["kill", &one.id]);
        let until = now();
        deaths.push(Death { host, address: one.address.clone(), from, until, given: until + GONE.as_millis() });
        one
    });
    coins.grow(100);
    killed.iter().for_each(|one| drop(one.host.docker(&["start", &one.id])));
    coins.known(FULL);
    coins.grow(100);
    step("two replicas killed and started again", began);

    // A whole host, announced.
    portolan(C, &["drain", "--host", "--wait"]).expect("drained");
    let undrain = Mend(|| drop(portolan(C, &["undrain", "--host"])));
    coins.compose(2, &["stop"]).expect("compose stop");
    coins.known(WITHOUT_C);
    coins.grow(100);
    coins.compose(2, &["start"]).expect("compose start");
    drop(undrain);
    coins.known(FULL);
    coins.all_meet();
    step("a host drained, stopped and brought back", began);

    if T::KILL == Kill::Host {
        deaths.extend(kill_a_host(&coins));
        coins.all_meet();
        coins.grow(100);
        step("a host killed and brought back", began);
    }

    let workers: Vec<Instance> = coins.instances().into_iter().filter(|i| i.service == "worker").collect();
    coins.on_all(|host| coins.compose(host, &["stop", "worker"])).expect("compose stop");
    let mut told = Told::default();
    workers.iter().for_each(|worker| told.read(worker, &log(worker), &deaths));
    let counted = hashes(A);
    eprintln!(
        "{counted} hashes of {} workers; with who died {} requests failed and {} tries; {} were refused at a start",
        workers.len(),
        told.excused[0],
        told.excused[1],
        told.refused
    );
    assert_eq!(told.failed, [""; 0], "failed requests");
    assert_eq!(told.skipped, [""; 0], "addresses that nobody should have been given");
    assert_eq!(told.waited, [""; 0], "backends that were not there at a worker's start");
    // Each start may be seen by each worker once.
    assert!(told.refused <= 5, "{} tries at containers that did not listen", told.refused);
    assert!(
        (told.added..=told.adding).contains(&counted),
        "{counted} counted; {} added of {}",
        told.added,
        told.adding
    );
}

#[test]
fn dockercoins_over_routed_subnets() {
    run_through::<Routed>();
}

#[test]
fn dockercoins_over_a_swarm_overlay() {
    run_through::<Overlay>();
}
