//! What an etcd holds and has held, seen past the agents.

use portolan::registry::{
    call::{CallError, Change, KeyValue, LeaseId, Op, Reply, Request, WatchEvent, WatchRange, prefix_end},
    etcd::{Etcd, Options},
};
use tokio::time::timeout;

use super::bed::{DEADLINE, Home, eventually};
use crate::etcd::Cluster;

const PREFIX: &[u8] = b"/portolan/";

/// Looks into an etcd.
pub(super) struct Registry {
    pub(super) cluster: Cluster,
    client: Etcd,
    runtime: tokio::runtime::Runtime,
}

impl Registry {
    /// A new etcd of one member that lets everybody in.
    pub(super) fn single() -> Self {
        Self::of(Cluster::single(), Options::default())
    }

    /// Looks into a cluster as somebody who may see and write everything.
    pub(super) fn of(cluster: Cluster, access: Options) -> Self {
        let options = Options { endpoints: cluster.endpoints(), own_prefixes: vec![PREFIX.to_vec()], ..access };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { client: Etcd::new(options).expect("valid options"), cluster, runtime }
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        self.cluster.endpoint(0)
    }

    /// An agent that publishes the engine's containers here.
    pub(super) fn home(&self, arguments: &[&str]) -> Home {
        Home::new(&[&["--etcd-endpoints", &self.url()], arguments].concat())
    }

    /// An agent of a host of its own that never sees an engine: what it answers comes from the registry alone. The
    /// engine's containers count as routed for it, so that it may tell their addresses.
    pub(super) fn far_home(&self, host: &str) -> Home {
        self.home(&["--host-id", host, "--docker-host", "unix:///nonexistent/docker.sock", "--routed", ROUTED])
    }

    /// Calls until there is an answer: our connection does not outlive an etcd that is started again.
    fn call(&self, request: &Request) -> Reply {
        eventually("etcd answers", || match self.runtime.block_on(self.client.call(request.clone())) {
            Ok(reply) => Some(reply),
            Err(CallError::Unreachable(_) | CallError::Unknown(_)) => None,
            Err(error) => panic!("{error}"),
        })
    }

    /// All keys below this one.
    fn below(&self, start: &str) -> Vec<KeyValue> {
        let start = start.as_bytes().to_vec();
        let request = Request::Range { end: prefix_end(&start), start, limit: 1_000, revision: None };
        let Reply::Range { kvs, .. } = self.call(&request) else { panic!("another answer") };
        kvs
    }

    /// Every key of every host, without the echoes.
    pub(super) fn keys(&self) -> Vec<KeyValue> {
        self.below("/portolan/v1/hosts/")
    }

    /// The echo of a host.
    pub(super) fn echo(&self, host: &str) -> Option<KeyValue> {
        self.below(&format!("/portolan/v1/echo/{host}")).pop()
    }

    /// The key of a container.
    pub(super) fn instance(&self, id: &str) -> Option<KeyValue> {
        self.keys().into_iter().find(|kv| kv.key.ends_with(format!("/instances/{}", &id[..12]).as_bytes()))
    }

    /// Writes a key, as a stranger would: under no lease. Gives the revision of that.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> i64 {
        let put = Op::Put { key: key.to_vec(), value: value.to_vec(), lease: LeaseId(0) };
        match self.call(&Request::Txn { compare: Vec::new(), then: vec![put], otherwise: Vec::new() }) {
            Reply::Txn { header, .. } => header.revision,
            other => panic!("another answer: {other:?}"),
        }
    }

    /// Ends the lease of a host, as time would.
    pub(super) fn revoke_lease_of(&self, host: &str) {
        let session = format!("/portolan/v1/hosts/{host}/session");
        let found = self.keys().into_iter().find(|kv| kv.key == session.as_bytes());
        let lease = found.and_then(|kv| kv.lease).expect("a session under a lease");
        self.call(&Request::Revoke { lease });
    }

    pub(super) fn delete(&self, key: &[u8]) {
        let delete = Op::Delete { key: key.to_vec() };
        self.call(&Request::Txn { compare: Vec::new(), then: vec![delete], otherwise: Vec::new() });
    }

    /// All that happened until now, in order, echoes included.
    pub(super) fn history(&self) -> Vec<Change> {
        // A watch has no end, so the history gets one.
        let end = self.put(&[PREFIX, b"v1/end-of-history"].concat(), b"");
        let watch = async {
            let range = WatchRange { start: PREFIX.to_vec(), end: prefix_end(PREFIX) };
            let mut events = self.client.watch(vec![range], 1);
            let mut history = Vec::new();
            while history.last().is_none_or(|change: &Change| change.mod_revision() < end) {
                match events.recv().await.expect("the watch goes on") {
                    WatchEvent::Changes { changes, .. } => history.extend(changes),
                    WatchEvent::Created { .. } | WatchEvent::Progress { .. } => {}
                    over => panic!("{over:?}"),
                }
            }
            history
        };
        self.runtime.block_on(async { timeout(DEADLINE, watch).await }).expect("the whole history in time")
    }

    /// The keys that were ever deleted, with the revision of that.
    pub(super) fn deletions(&self) -> Vec<(String, i64)> {
        let deletion = |change: Change| match change {
            Change::Delete { key, mod_revision } => Some((String::from_utf8_lossy(&key).into_owned(), mod_revision)),
            Change::Put(_) => None,
        };
        self.history().into_iter().filter_map(deletion).collect()
    }
}

/// All subnets that engines give to their networks.
pub(super) const ROUTED: &str = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16";
