//! Which labels and variables are held, and nothing else: a foreign secret in an environment cannot leak, because it
//! never gets in. What they mean is said in [`labels`](super::labels).

use std::{collections::BTreeMap, sync::Arc};

use super::claim::digest;

use super::check::{Field, MAX_CHECKS};

/// Longest value that is read, in octets. 32 tags of 120 octets fit; a name needs 63.
pub const MAX_VALUE: usize = 4 << 10;
/// Keys held for one container: three for each of 64 ports, eight for each check, and those that exist once or are
/// mistyped.
pub const MAX_KEYS: usize = 3 * super::labels::MAX_PORTS + 8 * MAX_CHECKS + 32;

/// Labels of one container that rules may ask for. An image and Compose give some dozen.
const MAX_DIGESTS: usize = 512;

pub(super) const COMPOSE_PROJECT: &str = "com.docker.compose.project";
pub(super) const COMPOSE_DIRECTORY: &str = "com.docker.compose.project.working_dir";
pub(super) const COMPOSE_SERVICE: &str = "com.docker.compose.service";
pub(super) const COMPOSE_ONEOFF: &str = "com.docker.compose.oneoff";
pub(super) const COMPOSE_HOOK: &str = "com.docker.compose.hook";
pub(super) const SWARM_SERVICE: &str = "com.docker.swarm.service.name";
pub(super) const SWARM_STACK: &str = "com.docker.stack.namespace";
pub(super) const ENGINE_KEYS: [&str; 7] =
    [COMPOSE_PROJECT, COMPOSE_DIRECTORY, COMPOSE_SERVICE, COMPOSE_ONEOFF, COMPOSE_HOOK, SWARM_SERVICE, SWARM_STACK];

/// What a recognised key is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Service,
    Namespace,
    MainPort,
    Tags,
    Weight,
    Ignore,
    WhenNoneReady,
    /// Of the check of one port, or of the general one.
    Check(Option<u16>, Field),
    PortService(u16),
    PortName(u16),
    PortTags(u16),
    Engine(&'static str),
    /// Begins with `portolan.` and means nothing.
    Unknown(Arc<str>),
}

/// Where a value was found; the lower one beats the higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Label,
    ServiceLabel,
    Environment,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Arc<str>),
    TooLong(usize),
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) key: Arc<str>,
    pub(super) value: Value,
}

/// What is kept of a container's labels and environment: recognised keys, values within [`MAX_VALUE`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub(super) entries: BTreeMap<Key, Entry>,
    /// Keys beyond [`MAX_KEYS`].
    pub(super) dropped: usize,
    /// All labels as digests, for rules that ask for one: sorted, at most [`MAX_DIGESTS`].
    labels: Box<[u64]>,
}

/// Shows keys only: values may come from an environment.
impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.entries.values().map(|entry| &entry.key)).finish()
    }
}

impl Metadata {
    /// Takes what concerns us out of labels and of `KEY=value` environment entries, and drops the rest.
    pub fn gather<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        environment: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut metadata = Self::default();
        // Sorted, because the engine's labels have no order and two spellings of one key must not take turns.
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        for (key, value) in &labels {
            if let Some(known) = label_key(key) {
                let origin = if key.starts_with("SERVICE_") { Origin::ServiceLabel } else { Origin::Label };
                metadata.keep(known, origin, key, value);
            }
        }
        metadata.labels = labels.iter().take(MAX_DIGESTS).map(|(key, value)| digest(key, value)).collect();
        metadata.labels.sort_unstable();
        for variable in environment {
            let Some((key, value)) = variable.split_once('=') else { continue };
            if let Some(known) = service_key(key) {
                metadata.keep(known, Origin::Environment, key, value);
            }
        }
        metadata
    }

    /// Whether there is a label with this [`digest`].
    pub(super) fn has_label(&self, digest: u64) -> bool {
        self.labels.binary_search(&digest).is_ok()
    }

    fn keep(&mut self, known: Key, origin: Origin, key: &str, value: &str) {
        if self.entries.get(&known).is_some_and(|held| held.origin < origin) {
            return;
        }
        if self.entries.len() >= MAX_KEYS && !self.entries.contains_key(&known) {
            self.dropped += 1;
            return;
        }
        let value = if value.len() > MAX_VALUE { Value::TooLong(value.len()) } else { Value::Text(value.into()) };
        self.entries.insert(known, Entry { origin, key: key.into(), value });
    }

    /// A label of Compose or Swarm; one that is too long is as good as empty.
    pub(super) fn engine(&self, key: &'static str) -> Option<&str> {
        match &self.entries.get(&Key::Engine(key))?.value {
            Value::Text(text) => Some(text),
            Value::TooLong(_) => Some(""),
        }
    }
}

pub(super) fn label_key(key: &str) -> Option<Key> {
    if let Some(engine) = ENGINE_KEYS.iter().find(|known| **known == key) {
        return Some(Key::Engine(engine));
    }
    let Some(ours) = key.strip_prefix("portolan.") else { return service_key(key) };
    let known = match ours {
        "service" => Some(Key::Service),
        "namespace" => Some(Key::Namespace),
        "port" => Some(Key::MainPort),
        "tags" => Some(Key::Tags),
        "weight" => Some(Key::Weight),
        "ignore" => Some(Key::Ignore),
        "when-none-ready" => Some(Key::WhenNoneReady),
        other if other.starts_with("check.") => Field::of_label(&other[6..]).map(|field| Key::Check(None, field)),
        other => other.strip_prefix("port.").and_then(|rest| rest.split_once('.')).and_then(|(port, field)| {
            let port = port_number(port)?;
            match field {
                "name" => Some(Key::PortName(port)),
                "service" => Some(Key::PortService(port)),
                _ => field
                    .strip_prefix("check.")
                    .and_then(Field::of_label)
                    .filter(|field| *field != Field::Port)
                    .map(|field| Key::Check(Some(port), field)),
            }
        }),
    };
    Some(known.unwrap_or_else(|| Key::Unknown(key.chars().take(MAX_VALUE).collect::<String>().into())))
}

pub(super) fn service_key(key: &str) -> Option<Key> {
    let rest = key.strip_prefix("SERVICE_")?;
    let is = |text: &str, word: &str| text.eq_ignore_ascii_case(word);
    match rest {
        _ if is(rest, "NAME") => return Some(Key::Service),
        _ if is(rest, "TAGS") => return Some(Key::Tags),
        _ if is(rest, "IGNORE") => return Some(Key::Ignore),
        _ => {}
    }
    if let Some(field) = Field::of_service(rest) {
        return Some(Key::Check(None, field));
    }
    let (port, field) = rest.split_once('_')?;
    let port = port_number(port)?;
    match field {
        _ if is(field, "NAME") => Some(Key::PortService(port)),
        _ if is(field, "TAGS") => Some(Key::PortTags(port)),
        _ => Field::of_service(field).map(|field| Key::Check(Some(port), field)),
    }
}

/// A port number as people write it: digits only, 1 to 65535.
pub(super) fn port_number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port != 0)
}
