//! Before and after: an older binary and the present one, measured in turns within one run. Two processes of one binary
//! differ, too. So the present binary takes part twice, and a difference from the older one is judged by how much the
//! present one differs from itself.

#![allow(dead_code, unreachable_pub, reason = "each benchmark includes this file and uses a part of it")]

use std::{env, path::PathBuf};

use anyhow::{Result, ensure};

use crate::figures::{Figures, percentile};

/// Names the older binary; `scripts/before.sh` builds one of a commit.
pub const BEFORE: &str = "BENCH_BEFORE";

/// The share of rounds that the spread covers, in percent: the rest may have met a disturbance.
const COVERED: f64 = 80.0;

/// The least number of rounds that a verdict is given for: with four, a binary has been seen outside its own spread.
const ENOUGH: usize = 10;

/// Which binary is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The present one.
    Now,
    /// The older one.
    Before,
    /// The present one a second time, in a process of its own.
    Again,
}

impl Version {
    /// In the order of the first round.
    pub const ALL: [Self; 3] = [Self::Now, Self::Before, Self::Again];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Before => "before",
            Self::Again => "now, again",
        }
    }
}

/// The older binary, where one is named.
pub fn older() -> Result<Option<PathBuf>> {
    let Some(path) = env::var_os(BEFORE).filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(None) };
    ensure!(path.is_file(), "{BEFORE}: there is no binary {}", path.display());
    Ok(Some(path))
}

/// Tells the ratios of one figure, one ratio from each round: the present binary to the older one, and to itself.
pub fn judge(figures: &mut Figures, figure: &str, mut to_before: Vec<f64>, mut to_itself: Vec<f64>) {
    // Either process of the present binary might have been named first: a ratio counts as much as its inverse.
    let mut factors: Vec<f64> = to_itself.iter().map(|ratio| ratio.max(1.0 / ratio)).collect();
    let spread = percentile(&mut factors, COVERED);
    let mut row = |versions: &str, ratios: &mut [f64]| {
        let [low, middle, high] = [10.0, 50.0, 90.0].map(|share| percentile(ratios, share));
        figures.row(&format!("{figure}: {versions}"), &[("p50", middle, ""), ("p10", low, ""), ("p90", high, "")]);
        middle
    };
    let changed = row("now / before", &mut to_before);
    row("now / now, again", &mut to_itself);
    let verdict = match to_itself.len() {
        0..ENOUGH => "too few rounds to say whether within",
        _ if changed.max(1.0 / changed) <= spread => "within",
        _ => "OUTSIDE",
    };
    figures.say(&format!(
        "    {figure}: now / before is {changed:.3}, {verdict} the spread of the same binary against itself, \
         {:.3} to {spread:.3} in {COVERED} % of {} rounds",
        1.0 / spread,
        to_itself.len()
    ));
}
