//! Interleaved rounds: in each one every contender is measured once, in an order that turns from round to round, so that
//! what disturbs the machine for a while disturbs all of them. Ratios are made within a round; what is told is their median.
//!
//! A virtual machine's cores are at times taken away by its host. What was measured meanwhile says nothing about a server,
//! so it is measured again, a few times at most; of all the takes the one counts that was disturbed least.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    figures::{Figures, percentile},
    load::{Questions, Stream, Tally, closed_loop, open_loop},
    peers::Server,
    serve,
    versions::{self, Version},
};

/// Who is measured, and how it is asked.
pub(crate) struct Contender<'q> {
    /// In the table.
    pub(crate) name: String,
    /// Which of the servers.
    pub(crate) server: usize,
    /// Where questions come from.
    pub(crate) sources: Vec<Ipv4Addr>,
    /// What is asked.
    pub(crate) questions: &'q Questions,
    /// What it loses is told, and is its own affair.
    pub(crate) is_peer: bool,
    /// Instances change meanwhile.
    pub(crate) churn: bool,
    /// Asked beside it, without a look at the answers, so often a second.
    pub(crate) beside: Option<(&'q Questions, u32)>,
}

impl<'q> Contender<'q> {
    /// Asked from one address, with nothing beside it.
    pub(crate) fn new(name: &str, server: usize, questions: &'q Questions) -> Self {
        let sources = vec![Ipv4Addr::LOCALHOST];
        Self { name: name.to_owned(), server, sources, questions, is_peer: false, churn: false, beside: None }
    }
}

/// How questions are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Load {
    /// As fast as they are answered.
    Closed,
    /// So many per second.
    Open(u32),
}

/// A figure that servers are compared by, and how it is read from a sample.
type Measure = (&'static str, fn(&Sample) -> f64);

impl Load {
    fn measures(self) -> Vec<Measure> {
        let cpu: Measure = ("cpu", Sample::cpu_per_million);
        match self {
            Self::Closed => vec![("rate", |sample| sample.tally.rate()), cpu],
            Self::Open(_) => vec![("p50", |sample| sample.p50), ("p99", |sample| sample.p99), cpu],
        }
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds.
    pub(crate) rounds: usize,
    /// One measurement.
    pub(crate) each: Duration,
    /// Before it, not counted.
    pub(crate) warm_up: Duration,
}

/// The share of a core's time that may be taken away in a measurement: the kernel counts in ticks of 10 ms.
const STOLEN: f64 = 0.01;
/// Measurements of one contender in one round, until one is undisturbed.
const TAKES: usize = 6;

/// What one measurement found.
#[derive(Clone, Debug)]
struct Sample {
    /// The share of its time that was taken away, of the core that lost more.
    stolen: f64,
    tally: Tally,
    cpu: f64,
    p50: f64,
    p99: f64,
}

impl Sample {
    fn cpu_per_million(&self) -> f64 {
        self.cpu / self.tally.answered as f64 * 1e6
    }
}

/// The samples of every contender, by round.
pub(crate) struct Results {
    names: Vec<String>,
    peers: Vec<bool>,
    samples: Vec<Vec<Sample>>,
    memory: Vec<f64>,
    load: Load,
}

/// Measures all contenders, round by round.
pub(crate) fn run(plan: Plan, load: Load, servers: &mut [Server], contenders: &[Contender<'_>]) -> Result<Results> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut samples = vec![Vec::new(); contenders.len()];
    for round in 0..plan.rounds {
        for place in 0..contenders.len() {
            let which = (place + round) % contenders.len();
            let contender = &contenders[which];
            let server = &mut servers[contender.server];
            if contender.churn {
                server.command(serve::CHURN)?;
            }
            measure(server, contender, load, plan.warm_up, &mut rng)?;
            let take = || measure(server, contender, load, plan.each, &mut rng);
            samples[which].push(least_disturbed(take)?);
            if contender.churn {
                server.command(serve::QUIET)?;
            }
        }
    }
    let memory = contenders.iter().map(|contender| servers[contender.server].memory()).collect::<Result<_>>()?;
    let names = contenders.iter().map(|contender| contender.name.clone()).collect();
    let peers = contenders.iter().map(|contender| contender.is_peer).collect();
    Ok(Results { names, peers, samples, memory, load })
}

/// The sample of several that was disturbed least: the first that hardly was.
fn least_disturbed(mut take: impl FnMut() -> Result<Sample>) -> Result<Sample> {
    let mut best = take()?;
    for _take in 1..TAKES {
        if best.stolen <= STOLEN {
            break;
        }
        let mut next = take()?;
        // Whatever disturbed it: no answer may be lost or wrong.
        let (lost, wrong) = (best.tally.lost + next.tally.lost, best.tally.wrong + next.tally.wrong);
        if next.stolen > best.stolen {
            next = best;
        }
        (next.tally.lost, next.tally.wrong) = (lost, wrong);
        best = next;
    }
    Ok(best)
}

/// Seconds that were taken away from each core so far (`man 5 proc_stat`, steal).
fn stolen() -> Result<Vec<f64>> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let cores = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let steal = |line: &str| line.split_whitespace().nth(8).and_then(|ticks| ticks.parse::<f64>().ok());
    cores.map(|line| steal(line).map(|ticks| ticks / 100.0).context("/proc/stat")).collect()
}

fn measure(
    server: &Server,
    contender: &Contender<'_>,
    load: Load,
    duration: Duration,
    rng: &mut SmallRng,
) -> Result<Sample> {
    let (before, stolen_before, began) = (server.cpu()?, stolen()?, Instant::now());
    let mut tally = match load {
        Load::Closed => closed_loop(server.address, &contender.sources, contender.questions, duration, rng)?,
        Load::Open(rate) => {
            let source = contender.sources[0];
            let mut streams = vec![Stream { rate, questions: contender.questions, source }];
            streams.extend(contender.beside.map(|(questions, rate)| Stream { rate, questions, source }));
            open_loop(server.address, streams, duration, rng)?.swap_remove(0)
        }
    };
    let cpu = server.cpu()? - before;
    let lost = stolen()?.iter().zip(stolen_before).map(|(after, before)| after - before).fold(0.0, f64::max);
    let stolen = lost / began.elapsed().as_secs_f64();
    let mut latencies = std::mem::take(&mut tally.latencies);
    let [p50, p99] = [50.0, 99.0].map(|share| percentile(&mut latencies, share));
    Ok(Sample { stolen, tally, cpu, p50, p99 })
}

impl Results {
    /// One row for each contender. Returns how many questions were wrongly answered, or lost by us.
    pub(crate) fn tell(&self, figures: &mut Figures) -> u64 {
        let mut bad = 0;
        let named = self.names.iter().zip(&self.peers);
        for (((name, is_peer), samples), memory) in named.zip(&self.samples).zip(&self.memory) {
            let of = |value: &dyn Fn(&Sample) -> f64| median(samples.iter().map(value).collect());
            let sum = |value: &dyn Fn(&Sample) -> u64| samples.iter().map(value).sum::<u64>();
            let (lost, wrong) = (sum(&|sample| sample.tally.lost), sum(&|sample| sample.tally.wrong));
            let mut row = match self.load {
                Load::Closed => vec![("rate", of(&|sample| sample.tally.rate()), "q/s")],
                Load::Open(_) => vec![("p50", of(&|sample| sample.p50), "us"), ("p99", of(&|sample| sample.p99), "us")],
            };
            row.extend([
                ("cpu", of(&Sample::cpu_per_million), "s/M"),
                ("busy", 100.0 * of(&|sample| sample.cpu / sample.tally.seconds), "%"),
                ("stolen", 100.0 * of(&|sample| sample.stolen), "%"),
                ("rss", *memory, "MiB"),
                ("lost", lost as f64, ""),
                ("wrong", wrong as f64, ""),
            ]);
            figures.row(name, &row);
            bad += wrong + if *is_peer { 0 } else { lost };
        }
        bad
    }

    /// One contender divided by another: the ratio of each round, where both were measured.
    fn ratios(&self, left: &str, right: &str, value: fn(&Sample) -> f64) -> Option<Vec<f64>> {
        let of = |name: &str| self.names.iter().position(|known| known == name).map(|place| &self.samples[place]);
        let rounds = of(left)?.iter().zip(of(right)?);
        Some(rounds.map(|(left, right)| value(left) / value(right)).collect())
    }

    /// One contender divided by another: the medians of the ratios within rounds.
    pub(crate) fn compare(&self, figures: &mut Figures, left: &str, right: &str) {
        let median_of = |(figure, value): Measure| Some((figure, median(self.ratios(left, right, value)?), ""));
        let row: Option<Vec<_>> = self.load.measures().into_iter().map(median_of).collect();
        if let Some(row) = row {
            figures.row(&format!("{left} / {right}"), &row);
        }
    }

    /// The first contender divided by each of the others; versions of ours are judged instead.
    pub(crate) fn compare_first(&self, figures: &mut Figures) {
        let is_version = |name: &&String| Version::ALL.iter().any(|version| version.name() == name.as_str());
        for other in self.names[1..].iter().filter(|name| !is_version(name)) {
            self.compare(figures, &self.names[0], other);
        }
        let [now, before, again] = Version::ALL.map(Version::name);
        for (figure, value) in self.load.measures() {
            let ratios = self.ratios(now, before, value).zip(self.ratios(now, again, value));
            if let Some((to_before, to_itself)) = ratios {
                versions::judge(figures, figure, to_before, to_itself);
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}
