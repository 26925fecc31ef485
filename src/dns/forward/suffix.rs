//! Domains with upstreams of their own: `corp.example=10.0.0.2`. Pure.

use std::{fmt, str::FromStr};

use crate::model::MAX_LABEL;

/// The longest domain as text: a probe for loops below it, of 48 octets more, must be a name (RFC 1035 section 2.3.4:
/// 255 octets on the wire).
const MAX_TEXT: usize = 200;

/// A domain: lower case, at least one label, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suffix {
    text: String,
}

/// Why a text is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuffixError {
    /// Nothing, or the root alone, for which upstreams are given without a domain.
    #[error("which domain? write one such as corp.example=10.0.0.2, or only the address for all other names")]
    Empty,
    /// An element that is no label.
    #[error("{0:?} is no label of a domain; write one such as corp.example=10.0.0.2")]
    Label(String),
    /// Longer than a name may be.
    #[error("longer than {MAX_TEXT} characters; names below it would not fit")]
    TooLong,
}

impl FromStr for Suffix {
    type Err = SuffixError;

    fn from_str(text: &str) -> Result<Self, SuffixError> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if text.is_empty() {
            return Err(SuffixError::Empty);
        }
        if text.len() > MAX_TEXT {
            return Err(SuffixError::TooLong);
        }
        let fits = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if let Some(label) = text.split('.').find(|label| !fits(label)) {
            return Err(SuffixError::Label(label.to_owned()));
        }
        Ok(Self { text })
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Suffix {
    /// Whether a domain, lower case and without the final dot, is this one or lies below it.
    pub fn covers(&self, domain: &str) -> bool {
        domain.strip_suffix(self.text.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a name, given as its labels from last to first, is this domain or lies below it.
    pub(super) fn covers_labels<'a>(&self, mut from_the_right: impl Iterator<Item = &'a [u8]>) -> bool {
        self.text
            .rsplit('.')
            .all(|label| from_the_right.next().is_some_and(|other| other.eq_ignore_ascii_case(label.as_bytes())))
    }

    /// How exact it is: of two that cover a name, the one with more labels.
    pub(super) fn labels(&self) -> usize {
        self.text.split('.').count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suffix(text: &str) -> Suffix {
        text.parse().unwrap()
    }

    #[test]
    fn a_domain_covers_itself_and_what_is_below_label_by_label() {
        for (domain, name, expected) in [
            ("corp.example", "corp.example", true),
            ("Corp.Example.", "www.corp.example", true),
            ("corp.example", "xcorp.example", false),
            ("corp.example", "example", false),
            ("example", "a.b.example", true),
            ("10.in-addr.arpa", "1.0.0.10.in-addr.arpa", true),
            ("10.in-addr.arpa", "1.0.0.110.in-addr.arpa", false),
        ] {
            assert_eq!(suffix(domain).covers(name), expected, "{domain} and {name}");
            let upper = name.to_uppercase();
            let labels = upper.rsplit('.').map(str::as_bytes);
            assert_eq!(suffix(domain).covers_labels(labels), expected, "{domain} and {upper}");
        }
    }

    #[test]
    fn what_is_no_domain_is_told_why() {
        for (text, expected) in [
            ("", SuffixError::Empty),
            (".", SuffixError::Empty),
            ("a..b", SuffixError::Label(String::new())),
            ("a b", SuffixError::Label("a b".into())),
            (&["a"; 101].join("."), SuffixError::TooLong),
        ] {
            assert_eq!(text.parse::<Suffix>(), Err(expected), "{text:?}");
        }
    }
}
