//! Containers on their way out: nobody is sent to them any more before they are gone, and no request is lost over it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use super::{
    bed::{
        A, B, C, Container, D, HOSTS, Host, SOON, addresses, eventually, everywhere, expect, targets, unique,
        unique_port,
    },
    dns::Answer,
};

/// Serves on port 80 and is deaf to signals, as an application is that finishes what it has begun.
const DEAF: [&str; 3] = ["sh", "-c", "trap '' TERM INT; httpd -p 80; while :; do sleep 1; done"];

pub(crate) fn portolan(host: Host, arguments: &[&str]) -> Result<String, String> {
    host.try_docker(&[&["exec", "portolan-agent", "portolan"], arguments].concat())
}

fn runs(container: &Container) -> bool {
    container.docker(&["inspect", "-f", "{{.State.Running}}"]).trim() == "true"
}

#[test]
fn a_stop_takes_a_container_out_of_the_answers_while_it_still_runs() {
    let stem = unique("stop");
    let name = format!("{stem}.svc.internal");
    let (label, publish) = (format!("portolan.service={stem}"), format!("{}:80", unique_port()));
    let options = ["--label", &label, "-p", &publish];
    let leaving = A.run_command(&unique("r"), &options, &DEAF);
    let _stays = B.run(&unique("r"), &options);
    everywhere(&name, RecordType::A, &addresses([A, B]));
    let stop = thread::spawn({
        let name = leaving.name.clone();
        move || A.try_docker(&["stop", "-t", "20", &name])
    });
    everywhere(&name, RecordType::A, &addresses([B]));
    assert!(runs(&leaving), "it had all its time to finish");
    everywhere(&format!("all.{stem}.global.svc.internal"), RecordType::A, &addresses([A, B]));
    leaving.docker(&["kill"]);
    stop.join().expect("it ends").expect("docker stop");
    leaving.docker(&["start"]);
    everywhere(&name, RecordType::A, &addresses([A, B]));
}

#[test]
fn a_stop_signal_that_a_container_survives_is_forgotten_after_its_time() {
    let stem = unique("deaf");
    let name = format!("{stem}.svc.internal");
    let (label, publish) = (format!("portolan.service={stem}"), format!("{}:80", unique_port()));
    let options = ["--label", &label, "-p", &publish];
    // 1 s and 5 s more.
    let deaf = A.run_command(&unique("r"), &[&options[..], &["--stop-timeout", "1"]].concat(), &DEAF);
    let _other = B.run(&unique("r"), &options);
    everywhere(&name, RecordType::A, &addresses([A, B]));
    let sent = Instant::now();
    deaf.docker(&["kill", "-s", "INT"]);
    everywhere(&name, RecordType::A, &addresses([B]));
    everywhere(&name, RecordType::A, &addresses([A, B]));
    assert!(sent.elapsed() >= Duration::from_secs(6), "not before its time: {:?}", sent.elapsed());
    assert!(runs(&deaf));
}

/// A client that resolves each request anew, at one host after the other, and takes the first target it is given.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

const CLIENTS: usize = 3;

impl Load {
    fn start(name: &str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..CLIENTS).map(|client| {
            let (name, stop, served) = (name.to_owned(), Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                let mut failed = Vec::new();
                for number in client.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match request(HOSTS[number % HOSTS.len()], &name, number) {
                        Ok(()) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.push(format!("request {number} of client {client}: {error}")),
                    }
                }
                failed
            })
        });
        let threads = threads.collect();
        Self { stop, served, threads }
    }

    /// How many requests were served, and what became of the others.
    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client ends")).collect();
        (self.served.load(Ordering::Relaxed), failed)
    }
}

fn request(host: Host, name: &str, number: usize) -> Result<(), String> {
    let Answer::Found(targets) = host.ask(name, RecordType::SRV) else {
        return Err(format!("{} has no answer", host.container));
    };
    let target: SocketAddr =
        targets.iter().nth(number % targets.len()).and_then(|target| target.parse().ok()).ok_or("no target")?;
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    match fetch() {
        Ok(reply) if reply.starts_with("HTTP/1") => Ok(()),
        Ok(reply) => Err(format!("{target} answered {reply:?}")),
        Err(error) => Err(format!("{target}: {error}")),
    }
}

#[test]
fn a_rolling_restart_of_ten_replicas_under_load_loses_no_request() {
    let stem = unique("roll");
    let name = format!("{stem}.svc.internal");
    let label = format!("portolan.service={stem}");
    let on = [A, B, C, A, B, C, A, B, C, A];
    // Without a check a replica is given from its start on, which is before it listens: a request in between is refused.
    let checked = ["--label", "portolan.check.tcp=true", "--label", "portolan.check.interval=1s"];
    let options = [&["--label", &label, "-p", "80"], &checked[..]].concat();
    let replicas: Vec<Container> = on.iter().map(|host| host.run(&unique("r"), &options)).collect();
    let all = |replicas: &[Container]| targets(replicas.iter().map(|replica| (replica.host.address, replica.port())));
    everywhere(&name, RecordType::SRV, &all(&replicas));
    let load = Load::start(&name);
    for replica in &replicas {
        portolan(replica.host, &["drain", &replica.name, "--wait"]).expect("drained");
        replica.docker(&["stop", "-t", "0"]);
        replica.docker(&["start"]);
        // Its number has changed: Docker chooses one at each start.
        everywhere(&name, RecordType::SRV, &all(&replicas));
    }
    let (served, failed) = load.end();
    assert!(served > 500, "{served} requests prove little");
    assert_eq!(failed, Vec::<String>::new(), "failed beside {served} that were served");
}

#[test]
fn a_drained_host_gets_no_clients_until_it_is_undrained() {
    let stem = unique("host");
    let name = format!("{stem}.svc.internal");
    let (label, publish) = (format!("portolan.service={stem}"), format!("{}:80", unique_port()));
    let options = ["--label", &label, "-p", &publish];
    let _replicas: Vec<Container> = HOSTS.iter().map(|host| host.run(&unique("r"), &options)).collect();
    everywhere(&name, RecordType::A, &addresses(HOSTS));
    portolan(C, &["drain", "--host", "--wait"]).expect("drained");
    for host in HOSTS {
        assert_eq!(host.ask(&name, RecordType::A), addresses([A, B, D]), "at once at {}", host.container);
    }
    // Also what comes later, and after a restart of the agent.
    let late = unique("late");
    let _late = C.run(&late, &["--label", &format!("portolan.service={late}"), "-p", &format!("{}:80", unique_port())]);
    C.docker(&["restart", "portolan-agent"]);
    eventually("the agent is back", SOON, || match C.ask("svc.internal", RecordType::SOA) {
        Answer::Silence(reason) => Err(reason),
        _ => Ok(()),
    });
    expect("its only instance is better than none", &addresses([C]), || {
        C.ask(&format!("{late}.svc.internal"), RecordType::A)
    });
    for host in HOSTS {
        expect("still drained", &addresses([A, B, D]), || host.ask(&name, RecordType::A));
    }
    portolan(C, &["undrain", "--host"]).expect("undrained");
    everywhere(&name, RecordType::A, &addresses(HOSTS));
}
