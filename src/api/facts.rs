//! The numbers and states that the other parts hand in, as plain data, so that this folder knows none of their types.
//! Counters count since the agent's start.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use crate::model::Problem;

/// Everything at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// The side that follows Docker.
    pub docker: DockerFacts,
    /// Our own checks of this host's containers.
    pub checks: CheckFacts,
    /// The side that talks to the registry.
    pub registry: RegistryFacts,
    /// The side that answers.
    pub dns: DnsFacts,
    /// What upstreams have said, and how they stand.
    pub cache: CacheFacts,
    /// Every DNS address that is wanted.
    pub listeners: Vec<Listener>,
    /// What is broken beyond the registry's data, which the catalog tells itself: labels, listeners, upstreams.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

/// How it stands with Docker.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DockerFacts {
    /// The event stream is open.
    pub connected: bool,
    /// Why it was last lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Events taken.
    pub events: u64,
    /// Event streams opened anew after a loss.
    pub resyncs: u64,
    /// Full lists taken.
    pub lists: u64,
}

/// What our own checks have done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckFacts {
    /// Containers that are checked.
    pub containers: u64,
    /// Questions that were answered well.
    pub passed: u64,
    /// Questions that were not.
    pub failed: u64,
}

/// How it stands with the registry.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RegistryFacts {
    /// `memory` or `etcd`.
    pub kind: &'static str,
    /// All we want published is published, under our live lease.
    pub synced: bool,
    /// How long nothing has been heard; `None`: heard just now.
    #[serde(rename = "stale_seconds", serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub stale_for: Option<Duration>,
    /// Our lease's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<i64>,
    /// Who else publishes under our host id, so that we do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// Containers published.
    pub published: u64,
    /// Transactions that wrote.
    pub writes: u64,
    /// Full lists taken.
    pub relists: u64,
    /// Leases lost.
    pub lease_losses: u64,
    /// Records that cannot be decoded now.
    pub undecodable: u64,
    /// Differences that a full compare found after the watch had missed them.
    pub repairs: u64,
    /// Records of this host that were rewritten in other words, without another meaning.
    pub respelled: u64,
    /// What last went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// What the DNS side has done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DnsFacts {
    /// Packets with a question that came over UDP.
    pub udp_queries: u64,
    /// Messages with a question that came over TCP.
    pub tcp_queries: u64,
    /// Replies sent, by response code: (`NOERROR`, 12).
    pub replies: Vec<(&'static str, u64)>,
    /// Packets dropped without a reply: malformed, or beyond a limit.
    pub dropped: u64,
    /// Packets beyond the rate of their source (`--rate-limit`): truncated or dropped, unless they carried a cookie of ours.
    pub too_often: u64,
    /// Packets with unusual questions, dropped because too many of those waited for the complete path.
    pub odd_over_cap: u64,
    /// Answers that hold a part of the addresses that there are, as all do not fit.
    pub part_answers: u64,
    /// Replies that say they are cut, so that the client asks over TCP.
    pub truncated: u64,
    /// Questions passed on to an upstream.
    pub forwarded: u64,
    /// Questions that no upstream answered, asked or known to be down.
    pub forward_failures: u64,
    /// Answers that told of addresses inside networks, and were handed on without (`--private-answers refuse`).
    pub private_answers: u64,
    /// TCP connections open now, those of TLS included.
    pub tcp_connections: u64,
    /// Handshakes of TLS that were done.
    pub tls_handshakes: u64,
    /// Handshakes of TLS that failed, or were too slow.
    pub tls_failures: u64,
}

/// What upstreams have said, and how they stand; also the answer to `GET /v1/cache`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheFacts {
    /// Questions whose answer, or failure, is known.
    pub entries: u64,
    /// Octets they take, everything counted.
    pub octets: u64,
    /// The most they may take; 0: there is no cache.
    pub limit: u64,
    /// Questions answered from it.
    pub hits: u64,
    /// Questions that an upstream had to be asked for.
    pub misses: u64,
    /// Questions answered with what is older than it should be, because no upstream answered in time.
    pub stale: u64,
    /// Questions that waited for what somebody else had asked already.
    pub coalesced: u64,
    /// Answers that had to make room.
    pub evictions: u64,
    /// Replies to upstreams' addresses that answered none of our questions: late, confused or forged.
    pub mismatched: u64,
    /// Whom we may ask.
    pub upstreams: Vec<UpstreamFacts>,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamFacts {
    /// The domain that it is asked about; without one it is asked about all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Where it is.
    pub address: SocketAddr,
    /// `up`, `down` (it replies to nothing) or `loop` (it leads back to us): only the first are asked.
    pub state: String,
    /// Smoothed round-trip time in milliseconds; absent where nothing was heard lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// How often it was silent or unreachable in a row.
    pub failures: u32,
}

/// One DNS address that is wanted.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// Why it cannot be bound; `None`: it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
