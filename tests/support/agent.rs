//! An agent process for benchmarks, and a thread that asks it the same question until the answer is what is wanted.

#![allow(dead_code, unreachable_pub, reason = "each benchmark includes this file and uses a part of it")]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// Pause between two questions of one asking thread.
pub const PAUSE: Duration = Duration::from_micros(100);
/// Longest wait for one change before a benchmark gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What an asking thread waits for.
#[derive(Clone, Copy, PartialEq)]
pub enum Want {
    /// An answer.
    Present,
    /// None any more.
    Absent,
}

/// The name, the change, whom to tell the wall-clock time.
type Wish = (String, Want, mpsc::Sender<Duration>);

/// An agent process with its asking thread; killed when dropped.
pub struct Agent {
    process: Child,
    wishes: mpsc::Sender<Wish>,
}

impl Agent {
    /// Starts an agent that answers on loopback at `port` and serves HTTP at `port + 2000`.
    pub fn start(host: &str, port: u16, endpoints: &[String], docker: Option<&str>, state: &Path) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let directory = state.join(host);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["agent", "--log", "warn", "--host-id", host, "--advertise", "192.0.2.1"]);
        command.args(["--etcd-endpoints", &endpoints.join(","), "--upstream", "none"]);
        command.args(["--dns", &address.to_string(), "--http", &format!("127.0.0.1:{}", port + 2000)]);
        command.arg("--state-dir").arg(&directory).arg("--control").arg(state.join(format!("{host}.sock")));
        if let Some(docker) = docker {
            command.args(["--docker-host", docker]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("the agent does not start")?;
        let (wishes, waiting) = mpsc::channel();
        thread::spawn(move || ask(address, &waiting));
        Ok(Self { process, wishes })
    }

    /// Tells when the answer for `name` has become what is wanted; call it before the change is made.
    pub fn await_change(&self, name: &str, want: Want) -> mpsc::Receiver<Duration> {
        let (tell, told) = mpsc::channel();
        let _sent = self.wishes.send((name.to_owned(), want, tell));
        told
    }

    /// A line of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
    pub fn memory_kib(&self, line: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
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

/// Wall-clock time, which Docker's timestamps are on too.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Asks until each wish has come true.
fn ask(address: SocketAddr, wishes: &mpsc::Receiver<Wish>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.connect(address).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let mut id = 0u16;
    while let Ok((name, want, tell)) = wishes.recv() {
        loop {
            id = id.wrapping_add(1);
            if holds_answer(&socket, id, &name).is_some_and(|present| present == (want == Want::Present)) {
                let _told = tell.send(wall());
                break;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// One question for an A record. `None`: no answer in time, or a failure.
fn holds_answer(socket: &UdpSocket, id: u16, name: &str) -> Option<bool> {
    let mut query = vec![0; 12];
    query[..2].copy_from_slice(&id.to_be_bytes());
    query[5] = 1;
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).ok()?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send(&query).ok()?;
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
