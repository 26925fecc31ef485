//! Docker's [`Desired`] and the results of our own checks → the [`Desired`] that goes on: whom to ask when, what a
//! result means, and when a change of health is told.
//!
//! **A check** begins as *starting* (or as what its label says) and is asked once a second, at most; the first `rise`
//! passes in a row make it healthy, failures in a row make it unhealthy once they are `fall` and as old as `fall`
//! intervals. After that it is asked once an interval, and `rise` and `fall` results in a row turn it. A container that
//! was there when the agent came is presumed healthy, because its health was known before and a restart of the agent
//! must take nobody away; its first result, which comes within a second, decides at once.
//!
//! **A container** is as healthy as the worst of its checks and of Docker's HEALTHCHECK: unhealthy beats starting beats
//! healthy; having no check is neutral. While it is paused it is not asked, and keeps its state. Another life (Docker
//! ended it meanwhile) begins anew; another address voids the question under way.
//!
//! **Damping.** Of a container's health at most one change a second is told. What is worse is told at once, and only
//! what is better waits, for the second since the last change; so a container that flaps is out most of the time.
//! Everything else that Docker says passes at once and as it came: a host without any health adds nothing.
//!
//! Nothing here knows time, sockets or processes: `probe.rs` asks, and brings back the results with the ticket of their
//! question. A result whose ticket is not that of the last question is of another address or another life.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use imbl::ordmap::DiffItem;
use rand::{Rng, RngExt};

use crate::model::{
    Ask, Attachment, Check, Checks, Desired, Driver, Elsewhere, Health, Initial, NetworkId, Phase, Problem, Proto,
    Publication, Published, ShortId,
};

/// Questions under way. Each is a socket or a process, and keeps its place for 30 s at the worst; healthy containers
/// answer in milliseconds, so 64 places are some thousand checks a second.
pub const MAX_RUNNING: usize = 64;
/// The shortest time between a change of a container's health and a better one.
pub const DAMPING: Duration = Duration::from_secs(1);
/// How often a check that has not decided yet is asked, at most: readiness is waited for.
const EAGER: Duration = Duration::from_secs(1);

/// Whether checks may run programs on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Those in the operator's directory.
    Allowed,
    /// None.
    Denied,
}

/// Who is presumed healthy until the first result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presume {
    /// What was there when the agent came.
    AtFirst,
    /// Everybody: what an operator registers is meant to be given at once, also while the first question is under way.
    Always,
}

/// The right to bring the result of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// One question to be asked now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// To be given back with the result.
    pub ticket: Ticket,
    /// The container.
    pub container: ShortId,
    /// What to ask.
    pub check: Check,
    /// Where the checked port is reached from this host; `None` only for a command.
    pub target: Option<SocketAddr>,
    /// The name to look up for the address, which is then unspecified in `target`.
    pub host: Option<Arc<str>>,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered well.
    Passed,
    /// It was answered badly, or not in time.
    Failed,
}

/// How a check has changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The container.
    pub container: ShortId,
    /// Its name.
    pub name: Arc<str>,
    /// What the check says now.
    pub health: Health,
}

/// All containers that have a health.
#[derive(Debug)]
pub struct Monitor {
    commands: Commands,
    presume: Presume,
    docker: Arc<Desired>,
    published: Arc<Desired>,
    wards: BTreeMap<ShortId, Ward>,
    gates: BTreeMap<ShortId, Gate>,
    /// Whose publication may differ from the published one.
    touched: BTreeSet<ShortId>,
    problems_changed: bool,
    running: usize,
    tickets: u64,
}

/// A container with checks of ours.
#[derive(Debug)]
struct Ward {
    checks: Checks,
    paused: bool,
    states: Vec<State>,
    problems: Vec<Problem>,
}

/// One check.
#[derive(Debug)]
struct State {
    verdict: Verdict,
    /// Results in a row, all passes or all failures.
    passes: u32,
    failures: u32,
    /// Where to ask; `None`: it cannot be asked.
    target: Option<Target>,
    /// When to ask next; `None` while it is being asked or must not be.
    due: Option<Duration>,
    /// The question under way and when it was asked.
    asked: Option<(Ticket, Duration)>,
}

/// Where a check is asked: on this host without an address for a command of a container that has none.
type Target = Option<SocketAddr>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It was there before us.
    Presumed,
    /// Since then.
    Starting(Duration),
    Healthy,
    Unhealthy,
}

impl Verdict {
    fn health(self) -> Health {
        match self {
            Self::Presumed | Self::Healthy => Health::Healthy,
            Self::Starting(_) => Health::Starting,
            Self::Unhealthy => Health::Unhealthy,
        }
    }
}

/// What was last told of a container's health.
#[derive(Clone, Copy, Debug)]
struct Gate {
    health: Health,
    at: Duration,
    /// Something better waits.
    waiting: bool,
}

/// Less is better; without a check one is as good as healthy.
fn badness(health: Health) -> u8 {
    match health {
        Health::None | Health::Held | Health::Healthy => 0,
        Health::Starting => 1,
        Health::Unhealthy => 2,
    }
}

/// The worse of two; having none is neutral.
fn worse(a: Health, b: Health) -> Health {
    match (a, b) {
        (Health::None, other) | (other, Health::None) => other,
        // A check knows better than what happened before.
        (Health::Held, other) | (other, Health::Held) => other,
        _ if badness(a) >= badness(b) => a,
        _ => b,
    }
}

impl Monitor {
    /// Knows nothing yet.
    pub fn new(commands: Commands, presume: Presume) -> Self {
        Self {
            commands,
            presume,
            docker: Arc::default(),
            published: Arc::default(),
            wards: BTreeMap::new(),
            gates: BTreeMap::new(),
            touched: BTreeSet::new(),
            problems_changed: false,
            running: 0,
            tickets: 0,
        }
    }

    /// Takes what Docker says now; in the time of what changed.
    pub fn apply(&mut self, now: Duration, docker: Arc<Desired>, rng: &mut impl Rng) {
        let before = std::mem::replace(&mut self.docker, docker);
        let mut changed = BTreeSet::new();
        for difference in before.publications.diff(&self.docker.publications) {
            changed.insert(*match difference {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id,
            });
        }
        for difference in before.checks.diff(&self.docker.checks) {
            changed.insert(*match difference {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id,
            });
        }
        self.problems_changed |= before.problems != self.docker.problems;
        if before.apart != self.docker.apart {
            // Every check may have to be asked somewhere else.
            changed.extend(self.docker.checks.keys());
        }
        for id in &changed {
            self.look_at(now, *id, before.listed, rng);
        }
        self.touched.extend(changed);
    }

    fn look_at(&mut self, now: Duration, id: ShortId, was_listed: bool, rng: &mut impl Rng) {
        let (Some(publication), Some(checks)) = (self.docker.publications.get(&id), self.docker.checks.get(&id)) else {
            self.problems_changed |= self.wards.remove(&id).is_some_and(|ward| !ward.problems.is_empty());
            return;
        };
        let is_same = |ward: &Ward| ward.checks == *checks;
        if !self.wards.get(&id).is_some_and(is_same) {
            let states = checks.all.iter().map(|check| State {
                verdict: match check.initial {
                    _ if !was_listed || self.presume == Presume::Always => Verdict::Presumed,
                    Initial::Healthy => Verdict::Healthy,
                    Initial::Starting => Verdict::Starting(now),
                },
                passes: 0,
                failures: 0,
                target: None,
                due: None,
                asked: None,
            });
            let ward = Ward { states: states.collect(), checks: checks.clone(), paused: false, problems: Vec::new() };
            let former = self.wards.insert(id, ward);
            self.problems_changed |= former.is_some_and(|ward| !ward.problems.is_empty());
        }
        let Some(ward) = self.wards.get_mut(&id) else { return };
        ward.paused = publication.phase == Phase::Paused;
        let mut problems = Vec::new();
        for (check, state) in checks.all.iter().zip(&mut ward.states) {
            let target = match place(publication, check, self.commands, &self.docker.apart) {
                Ok(target) => Some(target),
                Err(expected) => {
                    let place = format!("container {} ({}), check {}", id, publication.name, check.ask.kind());
                    let port = check.port.map_or_else(|| "no port".to_owned(), |port| format!("port {port}"));
                    problems.push(Problem::new(place, &port, expected));
                    None
                }
            };
            state.aim(now, target, ward.paused, rng);
        }
        if ward.problems != problems {
            ward.problems = problems;
            self.problems_changed = true;
        }
    }

    /// The questions to be asked now, those that are due for longest first.
    pub fn due(&mut self, now: Duration) -> Vec<Probe> {
        let mut due: Vec<(Duration, ShortId, usize)> = Vec::new();
        for (id, ward) in &self.wards {
            let states = ward.states.iter().enumerate();
            due.extend(states.filter_map(|(index, state)| Some((state.due.filter(|due| *due <= now)?, *id, index))));
        }
        due.sort_unstable();
        due.truncate(MAX_RUNNING.saturating_sub(self.running));
        let mut probes = Vec::with_capacity(due.len());
        for (_, container, index) in due {
            let Some(ward) = self.wards.get_mut(&container) else { continue };
            let (Some(check), Some(state)) = (ward.checks.all.get(index), ward.states.get_mut(index)) else { continue };
            let Some(target) = state.target else { continue };
            self.tickets += 1;
            self.running += 1;
            let ticket = Ticket(self.tickets);
            (state.due, state.asked) = (None, Some((ticket, now)));
            let host = match self.docker.publications.get(&container).and_then(|held| held.elsewhere.as_deref()) {
                Some(Elsewhere::Name(host)) => Some(Arc::clone(host)),
                _ => None,
            };
            probes.push(Probe { ticket, container, check: check.clone(), target, host });
        }
        probes
    }

    /// Takes the result of a question, which has ended now.
    pub fn finish(
        &mut self,
        now: Duration,
        container: ShortId,
        ticket: Ticket,
        outcome: Outcome,
        rng: &mut impl Rng,
    ) -> Option<Turn> {
        self.running = self.running.saturating_sub(1);
        let ward = self.wards.get_mut(&container)?;
        let is_asked = |state: &State| state.asked.is_some_and(|(own, _)| own == ticket);
        let index = ward.states.iter().position(is_asked)?;
        let (check, state) = (ward.checks.all.get(index)?, ward.states.get_mut(index)?);
        let before = state.verdict.health();
        state.judge(now, check, outcome, rng);
        let health = state.verdict.health();
        if before == health {
            return None;
        }
        self.touched.insert(container);
        let name = self.docker.publications.get(&container)?.name.clone();
        Some(Turn { container, name, health })
    }

    /// When something is to be done though nothing happens.
    pub fn wake_at(&self) -> Option<Duration> {
        // A host has some hundred containers: looking at all takes microseconds, and only where there are checks.
        let dues = self.wards.values().flat_map(|ward| &ward.states).filter_map(|state| state.due);
        let dues = dues.filter(|_| self.running < MAX_RUNNING);
        let gates = self.gates.values().filter(|gate| gate.waiting).map(|gate| gate.at + DAMPING);
        dues.chain(gates).min()
    }

    /// What goes on; `None` if it is what went on before.
    pub fn publish(&mut self, now: Duration) -> Option<Arc<Desired>> {
        let released = self.gates.iter().filter(|(_, gate)| gate.waiting && now >= gate.at + DAMPING);
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(released.map(|(id, _)| *id));
        let mut publications = self.published.publications.clone();
        let besides = |desired: &Desired| (desired.listed, desired.round, desired.drained);
        let mut changed = besides(&self.published) != besides(&self.docker);
        for id in touched {
            let next = self.tell(now, id);
            if publications.get(&id) == next.as_ref() {
                continue;
            }
            changed = true;
            match next {
                Some(next) => publications.insert(id, next),
                None => publications.remove(&id),
            };
        }
        let problems = if std::mem::take(&mut self.problems_changed) {
            changed = true;
            let own = self.wards.values().flat_map(|ward| &ward.problems);
            self.docker.problems.iter().chain(own).cloned().collect()
        } else {
            Arc::clone(&self.published.problems)
        };
        if !changed {
            return None;
        }
        self.published = Arc::new(Desired { publications, problems, ..Desired::clone(&self.docker) });
        Some(Arc::clone(&self.published))
    }

    /// What is told of a container now: Docker's own value where that is all there is to say.
    fn tell(&mut self, now: Duration, id: ShortId) -> Option<Arc<Publication>> {
        let Some(publication) = self.docker.publications.get(&id) else {
            self.gates.remove(&id);
            return None;
        };
        let wanted = match self.wards.get(&id) {
            Some(ward) => worse(publication.health, ward.health()),
            None => publication.health,
        };
        let health = match self.gates.get_mut(&id) {
            Some(gate) => gate.pass(now, wanted),
            None if matches!(wanted, Health::None | Health::Held) => wanted,
            None => {
                self.gates.insert(id, Gate { health: wanted, at: now, waiting: false });
                wanted
            }
        };
        if publication.health == health {
            return Some(Arc::clone(publication));
        }
        Some(Arc::new(Publication { health, ..Publication::clone(publication) }))
    }
}

impl Gate {
    /// What may be told of a health now.
    fn pass(&mut self, now: Duration, wanted: Health) -> Health {
        self.waiting = badness(wanted) < badness(self.health) && now < self.at + DAMPING;
        if !self.waiting && wanted != self.health {
            (self.health, self.at) = (wanted, now);
        }
        self.health
    }
}

impl Ward {
    /// The worst of its checks; none if none can be asked.
    fn health(&self) -> Health {
        let asked = self.states.iter().filter(|state| state.target.is_some());
        asked.map(|state| state.verdict.health()).fold(Health::None, worse)
    }
}

impl State {
    /// Takes where to ask from now on, and whether at all.
    fn aim(&mut self, now: Duration, target: Option<Target>, paused: bool, rng: &mut impl Rng) {
        if self.target != target || paused {
            // Whatever is under way was asked of somebody else, or of a container that could not answer.
            (self.target, self.asked, self.due) = (target, None, None);
            (self.passes, self.failures) = (0, 0);
        }
        if !paused && target.is_some() && self.due.is_none() && self.asked.is_none() {
            // Many containers may start, and all of them are there when the agent comes.
            self.due = Some(now + EAGER.mul_f64(rng.random_range(0.0..=1.0)));
        }
    }

    fn judge(&mut self, now: Duration, check: &Check, outcome: Outcome, rng: &mut impl Rng) {
        let passed = outcome == Outcome::Passed;
        let began = self.asked.take().map_or(now, |(_, began)| began);
        (self.passes, self.failures) =
            if passed { (self.passes.saturating_add(1), 0) } else { (0, self.failures.saturating_add(1)) };
        let (rises, falls) = (self.passes >= check.rise, self.failures >= check.fall);
        let before = self.verdict;
        self.verdict = match before {
            Verdict::Presumed if passed => Verdict::Healthy,
            Verdict::Presumed => Verdict::Unhealthy,
            Verdict::Starting(since) if falls && now >= since + check.interval * check.fall => Verdict::Unhealthy,
            Verdict::Starting(_) | Verdict::Unhealthy if rises => Verdict::Healthy,
            Verdict::Healthy if falls => Verdict::Unhealthy,
            same => same,
        };
        let wait = match (before, self.verdict) {
            (_, Verdict::Starting(_)) => EAGER.min(check.interval).mul_f64(rng.random_range(0.9..=1.0)),
            // Those that began together are asked at different times from here on.
            (Verdict::Presumed | Verdict::Starting(_), _) => check.interval.mul_f64(rng.random_range(0.0..=1.0)),
            _ => check.interval.mul_f64(rng.random_range(0.9..=1.0)),
        };
        self.due = Some((began + wait).max(now));
    }
}

/// Where a check of a container is asked from its own host; else what would make it possible.
fn place(
    publication: &Publication,
    check: &Check,
    commands: Commands,
    apart: &BTreeSet<NetworkId>,
) -> Result<Target, String> {
    let address = check.port.and_then(|port| reach(publication, port, apart));
    match (&check.ask, commands) {
        (Ask::Command { .. }, Commands::Allowed) => Ok(address),
        (Ask::Command { .. }, Commands::Denied) => {
            Err("--check-commands DIR on this host, or portolan.check.http or .tcp; until then there is no check".into())
        }
        _ => address.map(Some).ok_or_else(|| {
            "a port that this host reaches: on a bridge, on the host's network or published; until then there is no check"
                .into()
        }),
    }
}

/// A port of a container as its own host reaches it: the container's address on a bridge, loopback on the host's own
/// network, else where the port is published. Not macvlan, ipvlan and overlay, nor bridges in another network namespace:
/// the host itself has no part in those.
fn reach(publication: &Publication, port: u16, apart: &BTreeSet<NetworkId>) -> Option<SocketAddr> {
    match publication.elsewhere.as_deref() {
        Some(Elsewhere::Address(address)) => return Some(SocketAddr::new(*address, port)),
        // Looked up whenever it is asked.
        Some(Elsewhere::Name(_)) => return Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        None => {}
    }
    if publication.is_on_host_network() {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let here = |network: &&Attachment| network.driver == Driver::Bridge && !apart.contains(&network.id);
    let bridges = publication.networks.iter().filter(here);
    let mut addresses: Vec<IpAddr> = bridges.flat_map(|network| network.ips.iter().copied()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    if let Some(address) = addresses.first() {
        return Some(SocketAddr::new(*address, port));
    }
    let ports = publication.services.iter().flat_map(|offer| &offer.ports);
    let mut published = ports.filter(|held| (held.port, held.proto) == (port, Proto::Tcp)).flat_map(|p| &p.published);
    published.next().map(|Published { ip, port, .. }| match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, *port)),
        ip => SocketAddr::new(*ip, *port),
    })
}

#[cfg(test)]
pub(super) mod tests;
