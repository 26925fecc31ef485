//! What each outcome means for what is known: the second half of the publisher.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, RngExt};

use super::{
    super::{
        call::{CallError, Failing, KeyValue, LeaseId, Op, OpReply, Reply, Revision, Why, next_page},
        plan::{Fence, Stored},
        record::{self, Interner},
    },
    BACKOFF, COMPARE_EVERY, CONFLICT_EVERY, ECHO_EVERY, Effect, Hold, MAX_WRITTEN, Publisher, Shortage, Step,
};

impl Publisher {
    pub(super) fn take_saved(&mut self, outcome: Result<(), String>) {
        match self.step.take() {
            Some(Step::Save(file)) => self.saved = Some(file),
            step => {
                self.step = step;
                return;
            }
        }
        // Publishing matters more than a quick return after a crash: go on, and try again with the next change.
        if let Err(error) = outcome {
            tracing::warn!(
                error,
                "the session file cannot be written: after a crash we may have to wait for our lease"
            );
            self.status.last_error = Some(error);
        }
    }

    pub(super) fn take_reply(
        &mut self,
        now: Duration,
        outcome: Result<Reply, CallError>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let Some(step) = self.step.take() else { return };
        match outcome {
            Ok(reply) => {
                self.failures = 0;
                self.shortage = self.shortage.filter(|_| !step.needs_space());
                if self.shortage.is_none() {
                    self.status.last_error = None;
                    self.status.failing = None;
                }
                let is_as_before = self.take_header(&step, &reply);
                self.take_success(now, step, reply, rng, effects);
                if !is_as_before && matches!(self.hold, Hold::Free(_) | Hold::Ours { .. }) && !self.left {
                    tracing::warn!("etcd has gone back, or is another one: everything is looked at again");
                    self.written.clear();
                    self.touched.clear();
                    self.let_go();
                }
            }
            Err(CallError::LeaseNotFound) => match step {
                Step::Adopt(_) => self.take_adopted(now, None),
                Step::Revoke(lease) => self.take_revoked(lease, effects),
                _ => self.put_under.into_iter().for_each(|lease| self.lose_lease(lease)),
            },
            Err(error @ CallError::NoSpace) if step.needs_space() => {
                if matches!(step, Step::Write { .. }) {
                    // The very put that uses up the space is carried out, and refused.
                    self.stored = None;
                }
                self.fall_short(now, Why::from(&error), rng);
            }
            Err(error) => {
                // It may have been carried out, and may yet be: only a new revision of the session key fences it off.
                let must_be_fenced = matches!(step, Step::Claim { .. } | Step::Write { .. } | Step::Acknowledge(_));
                if matches!(error, CallError::Unknown(_)) && must_be_fenced {
                    self.let_go();
                }
                self.fail(now, Why::from(&error), rng);
            }
        }
        if self.step.is_none() {
            self.judge_touched(now);
        }
    }

    /// Whether etcd goes on where it was. One restored from a backup does not: what we know to be there may be missing,
    /// though the fence still holds. Only linearized replies tell; a renewal's may come from a member that is behind.
    fn take_header(&mut self, step: &Step, reply: &Reply) -> bool {
        let (Reply::Txn { header, .. } | Reply::Range { header, .. }) = reply else { return true };
        let has_put = step.needs_space() && matches!(reply, Reply::Txn { succeeded: true, .. });
        let before = std::mem::replace(&mut self.heard, *header);
        let least = before.revision + i64::from(has_put);
        before.cluster == 0 || before.cluster == header.cluster && least <= header.revision
    }

    fn take_success(&mut self, now: Duration, step: Step, reply: Reply, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        match (step, reply) {
            (Step::Look, Reply::Txn { replies, .. }) => match replies.into_iter().next() {
                Some(OpReply::Got(found)) => self.judge(now, found),
                _ => self.hold = Hold::Unknown,
            },
            (Step::Adopt(_), Reply::Alive { ttl, .. }) => self.take_adopted(now, Some(ttl).filter(|ttl| *ttl > 0)),
            (Step::Grant, Reply::Granted { lease, ttl, .. }) => self.take_granted(now, lease, ttl),
            (Step::Claim { value }, Reply::Txn { succeeded: true, header, .. }) => {
                let fence = Fence { key: self.session_key.clone(), revision: header.revision };
                self.hold = Hold::Ours { fence, value };
                // It goes first.
                let nonce = self.identity.session.nonce.to_string();
                self.file.nonces.retain(|known| *known != nonce);
                self.file.nonces.insert(0, nonce);
                self.status.conflict = None;
                self.echo_at = now;
                // It may have gone with a lease.
                self.acknowledged = 0;
                // What was read before the fence stood may have been overwritten since.
                self.stored = None;
                self.believed = None;
                self.take_revision(header.revision, effects);
            }
            (Step::Read { mut read, .. }, Reply::Range { kvs, more, .. }) => {
                let next = next_page(&kvs, more);
                read.extend(kvs.into_iter().map(|kv| (kv.key, Stored { value: kv.value, lease: kv.lease })));
                match next {
                    // Our lease ended meanwhile, and the keys with it.
                    _ if self.hold == Hold::Unknown => {}
                    Some(start) => self.begin(Step::Read { start, read }, effects),
                    None => self.take_own(now, read, rng),
                }
            }
            (Step::Write { ops }, Reply::Txn { succeeded: true, header, .. }) => {
                self.take_written(ops, header.revision);
                self.take_revision(header.revision, effects);
            }
            (Step::Echo, Reply::Txn { succeeded: true, header, .. }) => {
                self.echo_at = now + ECHO_EVERY;
                effects.push(Effect::Echoed(header.revision));
            }
            (Step::Acknowledge(revision), Reply::Txn { succeeded: true, .. }) => self.acknowledged = revision,
            // A fence failed: somebody wrote our session key. Look who.
            (Step::Claim { .. } | Step::Write { .. } | Step::Echo | Step::Acknowledge(_), Reply::Txn { .. }) => {
                self.let_go();
            }
            (Step::Revoke(lease), Reply::Revoked { .. }) => self.take_revoked(lease, effects),
            (step, reply) => {
                tracing::error!(?step, ?reply, "etcd answered another question");
                self.let_go();
                self.fail(now, Why::Overtaken("etcd answered another question".into()), rng);
            }
        }
    }

    /// Decides from our session key whether this host id is ours.
    fn judge(&mut self, now: Duration, found: Option<KeyValue>) {
        let Some(found) = found else {
            self.hold = Hold::Free(0);
            return;
        };
        match record::decode_session(&found.value, &mut Interner::default()) {
            Ok(session) if !self.file.nonces.iter().any(|nonce| **nonce == *session.nonce) => {
                let addresses: Vec<String> = session.advertise.iter().map(ToString::to_string).collect();
                let at = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" and ") };
                let message = format!(
                    "another agent publishes as host {} (session {}, at {at}): give one of the two a new --host-id, or an empty state directory",
                    self.identity.host, session.nonce
                );
                if self.status.conflict.as_ref() != Some(&message) {
                    tracing::error!("{message}");
                }
                self.status.conflict = Some(message);
                self.status.synced = false;
                // Cloned with the state directory, the lease would be the winner's too: neither renew nor revoke it.
                self.forget_leases();
                self.stored = None;
                self.believed = None;
                self.hold = Hold::Theirs { look_again: now + CONFLICT_EVERY };
            }
            // Ours from before, or nothing an agent would write: that is nobody's claim.
            Ok(_) | Err(_) => self.hold = Hold::Free(found.mod_revision),
        }
    }

    /// The session key must be looked at and claimed again before anything is written.
    pub(super) fn let_go(&mut self) {
        self.hold = Hold::Unknown;
        self.stored = None;
        self.believed = None;
        self.status.synced = false;
    }

    /// Our keys as etcd has them.
    fn take_own(&mut self, now: Duration, read: BTreeMap<Vec<u8>, Stored>, rng: &mut impl Rng) {
        if let Some(believed) = self.believed.take() {
            let differing = believed.iter().filter(|(key, stored)| read.get(*key) != Some(stored)).count();
            let foreign = read.keys().filter(|key| !believed.contains_key(*key)).count();
            if differing + foreign > 0 {
                tracing::warn!(differing, foreign, "our keys in etcd are not as we wrote them");
                self.status.repairs += (differing + foreign) as u64;
            }
        }
        self.stored = Some(read);
        self.compare_at = now + rng.random_range(COMPARE_EVERY.0..COMPARE_EVERY.1);
        self.release_former();
    }

    fn take_written(&mut self, ops: Vec<Op>, revision: i64) {
        let Some(stored) = &mut self.stored else { return };
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    if key == self.session_key
                        && let Hold::Ours { fence, value: session } = &mut self.hold
                    {
                        fence.revision = revision;
                        session.clone_from(&value);
                    }
                    self.status.respelled += u64::from(self.spellings.take(&key, &value));
                    stored.insert(key, Stored { value, lease: Some(lease) });
                }
                Op::Delete { key } => {
                    stored.remove(&key);
                }
                Op::Get { .. } => {}
            }
        }
        self.status.writes += 1;
        if self.hangs_on_former() == Some(false) {
            // Let go of it only after another look.
            self.compare_at = Duration::ZERO;
        }
    }

    /// The watch saw a change of our keys. If it was not ours, look at them now rather than in minutes.
    pub(super) fn take_touch(&mut self, now: Duration, revision: Revision) {
        if let Hold::Theirs { look_again } = &mut self.hold {
            *look_again = now;
        } else if self.written.contains(&revision) {
            // Our own.
        } else if self.step.is_some() && self.touched.len() < MAX_WRITTEN {
            self.touched.push(revision);
        } else {
            self.compare_at = self.compare_at.min(now);
        }
    }

    /// One of our writes has this revision. Other changes seen while it was under way were not ours.
    fn take_revision(&mut self, revision: Revision, effects: &mut Vec<Effect>) {
        effects.push(Effect::Wrote(revision));
        self.written.push_back(revision);
        if self.written.len() > MAX_WRITTEN {
            self.written.pop_front();
        }
        self.touched.retain(|touched| *touched != revision);
    }

    fn judge_touched(&mut self, now: Duration) {
        if !self.touched.is_empty() {
            self.touched.clear();
            self.compare_at = self.compare_at.min(now);
        }
    }

    fn take_revoked(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.former.take_if(|former| former.id == lease).is_none() {
            self.leave(effects);
        }
    }

    pub(super) fn leave(&mut self, effects: &mut Vec<Effect>) {
        self.forget_leases();
        self.let_go();
        self.stored = None;
        self.left = true;
        effects.extend([Effect::Save(self.file.clone()), Effect::Left]);
    }

    fn fail(&mut self, now: Duration, why: Why, rng: &mut impl Rng) {
        self.not_before = now + backoff(self.failures, rng);
        self.failures = self.failures.saturating_add(1);
        self.note_failure(now, why);
        self.status.synced = false;
    }

    /// Only what needs space has to wait: etcd is there.
    fn fall_short(&mut self, now: Duration, why: Why, rng: &mut impl Rng) {
        let failures = self.shortage.map_or(0, |shortage| shortage.failures);
        let try_again = now + backoff(failures, rng);
        self.shortage = Some(Shortage { try_again, failures: failures.saturating_add(1) });
        self.failures = 0;
        self.note_failure(now, why);
    }

    fn note_failure(&mut self, now: Duration, why: Why) {
        self.status.last_error = Some(why.text().to_owned());
        self.status.failing = Some(Failing::again(self.status.failing.take(), now, now, why));
    }
}

/// The pause after so many failures in a row.
fn backoff(failures: u32, rng: &mut impl Rng) -> Duration {
    let longest = BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1);
    rng.random_range(longest / 2..=longest)
}
