//! `make bench-restart`: queries lost and the longest wait for an answer while the agent is restarted below sockets that
//! systemd holds, taken over by a new process, and made to reload.
//!
//! One agent with the embedded registry on the machine's real Docker engine, [`RATE`] queries a second over UDP (sent when
//! it is time, answered or not), connections and a held one beside it. Each round is one restart, takeover or
//! reload; nothing is asked twice, so what is not answered within 5 s is lost.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[path = "../tests/support/figures.rs"]
mod figures;
#[path = "../tests/support/queries.rs"]
mod queries;
#[path = "../tests/support/sample.rs"]
mod sample;
#[path = "../tests/support/systemd.rs"]
mod systemd;

use figures::Figures;
use queries::{Load, Rates, Tallies};
use sample::{Container, IMAGE, docker, make_image};
use systemd::Holder;

/// Queries a second in all.
const RATE: u32 = 5_000;
/// Queries of each kind of round, unless `BENCH_QUERIES` says otherwise.
const QUERIES: u64 = 60_000;
/// Times that each is done, evenly over the queries.
const TIMES: u64 = 5;
/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);
/// The container that is asked for.
const NAME: &str = "portolan-bench-restart";

/// What is done meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Restart,
    Takeover,
    Reload,
}

struct Bed {
    dns: SocketAddr,
    http: SocketAddr,
    state: PathBuf,
}

impl Bed {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["agent", "--log", "error", "--upstream", "none", "--advertise", "192.0.2.1"]);
        command.args(["--dns", &self.dns.to_string(), "--http", &self.http.to_string()]);
        command.arg("--state-dir").arg(&self.state).arg("--control").arg(self.state.join("control.sock"));
        command
    }

    fn start(mut command: Command) -> Result<Child> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("the agent does not start")
    }
}

fn main() -> Result<()> {
    let queries = match std::env::var("BENCH_QUERIES") {
        Ok(text) => text.parse().context("BENCH_QUERIES is a number of queries")?,
        Err(_) => QUERIES,
    };
    let _image = make_image()?;
    let container =
        Container::run(&["--name", NAME, "--expose", "80", IMAGE, "/bin/busybox", "sh", "-c", "exec sleep 1d"])?;
    let address = docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", NAME])?;
    let address: Ipv4Addr = address.trim().parse().context("the container has no address")?;
    let mut figures = Figures::new("restart");
    figures.say(&format!("{queries} queries each at {RATE}/s over UDP and TCP, {TIMES} times each act"));
    let acts = [
        ("restart, sockets held by systemd", Act::Restart),
        ("takeover by a new process", Act::Takeover),
        ("reload (SIGHUP)", Act::Reload),
    ];
    for (name, act) in acts {
        let tallies = run(act, queries, address)?;
        let parts = [
            ("  UDP", &tallies.udp),
            ("  TCP, each its connection", &tallies.connections),
            ("  TCP, held", &tallies.held),
        ];
        figures.row(name, &[("asked", tallies.asked() as f64, ""), ("lost", tallies.lost() as f64, "")]);
        for (part, tally) in parts {
            let longest = tally.longest.as_secs_f64() * 1e3;
            let closed = tally.closed as f64;
            figures.row(
                part,
                &[
                    ("asked", tally.asked as f64, ""),
                    ("lost", tally.lost as f64, ""),
                    ("longest", longest, "ms"),
                    ("closed", closed, ""),
                ],
            );
            tally.told.iter().for_each(|told| figures.say(&format!("    {told}")));
        }
    }
    drop(container);
    figures.write()
}

fn run(act: Act, queries: u64, address: Ipv4Addr) -> Result<Tallies> {
    let directory = tempfile::tempdir()?;
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
    let dns = loop {
        let found = free()?;
        if UdpSocket::bind(found).is_ok() {
            break found;
        }
    };
    let bed = Bed { dns, http: free()?, state: directory.path().join("state") };
    let holder = Holder::bind(bed.dns, bed.http)?;
    let start = || Bed::start(holder.command(&bed.command()));
    let mut agent = start()?;
    until(|| Ok(is_answered(dns)?.then_some(())))?;
    // What is closed between two queries is no loss, so a connection that is closed has to be idle for longer than 50 ms.
    let held = Duration::from_millis(if act == Act::Restart { 120 } else { 5 });
    let rates = Rates { udp: RATE * 9 / 10, connections: RATE / 20, held };
    let load = Load::start(dns, &format!("{NAME}.default.svc.internal"), address, rates);
    for turn in 1..=TIMES {
        until(|| Ok((load.asked() >= queries * turn / (TIMES + 1)).then_some(())))?;
        let pid = Pid::from_raw(i32::try_from(agent.id())?);
        match act {
            Act::Reload => kill(pid, Signal::SIGHUP)?,
            Act::Restart => {
                kill(pid, Signal::SIGTERM)?;
                ensure!(agent.wait()?.success(), "the agent failed");
                agent = start()?;
            }
            Act::Takeover => {
                let mut command = bed.command();
                command.arg("--takeover");
                let next = Bed::start(command)?;
                ensure!(std::mem::replace(&mut agent, next).wait()?.success(), "the agent failed");
            }
        }
    }
    until(|| Ok((load.asked() >= queries).then_some(())))?;
    let tallies = load.end();
    kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGTERM)?;
    agent.wait()?;
    Ok(tallies)
}

/// Whether the container is answered: asked over TCP, so that no socket of the load is needed.
fn is_answered(dns: SocketAddr) -> Result<bool> {
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };
    use std::io::{Read, Write};
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(format!("{NAME}.default.svc.internal."))?, RecordType::A));
    let query = message.to_vec()?;
    let mut stream = TcpStream::connect_timeout(&dns, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&[&u16::try_from(query.len())?.to_be_bytes(), query.as_slice()].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    Ok(!Message::from_vec(&reply)?.answers.is_empty())
}

fn until<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}
