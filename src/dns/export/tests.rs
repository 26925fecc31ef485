use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::dns::fixture::World;

const WORLD: &str = "
    network n1 bridge 172.18.0.0/16
    network n2 bridge 172.20.0.0/23
    asker f1 shop n1=172.18.0.9
    address 192.0.2.1
    host own 192.0.2.1
      a1 @n1=172.18.0.2 name=Shop.web_1 web.shop http:80/tcp tag=x tag=say\"it\\ now.global 80/tcp
      a2 @n1=172.18.0.3 unhealthy web.shop http:80/tcp
    host b 192.0.2.2
      b1 web.global 80/tcp>0.0.0.0:8080
      b2 web.global 80/tcp>0.0.0.0:8080
    host external
      e1 =db.example.com db.shop pg:5432/tcp";

fn source(world: &World, who: &str) -> Source {
    match who {
        "host" => Source::Host,
        address => super::super::source::locate(&world.local, address.parse().unwrap()),
    }
}

fn exported(who: &str, origin: &str) -> Result<String, ExportError> {
    let world = World::parse(&WORLD.replace('\\', ""));
    let snapshot = Snapshot { zone: &world.zone, local: &world.local, settings: &world.settings };
    let origin = Name::from_ascii(origin).unwrap();
    export(&snapshot, &source(&world, who), &origin, &mut SmallRng::seed_from_u64(1))
}

#[test]
fn a_container_gets_its_own_namespace_and_this_host_gets_global() {
    insta::assert_snapshot!(exported("172.18.0.9", "svc.internal.").unwrap());
    let host = exported("host", "svc.internal.").unwrap();
    assert!(host.contains("\nweb.svc.internal. 0 IN A 192.0.2.2\n"), "{host}");
    assert!(!host.contains("172.18.0.1\n"), "no gateway is this host's name server: {host}");
}

#[test]
fn a_reverse_zone_holds_the_pointers_of_its_subnet() {
    insta::assert_snapshot!(exported("host", "18.172.in-addr.arpa.").unwrap());
}

#[test]
fn what_is_no_zone_is_told_with_those_there_are() {
    for origin in ["shop.svc.internal.", "web.shop.svc.internal.", "example.org.", "172.in-addr.arpa.", "."] {
        let known = "svc.internal. 0.20.172.in-addr.arpa. 18.172.in-addr.arpa.".to_owned();
        assert_eq!(exported("host", origin), Err(ExportError::NoSuchZone { asked: origin.to_owned(), known }));
    }
}

#[test]
fn before_everything_is_known_there_is_no_file() {
    let world = World::parse(WORLD);
    let zone = super::super::zone::Zone::default();
    let snapshot = Snapshot { zone: &zone, local: &world.local, settings: &world.settings };
    let origin = Name::from_ascii("svc.internal.").unwrap();
    let export = export(&snapshot, &Source::Host, &origin, &mut SmallRng::seed_from_u64(1));
    assert_eq!(export, Err(ExportError::NotYet));
}

#[test]
fn a_string_is_quoted_as_zone_files_quote() {
    assert_eq!(quoted(b"say \"it\"; \\ \x07\xff"), r#""say \"it\"; \\ \007\255""#);
}
