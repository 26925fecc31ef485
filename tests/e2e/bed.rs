//! The hosts of the bed and what runs on them, driven as a person would: `docker` commands, on each host's own engine.

use std::{
    collections::BTreeSet,
    fmt::Display,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use super::dns::{self, Answer};

/// How soon a change is seen by everyone, unless a test has a bound of its own. Generous: two cores run four engines.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// One Docker host of the bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its container on the engine that carries the bed.
    pub(crate) container: &'static str,
    /// Its address on the bridge between the hosts.
    pub(crate) address: Ipv4Addr,
    /// Its other address there.
    pub(crate) address6: Ipv6Addr,
}

/// Host A.
pub(crate) const A: Host = Host::new("portolan-test-host-a", 11);
/// Host B.
pub(crate) const B: Host = Host::new("portolan-test-host-b", 12);
/// Host C.
pub(crate) const C: Host = Host::new("portolan-test-host-c", 13);
/// Host D, whose engine is 26.1. The others' is 20.10.
pub(crate) const D: Host = Host::new("portolan-test-host-d", 14);
/// All of them.
pub(crate) const HOSTS: [Host; 4] = [A, B, C, D];
/// The members of etcd.
pub(crate) const ETCD: [&str; 3] = ["portolan-test-etcd1", "portolan-test-etcd2", "portolan-test-etcd3"];

/// Where etcd is asked.
pub(crate) const ENDPOINTS: &str = "http://172.31.77.2:2379,http://172.31.77.3:2379,http://172.31.77.4:2379";
/// The image that containers are made of.
pub(crate) const SAMPLE: &str = "portolan-test-sample";

impl Host {
    /// IPv6 addresses look like the others: `fd31:77::11` beside 172.31.77.11.
    const fn new(container: &'static str, number: u8) -> Self {
        let digits = (number / 10 * 16 + number % 10) as u16;
        Self {
            container,
            address: Ipv4Addr::new(172, 31, 77, number),
            address6: Ipv6Addr::new(0xfd31, 0x77, 0, 0, 0, 0, 0, digits),
        }
    }

    /// Runs `docker …` on this host's engine and gives what it printed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments).unwrap_or_else(|error| panic!("{}: docker {arguments:?}: {error}", self.container))
    }

    /// As `docker`, where failure is an answer.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        let told = run(Command::new("docker").args(["exec", self.container, "docker"]).args(arguments));
        told.map_err(|error| match error.contains("Cannot connect to the Docker daemon") {
            true => format!("{error}; the engine last said: {}", self.engine_s_last_words()),
            false => error,
        })
    }

    /// The end of the engine's log: of an engine that does not start, the only one who knows why. The reason why it ends is
    /// a line without a level, so all but what it says in its ordinary work is shown.
    pub(crate) fn engine_s_last_words(&self) -> String {
        let tail = "date -u; grep -vE 'level=(info|debug)' /var/log/dockerd.log | tail -n 8";
        run(Command::new("docker").args(["exec", self.container, "sh", "-c", tail])).unwrap_or_else(|error| error)
    }

    /// Runs a script in the host itself, beside its engine.
    pub(crate) fn shell(&self, script: &str) -> String {
        self.try_shell(script).unwrap_or_else(|error| panic!("{}: {script}: {error}", self.container))
    }

    /// As `shell`, where failure is an answer.
    pub(crate) fn try_shell(&self, script: &str) -> Result<String, String> {
        run(Command::new("docker").args(["exec", self.container, "bash", "-euo", "pipefail", "-c", script]))
    }

    /// Starts a container of the sample image; it serves TCP on port 80 for as long as it runs.
    pub(crate) fn run(&self, name: &str, options: &[&str]) -> Container {
        self.run_command(name, options, &[])
    }

    /// Starts a container of the sample image with a command of its own.
    pub(crate) fn run_command(&self, name: &str, options: &[&str], command: &[&str]) -> Container {
        let container = Container { host: *self, name: name.to_owned() };
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(options);
        arguments.push(SAMPLE);
        arguments.extend(command);
        self.docker(&arguments);
        container
    }

    /// Makes a network.
    pub(crate) fn network(&self, name: &str) -> Network {
        self.docker(&["network", "create", name]);
        Network { host: *self, name: name.to_owned() }
    }

    /// Where this host's agent answers those outside.
    pub(crate) fn dns(&self) -> SocketAddr {
        SocketAddr::from((self.address, 53))
    }

    /// Asks this host's agent from outside any host: as a stranger.
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Answer {
        dns::ask(self.dns(), name, kind)
    }

    /// Asks this host's agent from the host itself, with `dig`: every SRV target with its addresses of both families.
    pub(crate) fn ask_itself(&self, name: &str, kind: &str) -> Answer {
        let server = format!("@{}", self.address);
        let dig = ["exec", self.container, "dig", &server].into_iter().chain(DIG).chain([name, kind]);
        match run(Command::new("docker").args(dig)) {
            Ok(text) => read_dig(&text, &["A", "AAAA"]),
            Err(error) => Answer::Silence(error),
        }
    }

    /// As [`Container::connect`], from the host itself.
    pub(crate) fn connect(&self, target: &str) -> Result<(), String> {
        run(Command::new("docker").args(["exec", self.container, "sh", "-c", &fetch("busybox nc", target)?])).map(drop)
    }

    /// The body of a page of the agent's HTTP port, which listens on the host's loopback only.
    pub(crate) fn http(&self, path: &str) -> String {
        self.http_at(7300, path)
    }

    /// As `http`, of whoever listens on this port of loopback.
    pub(crate) fn http_at(&self, port: u16, path: &str) -> String {
        self.try_http_at(port, path).unwrap_or_else(|error| panic!("{}: {error}", self.container))
    }

    /// As `http_at`, of one that may not listen yet.
    pub(crate) fn try_http_at(&self, port: u16, path: &str) -> Result<String, String> {
        let reply = self.try_shell(&format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3"
        ))?;
        let body = reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        body.ok_or_else(|| format!("no HTTP reply to {path}: {reply}"))
    }

    /// One number of the agent's metrics.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = self.http("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no metric {name} in {metrics}"))
    }
}

/// A container on a host; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Container {
    /// Where it runs.
    pub(crate) host: Host,
    /// Its name there.
    pub(crate) name: String,
}

impl Container {
    /// Runs `docker VERB CONTAINER`.
    pub(crate) fn docker(&self, verb: &[&str]) -> String {
        let mut arguments = verb.to_vec();
        arguments.push(&self.name);
        self.host.docker(&arguments)
    }

    /// Its address on a network.
    pub(crate) fn address(&self, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        self.docker(&["inspect", "-f", &format]).trim().to_owned()
    }

    /// The host's port that Docker chose for its port 80.
    pub(crate) fn port(&self) -> u16 {
        let shown = self.host.docker(&["port", &self.name, "80/tcp"]);
        let port = shown.lines().next().and_then(|line| line.rsplit(':').next()).map(str::trim);
        port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{} has no port: {shown}", self.name))
    }

    /// Asks from inside, through the container's own resolver, with `dig`. Of SRV targets, what counts are their IPv4
    /// addresses.
    pub(crate) fn ask(&self, name: &str, kind: &str) -> Answer {
        self.dig(&[name, kind]).map_or_else(Answer::Silence, |text| read_dig(&text, &["A"]))
    }

    /// As `ask`; SRV targets are shown with their addresses of both families.
    pub(crate) fn ask_for_both(&self, name: &str, kind: &str) -> Answer {
        self.dig(&[name, kind]).map_or_else(Answer::Silence, |text| read_dig(&text, &["A", "AAAA"]))
    }

    /// Asks this server from inside.
    pub(crate) fn ask_at(&self, server: SocketAddr, name: &str, kind: &str) -> Answer {
        let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
        let asked = self.dig(&[&at, "-p", &port, name, kind]);
        asked.map_or_else(Answer::Silence, |text| read_dig(&text, &["A"]))
    }

    /// What `dig` prints inside.
    pub(crate) fn dig(&self, question: &[&str]) -> Result<String, String> {
        let dig = ["exec", &self.name, "dig"].into_iter().chain(DIG);
        self.host.try_docker(&dig.chain(question.iter().copied()).collect::<Vec<_>>())
    }

    /// Opens a TCP connection from inside to `address:port` and asks httpd for a page. The connection alone would prove
    /// little: docker-proxy accepts it before it knows whether anything listens behind.
    pub(crate) fn connect(&self, target: &str) -> Result<(), String> {
        self.host.try_docker(&["exec", &self.name, "sh", "-c", &fetch("nc", target)?]).map(drop)
    }
}

/// How `dig` is asked. One try: a retry would hide a lost answer.
pub(crate) const DIG: [&str; 6] = ["+tries=1", "+time=2", "+noall", "+comments", "+answer", "+additional"];

/// A script that is content when `address:port` serves a page.
fn fetch(nc: &str, target: &str) -> Result<String, String> {
    let (address, port) = target.rsplit_once(':').ok_or_else(|| format!("{target} is no address and port"))?;
    let address = address.trim_matches(['[', ']']);
    Ok(format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 5 {nc} -w 3 {address} {port} | grep -q '^HTTP/1'"))
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.host.try_docker(&["rm", "-fv", &self.name]));
    }
}

/// A network on a host; dropped, it is gone. Declared before its containers, it is dropped after them.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where it was made.
    pub(crate) host: Host,
    /// Its name there.
    pub(crate) name: String,
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.host.try_docker(&["network", "rm", &self.name]));
    }
}

/// A name nobody else uses.
pub(crate) fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A port of the hosts nobody else uses: below the range that Docker chooses from.
pub(crate) fn unique_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 8;
    u16::try_from(20_000 + count % 10_000).expect("below 30,000")
}

/// Runs `docker …` on the engine that carries the bed.
pub(crate) fn outer(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments)).unwrap_or_else(|error| panic!("docker {arguments:?}: {error}"))
}

/// Runs `etcdctl` against the whole cluster, from the first member that runs.
pub(crate) fn etcdctl(arguments: &[&str]) -> Result<String, String> {
    let mut last = String::new();
    for member in ETCD {
        match run(Command::new("docker").args(["exec", member, "etcdctl", "--endpoints", ENDPOINTS]).args(arguments)) {
            Ok(text) => return Ok(text),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// As `etcdctl`, with a value on standard input.
pub(crate) fn etcd_put(key: &str, value: &[u8]) {
    let mut child = Command::new("docker")
        .args(["exec", "-i", ETCD[0], "etcdctl", "--endpoints", ENDPOINTS, "put", "--", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("docker can be run");
    child.stdin.take().expect("piped").write_all(value).expect("etcdctl reads its input");
    assert!(child.wait().expect("etcdctl ends").success(), "etcdctl put {key}");
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.success() {
        Ok(stdout.into_owned())
    } else {
        Err(format!("{status}: {} {}", stderr.trim(), stdout.trim()))
    }
}

/// Looks until `look` is content; after the deadline, fails with what it saw last.
pub(crate) fn eventually<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(last) if start.elapsed() >= deadline => panic!("not within {deadline:?}: {what}; last seen: {last}"),
            Err(_) => std::thread::park_timeout(LOOK),
        }
    }
}

/// Waits until every host's agent gives this answer to strangers.
pub(crate) fn everywhere(name: &str, kind: RecordType, expected: &Answer) {
    for host in HOSTS {
        expect(&format!("{} answers {name} {kind} with {expected}", host.container), expected, || host.ask(name, kind));
    }
}

/// Waits until no host's agent gives an address for this name.
pub(crate) fn gone_everywhere(name: &str) {
    for host in HOSTS {
        eventually(&format!("{name} is gone from {}", host.container), SOON, || {
            let answer = host.ask(name, RecordType::A);
            if answer.is_gone() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
}

/// Waits until `ask` gives this answer.
pub(crate) fn expect(what: &str, expected: &Answer, mut ask: impl FnMut() -> Answer) {
    eventually(what, SOON, || {
        let answer = ask();
        if answer == *expected { Ok(()) } else { Err(answer.to_string()) }
    });
}

/// The addresses of hosts, as an answer.
pub(crate) fn addresses(of: impl IntoIterator<Item = Host>) -> Answer {
    Answer::found(of.into_iter().map(|host| host.address))
}

/// Address and port of hosts, as an answer.
pub(crate) fn targets(of: impl IntoIterator<Item = (impl Display, u16)>) -> Answer {
    Answer::found(of.into_iter().map(|(address, port)| format!("{address}:{port}")))
}

/// Reads what `dig` prints if asked like [`DIG`]. SRV targets are told by their addresses of these types.
pub(crate) fn read_dig(text: &str, types: &[&str]) -> Answer {
    let Some(status) = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()) else {
        return Answer::Silence(text.to_owned());
    };
    match status {
        "NOERROR" => {}
        "NXDOMAIN" => return Answer::NoName,
        other => return Answer::Silence(format!("status {other}")),
    }
    let records: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    let addresses_of = |name: &str| -> Vec<IpAddr> {
        let matching = |record: &&Vec<&str>| record.len() == 5 && types.contains(&record[3]) && record[0] == name;
        records.iter().filter(matching).filter_map(|record| record[4].parse().ok()).collect()
    };
    // With SRV records in it, the answer is the SRV records; the addresses beside them are their targets'.
    let services: Vec<&Vec<&str>> = records.iter().filter(|record| record.len() == 8 && record[3] == "SRV").collect();
    let found: BTreeSet<String> = if services.is_empty() {
        records
            .iter()
            .filter(|record| record.len() == 5 && matches!(record[3], "A" | "AAAA"))
            .map(|record| record[4].to_owned())
            .collect()
    } else {
        let of = |record: &&Vec<&str>| -> Vec<String> {
            let port = record[6].parse().expect("dig prints numbers");
            addresses_of(record[7]).into_iter().map(|address| SocketAddr::new(address, port).to_string()).collect()
        };
        services.iter().flat_map(of).collect()
    };
    if found.is_empty() { Answer::NoData } else { Answer::Found(found) }
}
