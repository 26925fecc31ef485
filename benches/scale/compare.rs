//! Before and after: an older binary of this benchmark and the present one, each run whole and in turns. Each starts agents
//! of its own build. What they print is what is compared.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    figures::{Figures, percentile},
    versions::{self, Version},
};

/// Runs of each, unless `BENCH_ROUNDS` says otherwise: some 15 s for one.
const ROUNDS: usize = 10;

/// Runs both binaries in turns and tells the ratio of each figure that both know.
pub(crate) fn run(older: &Path) -> Result<()> {
    let rounds = match std::env::var("BENCH_ROUNDS").ok().filter(|text| !text.is_empty()) {
        Some(text) => text.parse().context("BENCH_ROUNDS is a number of rounds")?,
        None => ROUNDS,
    };
    let present = std::env::current_exe()?;
    let mut found: [Vec<BTreeMap<String, f64>>; Version::ALL.len()] = Default::default();
    for round in 0..rounds {
        for place in 0..Version::ALL.len() {
            let version = Version::ALL[(place + round) % Version::ALL.len()];
            let binary = if version == Version::Before { older } else { &present };
            found[version as usize].push(figures_of(binary)?);
        }
        eprintln!("{} of {rounds} rounds", round + 1);
    }

    let mut figures = Figures::new("scale-before");
    figures.say(&format!("before: {}", older.display()));
    figures.say(&format!("medians of {rounds} runs of each binary, in turns"));
    let names = found[Version::Now as usize].first().map(|run| run.keys().cloned().collect()).unwrap_or_default();
    let names: Vec<String> = names;
    for name in names {
        let of = |version: Version| -> Option<Vec<f64>> {
            found[version as usize].iter().map(|run| run.get(&name).copied()).collect()
        };
        let [Some(now), Some(before), Some(again)] = Version::ALL.map(of) else {
            figures.say(&format!("  {name}: the older binary has no such figure"));
            continue;
        };
        for (version, values) in Version::ALL.into_iter().zip([&now, &before, &again]) {
            figures.row(&format!("{name}: {}", version.name()), &[("p50", percentile(&mut values.clone(), 50.0), "")]);
        }
        let ratios = |other: &[f64]| now.iter().zip(other).map(|(now, other)| now / other).collect();
        versions::judge(&mut figures, &name, ratios(&before), ratios(&again));
    }
    figures.write()
}

/// Runs a binary of this benchmark once, and reads the table that it prints.
fn figures_of(binary: &Path) -> Result<BTreeMap<String, f64>> {
    let binary = PathBuf::from(binary);
    let mut command = Command::new(&binary);
    let output = command.env_remove(versions::BEFORE).stderr(Stdio::null()).output().context("it does not start")?;
    ensure!(output.status.success(), "{} failed: run it by itself", binary.display());
    let table = String::from_utf8(output.stdout)?;
    let read: BTreeMap<String, f64> = table.lines().filter(|line| line.starts_with("  ")).flat_map(read).collect();
    ensure!(!read.is_empty(), "{} printed no figures", binary.display());
    Ok(read)
}

/// The figures of one row, as `Figures::row` writes it: name, then label, value and unit of each. Only values have decimals.
fn read(row: &str) -> Vec<(String, f64)> {
    let words: Vec<&str> = row.split_whitespace().collect();
    let value = |word: &str| if word.contains('.') { word.parse::<f64>().ok() } else { None };
    let (mut told, mut label, mut figures) = (Vec::new(), Vec::new(), Vec::new());
    for word in words {
        match value(word) {
            // Behind the first value, what stands before a label is the unit of the value before it.
            Some(value) => figures.push((std::mem::take(&mut label).join(" "), value)),
            None => label.push(word),
        }
    }
    let mut name = String::new();
    for (label, value) in figures {
        if name.is_empty() {
            name.clone_from(&label);
            told.push((label, value));
        } else {
            told.push((format!("{name}, {label}"), value));
        }
    }
    told
}
