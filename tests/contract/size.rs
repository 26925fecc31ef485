//! Replies and watch responses far beyond gRPC's usual 4 MiB.

use portolan::registry::call::{Change, LeaseId, Op, Reply, Request, WatchEvent};
use tokio::time::timeout;

use crate::{
    both::{PATIENCE, client},
    etcd::Cluster,
    faults::everything,
};

const MIB: usize = 1 << 20;

fn fat_put(n: usize) -> Request {
    let op = Op::Put { key: format!("fat{n:03}").into(), value: vec![b'x'; MIB], lease: LeaseId(0) };
    Request::Txn { compare: vec![], then: vec![op], otherwise: vec![] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_70_mib_comes_in_pages_as_large_as_we_take() {
    let cluster = Cluster::single();
    let etcd = client(&cluster);
    for n in 0..70 {
        etcd.call(fat_put(n)).await.unwrap();
    }
    let (mut start, mut pages) = (b"fat".to_vec(), Vec::new());
    loop {
        let page = Request::Range { start, end: b"fau".to_vec(), limit: 100, revision: None };
        let Ok(Reply::Range { kvs, more, .. }) = etcd.call(page).await else { panic!("page {} fails", pages.len()) };
        start = [kvs.last().unwrap().key.as_slice(), b"\0"].concat();
        pages.push(kvs.len());
        if !more {
            break;
        }
    }
    assert_eq!(pages, [50, 20], "100 keys are too large, half of them are not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_past_tells_of_10_mib_at_once() {
    let cluster = Cluster::single();
    let etcd = client(&cluster);
    for n in 0..10 {
        etcd.call(fat_put(n)).await.unwrap();
    }
    let mut watch = etcd.watch(everything(), 1);
    let mut told = Vec::new();
    while told.iter().sum::<usize>() < 10 {
        match timeout(PATIENCE, watch.recv()).await.unwrap() {
            Some(WatchEvent::Created { .. }) => {}
            Some(WatchEvent::Changes { changes, .. }) => {
                assert!(changes.iter().all(|change| matches!(change, Change::Put(kv) if kv.value.len() == MIB)));
                told.push(changes.len());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(told[0] > 4, "more than 4 MiB at once, not {told:?}");
}
