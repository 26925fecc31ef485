//! Addresses that nobody has on the internet. Pure.
//!
//! A name of somebody on the internet that leads to one of them leads its asker to its own network: so a web page makes a
//! browser, or a service that fetches what it is told to, ask what only neighbours may ask (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr};

const A: u16 = 1;
const AAAA: u16 = 28;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;

/// Keys of a service's parameters (RFC 9460 section 14.3.2).
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// Whether an address is that of a host for itself or for its neighbours: RFC 6890's loopback, link-local, private and
/// shared ones, and those of "this network"; for IPv6 also RFC 4193's, and all of these mapped into it.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            first == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_private()
                || is_shared
                || ip == Ipv4Addr::BROADCAST
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

/// Whether a record leads to such an address. What cannot be read leads nowhere.
pub(super) fn leads_inside(kind: u16, data: &[u8]) -> bool {
    match kind {
        A => <[u8; 4]>::try_from(data).is_ok_and(|octets| is_private(octets.into())),
        AAAA => <[u8; 16]>::try_from(data).is_ok_and(|octets| is_private(octets.into())),
        SVCB | HTTPS => hints_inside(data).unwrap_or(false),
        _ => false,
    }
}

/// The addresses that a service's record hints at (RFC 9460 sections 2.2 and 7.3).
fn hints_inside(data: &[u8]) -> Option<bool> {
    // Behind the priority stands the target's name, which is never compressed.
    let mut rest = data.get(2..)?;
    loop {
        let (length, tail) = rest.split_first()?;
        rest = tail.get(usize::from(*length)..)?;
        if *length == 0 {
            break;
        }
    }
    let mut found = false;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let [key, length] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
        let (value, next) = tail.split_at_checked(length.into())?;
        found |= match key {
            IPV4_HINT => value.as_chunks::<4>().0.iter().any(|octets| is_private((*octets).into())),
            IPV6_HINT => value.as_chunks::<16>().0.iter().any(|octets| is_private((*octets).into())),
            _ => false,
        };
        rest = next;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_the_private_ranges() {
        for (address, expected) in [
            ("0.0.0.0", true),
            ("0.255.255.255", true),
            ("1.0.0.0", false),
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("100.63.255.255", false),
            ("100.64.0.0", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("127.0.0.1", true),
            ("128.0.0.1", false),
            ("169.253.255.255", false),
            ("169.254.169.254", true),
            ("172.15.255.255", false),
            ("172.16.0.0", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.167.255.255", false),
            ("192.168.0.1", true),
            ("192.169.0.0", false),
            ("255.255.255.255", true),
            ("::", true),
            ("::1", true),
            ("::2", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
            ("fbff::1", false),
            ("fc00::1", true),
            ("fdff::1", true),
            ("fe00::1", false),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
        }
    }
    #[test]
    fn hints_of_a_service_are_addresses_too() {
        // Priority 1, target `a.`, then parameters: key, length, value.
        let record = |parameters: &[u8]| [&[0, 1, 1, b'a', 0], parameters].concat();
        let cases: [(&[u8], bool); 8] = [
            (&[], false),
            (&[0, 4, 0, 4, 8, 8, 8, 8], false),
            (&[0, 4, 0, 8, 8, 8, 8, 8, 10, 0, 0, 1], true),
            (&[0, 1, 0, 3, 2, b'h', b'2', 0, 4, 0, 4, 192, 168, 1, 1], true),
            (&[0, 6, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], true),
            (&[0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], false),
            // A port is no address; and what is cut off is not read.
            (&[0, 3, 0, 2, 10, 0], false),
            (&[0, 4, 0, 9, 10, 0, 0, 1], false),
        ];
        for (parameters, expected) in cases {
            for kind in [SVCB, HTTPS] {
                assert_eq!(leads_inside(kind, &record(parameters)), expected, "{parameters:?}");
            }
        }
        for data in [&[][..], &[0, 1], &[0, 1, 63, b'a']] {
            assert!(!leads_inside(HTTPS, data));
        }
        assert!(leads_inside(A, &[10, 0, 0, 1]) && !leads_inside(A, &[10, 0, 0]) && !leads_inside(16, &[10, 0, 0, 1]));
    }
}
