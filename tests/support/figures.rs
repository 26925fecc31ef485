//! Figures of a benchmark: printed as a table, and written to `target/bench/NAME.{txt,json}`.

#![allow(dead_code, unreachable_pub, reason = "each benchmark includes this file and uses a part of it")]

use std::{fmt::Write as _, fs, path::Path};

/// What one benchmark found.
pub struct Figures {
    name: &'static str,
    text: String,
    rows: Vec<serde_json::Value>,
}

impl Figures {
    /// Begins the table of a benchmark.
    pub fn new(name: &'static str) -> Self {
        let machine = format!("{} cores, {}", std::thread::available_parallelism().map_or(0, Into::into), kernel());
        Self { name, text: format!("{name}: {machine}\n"), rows: Vec::new() }
    }

    /// A line of words.
    pub fn say(&mut self, line: &str) {
        let _infallible = writeln!(self.text, "{line}");
    }

    /// A line of figures: name, value, unit.
    pub fn row(&mut self, name: &str, values: &[(&str, f64, &str)]) {
        let mut line = format!("  {name:<34}");
        let mut row = serde_json::Map::from_iter([("name".to_owned(), name.into())]);
        for (label, value, unit) in values {
            let _infallible = write!(line, " {label} {value:>9.3} {unit}");
            row.insert(format!("{label} {unit}"), (*value).into());
        }
        self.say(line.trim_end());
        self.rows.push(row.into());
    }

    /// Prints the table and writes both files.
    pub fn write(self) -> anyhow::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(self.name).with_extension("txt"), &self.text)?;
        fs::write(folder.join(self.name).with_extension("json"), serde_json::to_vec_pretty(&self.rows)?)?;
        std::io::Write::write_all(&mut std::io::stdout(), self.text.as_bytes())?;
        Ok(())
    }
}

/// The value below which `share` percent of the samples lie (nearest rank); sorts them.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (share / 100.0 * samples.len() as f64).ceil().max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the slice")]
    let index = (rank as usize - 1).min(samples.len().saturating_sub(1));
    samples.get(index).copied().unwrap_or(f64::NAN)
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown kernel".into(), |text| text.trim().to_owned())
}
