//! A watch of several ranges on one stream, from its creation to its end, which always comes with a reason. \[IO\]
//!
//! etcd's streams have many ways to say nothing: a peer that vanished, a member without a leader, a refused token that
//! leaves the stream open. Here each of them ends in [`WatchEvent::Broken`] within seconds. Whoever follows can then
//! list anew and watch from there; nothing is resumed or patched.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    WatchOptions, WatchStream,
    proto::{PbEvent, PbWatchResponse},
};
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Cluster,
    connection::Connection,
    convert::{self, Failure},
};
use crate::registry::call::{CallError, Change, Header, Revision, WatchEvent, WatchRange};

#[cfg(test)]
mod tests;

/// After how long a silence we ask etcd for a sign of life, and how long we wait for it. 1,000 hosts that have nothing
/// to tell cost etcd some 300 of these per second; they touch neither its log nor its disk.
const SILENCE: Duration = Duration::from_secs(3);

/// Most bytes of keys and values in the pieces of one response: an eighth of what etcd could send at worst (1,000
/// revisions of 1.5 MiB), and far more than our own records ever make.
const MAX_FRAGMENTS_BYTES: usize = 192 << 20;

/// Most events kept back while not all ranges are being watched yet.
const MAX_EARLY: usize = 1_000;

/// Follows the ranges until the receiver is dropped or the watch ends; the last event says why.
pub(super) async fn run(cluster: Arc<Cluster>, ranges: Vec<WatchRange>, from: Revision, sender: Sender<WatchEvent>) {
    let end = tokio::select! {
        () = sender.closed() => return,
        end = follow(&cluster, &ranges, from, &sender) => end,
    };
    let event = match end {
        End::Compacted(revision) => WatchEvent::Compacted { revision },
        End::Outdated => WatchEvent::Broken("the credentials are others now: watching with those".into()),
        End::Broken(reason) => WatchEvent::Broken(reason),
        End::Token(reason) | End::Denied(reason) => WatchEvent::Denied(reason),
    };
    // A receiver that is gone wants no reason.
    let _ = sender.send(event).await;
}

/// Why a watch is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Compacted(Revision),
    /// etcd does not know our token (any more); only ever said while a watch is being created.
    Token(String),
    /// Our role does not allow it, or we have shown no token; only ever said while a watch is being created.
    Denied(String),
    /// The connection was made with other credentials than we have now.
    Outdated,
    Broken(String),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Token(reason) => Self::Token(reason),
            Failure::Final(CallError::Denied(reason)) => Self::Denied(reason),
            Failure::Final(error) => Self::Broken(error.to_string()),
            Failure::NotSent(reason) | Failure::Uncertain(reason) => Self::Broken(reason),
        }
    }
}

/// A watch whose ranges have all been created.
struct Open {
    index: usize,
    connection: Arc<Connection>,
    stream: WatchStream,
    assembly: Assembly,
    /// What came while it was being created.
    events: Vec<WatchEvent>,
}

async fn follow(cluster: &Cluster, ranges: &[WatchRange], from: Revision, sender: &Sender<WatchEvent>) -> End {
    let mut outdated = cluster.outdated.subscribe();
    let Open { index, connection, mut stream, mut assembly, mut events } = match open(cluster, ranges, from).await {
        Ok(open) => open,
        Err(end) => return end,
    };
    let end = loop {
        for event in events {
            if sender.send(event).await.is_err() {
                return End::Broken("nobody listens".into());
            }
        }
        let response = tokio::select! {
            response = next(&mut stream) => match response {
                Ok(response) => response,
                Err(reason) => break End::Broken(format!("{}: {reason}", cluster.members[index].endpoint)),
            },
            // The cluster keeps the other end.
            Ok(()) = outdated.changed() => break End::Outdated,
        };
        events = match assembly.take(response) {
            Ok(events) => events,
            Err(end) => break end,
        };
    };
    if let End::Broken(_) = end {
        cluster.demote(index);
        cluster.forget(index, &connection);
    }
    end
}

/// The next response; asks for one when there is none for long, and gives up when that brings none either.
async fn next(stream: &mut WatchStream) -> Result<PbWatchResponse, String> {
    let message = match timeout(SILENCE, stream.message()).await {
        Ok(message) => message,
        Err(_) => {
            let asked = async {
                stream.request_progress().await?;
                stream.message().await
            };
            let silent = |_| format!("no sign of life for {} s", 2 * SILENCE.as_secs());
            timeout(SILENCE, asked).await.map_err(silent)?
        }
    };
    match message {
        Ok(Some(response)) => Ok(response.0),
        Ok(None) => Err("etcd ended the watch".into()),
        Err(error) => Err(convert::with_causes(&error)),
    }
}

/// Creates the watch on the first member that takes it, within the deadline of a call.
async fn open(cluster: &Cluster, ranges: &[WatchRange], from: Revision) -> Result<Open, End> {
    let deadline = Instant::now() + cluster.call_deadline;
    let mut failures = Vec::new();
    // By every member.
    let mut is_denied = true;
    for (index, others) in cluster.order() {
        let until = if others { super::half_way(deadline) } else { deadline };
        let reason = match attempt(cluster, index, ranges, from, until).await {
            Ok(open) => {
                cluster.prefer(index);
                return Ok(open);
            }
            Err(End::Token(reason) | End::Denied(reason)) => reason,
            Err(End::Broken(reason)) => {
                is_denied &= convert::is_of_certificates(&reason);
                reason
            }
            Err(end) => return Err(end),
        };
        cluster.prefer(index + 1);
        failures.push(cluster.failure(index, &reason));
        if Instant::now() >= deadline {
            break;
        }
    }
    let reasons = failures.join("; ");
    Err(if is_denied { End::Denied(reasons) } else { End::Broken(reasons) })
}

/// Creates the watch on one member; a token it does not know any more is renewed once.
async fn attempt(
    cluster: &Cluster,
    index: usize,
    ranges: &[WatchRange],
    from: Revision,
    until: Instant,
) -> Result<Open, End> {
    let connection = cluster.connection(index, until).await.map_err(End::from)?;
    let result = create_with_token(cluster, &connection, ranges, from, until).await;
    match result {
        Ok((stream, assembly, events)) => {
            connection.note(&Ok(()));
            Ok(Open { index, connection, stream, assembly, events })
        }
        Err(End::Broken(reason)) => {
            cluster.forget(index, &connection);
            Err(End::Broken(cluster.refusal(index, &connection, until).await.unwrap_or(reason)))
        }
        Err(end) => Err(end),
    }
}

async fn create_with_token(
    cluster: &Cluster,
    connection: &Connection,
    ranges: &[WatchRange],
    from: Revision,
    until: Instant,
) -> Result<(WatchStream, Assembly, Vec<WatchEvent>), End> {
    let too_late = |_| Err(End::Broken("the watch was not created in time".into()));
    cluster.log_in_first(connection, until).await?;
    let logins = connection.logins();
    let created = timeout_at(until, create(connection, ranges, from)).await.unwrap_or_else(too_late);
    let needs_token = match &created {
        Err(End::Token(_)) => true,
        // So it is said to a watch without a token, where authentication was enabled after the connection was made.
        Err(End::Denied(_)) => !connection.has_token(),
        _ => false,
    };
    if !needs_token || !cluster.credentials.has_user() {
        return created;
    }
    cluster.log_in(connection, logins, until).await?;
    timeout_at(until, create(connection, ranges, from)).await.unwrap_or_else(too_late)
}

async fn create(
    connection: &Connection,
    ranges: &[WatchRange],
    from: Revision,
) -> Result<(WatchStream, Assembly, Vec<WatchEvent>), End> {
    let failed = |error| End::from(convert::failure(error));
    let requests = (1..).zip(ranges).map(|(id, range)| {
        let options = WatchOptions::new().with_watch_id(id).with_start_revision(from).with_fragment();
        (range.start.as_slice(), Some(options.with_range(range.end.as_slice())))
    });
    let mut requests = requests.collect::<Vec<_>>().into_iter();
    let Some((start, options)) = requests.next() else {
        return Err(End::Broken("there is nothing to watch".into()));
    };
    let mut stream = connection.watch_client().watch(start, options).await.map_err(failed)?;
    for (start, options) in requests {
        stream.watch(start, options).await.map_err(failed)?;
    }
    let mut assembly = Assembly::new(ranges.len());
    loop {
        let response = match stream.message().await.map_err(failed)? {
            Some(response) => response.0,
            None => return Err(End::Broken("etcd ended the watch".into())),
        };
        let events = assembly.take(response)?;
        if !events.is_empty() {
            return Ok((stream, assembly, events));
        }
    }
}

/// Makes our events from etcd's responses. Pure.
struct Assembly {
    /// The ranges, by watch id - 1.
    ranges: Vec<Range>,
    /// Kept back until all ranges have been created.
    early: Vec<WatchEvent>,
    /// The last progress told by etcd. A version of 3.4 may tell of a revision before it tells its changes, so each one
    /// is passed on only when the next one comes, seconds later.
    promised: Option<Header>,
}

#[derive(Clone, Default)]
struct Range {
    created: bool,
    /// The revision of its last change.
    last: Revision,
    /// The pieces so far of a response that comes in several, and their size.
    fragments: Vec<Change>,
    bytes: usize,
}

impl Assembly {
    fn new(ranges: usize) -> Self {
        Self { ranges: vec![Range::default(); ranges], early: Vec::new(), promised: None }
    }

    /// Takes one response. The first events returned begin with `Created`.
    fn take(&mut self, response: PbWatchResponse) -> Result<Vec<WatchEvent>, End> {
        if response.compact_revision > 0 {
            return Err(End::Compacted(response.compact_revision));
        }
        if response.canceled {
            let reason = response.cancel_reason;
            return Err(match reason.as_str() {
                "" => End::Broken("etcd canceled the watch without a reason".into()),
                text if ["auth token", "revision of auth store", "user name is empty"]
                    .iter()
                    .any(|cause| text.contains(cause)) =>
                {
                    End::Token(reason)
                }
                text if text.contains("permission denied") => End::Denied(reason),
                _ => End::Broken(reason),
            });
        }
        let header = convert::header(response.header).map_err(|_| End::Broken("a response without a header".into()))?;
        if response.created {
            self.range(response.watch_id)?.created = true;
            if !self.is_created() {
                return Ok(Vec::new());
            }
            let mut events = vec![WatchEvent::Created { header }];
            events.append(&mut self.early);
            return Ok(events);
        }
        if response.events.is_empty() && !response.fragment && self.pending(response.watch_id).is_none() {
            let told = self.promised.replace(header);
            return Ok(told.map(|header| WatchEvent::Progress { header }).into_iter().collect());
        }
        let Some(changes) = self.range(response.watch_id)?.take(response.events, response.fragment)? else {
            return Ok(Vec::new());
        };
        let event = WatchEvent::Changes { header, changes };
        if self.is_created() {
            return Ok(vec![event]);
        }
        if self.early.len() >= MAX_EARLY {
            return Err(End::Broken(format!("{MAX_EARLY} events before all ranges were being watched")));
        }
        self.early.push(event);
        Ok(Vec::new())
    }

    fn is_created(&self) -> bool {
        self.ranges.iter().all(|range| range.created)
    }

    fn range(&mut self, watch_id: i64) -> Result<&mut Range, End> {
        let index = usize::try_from(watch_id).ok().and_then(|id| id.checked_sub(1));
        let range = index.and_then(|index| self.ranges.get_mut(index));
        range.ok_or_else(|| End::Broken(format!("a response to watch {watch_id}, which is not ours")))
    }

    /// The range with this id, if it waits for more pieces.
    fn pending(&mut self, watch_id: i64) -> Option<&mut Range> {
        self.range(watch_id).ok().filter(|range| !range.fragments.is_empty())
    }
}

impl Range {
    /// Takes the events of one response; gives all changes once no more pieces follow.
    fn take(&mut self, events: Vec<PbEvent>, more: bool) -> Result<Option<Vec<Change>>, End> {
        for event in events {
            let change = change(event)?;
            self.bytes += change.key().len();
            if let Change::Put(kv) = &change {
                self.bytes += kv.value.len();
            }
            self.fragments.push(change);
        }
        if self.bytes > MAX_FRAGMENTS_BYTES {
            return Err(End::Broken(format!("more than {MAX_FRAGMENTS_BYTES} bytes of changes at once")));
        }
        if more {
            return Ok(None);
        }
        self.bytes = 0;
        let changes = std::mem::take(&mut self.fragments);
        let mut last = self.last;
        for (index, change) in changes.iter().enumerate() {
            let revision = change.mod_revision();
            // A response begins with a new revision, and goes on with the same or later ones.
            if revision < last || (index == 0 && revision == last) {
                return Err(End::Broken(format!("the watch went back from revision {last} to {revision}")));
            }
            last = revision;
        }
        self.last = last;
        Ok(Some(changes))
    }
}

fn change(event: PbEvent) -> Result<Change, End> {
    let kv = event.kv.ok_or_else(|| End::Broken("a change without a key".into()))?;
    match event.r#type {
        0 => Ok(Change::Put(convert::key_value(kv))),
        1 => Ok(Change::Delete { key: kv.key, mod_revision: kv.mod_revision }),
        other => Err(End::Broken(format!("a change of unknown type {other}"))),
    }
}
