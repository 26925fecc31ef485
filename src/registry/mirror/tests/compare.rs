//! Full compares of more than one piece.

use super::*;

/// Hosts, of 60 containers each: several pieces of both what etcd has and what we hold.
const HOSTS: usize = 20;

fn key(host: usize, container: usize) -> Vec<u8> {
    format!("/portolan/v1/hosts/host-{host}/instances/{container:012x}").into_bytes()
}

/// Follows many hosts; nothing of what comes after is told.
fn following() -> Bench {
    let mut bench = Bench::new();
    for (host, container) in (0..HOSTS).flat_map(|host| (0..60).map(move |container| (host, container))) {
        let id = format!("{container:012x}");
        bench.put_value(key(host, container), encode(&publication(&id)));
    }
    bench.give(Input::Tick);
    assert_eq!(bench.known().len(), 60 * HOSTS);
    bench
}

/// Lets time pass until a compare has come to its end, and what it found has been judged.
fn compare(bench: &mut Bench) {
    for _ in 0..32 {
        bench.pass(10);
        bench.give(Input::Watched(WatchEvent::Progress { header: bench.store.header() }));
    }
}

#[test]
fn what_was_lost_anywhere_is_found_whatever_piece_it_is_in() {
    for (host, container) in [(0, 0), (HOSTS - 1, 59), (7, 30)] {
        for is_delete in [false, true] {
            let mut bench = following();
            if is_delete {
                bench.write(Op::Delete { key: key(host, container) });
            } else {
                bench.put_value(key(host, container), encode(&publication(B)));
            }
            bench.tell(Vec::new());
            assert_eq!(bench.mirror.status().repairs, 0);
            compare(&mut bench);
            assert_eq!(bench.mirror.status().repairs, 1, "host {host}, container {container}, delete {is_delete}");
            assert_eq!(bench.known().len(), 60 * HOSTS - usize::from(is_delete));
        }
    }
}

#[test]
fn what_is_as_it_should_be_is_compared_in_pieces_and_left_alone() {
    let mut bench = following();
    let before = Arc::clone(bench.mirror.view());
    bench.now = bench.mirror.compare_at;
    bench.mirror.heard_at = bench.now;
    bench.mirror.largest_page = 2_000;
    let mut inputs = vec![Input::Tick];
    let mut steps = 0;
    while let Some(input) = inputs.pop() {
        for effect in bench.mirror.handle(bench.now, input, &mut bench.rng) {
            let Effect::Call(request) = effect else { panic!("{effect:?}") };
            inputs.push(Input::Replied(bench.store.call(bench.now, &request)));
        }
        steps += 1;
        if inputs.is_empty() && bench.mirror.is_reading() {
            inputs.push(Input::Tick);
        }
    }
    assert!(bench.mirror.call.is_none() && bench.mirror.compare_at > bench.now, "it has come to its end");
    // 1,200 keys on either side, 250 at a time.
    assert!(steps >= 8, "{steps} steps");
    assert_eq!(bench.mirror.largest_page, 4_000, "all pages came: the next may be larger");
    assert!(Arc::ptr_eq(&before, bench.mirror.view()));
    assert_eq!((bench.mirror.status().relists, bench.mirror.status().repairs), (1, 0));
}

#[test]
fn a_compare_that_is_given_up_while_nothing_is_on_its_way_does_not_hold_up_the_list() {
    let mut bench = following();
    bench.now = bench.mirror.compare_at;
    bench.mirror.heard_at = bench.now;
    let mut input = Input::Tick;
    // Both pages have come, and not all of them has been looked at.
    for _ in 0..2 {
        let effects = bench.mirror.handle(bench.now, input, &mut bench.rng);
        let [Effect::Call(request)] = &effects[..] else { panic!("{effects:?}") };
        input = Input::Replied(bench.store.call(bench.now, request));
    }
    assert_eq!(bench.mirror.handle(bench.now, input, &mut bench.rng), []);
    assert!(matches!(bench.mirror.call, Some(Call::Compare(_))) && bench.mirror.is_reading());
    bench.put_value(key(0, 0), encode(&publication(B)));
    bench.give(Input::Watched(WatchEvent::Compacted { revision: bench.store.revision() }));
    assert_eq!((bench.mirror.status().relists, bench.known().len()), (2, 60 * HOSTS));
    assert!(bench.mirror.call.is_none());
}
