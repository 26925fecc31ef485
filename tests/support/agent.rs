//! Agent processes for benchmarks, and one thread that asks them the same question until the answer is what is wanted.

#![allow(dead_code, unreachable_pub, reason = "each benchmark includes this file and uses a part of it")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// The binary of this build.
pub const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");
/// Pause between two rounds of questions.
pub const PAUSE: Duration = Duration::from_micros(100);
/// Longest wait for one change before a benchmark gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What is waited for.
#[derive(Clone, Copy, PartialEq)]
pub enum Want {
    /// An answer.
    Present,
    /// None any more.
    Absent,
}

/// An agent process; killed when dropped.
pub struct Agent {
    process: Child,
    /// Where it answers DNS.
    pub address: SocketAddr,
}

impl Agent {
    /// Starts an agent that answers on loopback at `port` and serves HTTP at `port + 2000`.
    pub fn start(host: &str, port: u16, endpoints: &[String], docker: Option<&str>, state: &Path) -> Result<Self> {
        Self::start_binary(Path::new(PORTOLAN), host, port, endpoints, docker, state)
    }

    /// As [`Self::start`], from another binary.
    pub fn start_binary(
        binary: &Path,
        host: &str,
        port: u16,
        endpoints: &[String],
        docker: Option<&str>,
        state: &Path,
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let directory = state.join(host);
        // As the systemd unit runs it; without the right to, as an ordinary process.
        let mut command = Command::new("nice");
        command.args(["-n", "-10"]).arg(binary);
        command.args(["agent", "--log", "warn", "--host-id", host, "--advertise", "192.0.2.1"]);
        command.args(["--etcd-endpoints", &endpoints.join(","), "--upstream", "none"]);
        command.args(["--dns", &address.to_string(), "--http", &format!("127.0.0.1:{}", port + 2000)]);
        command.arg("--state-dir").arg(&directory).arg("--control").arg(state.join(format!("{host}.sock")));
        if let Some(docker) = docker {
            command.args(["--docker-host", docker]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("the agent does not start")?;
        Ok(Self { process, address })
    }

    /// A line of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
    pub fn memory_kib(&self, line: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        Ok(found.context("no such line")?.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Something to wait for before the first question, so that asking takes nothing from what is measured until then.
pub type Cue = Box<dyn FnOnce() + Send>;

/// The name, the change, what to wait for, whom to tell the wall-clock times.
type Wish = (String, Want, Cue, mpsc::Sender<Vec<Duration>>);

/// The thread that asks: a single one for all agents, so that asking takes little of what it measures.
pub struct Asker {
    wishes: mpsc::Sender<Wish>,
}

impl Asker {
    /// Asks at these addresses, every [`PAUSE`].
    pub fn of(addresses: &[SocketAddr]) -> Result<Self> {
        Self::pausing(addresses, PAUSE)
    }

    /// Asks at these addresses, with this pause in between.
    pub fn pausing(addresses: &[SocketAddr], pause: Duration) -> Result<Self> {
        let sockets: Vec<UdpSocket> = addresses.iter().map(|address| socket(*address)).collect::<Result<_>>()?;
        let (wishes, waiting) = mpsc::channel();
        thread::spawn(move || {
            prefer_this_thread();
            ask(&sockets, &waiting, pause);
        });
        Ok(Self { wishes })
    }

    /// Tells when each address's answer for `name` has become what is wanted, once all have; call it before the change is
    /// made.
    pub fn await_change(&self, name: &str, want: Want) -> mpsc::Receiver<Vec<Duration>> {
        self.await_change_after(Box::new(|| ()), name, want)
    }

    /// As [`Self::await_change`], asking only once the cue has returned.
    pub fn await_change_after(&self, cue: Cue, name: &str, want: Want) -> mpsc::Receiver<Vec<Duration>> {
        let (tell, told) = mpsc::channel();
        let _sent = self.wishes.send((name.to_owned(), want, cue, tell));
        told
    }
}

/// Wall-clock time, which Docker's timestamps are on too.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Lets this thread run whenever it wants to, as a measuring instrument must: on a machine whose processors are busy an
/// ordinary thread that slept waits for others' time slices, some 3 ms each, and would report its own wait.
fn prefer_this_thread() {
    let preferred = fs::read_link("/proc/thread-self").ok().and_then(|path| {
        let thread = path.file_name()?.to_owned();
        Command::new("chrt").args(["--fifo", "--pid", "1"]).arg(thread).status().ok()
    });
    if !preferred.is_some_and(|status| status.success()) {
        eprintln!("no real-time priority for the asking thread (chrt, as root): its own waits are in the figures");
    }
}

fn socket(agent: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(agent)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Asks until each wish has come true everywhere.
fn ask(sockets: &[UdpSocket], wishes: &mpsc::Receiver<Wish>, pause: Duration) {
    let mut id = 0u16;
    while let Ok((name, want, cue, tell)) = wishes.recv() {
        cue();
        let mut times: Vec<Option<Duration>> = vec![None; sockets.len()];
        while times.iter().any(Option::is_none) {
            id = id.wrapping_add(1);
            let query = query(id, &name);
            // Each goes first in turn: whoever is heard last is charged for the others' replies.
            let turn = (0..sockets.len()).map(|index| (index + usize::from(id)) % sockets.len());
            let open: Vec<usize> = turn.filter(|index| times[*index].is_none()).collect();
            for index in &open {
                // A question that is not sent has no answer: the next round asks again.
                let _sent = sockets[*index].send(&query);
            }
            for index in open {
                if has_answer(&sockets[index], id).is_some_and(|present| present == (want == Want::Present)) {
                    times[index] = Some(wall());
                }
            }
            thread::sleep(pause);
        }
        let _told = tell.send(times.into_iter().flatten().collect());
    }
}

/// A question for an A record.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = vec![0; 12];
    query[..2].copy_from_slice(&id.to_be_bytes());
    query[5] = 1;
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or_default());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// Whether the reply holds an answer. `None`: no reply in time, or a failure.
fn has_answer(socket: &UdpSocket, id: u16) -> Option<bool> {
    let mut reply = [0; 1500];
    loop {
        let length = socket.recv(&mut reply).ok()?;
        if length >= 12 && reply[..2] == id.to_be_bytes() {
            let rcode = reply[3] & 15;
            let answers = u16::from_be_bytes([reply[6], reply[7]]);
            // Before both sources are listed an absent name is SERVFAIL; that too is no answer.
            return matches!(rcode, 0 | 2 | 3).then_some(answers > 0);
        }
    }
}
