//! Keeps our keys in etcd equal to our Desired, under one lease. A state machine without IO: inputs and the time go
//! in, effects come out, and [`Publisher::wake_at`] says when to call again without an input.
//!
//! One call is in flight at a time (renewals of the lease run beside it), and the next step is always derived from what
//! is known, never from what was planned:
//!
//! ```text
//! look at our session key ─► a lease (adopt, else grant) ─► save ─► claim the session key ─► read our keys ─► write
//!        ▲                                                                                         differences │
//!        └── a fence that failed, a reply that was lost, a lease that ended ◄──────────────────────────────────┘
//! ```
//!
//! **Claiming.** The session key holds a nonce, new at every start. We take it over only if it is absent or its nonce is
//! one that our own state file knows; else another agent lives under our host id (a cloned machine), and we publish
//! nothing, name it, and look again later. The new nonce is saved before it is written, so that a crash in between does
//! not lock us out of our own key.
//!
//! **Lost replies.** A call without a reply may still be carried out, later. So after a lost write the session key is
//! claimed again, which gives it a new revision: the late write's fence then fails. An acknowledgement is such a write, too:
//! an old one that comes late would take a newer one back, and whoever waits for that would wait for ever.
//!
//! **Failure.** Whatever goes wrong is retried for ever with a growing, jittered pause. A lease is never given up
//! except by [`Input::Leave`]: under NOSPACE no other could be had.
//!
//! **NOSPACE.** etcd then refuses puts and grants, but takes deletes, and a dead container's address may belong to
//! another one by now. So only puts and grants wait for their next try. A claim is a put: an agent that starts under the
//! alarm withdraws what is gone before it has claimed, fenced by the session key as it found it. Such a delete cannot be
//! fenced off should its reply be lost, but nothing can be put either before a claim does that.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use rand::Rng;
use serde::{Deserialize, Serialize};

use self::{lease::Lease, spelling::Spellings};
use super::{
    call::{CallError, Compare, Failing, Header, LeaseId, Op, Reply, Request, Revision, WatchRange},
    plan::{Fence, MAX_BYTES, Stored, plan, withdrawals},
    record::{self, Keys, MAX_VALUE},
};
use crate::model::{Desired, HostId, Problem, Publication, Session, ShortId};

mod lease;
mod replies;
mod spelling;
#[cfg(test)]
mod tests;

/// The lease is renewed three times per life: two renewals may fail.
const RENEWALS: u32 = 3;
/// A renewal that failed is tried again this soon: a dozen tries within a lease of 30 s.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// The echo key is rewritten this often: what is unseen of a dead watch is at most this old, plus the mirror's wait.
const ECHO_EVERY: Duration = Duration::from_secs(10);
/// Our own keys are read anew between these, at random: no fleet does it at once.
const COMPARE_EVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));
/// Pauses after failures: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A host id that somebody else holds is looked at this often.
const CONFLICT_EVERY: Duration = Duration::from_secs(5);
/// Keys of one host read per call: 500 records of 1 KiB are far below etcd's reply limits.
const PAGE: i64 = 500;
/// Nonces that our state file may know: the one we hold, and those of starts that crashed before they claimed.
const MAX_NONCES: usize = 8;
/// How many of our latest writes are known by revision: the watch tells of them within milliseconds.
const MAX_WRITTEN: usize = 64;

/// What the state directory keeps between starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFile {
    /// Nonces that are ours: the first is the one last known to be in etcd, the others may come to light there when
    /// etcd is restored from a backup.
    #[serde(default)]
    pub nonces: Vec<String>,
    /// Our lease.
    #[serde(default)]
    pub lease: Option<i64>,
    /// The lease before it, of another length, while keys of ours hang on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<i64>,
}

/// Who we are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This host.
    pub host: HostId,
    /// Below which prefix.
    pub keys: Keys,
    /// What our session key says; its nonce is new at every start.
    pub session: Session,
    /// Seconds a lease lives.
    pub lease_ttl: i64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Docker's state changed.
    Desired(Arc<Desired>),
    /// Other hosts reach us elsewhere now.
    Advertise(Vec<IpAddr>),
    /// This host answers from a revision that another one waits for: acknowledge it. 0: nobody waits.
    Asked(Revision),
    /// The session file is on disk, or why not.
    Saved(Result<(), String>),
    /// To [`Effect::Call`].
    Replied(Result<Reply, CallError>),
    /// To [`Effect::Renew`].
    Renewed(Result<Reply, CallError>),
    /// The watch saw a change of our own keys at this revision: perhaps our own, perhaps somebody else's. 0: etcd has
    /// gone back or is another one, and may lack what we wrote.
    Touched(Revision),
    /// Withdraw everything and stop publishing.
    Leave,
    /// Begin nothing more: another agent of this host is about to publish. What is in flight comes to its end; the lease
    /// and everything on it stay for the other one.
    Suspend,
    /// Nobody else publishes after all.
    Resume,
    /// Nothing, but it is time.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write the session file; answered by [`Input::Saved`].
    Save(SessionFile),
    /// Make this call; answered by [`Input::Replied`]. At most one is in flight.
    Call(Request),
    /// Renew the lease; answered by [`Input::Renewed`]. At most one is in flight.
    Renew(LeaseId),
    /// Our records or our session were written at this revision: the mirror must see it.
    Wrote(Revision),
    /// Our echo was written at this revision: the mirror must see it.
    Echoed(Revision),
    /// [`Input::Leave`] is done: our keys are gone, or were never ours.
    Left,
}

/// How it goes, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Our keys are as wanted.
    pub synced: bool,
    /// Our lease.
    pub lease: Option<LeaseId>,
    /// Who else has our host id.
    pub conflict: Option<String>,
    /// Records in etcd that are ours.
    pub published: usize,
    /// Transactions that changed records.
    pub writes: u64,
    /// Leases that ended under us.
    pub lease_losses: u64,
    /// Records rewritten in other words, without another meaning: after an upgrade, spread over an hour.
    pub respelled: u64,
    /// Own keys found different though we had written them.
    pub repairs: u64,
    /// What last went wrong; `None` when the last call went well.
    pub last_error: Option<String>,
    /// Nothing can be published: every call since has failed.
    pub failing: Option<Failing>,
    /// Records that cannot be published.
    pub problems: Vec<Problem>,
    /// The round that all of Desired is published with, and where etcd says so to others.
    pub asking: Option<(u64, Header)>,
}

/// What the call in flight is for.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Look,
    Adopt(LeaseId),
    Grant,
    Save(SessionFile),
    Claim { value: Vec<u8> },
    Read { start: Vec<u8>, read: BTreeMap<Vec<u8>, Stored> },
    Write { ops: Vec<Op> },
    Echo,
    Acknowledge(Revision),
    Revoke(LeaseId),
}

impl Step {
    /// Whether etcd refuses it under NOSPACE.
    fn needs_space(&self) -> bool {
        match self {
            Self::Grant | Self::Claim { .. } | Self::Echo | Self::Acknowledge(_) => true,
            Self::Write { ops } => ops.iter().any(|op| matches!(op, Op::Put { .. })),
            Self::Look | Self::Adopt(_) | Self::Save(_) | Self::Read { .. } | Self::Revoke(_) => false,
        }
    }
}

/// etcd refused a put or a grant for want of space, and has taken none since.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shortage {
    /// When to try the next one.
    try_again: Duration,
    /// How many were refused.
    failures: u32,
}

/// What is known of the session key.
#[derive(Clone, Debug, PartialEq)]
enum Hold {
    /// Nothing: look first.
    Unknown,
    /// It may be claimed, if it still has this revision (0: absent). Until then nothing is put; see NOSPACE above.
    Free(Revision),
    /// It is ours, with this value.
    Ours { fence: Fence, value: Vec<u8> },
    /// It is somebody else's; look again then.
    Theirs { look_again: Duration },
}

/// A publication as it is stored.
#[derive(Debug)]
struct Encoded {
    publication: Arc<Publication>,
    value: Vec<u8>,
    /// What of it had to be left out.
    problems: Vec<Problem>,
}

/// Publishes one host's containers.
#[derive(Debug)]
pub struct Publisher {
    identity: Identity,
    session_key: Vec<u8>,
    own: WatchRange,
    desired: Arc<Desired>,
    /// The records of `desired` as they are stored, kept while their publication is the same.
    encoded: BTreeMap<ShortId, Encoded>,
    file: SessionFile,
    saved: Option<SessionFile>,
    hold: Hold,
    /// The leases of our state file that have not been asked for yet.
    adopt: Vec<LeaseId>,
    lease: Option<Lease>,
    /// The lease before, which is renewed as long as keys hang on it.
    former: Option<Lease>,
    /// The seconds that etcd granted last: it may grant more than we want.
    granted_ttl: Option<i64>,
    stored: Option<BTreeMap<Vec<u8>, Stored>>,
    /// What we believed before we read our keys anew, to count what differs.
    believed: Option<BTreeMap<Vec<u8>, Stored>>,
    /// Revisions of our latest writes, and those of changes that may turn out to be ours.
    written: VecDeque<Revision>,
    touched: Vec<Revision>,
    /// What etcd last said of itself.
    heard: Header,
    step: Option<Step>,
    /// The lease that was ours when the last step began: what that step puts hangs on it.
    put_under: Option<LeaseId>,
    renewing: Option<LeaseId>,
    /// The revision to acknowledge, and the one that was.
    asked: Revision,
    acknowledged: Revision,
    echo_at: Duration,
    compare_at: Duration,
    not_before: Duration,
    handled_at: Duration,
    failures: u32,
    shortage: Option<Shortage>,
    spellings: Spellings,
    leaving: bool,
    suspended: bool,
    left: bool,
    status: Status,
}

impl Publisher {
    /// A publisher that has done nothing yet. `file` is what the state directory kept.
    pub fn new(identity: Identity, mut file: SessionFile) -> Self {
        let nonce = identity.session.nonce.to_string();
        if !file.nonces.contains(&nonce) {
            file.nonces.push(nonce);
        }
        // The first one is in etcd; of those that never got there the newest are the likely ones.
        while file.nonces.len() > MAX_NONCES {
            file.nonces.remove(1);
        }
        Self {
            session_key: identity.keys.session(&identity.host),
            own: identity.keys.host_range(&identity.host),
            identity,
            desired: Arc::default(),
            encoded: BTreeMap::new(),
            adopt: [file.lease, file.former].into_iter().flatten().map(LeaseId).collect(),
            file,
            saved: None,
            hold: Hold::Unknown,
            lease: None,
            former: None,
            granted_ttl: None,
            stored: None,
            believed: None,
            written: VecDeque::new(),
            touched: Vec::new(),
            heard: Header::default(),
            step: None,
            put_under: None,
            asked: 0,
            acknowledged: 0,
            renewing: None,
            echo_at: Duration::ZERO,
            compare_at: Duration::MAX,
            not_before: Duration::ZERO,
            handled_at: Duration::ZERO,
            failures: 0,
            shortage: None,
            spellings: Spellings::default(),
            leaving: false,
            suspended: false,
            left: false,
            status: Status::default(),
        }
    }

    /// How it goes.
    pub fn status(&self) -> Status {
        let asking = match &self.hold {
            Hold::Ours { fence, value } if self.status.synced => {
                let is_told = *value == record::encode_session(&self.identity.session);
                let at = Header { cluster: self.heard.cluster, revision: fence.revision };
                self.identity.session.waits.filter(|_| is_told).map(|round| (round, at))
            }
            _ => None,
        };
        let mut status = Status {
            lease: self.lease.map(|lease| lease.id),
            published: self.published(),
            asking,
            ..self.status.clone()
        };
        status.problems.extend(self.lease_problem());
        status
    }

    /// While calls fail: why, and how many records in etcd are ours.
    pub fn failing(&self) -> Option<(&Failing, usize)> {
        self.status.failing.as_ref().map(|failing| (failing, self.published()))
    }

    fn published(&self) -> usize {
        let stored = self.stored.as_ref().or(self.believed.as_ref());
        stored.map_or(0, |stored| stored.keys().filter(|key| **key != self.session_key).count())
    }

    /// What our session key says, or will say.
    pub fn session(&self) -> &Session {
        &self.identity.session
    }

    /// When to call [`handle`](Self::handle) with [`Input::Tick`] if nothing else happens; `None`: only an input helps.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.left || self.suspended {
            return None;
        }
        let renew = self.leases().map(|lease| lease.renew_at).min().filter(|_| self.renewing.is_none());
        // A pause that is over has been used: what there was to do has been begun.
        let short = self.shortage.map(|shortage| shortage.try_again).filter(|at| *at > self.handled_at);
        let next = self.step.is_none().then(|| match &self.hold {
            Hold::Theirs { look_again } => *look_again,
            _ if self.not_before > self.handled_at => self.not_before,
            Hold::Ours { .. } if self.owes_acknowledgement() => short.unwrap_or(self.not_before).min(self.compare_at),
            Hold::Ours { .. } => {
                let next = short.unwrap_or(self.echo_at).min(self.compare_at);
                self.spellings.wake_at().filter(|_| short.is_none()).map_or(next, |at| at.min(next))
            }
            Hold::Free(_) if self.stored.is_some() && self.lease.is_some() => {
                short.unwrap_or(self.compare_at).min(self.compare_at)
            }
            Hold::Free(_) | Hold::Unknown => short.unwrap_or(self.not_before),
        });
        [renew, next].into_iter().flatten().min()
    }

    /// Takes in what happened and says what to do now.
    pub fn handle(&mut self, now: Duration, input: Input, rng: &mut impl Rng) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.handled_at = now;
        match input {
            Input::Desired(desired) => self.want(desired),
            Input::Advertise(advertise) => self.identity.session.advertise = advertise,
            Input::Asked(revision) => self.asked = revision,
            Input::Leave => {
                self.leaving = true;
                self.not_before = now;
            }
            Input::Suspend => self.suspended = true,
            Input::Resume => self.suspended = false,
            Input::Touched(revision) => self.take_touch(now, revision),
            Input::Saved(outcome) => self.take_saved(outcome),
            Input::Replied(outcome) => self.take_reply(now, outcome, rng, &mut effects),
            Input::Renewed(outcome) => self.take_renewal(now, outcome),
            Input::Tick => {}
        }
        self.advance(now, &mut effects);
        effects
    }

    fn want(&mut self, desired: Arc<Desired>) {
        self.status.problems.clear();
        self.encoded.retain(|container, _| desired.publications.contains_key(container));
        for (container, publication) in &desired.publications {
            if self.encoded.get(container).is_some_and(|known| Arc::ptr_eq(&known.publication, publication)) {
                continue;
            }
            let (fitting, problems) = record::fit(publication);
            let value = record::encode(&fitting);
            self.encoded.insert(*container, Encoded { publication: Arc::clone(publication), value, problems });
        }
        for Encoded { publication, value, problems } in self.encoded.values() {
            self.status.problems.extend_from_slice(problems);
            if value.len() <= MAX_VALUE {
                continue;
            }
            let place = format!("container {} ({})", publication.container, publication.name);
            let found = format!("a record of {} octets", value.len());
            self.status.problems.push(Problem::new(
                place,
                &found,
                format!("at most {MAX_VALUE}: fewer ports, tags or networks"),
            ));
        }
        self.desired = desired;
    }

    /// All keys that should be ours, with their values: the session itself is one of them.
    fn wanted<'a>(&'a self, session: &'a [u8]) -> BTreeMap<Vec<u8>, &'a [u8]> {
        let (keys, host) = (&self.identity.keys, &self.identity.host);
        let fitting = self.encoded.iter().filter(|(_, encoded)| encoded.value.len() <= MAX_VALUE.min(MAX_BYTES));
        fitting
            .map(|(container, encoded)| (keys.instance(host, *container), encoded.value.as_slice()))
            .chain([(self.session_key.clone(), session)])
            .collect()
    }

    /// Does the next thing that is missing, unless something is in flight or a pause is on.
    fn advance(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.left || self.suspended {
            return;
        }
        if let Some(lease) = self.due_renewal(now).filter(|_| self.renewing.is_none()) {
            self.renewing = Some(lease);
            effects.push(Effect::Renew(lease));
        }
        if self.step.is_some() || now < self.not_before {
            return;
        }
        if let Hold::Theirs { look_again } = self.hold {
            if self.leaving {
                // Nothing there is ours.
                return self.leave(effects);
            }
            if now < look_again {
                return;
            }
            self.hold = Hold::Unknown;
        }
        let step = match (&self.hold, self.lease.map(|lease| lease.id)) {
            (Hold::Unknown, _) => Step::Look,
            (_, _) if !self.adopt.is_empty() => Step::Adopt(self.adopt[0]),
            (_, None) if self.leaving => return self.leave(effects),
            (_, None) if self.has_space(now) => Step::Grant,
            (_, None) => return,
            (Hold::Free(_), Some(_)) if self.saved.as_ref() != Some(&self.file) => Step::Save(self.file.clone()),
            (Hold::Free(_), Some(lease)) => match self.next_claim(now, lease) {
                Some(step) => step,
                None => return,
            },
            (Hold::Ours { .. }, Some(lease)) if self.leaving => self.revoke(lease),
            (Hold::Ours { .. }, Some(_)) if self.saved.as_ref() != Some(&self.file) => Step::Save(self.file.clone()),
            (Hold::Ours { .. }, Some(_)) if self.stored.is_none() || now >= self.compare_at => {
                self.believed = self.stored.take();
                self.read()
            }
            (Hold::Ours { .. }, Some(lease)) => match self.next_write(now, lease) {
                Some(step) => step,
                None => return,
            },
            (Hold::Theirs { .. }, Some(_)) => return,
        };
        self.begin(step, effects);
    }

    /// Whether a put or a grant may be tried.
    fn has_space(&self, now: Duration) -> bool {
        self.shortage.is_none_or(|shortage| now >= shortage.try_again)
    }

    /// The former lease first: what then hangs on ours goes last, the session with it.
    fn revoke(&self, lease: LeaseId) -> Step {
        Step::Revoke(self.former.map_or(lease, |former| former.id))
    }

    fn read(&self) -> Step {
        Step::Read { start: self.own.start.clone(), read: BTreeMap::new() }
    }

    /// The claim; and while etcd has no space for it, what can be done without.
    fn next_claim(&mut self, now: Duration, lease: LeaseId) -> Option<Step> {
        // What etcd has of the rest is not known any more: nobody is told of a round before it has been looked at.
        self.identity.session.waits = None;
        let session = record::encode_session(&self.identity.session);
        if self.shortage.is_some() && self.leaving {
            return Some(self.revoke(lease));
        }
        // An absent session key is no fence: it would be absent again, should somebody delete ours.
        if self.shortage.is_some() && self.desired.listed && self.hold != Hold::Free(0) {
            let Some(stored) = self.stored.as_ref().filter(|_| now < self.compare_at) else {
                return Some(self.read());
            };
            let ops = withdrawals(&self.wanted(&session), stored);
            if !ops.is_empty() {
                return Some(Step::Write { ops });
            }
        }
        self.has_space(now).then_some(Step::Claim { value: session })
    }

    /// The next difference to write, or the echo when it is time, or a lease of the right length.
    fn next_write(&mut self, now: Duration, lease: LeaseId) -> Option<Step> {
        let mut spellings = std::mem::take(&mut self.spellings);
        let mut ops = self.differences(now, lease, &mut spellings);
        let waits = self.desired.drained.then_some(self.desired.round);
        if ops.is_empty() && self.desired.listed && self.identity.session.waits != waits {
            // Only now: who has seen this session has seen all that was to be known by then.
            self.identity.session.waits = waits;
            ops = self.differences(now, lease, &mut spellings);
        }
        self.spellings = spellings;
        self.status.synced = ops.is_empty() && self.desired.listed;
        let step = if !ops.is_empty() {
            Step::Write { ops }
        } else if self.owes_acknowledgement() {
            Step::Acknowledge(self.asked)
        } else if now >= self.echo_at {
            Step::Echo
        } else if self.is_lease_unfit() {
            Step::Grant
        } else {
            return None;
        };
        (self.has_space(now) || !step.needs_space()).then_some(step)
    }

    /// Also of an earlier revision than the last: that one may have been of an etcd which has gone back since.
    fn owes_acknowledgement(&self) -> bool {
        self.asked > 0 && self.asked != self.acknowledged
    }

    /// What etcd has not as it should be, records left out whose other words can wait.
    fn differences(&self, now: Duration, lease: LeaseId, spellings: &mut Spellings) -> Vec<Op> {
        let session = record::encode_session(&self.identity.session);
        match (&self.stored, self.desired.listed) {
            (Some(stored), true) => {
                let mut wanted = self.wanted(&session);
                for key in spellings.look(now, &wanted, stored, lease) {
                    if let (Some(value), Some(held)) = (wanted.get_mut(&key), stored.get(&key)) {
                        *value = &held.value;
                    }
                }
                plan(&wanted, stored, lease)
            }
            // Docker has not been listed: what etcd has of us stays. Only the session may change.
            (Some(stored), false) => {
                let only_session = stored.iter().filter(|(key, _)| **key == self.session_key);
                let stored = only_session.map(|(key, stored)| (key.clone(), stored.clone())).collect();
                plan(&BTreeMap::from([(self.session_key.clone(), session.as_slice())]), &stored, lease)
            }
            (None, _) => Vec::new(),
        }
    }

    fn begin(&mut self, step: Step, effects: &mut Vec<Effect>) {
        let effect = match &step {
            Step::Look => {
                let get = Op::Get { key: self.session_key.clone() };
                Effect::Call(Request::Txn { compare: Vec::new(), then: vec![get], otherwise: Vec::new() })
            }
            Step::Adopt(lease) => Effect::Call(Request::KeepAlive { lease: *lease }),
            Step::Grant => Effect::Call(Request::Grant { ttl: self.identity.lease_ttl }),
            Step::Save(file) => Effect::Save(file.clone()),
            Step::Claim { value } => {
                let (Hold::Free(revision), Some(Lease { id: lease, .. })) = (&self.hold, self.lease) else { return };
                let compare = vec![Compare::ModRevision { key: self.session_key.clone(), equal: *revision }];
                let put = Op::Put { key: self.session_key.clone(), value: value.clone(), lease };
                Effect::Call(Request::Txn { compare, then: vec![put], otherwise: Vec::new() })
            }
            Step::Read { start, .. } => Effect::Call(Request::Range {
                start: start.clone(),
                end: self.own.end.clone(),
                limit: PAGE,
                revision: None,
            }),
            Step::Write { ops } => {
                // I4; the etcd client looks at it once more.
                debug_assert!(
                    ops.iter().all(|op| key_of(op).starts_with(&self.own.start)),
                    "only below our own host id"
                );
                let fence = match &self.hold {
                    Hold::Ours { fence, .. } => fence.clone(),
                    Hold::Free(revision) if !step.needs_space() => {
                        Fence { key: self.session_key.clone(), revision: *revision }
                    }
                    _ => return,
                };
                Effect::Call(fence.guard(ops.clone()))
            }
            Step::Echo | Step::Acknowledge(_) => {
                let (Hold::Ours { fence, .. }, Some(Lease { id: lease, .. })) = (&self.hold, self.lease) else {
                    return;
                };
                let Identity { keys, host, session, .. } = &self.identity;
                let (key, value) = match step {
                    Step::Acknowledge(revision) => (keys.ack(host), record::encode_ack(revision)),
                    _ => (keys.echo(host), session.nonce.as_bytes().to_vec()),
                };
                Effect::Call(fence.guard(vec![Op::Put { key, value, lease }]))
            }
            Step::Revoke(lease) => Effect::Call(Request::Revoke { lease: *lease }),
        };
        self.step = Some(step);
        self.put_under = self.lease.map(|lease| lease.id);
        effects.push(effect);
    }
}

fn key_of(op: &Op) -> &[u8] {
    let (Op::Put { key, .. } | Op::Delete { key } | Op::Get { key }) = op;
    key
}
