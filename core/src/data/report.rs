//! What became of the rows of each file. Nothing is dropped without a line here.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use std::{collections::BTreeMap, fmt};

/// How many places are remembered for each reason.
const PLACES: usize = 10;
/// The share of dropped rows above which the report warns.
const MANY: f64 = 0.1;

/// Rows of a file, and of all files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// By file, in the order in which they were named.
    pub sources: Vec<SourceReport>,
    /// Loss scales that changed no weight in any row.
    pub unmatched_scales: Vec<String>,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceReport {
    /// The file.
    pub source: String,
    /// The dataset format that read it.
    pub format: String,
    /// Rows read.
    pub rows: usize,
    /// Samples kept; a row may give several.
    pub kept: usize,
    /// Samples whose tokens were cut to `max_length`.
    pub truncated: usize,
    /// Tokens kept.
    pub tokens: usize,
    /// Supervised targets among them.
    pub trained: usize,
    /// The longest sample, before anything was dropped.
    pub longest: usize,
    /// Why rows were dropped.
    pub dropped: BTreeMap<&'static str, Dropped>,
}

/// Rows dropped for one reason.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dropped {
    /// How many.
    pub count: usize,
    /// The first of them: `file:line: what was wrong`.
    pub first: Vec<String>,
}

impl SourceReport {
    /// Counts a dropped row. Returns whether it is among the first, whose places are remembered.
    pub fn drop_row(&mut self, reason: &'static str, detail: String) -> bool {
        let dropped = self.dropped.entry(reason).or_default();
        dropped.count += 1;
        let is_early = dropped.first.len() < PLACES;
        if is_early {
            dropped.first.push(detail);
        }
        is_early
    }

    /// Rows dropped, whatever the reason.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.values().map(|dropped| dropped.count).sum()
    }
}

impl Report {
    /// One figure over all files.
    pub fn total(&self, figure: impl Fn(&SourceReport) -> usize) -> usize {
        self.sources.iter().map(figure).sum()
    }

    /// Lines for the person who waits: what was dropped and why, idle loss scales.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for source in &self.sources {
            let dropped = source.dropped_rows();
            if dropped as f64 > MANY * source.rows as f64 {
                lines.push(format!(
                    "WARNING: {dropped} of {} rows of {} were dropped ({:.0}%)",
                    source.rows,
                    source.source,
                    100.0 * dropped as f64 / source.rows as f64
                ));
            }
            for (reason, dropped) in &source.dropped {
                lines.push(format!(
                    "{}: dropped {} ({reason})",
                    source.source, dropped.count
                ));
                lines.extend(dropped.first.iter().map(|place| format!("  {place}")));
                if dropped.count > dropped.first.len() {
                    lines.push(format!(
                        "  and {} more",
                        dropped.count - dropped.first.len()
                    ));
                }
            }
        }
        for scale in &self.unmatched_scales {
            lines.push(format!(
                "WARNING: loss scale `{scale}` matched nothing in the whole dataset"
            ));
        }
        lines
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header([
            "dataset",
            "format",
            "rows",
            "kept",
            "dropped",
            "tokens",
            "trained",
            "longest",
            "truncated",
        ]);
        for source in &self.sources {
            table.add_row([
                source.source.clone(),
                source.format.clone(),
                source.rows.to_string(),
                source.kept.to_string(),
                source.dropped_rows().to_string(),
                source.tokens.to_string(),
                source.trained.to_string(),
                source.longest.to_string(),
                source.truncated.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
