//! What an upgrade writes: 200 hosts with 100 containers each, whose records were written by an agent that said less.

use std::collections::BTreeMap;

use super::*;
use crate::registry::record::{self, Interner};

/// A record as an agent wrote it that knew of no namespaces and aliases.
fn older(value: &[u8]) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(value).unwrap();
    value.as_object_mut().unwrap().remove("namespace");
    value.to_string().into_bytes()
}

fn id(number: u64) -> String {
    format!("{number:012x}")
}

/// One host of a fleet, with its own etcd: what the others are told is how often it writes.
fn host(number: u64, containers: u64) -> Bench {
    let ids: Vec<String> = (0..containers).map(|of| id(number * 1000 + of)).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut bench = Bench::publishing(&ids);
    let lease = bench.publisher.status().lease.unwrap();
    for id in ids {
        let key = format!("/portolan/v1/hosts/own/instances/{id}").into_bytes();
        let value = older(&record::encode(&publication(id)));
        bench.write(Op::Put { key, value, lease });
    }
    let mut bench = bench.restart("n2");
    bench.now += Duration::from_secs(1);
    bench.want(
        &(0..containers)
            .map(|of| id(number * 1000 + of))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    bench
}

/// Instances that each transaction of those asked wrote, one after the other.
fn puts(bench: &mut Bench) -> usize {
    let is_instance =
        |op: &Op| matches!(op, Op::Put { key, .. } if String::from_utf8_lossy(key).contains("/instances/"));
    std::mem::take(&mut bench.asked)
        .iter()
        .map(|request| match request {
            Request::Txn { then, .. } => then.iter().filter(|op| is_instance(op)).count(),
            _ => 0,
        })
        .sum()
}

#[test]
fn hosts_upgraded_within_a_minute_write_what_changes_no_meaning_by_and_by() {
    const HOSTS: u64 = 200;
    const CONTAINERS: u64 = 25;
    let mut written = 0;
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for number in 0..HOSTS {
        let mut bench = host(number, CONTAINERS);
        assert_eq!(puts(&mut bench), 0, "nothing at once");
        assert!(bench.publisher.status().synced, "and nothing is missing for it");
        let mut of_host: BTreeMap<u64, usize> = BTreeMap::new();
        let end = bench.now + Duration::from_secs(3605);
        while let Some(at) = bench.publisher.wake_at().filter(|at| *at <= end) {
            bench.now = at.max(bench.now + Duration::from_millis(1));
            bench.give(Input::Tick);
            // Hosts were upgraded one after the other within a minute.
            let second = bench.now.as_secs() + number * 60 / HOSTS;
            *of_host.entry(second).or_default() += puts(&mut bench);
        }
        assert!(of_host.values().all(|puts| *puts <= 10), "5 a second, wherever it begins: {of_host:?}");
        assert_eq!(bench.publisher.status().respelled, CONTAINERS);
        written += of_host.values().sum::<usize>();
        of_host.into_iter().for_each(|(second, puts)| *seconds.entry(second).or_default() += puts);
    }
    assert_eq!(written as u64, HOSTS * CONTAINERS, "each once");
    // 5,000 records in 3,600 s are 1.4 a second.
    let busiest = seconds.values().max().unwrap();
    assert!(*busiest <= 12, "{busiest} of the fleet's within one second");
}

/// All records of a host that happen to have one moment are not written in one transaction.
#[test]
fn no_more_than_five_are_written_in_a_second() {
    let mut bench = host(1, 100);
    // Past all moments: the machine was asleep.
    bench.now += Duration::from_secs(20);
    bench.publisher.spellings.all_are_due();
    for expected in [5, 5, 5] {
        let at = bench.publisher.wake_at().unwrap();
        bench.now = at.max(bench.now);
        bench.give(Input::Tick);
        assert_eq!(puts(&mut bench), expected);
        bench.give(Input::Tick);
        assert_eq!(puts(&mut bench), 0, "within the same second");
        bench.now += Duration::from_secs(1);
    }
}

#[test]
fn a_record_that_changes_anyway_is_written_at_once_and_a_new_meaning_never_waits() {
    let mut bench = host(1, 3);
    let changed = id(1001);
    let mut draining = publication(&changed);
    draining.phase = crate::model::Phase::Draining;
    let mut named = publication(&id(1002));
    Arc::make_mut(&mut named.common).aliases = ["store".into()].into();
    let publications = [publication(&id(1000)), draining, named];
    let publications = publications.into_iter().map(|held| (held.container, Arc::new(held))).collect();
    bench.give(Input::Desired(Arc::new(Desired { listed: true, publications, ..Desired::default() })));
    assert_eq!(puts(&mut bench), 2, "one that drains, one with an alias");
    let range = bench.publisher.own.clone();
    let request = Request::Range { start: range.start, end: range.end, limit: 0, revision: None };
    let Ok(Reply::Range { kvs, .. }) = bench.store.call(bench.now, &request) else { panic!("a range") };
    let has_namespace =
        |kv: &crate::registry::call::KeyValue| String::from_utf8_lossy(&kv.value).contains("\"namespace\":\"shop\"}");
    assert_eq!(kvs.iter().filter(|kv| has_namespace(kv)).count(), 1, "in the new words: the other ends with aliases");
    bench.pass(3700);
    assert_eq!((puts(&mut bench), bench.publisher.status().respelled), (1, 1), "the third by and by");
}

#[test]
fn what_is_no_record_and_what_means_something_else_is_put_right_at_once() {
    for value in [
        b"{".as_slice(),
        b"{\"name\":\"x\",\"phase\":\"serving\",\"services\":[{\"service\":\"web\",\"namespace\":\"shop\"}]}",
    ] {
        let mut bench = Bench::publishing(&[A]);
        let lease = bench.publisher.status().lease.unwrap();
        bench.write(Op::Put {
            key: format!("/portolan/v1/hosts/own/instances/{A}").into_bytes(),
            value: value.to_vec(),
            lease,
        });
        puts(&mut bench);
        let mut bench = bench.restart("n2");
        bench.want(&[A]);
        assert_eq!(puts(&mut bench), 1);
        assert!(
            record::decode(ShortId::parse(A).unwrap(), value, &mut Interner::default()).ok() != Some(publication(A))
        );
    }
}
