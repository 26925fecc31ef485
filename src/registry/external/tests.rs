//! External services as people write them, as they are stored, and as what is answered.

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> (ExternalName, External) {
    parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn what_is_written_is_read_stored_and_written_again() {
    for (text, expected) in [
        ("redis cname=Redis.Example.Com.", "redis cname=redis.example.com"),
        ("redis cname=redis.example.com:6379", "redis cname=redis.example.com:6379"),
        ("redis.global address=10.0.0.9", "redis address=10.0.0.9"),
        (
            "Db.Shop address=10.0.0.9:5432 address=[2001:db8::9]:5432 address=10.0.0.9:5432 tag=a weight=0",
            "db.shop address=10.0.0.9:5432 address=[2001:db8::9]:5432 tag=a weight=0",
        ),
        ("db address=2001:db8::9", "db address=2001:db8::9"),
        ("db address=::ffff:10.0.0.9 port-name=SQL", "db address=10.0.0.9 port-name=sql"),
        (
            "api address=10.0.0.9:443 check=https:/health?full=1",
            "api address=10.0.0.9:443 check=https:/health?full=1 interval=10000ms timeout=5000ms rise=1 fall=3",
        ),
        (
            "api cname=a.b:80 check=tcp interval=2s timeout=500ms rise=2 fall=5",
            "api cname=a.b:80 check=tcp interval=2000ms timeout=500ms rise=2 fall=5",
        ),
        (
            "api address=10.0.0.9:80 check=tcp interval=1s",
            "api address=10.0.0.9:80 check=tcp interval=1000ms timeout=1000ms rise=1 fall=3",
        ),
    ] {
        let (name, external) = parsed(text);
        assert_eq!(words(&name, &external), expected);
        assert_eq!(parsed(expected), (name, external.clone()));
        assert_eq!(decode(&encode(&external)), Ok(external), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "the name comes first"),
        ("cname=a.b", "the name comes first"),
        ("redis", "where is it?"),
        ("a.b.c address=10.0.0.9", "without the zone"),
        ("a_b! address=10.0.0.9", "not '!'"),
        ("all address=10.0.0.9", "is reserved"),
        ("wpad.shop address=10.0.0.9", "is reserved"),
        ("10.shop address=10.0.0.9", "take a number for an address"),
        ("-web- address=10.0.0.9", "begin or end with '-'"),
        ("redis address", "not KEY=VALUE"),
        ("redis address=", "not KEY=VALUE"),
        ("redis colour=red", "is unknown"),
        ("redis cname=redis", "no host name of two labels"),
        ("redis cname=-", "no host name of two labels"),
        ("redis cname=10.0.0.9", "is an address"),
        ("redis cname=10.0.0.256:6379", "or nearly one"),
        ("redis address=::ffff:127.0.0.1", "another machine for everybody"),
        ("redis address=fe80::1", "another machine for everybody"),
        ("redis address=255.255.255.255", "another machine for everybody"),
        ("redis address=10.0.0.9 port-name=a!", "port-name"),
        ("redis cname=a.b:0", "a port is 1 to 65535"),
        ("redis cname=a.b cname=c.d", "one cname"),
        ("redis cname=a.b address=10.0.0.9", "either a cname or addresses"),
        ("redis address=redis.example.com", "is no address"),
        ("redis address=10.0.0.9:0", "is no address"),
        ("redis address=127.0.0.1:80", "another machine for everybody"),
        ("redis address=0.0.0.0", "another machine for everybody"),
        ("redis address=169.254.1.1", "another machine for everybody"),
        ("redis address=ff02::1", "another machine for everybody"),
        ("redis address=10.0.0.9 weight=x", "0 to 65535"),
        ("redis address=10.0.0.9:1 check=ping", "none of tcp"),
        ("redis address=10.0.0.9:1 check=http:health", "is no path"),
        ("redis address=10.0.0.9 check=tcp", "a port is needed"),
        ("redis address=10.0.0.9:1 interval=5s", "what to ask?"),
        ("redis address=10.0.0.9:1 check=tcp interval=5", "is no time"),
        ("redis address=10.0.0.9:1 check=tcp interval=2s timeout=3s", "is no time"),
        ("redis address=10.0.0.9:1 check=tcp fall=0", "in a row"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
    let many: String = (1..=65).map(|last| format!(" address=10.0.0.{last}")).collect();
    assert!(parse(&format!("redis{many}")).unwrap_err().to_string().contains("at most 64 addresses"));
}

#[test]
fn a_foreign_value_is_held_to_the_same_rules() {
    for (value, reason) in [
        (r"{}", "where is it?"),
        (r#"{"cname":"redis"}"#, "no host name"),
        (r#"{"cname":"a.b","port":0}"#, "1 to 65535"),
        (r#"{"addresses":[{"ip":"127.0.0.1"}]}"#, "another machine"),
        (r#"{"addresses":[{"ip":"10.0.0.9"}],"check":{"kind":"cmd"}}"#, "none of tcp"),
        (r"[]", "where is it?"),
        (r"7", "invalid type"),
        (r"nonsense", "expected"),
    ] {
        let error = decode(value.as_bytes()).expect_err(value).to_string();
        assert!(error.contains(reason), "{value}: {error}");
    }
    let later = br#"{"cname":"a.b","port":80,"colour":"red"}"#;
    assert!(decode(later).is_ok(), "fields of a later version are passed over");
}

fn externals(texts: &[&str]) -> Externals {
    texts.iter().map(|text| parsed(text)).map(|(name, external)| (name, Arc::new(external))).collect()
}

#[test]
fn each_address_is_an_instance_with_its_ports_and_its_check() {
    let of = |texts: &[&str]| desired(&externals(texts), "svc.internal", true);
    let made = of(&["db address=10.0.0.9:5432 address=10.0.0.9:5433 address=10.0.0.10:5432 weight=7 check=tcp"]);
    let show = |publication: &Publication| {
        let offer = &publication.services[0];
        let ports: Vec<u16> = offer.ports.iter().map(|port| port.port).collect();
        format!("{} {:?} {} x{}", publication.name, ports, offer.service, offer.weight)
    };
    let mut shown: Vec<String> = made.publications.values().map(|held| show(held)).collect();
    shown.sort();
    assert_eq!(shown, ["10.0.0.10 [5432] db x7", "10.0.0.9 [5432, 5433] db x7"]);
    let asked: Vec<_> = made.checks.values().map(|checks| checks.all[0].port).collect();
    assert_eq!(asked, [Some(5432); 2]);
    // Names that were handed out stay true, on every host and after every restart.
    let ids = |desired: &Desired| desired.publications.keys().copied().collect::<Vec<_>>();
    assert_eq!(ids(&made), ids(&of(&["db address=10.0.0.10:1 address=10.0.0.9:2"])));
    assert_ne!(ids(&made), ids(&of(&["db.shop address=10.0.0.10:1 address=10.0.0.9:2"])));
}

#[test]
fn a_name_that_leads_back_to_us_is_a_problem_and_no_answer() {
    for (host, leads_back) in
        [("svc.internal", true), ("web.svc.internal", true), ("websvc.internal", false), ("svc.internal.net", false)]
    {
        let made = desired(&externals(&[&format!("redis cname={host}")]), "svc.internal", true);
        assert_eq!(
            (made.publications.is_empty(), made.problems.len()),
            (leads_back, usize::from(leads_back)),
            "{host}"
        );
    }
}

#[test]
fn a_reserved_name_in_etcd_is_a_problem_and_no_answer() {
    let (_, external) = parsed("redis address=10.0.0.9");
    let name = ExternalName { namespace: Label::global(), service: Label::parse("wpad").unwrap() };
    let made = desired(&Externals::unit(name, Arc::new(external)), "svc.internal", true);
    assert_eq!((made.publications.is_empty(), made.problems.len()), (true, 1));
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic_and_what_is_read_is_written_again(
        text in prop_oneof![
            any::<String>(),
            "[a-z]{1,3}(\\.[a-z]{1,3})?( (cname|address|tag|weight|check|interval|timeout|rise|fall)=[a-z0-9.:/\\[\\]]{1,12}){0,4}",
            "db( address=10\\.0\\.0\\.[0-9]{1,2}(:[0-9]{1,4})?){1,4}( check=(tcp|http:/[a-z]{0,3}))?( tag=[a-z]{1,3})?",
        ]
    ) {
        if let Ok((name, external)) = parse(&text) {
            let written = words(&name, &external);
            prop_assert_eq!(parse(&written), Ok((name, external.clone())));
            prop_assert_eq!(decode(&encode(&external)), Ok(external));
        }
    }

    #[test]
    fn any_value_is_read_without_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&value);
    }
}
