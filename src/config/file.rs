//! The configuration file: TOML with the names of the flags as keys, read with the line of each.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::{
    Raw, Source,
    keys::{Arity, key, nearest},
};

/// Reads the file's text: what it sets, and what is wrong with it in the order of its lines.
pub(super) fn parse(path: &Path, text: &str) -> (BTreeMap<&'static str, Raw>, Vec<String>) {
    let path: Arc<Path> = path.into();
    let line = |span: Range<usize>| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
    let (table, broken) = DeTable::parse_recoverable(text);
    let syntax =
        |error: &toml::de::Error| (line(error.span().unwrap_or(0..0)), format!("not TOML: {}", error.message()));
    let mut errors: Vec<(usize, String)> = broken.iter().map(syntax).collect();
    let mut found = BTreeMap::new();
    for (name, value) in table.get_ref() {
        let line = line(name.span());
        let Some(key) = key(name.get_ref()).filter(|key| key.name != "config") else {
            errors.push((line, format!("unknown key {:?}; {}", name.get_ref(), suggestion(name.get_ref()))));
            continue;
        };
        let values = match (value.get_ref(), key.arity) {
            // `[[claim]]`, `[[external]]`: what the flag takes in one text, with a line for each part.
            (DeValue::Array(items), Arity::Many) if items.iter().any(|item| item.get_ref().is_table()) => {
                let parts = TABLES.iter().find(|(name, _)| *name == key.name).map(|(_, parts)| parts);
                let text = |parts| items.iter().map(|item| words(item.get_ref(), key.name, parts)).collect();
                match parts.map_or(Ok(None), |parts| Result::map(text(parts), Some)) {
                    Ok(texts) => texts,
                    Err(error) => {
                        errors.push((line, format!("{}: {error}", key.name)));
                        continue;
                    }
                }
            }
            (DeValue::Array(items), Arity::Many) => items.iter().map(|item| scalar(item.get_ref())).collect(),
            (value, _) => scalar(value).map(|text| vec![text]),
        };
        match (values, key.arity) {
            (Some(values), _) => {
                found.insert(key.name, Raw { values, source: Source::File(Arc::clone(&path), line) });
            }
            (None, Arity::One) => errors.push((line, format!("{} takes one text: {0} = \"…\"", key.name))),
            (None, Arity::Many) => errors.push((line, format!("{} takes a list of texts: {0} = [\"…\"]", key.name))),
        }
    }
    errors.sort();
    let told = |(line, error): (usize, String)| format!("{}: {error}", Source::File(Arc::clone(&path), line));
    (found, errors.into_iter().map(told).collect())
}

/// A text, or a number as text: `ttl = 5` is as clear as `ttl = "5"`.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        _ => None,
    }
}

/// Parts of a table, and how each of their values begins in the text that the flag takes. Parts in the plural take lists.
type Parts = [(&'static str, &'static str)];

/// The keys that may be tables. Each has a `name`, which comes first.
const TABLES: [(&str, &Parts); 2] = [
    ("claim", &[("name", ""), ("namespaces", "namespace="), ("images", "image="), ("labels", "label=")]),
    (
        "external",
        &[
            ("name", ""),
            ("cname", "cname="),
            ("addresses", "address="),
            ("port-name", "port-name="),
            ("tags", "tag="),
            ("weight", "weight="),
            ("check", "check="),
            ("interval", "interval="),
            ("timeout", "timeout="),
            ("rise", "rise="),
            ("fall", "fall="),
        ],
    ),
];

/// A table as the text that the flag takes.
fn words(value: &DeValue<'_>, key: &str, parts: &Parts) -> Result<String, String> {
    let known: Vec<&str> = parts.iter().map(|(part, _)| *part).collect();
    let expected = format!("a table [[{key}]] of {}", known.join(", "));
    let DeValue::Table(table) = value else { return Err(expected) };
    let mut words = Vec::new();
    for (part, value) in table {
        let part = part.get_ref().as_ref();
        let Some((_, begin)) = parts.iter().find(|(known, _)| *known == part) else {
            return Err(format!("unknown part {part:?}; {expected}"));
        };
        let texts: Option<Vec<String>> = match value.get_ref() {
            DeValue::Array(items) if part.ends_with('s') => items.iter().map(|item| scalar(item.get_ref())).collect(),
            value => scalar(value).map(|text| vec![text]),
        };
        let texts = texts.ok_or_else(|| format!("{part} takes texts; {expected}"))?;
        if let Some(text) = texts.iter().find(|text| text.contains([' ', ',']) || text.is_empty()) {
            return Err(format!("{text:?}: without spaces and commas, please"));
        }
        // The name comes first.
        let words_of = texts.into_iter().map(|text| format!("{begin}{text}"));
        let at = if begin.is_empty() { 0 } else { words.len() };
        drop(words.splice(at..at, words_of));
    }
    Ok(words.join(" "))
}

/// What to write instead of an unknown key.
fn suggestion(name: &str) -> String {
    match nearest(name).filter(|key| key.name != "config") {
        Some(key) => format!("did you mean {:?}?", key.name),
        None => "the keys are the names of the flags in `portolan agent --help`".to_owned(),
    }
}
