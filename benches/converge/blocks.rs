//! Before and after: agents of an older binary and of the present one, in turns.
//!
//! The engine tells its followers one after the other, so agents of two versions would wait for each other if both ran.
//! Instead each block runs the present pair of agents, the older pair, and the present pair again, one pair at a time,
//! and measures a share of the rounds with each. The order turns from block to block; ratios are made within a block.

use std::path::Path;

use anyhow::Result;

use crate::{
    agent::PORTOLAN,
    figures::{Figures, percentile},
    stage::{Agents, Stage, Turn},
    versions::{self, Version},
};

/// Blocks of a run: each version is the first in a third of them, and one of them is the median.
const BLOCKS: usize = 15;

/// What is measured with each version.
const MEASURES: [&str; 4] = ["own host, start", "own host, stop", "other host, start", "other host, stop"];

/// Milliseconds, of one measure: by version, then by block.
type Blocks = [Vec<Vec<f64>>; Version::ALL.len()];

/// Measures both versions, with at least so many starts and stops of each version on either host.
pub(crate) fn compare(older: &Path, rounds: usize, endpoints: &[String], state: &Path) -> Result<()> {
    let blocks = BLOCKS.min(rounds);
    let each = rounds.div_ceil(blocks);
    let mut stage = Stage::new(endpoints)?;
    let mut found: [Blocks; MEASURES.len()] = Default::default();
    let mut number = 0;
    for block in 0..blocks {
        for place in 0..Version::ALL.len() {
            let version = Version::ALL[(place + block) % Version::ALL.len()];
            let binary = if version == Version::Before { older } else { Path::new(PORTOLAN) };
            let agents = Agents::start(binary, &format!("bench-{}", version as usize), endpoints, state)?;
            stage.ask(&agents)?;
            // The first round, which counts for nothing, waits until both agents know everything.
            stage.round(Turn::Own, number)?;
            number += 1;
            let mut samples: [Vec<f64>; MEASURES.len()] = Default::default();
            for round in 0..2 * each {
                let (turn, first) = if round % 2 == 0 { (Turn::Own, 0) } else { (Turn::Other, 2) };
                let round = stage.round(turn, number)?;
                number += 1;
                samples[first].push(round.start);
                samples[first + 1].push(round.stop);
            }
            for (blocks, samples) in found.iter_mut().zip(samples) {
                blocks[version as usize].push(samples);
            }
        }
        eprintln!("{} of {blocks} blocks", block + 1);
    }

    let mut figures = Figures::new("converge-before");
    figures.say(&format!("before: {}", older.display()));
    figures.say(&format!(
        "{blocks} blocks, in each {each} starts and stops for either host and version; milliseconds after the event's"
    ));
    figures.say("own timestamp; the medians of a block are compared");
    for (name, blocks) in MEASURES.into_iter().zip(found) {
        tell(&mut figures, name, blocks);
    }
    figures.write()
}

/// The rows of one measure.
fn tell(figures: &mut Figures, name: &str, mut found: Blocks) {
    for (version, blocks) in Version::ALL.into_iter().zip(&found) {
        let mut all = blocks.concat();
        let [p50, p90] = [50.0, 90.0].map(|share| percentile(&mut all, share));
        figures.row(&format!("{name}: {}", version.name()), &[("p50", p50, "ms"), ("p90", p90, "ms")]);
    }
    let mut medians = |version: Version| -> Vec<f64> {
        found[version as usize].iter_mut().map(|samples| percentile(samples, 50.0)).collect()
    };
    let [now, before, again] = Version::ALL.map(&mut medians);
    let ratios = |other: &[f64]| now.iter().zip(other).map(|(now, other)| now / other).collect();
    versions::judge(figures, name, ratios(&before), ratios(&again));
}
