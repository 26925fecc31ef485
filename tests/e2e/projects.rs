//! Two Compose projects on the same hosts and the same networks, both with a service `db`: nobody is ever given the other
//! project's, though their containers take over each other's addresses while everybody asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::bed::{Container, HOSTS, Host, Network, SOON, eventually, unique, unique_port};

/// Questions to be asked, all in all.
const ENOUGH: usize = 10_000;
/// Of these so many must have been answered with an address that the other project had before: else nothing could cross.
const TELLING: usize = 1_000;
/// How often each of a host's two `db` takes the other's address.
const SWAPS: usize = 2;
/// Questions that one run of `dig` asks: it needs 0.1 s for them.
const BATCH: usize = 300;
/// Many at most; they are slower than that by far.
const PATIENCE: Duration = Duration::from_secs(120);
/// Design P4: an address is gone from the answers this many seconds after its container's end.
const GONE: u64 = 1;

/// One project: what Compose would make of it on every host.
struct Project {
    name: String,
    /// Every `db` is published on this number, which the other project does not use.
    port: u16,
    /// The first twelve of its `db` containers' ids, as the targets of SRV records name them.
    ids: BTreeSet<String>,
    askers: Vec<Container>,
    databases: Vec<Container>,
}

/// An address of a `db`, on one host, for one run of its container.
#[derive(Debug)]
struct Held {
    host: Host,
    project: usize,
    address: String,
    /// The second in which it was started.
    from: u64,
    /// The second in which it was told to stop.
    stopped: Option<u64>,
    /// The second in which its end was reported.
    until: Option<u64>,
}

/// A question of a batch, as `dig` tells it.
#[derive(Debug)]
struct Told {
    /// The second in which the answer came.
    at: u64,
    status: String,
    addresses: Vec<String>,
    /// Target, port and addresses of each SRV record.
    targets: Vec<(String, u16, Vec<String>)>,
}

/// What all askers saw together.
#[derive(Debug, Default)]
struct Seen {
    unanswered: Vec<String>,
    /// No address while the own host's database ends: until it has, addresses stand for its number, which others lack.
    between: usize,
    crossed: Vec<String>,
    /// Answers with an address that was the other project's before.
    reused: usize,
    /// Answers with containers of other hosts.
    remote: usize,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Project {
    /// A `db` and an asker on every host. No alias `db`: Docker would answer that itself, and we would not be asked.
    fn start(stem: &str, networks: &[Network]) -> Self {
        let (name, port) = (unique(stem), unique_port());
        let project = format!("com.docker.compose.project={name}");
        let publish = format!("{port}:80");
        let start = |network: &Network, service: &str, options: &[&str]| {
            let service = format!("com.docker.compose.service={service}");
            let own = ["--label", &project, "--label", &service, "--network", &network.name];
            network.host.run(&unique(stem), &[&own, options].concat())
        };
        let databases: Vec<Container> = networks.iter().map(|n| start(n, "db", &["-p", &publish])).collect();
        // With an option of its own it does not inherit `ndots`, which makes Docker keep single labels to itself.
        let askers = networks.iter().map(|n| start(n, "asker", &["--dns-opt", "timeout:2"])).collect();
        let id = |database: &Container| database.docker(&["inspect", "-f", "{{.Id}}"])[..12].to_owned();
        Self { ids: databases.iter().map(id).collect(), name, port, askers, databases }
    }
}

/// Reads the output of `dig +noall +comments +answer +additional +stats`, a question after the other.
fn read(text: &str) -> Vec<Told> {
    text.split(";; Got answer:").skip(1).map(read_one).collect()
}

fn read_one(text: &str) -> Told {
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    // `;; WHEN: Sat Nov 21 19:04:10 UTC 2026`: the time of day is enough to find the second again.
    let clock = text.split(";; WHEN: ").nth(1).and_then(|rest| rest.split_whitespace().nth(3)).unwrap_or_default();
    let of_day = clock.split(':').fold(0, |seconds, part| seconds * 60 + part.parse::<u64>().expect("a clock"));
    let (now, day) = (now() + 1, 24 * 60 * 60);
    let at = now - (now + day - of_day) % day;
    let records: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    let addresses: Vec<(&str, String)> = records
        .iter()
        .filter(|record| record.len() == 5 && record[3] == "A")
        .map(|record| (record[0], record[4].to_owned()))
        .collect();
    let targets: Vec<(String, u16, Vec<String>)> = records
        .iter()
        .filter(|record| record.len() == 8 && record[3] == "SRV")
        .map(|record| {
            let own = addresses.iter().filter(|(name, _)| *name == record[7]).map(|(_, address)| address.clone());
            (record[7].to_owned(), record[6].parse().expect("a port"), own.collect())
        })
        .collect();
    let addresses =
        if targets.is_empty() { addresses.into_iter().map(|(_, address)| address).collect() } else { vec![] };
    Told { at, status: status.to_owned(), addresses, targets }
}

impl Seen {
    /// Judges what an asker of `project` on `host` was told.
    fn judge(&mut self, told: &Told, projects: &[Project], project: usize, host: Host, history: &[Held]) {
        let own = &projects[project];
        if told.status != "NOERROR" || (told.addresses.is_empty() && told.targets.is_empty()) {
            let ends =
                |h: &Held| h.stopped.is_some_and(|at| at <= told.at) && h.until.is_none_or(|at| told.at <= at + GONE);
            if told.status == "NOERROR" && history.iter().any(|h| h.host == host && h.project == project && ends(h)) {
                self.between += 1;
                return;
            }
            self.unanswered.push(format!("{} on {}: {told:?}", own.name, host.container));
            return;
        }
        let cross = |why: String| format!("{} on {}: {why}: {told:?}", own.name, host.container);
        let mut near: Vec<&String> = Vec::new();
        for (target, port, addresses) in &told.targets {
            let labels: Vec<&str> = target.split('.').collect();
            if !own.ids.contains(labels[0]) || labels[2] != own.name {
                self.crossed.push(cross(format!("{target} is not of this project")));
            }
            match *port {
                80 => near.extend(addresses),
                port if port == own.port => self.remote += 1,
                port => self.crossed.push(cross(format!("port {port} is not of this project"))),
            }
        }
        // The addresses of hosts are both projects' alike: their ports tell, and SRV has them.
        let is_host = |address: &&String| HOSTS.iter().any(|host| host.address.to_string() == **address);
        near.extend(told.addresses.iter().filter(|address| !is_host(address)));
        for address in near {
            let of = |project: usize| {
                history.iter().filter(move |h| h.host == host && h.project == project && h.address == *address)
            };
            let holds = |held: &Held| held.from <= told.at && held.until.is_none_or(|until| told.at <= until + GONE);
            if !of(project).any(holds) {
                self.crossed.push(cross(format!("{address} is not this project's at that time: {history:?}")));
            }
            self.reused += usize::from(of(1 - project).any(|held| held.from < told.at));
        }
    }
}

/// Asks in batches from one asker until told to stop. Gives how often it asked, and what it was told.
fn ask(asker: &Container, asked: &AtomicUsize, stop: &AtomicBool) -> Vec<Told> {
    let names = ["db. A", "db.svc.internal A", "db.svc.internal SRV"].join("\\n");
    let write = format!("for i in $(seq {}); do printf '{names}\\n'; done >/tmp/questions", BATCH / 3);
    asker.host.docker(&["exec", &asker.name, "sh", "-c", &write]);
    // One try: a retry would hide a lost answer. Status 9 says that one was lost: counted below, by its absence.
    let dig = "dig +tries=1 +time=2 +noall +comments +answer +additional +stats -f /tmp/questions || [ $? = 9 ]";
    let mut told = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let text = asker.host.docker(&["exec", &asker.name, "sh", "-c", dig]);
        asked.fetch_add(BATCH, Ordering::Relaxed);
        told.extend(read(&text));
    }
    told
}

/// On one host, ends both projects' `db` and starts them in the other order: each takes the address that the other had.
fn swap(host: Host, projects: &[Project], networks: &[Network], history: &Mutex<Vec<Held>>) {
    let index = HOSTS.iter().position(|other| *other == host).expect("a host of the bed");
    let held = |held: &&mut Held| held.host == host && held.until.is_none();
    let (mut history, database) = (history.lock().expect("not poisoned"), |p: usize| &projects[p].databases[index]);
    let first = history.iter_mut().filter(held).min_by(|a, b| a.address.cmp(&b.address)).expect("two hold one").project;
    for project in [first, 1 - first] {
        let asked = now();
        history.iter_mut().filter(held).filter(|h| h.project == project).for_each(|held| held.stopped = Some(asked));
        database(project).docker(&["stop", "-t", "0"]);
        let end = now();
        history.iter_mut().filter(held).filter(|h| h.project == project).for_each(|held| held.until = Some(end));
    }
    for project in [1 - first, first] {
        let from = now();
        database(project).docker(&["start"]);
        let address = database(project).address(&networks[index].name);
        history.push(Held { host, project, address, from, stopped: None, until: None });
    }
}

#[test]
fn two_projects_with_one_service_name_on_one_network_are_never_given_each_others() {
    let networks: Vec<Network> = HOSTS.iter().map(|host| host.network(&unique("both"))).collect();
    let projects = ["one", "two"].map(|stem| Project::start(stem, &networks));
    let start = now();
    let mut history = Vec::new();
    for (project, owner) in projects.iter().enumerate() {
        for (database, network) in owner.databases.iter().zip(&networks) {
            let address = database.address(&network.name);
            history.push(Held { host: database.host, project, address, from: start, stopped: None, until: None });
        }
    }
    for asker in projects.iter().flat_map(|project| &project.askers) {
        eventually("every asker is given every host's", SOON, || match asker.ask("db.svc.internal", "SRV") {
            super::dns::Answer::Found(found) if found.len() == HOSTS.len() => Ok(()),
            other => Err(other.to_string()),
        });
    }

    let (asked, stop, history) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(history));
    let told: BTreeMap<(usize, usize), Vec<Told>> = thread::scope(|scope| {
        // Stops the askers also where a swap fails, or the scope would never end.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stopper = Stop(&stop);
        let (asked, stop) = (&asked, &stop);
        let mut askers = BTreeMap::new();
        for (project, owner) in projects.iter().enumerate() {
            for (index, asker) in owner.askers.iter().enumerate() {
                askers.insert((project, index), scope.spawn(move || ask(asker, asked, stop)));
            }
        }
        let began = Instant::now();
        let mut swaps = 0;
        while swaps < SWAPS * HOSTS.len() || asked.load(Ordering::Relaxed) < ENOUGH {
            assert!(began.elapsed() < PATIENCE, "{swaps} swaps and {asked:?} questions are too few");
            swap(HOSTS[swaps % HOSTS.len()], &projects, &networks, &history);
            swaps += 1;
        }
        drop(stopper);
        askers.into_iter().map(|(who, asker)| (who, asker.join().expect("an asker ends"))).collect()
    });

    let (history, asked) = (history.into_inner().expect("not poisoned"), asked.into_inner());
    let mut seen = Seen::default();
    for ((project, index), told) in &told {
        told.iter().for_each(|told| seen.judge(told, &projects, *project, HOSTS[*index], &history));
    }
    let answered: usize = told.values().map(Vec::len).sum();
    eprintln!(
        "{asked} asked, {} crossed, {} unanswered; {} with an address that was the other's, {} of other hosts",
        seen.crossed.len(),
        seen.unanswered.len() + asked - answered,
        seen.reused,
        seen.remote
    );
    assert!(asked >= ENOUGH && seen.reused >= TELLING && seen.remote >= TELLING, "too little to prove anything");
    assert_eq!((answered, seen.unanswered.first()), (asked, None), "every question was answered");
    // How long it takes to end depends on the machine; most of the time is not spent in ending.
    assert!(seen.between * 10 <= asked, "{} answers without an address while a database ended", seen.between);
    assert!(seen.crossed.is_empty(), "{} crossed, the first: {}", seen.crossed.len(), seen.crossed[0]);
}
