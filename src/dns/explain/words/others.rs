//! What becomes of a name that is not ours, and why.

use std::net::SocketAddr;

use crate::dns::{
    answer::{Settings, Snapshot, may_forward},
    forward::Course,
    name::{self, Named, Subject},
    reach::Viewpoint,
    source::Source,
    special::{self, Finding, Special},
};

/// What a special name is.
pub(super) fn special(found: Finding) -> String {
    let source = found.source;
    match found.special {
        Special::Loopback => format!("this machine itself, for every asker: always 127.0.0.1 and ::1 ({source})"),
        Special::Nowhere => format!("a name that nothing in DNS has: denied here and never forwarded ({source})"),
        Special::Site => format!("a name of the site: only upstreams that may know it are asked ({source})"),
    }
}

/// What a question about a name of others gets, in a sentence; `None`: there is nothing to say, as it is ours. `text` is the
/// folded name, `is_known` says that a service near the asker has it, `leaves` that the answer is not ours to give.
pub fn course(
    snapshot: &Snapshot<'_>,
    source: &Source,
    text: &str,
    is_known: bool,
    leaves: bool,
    course: impl FnOnce() -> Course,
) -> Option<String> {
    let found = special::find_text(text);
    let special = found.map(|found| found.special);
    match name::classify(text, &snapshot.settings.apex) {
        Subject::Bare(_) if is_known || special == Some(Special::Loopback) => None,
        Subject::Bare(_) | Subject::Service(Named { namespace: None, .. }) if *source == Source::Peer && !is_known => Some(
            "REFUSED, so that the asker's resolver tries its next server: neither default nor global has it, and only the \
             asker's own host knows whether another namespace does"
                .to_owned(),
        ),
        Subject::Outside | Subject::Reverse(_) | Subject::BelowReverse(_) | Subject::Bare(_) if leaves => {
            Some(refusal(snapshot, source).unwrap_or_else(|| asked(text, found, course())))
        }
        Subject::Bare(_) if special == Some(Special::Nowhere) => found.map(self::special),
        Subject::Bare(label) => Some(format!(
            "denied here: no service near the asker has it, and a single label leaves only if `--upstream {label}=ADDR` or \
             `--single-labels forward` says so; its DS, DNSKEY, NS and SOA are forwarded"
        )),
        _ => None,
    }
}

/// Why names of others are not asked for on behalf of this asker.
fn refusal(snapshot: &Snapshot<'_>, source: &Source) -> Option<String> {
    let Settings { forwarding, .. } = snapshot.settings;
    let why = match source {
        _ if may_forward(snapshot, source) => return None,
        _ if !forwarding => "no name is forwarded (--upstream none)",
        Source::Container(_) if Viewpoint::new(snapshot.local, &[], source).is_confined() => {
            "the asker has only internal networks, and a question that leaves would be a way out"
        }
        _ => "names of others are asked for this host and its containers only",
    };
    Some(format!("REFUSED: {why}"))
}

/// What the upstreams have to do with it.
fn asked(text: &str, special: Option<Finding>, course: Course) -> String {
    let last = |count: usize| {
        let labels: Vec<&str> = text.split('.').collect();
        labels[labels.len().saturating_sub(count)..].join(".")
    };
    match (course, special) {
        (Course::Asked(upstreams), _) => format!("asked of {}", list(&upstreams)),
        (Course::Denied(upstreams), Some(Finding { labels, .. })) => format!(
            "denied here: it is a name of the site, and none of the upstreams {} has a private, shared, loopback or link-local \
             address; `--upstream {}=ADDR` or `--site-names forward` has it asked",
            list(&upstreams),
            last(labels)
        ),
        (Course::Denied(_), None) => "denied here".to_owned(),
        (Course::NoUpstream, _) => "REFUSED: there is no upstream to ask".to_owned(),
        (Course::Stays, _) => "denied here: it never leaves".to_owned(),
    }
}

fn list(upstreams: &[SocketAddr]) -> String {
    upstreams.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
