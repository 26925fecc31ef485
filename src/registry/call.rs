//! The few calls of etcd that we use, as data: what the state machines ask for, what an etcd (the real one, the
//! embedded one or the simulation's) answers. Shapes follow etcd's `rpc.proto`; a wire client's types stay in `etcd.rs`.

use std::time::Duration;

/// A lease's id as etcd gives it; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// etcd's store revision; grows by one with every changing transaction.
pub type Revision = i64;

/// What every reply carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Which cluster answered; another one means nothing known holds any more.
    pub cluster: u64,
    /// The store's revision when the reply was made.
    pub revision: Revision,
}

/// A stored key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; foreign ones need not be UTF-8.
    pub key: Vec<u8>,
    /// The value; foreign ones may be anything.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last wrote it.
    pub mod_revision: Revision,
    /// The lease it hangs on, if any.
    pub lease: Option<LeaseId>,
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision; 0: the key does not exist.
    ModRevision {
        /// The key.
        key: Vec<u8>,
        /// The revision it must have.
        equal: Revision,
    },
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key under a lease.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The lease it hangs on.
        lease: LeaseId,
    },
    /// Deletes a key; not an error when it is absent.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Vec<u8>,
    },
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new lease.
    Grant {
        /// Seconds until it expires unless kept alive.
        ttl: i64,
    },
    /// Renews a lease.
    KeepAlive {
        /// Which.
        lease: LeaseId,
    },
    /// Ends a lease; its keys go in one revision.
    Revoke {
        /// Which.
        lease: LeaseId,
    },
    /// Compare, then write; at most 128 operations.
    Txn {
        /// All must hold.
        compare: Vec<Compare>,
        /// Run when they do.
        then: Vec<Op>,
        /// Run when they do not.
        otherwise: Vec<Op>,
    },
    /// Reads the keys in `start..end` in order.
    Range {
        /// First key.
        start: Vec<u8>,
        /// First key beyond.
        end: Vec<u8>,
        /// Most keys per reply.
        limit: i64,
        /// Read as of this revision; `None`: now.
        revision: Option<Revision>,
    },
}

/// What became of an operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// Written.
    Put,
    /// How many keys were deleted (0 or 1).
    Deleted(i64),
    /// The key, if it exists.
    Got(Option<KeyValue>),
}

/// The answer to a [`Request`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `Grant`.
    Granted {
        /// Cluster and revision.
        header: Header,
        /// The new lease.
        lease: LeaseId,
        /// Seconds granted, at least those asked for.
        ttl: i64,
    },
    /// To `KeepAlive`. A lease that is gone is answered with `ttl` 0, not with an error.
    Alive {
        /// Cluster and revision.
        header: Header,
        /// Seconds left; 0 or less: gone.
        ttl: i64,
    },
    /// To `Revoke`.
    Revoked {
        /// Cluster and revision.
        header: Header,
    },
    /// To `Txn`.
    Txn {
        /// Cluster and revision (of the write, when it wrote).
        header: Header,
        /// Whether `compare` held.
        succeeded: bool,
        /// One per operation that ran.
        replies: Vec<OpReply>,
    },
    /// To `Range`.
    Range {
        /// Cluster and the revision *now*, also when an older one was read.
        header: Header,
        /// The keys in order.
        kvs: Vec<KeyValue>,
        /// There are more after these.
        more: bool,
    },
}

/// Why a call failed; each variant is a decision of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not carried out, for sure: no endpoint took it.
    #[error("etcd is unreachable: {0}")]
    Unreachable(String),
    /// No reply in time: it may have been carried out, or may yet be.
    #[error("no reply from etcd: {0}")]
    Unknown(String),
    /// The lease does not exist (any more).
    #[error("the lease does not exist")]
    LeaseNotFound,
    /// The revision asked for has been compacted away.
    #[error("the revision has been compacted")]
    Compacted,
    /// User, password, certificate or role do not allow it.
    #[error("etcd denied the call: {0}")]
    Denied(String),
    /// The NOSPACE alarm is up: puts and grants fail until an operator acts.
    #[error("etcd is out of space: compact, defragment and disarm the alarm")]
    NoSpace,
    /// etcd will never take this request: too large, malformed.
    #[error("etcd refused the call: {0}")]
    Invalid(String),
}

/// Calls that have failed one after the other, with no success between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// When etcd was last heard, or the first call failed; since the agent's start.
    pub since: Duration,
    /// When the last call failed; since the agent's start.
    pub last: Duration,
    /// Why it failed.
    pub why: Why,
}

/// Why a call failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// etcd is not reached, or does not reply: another try may succeed.
    Silent(String),
    /// etcd replies and refuses the call: an operator has to act.
    Refused(String),
    /// etcd replies, and something happened meanwhile that makes the reply useless: the next try usually succeeds.
    Overtaken(String),
}

impl Failing {
    /// One more failure, after those of `before`.
    pub fn again(before: Option<Self>, since: Duration, now: Duration, why: Why) -> Self {
        Self { since: before.map_or(since, |before| before.since), last: now, why }
    }
}

impl From<&CallError> for Why {
    fn from(error: &CallError) -> Self {
        match error {
            CallError::Unreachable(_) | CallError::Unknown(_) => Self::Silent(error.to_string()),
            CallError::LeaseNotFound | CallError::Compacted => Self::Overtaken(error.to_string()),
            CallError::Denied(_) | CallError::NoSpace | CallError::Invalid(_) => Self::Refused(error.to_string()),
        }
    }
}

impl Why {
    /// The error's text.
    pub fn text(&self) -> &str {
        let (Self::Silent(text) | Self::Refused(text) | Self::Overtaken(text)) = self;
        text
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(KeyValue),
    /// Deleted, by hand or with its lease.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// The revision that deleted it.
        mod_revision: Revision,
    },
}

impl Change {
    /// The key changed.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision that changed it.
    pub fn mod_revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What to watch: the keys in `start..end` from a revision on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRange {
    /// First key.
    pub start: Vec<u8>,
    /// First key beyond.
    pub end: Vec<u8>,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All ranges are being watched.
    Created {
        /// Cluster and revision.
        header: Header,
    },
    /// Changes, whole revisions only, in order: of each range for itself. A revision that touches two ranges may come
    /// in two events, one for each range, and another range's later revision may come in between.
    Changes {
        /// Cluster and revision.
        header: Header,
        /// In order of revision.
        changes: Vec<Change>,
    },
    /// Everything up to this revision has been delivered, as far as etcd knows (3.4 is known to be wrong at times): a
    /// sign of life, no proof.
    Progress {
        /// Cluster and revision.
        header: Header,
    },
    /// The revision asked for has been compacted away: list anew. The watch is over.
    Compacted {
        /// First revision that can still be read.
        revision: Revision,
    },
    /// The watch cannot be had: user, password, certificate or role do not allow it.
    Denied(String),
    /// The watch is over; nothing is known of why changes may be missing.
    Broken(String),
}

/// The first key after all keys that begin with `prefix` (etcd's `clientv3.GetPrefixRangeEnd`).
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Where the page after this one of a range begins; `None`: it was the last.
pub fn next_page(kvs: &[KeyValue], more: bool) -> Option<Vec<u8>> {
    kvs.last().filter(|_| more).map(|last| [last.key.as_slice(), b"\0"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_silence_a_refusal_or_was_overtaken() {
        let text = || "text".to_owned();
        let kind = |error: CallError| match Why::from(&error) {
            Why::Silent(_) => "silent",
            Why::Refused(_) => "refused",
            Why::Overtaken(_) => "overtaken",
        };
        let kinds = [
            CallError::Unreachable(text()),
            CallError::Unknown(text()),
            CallError::LeaseNotFound,
            CallError::Compacted,
            CallError::Denied(text()),
            CallError::NoSpace,
            CallError::Invalid(text()),
        ]
        .map(kind);
        assert_eq!(kinds, ["silent", "silent", "overtaken", "overtaken", "refused", "refused", "refused"]);
        assert!(Why::from(&CallError::Denied(text())).text().contains("text"));
    }
}
