//! Services outside of Docker: written into etcd by an operator, in the place of containers on every host at once.

use std::process::Command;

use hickory_proto::rr::RecordType;

use super::{
    bed::{
        A, B, C, Container, DIG, ENDPOINTS, HOSTS, Host, SAMPLE, SOON, addresses, eventually, expect, outer, read_dig,
        run, unique, unique_port,
    },
    dns::Answer,
    drain::portolan,
};

/// A machine on the hosts' lan with no engine and no agent; it serves HTTP on port 80.
pub(crate) struct Machine {
    name: String,
    pub(crate) address: String,
}

impl Machine {
    pub(crate) fn start(number: u8, name_in_dns: &str) -> Self {
        let machine = Self { name: unique("portolan-test-machine"), address: format!("172.31.77.{number}") };
        let run = "run -d --rm --network portolan-test_lan --name";
        let run =
            run.split(' ').chain([&*machine.name, "--ip", &machine.address, "--network-alias", name_in_dns, SAMPLE]);
        outer(&run.collect::<Vec<_>>());
        machine
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(run(Command::new("docker").args(["rm", "-f", &self.name])));
    }
}

/// An operator at a machine of their own.
struct Operator {
    service: String,
}

impl Operator {
    fn portolan(&self, verb: &str, flags: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        run(command.args([verb, &self.service, "--etcd-endpoints", ENDPOINTS]).args(flags))
    }

    fn register(&self, flags: &[&str]) {
        self.portolan("register", flags).unwrap_or_else(|error| panic!("register {flags:?}: {error}"));
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // Nothing is registered when all went well.
        drop(self.portolan("unregister", &[]));
    }
}

/// What stands before each of a client's replies, or before the word that there was none.
const ASKED: &str = "-- asked --";

/// A container that asks for one name all the time, through its own resolver, and writes down what it is told.
struct Client(Container);

impl Client {
    fn start(host: Host, name: &str) -> Self {
        // On the default bridge, where no replica is: to all clients all replicas are equally near.
        let ask = format!("while :; do echo {ASKED}; dig {} {name} A; sleep 0.1; done", DIG.join(" "));
        Self(host.run_command(&unique("client"), &[], &["sh", "-c", &ask]))
    }

    /// All answers so far, in order.
    fn told(&self) -> Vec<Answer> {
        let log = self.0.docker(&["logs"]);
        let mut replies: Vec<&str> = log.split(ASKED).collect();
        // The last may still be on its way.
        replies.pop();
        replies.iter().skip(1).map(|reply| read_dig(reply, &[])).collect()
    }

    fn until_told(&self, expected: &Answer) {
        eventually(&format!("{} is told {expected}", self.0.host.container), SOON, || {
            let told = self.told();
            if told.last() == Some(expected) { Ok(()) } else { Err(format!("{:?}", told.last())) }
        });
    }
}

#[test]
fn a_registered_service_replaces_containers_on_every_host_and_gives_way_again_with_no_answer_lost() {
    let operator = Operator { service: unique("redis") };
    let name = format!("{}.svc.internal", operator.service);
    let alias = format!("{}.cache.example.com", operator.service);
    let machines = [Machine::start(31, &alias), Machine::start(32, "other.example.com")];
    let [first, second] = machines.each_ref().map(|machine| machine.address.as_str());
    let networks = HOSTS.map(|host| host.network(&unique("own")));
    let (label, publish) = (format!("portolan.service={}", operator.service), format!("{}:80", unique_port()));
    let replica = |(host, network): (Host, &str)| {
        host.run(&unique("r"), &["--label", &label, "-p", &publish, "--network", network])
    };
    let replicas = [(B, &*networks[1].name), (C, &*networks[2].name)].map(replica);
    let containers = addresses([B, C]);
    for host in HOSTS {
        expect("the containers are known", &containers, || host.ask(&name, RecordType::A));
    }
    let clients = [A, B, C].map(|host| Client::start(host, &name));
    let all_told = |expected: &Answer| clients.iter().for_each(|client| client.until_told(expected));
    all_told(&containers);

    operator.register(&["--cname", &format!("{alias}:80")]);
    let by_name = Answer::found([first]);
    all_told(&by_name);
    for Client(container) in &clients {
        let text = container.dig(&[&name, "A"]).expect("dig");
        assert!(
            !text.contains("CNAME") && text.contains(first),
            "the address stands at the service's own name: {text}"
        );
        container.connect(&format!("{first}:80")).expect("it opens");
    }

    let (at_first, at_second) = (format!("{first}:80"), format!("{second}:80"));
    let check = ["--check", "tcp", "--interval", "1s", "--timeout", "1s"];
    operator.register(&[&["--address", &at_first, "--address", &at_second], &check[..]].concat());
    let by_address = Answer::found([first, second]);
    all_told(&by_address);
    for Client(container) in &clients {
        container.connect(&at_second).expect("it opens");
    }
    let said = portolan(B, &["explain", &name]).unwrap_or_else(|said| said);
    let names = replicas.iter().map(|replica| &*replica.name).chain(["external"]);
    names.for_each(|name| assert!(said.contains(name), "explain does not show {name}: {said}"));

    // Each host's agent finds that out for itself.
    let [_first, dying] = machines;
    drop(dying);
    let alive = by_name.clone();
    all_told(&alive);

    operator.portolan("unregister", &[]).expect("it was registered");
    all_told(&containers);
    for client in &clients {
        // From when it was seen that it is told the containers: its first question may be too early for its agent.
        let mut steps: Vec<Answer> = client.told().into_iter().skip_while(|told| *told != containers).collect();
        assert!(steps.len() > 20, "{} questions prove little", steps.len());
        steps.dedup();
        // Nothing in between: no union, no gap, no way back.
        let expected = [&containers, &by_name, &by_address, &alive, &containers].map(Answer::clone);
        assert_eq!(steps, expected, "what {} was told", client.0.host.container);
    }
}
