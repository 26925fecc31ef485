//! Global names that the operator of one host gives to some of its containers only.

use std::time::Instant;

use hickory_proto::rr::RecordType;

use super::{
    bed::{C, HOSTS, Host, SOON, addresses, eventually, everywhere, expect, targets, unique, unique_port},
    dns::Answer,
    drain::portolan,
    prober::Prober,
};

/// A host's agent with further flags, in the place of the bed's own, which is back when this is dropped.
struct Agent {
    host: Host,
    kept: String,
}

impl Agent {
    fn with(host: Host, flags: &[&str]) -> Self {
        let shown = host.docker(&["inspect", "-f", "{{json .Args}}", "portolan-agent"]);
        let own: Vec<String> = serde_json::from_str(&shown).expect("the agent's arguments");
        let kept = unique("portolan-agent");
        host.docker(&["rename", "portolan-agent", &kept]);
        let agent = Self { host, kept };
        // SIGTERM: the lease is kept, and taken over by the agent that comes next with the same state.
        host.docker(&["stop", &agent.kept]);
        let run = "run -d --name portolan-agent --network host --pid host --cap-drop ALL --cap-add NET_BIND_SERVICE \
                   --read-only --tmpfs /run --volumes-from";
        let run = run.split_whitespace().chain([&*agent.kept, "portolan:dev"]);
        host.docker(&run.chain(own.iter().map(String::as_str)).chain(flags.iter().copied()).collect::<Vec<_>>());
        agent.until_ready();
        agent
    }

    fn until_ready(&self) {
        eventually("the agent answers", SOON, || match self.host.ask("svc.internal", RecordType::SOA) {
            Answer::Found(_) => Ok(()),
            other => Err(other.to_string()),
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.host.try_docker(&["rm", "-fv", "portolan-agent"]));
        self.host.docker(&["rename", &self.kept, "portolan-agent"]);
        self.host.docker(&["start", "portolan-agent"]);
        if !std::thread::panicking() {
            self.until_ready();
        }
    }
}

#[test]
fn who_may_not_have_a_global_name_is_an_answer_on_no_host_and_who_may_is_on_all() {
    let (stem, role) = (unique("db"), "role=database");
    let (name, rule) = (format!("{stem}.svc.internal"), format!("{stem} label={role}"));
    let _agent = Agent::with(C, &["--claim", &rule]);
    let began = Instant::now();
    let prober = Prober::start(&name);
    let run = |service: &str, more: &[&str]| {
        let (label, port) = (format!("portolan.service={service}"), unique_port());
        let publish = format!("{port}:80");
        (C.run(&unique("r"), &[&["--label", &label, "-p", &publish], more].concat()), port)
    };
    let (thief, _) = run(&stem, &[]);
    let client = C.run(&unique("client"), &[]);
    // What came later is known everywhere: nobody is still on the way to the thief.
    let free = unique("free");
    let (_witness, _) = run(&free, &[]);
    everywhere(&format!("{free}.svc.internal"), RecordType::A, &addresses([C]));
    eventually("explain names the rule", SOON, || {
        // Exit code 3: nothing answers.
        let said = portolan(C, &["explain", &thief.name]).unwrap_or_else(|said| said);
        if said.contains(&rule) { Ok(()) } else { Err(said) }
    });
    expect("its own host's containers are told nothing either", &Answer::NoName, || client.ask(&name, "A"));
    let asked_until = Instant::now();
    let log = prober.finish(began);
    for host in HOSTS {
        assert!(log.count(host, began, asked_until, &Answer::NoName) > 0, "{} was not asked", host.container);
    }
    log.judge(&Answer::NoName, &[]);

    let (_owner, port) = run(&stem, &["--label", role]);
    everywhere(&name, RecordType::A, &addresses([C]));
    // Both run, and their ports tell them apart.
    everywhere(&name, RecordType::SRV, &targets([(C.address, port)]));
}
