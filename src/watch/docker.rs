//! \[IO\] Follows the Docker engine: events, lists and inspects in, snapshots out. The only file that knows Docker's API.
//!
//! GET only, so that a read-only socket proxy is enough. Nothing is decided here but when to reconnect: see
//! [`Containers`] for what is believed.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, spawn_blocking, yield_now},
    time::{Instant, MissedTickBehavior, error::Elapsed, interval, interval_at, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    asker::{self, HostFacts},
    container::{
        self, Bridge, Cause, Changes, ContainerId, Containers, Depth, Drains, Event, Inspected, NotDone, Outcome,
        Ticket, Wish,
    },
    desired, host, labels,
    replay::Replay,
    resident,
};
use crate::model::{Desired, Local, Problem, Proto, Residents, ShortId};

mod decode;
mod endpoint;
mod http;
mod journal;
mod request;
mod wire;

pub use endpoint::{Endpoint, EndpointError};
use http::Failure;
use journal::Journal;

/// Events between the reader and us. Docker buffers 1,024 itself; four times that is 10 s of the busiest engine measured.
const QUEUE: usize = 4096;
/// Inspects under way that events asked for. Each costs the engine a connection; a stuck container keeps one for 2 s.
const MAX_URGENT: usize = 64;
/// Inspects under way that lists asked for: few, so that they do not slow those that somebody waits for.
const MAX_SWEEP: usize = 8;
/// Inspects under way of containers that were just created. Those that start meanwhile block until they have started.
const MAX_PREPARE: usize = 16;
/// The list lags its events: the first one of a connection is repeated this long after it was answered.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Containers that gave no answer are asked again this often.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Waits between connections: doubled from the first to the last, each shortened by up to a half at random.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// While a container starts or ends, the processors are busy with it, and somebody waits for an answer: what nobody waits
/// for waits for so long.
const WHILE_BUSY: Duration = Duration::from_millis(20);
/// A connection that lived as long as this was a good one: the next wait is the first again.
const GOOD: Duration = Duration::from_secs(5);

/// How to follow.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the engine listens.
    pub endpoint: Endpoint,
    /// Time between two lists: how long a lost event may stay unnoticed.
    pub list_every: Duration,
    /// How long one inspect may take. 2 s is 5,000 times what it takes; a stuck container takes for ever.
    pub inspect_deadline: Duration,
    /// How long a list may take before the engine counts as lost.
    pub list_deadline: Duration,
    /// What the last agent had drained.
    pub drains: Drains,
    /// How labels are read.
    pub labels: labels::Options,
    /// `--crash-hold`
    pub crash_hold: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::Unix("/var/run/docker.sock".into()),
            list_every: Duration::from_secs(30),
            inspect_deadline: Duration::from_secs(2),
            list_deadline: Duration::from_secs(10),
            drains: Drains::default(),
            labels: labels::Options::default(),
            crash_hold: true,
        }
    }
}

/// Where the snapshots go. Each is sent only when it differs from the one before.
#[derive(Debug)]
pub struct Outputs {
    /// What this host publishes.
    pub desired: watch::Sender<Arc<Desired>>,
    /// Who asks from where.
    pub local: watch::Sender<Arc<Local>>,
    /// All containers, with why they are not published. Wakes nobody: it is read when somebody asks.
    pub residents: watch::Sender<Arc<Residents>>,
    /// How it goes. Only a change of `connected`, `last_error` or `problems` wakes receivers; counters are read when
    /// needed.
    pub status: watch::Sender<Status>,
}

/// A command of the operator, answered when what it changes has been sent.
#[derive(Debug)]
pub struct Asked {
    /// What to do.
    pub command: container::Command,
    /// What came of it, or why nothing.
    pub reply: oneshot::Sender<Result<Outcome, NotDone>>,
}

/// How following goes, for metrics and readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The engine answers.
    pub connected: bool,
    /// Why the last connection ended, while there is none.
    pub last_error: Option<String>,
    /// That the engine cannot be reached, or refuses inspects, while it lasts.
    pub problems: Vec<Problem>,
    /// Events taken.
    pub events: u64,
    /// Lists taken.
    pub lists: u64,
    /// Inspects taken.
    pub inspects: u64,
    /// Inspects without a usable answer.
    pub failed_inspects: u64,
    /// Connections that ended.
    pub resyncs: u64,
    /// What lists found though no event had told it.
    pub unheard: u64,
}

/// Follows the engine for ever. Drop it to stop.
pub async fn follow(options: Options, outputs: Outputs, commands: mpsc::Receiver<Asked>) {
    let mut containers = Containers::new(options.labels.clone());
    containers.restore_drains(options.drains.clone());
    containers.set_crash_hold(options.crash_hold);
    let journal = Journal::new(options.endpoint.clone());
    let mut follower = Follower {
        options,
        outputs,
        containers,
        commands,
        waits: JoinSet::new(),
        replay: Replay::default(),
        host: HostFacts::default(),
        ports: BTreeSet::new(),
        desired: Arc::default(),
        local: Arc::default(),
        residents: Residents::default(),
        start: Instant::now(),
        journal,
    };
    let mut wait = BACKOFF.0;
    loop {
        let began = Instant::now();
        let Lost(error) = follower.connection().await;
        follower.containers.apply(Event::Lost);
        follower.take_loss(error);
        if began.elapsed() >= GOOD {
            wait = BACKOFF.0;
        }
        let pause = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        follower.pause(pause).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// Ends when it is time to repeat the first list; never, if that is not planned.
async fn list_again(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why a connection ended.
struct Lost(String);

/// What the tasks of one connection bring back.
enum Answer {
    Inspect {
        cause: Cause,
        event: Event,
        /// Of whom a proxy before the engine would not let us ask, and its words.
        refused: Option<(ShortId, String)>,
    },
    Network(Event),
    Image(Event),
    List(Event),
    Host(HostFacts),
    /// Whether the engine runs without a root's rights.
    Rootless(bool),
    /// The event stream has ended: what was asked may still be answered.
    StreamEnded(Lost),
    /// There is nothing more to be had from this connection.
    Lost(Lost),
}

/// The one owner of all state.
struct Follower {
    options: Options,
    outputs: Outputs,
    containers: Containers,
    commands: mpsc::Receiver<Asked>,
    /// Times that a connection does not end.
    waits: JoinSet<Event>,
    replay: Replay,
    host: HostFacts,
    /// The published ports as of the last look at the host.
    ports: BTreeSet<(Proto, u16)>,
    desired: Arc<Desired>,
    local: Arc<Local>,
    residents: Residents,
    /// The moment that times are counted from.
    start: Instant,
    journal: Journal,
}

/// Everything that ends with a connection.
struct Connection {
    engine: Endpoint,
    tasks: JoinSet<Answer>,
    urgent: Lane,
    sweep: Lane,
    prepare: Lane,
    listing: bool,
    /// When the first list is repeated.
    list_again: Option<Instant>,
    /// Why it ends as soon as all that was asked is answered. A stream that ends at once, for an event that cannot be
    /// decoded, must not keep us from ever following up a list.
    ending: Option<Lost>,
    /// The host's own facts are being read; `true`: once more after that.
    reading_host: Option<bool>,
}

/// Inspects of one urgency: how many run, how many may, and those that wait.
struct Lane {
    running: usize,
    limit: usize,
    waiting: VecDeque<Wish>,
}

impl Follower {
    async fn connection(&mut self) -> Lost {
        let engine = self.options.endpoint.clone();
        let lane = |limit| Lane { running: 0, limit, waiting: VecDeque::new() };
        let mut connection = Connection {
            engine: engine.clone(),
            tasks: JoinSet::new(),
            urgent: lane(MAX_URGENT),
            sweep: lane(MAX_SWEEP),
            prepare: lane(MAX_PREPARE),
            listing: false,
            list_again: None,
            ending: None,
            reading_host: None,
        };
        let (sender, mut events) = mpsc::channel(QUEUE);
        connection.tasks.spawn(request::read(engine.clone(), sender));
        connection.tasks.spawn(request::is_rootless(engine.clone(), self.options.inspect_deadline));
        self.list(&mut connection, Depth::Every);
        // All are under way meanwhile; nothing of them is taken before it is known whose they are.
        if let Some(reason) = request::unsupported(&engine, self.options.inspect_deadline).await {
            return Lost(reason);
        }
        let mut lists = interval_at(Instant::now() + self.options.list_every, self.options.list_every);
        let mut retries = interval(RETRY_EVERY);
        for timer in [&mut lists, &mut retries] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let wishes = tokio::select! {
                biased;
                // Events first: what they end must not be answered for by an inspect that is older.
                Some(message) = events.recv() => self.event(&message, events.is_empty()),
                Some(asked) = self.commands.recv() => {
                    self.obey(asked);
                    continue;
                }
                Some(Ok(waited)) = self.waits.join_next() => self.containers.apply(waited),
                Some(answer) = connection.tasks.join_next() => {
                    let answer = answer.unwrap_or_else(|error| Answer::Lost(Lost(format!("a task failed: {error}"))));
                    match self.answer(&mut connection, answer) {
                        Ok(wishes) => wishes,
                        Err(lost) => return lost,
                    }
                }
                () = list_again(connection.list_again), if connection.ending.is_none() => {
                    connection.list_again = None;
                    self.list(&mut connection, Depth::Changed);
                    Vec::new()
                }
                _ = lists.tick(), if connection.ending.is_none() => {
                    self.list(&mut connection, Depth::Changed);
                    self.read_host(&mut connection);
                    Vec::new()
                }
                _ = retries.tick(), if connection.ending.is_none() => self.containers.retry(),
            };
            // What is known now is told before anything is asked: somebody may wait for it.
            if let Some(lost) = self.publish(&mut connection, !events.is_empty()).await {
                return lost;
            }
            self.start(&mut connection, wishes);
            if connection.tasks.is_empty()
                && let Some(lost) = connection.ending.take()
            {
                return lost;
            }
        }
    }

    /// A connection has ended, or could not be had.
    fn take_loss(&mut self, error: String) {
        let was_connected = self.outputs.status.borrow().connected;
        self.journal.take_loss(self.start.elapsed(), was_connected, &error);
        let problems = self.journal.problems();
        self.report(|status| {
            status.resyncs += 1;
            status.connected = false;
            status.last_error = Some(error);
            status.problems = problems;
        });
    }

    /// Lets the time pass between two connections.
    async fn pause(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                Some(asked) = self.commands.recv() => self.obey(asked),
            }
        }
    }

    fn obey(&mut self, Asked { command, reply }: Asked) {
        let outcome = self.containers.command(&command);
        let changes = self.containers.take_changes();
        self.publish_desired(&changes);
        // Whoever asked may have gone.
        let _ = reply.send(outcome);
    }

    fn event(&mut self, message: &wire::Message, newest: bool) -> Vec<Wish> {
        let actor = message.actor.as_ref().and_then(|actor| actor.id.as_deref()).unwrap_or_default();
        let action = message.action.as_deref().unwrap_or_default();
        if !self.replay.is_new(message.nanoseconds.unwrap_or_default(), actor, action) {
            return Vec::new();
        }
        self.count(|status| status.events += 1);
        let Some(event) = decode::event(message, newest) else { return Vec::new() };
        debug!(action, actor, "docker event");
        self.containers.take_time(message.nanoseconds.and_then(|time| u64::try_from(time).ok()).unwrap_or_default());
        self.containers.apply(event)
    }

    fn answer(&mut self, connection: &mut Connection, answer: Answer) -> Result<Vec<Wish>, Lost> {
        match answer {
            Answer::Inspect { cause, event, refused } => {
                connection.lane(cause).running -= 1;
                let failed = matches!(event, Event::Failed { .. });
                self.count(|status| {
                    status.inspects += 1;
                    status.failed_inspects += u64::from(failed);
                });
                let wishes = self.containers.apply(event);
                // An answer that came too late says nothing.
                if let Some((id, error)) = refused
                    && self.containers.is_failing(id)
                {
                    self.take_refusal(id, &error);
                }
                Ok(wishes)
            }
            Answer::Network(event) | Answer::Image(event) => Ok(self.containers.apply(event)),
            Answer::List(event) => {
                connection.listing = false;
                let wishes = self.containers.apply(event);
                self.count(|status| status.lists += 1);
                if !self.outputs.status.borrow().connected {
                    self.journal.take_return(self.start.elapsed());
                    connection.list_again = Some(Instant::now() + LIST_AGAIN);
                    self.read_host(connection);
                    let problems = self.journal.problems();
                    self.report(|status| {
                        status.connected = true;
                        status.last_error = None;
                        status.problems = problems;
                    });
                }
                Ok(wishes)
            }
            Answer::Host(facts) => {
                if connection.reading_host.take() == Some(true) {
                    self.read_host(connection);
                }
                if self.host != facts {
                    self.host = facts;
                    self.containers.take_apart(&self.host.apart);
                    self.publish_local();
                }
                Ok(Vec::new())
            }
            Answer::Rootless(rootless) => {
                self.containers.take_rootless(rootless);
                Ok(Vec::new())
            }
            Answer::StreamEnded(lost) => {
                connection.ending = Some(lost);
                Ok(Vec::new())
            }
            Answer::Lost(lost) => Err(lost),
        }
    }

    fn list(&self, connection: &mut Connection, depth: Depth) {
        if !std::mem::replace(&mut connection.listing, true) {
            let (engine, deadline, began) =
                (connection.engine.clone(), self.options.list_deadline, self.containers.now());
            connection.tasks.spawn(async move {
                match timeout(deadline, request::list(&engine)).await {
                    Ok(Ok((containers, networks))) => {
                        Answer::List(Event::Listed { began, depth, containers, networks })
                    }
                    Ok(Err(failure)) => Answer::Lost(Lost(failure.to_string())),
                    Err(_) => Answer::Lost(Lost(format!("no answer to a list within {deadline:?}"))),
                }
            });
        }
    }

    fn read_host(&self, connection: &mut Connection) {
        if let Some(again) = &mut connection.reading_host {
            *again = true;
            return;
        }
        connection.reading_host = Some(false);
        let held = self.host.clone();
        let bridges = self.containers.bridges();
        connection.tasks.spawn(async move {
            sleep(WHILE_BUSY).await;
            let read = spawn_blocking(move || read_host(held, &bridges)).await;
            read.map_or_else(|error| Answer::Lost(Lost(format!("a look at the host failed: {error}"))), Answer::Host)
        });
    }

    /// Carries out wishes, as far as there is room, and those that waited for it.
    fn start(&mut self, connection: &mut Connection, wishes: Vec<Wish>) {
        let deadline = self.options.inspect_deadline;
        for wish in wishes {
            match wish {
                Wish::Inspect { cause, .. } => connection.lane(cause).waiting.push_back(wish),
                Wish::Wait { id, ticket, time } => {
                    self.waits.spawn(async move {
                        sleep(time).await;
                        Event::Waited { id, ticket }
                    });
                }
                Wish::InspectImage { id } => {
                    let engine = connection.engine.clone();
                    connection
                        .tasks
                        .spawn(async move { Answer::Image(request::inspect_image(engine, id, deadline).await) });
                }
                Wish::InspectNetwork { id, began } => {
                    let engine = connection.engine.clone();
                    connection.tasks.spawn(async move {
                        Answer::Network(request::inspect_network(&engine, id, began, deadline).await)
                    });
                }
            }
        }
        let Connection { engine, tasks, urgent, sweep, prepare, .. } = connection;
        let wanted = self.options.labels.gather();
        for lane in [urgent, sweep, prepare] {
            while lane.running < lane.limit
                && let Some(wish) = lane.waiting.pop_front()
            {
                let Wish::Inspect { id, ticket, cause } = wish else { continue };
                if self.containers.is_wanted(&id, ticket) {
                    lane.running += 1;
                    let engine = engine.clone();
                    tasks.spawn(async move {
                        if cause == Cause::Confirm {
                            sleep(WHILE_BUSY).await;
                        }
                        let asked = timeout(deadline, request::inspect(&engine, wanted, &id)).await;
                        answered(cause, id, ticket, asked, deadline)
                    });
                }
            }
        }
    }

    /// `more`: events wait that somebody waits for, too.
    async fn publish(&mut self, connection: &mut Connection, more: bool) -> Option<Lost> {
        let changes = self.containers.take_changes();
        if self.journal.settle(self.start.elapsed(), |id| self.containers.is_failing(id)) {
            self.report_problems();
        }
        // Who asks is known before the names that it may ask for; and an address that is free is nobody's before all else.
        // A start that was presumed changes nothing there.
        let names_first = changes.presumed && self.local.listed;
        if changes.askers && !names_first {
            self.publish_local();
        }
        if self.publish_desired(&changes) && !more {
            // Whoever carries names on shares this thread, and somebody waits for a name. Nobody waits for the rest.
            yield_now().await;
        }
        if changes.askers && names_first {
            self.publish_local();
        }
        if resident::update(&mut self.residents, &self.containers, &changes) {
            let now = Arc::new(self.residents.clone());
            self.outputs.residents.send_if_modified(|held| {
                *held = now;
                false
            });
        }
        // Who holds a port is seen from outside; and a bridge that is new has an address of the host.
        let ports_changed = changes.bindings && self.take_ports();
        if ports_changed || changes.networks || !changes.containers.is_empty() && self.sees_strange_bridge() {
            self.read_host(connection);
        }
        (changes.unheard > 0).then(|| {
            self.count(|status| status.unheard += u64::from(changes.unheard));
            Lost(format!("the event stream kept silent about {} changes that a list showed", changes.unheard))
        })
    }

    /// Whether a bridge with containers looks as if it were not in our network namespace, and was not found to be so yet.
    fn sees_strange_bridge(&self) -> bool {
        let is_strange =
            |bridge: &Bridge| !bridge.is_here(&self.host.addresses) && !self.host.apart.contains(&bridge.id);
        self.containers.bridges().iter().any(is_strange)
    }

    /// Whether there was anything new.
    fn publish_desired(&mut self, changes: &Changes) -> bool {
        let next = desired::update(&self.desired, &self.containers, changes);
        let is_new = next.is_some();
        if let Some(next) = next {
            self.desired = Arc::new(next);
            self.outputs.desired.send_replace(self.desired.clone());
        }
        is_new
    }

    /// Whether other ports are published than at the last look.
    fn take_ports(&mut self) -> bool {
        let ports = self.containers.bindings().map(|binding| (binding.proto, binding.at.port)).collect();
        let before = std::mem::replace(&mut self.ports, ports);
        before != self.ports
    }

    fn publish_local(&mut self) {
        if let Some(next) = asker::local(&self.local, &self.containers, &self.host) {
            self.local = Arc::new(next);
            self.outputs.local.send_replace(self.local.clone());
        }
    }

    fn take_refusal(&mut self, id: ShortId, error: &str) {
        self.journal.take_refusal(self.start.elapsed(), id, error);
        self.report_problems();
    }

    fn report_problems(&self) {
        let problems = self.journal.problems();
        self.outputs.status.send_if_modified(|status| {
            let differ = status.problems != problems;
            status.problems = problems;
            differ
        });
    }

    fn report(&self, change: impl FnOnce(&mut Status)) {
        self.outputs.status.send_modify(change);
    }

    fn count(&self, change: impl FnOnce(&mut Status)) {
        self.outputs.status.send_if_modified(|status| {
            change(status);
            false
        });
    }
}

impl Connection {
    fn lane(&mut self, cause: Cause) -> &mut Lane {
        match cause {
            Cause::Event | Cause::Confirm => &mut self.urgent,
            Cause::Restore | Cause::Check => &mut self.sweep,
            Cause::Prepare => &mut self.prepare,
        }
    }
}

/// What an inspect, or its deadline, brings back.
fn answered(
    cause: Cause,
    id: ContainerId,
    ticket: Ticket,
    asked: Result<Result<Option<Box<Inspected>>, Failure>, Elapsed>,
    deadline: Duration,
) -> Answer {
    let failed = |id, error: &str| Event::Failed { ticket, id, error: error.into() };
    let (event, refused) = match asked {
        Ok(Ok(Some(inspected))) => (Event::Present { ticket, inspected }, None),
        Ok(Ok(None)) => (Event::Absent { ticket, id }, None),
        Ok(Err(Failure::Refused(error))) => {
            let refused = Some((id.short(), error.clone()));
            (failed(id, &error), refused)
        }
        Ok(Err(failure)) => (failed(id, &failure.to_string()), None),
        Err(_) => (failed(id, &format!("no answer within {deadline:?}")), None),
    };
    Answer::Inspect { cause, event, refused }
}

/// The host's own facts; what cannot be read stays as it was held.
///
/// `bridges` are as of before the look, so that none is judged by addresses of before it was up.
fn read_host(held: HostFacts, bridges: &[Bridge]) -> HostFacts {
    let read = |what: &str, error: std::io::Error| warn!(%error, "cannot read the host's {what}");
    let (addresses, apart) = match host::addresses() {
        Ok(addresses) => {
            let apart = bridges.iter().filter(|bridge| !bridge.is_here(&addresses));
            let apart = Arc::new(apart.map(|bridge| bridge.id.clone()).collect());
            (Arc::new(addresses), apart)
        }
        Err(error) => {
            read("addresses", error);
            (held.addresses, held.apart)
        }
    };
    HostFacts {
        addresses,
        apart,
        proxies: host::proxies("/proc".as_ref()).unwrap_or_else(|error| {
            read("processes", error);
            held.proxies
        }),
    }
}

#[cfg(test)]
mod tests;
