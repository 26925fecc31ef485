//! The values of keys: found, checked, and broken ones noted.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use super::{
    super::{
        metadata::{Entry, Key, MAX_VALUE, Origin, Precedence, Value, Word, port_number},
        registrator,
    },
    MAX_PORTS, MAX_TAG, MAX_TAGS, NAME_EXPECTED, Reader, expected,
};
use crate::model::{Label, LabelError, Port, Problem, Proto, WhenNoneReady};

impl Reader<'_> {
    /// A value that was found, with its place; one that is too long is a problem and `Err`.
    pub(in crate::watch) fn text(&mut self, key: &Key) -> Option<Result<(Arc<str>, Entry), ()>> {
        let metadata = self.metadata;
        let entry = metadata.entries.get(key)?;
        match &entry.value {
            Value::Text(text) => Some(Ok((text.clone(), entry.clone()))),
            Value::TooLong(length) => {
                self.complain(entry, &format!("{length} octets"), format!("at most {MAX_VALUE} octets"));
                Some(Err(()))
            }
        }
    }

    /// A problem with an entry. `found` is only ever shown for labels, and so is anything made from it.
    fn problem(&self, entry: &Entry, found: &str, expected: impl Into<String>) -> Problem {
        let key: String = entry.key.chars().take(crate::model::MAX_QUOTED).flat_map(char::escape_debug).collect();
        match entry.origin {
            Origin::Environment => {
                let place = format!("{}, environment {key}", self.place);
                Problem::new(place, "a value that is not shown, as it is from an environment", expected)
            }
            Origin::Label | Origin::ServiceLabel => {
                Problem::new(format!("{}, label {key}", self.place), found, expected)
            }
        }
    }

    pub(in crate::watch) fn complain(&mut self, entry: &Entry, found: &str, expected: impl Into<String>) {
        self.note(self.problem(entry, found, expected));
    }

    /// Several ports ask for the same general key: what is wrong with it is said once.
    pub(in crate::watch) fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn label(&mut self, key: &Key) -> Option<Result<Label, ()>> {
        let (text, entry) = match self.text(key)? {
            Ok(found) => found,
            Err(()) => return Some(Err(())),
        };
        // An empty name is none, as for Registrator: Compose passes unset variables so.
        let passes_empty = match entry.origin {
            Origin::Label => false,
            Origin::ServiceLabel => self.options.compat.is_registrators(),
            Origin::Environment => true,
        };
        if passes_empty && text.is_empty() {
            return None;
        }
        match Label::parse(&text) {
            Ok(label) => Some(Ok(label)),
            Err(error) => {
                let fix = match (&error, key) {
                    // The error names a character of the value.
                    _ if entry.origin == Origin::Environment => NAME_EXPECTED.to_owned(),
                    (LabelError::Character(','), Key::Service) => {
                        "one name; several services are named by portolan.port.<n>.service".to_owned()
                    }
                    _ => expected(&error),
                };
                self.complain(&entry, &text, fix);
                Some(Err(()))
            }
        }
    }

    /// The name that a key gives, in the place of the derived one or beside it. One of them at most is there; what is wrong
    /// with a name that comes beside is a problem and nothing more.
    pub(super) fn name_of(&mut self, key: &Key) -> (Option<Result<Label, ()>>, Option<Label>) {
        let name = self.label(key);
        let is_variable = self.metadata.entries.get(key).is_some_and(|entry| entry.origin == Origin::Environment);
        // Where the operator puts variables before labels, they have a label's weight.
        let counts_as_label =
            self.options.compat.is_registrators() || self.options.precedence == Precedence::Environment;
        match is_variable && !counts_as_label {
            true => (None, name.and_then(Result::ok)),
            false => (name, None),
        }
    }

    /// Whether a label of ours says that the container is to be found, also if it is a one-off.
    pub(super) fn asks_to_be_found(&mut self) -> bool {
        let has = |key: &Key| self.metadata.entries.get(key).is_some_and(|entry| entry.origin == Origin::Label);
        let (named, decided) = (has(&Key::Service), has(&Key::Ignore));
        named || decided && !self.is_ignored()
    }

    /// The key that ignores the container.
    pub(super) fn ignored_by(&mut self) -> Option<Arc<str>> {
        let ignored = self.is_ignored();
        self.metadata.entries.get(&Key::Ignore).filter(|_| ignored).map(|entry| Arc::clone(&entry.key))
    }

    fn is_ignored(&mut self) -> bool {
        match self.text(&Key::Ignore) {
            None => false,
            Some(Err(())) => true,
            Some(Ok((text, entry))) if entry.origin == Origin::Label => {
                match text.trim().to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "" => true,
                    "false" | "0" | "no" => false,
                    _ => {
                        self.complain(&entry, &text, "'true' or 'false'; taken for 'true'");
                        true
                    }
                }
            }
            Some(Ok((text, _))) => !text.is_empty(),
        }
    }

    pub(super) fn main_port(&mut self) -> Option<u16> {
        let (text, entry) = self.text(&Key::MainPort)?.ok()?;
        let port = port_number(text.trim());
        if port.is_none() {
            self.complain(&entry, &text, "a container port, 1 to 65535");
        }
        port
    }

    pub(super) fn weight(&mut self) -> u16 {
        let Some(Ok((text, entry))) = self.text(&Key::Weight) else { return 1 };
        text.trim().parse().unwrap_or_else(|_| {
            self.complain(&entry, &text, "a number from 0 to 65535; taken for 1");
            1
        })
    }

    pub(super) fn when_none_ready(&mut self) -> Option<WhenNoneReady> {
        let (text, entry) = self.text(&Key::WhenNoneReady)?.ok()?;
        match WhenNoneReady::parse(&text) {
            Ok(policy) => Some(policy),
            Err(expected) => {
                self.complain(&entry, &text, format!("{expected}; until then the operator's --when-none-ready"));
                None
            }
        }
    }

    /// All ports of the container, at most [`MAX_PORTS`]: `main` (what `portolan.port` names) before those that others
    /// reach, these before those that other labels name, then by number.
    pub(super) fn ports(
        &mut self,
        exposed: &BTreeSet<(u16, Proto)>,
        published: &BTreeSet<(u16, Proto)>,
        main: Option<u16>,
    ) -> BTreeSet<(u16, Proto)> {
        let mut named: BTreeSet<u16> = main.into_iter().collect();
        named.extend(self.metadata.entries.keys().filter_map(|key| match key {
            Key::Of(ports, Word::Service | Word::Name) => ports.single(),
            _ => None,
        }));
        let labelled = named.clone();
        // Registrator knows only what Docker says.
        named.retain(|port| {
            !self.options.compat.is_registrators()
                && !exposed.iter().any(|(exposed, _)| exposed == port)
                && self.ignores(*port, Proto::Tcp).is_none()
        });
        let mut all: Vec<(u16, Proto)> =
            named.iter().map(|port| (*port, Proto::Tcp)).chain(exposed.iter().copied()).collect();
        all.sort_by_key(|port| {
            let rank = (main == Some(port.0), published.contains(port), labelled.contains(&port.0));
            (Reverse(rank), *port)
        });
        if all.len() > MAX_PORTS {
            let found = format!("{} ports", all.len());
            let fix = format!("at most {MAX_PORTS}; the rest is left out, published ones and those of labels last");
            self.problems.push(Problem::new(self.place, &found, fix));
        }
        all.into_iter().take(MAX_PORTS).collect()
    }

    /// Whether something of that kind is said of single ports where Registrator's rules hold.
    pub(super) fn has_port_words(&self, word: &Word) -> bool {
        let says = |key: &Key| matches!(key, Key::Of(_, held) if held == word);
        self.options.compat.is_registrators() && self.metadata.entries.keys().any(says)
    }

    /// The ports that nothing ignores, and a key that ignores one.
    pub(super) fn without_ignored(
        &mut self,
        mut ports: BTreeSet<(u16, Proto)>,
    ) -> (BTreeSet<(u16, Proto)>, Option<Arc<str>>) {
        let mut ignored = None;
        ports.retain(|(port, proto)| match self.ignores(*port, *proto) {
            Some(key) => {
                ignored = Some(key);
                false
            }
            None => true,
        });
        (ports, ignored)
    }

    /// The key that ignores a port: its own, else with Registrator's rules the general one.
    fn ignores(&mut self, port: u16, proto: Proto) -> Option<Arc<str>> {
        match self.text(&self.metadata.of(port, proto, Word::Ignore)) {
            Some(Ok((text, entry))) => (!text.is_empty()).then_some(entry.key),
            Some(Err(())) => Some("SERVICE_<n>_IGNORE".into()),
            None if self.options.compat.is_registrators() => self.ignored_by(),
            None => None,
        }
    }

    /// The tags of a service: those of its ports, the general ones unless every port has its own, and the operator's.
    pub(super) fn tags(&mut self, ports: &[Port]) -> Box<[Arc<str>]> {
        let own = |port: &Port| self.metadata.of(port.port, port.proto, Word::Tags);
        let has = |key: &Key| self.metadata.entries.contains_key(key);
        let mut keys: Vec<Key> = ports.iter().map(own).filter(has).collect();
        if ports.is_empty() || ports.iter().any(|port| !has(&own(port))) {
            keys.insert(0, Key::Tags);
        }
        keys.dedup();
        let mut tags: Vec<Arc<str>> = Vec::new();
        for key in keys {
            let Some(Ok((text, entry))) = self.text(&key) else { continue };
            for tag in split_list(&text) {
                if tag.len() > MAX_TAG {
                    self.complain(&entry, &tag, format!("tags of at most {MAX_TAG} octets"));
                } else if tags.iter().any(|held| **held == *tag) {
                } else if tags.len() == MAX_TAGS {
                    self.complain(&entry, "more tags", format!("at most {MAX_TAGS} tags"));
                    break;
                } else {
                    tags.push(tag.into());
                }
            }
        }
        let udp = || ports.iter().any(|port| port.proto == Proto::Udp).then(|| Arc::from(registrator::UDP));
        let compat = (self.options.compat.is_registrators()).then(udp).flatten();
        for tag in self.options.tags.iter().cloned().chain(compat) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags.into()
    }
}

/// Splits at commas that no backslash precedes; empty items and spaces around them are dropped.
fn split_list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&',') => {
                characters.next();
                if let Some(item) = items.last_mut() {
                    item.push(',');
                }
            }
            ',' => items.push(String::new()),
            other => {
                if let Some(item) = items.last_mut() {
                    item.push(other);
                }
            }
        }
    }
    items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}
