//! Names that a container has beside those of its services: what Docker's own DNS calls it.
//!
//! Every container has its name and the 12 digits of its id. Further ones are its host name, the aliases that it was given
//! on its networks, and Swarm's spellings of its service. They are names, not labels: an alias may have dots.

use std::{borrow::Cow, sync::Arc};

use super::MAX_LABEL;

/// Most aliases of one container, beside its name and its id.
pub const MAX_ALIASES: usize = 32;
/// Longest alias in octets: a DNS name without its final dot (RFC 1035 section 2.3.4).
pub const MAX_ALIAS: usize = 253;

/// A foreign text as an alias: in lower case; `None` for what no question can ask for.
///
/// Elements of 1 to 63 octets out of `a-z 0-9 - _`, at most [`MAX_ALIAS`] octets with the dots between them.
pub fn alias(text: &str) -> Option<Cow<'_, str>> {
    let fits = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    if text.len() > MAX_ALIAS || !text.split('.').all(fits) {
        return None;
    }
    Some(match text.bytes().any(|octet| octet.is_ascii_uppercase()) {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    })
}

/// `--aliases`: which of them are names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aliases {
    /// None.
    Off,
    /// Those without dots.
    Plain,
    /// All.
    #[default]
    All,
}

/// A text that is none of [`Aliases`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("off, plain (those without dots) or all, not {0:?}")]
pub struct AliasesError(String);

impl Aliases {
    /// Whether this one is a name.
    pub fn has(self, alias: &str) -> bool {
        match self {
            Self::Off => false,
            Self::Plain => !alias.contains('.'),
            Self::All => true,
        }
    }
}

impl std::str::FromStr for Aliases {
    type Err = AliasesError;

    fn from_str(text: &str) -> Result<Self, AliasesError> {
        match text {
            "off" => Ok(Self::Off),
            "plain" => Ok(Self::Plain),
            "all" => Ok(Self::All),
            _ => Err(AliasesError(text.chars().take(80).collect())),
        }
    }
}

impl std::fmt::Display for Aliases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Plain => "plain",
            Self::All => "all",
        })
    }
}

/// Sorted, once each, at most [`MAX_ALIASES`].
pub fn in_order(mut aliases: Vec<Arc<str>>) -> Box<[Arc<str>]> {
    aliases.sort_unstable();
    aliases.dedup();
    aliases.truncate(MAX_ALIASES);
    aliases.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_what_a_question_can_ask_for() {
        let long = [&*"a".repeat(63); 4].join(".");
        for (text, expected) in [
            ("db", Some("db")),
            ("My_DB.Example.com", Some("my_db.example.com")),
            ("", None),
            (".", None),
            ("db.", None),
            ("a..b", None),
            ("ä", None),
            ("a b", None),
            (&*"a".repeat(63), Some(&*"a".repeat(63))),
            (&*"a".repeat(64), None),
            (&long[..253], Some(&long[..253])),
            (&long, None),
        ] {
            assert_eq!(alias(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        for aliases in [Aliases::Off, Aliases::Plain, Aliases::All] {
            assert_eq!(aliases.to_string().parse(), Ok(aliases));
        }
        assert!("on".parse::<Aliases>().is_err());
        assert!(Aliases::Plain.has("db") && !Aliases::Plain.has("db.example.com") && !Aliases::Off.has("db"));
    }
}
