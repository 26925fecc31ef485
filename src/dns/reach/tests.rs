use super::*;
use crate::dns::fixture::World;

/// Two hosts with a swarm between them, for the tables here and the random instances of `oracle.rs`. `f1` shares
/// `front`, `f2` sits on other bridges, `v6` on one without IPv4, `in` may not leave, `sw` is on the overlay, `mac` is on the surrounding network
/// only, `two` on a bridge and on the network that its host itself is on.
pub(super) const TWO_HOSTS: &str = "
    network front bridge 172.18.0.0/16,fd00:18::/64
    network back bridge 172.19.0.0/16
    network six bridge fd00:19::/64
    network cut bridge 172.20.0.0/16 internal
    network mute bridge 172.21.0.0/16 no-icc
    network mesh overlay 10.1.0.0/24
    network docker_gwbridge bridge 172.22.0.0/16
    network lan macvlan 192.168.1.0/24
    network vlan ipvlan 192.168.2.0/24
    network near macvlan 192.0.2.0/24
    foreign theirs bridge
    foreign closed bridge internal
    foreign link ipvlan
    asker f1 shop front=172.18.0.9,fd00:18::9
    asker f2 shop back=172.19.0.9 mute=172.21.0.7
    asker v6 shop six=fd00:19::9
    asker in shop cut=172.20.0.9
    asker mu shop mute=172.21.0.9
    asker d1 shop mute=172.21.0.10
    asker sw shop mesh=10.1.0.9 docker_gwbridge=172.22.0.9
    asker mac shop lan=192.168.1.9
    asker ipv shop vlan=192.168.2.9
    asker two shop near=192.0.2.77 back=172.19.0.77
    address 192.0.2.1
    address 2001:db8::1
    address 172.18.0.1
    proxied 8080/tcp
    proxied 80/tcp
    proxied 53/udp
";

fn two_hosts(hosts: &str) -> World {
    World::parse(&format!("{TWO_HOSTS}{hosts}"))
}

#[test]
fn containers_on_one_network_use_its_addresses() {
    two_hosts(
        "host own 192.0.2.1 2001:db8::1
           a1 @front=172.18.0.2,fd00:18::2 web.shop 80/tcp
           a2 @front=172.18.0.3 @back=172.19.0.3 web.shop 80/tcp
           a3 @mute=172.21.0.2 quiet.shop 80/tcp
           f1 @front=172.18.0.9 self.shop 80/tcp
           d1 @mute=172.21.0.10 self.shop 80/tcp
           a4 @cut=172.20.0.2 safe.shop 80/tcp
           a5 @docker_gwbridge=172.22.0.2 gw.shop 80/tcp
           a6 @mesh=10.1.0.2 mesh.shop 80/tcp
         host b 192.0.2.2
           b1 @theirs=172.18.0.2 far.shop 80/tcp
           b2 @mesh=10.1.0.3 mesh.shop 80/tcp",
    )
    .check(
        "f1 | A web.svc.internal | 172.18.0.2 172.18.0.3
         f1 | AAAA web.svc.internal | fd00:18::2
         f2 | A web.svc.internal | 172.19.0.3
         f2 | AAAA web.svc.internal | NODATA
         mu | A quiet.svc.internal | NODATA
         f1 | A self.svc.internal | 172.18.0.9
         d1 | A self.svc.internal | 172.21.0.10
         mu | A self.svc.internal | NODATA
         in | A safe.svc.internal | 172.20.0.2
         in | A web.svc.internal | NODATA
         f1 | A safe.svc.internal | NODATA
         sw | A gw.svc.internal | NODATA
         sw | A mesh.svc.internal | 10.1.0.2 10.1.0.3
         f1 | A mesh.svc.internal | NODATA
         f1 | A far.svc.internal | NODATA
         stranger | A web.shop.svc.internal | NODATA",
    );
}

#[test]
fn a_network_of_another_host_is_another_network_even_under_the_same_id() {
    World::parse(
        "network n1 bridge 172.18.0.0/16
         asker f1 shop n1=172.18.0.9
         host b 192.0.2.2
           b1 @n1=172.18.0.2 web.shop 80/tcp",
    )
    .check("f1 | A web.svc.internal | NODATA");
}

#[test]
fn the_host_uses_its_bridges_and_everyone_the_hosts_own_ports() {
    two_hosts(
        "host own 192.0.2.1
           a1 @front=172.18.0.2 web.shop 80/tcp
           a2 @cut=172.20.0.2 web.shop 80/tcp
           a3 @mesh=10.1.0.2 mesh.shop 80/tcp
           a4 @host api.shop 9000/tcp
           a5 @lan=192.168.1.2 lan.shop 80/tcp
         host b 192.0.2.2
           b1 @host api.shop 9000/tcp
           b2 @theirs=172.30.0.2 far.shop 80/tcp
         host silent
           c1 @host api.shop 9000/tcp",
    )
    .check(
        "host | A web.shop.svc.internal | 172.18.0.2 172.20.0.2
         host | A mesh.shop.svc.internal | NODATA
         host | A lan.shop.svc.internal | NODATA
         host | A far.shop.svc.internal | NODATA
         host | A api.shop.svc.internal | 192.0.2.1 192.0.2.2
         host | AAAA api.shop.svc.internal | NODATA
         f1 | A api.svc.internal | 192.0.2.1 192.0.2.2
         sw | A api.svc.internal | 192.0.2.1 192.0.2.2
         stranger | A api.shop.svc.internal | 192.0.2.1 192.0.2.2
         mac | A api.svc.internal | 192.0.2.2
         in | A api.svc.internal | NODATA",
    );
}

#[test]
fn our_own_host_is_found_without_an_advertised_address() {
    two_hosts(
        "host own
           a1 @host api.shop 9000/tcp
           a2 @back=172.19.0.2 web.shop 80/tcp>0.0.0.0:8080",
    )
    .check(
        "host | A api.shop.svc.internal | 172.18.0.1
         f1 | A api.svc.internal | 172.18.0.1
         f2 | A api.svc.internal | 172.19.0.1
         sw | A api.svc.internal | 172.22.0.1
         f1 | A web.svc.internal | 172.18.0.1
         stranger | A api.shop.svc.internal | NODATA
         stranger | A web.shop.svc.internal | NODATA",
    );
}

#[test]
fn routed_and_link_layer_addresses_are_reached_from_elsewhere() {
    let mut world = two_hosts(
        "host own 192.0.2.1
           a1 @lan=192.168.1.2 lan.shop 80/tcp
           a2 @back=172.19.0.2 routed.shop 80/tcp
           a3 @cut=172.20.0.2 routed.shop 80/tcp
         host b 192.0.2.2
           b1 @link=192.168.1.3 lan.shop 80/tcp
           b2 @theirs=172.30.0.2 routed.shop 80/tcp
           b3 @closed=172.30.1.2 routed.shop 80/tcp
           b4 @theirs=172.30.0.4 routed.shop 80/tcp>0.0.0.0:8080",
    );
    world.settings.routed = ["172.30.0.0/16", "172.19.0.0/16", "172.20.0.0/16"].map(|n| n.parse().unwrap()).to_vec();
    world.check(
        "f1 | A lan.svc.internal | 192.168.1.3
         mac | A lan.svc.internal | 192.168.1.2 192.168.1.3
         host | A lan.shop.svc.internal | 192.168.1.3
         stranger | A lan.shop.svc.internal | 192.168.1.2 192.168.1.3
         in | A lan.svc.internal | NODATA
         f1 | A routed.svc.internal | 172.30.0.2 172.30.0.4
         stranger | A routed.shop.svc.internal | 172.19.0.2 172.30.0.2 172.30.0.4
         in | A routed.svc.internal | 172.20.0.2",
    );
}

#[test]
fn published_ports_are_reached_at_the_hosts_address() {
    two_hosts(
        "host own 192.0.2.1 2001:db8::1
           a1 @back=172.19.0.2 web.shop 80/tcp>0.0.0.0:8080>[::]:8080
           a2 @back=172.19.0.3 bare.shop 80/tcp>0.0.0.0:8081
           a3 @back=172.19.0.4 dns.shop 53/udp>0.0.0.0:53
           a4 @back=172.19.0.5 loop.shop 80/tcp>127.0.0.1:8080
           a5 @back=172.19.0.6 gate.shop 80/tcp>172.18.0.1:8080
           a6 @back=172.19.0.7 one.shop 80/tcp>198.51.100.7:8080
           a7 @back=172.19.0.8 tcp53.shop 53/tcp>0.0.0.0:53
           a8 @mesh=10.1.0.2 mesh.shop 80/tcp>0.0.0.0:8080
         host b 192.0.2.2 2001:db8::2
           b1 @theirs=172.30.0.2 web.shop 80/tcp>0.0.0.0:8080>[::]:8080
           b2 @theirs=172.30.0.3 loop.shop 80/tcp>127.0.0.1:8080>[::1]:8080
           b3 @theirs=172.30.0.4 gate.shop 80/tcp>172.18.0.1:8080
           b4 @theirs=172.30.0.5 one.shop 80/tcp>198.51.100.8:8080
           b5 @theirs=172.30.0.6 six.shop 80/tcp>[::]:8080
         host silent
           c1 @theirs=172.30.0.2 web.shop 80/tcp>0.0.0.0:8080",
    )
    .check(
        "f1 | A web.svc.internal | 192.0.2.1 192.0.2.2
         f1 | AAAA web.svc.internal | 2001:db8::1 2001:db8::2
         f2 | AAAA web.svc.internal | NODATA
         v6 | A web.svc.internal | NODATA
         v6 | AAAA web.svc.internal | 2001:db8::1 2001:db8::2
         v6 | SRV web.svc.internal | a1:8080=2001:db8::1 b1:8080=2001:db8::2
         mu | A web.svc.internal | 192.0.2.1 192.0.2.2
         sw | A web.svc.internal | 192.0.2.1 192.0.2.2
         stranger | A web.shop.svc.internal | 192.0.2.1 192.0.2.2
         mac | A web.svc.internal | 192.0.2.2
         in | A web.svc.internal | NODATA
         f1 | SRV web.svc.internal | a1:8080=192.0.2.1,2001:db8::1 b1:8080=192.0.2.2,2001:db8::2
         f2 | SRV web.svc.internal | a1:80=172.19.0.2 b1:8080=192.0.2.2
         f1 | A bare.svc.internal | NODATA
         host | A bare.shop.svc.internal | 172.19.0.3
         stranger | A bare.shop.svc.internal | 192.0.2.1
         f1 | A dns.svc.internal | 192.0.2.1
         f1 | A tcp53.svc.internal | NODATA
         f1 | A loop.svc.internal | NODATA
         stranger | A loop.shop.svc.internal | NODATA
         host | A loop.shop.svc.internal | 172.19.0.5
         f1 | A gate.svc.internal | 172.18.0.1
         stranger | A gate.shop.svc.internal | NODATA
         f1 | A one.svc.internal | 198.51.100.7 198.51.100.8
         stranger | A one.shop.svc.internal | 198.51.100.7 198.51.100.8
         f1 | A six.svc.internal | NODATA
         f1 | AAAA six.svc.internal | 2001:db8::2
         host | A mesh.shop.svc.internal | 192.0.2.1",
    );
}

#[test]
fn a_record_of_the_registry_that_is_our_own_needs_the_proxy_too() {
    two_hosts(
        "host stolen 192.0.2.1
           a1 @theirs=172.30.0.2 web.shop 80/tcp>0.0.0.0:8080
           a2 @theirs=172.30.0.3 raw.shop 80/tcp>0.0.0.0:8081
           a3 @host api.shop 80/tcp",
    )
    .check(
        "f1 | A web.svc.internal | 192.0.2.1
         f1 | A raw.svc.internal | NODATA
         mac | A api.svc.internal | NODATA
         f1 | A api.svc.internal | 192.0.2.1",
    );
}

#[test]
fn addresses_of_a_service_share_one_port_number() {
    two_hosts(
        "host own 192.0.2.1
           a1 @front=172.18.0.2 direct.shop 80/tcp
           a2 @host ports.shop 8080/tcp
         host b 192.0.2.2
           b1 @theirs=172.30.0.2 direct.shop 80/tcp>0.0.0.0:8080
           b2 @theirs=172.30.0.3 direct.shop 80/tcp>0.0.0.0:80
           b3 @theirs=172.30.0.4 chosen.shop 80/tcp>0.0.0.0:8080
           b4 @theirs=172.30.0.5 dynamic.shop 80/tcp~0.0.0.0:32768
           b5 @theirs=172.30.0.6 lucky.shop 32768/tcp~0.0.0.0:32768
           b6 @theirs=172.30.0.7 labelled.shop main=9000 80/tcp>0.0.0.0:80 9000/tcp>0.0.0.0:9000
           b7 @theirs=172.30.0.8 unexposed.shop main=9000 80/tcp>0.0.0.0:80
           b8 @theirs=172.30.0.9 ports.shop 80/tcp>0.0.0.0:8080
           b9 @theirs=172.30.0.10 second.shop 80/tcp 443/tcp>0.0.0.0:443
         host c 192.0.2.3
           c1 @theirs=172.30.0.2 chosen.shop 80/tcp>0.0.0.0:8080
           c2 @theirs=172.30.0.3 dynamic.shop 80/tcp>0.0.0.0:8080
           c3 @theirs=172.30.0.4 ports.shop 80/tcp>0.0.0.0:9999
         host d 192.0.2.4
           d1 @theirs=172.30.0.2 chosen.shop 80/tcp>0.0.0.0:9090
           d2 @theirs=172.30.0.3 chosen.shop 80/tcp~0.0.0.0:8080
           d3 @theirs=172.30.0.4 both.shop 53/tcp>0.0.0.0:5353 53/udp>0.0.0.0:5353
         host e 192.0.2.5
           e1 @theirs=172.30.0.2 both.shop 53/tcp>0.0.0.0:5300
         host f 192.0.2.6
           f0 @theirs=172.30.0.2 both.shop 53/tcp>0.0.0.0:5300",
    )
    .check(
        "f1 | A direct.svc.internal | 172.18.0.2 192.0.2.2
         f2 | A direct.svc.internal | 192.0.2.2
         f1 | SRV direct.svc.internal | a1:80=172.18.0.2 b1:8080=192.0.2.2 b2:80=192.0.2.2
         f1 | A chosen.svc.internal | 192.0.2.2 192.0.2.3
         f1 | SRV chosen.svc.internal | b3:8080=192.0.2.2 c1:8080=192.0.2.3 d1:9090=192.0.2.4 d2:8080=192.0.2.4
         f1 | A dynamic.svc.internal | 192.0.2.3
         f1 | SRV dynamic.svc.internal | b4:32768=192.0.2.2 c2:8080=192.0.2.3
         f1 | A lucky.svc.internal | NODATA
         f1 | SRV lucky.svc.internal | b5:32768=192.0.2.2
         f1 | A labelled.svc.internal | 192.0.2.2
         f1 | A unexposed.svc.internal | NODATA
         f1 | A second.svc.internal | 192.0.2.2
         f1 | SRV second.svc.internal | b9:443=192.0.2.2
         f1 | A ports.svc.internal | 192.0.2.1 192.0.2.2
         f1 | A both.svc.internal | 192.0.2.5 192.0.2.6",
    );
}

#[test]
fn both_families_of_a_service_share_the_number() {
    two_hosts(
        "host own 192.0.2.1
           a1 @front=172.18.0.2 web.shop 80/tcp
         host b 192.0.2.2 2001:db8::2
           b1 @theirs=172.30.0.2 web.shop 80/tcp>[::]:8080
           b2 @theirs=172.30.0.3 split.shop 80/tcp~0.0.0.0:32768~[::]:32769
           b3 @theirs=172.30.0.4 equal.shop 80/tcp~0.0.0.0:32768~[::]:32768
           b4 @theirs=172.30.0.5 more.shop 80/tcp>0.0.0.0:8080>0.0.0.0:8081>[::]:8080",
    )
    .check(
        "f1 | A web.svc.internal | 172.18.0.2
         f1 | AAAA web.svc.internal | NODATA
         f2 | A web.svc.internal | NODATA
         f2 | AAAA web.svc.internal | NODATA
         v6 | AAAA web.svc.internal | 2001:db8::2
         f1 | SRV split.svc.internal | b2:32768=192.0.2.2
         f1 | AAAA b20000000000.split.shop.svc.internal | NODATA
         f1 | A b20000000000.split.shop.svc.internal | 192.0.2.2
         f1 | SRV equal.svc.internal | b3:32768=192.0.2.2,2001:db8::2
         f1 | SRV more.svc.internal | b4:8080=192.0.2.2,2001:db8::2
         f1 | AAAA b40000000000.more.shop.svc.internal | 2001:db8::2",
    );
}

#[test]
fn an_instance_has_one_address_and_only_ports_that_work_there() {
    two_hosts(
        "host b 192.0.2.2
           b1 @theirs=172.30.0.2 web.shop main=443 80/tcp>198.51.100.1:80 443/tcp>198.51.100.2:443
           b3 @theirs=172.30.0.4 two.shop 80/tcp~0.0.0.0:7000>0.0.0.0:8080
           b2 @theirs=172.30.0.3 api.shop 80/tcp~198.51.100.1:80>198.51.100.2:8080",
    )
    .check(
        "f1 | A b10000000000.web.shop.svc.internal | 198.51.100.2
         f1 | SRV web.svc.internal | b1:443=198.51.100.2
         f1 | A api.svc.internal | 198.51.100.2
         f1 | SRV api.svc.internal | b2:8080=198.51.100.2
         f1 | SRV two.svc.internal | b3:8080=192.0.2.2",
    );
}

#[test]
fn a_portless_service_is_reached_directly_or_not_at_all() {
    two_hosts(
        "host own 192.0.2.1
           a1 @front=172.18.0.2 job.shop
           a2 @host job.shop
           a3 @front=172.18.0.3 mixed.shop
           a4 @front=172.18.0.4 mixed.shop 80/tcp
           a5 @front=172.18.0.5 halves.shop
         host b 192.0.2.2
           b1 @theirs=172.30.0.2 job.shop
           b2 @theirs=172.30.0.3 halves.shop 80/tcp",
    )
    .check(
        "f1 | A job.svc.internal | 172.18.0.2 192.0.2.1
         f2 | A job.svc.internal | 192.0.2.1
         f1 | SRV job.svc.internal | NODATA
         f1 | A mixed.svc.internal | 172.18.0.4
         f1 | A halves.svc.internal | 172.18.0.5",
    );
}

#[test]
fn what_is_left_out_has_a_reason() {
    let world = two_hosts(
        "host own 192.0.2.1
           a1 @back=172.19.0.2 web.shop 80/tcp>0.0.0.0:8081
         host b 192.0.2.2
           b1 @theirs=172.30.0.2 web.shop 80/tcp>172.18.0.1:8080
           b2 @theirs=172.30.0.3 web.shop 80/tcp>127.0.0.1:8080
         host silent
           c1 @theirs=172.30.0.2 web.shop 80/tcp>0.0.0.0:8080",
    );
    for (who, container, expected) in [
        ("f2", "a1", Ok(Rule::SharedNetwork)),
        ("host", "a1", Ok(Rule::HostsBridge)),
        ("stranger", "a1", Ok(Rule::Published)),
        ("f1", "a1", Err(Obstacle::NoProxy)),
        ("mac", "a1", Err(Obstacle::NoBridge)),
        ("in", "a1", Err(Obstacle::Confined)),
        ("f1", "b1", Err(Obstacle::OtherHostsOnly)),
        ("f1", "b2", Err(Obstacle::NotPublished)),
        ("f1", "c1", Err(Obstacle::NoHostAddress)),
    ] {
        let source = world.source(who);
        let view = Viewpoint::new(&world.local, &[], &source);
        let id = crate::dns::fixture::short(container);
        let all = world.zone.service("shop", "web").unwrap();
        let candidate = all.iter().find(|candidate| candidate.publication.container == id).unwrap();
        assert_eq!(view.way(candidate, Family::V4).map(|way| way.rule), expected, "{who} to {container}");
    }
}

#[test]
fn an_asker_whose_networks_are_not_known_is_confined() {
    let world = World::parse("asker f1 shop gone=172.18.0.9");
    let source = world.source("f1");
    assert!(Viewpoint::new(&world.local, &[], &source).is_confined());
    assert!(Viewpoint::new(&world.local, &[], &Source::Unknown).is_confined());
    assert!(!Viewpoint::new(&world.local, &[], &Source::Host).is_confined());
}

#[test]
fn the_most_frequent_number_is_the_lower_of_two() {
    for (numbers, expected) in
        [(&[][..], None), (&[80], Some(80)), (&[80, 443, 443], Some(443)), (&[8080, 80], Some(80))]
    {
        assert_eq!(one_port::most_frequent(numbers.iter().copied()), expected, "{numbers:?}");
    }
}

/// Found on real engines: with a bridge beside the macvlan, packets to the own host still leave by the macvlan, whose
/// subnet holds its address, and get nowhere.
#[test]
fn a_macvlan_that_holds_the_hosts_address_hides_the_host_whatever_bridges_there_are() {
    two_hosts(
        "asker six shop near=192.0.2.79 six=fd00:19::79
         host own 192.0.2.1 2001:db8::1
           a1 @front=172.18.0.2,fd00:18::2 web.shop 80/tcp>0.0.0.0:8080>[::]:8080
           a2 @host own.shop 80/tcp
           a3 @near=192.0.2.78 lan.shop 80/tcp
         host b 192.0.2.2
           b1 @theirs=172.18.0.2 far.shop 80/tcp>0.0.0.0:8080",
    )
    .check(
        "two | A web.svc.internal | NODATA
         two | AAAA web.svc.internal | NODATA
         six | A web.svc.internal | NODATA
         six | AAAA web.svc.internal | 2001:db8::1
         two | A own.svc.internal | NODATA
         two | A lan.svc.internal | 192.0.2.78
         two | A far.svc.internal | 192.0.2.2
         f2 | A web.svc.internal | 192.0.2.1
         mac | A far.svc.internal | 192.0.2.2",
    );
}
