//! `make bench-dns`: the DNS server beside its peers, on one core each for server and client.
//!
//! 10,000 names with three addresses each, asked for at random by a client of our own (`load.rs`), which checks every
//! answer. Rounds are interleaved (`rounds.rs`); our server, and the echo that shows what the kernel alone costs, run in
//! processes of this very binary (`serve.rs`); the peers are Debian's packages with generated configurations (`peers.rs`).
//!
//! | part | what is measured |
//! |---|---|
//! | a | A, as fast as it goes: us, NSD, Knot, dnsmasq, an echo, an echo in batches |
//! | b | SRV with additional records: us, NSD, Knot |
//! | c | A asked by 50 containers, each with its own view, beside one asker |
//! | d | the same while 1,000 instances change per second |
//! | e | A at 5,000 questions per second: latency, and what a server costs that is mostly idle |
//! | f | names of others from the cache: us, unbound, dnsmasq, all before the same NSD |
//! | g | our names while an upstream is silent and 2,000 questions per second are forwarded to it |
//! | x | dnsperf's opinion of (a): it costs more per question than the servers do, so only a cross-check |
//!
//! `BENCH_ROUNDS`, `BENCH_ONLY=a,b`, `BENCH_PEERS=nsd,echo` and `BENCH_SMOKE=1` (seconds, to see that it works) choose.
//!
//! `BENCH_BEFORE=PATH`, an older binary of this benchmark, sets its server beside the present one in parts a, b, e and f.
//! Then a and b are measured, without peers, unless others are chosen. `versions.rs` says how a difference is judged.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

#[path = "../../tests/support/figures.rs"]
mod figures;
mod load;
mod peers;
mod rounds;
mod serve;
#[path = "../../tests/support/serving.rs"]
mod serving;
#[path = "../../tests/support/versions.rs"]
mod versions;
mod world;

use figures::Figures;
use load::{Expect, Questions};
use peers::{Kind, Server};
use rounds::{Contender, Load, Plan};
use versions::Version;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names of our zone, and as many of others'.
const NAMES: usize = 10_000;
/// Rounds, unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 11;
/// Questions per second of an ordinary busy host.
const STEADY: u32 = 5_000;
/// Questions per second that are forwarded to nobody.
const FORWARDED: u32 = 2_000;
/// Record types on the wire.
const A: u16 = 1;
const SRV: u16 = 33;

fn main() -> Result<()> {
    // This, too.
    let _small_pages = nix::sys::prctl::set_thp_disable(true);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--echo", address] => serve::echo(address.parse()?),
        ["--echo-batches", address] => serve::echo_batches(address.parse()?),
        ["--server", address, names] => serve::server(address.parse()?, names.parse()?, None),
        ["--server", address, names, upstream] => {
            serve::server(address.parse()?, names.parse()?, Some(upstream.parse()?))
        }
        _ => {
            let is_alone = go_alone(&words)?;
            Bench::new(is_alone)?.run()
        }
    }
}

/// Set in a network namespace of our own.
const ALONE: &str = "BENCH_ALONE";

/// Goes on in a network namespace of its own, where that is possible: a packet filter (Docker brings one) costs each packet
/// on a host's loopback 0.7 microseconds, whoever answers, which would hide what a server costs. False where it is not.
fn go_alone(arguments: &[&str]) -> Result<bool> {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(ALONE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (iproute2)")?;
        ensure!(up.success(), "the loopback interface does not come up");
        return Ok(true);
    }
    let options: &[&str] =
        if nix::unistd::geteuid().is_root() { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
    match Command::new("unshare").args(options).arg("true").output() {
        Ok(tried) if tried.status.success() => {}
        _ => return Ok(false),
    }
    let itself = std::env::current_exe()?;
    let error = Command::new("unshare").args(options).arg(itself).args(arguments).env(ALONE, "1").exec();
    Err(error).context("unshare (util-linux)")
}

/// What is measured where an older binary is set beside the present one, and nothing is chosen.
const PARTS_OF_VERSIONS: [&str; 2] = ["a", "b"];

/// Measures one part.
type Part = fn(&mut Bench) -> Result<()>;

struct Bench {
    plan: Plan,
    names: usize,
    only: Option<Vec<String>>,
    peers: Option<Vec<String>>,
    /// Our own servers: the present one, or where an older one is beside it, each of these.
    ours: Vec<Option<Version>>,
    folder: tempfile::TempDir,
    figures: Figures,
    bad: u64,
}

impl Bench {
    fn new(is_alone: bool) -> Result<Self> {
        let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let list = |name: &str| given(name).map(|text| text.split(',').map(|word| word.trim().to_owned()).collect());
        let is_smoke = given("BENCH_SMOKE").is_some();
        let rounds = match given("BENCH_ROUNDS") {
            Some(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
            None if is_smoke => 1,
            None => ROUNDS,
        };
        let (each, warm_up, names) = if is_smoke { (300, 50, 1_000) } else { (1_000, 100, NAMES) };
        let plan = Plan { rounds, each: Duration::from_millis(each), warm_up: Duration::from_millis(warm_up) };
        let (mut only, mut peers) = (list("BENCH_ONLY"), list("BENCH_PEERS"));
        let (mut figures, mut ours) = (Figures::new("dns"), vec![None]);
        if let Some(older) = versions::older()? {
            only = only.or_else(|| Some(PARTS_OF_VERSIONS.map(str::to_owned).to_vec()));
            peers = peers.or_else(|| Some(vec![]));
            ours = Version::ALL.map(Some).to_vec();
            figures = Figures::new("dns-before");
            figures.say(&format!("before: {}", older.display()));
        }
        figures.say(&format!(
            "{names} names x {} addresses, server on core {}, client on core {}; medians of {rounds} rounds of {each} ms",
            world::REPLICAS,
            peers::SERVER_CORE,
            peers::CLIENT_CORE
        ));
        figures.say(match is_alone {
            true => "in a network namespace without a packet filter",
            false => "on the host's loopback with whatever packet filter it has: no namespace may be made here",
        });
        let folder = tempfile::tempdir()?;
        Ok(Self { plan, names, only, peers, ours, folder, figures, bad: 0 })
    }

    fn run(mut self) -> Result<()> {
        ensure!(
            std::thread::available_parallelism()?.get() >= 2,
            "two processors are needed, one for the server and one for the client"
        );
        // Before any thread is started, for threads and processes take over what is set here.
        let pid = std::process::id().to_string();
        let pinned = Command::new("taskset").args(["-cp", peers::CLIENT_CORE, &pid]).output().context("taskset")?;
        ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr));
        let parts: [(&str, Part); 8] = [
            ("a", Self::addresses),
            ("b", Self::services),
            ("c", Self::askers),
            ("d", Self::changes),
            ("e", Self::steady),
            ("f", Self::forwarded),
            ("g", Self::black_hole),
            ("x", Self::dnsperf),
        ];
        let mut failed = None;
        for (part, measure) in parts {
            if self.only.as_ref().is_none_or(|only| only.iter().any(|word| word == part)) {
                eprintln!("part {part}");
                // What was measured before and after is told all the same.
                let outcome = measure(&mut self).with_context(|| format!("part {part}"));
                failed = failed.or(outcome.err());
            }
        }
        let bad = self.bad;
        self.figures.write()?;
        failed.map_or(Ok(()), Err)?;
        ensure!(bad == 0, "{bad} questions were lost or wrongly answered: see the table");
        Ok(())
    }

    /// Starts those that were chosen, ours always, and checks that all say the same.
    fn start(&self, kinds: &[Kind]) -> Result<Vec<Server>> {
        let is_chosen = |kind: &&Kind| {
            kind.is_ours() || self.peers.as_ref().is_none_or(|peers| peers.iter().any(|peer| peer == kind.name()))
        };
        let start = |kind: &Kind| Server::start(*kind, self.folder.path(), self.names);
        kinds.iter().filter(is_chosen).map(start).collect()
    }

    /// Our own servers, then others.
    fn ours_and(&self, others: &[Kind]) -> Vec<Kind> {
        let ours = self.ours.iter().map(|version| version.map_or(Kind::Ours, Kind::Version));
        ours.chain(others.iter().copied()).collect()
    }

    fn questions(&self, kind: u16, additionals: u16) -> Questions {
        let answers = u16::try_from(world::REPLICAS).unwrap_or_default();
        Questions::of((0..self.names).map(world::name), kind, Expect::Records { answers, additionals })
    }

    fn echoes(&self) -> Questions {
        Questions { expect: Expect::Echo, ..self.questions(A, 0) }
    }

    /// One contender for each server.
    fn contenders<'q>(servers: &[Server], questions: &'q Questions, echoes: &'q Questions) -> Vec<Contender<'q>> {
        let of = |server: &Server| if server.kind.is_echo() { echoes } else { questions };
        let new = |(place, server): (usize, &Server)| Contender {
            is_peer: !server.kind.is_ours(),
            ..Contender::new(server.kind.name(), place, of(server))
        };
        servers.iter().enumerate().map(new).collect()
    }

    fn tell(&mut self, title: &str, results: &rounds::Results) {
        self.figures.say(title);
        self.bad += results.tell(&mut self.figures);
        results.compare_first(&mut self.figures);
    }

    fn addresses(&mut self) -> Result<()> {
        let results = self.all_for_addresses(Load::Closed)?;
        self.tell("a: A, saturated", &results);
        results.compare(&mut self.figures, "nsd", "echo");
        results.compare(&mut self.figures, "batches", "echo");
        Ok(())
    }

    /// All who can be asked for addresses, after a check that they say the same.
    fn all_for_addresses(&self, load: Load) -> Result<rounds::Results> {
        let peers = [Kind::Nsd { srv: false }, Kind::Knot { srv: false }, Kind::Dnsmasq, Kind::Echo, Kind::EchoBatches];
        let mut servers = self.start(&self.ours_and(&peers))?;
        for server in servers.iter().filter(|server| !server.kind.is_echo()) {
            server.check(self.names)?;
        }
        let (questions, echoes) = (self.questions(A, 0), self.echoes());
        let contenders = Self::contenders(&servers, &questions, &echoes);
        rounds::run(self.plan, load, &mut servers, &contenders)
    }

    fn services(&mut self) -> Result<()> {
        let peers = [Kind::Nsd { srv: true }, Kind::Knot { srv: true }];
        let mut servers = self.start(&self.ours_and(&peers))?;
        let questions = self.questions(SRV, u16::try_from(world::REPLICAS)?);
        let contenders = Self::contenders(&servers, &questions, &questions);
        let results = rounds::run(self.plan, Load::Closed, &mut servers, &contenders)?;
        self.tell("b: SRV with additional records, saturated", &results);
        Ok(())
    }

    fn askers(&mut self) -> Result<()> {
        let mut servers = self.start(&[Kind::Ours])?;
        let questions = self.questions(A, 0);
        let one = Contender::new("one asker", 0, &questions);
        let many = Contender { sources: askers(), ..Contender::new("50 askers", 0, &questions) };
        let results = rounds::run(self.plan, Load::Closed, &mut servers, &[many, one])?;
        self.tell("c: A, saturated, each of 50 askers with a view of its own", &results);
        Ok(())
    }

    fn changes(&mut self) -> Result<()> {
        let mut servers = self.start(&[Kind::Ours])?;
        let questions = self.questions(A, 0);
        let quiet = Contender { sources: askers(), ..Contender::new("quiet", 0, &questions) };
        let changing = Contender { sources: askers(), churn: true, ..Contender::new("1,000 changes/s", 0, &questions) };
        let one = Contender::new("quiet, one asker", 0, &questions);
        let results = rounds::run(self.plan, Load::Closed, &mut servers, &[changing, quiet, one])?;
        self.tell("d: A, saturated, 50 askers, while 1,000 instances change per second", &results);
        Ok(())
    }

    fn steady(&mut self) -> Result<()> {
        let results = self.all_for_addresses(Load::Open(STEADY))?;
        self.tell(&format!("e: A at {STEADY} q/s"), &results);
        Ok(())
    }

    fn forwarded(&mut self) -> Result<()> {
        let upstream = Server::start(Kind::NsdForeign, self.folder.path(), self.names)?;
        let at = upstream.address;
        let ours = self.ours.iter().map(|version| Kind::OursForwarding(*version, at));
        let kinds: Vec<Kind> = ours.chain([Kind::Unbound(at), Kind::DnsmasqForwarding(at)]).collect();
        let mut servers = self.start(&kinds)?;
        for server in &servers {
            peers::fill(server.address, self.names)?;
        }
        let expect = Expect::Records { answers: u16::try_from(world::REPLICAS)?, additionals: 0 };
        let questions = Questions::of((0..self.names).map(world::foreign_name), A, expect);
        let contenders = Self::contenders(&servers, &questions, &questions);
        let asked = upstream.cpu()?;
        let results = rounds::run(self.plan, Load::Closed, &mut servers, &contenders)?;
        self.tell("f: names of others, kept, saturated", &results);
        self.figures.row("upstream meanwhile", &[("cpu", upstream.cpu()? - asked, "s")]);
        Ok(())
    }

    fn black_hole(&mut self) -> Result<()> {
        // Bound and never read: what is sent there is neither answered nor refused.
        let hole = UdpSocket::bind("127.0.0.1:0")?;
        self.forwarded_in_vain("a silent upstream", hole.local_addr()?)?;
        self.forwarded_in_vain("an upstream to which these names are dead", half_a_hole()?)
    }

    fn forwarded_in_vain(&mut self, what: &str, upstream: SocketAddr) -> Result<()> {
        let mut servers = self.start(&[Kind::OursForwarding(None, upstream)])?;
        let questions = self.questions(A, 0);
        let foreign = (0..self.names).map(|number| format!("{number:08x}.bench-nowhere.org"));
        let nowhere = Questions { unique: true, ..Questions::of(foreign, A, Expect::Any) };
        let before = servers[0].memory()?;
        let vain = Contender { beside: Some((&nowhere, FORWARDED)), ..Contender::new("in vain", 0, &questions) };
        // What so many more questions cost, whatever they ask for.
        let own =
            Contender { beside: Some((&questions, FORWARDED)), ..Contender::new("as many of ours", 0, &questions) };
        let quiet = Contender::new("nothing beside", 0, &questions);
        let results = rounds::run(self.plan, Load::Open(STEADY), &mut servers, &[vain, own, quiet])?;
        self.tell(&format!("g: A at {STEADY} q/s while {FORWARDED} q/s are forwarded to {what}"), &results);
        self.figures.row("memory", &[("before", before, "MiB"), ("after", servers[0].memory()?, "MiB")]);
        Ok(())
    }

    fn dnsperf(&mut self) -> Result<()> {
        let servers = self.start(&[Kind::Ours, Kind::Nsd { srv: false }, Kind::Knot { srv: false }, Kind::Dnsmasq])?;
        let list = self.folder.path().join("dnsperf");
        fs::write(&list, (0..self.names).map(|name| format!("{} A\n", world::name(name))).collect::<String>())?;
        self.figures.say("x: dnsperf, saturated, one run each");
        for server in &servers {
            let before = server.cpu()?;
            let (rate, answered) = dnsperf(server, &list, self.plan.each)?;
            let cpu = (server.cpu()? - before) / answered * 1e6;
            self.figures.row(server.kind.name(), &[("rate", rate, "q/s"), ("cpu", cpu, "s/M")]);
        }
        Ok(())
    }
}

/// An upstream that replies to what we ask to see whether it replies at all, and to nothing else: as one does that cannot
/// reach the servers of those names.
fn half_a_hole() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut packet) {
            // The root's name is one octet of 0, behind the header.
            if packet[..length].get(12) == Some(&0) {
                packet[2] |= 0x80;
                let _sent = socket.send_to(&packet[..length], asker);
            }
        }
    });
    Ok(address)
}

fn askers() -> Vec<std::net::Ipv4Addr> {
    (0..world::NETWORKS).map(world::asker).collect()
}

/// Questions per second, and how many were answered.
fn dnsperf(server: &Server, list: &Path, each: Duration) -> Result<(f64, f64)> {
    let port = server.address.port().to_string();
    let seconds = each.as_secs().max(1).to_string();
    let output = Command::new("dnsperf")
        .args(["-s", "127.0.0.1", "-p", &port, "-l", &seconds, "-c", "4", "-q", "128", "-d"])
        .arg(list)
        .output()
        .context("dnsperf (make setup)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    value("Queries per second:").zip(value("Queries completed:")).with_context(|| format!("dnsperf said: {text}"))
}
