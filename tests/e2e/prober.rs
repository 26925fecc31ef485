//! Asks every host one question twenty times a second, from a thread per host, and writes down every answer with its
//! time. A test breaks something meanwhile and judges the log afterwards: no answer may be wrong, and none lost outside
//! the bounds that design P4 states.

use std::{
    collections::HashMap,
    fmt::Write,
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use super::{
    bed::{HOSTS, Host},
    dns::{self, Answer},
};

/// Twenty questions a second.
const TICK: Duration = Duration::from_millis(50);
/// A reply later than this counts as lost: a resolver has asked again, or somebody else, by then.
const LATE: Duration = Duration::from_secs(1);

/// One question and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Which host was asked.
    pub(crate) host: Host,
    /// When the question was sent.
    pub(crate) sent: Instant,
    /// What came back within a second.
    pub(crate) answer: Answer,
}

/// The running prober; dropped, it stops.
#[derive(Debug)]
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

/// What was asked and answered, in the order of asking for each host.
#[derive(Debug)]
pub(crate) struct Log {
    began: Instant,
    samples: Vec<Sample>,
}

/// A span of time on some hosts in which something else than the steady answer is allowed.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// For these hosts.
    pub(crate) hosts: Vec<Host>,
    /// Questions sent in this span.
    pub(crate) from: Instant,
    /// To here.
    pub(crate) until: Instant,
    /// These answers are right as well. `None`: the span allows losses only, of any kind; answers must still be right.
    pub(crate) answer: Option<Answer>,
}

impl Prober {
    /// Starts asking all hosts for the addresses of `name`.
    pub(crate) fn start(name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |host: Host| {
            let (stop, name) = (Arc::clone(&stop), name.to_owned());
            std::thread::spawn(move || follow(host, &name, &stop))
        };
        Self { threads: HOSTS.map(spawn).into(), stop }
    }

    /// Stops and hands the log over.
    pub(crate) fn finish(mut self, began: Instant) -> Log {
        self.stop.store(true, Ordering::Relaxed);
        let logs = self.threads.drain(..).flat_map(|thread| thread.join().expect("the prober does not panic"));
        Log { began, samples: logs.collect() }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Log {
    /// Fails unless every answer was the steady one, but for the allowances. Prints how many were asked and lost.
    pub(crate) fn judge(&self, steady: &Answer, allowances: &[Allowance]) {
        assert!(self.samples.len() > 20, "the prober asked only {} times: that proves nothing", self.samples.len());
        let (mut wrong, mut lost, mut allowed) = (Vec::new(), Vec::new(), 0);
        for sample in &self.samples {
            if sample.answer == *steady {
                continue;
            }
            let excused = |allowance: &Allowance| {
                let covers =
                    allowance.hosts.contains(&sample.host) && (allowance.from..=allowance.until).contains(&sample.sent);
                covers && allowance.answer.as_ref().map_or(is_loss(&sample.answer), |answer| *answer == sample.answer)
            };
            if allowances.iter().any(excused) {
                allowed += 1;
            } else if is_loss(&sample.answer) {
                lost.push(sample);
            } else {
                wrong.push(sample);
            }
        }
        let total = self.samples.len();
        eprintln!("{total} asked, {} wrong, {} lost, {allowed} within the bounds", wrong.len(), lost.len());
        assert!(
            wrong.is_empty() && lost.is_empty(),
            "of {total} answers {} were wrong and {} lost; steady is {steady}\nwrong:\n{}lost:\n{}",
            wrong.len(),
            lost.len(),
            self.show(&wrong),
            self.show(&lost)
        );
    }

    /// How many answers of this host, sent in this span, were this one.
    pub(crate) fn count(&self, host: Host, from: Instant, until: Instant, answer: &Answer) -> usize {
        let matches =
            |sample: &&Sample| sample.host == host && (from..=until).contains(&sample.sent) && sample.answer == *answer;
        self.samples.iter().filter(matches).count()
    }

    fn show(&self, samples: &[&Sample]) -> String {
        let mut text = String::new();
        for sample in samples.iter().take(20) {
            let at = sample.sent.saturating_duration_since(self.began);
            let _ = writeln!(text, "  {:8.3} s  {}  {}", at.as_secs_f64(), sample.host.container, sample.answer);
        }
        if samples.len() > 20 {
            let _ = writeln!(text, "  and {} more", samples.len() - 20);
        }
        text
    }
}

/// No address was given and none denied: the asker tries again, or somebody else.
fn is_loss(answer: &Answer) -> bool {
    matches!(answer, Answer::Silence(_) | Answer::Failed(_))
}

/// Asks until told to stop. Questions leave on time, whatever became of those before.
fn follow(host: Host, name: &str, stop: &AtomicBool) -> Vec<Sample> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    socket.connect(host.dns()).expect("a route to the bed");
    let mut samples: Vec<Sample> = Vec::new();
    let mut waiting: HashMap<u16, usize> = HashMap::new();
    let mut next = Instant::now();
    let mut buffer = [0; 65_535];
    loop {
        let now = Instant::now();
        let stopped = stop.load(Ordering::Relaxed);
        if !stopped && now >= next {
            let id = u16::try_from(samples.len() % 65_536).expect("below 65,536");
            waiting.insert(id, samples.len());
            samples.push(Sample { host, sent: now, answer: Answer::Silence("no reply".into()) });
            // An ICMP error of the question before comes out here or below: that one is lost, and says so by silence.
            let packet = dns::question(id, name, RecordType::A);
            if socket.send(&packet).is_err() {
                drop(socket.send(&packet));
            }
            next += TICK;
        }
        // Whoever waits, waits for the last question at most as long as a late reply takes.
        let last = samples.last().map_or(now, |sample| sample.sent);
        if stopped && (waiting.is_empty() || last.elapsed() > LATE) {
            return samples;
        }
        let wait = next.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), TICK);
        socket.set_read_timeout(Some(wait)).expect("not zero");
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let Some((id, answer)) = dns::read(&buffer[..length]) else { continue };
                if let Some(sample) = waiting.remove(&id).and_then(|index| samples.get_mut(index))
                    && sample.sent.elapsed() <= LATE
                {
                    sample.answer = answer;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // Refused: the question before came back. Its sample stays silent; the pace stays.
            Err(_) => {}
        }
        waiting.retain(|_, index| samples.get(*index).is_some_and(|sample| sample.sent.elapsed() <= LATE));
    }
}
