//! Who may publish which names: the operator's rules for global names, and the names that nobody may take.
//!
//! A name that was given explicitly lands in `global`, where every asker finds it. So the operator may say who may have
//! it: a [`Rule`] names it and what the container must be. A global name that no rule is about is free; one that some
//! rules are about belongs to the containers that one of them fits. A refused name is a problem and never an answer.
//!
//! Rules hold for this host's own containers. Other hosts' records are what their agents let pass; etcd's roles bind each
//! agent to its own host id.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
};

use super::metadata::Metadata;
use crate::model::{Label, reserved};

/// Most conditions of a rule: more are another rule.
const MAX_CONDITIONS: usize = 16;

/// Who may have a global name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    text: String,
    name: Pattern,
    namespaces: Vec<Pattern>,
    images: Vec<Pattern>,
    labels: Vec<u64>,
}

/// A text that is no [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; write NAME and at least one of namespace=PROJECT, image=IMAGE and label=KEY=VALUE, such as `db image=postgres:*`"
)]
pub struct RuleError(String);

/// A text in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(String);

impl Pattern {
    fn fits(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut left) = text.strip_prefix(first) else { return false };
        // Each piece at its first place leaves most for the next; the last one has to end the text.
        let mut pieces: Vec<&str> = rest.split('*').collect();
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            let Some(at) = left.find(piece) else { return false };
            left = &left[at + piece.len()..];
        }
        left.ends_with(last)
    }
}

/// What stands for a label in [`Metadata`], which holds no foreign one itself.
pub(super) fn digest(key: &str, value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key.as_bytes());
    // No octet of a text.
    hasher.write_u8(0xff);
    hasher.write(value.as_bytes());
    hasher.finish()
}

/// A container that wants a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant<'a> {
    /// Its project, its stack or `default`.
    pub(super) namespace: &'a Label,
    /// As it was started.
    pub(super) image: &'a str,
    pub(super) metadata: &'a Metadata,
}

impl Rule {
    /// Takes `db namespace=shop image=postgres:* label=team=data`: all kinds of condition must hold, and one of several of
    /// a kind.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut words = text.split_whitespace();
        let wrong = |what: String| Err(RuleError(what));
        let Some(name) = words.next().filter(|name| !name.contains('=')) else {
            return wrong("the name comes first".into());
        };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '*');
        if !name.chars().all(allowed) {
            return wrong(format!(
                "{name:?} is no name: lower-case letters, digits, '-', '_', and '*' for any of them"
            ));
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (mut namespaces, mut images, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let mut count = 0;
        for word in words {
            count += 1;
            match word.split_once('=') {
                Some(("namespace", value)) if !value.is_empty() => namespaces.push(Pattern(value.into())),
                Some(("image", value)) if !value.is_empty() => images.push(Pattern(value.into())),
                Some(("label", label)) if label.split_once('=').is_some_and(|(key, _)| !key.is_empty()) => {
                    let (key, value) = label.split_once('=').unwrap_or_default();
                    labels.push(digest(key, value));
                }
                _ => return wrong(format!("{word:?} is no condition")),
            }
        }
        if count == 0 {
            return wrong(format!("nobody could have {name:?}"));
        }
        if count > MAX_CONDITIONS {
            return wrong(format!("{count} conditions, of at most {MAX_CONDITIONS}"));
        }
        Ok(Self { text, name: Pattern(name.into()), namespaces, images, labels })
    }

    fn lets(&self, claimant: Claimant<'_>) -> bool {
        let any = |patterns: &[Pattern], text: &str| patterns.is_empty() || patterns.iter().any(|held| held.fits(text));
        any(&self.namespaces, claimant.namespace.as_str())
            && any(&self.images, claimant.image)
            && (self.labels.is_empty() || self.labels.iter().any(|digest| claimant.metadata.has_label(*digest)))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why the container may not have the name; `None`: it may.
pub(super) fn refusal(rules: &[Rule], service: &Label, namespace: &Label, claimant: Claimant<'_>) -> Option<String> {
    if let Some(expected) = reserved(service, namespace) {
        return Some(expected.into());
    }
    if *namespace != Label::global() {
        return None;
    }
    let about: Vec<&Rule> = rules.iter().filter(|rule| rule.name.fits(service.as_str())).collect();
    if about.is_empty() || about.iter().any(|rule| rule.lets(claimant)) {
        return None;
    }
    let texts: Vec<String> = about.iter().map(|rule| format!("`{rule}`")).collect();
    Some(format!("what --claim {} lets have it, or another name", texts.join(" or ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::watch::labels::{self, Namespaces, Options};

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, fits, not) in [
            ("db", &["db"][..], &["", "d", "db2", "xdb"][..]),
            ("*", &["", "x"], &[]),
            ("db*", &["db", "db-1"], &["xdb"]),
            ("*db", &["db", "my-db"], &["dbx"]),
            ("a*b*c", &["abc", "a-b-c", "abbc", "abcbc"], &["ac", "acb", "abcx", "bc"]),
            ("registry/*:15", &["registry/postgres:15"], &["registry/postgres:151", "postgres:15"]),
            ("ab*ba", &["abba", "ab-ba"], &["aba"]),
        ] {
            let pattern = Pattern(pattern.into());
            assert!(fits.iter().all(|text| pattern.fits(text)), "{pattern:?}");
            assert!(!not.iter().any(|text| pattern.fits(text)), "{pattern:?}");
        }
    }

    #[test]
    fn rules_are_read_or_refused_with_the_reason() {
        for text in ["db namespace=shop", "db-* image=postgres:* image=mysql:*", "* label=team=data namespace=x"] {
            assert_eq!(Rule::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rule::parse("  db   image=a ").unwrap().to_string(), "db image=a");
        for (text, reason) in [
            ("", "name comes first"),
            ("namespace=shop", "name comes first"),
            ("db", "nobody could have"),
            ("DB image=a", "is no name"),
            ("db image=", "is no condition"),
            ("db label=x", "is no condition"),
            ("db label==x", "is no condition"),
            ("db color=red", "is no condition"),
            (&format!("db{}", " image=a".repeat(17)), "at most 16"),
        ] {
            let error = Rule::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("image=postgres"), "{text:?}: {error}");
        }
    }

    /// What a container is published as under these rules, and its problems.
    fn read(
        rules: &[&str],
        namespaces: Namespaces,
        image: &str,
        labels: &[(&str, &str)],
    ) -> (Vec<String>, Vec<String>) {
        let claims = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
        let metadata = Metadata::gather(labels.iter().copied(), []);
        let options = Options { namespaces, claims, ..Options::default() };
        let ports = BTreeSet::new();
        let subject =
            labels::Subject { name: "box", image, ports: &ports, published: &ports, metadata: &metadata, member: true };
        let (claim, problems) = labels::read(&options, "here", subject);
        let names = claim.offers.iter().map(|offer| format!("{}.{}", offer.service, offer.namespace));
        (names.collect(), problems.iter().map(|problem| format!("{}: {}", problem.place, problem.expected)).collect())
    }

    #[test]
    fn a_global_name_with_rules_goes_only_to_whom_one_of_them_fits() {
        let db = ("portolan.service", "db");
        let shop = ("com.docker.compose.project", "shop");
        let team = ("team", "data");
        type Row<'a> = (&'a [&'a str], &'a str, &'a [(&'a str, &'a str)], bool);
        let rows: &[Row<'_>] = &[
            (&[], "x", &[db], true),
            (&["cache image=redis"], "x", &[db], true),
            (&["db image=postgres:*"], "postgres:15", &[db], true),
            (&["db image=postgres:*"], "evil/postgres:15", &[db], false),
            (&["db namespace=shop"], "x", &[db, shop], true),
            (&["db namespace=shop"], "x", &[db], false),
            (&["db namespace=default"], "x", &[db], true),
            (&["db label=team=data"], "x", &[db, team], true),
            (&["db label=team=data"], "x", &[db, ("team", "other")], false),
            (&["db label=team=data"], "x", &[db, ("SERVICE_team", "data")], false),
            (&["db namespace=shop image=postgres:*"], "postgres:15", &[db], false),
            (&["db namespace=shop image=postgres:*"], "postgres:15", &[db, shop], true),
            (&["db image=a image=b"], "b", &[db], true),
            (&["db image=a", "d* namespace=shop"], "b", &[db, shop], true),
            (&["db image=a", "d* namespace=shop"], "b", &[db], false),
            (&["* namespace=shop"], "x", &[db], false),
        ];
        for (rules, image, labels, allowed) in rows {
            let (names, problems) = read(rules, Namespaces::On, image, labels);
            let expected: &[&str] = if *allowed { &["db.global"] } else { &[] };
            assert_eq!(names, expected, "{rules:?} {image} {labels:?}");
            assert_eq!(problems.len(), usize::from(!allowed), "{problems:?}");
            assert!(
                problems.iter().all(|problem| problem.contains("service db") && problem.contains(rules[0])),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn names_of_a_project_need_no_rule_unless_there_are_no_namespaces() {
        let compose = [("com.docker.compose.project", "shop"), ("com.docker.compose.service", "db")];
        assert_eq!(read(&["db image=a"], Namespaces::On, "b", &compose).0, ["db.shop"]);
        assert_eq!(read(&["db image=a"], Namespaces::Off, "b", &compose).0, Vec::<String>::new());
        assert_eq!(read(&["db image=a"], Namespaces::Off, "a", &compose).0, ["db.global"]);
        let given = [("portolan.service", "db"), ("portolan.namespace", "shop")];
        assert_eq!(read(&["db image=a"], Namespaces::On, "b", &given).0, ["db.shop"]);
        let asked = [("portolan.service", "db"), ("portolan.namespace", "global")];
        assert_eq!(read(&["db image=a"], Namespaces::On, "b", &asked).0, Vec::<String>::new());
    }

    #[test]
    fn nobody_takes_a_reserved_name() {
        for name in ["all", "ALL", "localhost", "wpad", "isatap", "_tcp", "_udp", "_sctp"] {
            let (names, problems) = read(&[], Namespaces::On, "x", &[("portolan.service", name)]);
            assert_eq!((names.len(), problems.len()), (0, 1), "{name}: {problems:?}");
            let compose = [("com.docker.compose.project", "shop"), ("com.docker.compose.service", name)];
            assert_eq!(read(&[], Namespaces::On, "x", &compose).0.len(), 0, "{name}");
        }
        assert_eq!(read(&[], Namespaces::On, "x", &[("portolan.namespace", "_tcp")]).0.len(), 0);
        assert_eq!(read(&[], Namespaces::On, "x", &[("portolan.service", "allx")]).0, ["allx.global"]);
    }
}
