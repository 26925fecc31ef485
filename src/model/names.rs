//! What things are called: labels, hosts, containers.

use std::{fmt, sync::Arc};

use serde::Serialize;

use super::MAX_LABEL;

/// One DNS label of our zone: a service, a namespace or a part of a tag name.
///
/// Lower case, 1 to 63 octets out of `a-z 0-9 - _`. `_` is kept because Compose and Swarm names have it and
/// resolvers carry it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

/// Why a text is no [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing is left of it.
    #[error("a name must not be empty")]
    Empty,
    /// More than 63 octets.
    #[error("a name of {0} octets is longer than a DNS label (63)")]
    TooLong(usize),
    /// A character that no label of our zone holds.
    #[error("a name holds letters, digits, '-' and '_', not {0:?}")]
    Character(char),
}

impl Label {
    /// Takes a name as people write it: letters are lower-cased and `.` becomes `-`; the rest must be a label.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if text.len() > MAX_LABEL {
            return Err(LabelError::TooLong(text.len()));
        }
        let mut label = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                'a'..='z' | '0'..='9' | '-' | '_' => label.push(character),
                'A'..='Z' => label.push(character.to_ascii_lowercase()),
                '.' => label.push('-'),
                other => return Err(LabelError::Character(other)),
            }
        }
        Ok(Self(label.into()))
    }

    /// [`Label::global`] as text.
    pub const GLOBAL: &str = "global";

    /// The namespace of names that were given explicitly without one.
    pub fn global() -> Self {
        static GLOBAL: std::sync::LazyLock<Label> = std::sync::LazyLock::new(|| Label(Label::GLOBAL.into()));
        GLOBAL.clone()
    }

    /// The namespace of containers without any, of host processes and of strangers.
    pub fn default_namespace() -> Self {
        static DEFAULT: std::sync::LazyLock<Label> = std::sync::LazyLock::new(|| Label("default".into()));
        DEFAULT.clone()
    }

    /// How many hold this copy of it.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One machine with one Docker engine and one agent; stable, kept in the state directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HostId(Arc<str>);

/// A text that is no [`HostId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a host id has 1 to 63 characters out of a-z, A-Z, 0-9, '-', '_' and '.', not {0:?}")]
pub struct HostIdError(pub String);

impl HostId {
    /// 1 to 63 characters out of letters, digits, `-`, `_` and `.`; it is one element of an etcd key, so no `/`.
    pub fn parse(text: &str) -> Result<Self, HostIdError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > MAX_LABEL || !text.chars().all(fits) {
            return Err(HostIdError(text.chars().take(80).collect()));
        }
        Ok(Self(text.into()))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What stands in place of a host where an operator registered a service; no host may be called so.
pub const EXTERNAL: &str = "external";

/// [`EXTERNAL`] as an id.
pub fn external_host() -> &'static HostId {
    static HOST: std::sync::LazyLock<HostId> = std::sync::LazyLock::new(|| HostId(EXTERNAL.into()));
    &HOST
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The first 12 hexadecimal digits of a container's id: what `docker ps` shows, what our keys and names hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId([u8; 12]);

impl ShortId {
    /// Takes the first 12 characters of a container id; `None` unless they are lower-case hexadecimal digits.
    pub fn parse(id: &str) -> Option<Self> {
        let digits: [u8; 12] = id.as_bytes().get(..12)?.try_into().ok()?;
        digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    /// The 12 digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why no container may have the name of a service or an alias; `None`: it may.
pub fn reserved(service: &Label, namespace: &Label) -> Option<&'static str> {
    let special = |label: &Label| matches!(label.as_str(), "_tcp" | "_udp" | "_sctp");
    if special(service) || special(namespace) {
        return Some("another name: it begins the names of ports (RFC 2782)");
    }
    match service.as_str() {
        "all" => Some("another name: `all.` begins the names of all instances"),
        "localhost" => Some("another name: it is everybody's own host (RFC 6761)"),
        "wpad" | "isatap" => Some("another name: programs look it up by themselves and trust what they find"),
        _ => None,
    }
}

/// Why programs do not find a service of this name, though DNS answers it; `None`: they do.
///
/// It is answered all the same: harm is done to itself alone.
pub fn unfindable(service: &Label) -> Option<&'static str> {
    let text = service.as_str();
    let digits = text.strip_prefix("0x").filter(|rest| !rest.is_empty());
    let is_number = match digits {
        Some(digits) => digits.bytes().all(|octet| octet.is_ascii_hexdigit()),
        None => text.bytes().all(|octet| octet.is_ascii_digit()),
    };
    if is_number {
        return Some("another name: programs take a number for an address (inet_aton) and never ask for it");
    }
    let is_outside = text.starts_with('-') || text.ends_with('-');
    is_outside.then_some("another name: programs refuse host names that begin or end with '-' (RFC 1123 section 2.1)")
}

/// FNV-1a, 64 bits: the same for one text in every process and version, where nobody gains by making two texts equal.
pub fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
