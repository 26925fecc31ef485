//! Runs the [`Publisher`] and the [`Mirror`] against a registry: carries their effects out and their inputs in. \[IO\]
//!
//! One task owns both machines and everything they know; nothing is shared and nothing is locked. Calls run beside one
//! another, those that read pages in tasks of their own, so that a renewal of the lease never waits for a write, and a
//! change of [`Desired`] leaves as a transaction at once. Decisions are the machines'; here is only wiring.
//!
//! Following begins at once, publishing with the first command: the first session already says where this host is reached.
//! Only then the session file is read, for until then another agent of this host may be the one who writes it.
//!
//! The embedded registry is a [`Store`] in this task: the same machines, the same calls, no server. It forgets with the
//! process, which harms nobody: its only host derives everything from Docker anew.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    call::{CallError, Reply, Request, Revision, WatchEvent, WatchRange, next_page},
    etcd::Etcd,
    journal::{Following, Journal},
    memory::Store,
    mirror::{self, Mirror, View},
    publisher::{self, Identity, Publisher, SessionFile},
    record::Keys,
    round::Acks,
    state::StateDirectory,
};
use crate::model::{Desired, Problem};

#[cfg(test)]
mod tests;

/// The shortest sleep: a machine that wants to be woken in the past is not spun on.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// Acknowledgements read per call, of 60 octets each with their keys.
const ACKS_PAGE: i64 = 1_000;

/// How to take part.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we are.
    pub identity: Identity,
    /// Where the session is kept between starts. The embedded registry keeps nothing: it ends with us.
    pub state: Arc<StateDirectory>,
}

/// The registry itself.
#[derive(Clone)]
pub enum Backend {
    /// Embedded in this process.
    Memory(Store),
    /// A cluster of etcd.
    Etcd(Etcd),
}

/// What publishing follows.
#[derive(Debug)]
pub struct Inputs {
    /// What this host publishes.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The last [`View::asked`] that this host answers from.
    pub asked: watch::Receiver<Revision>,
    /// What the agent asks for.
    pub commands: mpsc::Receiver<Command>,
}

/// Where what is known goes.
#[derive(Debug)]
pub struct Outputs {
    /// All hosts.
    pub view: watch::Sender<Arc<View>>,
    /// How it goes.
    pub status: watch::Sender<Status>,
}

/// What the agent asks for. The first command begins publishing.
#[derive(Debug)]
pub enum Command {
    /// Withdraw this host; answered when its keys are gone.
    Leave(oneshot::Sender<Result<(), String>>),
    /// Other hosts reach us here now.
    Advertise(Vec<IpAddr>),
    /// Publish no more, for another agent of this host is about to; the lease stays. Answered when nothing is written any
    /// more but what is on its way already, which the other one's claim fences off.
    Suspend(oneshot::Sender<()>),
    /// Nobody else publishes after all: goes on as after a start.
    Resume,
    /// Which revisions the hosts have acknowledged.
    Acknowledged(oneshot::Sender<Result<Acks, String>>),
}

/// How it goes with the registry, for metrics, readiness and people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The side that publishes.
    pub publisher: publisher::Status,
    /// The side that follows.
    pub mirror: mirror::Status,
    /// Since when the registry is not heard, if that is too long.
    pub stale_since: Option<Instant>,
    /// That the registry cannot be reached, read or written, while it lasts.
    pub outage: Option<Problem>,
    /// What is wrong with the files that hold our credentials, while it lasts.
    pub credentials: Vec<Problem>,
}

impl Status {
    /// What is broken on this side.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        let conflict = self.publisher.conflict.as_ref().map(|conflict| {
            Problem::new("--host-id", conflict, "one host id per host: nothing of this host is published meanwhile")
        });
        let problems = self.publisher.problems.iter().chain(&self.outage).chain(&self.credentials);
        problems.cloned().chain(conflict)
    }
}

/// Publishes what is desired and follows everybody else; never returns. Dropping it keeps the lease: a restart is
/// invisible.
pub async fn run(options: Options, backend: Backend, inputs: Inputs, outputs: Outputs) {
    let Inputs { mut desired, mut asked, mut commands } = inputs;
    let mut driver = Driver::new(options, backend, outputs);
    driver.inputs.push_back(mirror::Input::Tick.into());
    let (mut has_desired, mut has_asked, mut has_commands) = (true, true, true);
    loop {
        driver.turn();
        let wake = driver.wake_at();
        let input = tokio::select! {
            changed = desired.changed(), if has_desired && driver.publishes => match changed {
                Ok(()) => publisher::Input::Desired(Arc::clone(&desired.borrow_and_update())).into(),
                Err(_) => {
                    has_desired = false;
                    continue;
                }
            },
            changed = asked.changed(), if has_asked && driver.publishes => match changed {
                Ok(()) => publisher::Input::Asked(*asked.borrow_and_update()).into(),
                Err(_) => {
                    has_asked = false;
                    continue;
                }
            },
            command = commands.recv(), if has_commands => {
                match command {
                    Some(command) => driver.obey(command, &mut desired),
                    None => has_commands = false,
                }
                continue;
            }
            Some(input) = driver.pending.next() => input,
            Some(()) = driver.questions.next() => continue,
            event = told(&mut driver.watch) => event.into(),
            // After everybody else has had a turn, the page that is on its way among them.
            () = yield_now(), if driver.mirror.is_reading() => Input::Tick,
            () = sleep_until(wake) => Input::Tick,
        };
        driver.inputs.push_back(input);
    }
}

/// Reads all acknowledgements, page by page.
struct AcksRead {
    acks: Acks,
    keys: Keys,
    range: WatchRange,
}

impl AcksRead {
    fn new(keys: Keys) -> Self {
        Self { acks: Acks::default(), range: keys.acks_range(), keys }
    }

    fn request(&self) -> Request {
        let WatchRange { start, end } = self.range.clone();
        Request::Range { start, end, limit: ACKS_PAGE, revision: None }
    }

    /// Takes in one page; `true`: it was the last.
    fn take(&mut self, outcome: Result<Reply, CallError>) -> Result<bool, String> {
        match outcome {
            Ok(Reply::Range { header, kvs, more }) => {
                self.acks.take(&self.keys, header, &kvs);
                let next = next_page(&kvs, more);
                let is_last = next.is_none();
                self.range.start = next.unwrap_or_default();
                Ok(is_last)
            }
            Ok(_) => Err("etcd answered another question".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The next event of the watch, if there is one. A watch that ends without a word is broken.
async fn told(watch: &mut Option<mpsc::Receiver<WatchEvent>>) -> mirror::Input {
    let Some(receiver) = watch else { return std::future::pending().await };
    let event = receiver.recv().await.unwrap_or_else(|| WatchEvent::Broken("the watch has ended".into()));
    if matches!(event, WatchEvent::Broken(_) | WatchEvent::Denied(_) | WatchEvent::Compacted { .. }) {
        *watch = None;
    }
    mirror::Input::Watched(event)
}

/// An input for either machine, or for both.
#[derive(Debug)]
enum Input {
    Publisher(publisher::Input),
    Mirror(mirror::Input),
    Tick,
}

impl From<publisher::Input> for Input {
    fn from(input: publisher::Input) -> Self {
        Self::Publisher(input)
    }
}

impl From<mirror::Input> for Input {
    fn from(input: mirror::Input) -> Self {
        Self::Mirror(input)
    }
}

struct Driver {
    publisher: Publisher,
    mirror: Mirror,
    registry: Registry,
    state: Arc<StateDirectory>,
    outputs: Outputs,
    /// A command has come; until then the publisher is not told anything.
    publishes: bool,
    /// The session file is being written.
    saving: bool,
    /// Another agent is about to publish.
    suspended: bool,
    suspensions: Vec<oneshot::Sender<()>>,
    identity: Identity,
    start: Instant,
    rng: StdRng,
    inputs: VecDeque<Input>,
    pending: FuturesUnordered<BoxFuture<'static, Input>>,
    watch: Option<mpsc::Receiver<WatchEvent>>,
    /// Reads that are no business of the two machines.
    questions: FuturesUnordered<BoxFuture<'static, ()>>,
    keys: Keys,
    leaving: Vec<oneshot::Sender<Result<(), String>>>,
    left: bool,
    journal: Journal,
}

enum Registry {
    Embedded(Embedded),
    Etcd(Etcd),
}

impl Driver {
    fn new(options: Options, backend: Backend, outputs: Outputs) -> Self {
        let Options { identity, state } = options;
        let registry = match backend {
            Backend::Memory(store) => Registry::Embedded(Embedded { store, watch: None }),
            Backend::Etcd(etcd) => Registry::Etcd(etcd),
        };
        Self {
            keys: identity.keys.clone(),
            mirror: Mirror::new(identity.keys.clone(), identity.host.clone()),
            publisher: Publisher::new(identity.clone(), SessionFile::default()),
            registry,
            state,
            outputs,
            publishes: false,
            saving: false,
            suspended: false,
            suspensions: Vec::new(),
            identity,
            start: Instant::now(),
            rng: StdRng::from_rng(&mut rand::rng()),
            inputs: VecDeque::new(),
            pending: FuturesUnordered::new(),
            questions: FuturesUnordered::new(),
            watch: None,
            leaving: Vec::new(),
            left: false,
            journal: Journal::default(),
        }
    }

    /// The session file is the next agent's only when we write it no more.
    fn tell_suspended(&mut self) {
        if !self.saving {
            for done in self.suspensions.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn obey(&mut self, command: Command, desired: &mut watch::Receiver<Arc<Desired>>) {
        let input = match command {
            Command::Advertise(advertise) => {
                self.identity.session.advertise.clone_from(&advertise);
                publisher::Input::Advertise(advertise)
            }
            Command::Leave(done) if self.left => {
                // Whoever asked may have gone.
                let _ = done.send(Ok(()));
                return;
            }
            Command::Leave(done) => {
                self.leaving.push(done);
                publisher::Input::Leave
            }
            Command::Acknowledged(reply) => return self.read_acks(reply),
            Command::Suspend(done) => {
                self.suspended = true;
                self.suspensions.push(done);
                self.inputs.push_back(publisher::Input::Suspend.into());
                return self.tell_suspended();
            }
            Command::Resume => {
                self.suspended = false;
                publisher::Input::Resume
            }
        };
        if self.suspended && !self.publishes {
            // Publishing begins when it may.
            return;
        }
        self.inputs.push_back(input.into());
        if !std::mem::replace(&mut self.publishes, true) {
            let file = match self.registry {
                Registry::Embedded(_) => SessionFile::default(),
                Registry::Etcd(_) => self.state.session(),
            };
            self.publisher = Publisher::new(self.identity.clone(), file);
            let first = Arc::clone(&desired.borrow_and_update());
            self.inputs.push_back(publisher::Input::Desired(first).into());
        }
    }

    /// Works until there is nothing to do but wait, then tells what is known.
    fn turn(&mut self) {
        loop {
            let now = self.start.elapsed();
            if let Registry::Embedded(embedded) = &mut self.registry {
                self.inputs.extend(embedded.tell(now).map(|event| mirror::Input::Watched(event).into()));
            }
            let Some(input) = self.inputs.pop_front() else { break };
            if let Input::Publisher(publisher::Input::Saved(_)) = input {
                self.saving = false;
                self.tell_suspended();
            }
            let (to_publisher, to_mirror) = match input {
                Input::Publisher(input) => (Some(input), None),
                Input::Mirror(input) => (None, Some(input)),
                Input::Tick => (Some(publisher::Input::Tick), Some(mirror::Input::Tick)),
            };
            if let Some(input) = to_publisher.filter(|_| self.publishes) {
                for effect in self.publisher.handle(now, input, &mut self.rng) {
                    self.execute_published(now, effect);
                }
            }
            if let Some(input) = to_mirror {
                for effect in self.mirror.handle(now, input, &mut self.rng) {
                    self.execute_mirrored(now, effect);
                }
            }
        }
        self.take_note();
        self.tell();
    }

    /// Logs how it goes with a registry that is elsewhere. A host that was never heard there has nothing to wait for.
    fn take_note(&mut self) {
        let Registry::Etcd(etcd) = &self.registry else { return };
        let following = if self.mirror.is_following() { Following::Yes } else { Following::No };
        let read = (self.mirror.status(), following, &**self.mirror.view());
        let entries = self.journal.take(self.start.elapsed(), read, self.publisher.failing());
        for entry in entries {
            entry.log(&etcd.endpoint(), &etcd.endpoints());
        }
        if let Some(reason) = self.journal.was_never_reached().filter(|_| !self.leaving.is_empty()) {
            for done in self.leaving.drain(..) {
                // The caller may have gone.
                let _ = done.send(Err(format!("the registry was not reached since this agent started: {reason}")));
            }
        }
    }

    fn read_acks(&mut self, reply: oneshot::Sender<Result<Acks, String>>) {
        let mut read = AcksRead::new(self.keys.clone());
        let now = self.start.elapsed();
        match &mut self.registry {
            Registry::Embedded(embedded) => {
                // There is no other host: one page is all. And whoever asked may have gone.
                let outcome = read.take(embedded.store.call(now, &read.request()));
                let _ = reply.send(outcome.map(|_| read.acks));
            }
            Registry::Etcd(etcd) => {
                let etcd = etcd.clone();
                self.questions.push(Box::pin(async move {
                    let outcome = loop {
                        match read.take(etcd.call(read.request()).await) {
                            Ok(true) => break Ok(read.acks),
                            Ok(false) => {}
                            Err(error) => break Err(error),
                        }
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(outcome);
                }));
            }
        }
    }

    fn execute_published(&mut self, now: Duration, effect: publisher::Effect) {
        use publisher::{Effect, Input};
        match effect {
            Effect::Save(file) => self.save(file),
            Effect::Call(request) => self.call(now, request, |outcome| Input::Replied(outcome).into()),
            Effect::Renew(lease) => {
                self.call(now, Request::KeepAlive { lease }, |outcome| Input::Renewed(outcome).into());
            }
            Effect::Wrote(revision) => self.inputs.push_back(mirror::Input::Wrote(revision).into()),
            Effect::Echoed(revision) => self.inputs.push_back(mirror::Input::Echoed(revision).into()),
            Effect::Left => {
                self.left = true;
                for done in self.leaving.drain(..) {
                    // Whoever asked may have gone: the host has left all the same.
                    let _ = done.send(Ok(()));
                }
            }
        }
    }

    fn execute_mirrored(&mut self, now: Duration, effect: mirror::Effect) {
        use mirror::{Effect, Input};
        match effect {
            Effect::Call(request) => self.call(now, request, |outcome| Input::Replied(outcome).into()),
            Effect::Watch(from) => match &mut self.registry {
                Registry::Embedded(embedded) => {
                    embedded.watch = Some((from, self.mirror.ranges()));
                    let header = embedded.store.header();
                    self.inputs.push_back(Input::Watched(WatchEvent::Created { header }).into());
                }
                Registry::Etcd(etcd) => self.watch = Some(etcd.watch(self.mirror.ranges(), from)),
            },
            Effect::Unwatch => match &mut self.registry {
                Registry::Embedded(embedded) => embedded.watch = None,
                Registry::Etcd(_) => self.watch = None,
            },
            Effect::Touched(revision) => self.inputs.push_back(publisher::Input::Touched(revision).into()),
        }
    }

    fn call(&mut self, now: Duration, request: Request, answer: fn(Result<Reply, CallError>) -> Input) {
        match &mut self.registry {
            Registry::Embedded(embedded) => self.inputs.push_back(answer(embedded.store.call(now, &request))),
            Registry::Etcd(etcd) => {
                let etcd = etcd.clone();
                let is_page = matches!(request, Request::Range { .. });
                let call = async move { etcd.call(request).await };
                self.pending.push(if is_page {
                    // Beside this task, which decodes the page before meanwhile. What nobody waits for any more ends by its
                    // own deadline.
                    let call = tokio::spawn(call);
                    Box::pin(async move {
                        answer(call.await.unwrap_or_else(|error| Err(CallError::Unknown(error.to_string()))))
                    })
                } else {
                    Box::pin(async move { answer(call.await) })
                });
            }
        }
    }

    fn save(&mut self, file: SessionFile) {
        if let Registry::Embedded(_) = self.registry {
            return self.inputs.push_back(publisher::Input::Saved(Ok(())).into());
        }
        self.saving = true;
        let state = Arc::clone(&self.state);
        let saved = tokio::task::spawn_blocking(move || state.save_session(&file).map_err(|error| error.to_string()));
        self.pending.push(Box::pin(async move {
            publisher::Input::Saved(saved.await.unwrap_or_else(|error| Err(error.to_string()))).into()
        }));
    }

    fn wake_at(&self) -> Instant {
        let expiry = match &self.registry {
            Registry::Embedded(embedded) => embedded.store.next_expiry(),
            Registry::Etcd(_) => None,
        };
        let publisher = self.publisher.wake_at().filter(|_| self.publishes);
        let next = [publisher, self.mirror.wake_at(), expiry].into_iter().flatten().min();
        // An hour stands for "only an input helps".
        let next = next.unwrap_or_else(|| self.start.elapsed() + Duration::from_secs(3600));
        (self.start + next).max(Instant::now() + SHORTEST_SLEEP)
    }

    fn tell(&self) {
        let view = self.mirror.view();
        self.outputs.view.send_if_modified(|told| {
            let is_new = !Arc::ptr_eq(told, view);
            if is_new {
                *told = Arc::clone(view);
            }
            is_new
        });
        let (outage, credentials) = match &self.registry {
            Registry::Embedded(_) => (None, Vec::new()),
            Registry::Etcd(etcd) => (self.journal.problem(|| etcd.endpoints()), etcd.problems()),
        };
        let status = Status {
            publisher: self.publisher.status(),
            mirror: self.mirror.status().clone(),
            stale_since: view.stale_since.map(|since| self.start + since),
            outage,
            credentials,
        };
        self.outputs.status.send_if_modified(|told| {
            let is_new = *told != status;
            if is_new {
                *told = status;
            }
            is_new
        });
    }
}

/// The registry in this process, with what is watched of it.
struct Embedded {
    store: Store,
    watch: Option<(Revision, Vec<WatchRange>)>,
}

impl Embedded {
    /// What the watch has to tell.
    fn tell(&mut self, now: Duration) -> Option<WatchEvent> {
        self.store.expire(now);
        let (from, ranges) = self.watch.as_mut()?;
        let header = self.store.header();
        if header.revision < *from {
            return None;
        }
        match self.store.changes_since(*from, ranges) {
            Ok(changes) => {
                *from = header.revision + 1;
                (!changes.is_empty()).then_some(WatchEvent::Changes { header, changes })
            }
            Err(_) => {
                self.watch = None;
                Some(WatchEvent::Compacted { revision: self.store.compacted() })
            }
        }
    }
}
