//! What the log says of the registry: that it is reached, that it is not and what this means, and that it is back.
//!
//! In comes how mirror and publisher are doing, out come the [`Entry`]s that are due now. The machines retry every second
//! or two; a person reads of an outage at its first failure, after a minute and every ten minutes ([`Outage`]).
//!
//! Reading comes first: while nothing can be read, nothing is said of writing, whose cause is the same.

use std::{fmt, time::Duration};

use super::{
    call::{Failing, Why},
    mirror::{self, View},
};
use crate::model::{Outage, Problem, in_words};

/// How long the publisher fails before the log says so: what keeps it from writing usually keeps the mirror from reading, too,
/// and the mirror takes up to 8 s to notice (two silences of the watch, and one call).
const UNWRITTEN_FOR: Duration = Duration::from_secs(10);
/// The same where etcd refuses the write: the mirror has its own refusal within a call's time.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// How long a list may be overtaken by other events, again and again, before the log says so.
const OVERTAKEN_FOR: Duration = Duration::from_secs(10);

/// What is to be logged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The registry is listed and followed, for the first time or again. INFO.
    Reached(Reached),
    /// It cannot be followed. WARN.
    Unreachable(Trouble),
    /// It is followed, and what this host has cannot be written. WARN.
    Unwritten(Trouble),
    /// This host's records are written again, after so long. INFO.
    Written(Duration),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// etcd's cluster id.
    pub cluster: u64,
    /// The revision of the list.
    pub revision: i64,
    /// Hosts in it.
    pub hosts: usize,
    /// Instances in it.
    pub instances: usize,
    /// How long the registry was away; `None`: it was reached at once.
    pub away: Option<Duration>,
    /// It has been reached before in this run.
    pub again: bool,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why, in the words of the client or of etcd.
    pub why: Why,
    /// What it means now.
    pub meaning: Meaning,
    /// Since when.
    pub lasted: Duration,
}

/// What it means that the registry cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It was never listed.
    OthersUnknown,
    /// It was listed before.
    AsLastSeen,
    /// Nothing of this host was ever written.
    OwnUnknown,
    /// Something was written before.
    OwnAsLastWritten,
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OthersUnknown => "other hosts are not known yet; containers of this host are answered",
            Self::AsLastSeen => "names of other hosts stay as last seen",
            Self::OwnUnknown => "other hosts do not know the containers of this host",
            Self::OwnAsLastWritten => {
                "other hosts do not see what changes on this host, and drop its names when its lease ends"
            }
        })
    }
}

/// Follows how it goes, and says what is worth a line.
#[derive(Debug, Default)]
pub struct Journal {
    reading: Outage,
    /// A refusal was told in this outage: at first etcd may just have been silent, as it is while it restarts.
    told_refusal: bool,
    writing: Outage,
    /// The registry has been followed in this run.
    reached: bool,
    /// When it was last reached again: failures before that are part of the outage that was told.
    back_at: Duration,
}

impl Journal {
    /// Takes in how it goes now with reading, and with writing: what the publisher fails at, and how many records are
    /// written.
    pub fn take(
        &mut self,
        now: Duration,
        (mirror, following, view): (&mirror::Status, Following, &View),
        writing: Option<(&Failing, usize)>,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(failing) = &mirror.failing {
            let is_due = !matches!(failing.why, Why::Overtaken(_)) || now >= failing.since + OVERTAKEN_FOR;
            if matches!(failing.why, Why::Refused(_)) && !std::mem::replace(&mut self.told_refusal, true) {
                self.reading.retell(now);
            }
            if (is_due || self.reading.reason().is_some())
                && let Some(lasted) = self.reading.fail(now, failing.since, failing.why.text())
            {
                entries.push(Entry::Unreachable(Trouble {
                    why: failing.why.clone(),
                    meaning: if view.listed { Meaning::AsLastSeen } else { Meaning::OthersUnknown },
                    lasted,
                }));
            }
        } else if following == Following::Yes {
            let away = self.reading.end(now);
            self.told_refusal = false;
            if away.is_some() || !self.reached {
                entries.push(Entry::Reached(Reached {
                    cluster: view.cluster,
                    revision: view.revision,
                    hosts: view.hosts.len(),
                    instances: view.hosts.values().map(|host| host.publications.len()).sum(),
                    away,
                    again: self.reached,
                }));
                self.reached = true;
                self.back_at = now;
            }
        }
        match writing {
            Some((failing, published)) => {
                let patience = if matches!(failing.why, Why::Refused(_)) { REFUSED_FOR } else { UNWRITTEN_FOR };
                let is_due = failing.last >= failing.since.max(self.back_at) + patience;
                if self.reading.reason().is_none()
                    && (is_due || self.writing.reason().is_some())
                    && let Some(lasted) = self.writing.fail(now, failing.since, failing.why.text())
                {
                    entries.push(Entry::Unwritten(Trouble {
                        why: failing.why.clone(),
                        meaning: if published > 0 { Meaning::OwnAsLastWritten } else { Meaning::OwnUnknown },
                        lasted,
                    }));
                }
            }
            None => entries.extend(self.writing.end(now).map(Entry::Written)),
        }
        entries
    }

    /// The registry has never been followed, and the last try failed.
    pub fn was_never_reached(&self) -> Option<&str> {
        self.reading.reason().filter(|_| !self.reached)
    }

    /// What is wrong now, for `/v1/problems`: with which endpoints, as the operator gave them.
    pub fn problem(&self, endpoints: impl Fn() -> String) -> Option<Problem> {
        let place = || format!("--etcd-endpoints {}", endpoints());
        let (reader, meaning) = if self.reached {
            ("etcd that answers", Meaning::AsLastSeen)
        } else {
            ("etcd that answers there, to this user or certificate", Meaning::OthersUnknown)
        };
        let writer = "etcd that lets this host write below its own id (its role, its space)";
        let unread = self.reading.problem(place, reader, meaning);
        unread.or_else(|| self.writing.problem(place, writer, "other hosts do not see what changes here"))
    }
}

/// Whether the mirror is listed and watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// It is, and does.
    Yes,
    /// It lists, or is about to watch.
    No,
}

impl Entry {
    /// Logs it. `endpoint`: the member that answered last; `endpoints`: all of them.
    pub fn log(&self, endpoint: &str, endpoints: &str) {
        match self {
            Self::Reached(Reached { cluster, revision, hosts, instances, away, again }) => {
                let cluster = format_args!("{cluster:x}");
                match (again, away) {
                    (true, Some(away)) => {
                        let away = in_words(*away);
                        tracing::info!(endpoint, %cluster, revision, hosts, instances, away, "the registry is back");
                    }
                    (_, Some(away)) => {
                        let after = in_words(*away);
                        tracing::info!(endpoint, %cluster, revision, hosts, instances, after, "the registry is reached");
                    }
                    (_, None) => {
                        tracing::info!(endpoint, %cluster, revision, hosts, instances, "the registry is reached");
                    }
                }
            }
            Self::Unreachable(Trouble { why, meaning, lasted }) => {
                let (error, lasted) = (why.text(), in_words(*lasted));
                let what = if matches!(why, Why::Silent(_)) { "reached" } else { "read" };
                let yet = if *meaning == Meaning::OthersUnknown { " yet" } else { "" };
                tracing::warn!(endpoints, error, lasted, "the registry cannot be {what}{yet}: {meaning}");
            }
            Self::Unwritten(Trouble { why, meaning, lasted }) => {
                let (error, lasted) = (why.text(), in_words(*lasted));
                tracing::warn!(endpoints, error, lasted, "the registry takes no writes of this host: {meaning}");
            }
            Self::Written(away) => {
                let away = in_words(*away);
                tracing::info!(endpoint, away, "the registry takes writes of this host again");
            }
        }
    }
}

#[cfg(test)]
mod tests;
