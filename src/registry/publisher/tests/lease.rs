//! A lease of another length than was wanted.

use super::*;
use crate::registry::call::Change;

impl Bench {
    /// Nothing of ours was deleted since then.
    fn has_deleted_since(&self, revision: Revision) -> bool {
        let changes = self.store.changes_since(revision + 1, std::slice::from_ref(&self.publisher.own)).unwrap();
        changes.iter().any(|change| matches!(change, Change::Delete { .. }))
    }

    fn lives(&self, lease: LeaseId) -> bool {
        let alive = self.store.clone().call(self.now, &Request::KeepAlive { lease });
        matches!(alive, Ok(Reply::Alive { ttl, .. }) if ttl > 0)
    }

    fn grants(&self) -> usize {
        self.asked.iter().filter(|request| matches!(request, Request::Grant { .. })).count()
    }

    /// A next start with a longer lease, before Docker has been listed: the session has moved, the records have not.
    fn half_way() -> (Self, LeaseId, LeaseId) {
        let bench = Self::publishing(&[A, B]);
        let old = bench.publisher.status().lease.unwrap();
        let mut bench = bench.restart_with_lease("n2", 90);
        bench.give(Input::Tick);
        let new = bench.publisher.status().lease.unwrap();
        let leases: Vec<_> = bench.stored().into_iter().map(|(_, lease)| lease.unwrap()).collect();
        assert_eq!(leases, [old, old, new]);
        (bench, old, new)
    }
}

#[test]
fn a_lease_of_another_length_is_replaced_and_no_name_is_absent_meanwhile() {
    for ttl in [10, 90] {
        let bench = Bench::publishing(&[A, B]);
        let (revision, old) = (bench.store.revision(), bench.publisher.status().lease.unwrap());
        let mut bench = bench.restart_with_lease("n2", ttl);
        bench.want(&[A, B]);
        bench.pass(300);
        let new = bench.publisher.status().lease.unwrap();
        assert!(new != old && bench.stored().iter().all(|(_, lease)| *lease == Some(new)), "{ttl} s");
        assert!(!bench.has_deleted_since(revision) && bench.names() == all(&[A, B]), "{ttl} s");
        assert_eq!(
            bench.store.call(bench.now, &Request::KeepAlive { lease: new }).map(|reply| match reply {
                Reply::Alive { ttl, .. } => ttl,
                _ => 0,
            }),
            Ok(ttl)
        );
        assert!(!bench.lives(old), "the former one has ended, and took nothing along");
        assert_eq!((bench.file.lease, bench.file.former, bench.grants()), (Some(new.0), None, 1));
        assert_eq!((bench.publisher.status().lease_losses, bench.publisher.status().synced), (0, true));
    }
}

#[test]
fn both_leases_live_while_keys_hang_on_both() {
    let (mut bench, old, new) = Bench::half_way();
    bench.pass(1_000);
    assert_eq!((bench.names(), bench.lives(old), bench.lives(new)), (all(&[A, B]), true, true));
    bench.want(&[A, B]);
    bench.pass(1_000);
    assert_eq!((bench.names(), bench.lives(old), bench.lives(new)), (all(&[A, B]), false, true));
}

#[test]
fn a_restart_half_way_goes_on_with_both_leases() {
    let (bench, old, new) = Bench::half_way();
    let revision = bench.store.revision();
    assert_eq!((bench.file.lease, bench.file.former), (Some(new.0), Some(old.0)));
    let mut bench = bench.restart_with_lease("n3", 90);
    bench.give(Input::Tick);
    bench.pass(1_000);
    assert_eq!((bench.lives(old), bench.lives(new)), (true, true));
    bench.want(&[A, B]);
    bench.pass(1_000);
    assert!(!bench.has_deleted_since(revision) && !bench.lives(old));
    assert!(bench.stored().iter().all(|(_, lease)| *lease == Some(new)));
}

#[test]
fn without_space_the_old_lease_stays_and_that_is_a_problem_until_there_is_space() {
    let bench = Bench::publishing(&[A]);
    let old = bench.publisher.status().lease;
    let mut bench = bench.restart_with_lease("n2", 90);
    bench.want(&[A]);
    let mut bench = bench.restart_with_lease("n3", 60);
    bench.store.set_space(Space::Exhausted);
    bench.want(&[A]);
    bench.pass(300);
    let status = bench.publisher.status();
    assert_ne!(status.lease, old, "the 90 s of the start before");
    assert_eq!((status.lease_losses, bench.names()), (0, all(&[A])));
    let [problem] = status.problems.as_slice() else { panic!("{:?}", status.problems) };
    assert!(problem.place == "--lease" && problem.found.contains("90 s") && problem.expected.contains("60 s"));
    bench.store.set_space(Space::Enough);
    bench.pass(6);
    assert_eq!((bench.publisher.status().problems, bench.names()), (vec![], all(&[A])));
    assert_ne!(bench.publisher.status().lease, status.lease);
}

#[test]
fn space_that_ends_half_way_takes_no_name_away() {
    let (mut bench, old, new) = Bench::half_way();
    bench.store.set_space(Space::Exhausted);
    bench.want(&[A, B]);
    bench.pass(1_000);
    assert_eq!((bench.names(), bench.lives(old), bench.lives(new)), (all(&[A, B]), true, true));
    // Even should the new lease end now.
    bench.store.call(bench.now, &Request::Revoke { lease: new }).unwrap();
    bench.pass(1_000);
    assert_eq!((bench.publisher.status().lease, bench.lives(old)), (Some(old), true));
    bench.store.set_space(Space::Enough);
    bench.pass(10);
    assert_eq!((bench.names(), bench.publisher.status().synced), (all(&[A, B]), true));
    assert!(!bench.stored().iter().any(|(_, lease)| *lease == Some(old)));
}

#[test]
fn a_former_lease_that_ends_too_early_is_made_up_for() {
    let (mut bench, old, new) = Bench::half_way();
    bench.store.call(bench.now, &Request::Revoke { lease: old }).unwrap();
    bench.pass(30);
    bench.want(&[A, B]);
    let status = bench.publisher.status();
    assert_eq!((bench.names(), status.lease, status.lease_losses), (all(&[A, B]), Some(new), 1));
    assert_eq!(bench.file.former, None);
}

#[test]
fn an_etcd_that_grants_no_shorter_lease_is_asked_once() {
    let mut bench = Bench::with_lease("n1", Store::new(7), SessionFile::default(), 1);
    bench.want(&[A]);
    let lease = bench.publisher.status().lease;
    let mut bench = bench.restart_with_lease("n2", 1);
    bench.want(&[A]);
    bench.pass(300);
    assert_eq!((bench.publisher.status().lease, bench.names(), bench.grants()), (lease, all(&[A]), 1));
}

#[test]
fn leaving_half_way_ends_both_leases() {
    let (mut bench, old, new) = Bench::half_way();
    bench.give(Input::Leave);
    assert_eq!((bench.has_left, bench.lives(old), bench.lives(new)), (true, false, false));
    assert_eq!((bench.names(), bench.file.lease, bench.file.former), (vec![], None, None));
}

#[test]
fn a_put_that_misses_its_lease_costs_no_other_lease() {
    let (mut bench, old, new) = Bench::half_way();
    let publications = [A, B].iter().map(|id| Arc::new(publication(id))).map(|p| (p.container, p)).collect();
    let desired = Arc::new(Desired { listed: true, publications, ..Desired::default() });
    let effects = bench.publisher.handle(bench.now, Input::Desired(desired), &mut bench.rng);
    assert!(
        matches!(effects.as_slice(), [Effect::Call(Request::Txn { .. })]),
        "the put under the new lease: {effects:?}"
    );
    // A renewal is told first that the new lease is gone, so that the old one is ours again.
    bench.publisher.lose_lease(new);
    assert_eq!(bench.publisher.status().lease, Some(old));
    bench.give(Input::Replied(Err(CallError::LeaseNotFound)));
    assert_eq!((bench.publisher.status().lease_losses, bench.lives(old)), (1, true));
}
