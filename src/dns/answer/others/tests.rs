use crate::dns::{
    fixture::World,
    special::{SingleLabels, Singles},
    zone::Zone,
};

const SHOP: &str = "
    network n1 bridge 172.18.0.0/16,fd00:18::/64
    network cut bridge 172.20.0.0/16 internal
    asker f1 shop n1=172.18.0.9
    asker in shop cut=172.20.0.9
    host own 192.0.2.1
      a1 @n1=172.18.0.2 web.shop 80/tcp com.shop 80/tcp onion.shop 80/tcp
      a2 @n1=172.18.0.3 tools.default http:80/tcp shop.shop 80/tcp localhost.shop 80/tcp
      a3 @n1=172.18.0.4 mail.global 25/tcp>0.0.0.0:25
      a4 @n1=172.18.0.5 admin.default 8080/tcp>0.0.0.0:8080
";

#[test]
fn names_that_mean_the_same_everywhere_are_answered_here() {
    let mut world = World::parse(SHOP);
    let rows = "f1 | A localhost. | 127.0.0.1
         f1 | A LocalHost. | 127.0.0.1
         f1 | AAAA localhost. | ::1
         f1 | A www.localhost | 127.0.0.1
         f1 | AAAA a.b.localhost | ::1
         f1 | MX localhost. | NODATA
         f1 | DS localhost. | NODATA
         f1 | NS a.localhost | NODATA
         f1 | ANY localhost. | RFC8482
         f1 | A invalid. | NXDOMAIN
         f1 | A www.invalid | NXDOMAIN
         f1 | DS invalid. | NXDOMAIN
         f1 | NS invalid. | NXDOMAIN
         f1 | SOA x.invalid | NXDOMAIN
         host | A onion. | NXDOMAIN
         f1 | A x.onion | NXDOMAIN
         f1 | DNSKEY onion. | NODATA
         f1 | TXT onion. | NODATA
         in | A localhost. | 127.0.0.1
         in | A x.onion | NXDOMAIN
         stranger | AAAA a.localhost | ::1
         stranger | A x.invalid | NXDOMAIN
         peer | A localhost. | 127.0.0.1
         peer | A x.onion | NXDOMAIN";
    world.check(rows);
    world.settings.forwarding = false;
    world.settings.singles = Singles { others: SingleLabels::Forward, named: vec!["onion".into()] };
    world.check(rows);
    // A service is nearer than the top-level domain of that name; localhost is nobody's.
    world.check("f1 | A onion. | 172.18.0.2");
    // What they are does not depend on what is known.
    world.zone = Zone::default();
    world.check(
        "f1 | A localhost. | 127.0.0.1
         f1 | A x.onion | NXDOMAIN",
    );
}

#[test]
fn names_of_the_site_go_where_it_is_known_whom_to_ask() {
    World::parse(SHOP).check(
        "f1 | A www.test | FORWARD
         f1 | A metadata.google.internal | FORWARD
         f1 | A nas.home.arpa | FORWARD
         f1 | PTR 1.0.0.10.in-addr.arpa | FORWARD
         f1 | PTR 2.0.18.172.in-addr.arpa | a10000000000.com.shop.svc.internal. a10000000000.onion.shop.svc.internal. a10000000000.web.shop.svc.internal.
         f1 | PTR 77.0.18.172.in-addr.arpa | NXDOMAIN
         f1 | A none.svc.internal | NXDOMAIN
         in | A metadata.google.internal | REFUSED
         in | PTR 1.0.0.10.in-addr.arpa | REFUSED
         stranger | A www.test | REFUSED",
    );
}

#[test]
fn single_labels_stay_but_for_what_belongs_to_others() {
    let mut world = World::parse(SHOP);
    world.check(
        "f1 | A web. | 172.18.0.2
         f1 | A nas. | NXDOMAIN
         f1 | AAAA nas. | NXDOMAIN
         f1 | SRV nas. | NXDOMAIN
         f1 | TXT nas. | NXDOMAIN
         f1 | ANY nas. | NXDOMAIN
         f1 | MX nas. | NXDOMAIN
         f1 | DS nas. | FORWARD
         f1 | DNSKEY nas. | FORWARD
         f1 | NS nas. | FORWARD
         f1 | SOA nas. | FORWARD
         f1 | A com. | 172.18.0.2
         f1 | DS com. | FORWARD
         f1 | DNSKEY COM. | FORWARD
         f1 | NS com. | NODATA
         f1 | SOA com. | NODATA
         host | NS com. | FORWARD
         in | DS com. | REFUSED
         in | NS nas. | REFUSED
         stranger | DS com. | REFUSED
         f1 | DS internal. | FORWARD
         f1 | A internal. | NODATA
         f1 | DS svc.internal | NODATA
         f1 | DS web.shop.svc.internal | NODATA
         f1 | NS . | FORWARD",
    );
    let rows = "f1 | A nas. | FORWARD
         f1 | TXT NAS. | FORWARD
         f1 | MX nas. | FORWARD
         f1 | A web. | 172.18.0.2
         f1 | MX web. | NODATA
         in | A nas. | REFUSED
         in | A web. | NODATA
         f1 | A internal. | NODATA";
    world.settings.singles = Singles { named: vec!["nas".into()], ..Singles::default() };
    world.check(rows);
    world.check("f1 | A printer. | NXDOMAIN");
    world.settings.singles = Singles { others: SingleLabels::Forward, ..Singles::default() };
    world.check(rows);
    world.check("f1 | A printer. | FORWARD");
    // Perhaps it is a service that the registry has not told yet.
    world.catalog.registry_listed = false;
    world.zone = Zone::of(&world.catalog);
    world.check(
        "f1 | A printer. | SERVFAIL
         f1 | NS printer. | SERVFAIL
         f1 | DS printer. | FORWARD
         f1 | A web. | 172.18.0.2",
    );
}

#[test]
fn an_asker_from_another_host_is_sent_on_for_what_only_its_own_host_knows() {
    let mut world = World::parse(SHOP);
    world.check(
        "peer | A web. | REFUSED
         peer | A web.svc.internal | REFUSED
         peer | TXT web. | REFUSED
         peer | SRV nothing. | REFUSED
         peer | A shop.svc.internal | REFUSED
         peer | SRV _http._tcp.web.svc.internal | REFUSED
         peer | A _tcp.web.svc.internal | REFUSED
         peer | A mail. | 192.0.2.1
         peer | A admin.svc.internal | 192.0.2.1
         peer | TXT mail.svc.internal | NODATA
         peer | A web.shop.svc.internal | NODATA
         peer | A none.shop.svc.internal | NXDOMAIN
         peer | A a.b.c.d.e.svc.internal | NXDOMAIN
         peer | A example.com | REFUSED
         stranger | A web. | NXDOMAIN
         stranger | A web.svc.internal | NXDOMAIN
         stranger | A shop.svc.internal | NODATA
         host | A web. | NXDOMAIN",
    );
    world.catalog.registry_listed = false;
    world.zone = Zone::of(&world.catalog);
    world.check(
        "peer | A web. | SERVFAIL
         peer | A mail.global.svc.internal | 192.0.2.1
         peer | A mail. | SERVFAIL",
    );
}

#[test]
fn addresses_that_an_asker_is_given_have_names_and_those_of_hosts_are_the_sites() {
    World::parse(
        "network n1 bridge 172.18.0.0/16
         network cut bridge 172.20.0.0/16 internal
         network mesh overlay 10.1.0.0/24
         foreign theirs bridge
         foreign lan macvlan
         foreign inside macvlan internal
         asker f1 shop n1=172.18.0.9
         asker in shop cut=172.20.0.9
         routed 172.30.0.0/16
         host own 192.0.2.1
           a1 @n1=172.18.0.2 web.shop 80/tcp
         host b 192.0.2.2
           b1 @theirs=172.30.0.2 web.shop 80/tcp
           b2 @theirs=172.31.0.2 web.shop 80/tcp>0.0.0.0:80
           b3 @lan=192.168.9.5 web.shop 80/tcp
           b4 @inside=192.168.9.6 web.shop 80/tcp
           b5 @mesh=10.1.0.3 web.shop 80/tcp",
    )
    .check(
        "f1 | PTR 2.0.30.172.in-addr.arpa | b10000000000.web.shop.svc.internal.
         peer | PTR 2.0.30.172.in-addr.arpa | b10000000000.web.shop.svc.internal.
         f1 | A 2.0.30.172.in-addr.arpa | NODATA
         in | PTR 2.0.30.172.in-addr.arpa | REFUSED
         f1 | PTR 3.0.30.172.in-addr.arpa | FORWARD
         f1 | PTR 2.0.31.172.in-addr.arpa | FORWARD
         f1 | PTR 5.9.168.192.in-addr.arpa | b30000000000.web.shop.svc.internal.
         in | PTR 5.9.168.192.in-addr.arpa | REFUSED
         f1 | PTR 6.9.168.192.in-addr.arpa | FORWARD
         f1 | PTR 3.0.1.10.in-addr.arpa | b50000000000.web.shop.svc.internal.
         f1 | PTR 2.0.18.172.in-addr.arpa | a10000000000.web.shop.svc.internal.
         f1 | PTR 1.2.0.192.in-addr.arpa | FORWARD
         f1 | PTR 2.2.0.192.in-addr.arpa | FORWARD
         host | PTR 1.2.0.192.in-addr.arpa | FORWARD",
    );
}
