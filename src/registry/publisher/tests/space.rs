//! Without space in etcd (NOSPACE): puts and grants wait, withdrawals do not.

use super::*;

#[test]
fn the_put_that_uses_up_the_space_is_carried_out_though_it_was_refused() {
    let mut bench = Bench::publishing(&[A]);
    bench.store.set_space(Space::Ending);
    bench.want(&[A, B]);
    assert_eq!(bench.names(), all(&[A, B]), "carried out");
    assert!(bench.publisher.status().last_error.unwrap().contains("space"), "and refused");
    bench.want(&[A]);
    assert_eq!(bench.names(), all(&[A]), "what was refused is withdrawn like any other");
    assert_eq!(bench.publisher.status().repairs, 0);
}

#[test]
fn the_claim_that_uses_up_the_space_is_ours() {
    let mut bench = Bench::publishing(&[A, B]);
    bench.store.set_space(Space::Ending);
    let mut bench = bench.restart("n2");
    bench.want(&[B]);
    bench.pass(6);
    assert_eq!((bench.names(), bench.publisher.status().conflict), (all(&[B]), None));
    bench.store.set_space(Space::Enough);
    bench.pass(6);
    assert!(bench.publisher.status().synced);
}

#[test]
fn without_space_the_lease_lives_withdrawals_work_and_puts_wait() {
    let mut bench = Bench::publishing(&[A]);
    let lease = bench.publisher.status().lease;
    bench.store.set_space(Space::Exhausted);
    bench.want(&[B]);
    assert_eq!(bench.names(), all(&[]));
    bench.pass(300);
    assert_eq!(bench.publisher.status().lease, lease);
    assert!(bench.publisher.status().last_error.unwrap().contains("space"));
    bench.store.set_space(Space::Enough);
    bench.pass(6);
    assert_eq!(
        (bench.names(), bench.publisher.status().lease, bench.publisher.status().lease_losses),
        (all(&[B]), lease, 0)
    );
}

#[test]
fn a_restart_without_space_keeps_the_lease_although_it_cannot_claim() {
    let mut bench = Bench::publishing(&[A]);
    let lease = bench.publisher.status().lease;
    bench.store.set_space(Space::Exhausted);
    let mut bench = bench.restart("n2");
    bench.want(&[A]);
    bench.pass(300);
    assert_eq!((bench.names(), bench.publisher.status().lease), (all(&[A]), lease));
}

#[test]
fn a_restart_without_space_withdraws_what_is_gone_and_claims_once_there_is_space() {
    let mut bench = Bench::publishing(&[A, B]);
    let lease = bench.publisher.status().lease;
    bench.store.set_space(Space::Exhausted);
    let mut bench = bench.restart("n2");
    bench.give(Input::Tick);
    bench.pass(60);
    assert_eq!(bench.names(), all(&[A, B]), "Docker has not been listed: silence means nothing");
    bench.want(&[B, C]);
    assert_eq!((bench.names(), bench.publisher.status().lease), (all(&[B]), lease), "at once, under the old claim");
    bench.want(&[C]);
    assert_eq!(bench.names(), all(&[]));
    assert!(bench.publisher.status().last_error.unwrap().contains("space"), "deletes do not hide it");
    bench.store.set_space(Space::Enough);
    bench.pass(6);
    assert_eq!(
        (bench.names(), bench.publisher.status().lease, bench.publisher.status().last_error),
        (all(&[C]), lease, None)
    );
    assert!(bench.publisher.status().synced);
}

#[test]
fn the_loser_of_two_withdraws_nothing_without_space_either() {
    let mut winner = Bench::publishing(&[A]);
    winner.store.set_space(Space::Exhausted);
    let file = SessionFile { nonces: vec!["n0".into()], lease: winner.file.lease, former: None };
    let mut loser = Bench::new("n2", winner.store, file);
    loser.want(&[B]);
    loser.pass(20);
    assert!(loser.publisher.status().conflict.is_some());
    assert_eq!(loser.names(), all(&[A]));
}

#[test]
fn without_space_puts_are_tried_again_with_growing_pauses_and_nothing_else_is() {
    let mut bench = Bench::publishing(&[A]);
    bench.store.set_space(Space::Exhausted);
    bench.asked.clear();
    bench.want(&[A, B]);
    bench.pass(50);
    let puts =
        bench.asked.iter().filter(|request| matches!(request, Request::Txn { then, .. } if then.len() == 1)).count();
    let reads = bench.asked.iter().filter(|request| matches!(request, Request::Range { .. })).count();
    assert!((10..=24).contains(&puts), "one in 2.5 to 5 s after the first few: {puts}");
    // One for each put that was refused: any of them may have been the one that raised the alarm.
    assert!(reads <= puts && reads + puts == bench.asked.len(), "{:?}", bench.asked);
}

#[test]
fn a_host_that_started_without_space_can_leave() {
    let bench = Bench::publishing(&[A]);
    let mut bench = bench.restart("n2");
    bench.store.set_space(Space::Exhausted);
    bench.want(&[A]);
    bench.give(Input::Leave);
    assert!(bench.has_left);
    assert_eq!((bench.names(), bench.file.lease), (vec![], None));
}
