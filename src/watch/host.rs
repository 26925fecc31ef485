//! \[IO\] What the host knows of itself: addresses of its interfaces, the ports that docker-proxy holds, the network
//! namespaces of containers, the source address towards a destination. Linux only, through the kernel's own tables; nothing is sent.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::asker::Proxies;
use crate::model::Proto;

/// Addresses of all interfaces, loopback among them.
pub fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

/// Most of a command line that is read. docker-proxy's has some 200 octets and the path of its program; a longer one is
/// somebody else's.
const MAX_COMMAND_LINE: u64 = 4096;

/// Who holds the ports that Docker publishes, by the processes in `proc` (`/proc`).
///
/// Only a process says it: with `userland-proxy=false` dockerd listens on them itself, so the kernel's tables of sockets
/// look the same. And whose socket it is only a tracer may see, which an agent without capabilities is not; command
/// lines everybody may read.
pub fn proxies(proc: &Path) -> io::Result<Proxies> {
    let mut held = BTreeSet::new();
    let mut engine = false;
    let mut line = Vec::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        line.clear();
        let path = entry.path();
        // A process may end between the two, or be hidden from us: then it has nothing to say.
        let read = File::open(path.join("cmdline")).and_then(|file| file.take(MAX_COMMAND_LINE).read_to_end(&mut line));
        let Some(role) = read.ok().and_then(|_| Role::of(&line)) else { continue };
        if !fs::read_to_string(path.join("status")).is_ok_and(|status| is_of_this_namespace(&status)) {
            continue;
        }
        engine = true;
        if let Role::Proxy(proto, port) = role {
            held.insert((proto, port));
        }
    }
    Ok(if engine { Proxies::Seen(held.into()) } else { Proxies::Unseen })
}

/// What a process is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// dockerd: where it is seen, its proxies are too.
    Engine,
    /// docker-proxy for this port.
    Proxy(Proto, u16),
}

impl Role {
    /// Reads a command line, its words ended by NUL. The proxy's program may be anybody's (`--userland-proxy-path`), so
    /// it is known by its flags, which are the same in all engines since 2014.
    fn of(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|octet| *octet == 0).map(|word| str::from_utf8(word).unwrap_or_default());
        let program = words.next()?;
        if program.rsplit('/').next()?.starts_with("dockerd") {
            return Some(Self::Engine);
        }
        let (mut proto, mut port, mut container) = (None, None, false);
        while let Some(word) = words.next() {
            match word {
                "-proto" => proto = words.next().and_then(Proto::parse),
                "-host-port" => port = words.next().and_then(|text| text.parse().ok()),
                "-container-ip" => container = true,
                _ => {}
            }
        }
        container.then_some(Self::Proxy(proto?, port?))
    }
}

/// Whether a process lives in the namespace whose processes we see, rather than in one below it: a container may call
/// its processes what it likes. `status` is the file of that name; kernels before 4.1 do not tell.
fn is_of_this_namespace(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_none_or(|ids| ids.split_ascii_whitespace().count() == 1)
}

/// The inode of the network namespace that a container's process is in, by `proc` (`/proc`). `None` where the processes of
/// the host are not visible, or not ours to look into (that takes root's rights, or `CAP_SYS_PTRACE`).
///
/// The number is Docker's. In a process namespace of our own it may be another process: the container's id in the path of
/// its control group says that it is the right one.
pub fn network_namespace(proc: &Path, process: i64, container: &str) -> Option<u64> {
    let path = proc.join(process.to_string());
    let is_meant = fs::read_to_string(path.join("cgroup")).ok()?.contains(container);
    let inode = || fs::metadata(path.join("ns/net")).ok().map(|namespace| namespace.ino());
    if is_meant { inode() } else { None }
}

/// The address this host would send from to reach `destination`. Connecting a UDP socket asks the routing table only.
pub fn source_towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

/// The source addresses of the default routes, IPv4 first; a family without one is left out.
///
/// Asked towards addresses reserved for documentation (RFC 5737, RFC 3849), which only a default route covers.
pub fn default_source() -> Vec<IpAddr> {
    let nowhere: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let sources = nowhere.into_iter().filter_map(|ip| source_towards(SocketAddr::new(ip, 9)).ok());
    sources.filter(|ip| !ip.is_unspecified()).collect()
}

/// What the machine calls itself; empty where it cannot be told. In a container that shares the host's network Docker gives
/// it the host's name.
pub fn hostname() -> std::sync::Arc<str> {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    text.trim().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_loopback_address_is_among_the_addresses() {
        assert!(addresses().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    /// A `/proc` with these processes: id, command line, ids in the namespaces it is in; `-`: no such file.
    fn proc(processes: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (id, line, ids) in processes {
            let path = proc.path().join(id);
            fs::create_dir(&path).unwrap();
            if *line != "-" {
                fs::write(path.join("cmdline"), line.replace(' ', "\0")).unwrap();
            }
            fs::write(path.join("status"), format!("Name:\tx\nNSpid:\t{}\nThreads:\t1\n", ids.replace(' ', "\t")))
                .unwrap();
        }
        fs::write(proc.path().join("uptime"), "1.0 1.0").unwrap();
        proc
    }

    const PROXY: &str = "/usr/sbin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80 ";

    #[test]
    fn the_ports_that_docker_proxy_holds_are_those_its_processes_name() {
        type Process<'a> = (&'a str, &'a str, &'a str);
        let seen = |ports: &[(Proto, u16)]| Proxies::Seen(Arc::new(ports.iter().copied().collect()));
        let six = PROXY.replace("0.0.0.0", "::");
        let udp = PROXY.replace("tcp", "udp").replace("8080", "53");
        let sctp = PROXY.replace("tcp", "sctp");
        let newer = format!("{PROXY}-use-listen-fd ");
        let elsewhere = PROXY.replace("/usr/sbin/docker-proxy", "/opt/my-proxy");
        let no_port = PROXY.replace("8080", "65536");
        let no_proto = PROXY.replace("tcp", "quic");
        let long = format!("/{} {PROXY}", "x".repeat(5000));
        let init = ("1", "/sbin/init ", "1");
        let dockerd = ("7", "/usr/sbin/dockerd -H fd:// --userland-proxy=false ", "7");
        let rows: &[(&[Process<'_>], Proxies)] = &[
            (&[init, dockerd, ("8", PROXY, "8"), ("9", &six, "9")], seen(&[(Proto::Tcp, 8080)])),
            (&[init, ("8", &udp, "8"), ("9", &sctp, "9")], seen(&[(Proto::Udp, 53), (Proto::Sctp, 8080)])),
            (&[("8", &newer, "8")], seen(&[(Proto::Tcp, 8080)])),
            (&[("8", &elsewhere, "8")], seen(&[(Proto::Tcp, 8080)])),
            // userland-proxy=false: the engine is seen, and holds the port itself.
            (&[init, dockerd], seen(&[])),
            (&[("5", "dockerd ", "5")], seen(&[])),
            // A container of the agent's own: nothing of the host is seen.
            (&[("1", "portolan agent ", "1")], Proxies::Unseen),
            (&[], Proxies::Unseen),
            // Somebody inside a container calls himself so.
            (&[dockerd, ("8", PROXY, "8 1")], seen(&[])),
            (&[("7", "dockerd ", "7 1"), ("8", PROXY, "8 2")], Proxies::Unseen),
            // Gone, a thread of the kernel, and what is no proxy.
            (
                &[dockerd, ("8", "-", "8"), ("9", "", "9"), ("10", "portolan -proto tcp -host-port 8080 ", "10")],
                seen(&[]),
            ),
            (&[dockerd, ("8", &no_port, "8"), ("9", &no_proto, "9"), ("10", &long, "10")], seen(&[])),
            // Not a process.
            (&[dockerd, ("self", PROXY, "8")], seen(&[])),
        ];
        for (processes, expected) in rows {
            assert_eq!(proxies(proc(processes).path()).unwrap(), *expected, "{processes:?}");
        }
    }

    #[test]
    fn a_kernel_that_tells_no_namespaces_is_believed() {
        let proc = proc(&[("8", PROXY, "8")]);
        fs::write(proc.path().join("8/status"), "Name:\tdocker-proxy\n").unwrap();
        assert_eq!(proxies(proc.path()).unwrap(), Proxies::Seen(Arc::new([(Proto::Tcp, 8080)].into())));
        assert!(proxies(&proc.path().join("nothing")).is_err());
    }

    #[test]
    fn a_namespace_is_told_of_the_process_that_is_the_container_s_alone() {
        let (meant, other) = ("0123456789abcdef", "fedcba9876543210");
        let proc = proc(&[("7", "sleep ", "7"), ("8", "sleep ", "8"), ("9", "-", "9")]);
        for (process, container) in [("7", meant), ("8", other)] {
            let path = proc.path().join(process);
            fs::create_dir(path.join("ns")).unwrap();
            fs::write(path.join("ns/net"), "").unwrap();
            fs::write(path.join("cgroup"), format!("12:pids:/docker/{container}\n0::/../docker-{container}.scope\n"))
                .unwrap();
        }
        fs::write(proc.path().join("9/cgroup"), format!("0::/{meant}")).unwrap();
        let inode = fs::metadata(proc.path().join("7/ns/net")).unwrap().ino();
        for (process, expected) in [(7, Some(inode)), (8, None), (9, None), (10, None)] {
            assert_eq!(network_namespace(proc.path(), process, meant), expected, "{process}");
        }
    }

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        let source = source_towards("127.0.0.9:53".parse().unwrap()).unwrap();
        assert_eq!(source, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
