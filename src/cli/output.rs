//! How data is printed.

use std::{
    fmt::Display,
    io::{self, Write},
};

use clap::{Args, ValueEnum};

/// The form of data on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people: aligned, with a heading.
    #[default]
    Table,
    /// For programs: the field names of the etcd records.
    Json,
    /// For shells: one name per line.
    Name,
}

/// `-o`.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// How to print.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "table|json|name",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub(super) form: Form,
}

/// Prints rows below a heading, each column as wide as its widest cell; nothing trails a line.
pub(super) fn table<const N: usize>(out: &mut impl Write, heading: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let heading = heading.map(str::to_owned);
    let lines = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for line in lines() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Tells a person something that is not data. Nobody may be listening, which is no failure.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `1 problem`, `2 problems`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut out = Vec::new();
        let rows = [["a".to_owned(), "b".to_owned()], ["größer".to_owned(), String::new()]];
        table(&mut out, ["ONE", "TWO"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ONE     TWO\na       b\ngrößer\n");
    }
}
