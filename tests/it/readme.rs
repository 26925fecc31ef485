//! What the README shows is what the code does.

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
