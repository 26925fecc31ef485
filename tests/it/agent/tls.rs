//! DNS over TLS of a whole agent: its certificate is renewed, and another agent takes over.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use nix::sys::signal::Signal;

use super::bed::{DEADLINE, Home, eventually, free_port};
use crate::dns_server::{
    support::{CLIENT, query, rcode},
    tls::{CERTIFICATE, Client, KEY, RENEWED_CERTIFICATE, RENEWED_KEY},
};

fn nobody() -> Vec<u8> {
    query(7, "nobody.default.svc.internal.", RecordType::A)
}

fn open(server: SocketAddr, trusted: &str) -> Option<Client> {
    Client::greet(CLIENT, server, trusted).ok()
}

#[test]
fn a_certificate_is_renewed_while_it_runs_and_a_takeover_hands_the_listener_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| directory.path().join(name));
    let write = |path, text| std::fs::write(path, text).expect("a file");
    write(&certificate, CERTIFICATE);
    write(&key, KEY);
    let address = free_port();
    let [certificate_name, key_name] = [&certificate, &key].map(|path| path.to_str().expect("text"));
    let home = Home::new(&["--dns-tls", &address.to_string(), "--tls-cert", certificate_name, "--tls-key", key_name]);
    let agent = home.start();
    home.until_ready();
    let mut first = eventually("it speaks TLS", || open(address, CERTIFICATE));
    assert_eq!(rcode(&first.ask(&nobody()).expect("a reply")), ResponseCode::NXDomain);

    write(&key, RENEWED_KEY);
    agent.signal(Signal::SIGHUP);
    eventually("half of a renewal is refused", || (home.logged("nothing was reloaded") == 1).then_some(()));
    assert_eq!(home.logged("the key does not fit the certificate"), 1);
    assert!(open(address, CERTIFICATE).is_some());

    write(&certificate, RENEWED_CERTIFICATE);
    agent.signal(Signal::SIGHUP);
    let mut held = eventually("it has the renewed one", || open(address, RENEWED_CERTIFICATE));
    assert!(first.ask(&nobody()).is_ok() && held.ask(&nobody()).is_ok(), "what is open stays");
    drop(first);

    // The listener is never closed: whoever connects while the agents change waits at most.
    let (goes_on, answered, refused) = (AtomicBool::new(true), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let next = thread::scope(|scope| {
        scope.spawn(|| {
            // It ends also where the test has failed.
            while goes_on.load(Ordering::Relaxed) && began.elapsed() < 2 * DEADLINE {
                match Client::greet(CLIENT, address, RENEWED_CERTIFICATE).and_then(|mut client| client.ask(&nobody())) {
                    Ok(reply) => {
                        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "it knows that there is none");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        refused.fetch_add(u64::from(error.kind() == ErrorKind::ConnectionRefused), Ordering::Relaxed);
                    }
                }
            }
        });
        eventually("it asks", || (answered.load(Ordering::Relaxed) > 20).then_some(()));
        let next = home.take_over();
        assert!(agent.ends().success());
        assert!(held.is_ended(), "a connection stays with its keys");
        let so_far = answered.load(Ordering::Relaxed);
        eventually("it goes on asking", || (answered.load(Ordering::Relaxed) > so_far + 20).then_some(()));
        goes_on.store(false, Ordering::Relaxed);
        next
    });
    assert_eq!(refused.into_inner(), 0);
    assert_eq!(next.introduces("dns+tls"), [address.to_string()]);
    assert!(next.end(Signal::SIGTERM).success());
}
