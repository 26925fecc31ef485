//! `portolan resolve`: a question of the HTTP API, taken through the very path that a packet takes, so that what it
//! shows is what DNS says.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, Record, RecordType},
};
use rand::Rng;

use crate::{
    api::{AskAs, DumpError, DumpRequest, ResolveError, ResolveRecord, ResolveReply, ResolveRequest},
    dns::{
        access::AccessList,
        answer::Snapshot,
        explain::words,
        export::{ExportError, export},
        forward::Forwarder,
        server::Shared,
        source::Source,
        wire::{Outcome, Transport, respond},
    },
    model::Local,
};

/// Who else has a say in an answer: hosts that are told from strangers, and upstreams.
#[derive(Clone, Copy)]
pub(super) struct Neighbours<'a> {
    pub(super) access: &'a AccessList,
    pub(super) forwarder: &'a Forwarder,
}

/// Answers one question from the snapshots of the moment.
pub(super) fn resolve(
    snapshot: &Snapshot<'_>,
    neighbours: &Neighbours<'_>,
    request: &ResolveRequest,
    rng: &mut impl Rng,
) -> Result<ResolveReply, ResolveError> {
    let name = absolute(&request.name, snapshot.settings.apex.as_str())?;
    let kind: RecordType = request.kind.parse().map_err(|_| {
        ResolveError::Invalid(format!("`{}` is no record type; A, AAAA, SRV, TXT, PTR, SOA and NS are", request.kind))
    })?;
    let source = find(snapshot.local, neighbours.access, request.asker.as_ref())?;
    let Asked { rcode, answers, additionals, elsewhere } = ask(snapshot, neighbours, &source, &name, kind, rng)?;
    if let Some(elsewhere) = elsewhere {
        let message = format!("`{name}` has the addresses of `{elsewhere}`: the upstreams are asked for each question");
        return Err(ResolveError::Invalid(message));
    }
    if rcode == FORWARD {
        let message = format!("`{name}` is not a name of ours: it would be forwarded to the upstreams");
        return Err(ResolveError::Invalid(message));
    }
    let asker = words::asker(&source);
    Ok(ResolveReply { name: name.to_string(), kind: request.kind.clone(), asker, rcode, answers, additionals })
}

/// Writes one zone from the snapshots of the moment.
pub(super) fn dump(shared: &Shared, request: &DumpRequest) -> Result<String, DumpError> {
    let (zone, local) = (shared.zone(), shared.local());
    let settings = shared.settings();
    let snapshot = Snapshot { zone: &zone, local: &local, settings: &settings };
    let source = find(&local, &shared.access(), request.asker.as_ref())
        .map_err(|error| DumpError::NotFound(error.to_string()))?;
    let apex = settings.apex.as_str();
    let text = request.zone.as_deref().unwrap_or(apex).to_ascii_lowercase();
    let origin = Name::from_ascii(format!("{}.", text.trim_end_matches('.')))
        .map_err(|error| DumpError::Invalid(format!("`{text}` is no DNS name: {error}")))?;
    export(&snapshot, &source, &origin, &mut rand::rng()).map_err(|error| match error {
        ExportError::NotYet => DumpError::NotYet(error.to_string()),
        ExportError::NoSuchZone { .. } => DumpError::NotFound(error.to_string()),
    })
}

/// Where askers ask from, as far as it matters here: which addresses one is given where not all fit.
pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// In place of a response code: an upstream is asked.
pub(super) const FORWARD: &str = "FORWARD";

/// What DNS says.
pub(super) struct Asked {
    pub(super) rcode: String,
    pub(super) answers: Vec<ResolveRecord>,
    pub(super) additionals: Vec<ResolveRecord>,
    /// The name whose addresses are asked of an upstream.
    pub(super) elsewhere: Option<String>,
}

/// Asks one question as a packet would.
pub(super) fn ask(
    snapshot: &Snapshot<'_>,
    neighbours: &Neighbours<'_>,
    source: &Source,
    name: &Name,
    kind: RecordType,
    rng: &mut impl Rng,
) -> Result<Asked, ResolveError> {
    let mut question = Message::query();
    question.add_query(Query::query(name.clone(), kind));
    let invalid = |error: &dyn std::fmt::Display| ResolveError::Invalid(format!("`{name}` cannot be asked: {error}"));
    let without_records =
        |rcode: &str| Asked { rcode: rcode.to_owned(), answers: Vec::new(), additionals: Vec::new(), elsewhere: None };
    let packet = question.to_vec().map_err(|error| invalid(&error))?;
    let read = |reply: &[u8]| {
        let reply = Message::from_vec(reply).map_err(|error| invalid(&error))?;
        Ok(Asked {
            rcode: rcode(u16::from(reply.metadata.response_code)),
            answers: records(&reply.answers),
            additionals: records(&reply.additionals),
            elsewhere: None,
        })
    };
    Ok(match respond(snapshot, source, ADDRESS, &packet, Transport::Tcp, rng) {
        Outcome::Reply(reply) => read(&reply)?,
        Outcome::Forward(_) => match neighbours.forwarder.denied(&packet, Transport::Tcp) {
            Some(reply) => read(&reply)?,
            None => without_records(FORWARD),
        },
        // What the upstreams say of the other name is asked of them for each question.
        Outcome::Follow(follow) => Asked { elsewhere: Some(follow.target().to_string()), ..without_records(FORWARD) },
        // An address inside a Docker network that no container is known to have: what DNS says after its short wait.
        Outcome::Wait => without_records("SERVFAIL"),
        Outcome::Drop => return Err(invalid(&"it makes no valid question")),
    })
}

/// The name as a resolver would ask it: `web` stays bare (`web.`), `web.shop` gets the zone, a final dot and names
/// that already end in the zone or in `arpa` stay as they are.
pub(super) fn absolute(text: &str, apex: &str) -> Result<Name, ResolveError> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.trim_end_matches('.');
    let is_below = |parent: &str| bare == parent || bare.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    let whole = match lower.ends_with('.') || !bare.contains('.') || is_below(apex) || is_below("arpa") {
        true => format!("{bare}."),
        false => format!("{bare}.{apex}."),
    };
    // `from_ascii`: labels may begin with `_`, as those of SRV names do.
    Name::from_ascii(&whole).map_err(|error| ResolveError::Invalid(format!("`{text}` is no DNS name: {error}")))
}

pub(super) fn find(local: &Local, access: &AccessList, asker: Option<&AskAs>) -> Result<Source, ResolveError> {
    match asker {
        None => Ok(Source::Host),
        Some(AskAs::Address(address)) => Ok(access.locate(local, *address)),
        Some(AskAs::Container(text)) => {
            let found = local.askers.values().find(|asker| is_meant(text, &asker.name, asker.container.as_str()));
            found.map(|asker| Source::Container(Arc::clone(asker))).ok_or_else(|| {
                ResolveError::NoSuchAsker(format!(
                    "no container `{text}` with an address on this host; `docker ps` lists them"
                ))
            })
        }
    }
}

/// Whether a person who wrote `text` means the container of that name and short id: the name, or four digits of the id
/// and more.
pub(super) fn is_meant(text: &str, name: &str, id: &str) -> bool {
    name == text.trim_start_matches('/') || text.len() >= 4 && (text.starts_with(id) || id.starts_with(text))
}

fn rcode(code: u16) -> String {
    match code {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        other => format!("RCODE{other}"),
    }
}

fn records(records: &[Record]) -> Vec<ResolveRecord> {
    let show = |record: &Record| ResolveRecord {
        name: record.name.to_string(),
        ttl: record.ttl,
        kind: record.record_type().to_string(),
        data: record.data.to_string(),
    };
    records.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_a_person_means_them() {
        let rows = [
            ("web", "web."),
            ("web.", "web."),
            ("web.shop", "web.shop.svc.internal."),
            ("Web.Svc.Internal", "web.svc.internal."),
            ("_http._tcp.web.shop", "_http._tcp.web.shop.svc.internal."),
            ("2.0.18.172.in-addr.arpa", "2.0.18.172.in-addr.arpa."),
            ("svc.internal", "svc.internal."),
            ("web.shop.", "web.shop."),
            ("nosvc.internal", "nosvc.internal.svc.internal."),
        ];
        for (text, expected) in rows {
            assert_eq!(absolute(text, "svc.internal").unwrap().to_string(), expected, "{text}");
        }
        assert!(absolute(&"a".repeat(64), "svc.internal").is_err());
    }
}
