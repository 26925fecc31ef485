//! Our lease, and the way from one to another.
//!
//! A lease lives as long as etcd was asked for when it was granted, so a changed `--lease` finds the adopted one with its
//! old length. Then another one is granted, all keys are put again under it, in the ordinary fenced way (the plan
//! compares the leases of keys, too), and until a fresh read shows that nothing hangs on the former one, that one is
//! renewed as well and kept in the session file: no key is absent meanwhile, whatever happens in between.
//!
//! The former lease is not revoked but left to end by itself. A revocation would gain nothing, for nothing hangs on it;
//! and if we were wrong about that, it would take names away at once instead of after a lease's time of repairs.

use std::time::Duration;

use super::{
    super::call::{CallError, LeaseId, Reply},
    Hold, Publisher, RENEW_AGAIN, RENEWALS,
};
use crate::model::Problem;

/// A lease that is ours and lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    /// The seconds it lives without a renewal, as etcd says.
    pub(super) ttl: i64,
    pub(super) renew_at: Duration,
}

impl Lease {
    fn new(now: Duration, id: LeaseId, ttl: i64) -> Self {
        Self { id, ttl, renew_at: now + pause(ttl) }
    }
}

/// The pause between two renewals of a lease with this many seconds left.
fn pause(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0)) / RENEWALS
}

impl Publisher {
    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> + use<> {
        [self.lease, self.former].into_iter().flatten()
    }

    /// The lease to renew now.
    pub(super) fn due_renewal(&self, now: Duration) -> Option<LeaseId> {
        let due = self.leases().filter(|lease| now >= lease.renew_at);
        due.min_by_key(|lease| lease.renew_at).map(|lease| lease.id)
    }

    /// Whether our lease has another length than we were told, and etcd may have a better one.
    pub(super) fn is_lease_unfit(&self) -> bool {
        let length = self.granted_ttl.unwrap_or(self.identity.lease_ttl);
        self.former.is_none() && self.lease.is_some_and(|lease| lease.ttl != length)
    }

    /// What to tell people while etcd has no room for another lease.
    pub(super) fn lease_problem(&self) -> Option<Problem> {
        let lease = self.lease.filter(|_| self.shortage.is_some() && self.is_lease_unfit())?;
        let found =
            format!("a lease of {} s from an earlier start, and etcd grants no other: it is out of space", lease.ttl);
        let expected = format!("{} s, as soon as the NOSPACE alarm is disarmed", self.identity.lease_ttl);
        Some(Problem::new("--lease", &found, expected))
    }

    /// The first of the leases in our state file lives, or not (`None`).
    pub(super) fn take_adopted(&mut self, now: Duration, ttl: Option<i64>) {
        let id = self.adopt.remove(0);
        let lease = ttl.map(|ttl| Lease::new(now, id, ttl));
        if self.lease.is_none() {
            self.lease = lease;
        } else {
            self.former = lease;
        }
        if self.adopt.is_empty() {
            self.note_leases();
        }
    }

    pub(super) fn take_granted(&mut self, now: Duration, id: LeaseId, ttl: i64) {
        self.granted_ttl = Some(ttl);
        if self.lease.is_some_and(|lease| lease.ttl == ttl) {
            // etcd grants no shorter one: the one we have is as good, and the new one ends unused.
            return;
        }
        self.former = self.lease.replace(Lease::new(now, id, ttl));
        // It hangs on the former one, if at all, and is not among the keys that are read.
        self.acknowledged = 0;
        self.note_leases();
    }

    pub(super) fn take_renewal(&mut self, now: Duration, outcome: Result<Reply, CallError>) {
        let renewed = self.renewing.take();
        let Some(lease) =
            [&mut self.lease, &mut self.former].into_iter().flatten().find(|lease| Some(lease.id) == renewed)
        else {
            return;
        };
        match outcome {
            Ok(Reply::Alive { ttl, .. }) if ttl > 0 => lease.renew_at = now + pause(ttl),
            Ok(_) | Err(CallError::LeaseNotFound) => {
                let id = lease.id;
                self.lose_lease(id);
            }
            Err(error) => {
                lease.renew_at = now + RENEW_AGAIN;
                self.status.last_error = Some(error.to_string());
            }
        }
    }

    /// Neither renewed nor revoked any more.
    pub(super) fn forget_leases(&mut self) {
        self.lease = None;
        self.former = None;
        self.adopt.clear();
        self.note_leases();
    }

    /// A lease is gone, and all keys that hung on it: they are put again under the one that is left, or a new one.
    pub(super) fn lose_lease(&mut self, id: LeaseId) {
        if self.leases().all(|lease| lease.id != id) {
            // Told twice, by a renewal and by a put.
            return self.let_go();
        }
        tracing::warn!(lease = id.0, "a lease has ended: what hung on it is published again");
        self.status.lease_losses += 1;
        let former = self.former.take().filter(|former| former.id != id);
        self.lease = self.lease.filter(|lease| lease.id != id).or(former);
        self.note_leases();
        self.let_go();
    }

    /// Nothing hangs on the former lease any more, as etcd has just told us.
    pub(super) fn release_former(&mut self) {
        if self.hangs_on_former() == Some(false) {
            self.former = None;
            self.note_leases();
        }
    }

    /// Whether any of our keys hangs on the former lease, as far as we know; `None`: there is none, or we know nothing.
    pub(super) fn hangs_on_former(&self) -> Option<bool> {
        let (Hold::Ours { .. }, Some(former), Some(stored)) = (&self.hold, self.former, &self.stored) else {
            return None;
        };
        Some(stored.values().any(|stored| stored.lease == Some(former.id)))
    }

    fn note_leases(&mut self) {
        self.file.lease = self.lease.map(|lease| lease.id.0);
        self.file.former = self.former.map(|lease| lease.id.0);
    }
}
