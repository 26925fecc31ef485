//! Who else holds a port that we answer on, by the kernel's tables of sockets and the processes in `/proc`. \[IO\]
//!
//! A server on the wildcard address and one on an address of its own cannot both have a port. The second one fails, so
//! that such a process is looked for as long as one of our addresses cannot be bound. One that shares its port
//! (SO_REUSEPORT, the same user) may come second and not fail: it is found because it is looked for every few seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use crate::{dns::server::BindState, model::Problem};

/// Another process's socket on a port that we want.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    /// Where it is bound.
    at: SocketAddr,
    process: Process,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Process {
    /// Its name, as the kernel cuts it off after 15 octets, and its number.
    Seen(String, u32),
    /// It belongs to this user, and may not be looked into; name servers that run here, one of which it may be.
    Hidden(u32, Vec<(String, u32)>),
}

/// A process by its name and number.
type Named = (String, u32);

/// A row of the kernel's tables.
struct Socket {
    at: SocketAddr,
    user: u32,
    inode: u64,
}

/// Which of the kernel's tables are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    /// UDP alone: few sockets, whatever runs here.
    Udp,
    /// TCP, too: as many as there are connections.
    All,
}

/// Names of servers that usually answer DNS, as the kernel cuts them off, and how each is kept from answering everywhere.
const SERVERS: [(&str, &str); 8] = [
    (
        "dnsmasq",
        "`bind-dynamic`, `except-interface=docker0` and `except-interface=br-*` in /etc/dnsmasq.conf, so that it leaves \
         Docker's bridges alone; then `systemctl restart dnsmasq`",
    ),
    (
        "systemd-resolve",
        "no `DNSStubListenerExtra=` in /etc/systemd/resolved.conf (for its stub, `DNSStubListener=no`); then \
         `systemctl restart systemd-resolved`",
    ),
    ("named", "`listen-on { 127.0.0.1; };` and `listen-on-v6 { ::1; };` among the options of named.conf"),
    ("unbound", "`interface: 127.0.0.1` in unbound.conf, and no `interface: 0.0.0.0`, `::0` or `interface-automatic`"),
    ("coredns", "`bind 127.0.0.1` in each server block of the Corefile"),
    ("docker-proxy", "the container's port published on one address of this host, such as `-p 10.0.0.5:53:53`"),
    ("dockerd", "the container's port published on one address of this host, such as `-p 10.0.0.5:53:53`"),
    ("portolan", "one agent a host, or `--dns` with other addresses"),
];

/// All sockets of others on these ports. `proc` is `/proc`; what of it cannot be read is as good as not there.
pub(super) fn look(proc: &Path, ports: &BTreeSet<u16>, tables: Tables) -> BTreeSet<Holder> {
    let names: &[&str] = match tables {
        Tables::Udp => &["udp", "udp6"],
        Tables::All => &["udp", "udp6", "tcp", "tcp6"],
    };
    let mut sockets: Vec<Socket> = Vec::new();
    for name in names {
        let text = fs::read_to_string(proc.join("net").join(name)).unwrap_or_default();
        let is_tcp = name.starts_with("tcp");
        sockets.extend(text.lines().filter_map(|line| row(line, is_tcp)).filter(|row| ports.contains(&row.at.port())));
    }
    let ours = inodes(&proc.join("self")).unwrap_or_default();
    sockets.retain(|socket| !ours.contains(&socket.inode));
    if sockets.is_empty() {
        return BTreeSet::new();
    }
    let wanted: BTreeSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let (found, hidden) = processes(proc, &wanted);
    let holder = |socket: Socket| Holder {
        at: socket.at,
        process: match found.get(&socket.inode) {
            Some((name, number)) => Process::Seen(name.clone(), *number),
            None => Process::Hidden(socket.user, hidden.clone()),
        },
    };
    sockets.into_iter().map(holder).collect()
}

/// The processes that have these sockets; and name servers that may not be looked into.
fn processes(proc: &Path, wanted: &BTreeSet<u64>) -> (BTreeMap<u64, Named>, Vec<Named>) {
    let (mut found, mut hidden) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let path = entry.path();
        let name = || fs::read_to_string(path.join("comm")).map(|name| name.trim_end().to_owned()).unwrap_or_default();
        match inodes(&path) {
            Ok(held) => {
                for inode in held.intersection(wanted) {
                    // Of several, a child and its parent, the parent is older.
                    found.entry(*inode).or_insert_with(|| (name(), number));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let name = name();
                if SERVERS.iter().any(|(known, _)| *known == name) {
                    hidden.push((name, number));
                }
            }
            // It has ended.
            Err(_) => {}
        }
    }
    hidden.sort();
    (found, hidden)
}

/// The inodes of a process's sockets.
fn inodes(process: &Path) -> io::Result<BTreeSet<u64>> {
    let descriptors = fs::read_dir(process.join("fd"))?.flatten();
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(descriptors.filter_map(inode).collect())
}

/// A row of `/proc/net/udp` and its like: number, local address, remote address, state, two of queues and timers each, user,
/// timeout, inode (proc(5)). Of TCP only listeners count.
fn row(line: &str, is_tcp: bool) -> Option<Socket> {
    const LISTENS: &str = "0A";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, state, _, _, _, user, _, inode, ..] = words[..] else { return None };
    if is_tcp && state != LISTENS {
        return None;
    }
    Some(Socket {
        at: address(local)?,
        user: user.parse().ok()?,
        inode: inode.parse().ok().filter(|inode| *inode != 0)?,
    })
}

/// `0100007F:0035`: words of 32 bits as this machine reads them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// The ports that are worth a look, and how closely: TCP's tables may be long, so they wait until an address cannot be bound.
pub(super) fn worth_a_look(bound: &BTreeMap<SocketAddr, BindState>) -> Option<(BTreeSet<u16>, Tables)> {
    let ports: BTreeSet<u16> = bound.keys().map(SocketAddr::port).collect();
    let has_failed = bound.values().any(|state| matches!(state, BindState::Failed { .. }));
    (!ports.is_empty()).then_some((ports, if has_failed { Tables::All } else { Tables::Udp }))
}

/// What is to be said of those who keep us from answering, or would answer in our place.
pub(super) fn problems(holders: &BTreeSet<Holder>, bound: &BTreeMap<SocketAddr, BindState>) -> Vec<Problem> {
    let overlaps = |holder: &Holder, ours: &SocketAddr| {
        let (theirs, ours) = (holder.at, *ours);
        // A wildcard of IPv6 holds the port of IPv4, too, unless it was told not to.
        let holds_all = theirs.ip().is_unspecified() && (theirs.is_ipv6() || ours.is_ipv4());
        let wants_all = ours.ip().is_unspecified() && ours.is_ipv4() == theirs.is_ipv4();
        theirs.port() == ours.port() && (theirs.ip() == ours.ip() || holds_all || wants_all)
    };
    let matters = |holder: &&Holder| {
        bound.iter().filter(|(ours, _)| overlaps(holder, ours)).any(|(_, state)| match state {
            BindState::Failed { .. } => true,
            BindState::Bound { .. } | BindState::Secured => holder.at.ip().is_unspecified(),
        })
    };
    holders.iter().filter(matters).map(problem).collect()
}

fn problem(holder: &Holder) -> Problem {
    let Holder { at, process } = holder;
    let list = |all: &[(String, u32)]| {
        all.iter().map(|(name, number)| format!("{name} (process {number})")).collect::<Vec<_>>().join(", ")
    };
    let (found, server) = match process {
        Process::Seen(name, number) => (format!("{name} (process {number})"), Some(name)),
        Process::Hidden(user, known) => {
            let hint = if known.is_empty() { String::new() } else { format!("; {} runs here", list(known)) };
            let found = format!("a process of user {user} that we may not see{hint}");
            let only = if let [(name, _)] = known.as_slice() { Some(name) } else { None };
            (found, only)
        }
    };
    let line = server.and_then(|server| SERVERS.iter().find(|(known, _)| server == known)).map(|(_, line)| *line);
    let port = at.port();
    let line = line.map_or_else(
        || format!("its setting for the addresses that it answers on (`listen`, `bind`) without all of them; `ss -lntup sport = :{port}` shows it"),
        str::to_owned,
    );
    let sight = match process {
        Process::Seen(..) => "",
        Process::Hidden(..) => " (CAP_SYS_PTRACE and `pid: host` let the agent see whose it is)",
    };
    let whose = if at.ip().is_unspecified() { "all addresses".to_owned() } else { at.ip().to_string() };
    Problem::new(format!("port {port} of {whose}"), &found, format!("{line}{sight}; this agent tries again by itself"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

    fn table_row(local: &str, state: &str, user: u32, inode: u64) -> String {
        format!(
            " 1204: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {user:>5} 0 {inode} 2 0 0\n"
        )
    }

    /// Processes by number: name and inodes; a `None` has no readable descriptors, and is as if it had ended.
    fn proc(tables: &[(&str, String)], processes: &[(&str, &str, &[u64])]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("net")).unwrap();
        for (name, rows) in tables {
            fs::write(proc.path().join("net").join(name), format!("{HEAD}{rows}")).unwrap();
        }
        for (number, name, inodes) in processes {
            let path = proc.path().join(number);
            fs::create_dir_all(path.join("fd")).unwrap();
            fs::write(path.join("comm"), format!("{name}\n")).unwrap();
            symlink("/dev/null", path.join("fd/0")).unwrap();
            for (place, inode) in inodes.iter().enumerate() {
                symlink(format!("socket:[{inode}]"), path.join(format!("fd/{}", place + 3))).unwrap();
            }
        }
        proc
    }

    fn shown(holders: &BTreeSet<Holder>) -> Vec<String> {
        let show = |holder: &Holder| match &holder.process {
            Process::Seen(name, number) => format!("{} {name} {number}", holder.at),
            Process::Hidden(user, known) => format!("{} user {user} {known:?}", holder.at),
        };
        holders.iter().map(show).collect()
    }

    /// Words of the kernel's tables are of this machine's octet order; the texts are of a little-endian one.
    fn ip(text: &str) -> String {
        match text.parse::<SocketAddr>().unwrap() {
            SocketAddr::V4(at) => format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port()),
            SocketAddr::V6(at) => {
                let octets = at.ip().octets();
                let words: String =
                    octets.as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
                format!("{words}:{:04X}", at.port())
            }
        }
    }

    #[test]
    fn the_process_that_has_a_port_is_found_by_its_socket() {
        let udp = [
            table_row(&ip("0.0.0.0:53"), "07", 0, 11),
            table_row(&ip("127.0.0.53:53"), "07", 101, 12),
            table_row(&ip("172.17.0.1:53"), "07", 0, 13),
            table_row(&ip("0.0.0.0:5353"), "07", 0, 14),
        ];
        let tcp = [table_row(&ip("0.0.0.0:53"), "0A", 0, 15), table_row(&ip("10.0.0.5:53"), "01", 0, 16)];
        let udp6 = table_row(&ip("[::]:53"), "07", 53, 17);
        let proc = proc(
            &[("udp", udp.concat()), ("tcp", tcp.concat()), ("udp6", udp6)],
            &[
                ("self", "portolan", &[13]),
                ("9", "portolan", &[13]),
                ("812", "dnsmasq", &[11, 15]),
                ("99", "systemd-resolve", &[12]),
            ],
        );
        let ports = BTreeSet::from([53]);
        let expected = ["0.0.0.0:53 dnsmasq 812", "127.0.0.53:53 systemd-resolve 99", "[::]:53 user 53 []"];
        assert_eq!(shown(&look(proc.path(), &ports, Tables::All)), expected);
        assert_eq!(shown(&look(proc.path(), &ports, Tables::Udp)), expected, "udp alone shows them, too");
        assert_eq!(shown(&look(proc.path(), &BTreeSet::from([5353]), Tables::Udp)), ["0.0.0.0:5353 user 0 []"]);
        assert_eq!(look(&proc.path().join("nothing"), &ports, Tables::All), BTreeSet::new());
    }

    #[test]
    fn this_process_is_not_its_own_holder_and_another_is() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let held = look(Path::new("/proc"), &BTreeSet::from([port]), Tables::Udp);
        assert!(held.iter().all(|holder| holder.at != socket.local_addr().unwrap()), "{held:?}");
    }

    fn holder(at: &str, process: Process) -> BTreeSet<Holder> {
        [Holder { at: at.parse().unwrap(), process }].into()
    }

    fn states(texts: &[(&str, bool)]) -> BTreeMap<SocketAddr, BindState> {
        let state = |is_bound: bool| match is_bound {
            true => BindState::Bound { receive_buffer: 1 },
            false => BindState::Failed { reason: "address in use".into(), attempts: 1 },
        };
        texts.iter().map(|(address, is_bound)| (address.parse().unwrap(), state(*is_bound))).collect()
    }

    #[test]
    fn a_holder_is_told_whichever_came_first() {
        let dnsmasq = Process::Seen("dnsmasq".into(), 812);
        for (what, at, ours, is_told) in [
            ("it came first", "0.0.0.0:53", ("172.17.0.1:53", false), true),
            ("it came second, and shares", "0.0.0.0:53", ("172.17.0.1:53", true), true),
            ("it holds both families", "[::]:53", ("172.17.0.1:53", false), true),
            ("another family", "0.0.0.0:53", ("[fd00::1]:53", false), false),
            ("the same address", "172.17.0.1:53", ("172.17.0.1:53", false), true),
            ("an address of its own", "127.0.0.53:53", ("172.17.0.1:53", false), false),
            ("an address of its own beside us", "127.0.0.53:53", ("172.17.0.1:53", true), false),
            ("we want all", "127.0.0.53:53", ("0.0.0.0:53", false), true),
            ("another port", "0.0.0.0:53", ("127.0.0.1:5300", false), false),
        ] {
            let told = problems(&holder(at, dnsmasq.clone()), &states(&[ours]));
            assert_eq!(!told.is_empty(), is_told, "{what}");
        }
    }

    #[test]
    fn a_problem_names_the_process_and_the_line_to_change() {
        let ours = states(&[("172.17.0.1:53", false)]);
        let told = |process: Process| problems(&holder("0.0.0.0:53", process), &ours).remove(0);
        let seen = |name: &str| Process::Seen(name.to_owned(), 812);
        for (name, line) in [
            ("dnsmasq", "`bind-dynamic`, `except-interface=docker0`"),
            ("systemd-resolve", "no `DNSStubListenerExtra=` in /etc/systemd/resolved.conf"),
            ("docker-proxy", "`-p 10.0.0.5:53:53`"),
            ("mydns", "`ss -lntup sport = :53` shows it"),
        ] {
            let problem = told(seen(name));
            assert_eq!(problem.place, "port 53 of all addresses");
            assert_eq!(problem.found, format!("{name} (process 812)"));
            assert!(
                problem.expected.contains(line) && problem.expected.contains("tries again"),
                "{}",
                problem.expected
            );
        }
        let hidden = told(Process::Hidden(0, vec![("dnsmasq".to_owned(), 7)]));
        assert!(
            hidden.found.contains("user 0") && hidden.found.ends_with("dnsmasq (process 7) runs here"),
            "{hidden:?}"
        );
        assert!(hidden.expected.contains("bind-dynamic"));
        let unknown = told(Process::Hidden(5, vec![]));
        assert!(unknown.expected.contains("ss -lntup"), "{unknown:?}");
    }

    #[test]
    fn connections_are_not_gone_through_while_all_addresses_are_bound() {
        assert_eq!(worth_a_look(&states(&[])), None);
        assert_eq!(worth_a_look(&states(&[("172.17.0.1:53", true)])), Some(([53].into(), Tables::Udp)));
        let one_failed = states(&[("127.0.0.1:5300", false), ("172.17.0.1:53", true)]);
        assert_eq!(worth_a_look(&one_failed), Some(([53, 5300].into(), Tables::All)));
    }
}
