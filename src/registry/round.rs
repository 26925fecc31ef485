//! How far a command to drain has come: who does not answer accordingly yet. Pure.
//!
//! A round of commands is known when this host answers without what it drained, when etcd holds that, and when every other
//! live host answers from a revision that has it. The publisher writes the round into our session once everything else is
//! written, so whoever has seen that revision has seen all of it, and acknowledges it below `acks/`.
//!
//! A host lives while its session is there. One that has only just come and has none yet is not waited for.

use std::{collections::BTreeMap, fmt};

use super::{
    call::{Header, KeyValue, Revision},
    mirror::View,
    publisher,
    record::{self, Keys},
};
use crate::model::{Desired, HostId, Origin};

/// The revision that each host answers from, as far as somebody waited for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acks {
    /// The registry that they were read from.
    at: Header,
    by_host: BTreeMap<HostId, Revision>,
}

impl Acks {
    /// Takes in one page of them. What cannot be read acknowledges nothing, and neither does what names a revision that
    /// did not exist when it was written: etcd was restored from a backup, and its writer did not know yet.
    pub fn take(&mut self, keys: &Keys, at: Header, kvs: &[KeyValue]) {
        self.at = at;
        let read = |kv: &KeyValue| {
            let revision = record::decode_ack(&kv.value).ok().filter(|revision| *revision < kv.mod_revision)?;
            Some((keys.acknowledger(&kv.key)?, revision))
        };
        self.by_host.extend(kvs.iter().filter_map(read));
    }
}

/// Who does not answer accordingly yet, or why nobody can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// This host's own zone.
    Own,
    /// The registry does not hold it, or cannot be asked.
    Registry(Option<String>),
    /// Another host.
    Host(HostId),
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("this host's own answers"),
            Self::Registry(None) => f.write_str("the registry"),
            Self::Registry(Some(error)) => write!(f, "the registry: {error}"),
            Self::Host(id) => write!(f, "host {id}"),
        }
    }
}

/// How far this host has come by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not so far that others could know.
    Behind(Behind),
    /// The registry tells everybody, and this is what they have to acknowledge.
    Told(Header),
    /// There is nothing to wait for: what was drained has ended meanwhile, or was taken back.
    Over,
}

/// How far this host itself is with a round: what it answers from, and what the publisher has made of it.
pub fn standing(round: u64, served: &Desired, publisher: &publisher::Status) -> Standing {
    if served.round < round {
        return Standing::Behind(Behind::Own);
    }
    let behind = || Standing::Behind(Behind::Registry(publisher.last_error.clone()));
    if !served.drained {
        return if publisher.synced { Standing::Over } else { behind() };
    }
    match publisher.asking {
        Some((told, at)) if told >= round => Standing::Told(at),
        _ => behind(),
    }
}

/// Who has not acknowledged what we told then.
pub fn behind(told: Header, own: &HostId, view: &View, acks: &Acks) -> Vec<Behind> {
    let registry = |reason: Option<&str>| vec![Behind::Registry(reason.map(Into::into))];
    if !view.listed || view.stale_since.is_some() {
        return registry(Some("it cannot be heard, so nobody knows which hosts live"));
    }
    let is_the_same = [view.cluster, acks.at.cluster] == [told.cluster; 2] && acks.at.revision >= told.revision;
    if !is_the_same {
        return registry(Some("it has gone back, or is another one"));
    }
    if view.session != told.revision {
        // Hosts may have come before we told it and not be seen here yet, or the view is of before etcd went back.
        return registry(None);
    }
    let others = view.hosts.iter().filter_map(|(origin, host)| match origin {
        Origin::Registry(id) if id != own && !host.session.nonce.is_empty() => Some(id),
        _ => None,
    });
    let is_behind = |id: &&HostId| acks.by_host.get(*id).is_none_or(|held| *held < told.revision);
    others.filter(is_behind).map(|id| Behind::Host(id.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use imbl::OrdMap;

    use super::*;
    use crate::model::{Host, Session};

    fn host(id: &str) -> HostId {
        HostId::parse(id).unwrap()
    }

    /// What `far` has acknowledged at which revision, read at another.
    fn acks(acknowledged: Revision, written: Revision, read: Header) -> Acks {
        let keys = Keys::new("/portolan");
        let kv = KeyValue {
            key: keys.ack(&host("far")),
            value: record::encode_ack(acknowledged),
            create_revision: written,
            mod_revision: written,
            lease: None,
        };
        let mut acks = Acks::default();
        acks.take(&keys, read, &[kv]);
        acks
    }

    /// Two hosts, of which `far` is waited for, and one whose session is gone.
    fn view(revision: Revision) -> View {
        let with = |id: &str, nonce: &str| {
            let session = Session { nonce: nonce.into(), ..Session::default() };
            (Origin::Registry(host(id)), Arc::new(Host { session, ..Host::default() }))
        };
        let hosts = OrdMap::from_iter([with("own", "n1"), with("far", "n2"), with("gone", "")]);
        View { cluster: 7, revision, session: 20, listed: true, hosts, ..View::default() }
    }

    #[test]
    fn everybody_knows_once_all_who_live_have_acknowledged_what_was_told() {
        let at = |cluster, revision| Header { cluster, revision };
        let told = at(7, 20);
        let gone_back = "the registry: it has gone back, or is another one";
        let unheard = "the registry: it cannot be heard, so nobody knows which hosts live";
        let unseen = Some("the registry");
        let unlisted = View { listed: false, ..view(20) };
        let stale = View { stale_since: Some(Duration::ZERO), ..view(20) };
        let rows = [
            ("all have", view(20), acks(20, 21, at(7, 21)), None),
            ("also later", view(90), acks(88, 89, at(7, 91)), None),
            ("an earlier one", view(20), acks(19, 21, at(7, 21)), Some("host far")),
            ("nothing", view(20), Acks { at: at(7, 21), ..Acks::default() }, Some("host far")),
            ("before etcd went back", view(30), acks(90, 31, at(7, 31)), Some("host far")),
            ("etcd went back just now", view(30), acks(20, 21, at(7, 15)), Some(gone_back)),
            ("another etcd", view(30), acks(20, 21, at(8, 21)), Some(gone_back)),
            ("hosts of another etcd", View { cluster: 8, ..view(20) }, acks(20, 21, at(7, 21)), Some(gone_back)),
            ("who else lives is not known", View { session: 12, ..view(19) }, acks(20, 21, at(7, 21)), unseen),
            ("our own word is not there", View { session: 0, ..view(19) }, acks(20, 21, at(7, 21)), unseen),
            ("seen before etcd went back", View { session: 35, ..view(40) }, acks(20, 21, at(7, 21)), unseen),
            ("not listed", unlisted, acks(20, 21, at(7, 21)), Some(unheard)),
            ("not heard", stale, acks(20, 21, at(7, 21)), Some(unheard)),
        ];
        for (what, view, acks, expected) in rows {
            let found: Vec<String> = behind(told, &host("own"), &view, &acks).iter().map(ToString::to_string).collect();
            assert_eq!(found, Vec::from_iter(expected), "{what}");
        }
    }
}
