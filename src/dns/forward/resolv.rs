//! Which servers resolv.conf means for us. Pure; the file is read in `forward.rs`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::super::listen::DNS_PORT;

/// More servers than this are ignored: a query could not try them all before its client gives up. glibc takes 3.
pub(super) const MAX_UPSTREAMS: usize = 8;

/// systemd-resolved's two stubs. They cannot be followed, for they may hand our own zone back to us.
const RESOLVED_STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// What the agent answers on and lives on: none of it may be an upstream, or queries go round in circles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Where we listen, or want to.
    pub(super) listens: BTreeSet<SocketAddr>,
    /// The addresses of this host's interfaces: a wildcard listener answers on each.
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Own {
    /// Whether asking there is asking ourselves.
    pub(super) fn is_own(&self, upstream: SocketAddr) -> bool {
        let ip = upstream.ip();
        let here = ip.is_loopback() || ip.is_unspecified() || self.addresses.contains(&ip);
        self.listens.iter().any(|listen| {
            listen.port() == upstream.port()
                && (listen.ip() == ip
                    || here && listen.ip().is_unspecified() && listen.is_ipv4() == upstream.is_ipv4()
                    // Asking 0.0.0.0 is asking loopback.
                    || ip.is_unspecified() && listen.ip().is_loopback())
        })
    }
}

/// The `nameserver` lines, in order, without repetition. Whatever else is in the file is not ours to judge.
pub(super) fn nameservers(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone (`fe80::1%eth0`) names an interface; such a server cannot be connected to without it.
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let ip = ip.to_canonical();
        if !servers.contains(&ip) {
            servers.push(ip);
        }
    }
    servers
}

/// The search list: the last `search` or `domain` line counts (resolv.conf(5)).
pub(super) fn search(text: &str) -> Vec<String> {
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next()?, "search" | "domain").then_some(words)
    });
    let last = lines.next_back().into_iter().flatten();
    last.map(|domain| domain.trim_end_matches('.').to_ascii_lowercase()).filter(|domain| !domain.is_empty()).collect()
}

/// Whether only systemd-resolved's stub is named, so that the real servers stand in its own file.
pub(super) fn is_only_resolved(servers: &[IpAddr]) -> bool {
    !servers.is_empty() && servers.iter().all(|server| RESOLVED_STUBS.contains(server))
}

/// The servers to ask, in order: at most [`MAX_UPSTREAMS`], never ourselves.
pub(super) fn usable(servers: impl IntoIterator<Item = SocketAddr>, own: &Own) -> Vec<SocketAddr> {
    servers.into_iter().filter(|server| !own.is_own(*server)).take(MAX_UPSTREAMS).collect()
}

/// Port 53 of each.
pub(super) fn at_dns_port(servers: Vec<IpAddr>) -> impl Iterator<Item = SocketAddr> {
    servers.into_iter().map(|ip| SocketAddr::new(ip, DNS_PORT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nameserver_lines_are_read_as_resolvers_read_them() {
        let text = "# made by hand\nsearch example.org\nnameserver 10.0.0.1\n  nameserver\t2001:db8::1  # second\n\
                    nameserver\nnameserver ns.example.org\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\n;nameserver 10.0.0.3\n\
                    options ndots:1\nnameserver ::ffff:10.0.0.2";
        assert_eq!(nameservers(text), ips(&["10.0.0.1", "2001:db8::1", "10.0.0.2"]));
        assert_eq!(nameservers(""), ips(&[]));
    }

    #[test]
    fn the_last_search_line_counts() {
        for (text, expected) in [
            ("search Corp.Test. svc.internal\n", &["corp.test", "svc.internal"][..]),
            ("search a.test\nnameserver 10.0.0.1\ndomain b.test\n", &["b.test"]),
            ("search .\n", &[]),
            ("# search a.test\nresearch b.test", &[]),
        ] {
            assert_eq!(search(text), expected, "{text:?}");
        }
    }

    #[test]
    fn resolved_alone_is_told_from_resolved_among_others() {
        assert!(is_only_resolved(&ips(&["127.0.0.53"])));
        assert!(is_only_resolved(&ips(&["127.0.0.53", "127.0.0.54"])));
        assert!(!is_only_resolved(&ips(&["127.0.0.53", "10.0.0.1"])));
        assert!(!is_only_resolved(&[]));
    }

    #[test]
    fn we_are_never_our_own_upstream() {
        let own = |listens: &[&str]| Own {
            listens: listens.iter().map(|text| text.parse().unwrap()).collect(),
            addresses: ips(&["192.0.2.1", "2001:db8::1"]).into_iter().collect(),
        };
        let cases: [(&[&str], &str, bool); 10] = [
            (&["172.17.0.1:53"], "172.17.0.1:53", true),
            (&["172.17.0.1:53"], "172.17.0.2:53", false),
            (&["127.0.0.1:5300"], "127.0.0.1:53", false),
            (&["127.0.0.1:53"], "127.0.0.53:53", false),
            (&["0.0.0.0:53"], "127.0.0.53:53", true),
            (&["0.0.0.0:53"], "192.0.2.1:53", true),
            (&["0.0.0.0:53"], "192.0.2.2:53", false),
            (&["0.0.0.0:53"], "[2001:db8::1]:53", false),
            (&["[::]:53"], "[2001:db8::1]:53", true),
            (&["127.0.0.1:53"], "0.0.0.0:53", true),
        ];
        for (listens, upstream, expected) in cases {
            assert_eq!(
                own(listens).is_own(upstream.parse().unwrap()),
                expected,
                "{upstream} while we listen on {listens:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "(nameserver|[0-9.:%# \t\n]){0,40}") {
            nameservers(&text);
        }
    }
}
