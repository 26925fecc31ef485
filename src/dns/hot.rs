//! The hot path: ordinary questions for our own names, answered without an allocation, a lock or a tree walk.
//!
//! ```text
//! packet ─ question.rs ─► Question ─┐
//! source ─ view.rs ─────► View ─────┼─► one look-up in Zone ─► Memo ─ memo.rs ─► Encoded ─ write.rs ─► reply
//! ```
//!
//! What a container may be told of a service is worked out once, by the same functions that the complete path
//! (`answer.rs`) calls, and kept beside the service as the numbers that records consist of. From then on a question is
//! parsed in place, found by one look-up, and written out: id, flags, letter case, EDNS and the order of the records are
//! the question's own. When a service changes, its successor begins with an empty `Memo`, and what was encoded goes
//! with the last zone that holds it; nothing is ever invalidated.
//!
//! Whoever asks in an unusual way is handed to the complete path: [`respond`] gives `None` for whatever it does not know for
//! certain. Where it answers, its reply is octet for octet that of the complete path, given the same chance; a property
//! test holds both against each other.

use std::net::IpAddr;

use rand::Rng;

use super::{
    answer::Settings,
    name::{ALL, HOST},
    source::Source,
    zone::{KeyText, Service, Zone},
};
use crate::model::{Aliases, Label};

mod memo;
mod question;
mod trail;
mod view;
mod write;

pub(in crate::dns) use memo::Memo;
pub use trail::{Place, Trails};
pub use view::{Ground, View};

use memo::{Encoded, Slot};
use question::{Question, Shape};
use trail::Trail;
use write::{Denial, Writer};

/// The kinds of records that the hot path knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// What one worker reuses from question to question.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) order: super::answer::Order,
    /// Where the last answer lay.
    trail: Trail,
    /// It holds a part of the addresses that there are.
    is_part: bool,
}

impl Scratch {
    /// Whether the last answer holds a part of the addresses that there are.
    #[inline]
    pub fn is_part(&self) -> bool {
        self.is_part
    }

    /// Remembers where the last answer lay.
    #[inline]
    pub fn note(&self, trails: &mut Trails, place: Place) {
        trails.note(place, self.trail);
    }
}

/// Answers one packet of the asker that `view` describes: the octets of `reply` that were written. `None`: nothing was
/// decided, ask the complete path.
pub fn respond(
    ground: &Ground,
    zone: &Zone,
    view: &View,
    packet: &[u8],
    rng: &mut impl Rng,
    scratch: &mut Scratch,
    reply: &mut [u8],
) -> Option<usize> {
    (scratch.trail, scratch.is_part) = (Trail::default(), false);
    let question = Question::parse(packet, &ground.apex)?;
    let writer = Writer::new(packet, &question, view.forwards, reply)?;
    let mut near = KeyText::new();
    let (key, service) = match question.shape {
        Shape::Full => (question.key(), zone.find(question.key(), |met| scratch.trail.pass(met))),
        Shape::Bare | Shape::Near => {
            // The asker's own namespace, else `global`: never both.
            let mut within = |namespace: &[u8], near: &mut KeyText| {
                *near = KeyText::new();
                let is_name = near.push(question.first()) && near.push(namespace);
                is_name.then(|| zone.find(near, |met| scratch.trail.pass(met))).flatten()
            };
            let mut service = within(&view.namespace, &mut near);
            if service.is_none() && *view.namespace != *Label::GLOBAL.as_bytes() {
                if may_be_another(ground, zone, view, &question) {
                    return None;
                }
                if zone.is_lost(&near) {
                    // Another host's containers may know what we do not.
                    let may_deny = view.source != Source::Peer;
                    let denials = ground.denials();
                    return may_deny
                        .then(|| writer.deny(Denial::NoData, &question, &denials, zone.revision()))
                        .flatten();
                }
                service = within(Label::GLOBAL.as_bytes(), &mut near);
            }
            (&*near, service)
        }
    };
    let Some(service) = service else {
        if has_second_reading(&question) {
            return None;
        }
        let denial = denial(zone, &question, ground, view)?;
        return writer.deny(denial, &question, &ground.denials(), zone.revision());
    };
    let memo = service.memo.read();
    if let Some(encoded) = memo.find(ground, view, question.kind, &mut scratch.trail) {
        return write(encoded, ground, zone, view.address, &question, key, rng, scratch, writer);
    }
    let encoded = encode(service, ground, view, question.kind);
    write(&encoded, ground, zone, view.address, &question, key, rng, scratch, writer)
}

/// Whether a name that is no service of the asker's namespace may be something else than one of `global`: an alias there, or
/// one of which too little is known. The complete path tells.
#[inline]
fn may_be_another(ground: &Ground, zone: &Zone, view: &View, question: &Question<'_>) -> bool {
    !zone.is_complete()
        || (ground.settings.aliases != Aliases::Off && zone.may_be_alias(&view.namespace, question.first()))
}

/// Whether the labels of no service may mean something else, which the complete path knows: see [`second`](super::name::second).
fn has_second_reading(question: &Question<'_>) -> bool {
    let mut labels = question.own_labels();
    let (first, second) = (labels.next().unwrap_or_default(), labels.next());
    let is_id = |label: &[u8]| label.len() == 12 && label.iter().all(u8::is_ascii_hexdigit);
    match question.shape {
        Shape::Full => first == ALL.as_bytes() || second == Some(HOST.as_bytes()) || is_id(first),
        Shape::Near => first == HOST.as_bytes(),
        Shape::Bare => false,
    }
}

/// Whether the packet asks in the usual way for a name that is certainly somebody else's, and upstreams may be asked on
/// behalf of this asker: what they said of it before may be given at once.
pub fn is_for_others(ground: &Ground, zone: &Zone, view: &View, packet: &[u8]) -> bool {
    view.forwards
        && question::is_foreign(packet, &ground.apex).is_some_and(|name| {
            let dotted = || question::dotted(name);
            !(view.dotted && zone.may_be_dotted_alias(&view.namespace, dotted))
        })
}

/// Works out what this asker may be told of a service, and keeps it.
#[cold]
fn encode(service: &Service, ground: &Ground, view: &View, kind: Kind) -> std::sync::Arc<Encoded> {
    let encoded = Encoded::of(service.members(), ground, view, kind);
    service.memo.keep(ground, Slot::of(service.members(), ground, view, kind), encoded)
}

/// How the absence of a service is stated; `None` where it cannot be, yet or here.
fn denial(zone: &Zone, question: &Question<'_>, ground: &Ground, view: &View) -> Option<Denial> {
    // Another host's containers may know what we do not.
    let is_theirs = view.source == Source::Peer && question.shape != Shape::Full;
    if !zone.is_complete() || is_theirs {
        return None;
    }
    let first = question.first();
    if question.shape == Shape::Bare && ground.settings.singles.leaves(first) {
        return None;
    }
    let stands_above = match question.shape {
        Shape::Full => false,
        Shape::Near => std::str::from_utf8(first).is_ok_and(|label| zone.has_namespace(label)),
        // The last label of the apex stands above us; `deny` leaves that one to the complete path.
        Shape::Bare => false,
    };
    Some(if stands_above { Denial::NoData } else { Denial::NoName })
}

#[expect(clippy::too_many_arguments, reason = "one step of `respond`, called from two places in it")]
#[inline]
fn write(
    encoded: &Encoded,
    ground: &Ground,
    zone: &Zone,
    asker: IpAddr,
    question: &Question<'_>,
    key: &[u8],
    rng: &mut impl Rng,
    scratch: &mut Scratch,
    writer: Writer<'_>,
) -> Option<usize> {
    let ttl = ground.settings.ttl;
    match encoded {
        Encoded::Addresses(addresses) => {
            let (count, most) = (addresses.len(), writer.most(addresses, asker));
            let order = match count <= most {
                true => scratch.order.draw(count, addresses.weights(), rng),
                false => {
                    scratch.is_part = true;
                    let octets = |place| addresses.get(place);
                    scratch.order.draw_some(count, addresses.weights(), most, asker, octets, rng)
                }
            };
            writer.addresses(addresses, order, ttl)
        }
        Encoded::Targets(targets) => {
            let order = scratch.order.shuffle(targets.len(), rng);
            writer.targets(targets, order, ttl, key, &ground.apex, question)
        }
        // The other family has addresses, so this one may be denied at any time; else only by who knows everything.
        Encoded::NoData { any } if *any || zone.is_complete() => {
            writer.deny(Denial::NoData, question, &ground.denials(), zone.revision())
        }
        Encoded::NoData { .. } | Encoded::Unknown => None,
    }
}

/// What negative answers hold besides the revision.
pub(super) struct Denials<'g> {
    pub(super) apex: &'g [u8],
    pub(super) ttl: u32,
}

impl Ground {
    fn denials(&self) -> Denials<'_> {
        let Settings { negative_ttl, .. } = *self.settings;
        Denials { apex: &self.apex, ttl: negative_ttl }
    }
}

#[cfg(test)]
mod tests;
