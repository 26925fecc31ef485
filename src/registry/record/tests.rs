use proptest::prelude::*;

use super::*;

/// The record of the module's documentation and of the README, byte for byte as etcd holds it.
const EXAMPLE: &str = concat!(
    r#"{"name":"shop-web-1","image":"nginx:1","phase":"serving","health":"healthy","#,
    r#""services":[{"service":"web","namespace":"shop","tags":["a"],"weight":1,"#,
    r#""ports":[{"name":"http","port":80,"proto":"tcp","published":[{"ip":"0.0.0.0","port":8080,"chosen":true}]}]}],"#,
    r#""networks":[{"id":"3f","name":"shop_default","driver":"bridge","scope":"local","internal":false,"#,
    r#""ips":["172.18.0.2"]}]}"#,
);

/// The example's publication, of this container.
pub(crate) fn publication(container: &str) -> Publication {
    decode(ShortId::parse(container).unwrap(), EXAMPLE.as_bytes(), &mut Interner::default()).unwrap()
}

#[test]
fn the_documented_record_is_read_and_written_byte_for_byte() {
    let publication = publication("0123456789ab");
    assert_eq!(publication.services[0].ports[0].published[0].port, 8080);
    assert_eq!(publication.networks[0].ips[0].to_string(), "172.18.0.2");
    assert_eq!(String::from_utf8(encode(&publication)).unwrap(), EXAMPLE);
}

#[test]
fn the_documented_session_is_read_and_written_byte_for_byte() {
    let text = r#"{"nonce":"n1","advertise":["10.0.0.5"],"locality":"eu/a","version":"0.1.0"}"#;
    let session = decode_session(text.as_bytes(), &mut Interner::default()).unwrap();
    assert_eq!(String::from_utf8(encode_session(&session)).unwrap(), text);
}

/// Value → whether it is read, and what the error must name.
#[test]
fn unknown_and_missing_fields_are_tolerated_and_broken_ones_named() {
    let service = r#"{"service":"web","namespace":"shop"}"#;
    let many = vec![service; MAX_SERVICES + 1].join(",");
    let huge = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_VALUE));
    let rows: &[(String, Result<(), &str>)] = &[
        (format!(r#"{{"name":"a","phase":"serving","services":[{service}]}}"#), Ok(())),
        (format!(r#"{{"name":"a","phase":"serving","services":[{service}],"later":{{"x":[1]}}}}"#), Ok(())),
        (r#"{"name":"a","phase":"serving","services":[]}"#.into(), Err("at least one service")),
        (format!(r#"{{"name":"a","phase":"serving","services":[{many}]}}"#), Err("at most 64 services")),
        (format!(r#"{{"name":"a","phase":"dancing","services":[{service}]}}"#), Err("dancing")),
        (r#"{"name":"a","phase":"serving","services":[{"service":"wéb","namespace":"x"}]}"#.into(), Err("wéb")),
        (
            format!(
                r#"{{"name":"a","phase":"serving","services":[{service}],"networks":[{{"id":"1","driver":"x","ips":["1.2.3"]}}]}}"#
            ),
            Err("IP address"),
        ),
        (huge, Err("octets")),
        ("garbage".into(), Err("expected")),
        (String::new(), Err("EOF")),
    ];
    for (value, expected) in rows {
        let found = decode(ShortId::parse("0123456789ab").unwrap(), value.as_bytes(), &mut Interner::default());
        match (found, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} names {part}"),
            (found, expected) => panic!("{value:.200}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn keys_are_read_back_and_foreign_ones_are_not_ours() {
    let keys = Keys::new("/portolan/");
    let (host, container) = (HostId::parse("h-1").unwrap(), ShortId::parse("0123456789ab").unwrap());
    assert_eq!(keys.instance(&host, container), b"/portolan/v1/hosts/h-1/instances/0123456789ab");
    assert_eq!(keys.parse(&keys.session(&host)), Some(Key::Session(host.clone())));
    assert_eq!(keys.parse(&keys.instance(&host, container)), Some(Key::Instance(host.clone(), container)));
    assert_eq!(keys.parse(&keys.echo(&host)), Some(Key::Echo(host)));
    for foreign in [
        "/portolan/v1/hosts/h-1",
        "/portolan/v1/hosts//session",
        "/portolan/v1/hosts/h-1/session/x",
        "/portolan/v2/hosts/h-1/session",
        "/portolan/v1/hosts/h-1/instances/0123456789abcdef",
        "/portolan/v1/hosts/h-1/instances/0123456789AB",
        "/portolan/v1/hosts/h/i/session",
        "",
    ] {
        assert_eq!(keys.parse(foreign.as_bytes()), None, "{foreign}");
    }
    assert_eq!(keys.parse(b"/portolan/v1/hosts/\xff/session"), None);
}

#[test]
fn equal_texts_are_kept_once() {
    let mut interner = Interner::default();
    let id = ShortId::parse("0123456789ab").unwrap();
    let (a, b) = (
        decode(id, EXAMPLE.as_bytes(), &mut interner).unwrap(),
        decode(id, EXAMPLE.as_bytes(), &mut interner).unwrap(),
    );
    assert!(Arc::ptr_eq(&a.image, &b.image) && Arc::ptr_eq(&a.networks[0].id.0, &b.networks[0].id.0));
    assert!(std::ptr::eq(a.services[0].service.as_str(), b.services[0].service.as_str()));
}

#[test]
fn the_interner_stays_bounded() {
    let mut interner = Interner::default();
    for number in 0..3 * MAX_INTERNED {
        interner.text(&number.to_string());
    }
    assert!(interner.texts.len() <= MAX_INTERNED);
}

proptest! {
    #[test]
    fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let id = ShortId::parse("0123456789ab").unwrap();
        let mut interner = Interner::default();
        let _ = decode(id, &value, &mut interner);
        let _ = decode_session(&value, &mut interner);
        let mut bent = EXAMPLE.as_bytes().to_vec();
        let at = at.index(bent.len());
        bent[at] = byte;
        if let Ok(publication) = decode(id, &bent, &mut interner) {
            let again = decode(id, &encode(&publication), &mut interner).unwrap();
            prop_assert_eq!(again, publication);
        }
    }
}
