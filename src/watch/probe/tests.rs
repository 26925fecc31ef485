//! Questions to servers on loopback and to small scripts; what they come to over time is tested in `health/tests.rs`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::*;
use crate::{
    model::{Check, Checks, Driver, Initial, Publication, ShortId},
    watch::health::{
        MAX_RUNNING,
        tests::{network, publication},
    },
};

/// For conditions that come true by themselves.
const DEADLINE: Duration = Duration::from_secs(20);

/// Signed by nobody, for nobody.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBeDCCAR+gAwIBAgIUGrXvCHiyqBYN9nHGajtpa3Lk098wCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMTE2MjE0N1oYDzIxMjYxMDI4MTYy\n\
MTQ3WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AARKIRr5fHAGgPcu7i0CEahp3jgTq+3cV9nTICO25dIw2OjKzrpWGGwT5iUVoAmw\n\
ozOXb/7TWPVpEjXi9L/fqYK0o1MwUTAdBgNVHQ4EFgQUjDwdOXj9DKwImEdpHEDD\n\
sxumTwgwHwYDVR0jBBgwFoAUjDwdOXj9DKwImEdpHEDDsxumTwgwDwYDVR0TAQH/\n\
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiA9hCIxbuue2/kQs9rTrqZWxzLnPrnu\n\
/Ul+96tv7J4DqgIgIFiC4/PjjFh2gSFpEmA1vJ42OBVsVMtLjuG5BHhd0/8=\n\
-----END CERTIFICATE-----";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgyLo6tbaKsAbr23pd\n\
IVEPao2W+HMqo4SK8MgZK74G3UehRANCAARKIRr5fHAGgPcu7i0CEahp3jgTq+3c\n\
V9nTICO25dIw2OjKzrpWGGwT5iUVoAmwozOXb/7TWPVpEjXi9L/fqYK0\n\
-----END PRIVATE KEY-----";

fn check(ask: Ask, port: Option<u16>) -> Check {
    let second = Duration::from_secs(1);
    Check { ask, port, interval: second, timeout: second, rise: 1, fall: 1, initial: Initial::Starting }
}

/// A question as the monitor would hand it out.
fn probe(ask: Ask, target: Option<SocketAddr>, timeout: Duration) -> Probe {
    let container = ShortId::parse("aaaaaaaaaaaa").unwrap();
    let mut monitor = Monitor::new(Commands::Allowed, Presume::AtFirst);
    let idle = Ask::Command { program: Unshown("x".into()), arguments: Box::default() };
    let docker = desired(container, check(idle, None));
    monitor.apply(Duration::ZERO, docker, &mut rand::rng());
    let mut probe = monitor.due(DEADLINE).remove(0);
    (probe.check.ask, probe.check.timeout, probe.target) = (ask, timeout, target);
    probe
}

/// One container on the host's network, with one check.
fn desired(container: ShortId, check: Check) -> Arc<Desired> {
    let host = network(Driver::Host, "");
    let publication = Publication { networks: [host].into(), ..publication(container) };
    let checks = Checks { life: 0, all: [check].into() };
    Arc::new(Desired {
        listed: true,
        publications: [(container, Arc::new(publication))].into_iter().collect(),
        checks: [(container, checks)].into_iter().collect(),
        ..Desired::default()
    })
}

fn get(path: &str) -> Ask {
    Ask::Http { security: Security::Plain, method: "GET", path: Unshown(path.into()) }
}

/// A server that gives each connection this reply once it has read a request's head, and tells the head.
async fn server(reply: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel(MAX_RUNNING);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or_default();
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = tell.send(String::from_utf8_lossy(&head[..length]).into_owned()).await;
                // Reads until the other side goes.
                let _ = stream.read(&mut head).await;
            });
        }
    });
    (address, told)
}

async fn outcome(ask: Ask, target: Option<SocketAddr>, timeout: Duration) -> Result<(), String> {
    super::ask(&probe(ask, target, timeout), Path::new("/nonexistent")).await
}

#[tokio::test]
async fn a_status_from_200_to_399_passes() {
    let rows = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.0 301 Moved\r\nLocation: https://elsewhere/\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\n\r\nand a body that never ends", ""),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        ("HTTP/1.1 429 Too Many\r\n\r\n", "status 429"),
        ("HTTP/1.1 503 Down\r\n\r\n", "status 503"),
        ("SSH-2.0-OpenSSH\r\n", "127.0.0.1"),
        ("", "no answer within"),
    ];
    for (reply, expected) in rows {
        let (address, mut heads) = server(reply).await;
        let timeout = if reply.is_empty() { Duration::from_millis(100) } else { DEADLINE };
        let found = outcome(get("/health?deep=1"), Some(address), timeout).await;
        match found {
            Ok(()) => assert_eq!(expected, "", "{reply:?}"),
            Err(error) => assert!(!expected.is_empty() && error.contains(expected), "{reply:?}: {error}"),
        }
        let head = heads.recv().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get /health?deep=1 http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {address}\r\n")) && head.contains("user-agent: portolan/"), "{head}");
    }
}

#[tokio::test]
async fn a_port_that_takes_a_connection_passes_a_tcp_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(outcome(Ask::Tcp, Some(address), DEADLINE).await, Ok(()));
    drop(listener);
    let refused = outcome(Ask::Tcp, Some(address), DEADLINE).await.unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn https_asks_whoever_signed_the_certificate() {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let secure = Ask::Http { security: Security::Tls, method: "GET", path: Unshown("/".into()) };
    assert_eq!(outcome(secure.clone(), Some(address), DEADLINE).await, Ok(()));
    let (plain, _heads) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let error = outcome(secure, Some(plain), DEADLINE).await.unwrap_err();
    assert!(error.contains("tls"), "{error}");
    assert!(outcome(get("/"), Some(address), DEADLINE).await.is_err());
}

/// A directory with one script.
fn script(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("probe");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

async fn run_script(directory: &Path, words: &str, timeout: Duration) -> Result<(), String> {
    let mut words = words.split(' ').map(|word| Unshown(word.into()));
    let (program, arguments) = (words.next().unwrap(), words.collect());
    let target = Some("192.0.2.7:80".parse().unwrap());
    ask(&probe(Ask::Command { program, arguments }, target, timeout), directory).await
}

#[tokio::test]
async fn a_program_is_given_the_address_and_its_arguments_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let text = format!("echo \"$# $1 $2 $3\" > {0}; /usr/bin/env >> {0}; cat >> {0}; exit 0", seen.display());
    let scripts = script(&text);
    run_script(scripts.path(), "probe *;x $HOME http://$SERVICE_IP:$SERVICE_PORT/", DEADLINE).await.unwrap();
    let seen = fs::read_to_string(seen).unwrap();
    let mut lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.remove(0), "3 *;x $HOME http://192.0.2.7:80/", "no shell splits or fills in");
    // What the shell itself sets.
    lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_=") && !line.starts_with("SHLVL="));
    lines.retain(|line| !line.starts_with("OLDPWD"));
    lines.sort_unstable();
    assert_eq!(lines, ["PORTOLAN_ADDRESS=192.0.2.7", "PORTOLAN_CONTAINER=aaaaaaaaaaaa", "PORTOLAN_PORT=80"]);
}

#[tokio::test]
async fn a_program_passes_with_0_and_fails_with_anything_else() {
    let error = run_script(script("exit 3").path(), "probe", DEADLINE).await.unwrap_err();
    assert!(error.contains("exit status: 3"), "{error}");
    let error = run_script(script("exit 0").path(), "other", DEADLINE).await.unwrap_err();
    assert!(error.contains("does not start"), "{error}");
    // More than a pipe holds: it is not read, and holds nobody up.
    let chatty = script("/usr/bin/yes | /usr/bin/head -c 1000000; exit 0");
    assert_eq!(run_script(chatty.path(), "probe", DEADLINE).await, Ok(()));
}

#[tokio::test]
async fn a_program_that_takes_too_long_ends_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    let scripts = script(&format!("/bin/sleep 1000 & echo $$ $! > {}; wait", pids.display()));
    let error = run_script(scripts.path(), "probe", Duration::from_millis(500)).await.unwrap_err();
    assert!(error.contains("no answer within"), "{error}");
    let pids = fs::read_to_string(pids).unwrap();
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(pids.len(), 2);
    // Its parent is gone, so whoever takes orphans may not have reaped it yet.
    let runs = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let ended = async {
        while pids.iter().any(|pid| runs(pid)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, ended).await.expect("both have ended");
}

#[tokio::test]
async fn what_a_check_finds_goes_on_with_dockers_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let container = ShortId::parse("aaaaaaaaaaaa").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The first snapshot says that Docker is listed, so that what comes later has only just started.
    let (docker, receiver) = watch::channel(Arc::new(Desired { listed: true, ..Desired::default() }));
    let (desired_in, mut told) = watch::channel(Arc::default());
    let counts = Arc::new(Counts::default());
    let options =
        Options { commands: None, presume: Presume::AtFirst, runtime: Handle::current(), counts: Arc::clone(&counts) };
    let follower = tokio::spawn(follow(options, receiver, desired_in));
    timeout(DEADLINE, told.wait_for(|told| told.listed)).await.unwrap().unwrap();
    docker.send_replace(desired(container, check(Ask::Tcp, Some(port))));
    let health = |told: &Arc<Desired>| told.publications.get(&container).map(|publication| publication.health);
    let mut listener = Some(listener);
    for expected in [Health::Starting, Health::Healthy, Health::Unhealthy] {
        timeout(DEADLINE, told.wait_for(|told| health(told) == Some(expected))).await.expect("in time").unwrap();
        if expected == Health::Healthy {
            listener = None;
        }
    }
    assert!(listener.is_none());
    let (passed, failed) = counts.get();
    assert!(passed >= 1 && failed >= 1, "{passed} {failed}");
    drop(docker);
    timeout(DEADLINE, follower).await.expect("it ends with its source").unwrap().unwrap();
}
