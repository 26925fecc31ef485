//! The servers that are measured: each a process on the servers' core, with the same names, ended when dropped.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::Message;

use crate::{
    load,
    versions::{self, Version},
    world,
};

/// The core of the server that is measured.
pub(crate) const SERVER_CORE: &str = "0";
/// The core of the client.
pub(crate) const CLIENT_CORE: &str = "1";
/// Longest wait for a server's first answer: NSD and Knot compile a zone first.
const DEADLINE: Duration = Duration::from_secs(30);
/// Names whose addresses are compared before anything is measured.
const SAMPLED: usize = 50;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The server of this repository.
    Ours,
    /// The same, where an older one is measured beside it.
    Version(Version),
    /// Either of them, which forwards what is not ours, too.
    OursForwarding(Option<Version>, SocketAddr),
    /// A bare UDP echo of our own: what the kernel alone costs.
    Echo,
    /// An echo that takes and sends datagrams in batches: what the kernel costs at the least.
    EchoBatches,
    /// NLnet Labs' authoritative server. With additional records only where they are measured, as ours.
    Nsd {
        /// SRV records and their additional ones are served.
        srv: bool,
    },
    /// NSD with the names that forwarders fetch.
    NsdForeign,
    /// CZ.NIC's authoritative server.
    Knot {
        /// SRV records and their additional ones are served.
        srv: bool,
    },
    /// A forwarder that serves a hosts file.
    Dnsmasq,
    /// dnsmasq's cache before an upstream.
    DnsmasqForwarding(SocketAddr),
    /// NLnet Labs' resolver as a caching forwarder.
    Unbound(SocketAddr),
}

impl Kind {
    /// The name in tables, and in `PEERS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours | Self::OursForwarding(None, _) => "portolan",
            Self::Version(version) | Self::OursForwarding(Some(version), _) => version.name(),
            Self::Echo => "echo",
            Self::EchoBatches => "batches",
            Self::Nsd { .. } | Self::NsdForeign => "nsd",
            Self::Knot { .. } => "knot",
            Self::Dnsmasq | Self::DnsmasqForwarding(_) => "dnsmasq",
            Self::Unbound(_) => "unbound",
        }
    }

    /// A port of its own, so that nothing left over from before is measured for another.
    fn port(self) -> u16 {
        match self {
            Self::Ours => 5380,
            Self::OursForwarding(None, _) => 5381,
            Self::Echo => 5382,
            Self::Nsd { srv } => 5383 + u16::from(srv),
            Self::NsdForeign => 5385,
            Self::Knot { srv } => 5386 + u16::from(srv),
            Self::Dnsmasq => 5388,
            Self::DnsmasqForwarding(_) => 5389,
            Self::Unbound(_) => 5390,
            Self::EchoBatches => 5391,
            Self::Version(version) => 5392 + version as u16,
            Self::OursForwarding(Some(version), _) => 5395 + version as u16,
        }
    }

    /// Is what this is about.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Version(_) | Self::OursForwarding(..))
    }

    /// Sends back what comes.
    pub(crate) fn is_echo(self) -> bool {
        matches!(self, Self::Echo | Self::EchoBatches)
    }
}

/// A running server.
pub(crate) struct Server {
    /// Who it is.
    pub(crate) kind: Kind,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    process: Child,
    commands: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Server {
    /// Starts it and waits until it answers. `folder` is for its configuration, `names` is how many there are.
    pub(crate) fn start(kind: Kind, folder: &Path, names: usize) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, kind.port()));
        ensure!(UdpSocket::bind(address).is_ok(), "{address} is taken: a server of an earlier run?");
        let folder = folder.join(format!("{}-{}", kind.name(), kind.port()));
        fs::create_dir_all(&folder)?;
        // What came before a core was chosen counts for nobody.
        let mut command = Command::new("taskset");
        command.args(["-c", SERVER_CORE]).args(invocation(kind, address, &folder, names)?);
        let is_own = kind.is_echo() || kind.is_ours();
        let log = fs::File::create(folder.join("log"))?;
        if is_own {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        }
        let mut process = command.spawn().context("taskset (util-linux) does not start")?;
        let commands = process.stdin.take().zip(process.stdout.take().map(BufReader::new));
        let mut server = Self { kind, address, process, commands };
        match is_own {
            true => server.until_ready()?,
            false => server.until_answering(&folder)?,
        }
        Ok(server)
    }

    /// Gives our own server a command, and waits until it is done.
    pub(crate) fn command(&mut self, line: &str) -> Result<()> {
        let (commands, _) = self.commands.as_mut().context("takes no commands")?;
        writeln!(commands, "{line}")?;
        self.until_ready()
    }

    fn until_ready(&mut self) -> Result<()> {
        let (_, told) = self.commands.as_mut().context("tells nothing")?;
        let mut line = String::new();
        told.read_line(&mut line)?;
        ensure!(line == "ready\n", "{} did not start", self.kind.name());
        Ok(())
    }

    fn until_answering(&mut self, folder: &Path) -> Result<()> {
        let began = Instant::now();
        let name = if matches!(self.kind, Kind::Unbound(_) | Kind::DnsmasqForwarding(_) | Kind::NsdForeign) {
            world::foreign_name(0)
        } else {
            world::name(0)
        };
        loop {
            if ask(self.address, &name).is_ok_and(|reply| !reply.answers.is_empty()) {
                return Ok(());
            }
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            if let Some(status) = self.process.try_wait()? {
                bail!("{} has ended ({status}): {}", self.kind.name(), log());
            }
            ensure!(began.elapsed() < DEADLINE, "{} does not answer: {}", self.kind.name(), log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it gives the very addresses that all others give.
    pub(crate) fn check(&self, names: usize) -> Result<()> {
        for number in (0..names).step_by((names / SAMPLED).max(1)) {
            let name = world::name(number);
            let reply = ask(self.address, &name).with_context(|| format!("{}: {name}", self.kind.name()))?;
            let mut found: Vec<_> = reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
            found.sort();
            let expected = world::addresses(number);
            ensure!(found == expected, "{}: {name} is {found:?} instead of {expected:?}", self.kind.name());
        }
        Ok(())
    }

    /// Seconds that its threads have run, those of its child processes included.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let mut nanoseconds = 0;
        for process in family(self.process.id())? {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                // A thread may have ended meanwhile.
                let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
                nanoseconds += text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(nanoseconds as f64 / 1e9)
    }

    /// Resident memory in MiB, that of its child processes included (and what they share counted twice).
    pub(crate) fn memory(&self) -> Result<f64> {
        let mut kib = 0.0;
        for process in family(self.process.id())? {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            kib += line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
        }
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // NSD's and unbound's children end with their parent if that one is asked, not if it is killed.
        let children = family(self.process.id()).unwrap_or_default();
        let pid = |process: u32| nix::unistd::Pid::from_raw(i32::try_from(process).unwrap_or(i32::MAX));
        let _asked = nix::sys::signal::kill(pid(self.process.id()), nix::sys::signal::Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) && matches!(self.process.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
        for child in children.into_iter().skip(1) {
            let _killed = nix::sys::signal::kill(pid(child), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// A process and all that descend from it.
fn family(process: u32) -> Result<Vec<u32>> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads {
            let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|text| text.parse::<u32>().ok()));
        }
    }
    Ok(found)
}

/// Asks for the addresses of a name, once.
fn ask(server: SocketAddr, name: &str) -> Result<Message> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(&load::packet(name, 1))?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(Message::from_vec(&buffer[..length])?)
}

/// Asks for every name once, so that a cache holds all of them. A cache may be slow to fill; it gets three tries.
pub(crate) fn fill(server: SocketAddr, names: usize) -> Result<()> {
    for number in 0..names {
        let name = world::foreign_name(number);
        let is_there = || ask(server, &name).is_ok_and(|reply| !reply.answers.is_empty());
        ensure!((0..3).any(|_| is_there()), "{name} cannot be fetched through {server}");
    }
    Ok(())
}

/// The command line of a server, after its configuration was written.
fn invocation(kind: Kind, address: SocketAddr, folder: &Path, names: usize) -> Result<Vec<String>> {
    let own = |mode: &str, more: &[String]| -> Result<Vec<String>> {
        let program = match kind {
            Kind::Version(Version::Before) | Kind::OursForwarding(Some(Version::Before), _) => {
                versions::older()?.context(versions::BEFORE)?
            }
            _ => std::env::current_exe()?,
        };
        Ok([&[program.display().to_string(), mode.to_owned(), address.to_string()][..], more].concat())
    };
    let place = folder.display();
    let port = address.port();
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    match kind {
        Kind::Ours | Kind::Version(_) => own("--server", &[names.to_string()]),
        Kind::OursForwarding(_, upstream) => own("--server", &[names.to_string(), upstream.to_string()]),
        Kind::Echo => own("--echo", &[]),
        Kind::EchoBatches => own("--echo-batches", &[]),
        Kind::Nsd { .. } | Kind::NsdForeign => {
            let (zone, text, srv) = match kind {
                Kind::Nsd { srv } => ("svc.internal", world::zone_file(names, srv), srv),
                _ => ("bench-upstream.org", world::foreign_zone_file(names), false),
            };
            write("zone", text)?;
            let minimal = if srv { "no" } else { "yes" };
            let configuration = format!(
                "server:\n  server-count: 1\n  ip-address: 127.0.0.1@{port}\n  do-ip6: no\n  username: \"\"\n  zonesdir: \"{place}\"\n  \
                 database: \"\"\n  zonelistfile: \"{place}/zone.list\"\n  xfrdfile: \"{place}/xfrd.state\"\n  xfrdir: \"{place}\"\n  \
                 pidfile: \"{place}/pid\"\n  rrl-ratelimit: 0\n  minimal-responses: {minimal}\n\
                 remote-control:\n  control-enable: no\nzone:\n  name: {zone}\n  zonefile: zone\n"
            );
            let path = write("conf", configuration)?;
            Ok(words(format!("{} -d -c {}", program("nsd"), path.display())))
        }
        Kind::Knot { srv } => {
            write("zone", world::zone_file(names, srv))?;
            let configuration = format!(
                "server:\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n  rundir: \"{place}\"\n\
                 control:\n  listen: \"{place}/knot.sock\"\ndatabase:\n  storage: \"{place}\"\nlog:\n  - target: stderr\n    any: error\n\
                 zone:\n  - domain: svc.internal\n    file: \"{place}/zone\"\n    zonefile-sync: -1\n    journal-content: none\n"
            );
            let path = write("conf", configuration)?;
            Ok(words(format!("{} -c {}", program("knotd"), path.display())))
        }
        Kind::Dnsmasq | Kind::DnsmasqForwarding(_) => {
            let user = if nix::unistd::geteuid().is_root() { "user=root\n" } else { "" };
            let source = match kind {
                Kind::DnsmasqForwarding(upstream) => {
                    format!("server={}#{}\ncache-size={}\n", upstream.ip(), upstream.port(), names * 4)
                }
                _ => {
                    let hosts = write("hosts", world::hosts_file(names))?;
                    format!("addn-hosts={}\nlocal=/svc.internal/\n", hosts.display())
                }
            };
            let configuration = format!(
                "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\npid-file={place}/pid\n{user}{source}"
            );
            let path = write("conf", configuration)?;
            Ok(words(format!("{} -k -C {}", program("dnsmasq"), path.display())))
        }
        Kind::Unbound(upstream) => {
            let configuration = format!(
                "server:\n  interface: 127.0.0.1\n  port: {port}\n  num-threads: 1\n  do-daemonize: no\n  do-ip6: no\n  username: \"\"\n  chroot: \"\"\n  \
                 directory: \"{place}\"\n  pidfile: \"{place}/pid\"\n  use-syslog: no\n  access-control: 127.0.0.0/8 allow\n  \
                 do-not-query-localhost: no\n  module-config: \"iterator\"\n  msg-cache-size: 64m\n  rrset-cache-size: 128m\n  \
                 minimal-responses: yes\nforward-zone:\n  name: \".\"\n  forward-addr: {}@{}\nremote-control:\n  control-enable: no\n",
                upstream.ip(),
                upstream.port()
            );
            let path = write("conf", configuration)?;
            Ok(words(format!("{} -d -c {}", program("unbound"), path.display())))
        }
    }
}

/// Where Debian puts servers is not always searched.
pub(crate) fn program(name: &str) -> String {
    let path = format!("/usr/sbin/{name}");
    if Path::new(&path).exists() { path } else { name.to_owned() }
}
