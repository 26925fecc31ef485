//! docs/resolvers.md: every snippet of the page, in the real program as Debian packages it, with a real agent and real
//! containers. A test reads its snippet from the page. It replaces what the page calls examples by what it has (the
//! agent's address, the namespace and the port of the service), and nothing else. What the program needs around the
//! snippet, such as where to listen or a root to validate against, stands in a file beside it.

mod balancers;
mod resolvers;
mod scaled;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use super::bed::{Home, address, engine_bed};
use crate::{
    engine::{Bed, docker},
    readme::snippet,
};

/// The image of the programs.
const IMAGE: &str = "portolan-test-front";
/// The agent's address on the page.
const AGENT: &str = "10.0.0.5";
/// The namespace and the port of the service `web` on the page.
const NAMESPACE: &str = ".shop.";
const PORT: u16 = 8080;
/// How long one request may take: longer than a load balancer tries.
const PATIENCE: Duration = Duration::from_secs(10);

/// A replica of the service: it serves its own short name.
struct Replica {
    short: &'static str,
    id: String,
    address: String,
}

/// An agent, two replicas of one service, and the files of the program before it.
struct Stage {
    bed: Bed,
    home: Home,
    network: String,
    gateway: String,
    folder: tempfile::TempDir,
    replicas: [Replica; 2],
}

impl Stage {
    #[track_caller]
    fn new(test: &str) -> Self {
        let bed = engine_bed(test);
        assert!(
            !docker(&["image", "ls", "-q", IMAGE]).is_empty(),
            "the image {IMAGE} is missing: run scripts/image.sh front, as `make test` does"
        );
        let network = bed.network("net", &[]);
        let gateway = docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network]);
        let home = Home::new(&["--dns", &format!("{gateway}:53")]);
        let folder = tempfile::tempdir().expect("a directory");
        // The weights are as different as the page wants them: multiples of 256.
        let replicas = [("one", 256), ("two", 768)].map(|(short, weight)| {
            let weight = format!("portolan.weight={weight}");
            let options = ["--network", &network, "--label", &weight];
            Replica { short, id: replica(&bed, short, PORT, &options), address: address(&bed.name(short)) }
        });
        Self { bed, home, network, gateway, folder, replicas }
    }

    /// The service's name in the zone.
    fn web(&self) -> String {
        format!("web{}svc.internal", namespace(&self.bed))
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).expect("a file");
    }

    /// A snippet of the page, with this test's values in the place of the examples.
    #[track_caller]
    fn snippet(&self, name: &str) -> String {
        snippet(name).replace(AGENT, &self.gateway).replace(NAMESPACE, &namespace(&self.bed))
    }

    /// Runs a script in a container of the programs, on the replicas' network. The files are in `/front`.
    #[track_caller]
    fn peer(&self, script: &str) -> Peer {
        Peer::run(&self.bed, "peer", &["--network", &self.network, "--dns", &self.gateway], self.folder.path(), script)
    }
}

/// The test's own namespace, as a part of a name: other tests on this engine have services called `web`, too.
fn namespace(bed: &Bed) -> String {
    format!(".{}.", bed.name("shop"))
}

/// Starts a replica of `web` that serves its own short name on this port, at once and after a tenth of a second, and a
/// metric.
#[track_caller]
fn replica(bed: &Bed, short: &str, port: u16, options: &[&str]) -> String {
    let script = format!(
        "/bin/busybox mkdir -p /srv/cgi-bin && cd /srv && echo {short} >index.html && echo 'web_up 1' >metrics && \
         printf '#!/bin/sh\n/bin/busybox sleep 0.1\necho\necho {short}\n' >cgi-bin/slow && \
         /bin/busybox chmod 755 cgi-bin/slow && exec /bin/busybox httpd -f -p {port} -h /srv"
    );
    let namespace = format!("portolan.namespace={}", bed.name("shop"));
    let (name, expose) = (format!("portolan.port.{port}.name=http"), port.to_string());
    let own = ["--expose", &expose, "--label", "portolan.service=web", "--label", &namespace, "--label", &name];
    bed.run(short, &[&own[..], options].concat(), &["sh", "-c", &script])
}

/// A container of the programs. What it logged is shown when the test fails.
struct Peer {
    name: String,
}

impl Peer {
    #[track_caller]
    fn run(bed: &Bed, short: &str, options: &[&str], folder: &Path, script: &str) -> Self {
        let mount = format!("{}:/front:ro", folder.display());
        // An asker of the service's namespace, and no part of the service.
        let namespace = format!("portolan.namespace={}", bed.name("shop"));
        let own = ["-v", &mount, "--label", &namespace, "--label", "portolan.ignore=true"];
        bed.run_image(IMAGE, short, &[&own[..], options].concat(), &["sh", "-euc", script]);
        Self { name: bed.name(short) }
    }

    fn log(&self) -> String {
        let output = Command::new("docker").args(["logs", &self.name]).output().expect("the `docker` client");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Its port, for requests from this host.
    fn at(&self, port: u16) -> SocketAddr {
        let address: Ipv4Addr = address(&self.name).parse().expect("an address");
        SocketAddr::from((address, port))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of {}\n{}\n---", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// The body of a page; whatever is not a whole reply with status 200 is an error.
fn fetch(at: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: shop.example.com\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    match reply.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => {
            let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
            let whole = if is_chunked { join(body) } else { Some(body.to_owned()) };
            whole.map(|body| body.trim().to_owned()).ok_or_else(|| io::Error::other("a page cut short"))
        }
        _ => Err(io::Error::other(format!("not a page: {:?}", reply.lines().next()))),
    }
}

/// A body that came in chunks (RFC 9112 section 7.1): HAProxy sends its statistics so, whatever the request's version.
fn join(mut chunks: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(rest.get(..size)?);
        chunks = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}
