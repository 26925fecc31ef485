//! A real etcd for tests: one or three members on loopback, each a process of its own that can be killed, frozen and
//! started again. Everything is gone when the [`Cluster`] is dropped. Needs Debian's `etcd-server` and `etcd-client`, and
//! `openssl` for TLS.
//!
//! Included with `#[path]` by the test binaries that need it.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses a part of it")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// How long a member may take to be healthy; a loaded machine elects slowly.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The token of every cluster that is given none.
pub const TOKEN: &str = "etcd-cluster";

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// 1 or 3.
    pub members: usize,
    /// What is asked of clients.
    pub security: Security,
    /// More arguments for every member, like `--auth-token-ttl=2`.
    pub arguments: Vec<String>,
}

/// Whether clients speak TLS, and what they must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Plain,
    /// The server shows a certificate, and clients show none.
    ServerCertificate,
    /// Both do.
    ClientCertificates,
}

impl Default for Options {
    fn default() -> Self {
        Self { members: 1, security: Security::Plain, arguments: Vec::new() }
    }
}

/// A running cluster.
pub struct Cluster {
    members: Vec<Member>,
    tls: Option<Certificates>,
    directory: TempDir,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

/// PEM files: an authority, and a client certificate signed by it.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Cluster {
    /// Starts a cluster and waits until every member is healthy.
    pub fn start(options: &Options) -> Self {
        // Between finding a free port and etcd binding it, somebody else may take it: then try again.
        for _ in 0..5 {
            let mut cluster = Self::prepare(options);
            for index in 0..options.members {
                cluster.spawn(index);
            }
            if (0..options.members).all(|index| cluster.becomes_healthy(index)) {
                return cluster;
            }
        }
        panic!("etcd does not start; is etcd-server installed (make setup)?");
    }

    /// A single plain member.
    pub fn single() -> Self {
        Self::start(&Options::default())
    }

    /// Three plain members.
    pub fn three() -> Self {
        Self::start(&Options { members: 3, ..Options::default() })
    }

    fn prepare(options: &Options) -> Self {
        let directory = tempfile::Builder::new().prefix("portolan-etcd-").tempdir().expect("a temporary directory");
        let ports = free_ports(options.members * 3);
        let (clients, rest) = ports.split_at(options.members);
        let (peers, metrics) = rest.split_at(options.members);
        let is_plain = options.security == Security::Plain;
        let scheme = if is_plain { "http" } else { "https" };
        let tls = (!is_plain).then(|| Certificates::make(directory.path()));
        let initial: Vec<_> = peers.iter().enumerate().map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let members = (0..options.members).map(|n| {
            let (client, peer, metrics) = (clients[n], peers[n], metrics[n]);
            let mut arguments = vec![
                format!("--name=m{n}"),
                format!("--data-dir={}", directory.path().join(format!("m{n}")).display()),
                format!("--listen-client-urls={scheme}://{client}"),
                format!("--advertise-client-urls={scheme}://{client}"),
                format!("--listen-metrics-urls=http://{metrics}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster={}", initial.join(",")),
                "--unsafe-no-fsync".into(),
                "--logger=zap".into(),
                "--log-outputs=stderr".into(),
            ];
            if tls.is_some() {
                let file = |name| directory.path().join(name).display().to_string();
                arguments.push(format!("--cert-file={}", file("server.pem")));
                arguments.push(format!("--key-file={}", file("server.key")));
            }
            if options.security == Security::ClientCertificates {
                // An authority alone already makes etcd ask for certificates; the flag makes users of their names.
                arguments.push(format!("--trusted-ca-file={}", directory.path().join("ca.pem").display()));
                arguments.push("--client-cert-auth".into());
            }
            arguments.extend(options.arguments.iter().cloned());
            let log = directory.path().join(format!("m{n}.log"));
            Member { client, peer, metrics, arguments, log, process: None }
        });
        let members = members.collect();
        Self { members, tls, directory }
    }

    fn spawn(&mut self, index: usize) {
        let member = &mut self.members[index];
        let log = fs::File::options().create(true).append(true).open(&member.log).expect("a log file");
        let mut command = Command::new("etcd");
        command.args(&member.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A variable ETCD_* of the caller would be an argument, too.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        member.process = Some(command.spawn().expect("etcd (Debian's etcd-server) can be started"));
    }

    fn becomes_healthy(&mut self, index: usize) -> bool {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            let member = &mut self.members[index];
            let ended = member.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if ended {
                return false;
            }
            if get(member.metrics, "/health").is_some_and(|body| body.contains("\"true\"")) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// The client URL of one member.
    pub fn endpoint(&self, index: usize) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.members[index].client)
    }

    /// The client URLs of all members, in order.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|index| self.endpoint(index)).collect()
    }

    /// The client's certificates, of a cluster with TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.tls.as_ref()
    }

    /// Where the cluster keeps its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The member that leads, if there is one and it answers.
    pub fn leader(&self) -> Option<usize> {
        let leads = |member: &Member| {
            let alive = member.process.is_some();
            alive && get(member.metrics, "/metrics").is_some_and(|body| body.contains("\netcd_server_is_leader 1"))
        };
        self.members.iter().position(leads)
    }

    /// The value of one of a member's metrics.
    pub fn metric(&self, index: usize, name: &str) -> String {
        let text = get(self.members[index].metrics, "/metrics").unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("etcd has no metric {name}")).to_owned()
    }

    /// How many logins the first member has taken (`OK`) or refused (`InvalidArgument`).
    pub fn logins(&self, code: &str) -> u64 {
        let method = "grpc_method=\"Authenticate\",grpc_service=\"etcdserverpb.Auth\",grpc_type=\"unary\"";
        let count = self.metric(0, &format!("grpc_server_handled_total{{grpc_code=\"{code}\",{method}}}"));
        count.parse().expect("a number")
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().expect("our own process can be killed");
            process.wait().expect("our own process can be waited for");
        }
    }

    /// Freezes a member: its connections stay open, and nothing answers.
    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
    }

    /// Lets a frozen member go on.
    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    fn signal(&self, index: usize, signal: Signal) {
        let process = self.members[index].process.as_ref().expect("the member runs");
        let pid = Pid::from_raw(i32::try_from(process.id()).expect("a process id"));
        kill(pid, signal).expect("our own process takes signals");
    }

    /// Starts a killed member again with its data; [`wait_healthy`](Self::wait_healthy) tells when it is back.
    pub fn restart(&mut self, index: usize) {
        self.kill(index);
        self.spawn(index);
    }

    /// Waits until a member is healthy, which needs a leader.
    pub fn wait_healthy(&mut self, index: usize) {
        assert!(self.becomes_healthy(index), "etcd member {index} does not become healthy: {}", self.log(index));
    }

    /// How many lines of a member's log hold all these texts.
    pub fn logged(&self, index: usize, texts: &[&str]) -> usize {
        let log = fs::read_to_string(&self.members[index].log).expect("a log");
        log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    }

    /// The last lines that a member logged.
    pub fn log(&self, index: usize) -> String {
        let text = fs::read_to_string(&self.members[index].log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Runs `etcdctl` with these arguments; panics with what it said unless it succeeds.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_with_input(arguments, "")
    }

    /// Gives a user another password, as root with its own.
    pub fn change_password(&self, root: &str, user: &str, password: &str) {
        let root = format!("--user=root:{root}");
        self.ctl_with_input(&[&root, "user", "passwd", user, "--interactive=false"], &format!("{password}\n"));
    }

    fn ctl_with_input(&self, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoints().join(",")));
        if let Some(Certificates { ca, cert, key }) = &self.tls {
            command.arg("--cacert").arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("etcdctl (Debian's etcd-client) can be started");
        // Dropped with the last octet, which ends the input.
        process.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("etcdctl reads a line at most");
        let output = process.wait_with_output().expect("our own process can be waited for");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Turns authentication on, with the user `root` and this password.
    pub fn enable_auth(&self, password: &str) {
        self.ctl(&["user", "add", &format!("root:{password}")]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["auth", "enable"]);
    }

    /// Puts another authority and certificates signed by it in the place of those before. The server shows its new one from
    /// the next connection on, and trusts the new authority once it is restarted.
    pub fn replace_certificates(&self) {
        Certificates::make(self.directory());
    }

    /// Another client certificate, with this common name.
    pub fn certificate_of(&self, name: &str) -> Certificates {
        let Certificates { ca, .. } = self.tls.as_ref().expect("a cluster with TLS");
        Certificates::sign(self.directory(), name);
        let file = |end| self.directory().join(format!("{name}.{end}"));
        Certificates { ca: ca.clone(), cert: file("pem"), key: file("key") }
    }

    /// Saves a snapshot of a cluster of one member.
    pub fn save_snapshot(&self) -> PathBuf {
        let path = self.directory().join("snapshot");
        self.ctl(&["snapshot", "save", path.to_str().expect("text")]);
        path
    }

    /// Kills the one member and makes it from a snapshot, as an operator would after the loss of a disk. The cluster is
    /// the same one as before if it has the same token, for its id is made of that and of its members' addresses. It is
    /// started by [`restart`](Self::restart).
    pub fn restore_snapshot(&mut self, snapshot: &Path, token: &str) {
        self.kill(0);
        let data = self.directory().join(format!("restored-{token}"));
        let data = data.to_str().expect("text");
        let peer = format!("http://{}", self.members[0].peer);
        let (initial, snapshot) = (format!("m0={peer}"), snapshot.to_str().expect("text"));
        let cluster = ["--name", "m0", "--initial-advertise-peer-urls", &peer, "--initial-cluster", &initial];
        let place = ["--initial-cluster-token", token, "--data-dir", data];
        self.ctl(&[&["snapshot", "restore", snapshot], &cluster[..], &place].concat());
        for argument in self.members[0].arguments.iter_mut().filter(|argument| argument.starts_with("--data-dir=")) {
            *argument = format!("--data-dir={data}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                // It may be gone already, and there is nobody left to tell.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

impl Certificates {
    /// Makes `ca`, `server` and `client` certificates in a directory, for 127.0.0.1 and a day.
    fn make(directory: &Path) -> Self {
        openssl(directory, &format!("req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -days 1 -subj /CN=authority"));
        fs::write(directory.join("san.txt"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("a file");
        for name in ["server", "client"] {
            Self::sign(directory, name);
        }
        let file = |name| directory.join(name);
        Self { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") }
    }

    /// Makes a key and a certificate with this common name.
    fn sign(directory: &Path, name: &str) {
        openssl(directory, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let signed_by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile san.txt";
        openssl(directory, &format!("x509 -req -in {name}.csr -out {name}.pem {signed_by}"));
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// Runs `openssl` with these arguments in a directory.
pub fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(directory).args(arguments.split(' ')).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Different ports on loopback that are free right now.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners: Vec<_> = (0..count).map(|_| bind()).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("a bound socket has an address")).collect()
}

/// The body of a plain HTTP answer, if there is one within a second.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, second).ok()?;
    stream.set_read_timeout(Some(second)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}
