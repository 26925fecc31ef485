//! An agent of one test: ports, state directory and control socket of its own, and the ways to ask it.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::engine;

/// How long a condition may take on a machine that is busy with other tests.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one reply may take; our own never do.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks until there is something to see.
#[track_caller]
pub(super) fn eventually<T>(what: impl fmt::Display, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// Ends the asking thread, also when the test fails meanwhile.
pub(super) struct SetOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client command has done what it was told.
#[track_caller]
pub(super) fn succeeds(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// What was made on the engine by a test of this folder.
pub(super) fn engine_bed(test: &str) -> engine::Bed {
    engine::Bed::new("agentit", test)
}

/// A container's one address.
pub(super) fn address(container: &str) -> String {
    engine::docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container])
}

/// A reply: its code, and the data of its answer section as a zone file writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) data: Vec<String>,
}

/// One question over UDP; `None`: no reply.
pub(super) fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Option<Answer> {
    let mut question = Message::query();
    let name = Name::from_ascii(format!("{name}.")).expect("a name of the test's own");
    question.add_query(Query::query(name, kind));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    socket.connect(server).expect("loopback");
    socket.send(&question.to_vec().expect("a question fits")).ok()?;
    let mut buffer = [0; 65_535];
    let length = socket.recv(&mut buffer).ok()?;
    let reply = Message::from_vec(&buffer[..length]).expect("a DNS message");
    assert_eq!(reply.metadata.id, question.metadata.id);
    let data = reply.answers.iter().map(|record| record.data.to_string()).collect();
    Some(Answer { code: reply.metadata.response_code, data })
}

/// What stays when an agent ends: where it listens, and its files. Agents may be started here one after the other.
pub(super) struct Home {
    directory: tempfile::TempDir,
    pub(super) dns: SocketAddr,
    pub(super) http: SocketAddr,
    arguments: Vec<String>,
}

impl Home {
    /// An agent with these arguments, on loopback ports that are free now, without upstreams.
    pub(super) fn new(arguments: &[&str]) -> Self {
        let mut prefix = std::ffi::OsString::from("portolan-agentit-");
        prefix.push(std::process::id().to_string());
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { directory, dns: free_dns_port(), http: free_port(), arguments }
    }

    /// A clone of the machine that `other` is on, state directory included.
    pub(super) fn clone_of(other: &Self, arguments: &[&str]) -> Self {
        let home = Self::new(arguments);
        std::fs::create_dir(home.state()).expect("a directory");
        for entry in std::fs::read_dir(other.state()).expect("a state directory") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), home.state().join(entry.file_name())).expect("a copy");
        }
        home
    }

    pub(super) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// How many lines of the log hold a text.
    pub(super) fn logged(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(self.log()).expect("a log");
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// The last line of the log that holds a text.
    pub(super) fn log_line(&self, text: &str) -> Option<String> {
        let log = std::fs::read_to_string(self.log()).expect("a log");
        log.lines().rfind(|line| line.contains(text)).map(str::to_owned)
    }

    /// The agent's command line.
    pub(super) fn command(&self) -> Command {
        let mut command = portolan();
        command.args(["agent", "--dns", &self.dns.to_string(), "--http", &self.http.to_string()]);
        command.arg("--state-dir").arg(self.state()).arg("--control").arg(self.control()).args(&self.arguments);
        if !self.arguments.iter().any(|argument| argument == "--upstream") {
            command.args(["--upstream", "none"]);
        }
        command
    }

    /// Starts an agent and waits until it has introduced itself.
    #[track_caller]
    pub(super) fn start(&self) -> Agent<'_> {
        self.start_by(self.command())
    }

    /// Starts another agent that takes over from the one that runs.
    #[track_caller]
    pub(super) fn take_over(&self) -> Agent<'_> {
        let mut command = self.command();
        command.arg("--takeover");
        self.start_by(command)
    }

    /// Starts an agent in a way of its own, and waits until it has introduced itself.
    #[track_caller]
    pub(super) fn start_by(&self, mut command: Command) -> Agent<'_> {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary starts");
        let lines = lines(process.stdout.take().expect("it is piped"));
        let mut agent = Agent { home: self, process, introduction: Vec::new() };
        while !agent.introduction.last().is_some_and(|line| line.starts_with("try ")) {
            let line = lines.recv_timeout(DEADLINE);
            agent.introduction.push(line.expect("the agent introduces itself"));
        }
        agent
    }

    /// Runs a client command against this agent.
    pub(super) fn client(&self, arguments: &[&str]) -> Output {
        let mut command = portolan();
        command.args(arguments);
        match arguments.first() {
            Some(&("leave" | "drain" | "undrain" | "register" | "unregister")) => {
                command.arg("--control").arg(self.control())
            }
            _ => command.args(["--api", &format!("http://{}", self.http)]),
        };
        command.output().expect("the binary starts")
    }

    /// Starts `portolan watch` and waits until it stands.
    #[track_caller]
    pub(super) fn watch(&self) -> Watch {
        let mut command = portolan();
        command.args(["watch", "-o", "json", "--api", &format!("http://{}", self.http)]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts");
        let lines = lines(process.stdout.take().expect("it is piped"));
        let watch = Watch { process, lines };
        watch.until("it stands", |event| event["event"] == "synced");
        watch
    }

    /// The status and the body of a path of the API; `None`: nobody answers.
    pub(super) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.http, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.http).ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    #[track_caller]
    pub(super) fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).expect("the agent answers");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// `/v1/problems`, one text each: place, what was found, what was expected.
    #[track_caller]
    pub(super) fn problems(&self) -> Vec<String> {
        let json = self.json("/v1/problems");
        let text = |problem: &Value| {
            let [place, found, expected] =
                ["place", "found", "expected"].map(|key| problem[key].as_str().expect("text"));
            format!("{place}: {found}: {expected}")
        };
        json["problems"].as_array().expect("a list").iter().map(text).collect()
    }

    /// A metric's value.
    #[track_caller]
    pub(super) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").expect("the agent answers");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).parse().expect("a number")
    }

    /// Waits until both Docker and the registry have been listed.
    #[track_caller]
    pub(super) fn until_ready(&self) {
        eventually("it is ready", || self.get("/readyz").filter(|(status, _)| *status == 200));
    }

    /// Waits until all that is known of Docker is published.
    #[track_caller]
    pub(super) fn until_synced(&self) {
        eventually("all is published", || {
            (self.json("/v1/status")["facts"]["registry"]["synced"] == true).then_some(())
        });
    }

    /// Asks for the A records of a name below the zone.
    pub(super) fn ask(&self, name: &str) -> Option<Answer> {
        ask(self.dns, &format!("{name}.svc.internal"), RecordType::A)
    }

    /// Waits until a name below the zone has this one address.
    #[track_caller]
    pub(super) fn until_address(&self, name: &str, address: &str) {
        let mut last = None;
        let end = Instant::now() + DEADLINE;
        while last.as_ref().is_none_or(|answer: &Answer| answer.data != [address]) {
            assert!(Instant::now() < end, "{name} does not become {address}: {last:?}");
            last = self.ask(name);
        }
    }

    /// Waits until a question for a name below the zone gets this code.
    #[track_caller]
    pub(super) fn until_code(&self, name: &str, code: ResponseCode) {
        eventually(format_args!("{name} gets {code:?}"), || self.ask(name).filter(|answer| answer.code == code));
    }
}

/// The binary with nothing of our own environment: a variable would be a setting.
fn portolan() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// Lines of a process as they come; the sender goes with its output.
fn lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Reads on when nobody listens any more: a full pipe would stop the process.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// A port that is free for TCP, and that no other test of this machine is given while this process lives. Free alone is not
/// enough: until its agent listens on it, it may be given twice, and was, to two agents of one test.
pub(super) fn free_port() -> SocketAddr {
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    eventually("a port is free", || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        // A name that one process at a time may have, and that ends with it (unix(7), abstract sockets).
        let name =
            UnixAddr::from_abstract_name(format!("portolan-test-port-{}", address.port())).expect("a short name");
        let claim = UnixListener::bind_addr(&name).ok()?;
        CLAIMS.lock().expect("nobody panics with it").push(claim);
        Some(address)
    })
}

/// A port that is free for UDP and TCP.
fn free_dns_port() -> SocketAddr {
    eventually("a port is free for both", || Some(free_port()).filter(|address| UdpSocket::bind(address).is_ok()))
}

/// A running agent; killed on drop.
pub(super) struct Agent<'a> {
    home: &'a Home,
    process: Child,
    /// What it printed at its start.
    pub(super) introduction: Vec<String>,
}

impl Agent<'_> {
    /// What the introduction says of a thing: all lines that begin with this word, without it.
    pub(super) fn introduces(&self, word: &str) -> Vec<&str> {
        let after = |line: &'_ str| line.strip_prefix(word).is_some_and(|rest| rest.starts_with(' '));
        self.introduction.iter().filter(|line| after(line)).map(|line| line[word.len()..].trim()).collect()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        kill(pid, signal).expect("our own process takes signals");
    }

    /// Signals it, and waits until it has ended.
    #[track_caller]
    pub(super) fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        eventually(format_args!("it ends after {signal}"), || self.process.try_wait().expect("our own process"))
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(super) fn ends(mut self) -> ExitStatus {
        eventually("it ends by itself", || self.process.try_wait().expect("our own process"))
    }

    /// Whether it has not ended.
    pub(super) fn runs(&mut self) -> bool {
        self.process.try_wait().expect("our own process").is_none()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- log of the agent at {}\n{}---", self.home.dns, tail(&self.home.log()));
        }
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].iter().flat_map(|line| [*line, "\n"]).collect()
}

/// A running `portolan watch`; killed on drop.
pub(super) struct Watch {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    /// Reads on until an event meets a condition.
    #[track_caller]
    pub(super) fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| panic!("not told: {what}: {error}"));
            if condition(&serde_json::from_str(&line).expect("JSON")) {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
