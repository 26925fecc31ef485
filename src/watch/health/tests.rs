use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::model::{Attachment, Common, Label, NetworkId, Offer, Port, Scope, Segment};

const MS: Duration = Duration::from_millis(1);

fn id(letter: char) -> ShortId {
    ShortId::parse(&letter.to_string().repeat(12)).unwrap()
}

fn tcp() -> Check {
    let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
    Check { ask: Ask::Tcp, port: Some(80), interval, timeout, rise: 1, fall: 3, initial: Initial::Starting }
}

pub(in crate::watch) fn network(driver: Driver, ip: &str) -> Attachment {
    let ips = ip.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
    let id = NetworkId("n1".into());
    Attachment {
        segment: Arc::new(Segment { id, name: "n1".into(), driver, scope: Scope::Local, internal: false }),
        ips,
    }
}

pub(in crate::watch) fn publication(container: ShortId) -> Publication {
    let port = Port { name: None, port: 80, proto: Proto::Tcp, published: Box::default(), extra: None };
    let offer = Offer {
        service: Label::parse("web").unwrap(),
        namespace: Label::default_namespace(),
        tags: Box::default(),
        weight: 1,
        port: None,
        ports: [port].into(),
        when_none_ready: None,
    };
    Publication {
        container,
        name: "web".into(),
        common: Arc::new(Common {
            image: "nginx".into(),
            services: [offer].into(),
            directory: None,
            namespace: Label::global(),
            aliases: Box::default(),
        }),
        phase: Phase::Serving,
        health: Health::None,
        networks: [network(Driver::Bridge, "172.18.0.2")].into(),
        elsewhere: None,
    }
}

/// A monitor at some time, what Docker says, and what goes on.
struct Bench {
    monitor: Monitor,
    now: Duration,
    rng: SmallRng,
    docker: Desired,
    told: Arc<Desired>,
    /// Questions under way.
    asked: Vec<Probe>,
}

impl Bench {
    /// Docker has been listed.
    fn new() -> Self {
        let mut bench = Self::unlisted();
        bench.docker.listed = true;
        bench.given();
        bench
    }

    fn unlisted() -> Self {
        Self {
            monitor: Monitor::new(Commands::Denied, Presume::AtFirst),
            now: Duration::from_secs(100),
            rng: SmallRng::seed_from_u64(7),
            docker: Desired::default(),
            told: Arc::default(),
            asked: Vec::new(),
        }
    }

    /// Docker says what it says now.
    fn given(&mut self) -> &mut Self {
        self.monitor.apply(self.now, Arc::new(self.docker.clone()), &mut self.rng);
        self.act();
        self
    }

    fn act(&mut self) {
        if let Some(told) = self.monitor.publish(self.now) {
            assert_ne!(self.told, told, "silence where nothing changed");
            self.told = told;
        }
        self.asked.extend(self.monitor.due(self.now));
        assert!(self.asked.len() <= MAX_RUNNING);
    }

    fn start(&mut self, letter: char, life: u64, checks: &[Check]) -> &mut Self {
        self.docker.publications.insert(id(letter), Arc::new(publication(id(letter))));
        if !checks.is_empty() {
            self.docker.checks.insert(id(letter), Checks { life, all: checks.into() });
        }
        self.given()
    }

    fn end(&mut self, letter: char) -> &mut Self {
        self.docker.publications.remove(&id(letter));
        self.docker.checks.remove(&id(letter));
        self.given()
    }

    fn change(&mut self, letter: char, change: impl FnOnce(&mut Publication)) -> &mut Self {
        if let Some(held) = self.docker.publications.get_mut(&id(letter)) {
            change(Arc::make_mut(held));
        }
        self.given()
    }

    /// Brings one result.
    fn finish(&mut self, probe: &Probe, passed: bool) -> &mut Self {
        self.asked.retain(|asked| asked.ticket != probe.ticket);
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        self.monitor.finish(self.now, probe.container, probe.ticket, outcome, &mut self.rng);
        self.act();
        self
    }

    /// Lets time pass; nothing is late.
    fn wait(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while let Some(at) = self.monitor.wake_at().filter(|at| *at <= end) {
            assert!(at >= self.now || self.asked.len() == MAX_RUNNING, "what was due was not done");
            self.now = self.now.max(at);
            self.act();
        }
        self.now = end;
        self
    }

    /// Lets time pass until a question is asked.
    #[track_caller]
    fn question(&mut self) -> Probe {
        for _ in 0..1000 {
            if let Some(probe) = self.asked.first() {
                return probe.clone();
            }
            let at = self.monitor.wake_at().expect("something is planned");
            self.now = self.now.max(at);
            self.act();
        }
        panic!("nothing is asked");
    }

    /// Asks and gets these results, one after the other: `+` and `-`.
    #[track_caller]
    fn results(&mut self, results: &str) -> &mut Self {
        for result in results.chars() {
            let probe = self.question();
            self.finish(&probe, result == '+');
        }
        self
    }

    #[track_caller]
    fn says(&mut self, letter: char, health: Health) -> &mut Self {
        let told = self.told.publications.get(&id(letter)).map(|publication| publication.health);
        assert_eq!(told, Some(health), "at {:?}", self.now);
        self
    }
}

#[test]
fn results_in_a_row_turn_a_check() {
    use Health::{Healthy, Starting, Unhealthy};
    let mut bench = Bench::new();
    bench.start('a', 0, &[Check { rise: 2, fall: 3, ..tcp() }]).says('a', Starting);
    bench.results("+").wait(DAMPING).says('a', Starting);
    bench.results("-++").wait(DAMPING).says('a', Healthy);
    bench.results("--+--").wait(DAMPING).says('a', Healthy);
    bench.results("-").says('a', Unhealthy);
    bench.results("+-+").wait(DAMPING).says('a', Unhealthy);
    bench.results("+").wait(DAMPING).says('a', Healthy);
}

#[test]
fn what_starts_is_asked_each_second_and_has_the_time_of_its_failures() {
    let mut bench = Bench::new();
    let began = bench.now;
    bench.start('a', 0, &[tcp()]);
    let mut last = began;
    for _ in 0..28 {
        bench.results("-").says('a', Health::Starting);
        assert!(bench.now - last <= EAGER, "{:?}", bench.now - last);
        last = bench.now;
    }
    while bench.now < began + tcp().interval * 3 {
        bench.says('a', Health::Starting).results("-");
    }
    bench.says('a', Health::Unhealthy);
    // From now on once an interval, and never late.
    bench.results("-");
    for _ in 0..20 {
        let before = bench.now;
        bench.results("-");
        assert!((bench.now - before).as_secs_f64() >= 9.0 && bench.now - before <= tcp().interval);
    }
    let mut healthy = Bench::new();
    healthy.start('a', 0, &[Check { initial: Initial::Healthy, ..tcp() }]).says('a', Health::Healthy);
    healthy.results("--").says('a', Health::Healthy).results("-").says('a', Health::Unhealthy);
}

#[test]
fn what_was_there_before_us_is_healthy_until_its_first_result_which_comes_at_once() {
    for (result, expected) in [("+", Health::Healthy), ("-", Health::Unhealthy)] {
        let mut bench = Bench::unlisted();
        bench.start('a', 0, &[tcp()]).says('a', Health::Healthy);
        bench.docker.listed = true;
        let began = bench.now;
        bench.start('b', 0, &[tcp()]).says('b', Health::Healthy);
        bench.results(result).results(result).says('a', expected).says('b', expected);
        assert!(bench.now <= began + EAGER);
        bench.start('c', 0, &[tcp()]).says('c', Health::Starting);
    }
}

#[test]
fn a_container_is_as_healthy_as_the_worst_that_is_said_of_it() {
    use Health::{Healthy, None, Starting, Unhealthy};
    let rows = [
        (None, None, None),
        (None, Healthy, Healthy),
        (Healthy, Starting, Starting),
        (Starting, Unhealthy, Unhealthy),
        (Healthy, Unhealthy, Unhealthy),
        (Healthy, Healthy, Healthy),
    ];
    for (a, b, expected) in rows {
        assert_eq!((worse(a, b), worse(b, a)), (expected, expected));
    }
    let mut bench = Bench::new();
    bench.start('a', 0, &[tcp()]).results("+").wait(DAMPING).says('a', Healthy);
    bench.change('a', |held| held.health = Starting).says('a', Starting).wait(DAMPING);
    bench.change('a', |held| held.health = Healthy).says('a', Healthy).wait(DAMPING);
    bench.change('a', |held| held.health = Unhealthy).says('a', Unhealthy).wait(DAMPING);
    bench.change('a', |held| held.health = None).says('a', Healthy);
    // Two checks of its own.
    let mut bench = Bench::new();
    bench.start('a', 0, &[tcp(), Check { port: Some(81), ..tcp() }]);
    let first = bench.question();
    bench.finish(&first, true).wait(DAMPING).says('a', Starting);
    let second = bench.question();
    assert_ne!(second.target, first.target);
    bench.finish(&second, true).wait(DAMPING).says('a', Healthy);
}

#[test]
fn a_paused_container_is_not_asked_and_keeps_its_state() {
    let mut bench = Bench::new();
    bench.start('a', 0, &[tcp()]).results("+--").wait(DAMPING).says('a', Health::Healthy);
    let probe = bench.question();
    bench.change('a', |held| held.phase = Phase::Paused);
    // It failed because it was paused.
    bench.finish(&probe, false).says('a', Health::Healthy);
    assert_eq!(bench.monitor.wake_at(), None);
    bench.change('a', |held| held.phase = Phase::Serving).results("--").says('a', Health::Healthy);
    bench.results("-").says('a', Health::Unhealthy);
}

#[test]
fn a_result_of_another_life_or_another_address_does_not_count() {
    let fragile = Check { fall: 1, ..tcp() };
    let mut bench = Bench::new();
    bench.start('a', 0, std::slice::from_ref(&fragile)).results("+").wait(DAMPING).says('a', Health::Healthy);
    let probe = bench.question();
    bench.change('a', |held| held.networks = [network(Driver::Bridge, "172.18.0.9")].into());
    bench.finish(&probe, false).says('a', Health::Healthy);
    let next = bench.question();
    assert_eq!(next.target, Some("172.18.0.9:80".parse().unwrap()));
    // It ends and starts, and both come in one snapshot.
    bench.start('a', 1, &[fragile]).says('a', Health::Starting);
    bench.finish(&next, true).says('a', Health::Starting);
    bench.end('a');
    assert!(bench.told.publications.is_empty() && bench.told.checks.is_empty());
    let last = bench.monitor.finish(bench.now, id('a'), Ticket(99), Outcome::Passed, &mut bench.rng);
    assert_eq!((last, bench.monitor.wake_at()), (None, None));
}

#[test]
fn a_check_is_asked_where_the_host_reaches_the_port() {
    let published = |ip: &str, port| Published { ip: ip.parse().unwrap(), port, chosen: true };
    let rows: [(&[Attachment], &[Published], Option<&str>); 8] = [
        (&[network(Driver::Bridge, "172.18.0.2")], &[published("0.0.0.0", 8080)], Some("172.18.0.2:80")),
        (&[network(Driver::Bridge, "fd00::2 172.18.0.2")], &[], Some("172.18.0.2:80")),
        (&[network(Driver::Bridge, "fd00::2")], &[], Some("[fd00::2]:80")),
        (&[network(Driver::Host, "")], &[], Some("127.0.0.1:80")),
        (&[network(Driver::Macvlan, "192.0.2.9")], &[], None),
        (&[network(Driver::Overlay, "10.0.1.2")], &[published("0.0.0.0", 8080)], Some("127.0.0.1:8080")),
        (&[network(Driver::Overlay, "10.0.1.2")], &[published("::", 8080)], Some("[::1]:8080")),
        (&[], &[published("192.0.2.1", 8080)], Some("192.0.2.1:8080")),
    ];
    for (networks, published, expected) in rows {
        let mut held = publication(id('a'));
        held.networks = networks.into();
        Arc::make_mut(&mut held.common).services[0].ports[0].published = published.into();
        let reached = reach(&held, 80, &BTreeSet::new());
        assert_eq!(reached, expected.map(|target| target.parse().unwrap()), "{networks:?} {published:?}");
    }
}

#[test]
fn a_check_of_a_bridge_in_another_network_namespace_is_asked_at_the_published_port() {
    let mut bench = Bench::new();
    bench.start('a', 0, &[tcp()]).says('a', Health::Starting);
    let bridge = network(Driver::Bridge, "172.18.0.2");
    bench.docker.apart = Arc::new([bridge.id.clone()].into());
    bench.change('a', |held| {
        held.networks = [bridge].into();
        Arc::make_mut(&mut held.common).services[0].ports[0].published =
            [Published { ip: "0.0.0.0".parse().unwrap(), port: 8080, chosen: true }].into();
    });
    let target = |bench: &mut Bench| bench.monitor.wards[&id('a')].states[0].target;
    assert_eq!(target(&mut bench), Some(Some("127.0.0.1:8080".parse().unwrap())));
    bench.docker.apart = Arc::default();
    bench.given();
    assert_eq!(
        target(&mut bench),
        Some(Some("172.18.0.2:80".parse().unwrap())),
        "though the container has not changed"
    );
}

#[test]
fn a_check_that_cannot_be_asked_is_a_problem_and_no_check() {
    let mut bench = Bench::new();
    bench.docker.problems = [Problem::new("x", "y", "z")].into();
    bench.start('a', 0, &[tcp()]).says('a', Health::Starting);
    bench.change('a', |held| held.networks = [network(Driver::Macvlan, "192.0.2.9")].into());
    bench.wait(DAMPING).says('a', Health::None);
    assert_eq!(bench.told.problems.len(), 2);
    assert!(bench.told.problems[1].place.contains("check tcp"), "{:?}", bench.told.problems);
    assert_eq!(bench.monitor.wake_at(), None);
    bench.change('a', |held| held.networks = [network(Driver::Bridge, "172.18.0.2")].into());
    assert_eq!(bench.told.problems.len(), 1);
    let program = crate::model::Unshown("probe".into());
    let command = Check { ask: Ask::Command { program, arguments: Box::default() }, port: None, ..tcp() };
    bench.start('b', 0, std::slice::from_ref(&command)).says('b', Health::None);
    assert!(bench.told.problems[1].expected.contains("--check-commands"), "{:?}", bench.told.problems);
    bench.end('b');
    assert_eq!(bench.told.problems.len(), 1);
    let mut bench = Bench::new();
    bench.monitor.commands = Commands::Allowed;
    bench.start('b', 0, &[command]).results("+").wait(DAMPING).says('b', Health::Healthy);
}

#[test]
fn a_container_without_health_passes_as_it_came() {
    let mut bench = Bench::new();
    bench.start('a', 0, &[]);
    assert!(Arc::ptr_eq(&bench.told.publications[&id('a')], &bench.docker.publications[&id('a')]));
    assert_eq!((bench.monitor.wake_at(), bench.monitor.gates.len()), (None, 0));
    let told = Arc::clone(&bench.told);
    bench.given();
    assert!(Arc::ptr_eq(&told, &bench.told), "nothing is told twice");
    bench.end('a');
    assert!(bench.told.publications.is_empty());
}

#[test]
fn only_so_many_are_asked_at_once_and_who_waits_for_longest_is_next() {
    let mut bench = Bench::new();
    let checks: Vec<Check> = (1..=40).map(|port| Check { port: Some(port), ..tcp() }).collect();
    for letter in ['a', 'b', 'c'] {
        bench.start(letter, 0, &checks).wait(10 * MS);
    }
    bench.wait(EAGER);
    assert_eq!((bench.asked.len(), bench.monitor.wake_at()), (MAX_RUNNING, None));
    let due: Vec<Duration> =
        bench.monitor.wards.values().flat_map(|ward| &ward.states).filter_map(|state| state.due).collect();
    let probe = bench.asked[0].clone();
    bench.finish(&probe, true);
    let asked = bench.asked.last().unwrap().clone();
    assert_eq!((bench.asked.len(), due.len()), (MAX_RUNNING, 56));
    let next = bench.monitor.wards[&asked.container].states.iter().filter_map(|state| state.due).min();
    assert!(next.is_none_or(|next| next >= *due.iter().min().unwrap()));
}

#[test]
fn many_that_begin_together_are_not_asked_together() {
    let mut bench = Bench::new();
    let checks: Vec<Check> = (1..=30).map(|port| Check { port: Some(port), ..tcp() }).collect();
    bench.start('a', 0, &checks);
    let dues = |bench: &Bench| -> Vec<Duration> {
        let mut dues: Vec<_> = bench.monitor.wards[&id('a')].states.iter().filter_map(|state| state.due).collect();
        dues.sort();
        dues
    };
    let first = dues(&bench);
    assert!(first.windows(2).all(|pair| pair[1] - pair[0] < 300 * MS) && first[29] - first[0] > 500 * MS, "{first:?}");
    bench.results(&"+".repeat(30));
    let second = dues(&bench);
    assert!(second[29] - second[0] > Duration::from_secs(7), "{second:?}");
}

#[test]
fn what_is_worse_is_told_at_once_and_what_is_better_a_second_after_the_last_change() {
    let mut bench = Bench::new();
    let health = |bench: &mut Bench, health| {
        bench.change('a', |held| held.health = health);
    };
    bench.start('a', 0, &[]).wait(DAMPING);
    health(&mut bench, Health::Healthy);
    bench.says('a', Health::Healthy).wait(100 * MS);
    health(&mut bench, Health::Unhealthy);
    bench.says('a', Health::Unhealthy).wait(100 * MS);
    health(&mut bench, Health::Healthy);
    bench.says('a', Health::Unhealthy).wait(899 * MS).says('a', Health::Unhealthy);
    // Anything else passes meanwhile, and a worse turn cancels the better one.
    bench.change('a', |held| held.phase = Phase::Draining).says('a', Health::Unhealthy);
    assert_eq!(bench.told.publications[&id('a')].phase, Phase::Draining);
    bench.wait(MS).says('a', Health::Healthy);
    bench.wait(500 * MS);
    health(&mut bench, Health::Unhealthy);
    bench.says('a', Health::Unhealthy).wait(400 * MS);
    health(&mut bench, Health::Healthy);
    bench.wait(400 * MS);
    health(&mut bench, Health::Unhealthy);
    bench.wait(10 * DAMPING).says('a', Health::Unhealthy);
    assert_eq!(bench.monitor.wake_at(), None);
    bench.end('a');
    assert!(bench.told.publications.is_empty());
}

/// What happens to one container.
#[derive(Clone, Copy, Debug)]
enum Step {
    Docker(Health),
    Phase(Phase),
    Result(bool),
    End,
    Start,
    Restart,
    Move(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    use Health::{Healthy, None, Starting, Unhealthy};
    prop_oneof![
        1 => prop::sample::select(vec![Healthy, None, Starting, Unhealthy]).prop_map(Step::Docker),
        1 => prop::sample::select(vec![Phase::Serving, Phase::Paused, Phase::Draining]).prop_map(Step::Phase),
        4 => any::<bool>().prop_map(Step::Result),
        1 => Just(Step::End),
        2 => Just(Step::Start),
        1 => Just(Step::Restart),
        1 => (2..9u8).prop_map(Step::Move),
        4 => (0..1500u16).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Never two improvements within a second, never a worsening that waits, everything else at once, and in the end the
    /// truth.
    #[test]
    fn damping_delays_only_what_is_better(steps in prop::collection::vec((step(), 0..300u16), 1..80)) {
        let mut bench = Bench::new();
        let check = Check { fall: 2, rise: 2, interval: Duration::from_secs(1), timeout: Duration::from_secs(1), ..tcp() };
        let mut life = 0;
        // The last change that was told, while the container was told of without a gap.
        let mut last: Option<(Health, Duration)> = None;
        let end = (Step::Wait(1500), 0);
        for (step, pause) in steps.into_iter().chain([end]) {
            match step {
                Step::Docker(health) => { bench.change('a', |held| held.health = health); }
                Step::Phase(phase) => { bench.change('a', |held| held.phase = phase); }
                Step::Move(host) => {
                    let ip = format!("172.18.0.{host}");
                    bench.change('a', |held| held.networks = [network(Driver::Bridge, &ip)].into());
                }
                Step::Result(passed) => {
                    if let Some(probe) = bench.asked.first().cloned() {
                        bench.finish(&probe, passed);
                    }
                }
                Step::End => { bench.end('a'); }
                Step::Start if bench.docker.publications.contains_key(&id('a')) => {}
                Step::Start | Step::Restart => {
                    life += 1;
                    bench.start('a', life, std::slice::from_ref(&check));
                }
                Step::Wait(_) => {}
            }
            let mut left = Duration::from_millis(match step { Step::Wait(time) => time, _ => pause }.into());
            // In small pieces, so that every change is seen when it is told.
            loop {
                let told = bench.told.publications.get(&id('a')).cloned();
                let truth = bench.docker.publications.get(&id('a')).cloned();
                prop_assert_eq!(told.is_some(), truth.is_some(), "it comes and goes at once");
                if let (Some(told), Some(truth)) = (told, truth) {
                    let wanted = worse(truth.health, bench.monitor.wards[&id('a')].health());
                    let as_told = Publication { health: told.health, ..Publication::clone(&truth) };
                    prop_assert_eq!(&*told, &as_told, "all but the health passes as it is");
                    prop_assert!(badness(told.health) >= badness(wanted), "worse is told at once");
                    if let Some((health, at)) = last && health != told.health {
                        let waited = bench.now - at >= DAMPING;
                        prop_assert!(waited || badness(told.health) >= badness(health), "an improvement came early");
                    }
                    if last.is_none_or(|(health, _)| health != told.health) {
                        last = Some((told.health, bench.now));
                    }
                    let due = last.is_some_and(|(_, at)| bench.now >= at + DAMPING);
                    prop_assert!(!due || told.health == wanted, "what waited for a second is told");
                } else {
                    last = None;
                }
                if left.is_zero() {
                    break;
                }
                let piece = left.min(MS);
                bench.wait(piece);
                left -= piece;
            }
            // One question at a time, and as many under way as are known to be.
            prop_assert_eq!(bench.asked.len(), bench.monitor.running);
        }
    }
}

#[test]
fn what_is_told_of_drains_goes_on() {
    let mut bench = Bench::new();
    bench.docker.publications.insert(id('a'), Arc::new(publication(id('a'))));
    bench.docker.round = 1;
    bench.docker.drained = true;
    bench.given();
    assert_eq!((bench.told.round, bench.told.drained, bench.told.publications.len()), (1, true, 1));
    bench.docker.drained = false;
    bench.docker.round = 2;
    bench.given();
    assert_eq!((bench.told.round, bench.told.drained), (2, false));
}

#[test]
fn a_check_decides_of_one_that_crashed_a_moment_ago() {
    let mut bench = Bench::new();
    bench.start('a', 0, &[tcp()]).start('b', 0, &[]);
    for letter in ['a', 'b'] {
        bench.change(letter, |held| held.health = Health::Held);
    }
    bench.says('a', Health::Starting).says('b', Health::Held);
    bench.change('b', |held| held.health = Health::None).says('b', Health::None);
}
