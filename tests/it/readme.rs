//! What the README shows is what the code does, and what docs/resolvers.md shows is what `agent::front` runs.

use std::{collections::BTreeSet, path::Path};

use portolan::{
    model::ShortId,
    registry::record::{Interner, decode, decode_session, encode, encode_session},
};

/// The JSON examples of the README, each as one line.
fn examples() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```json\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    blocks.map(|block| block.lines().map(str::trim_start).collect()).collect()
}

#[test]
fn the_values_in_etcd_are_as_the_readme_shows_them() {
    let [session, record] = <[String; 2]>::try_from(examples()).expect("a session and a record");
    let mut interner = Interner::default();
    let decoded = decode_session(session.as_bytes(), &mut interner).expect("a session");
    assert_eq!(String::from_utf8(encode_session(&decoded)).expect("JSON"), session);
    let container = ShortId::parse("0123456789ab").expect("an id");
    let decoded = decode(container, record.as_bytes(), &mut interner).expect("a record");
    assert_eq!(String::from_utf8(encode(&decoded)).expect("JSON"), record);
}

/// A file of the repository, as it is now.
fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code blocks of docs/resolvers.md, by the name behind the language: "```nginx nginx.conf".
fn snippets() -> Vec<(String, String)> {
    let page = text("docs/resolvers.md");
    let blocks = page.split("\n```").skip(1).step_by(2);
    let named = blocks.map(|block| {
        let (head, body) = block.split_once('\n').expect("a block has lines");
        let (_, name) = head.split_once(' ').unwrap_or_else(|| panic!("docs/resolvers.md: ```{head} has no name"));
        (name.to_owned(), format!("{body}\n"))
    });
    named.collect()
}

/// The snippet of that name.
#[track_caller]
pub(crate) fn snippet(name: &str) -> String {
    let found = snippets().into_iter().find(|(other, _)| other == name);
    found.unwrap_or_else(|| panic!("docs/resolvers.md has no snippet {name}")).1
}

#[test]
fn every_snippet_of_the_page_on_resolvers_is_run_by_a_test_and_every_test_runs_one_of_the_page() {
    let shown: Vec<String> = snippets().into_iter().map(|(name, _)| name).collect();
    let sources = ["resolvers", "balancers", "scaled"].map(|module| text(&format!("tests/it/agent/front/{module}.rs")));
    let run: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.split("snippet(\"").skip(1))
        .map(|rest| rest.split('"').next().expect("an end"))
        .collect();
    assert_eq!(shown.iter().map(String::as_str).collect::<BTreeSet<_>>(), run);
    assert_eq!(shown.len(), run.len(), "two snippets have one name: {shown:?}");
}
