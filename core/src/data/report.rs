//! What became of the rows of each file. Nothing is dropped without a line here.

use crate::chat::{Encoded, Reasoning};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// How many places are remembered for each reason.
const PLACES: usize = 10;
/// The share of dropped rows above which the report warns.
const MANY: f64 = 0.1;

/// Rows of a file, and of all files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// By file, in the order in which they were named.
    pub sources: Vec<SourceReport>,
    /// Loss scales that changed no weight in any row.
    pub unmatched_scales: Vec<String>,
    /// What was done to the reasoning of rows.
    pub reasoning: Reasoning,
    /// How full the packed rows are, where samples are packed.
    pub packing: Option<Packing>,
}

/// How well samples were packed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Packing {
    /// Packed rows.
    pub rows: usize,
    /// Samples in them.
    pub samples: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// The tokens that a row has room for.
    pub max_length: usize,
}

impl Packing {
    /// The share of the rows' room that holds tokens.
    pub fn efficiency(&self) -> f64 {
        self.tokens as f64 / (self.rows * self.max_length).max(1) as f64
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "packing: {} samples in {} rows of {} tokens, {:.1}% full",
            self.samples,
            self.rows,
            self.max_length,
            100.0 * self.efficiency()
        )
    }
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Samples that were longer than `max_length` and became several.
    pub split: usize,
    /// Tokens kept.
    pub tokens: usize,
    /// Supervised targets among them.
    pub trained: usize,
    /// The sum of their weights.
    pub weighted: f64,
    /// The longest sample, before anything was dropped.
    pub longest: usize,
    /// Why rows were dropped.
    pub dropped: BTreeMap<String, Dropped>,
}

/// Rows dropped for one reason.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dropped {
    /// How many.
    pub count: usize,
    /// The first of them: `file:line: what was wrong`.
    pub first: Vec<String>,
}

impl SourceReport {
    /// Counts a dropped row. Returns whether it is among the first, whose places are remembered.
    pub fn drop_row(&mut self, reason: &str, detail: String) -> bool {
        let dropped = self.dropped.entry(reason.to_owned()).or_default();
        dropped.count += 1;
        let is_early = dropped.first.len() < PLACES;
        if is_early {
            dropped.first.push(detail);
        }
        is_early
    }

    /// Counts a sample that is kept.
    pub fn keep(&mut self, sample: &Encoded) {
        self.kept += 1;
        self.tokens += sample.len();
        self.trained += sample.targets();
        self.weighted += sample.target_weight();
        self.longest = self.longest.max(sample.len());
    }

    /// Its line of the table, under [`Report::COLUMNS`].
    pub fn cells(&self) -> [String; 10] {
        [
            self.source.clone(),
            self.format.clone(),
            self.rows.to_string(),
            self.kept.to_string(),
            self.dropped_rows().to_string(),
            self.tokens.to_string(),
            self.trained.to_string(),
            format!("{:.1}", self.weighted),
            self.longest.to_string(),
            self.share_truncated(),
        ]
    }

    /// The share of the samples that were cut or split.
    fn share_truncated(&self) -> String {
        let cut = self.truncated + self.split;
        match cut {
            0 => "0%".to_owned(),
            _ => format!("{:.1}%", 100.0 * cut as f64 / self.kept.max(1) as f64),
        }
    }

    /// Rows dropped, whatever the reason.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.values().map(|dropped| dropped.count).sum()
    }
}

impl Report {
    /// Headings of the table.
    pub const COLUMNS: [&str; 10] = [
        "dataset",
        "format",
        "rows",
        "kept",
        "dropped",
        "tokens",
        "trained",
        "weighted",
        "longest",
        "truncated",
    ];

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
        for source in self.sources.iter().filter(|source| source.split > 0) {
            lines.push(format!(
                "{}: {} samples longer than max_length were split into several (truncation_strategy split)",
                source.source, source.split
            ));
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
        table.set_header(Self::COLUMNS);
        for source in &self.sources {
            table.add_row(source.cells());
        }
        write!(f, "{table}")?;
        match &self.packing {
            Some(packing) => write!(f, "\n{packing}"),
            None => Ok(()),
        }
    }
}
