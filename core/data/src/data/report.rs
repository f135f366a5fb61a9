//! Reports what became of the rows of each file. Nothing is dropped without a line here.

use super::{channels::Channels, unused::Unused};
use crate::chat::{Encoded, RowNoteTexts, RowNotes};
use apus_base::wording::{and_more, counted};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The number of locations that are remembered for each reason.
const LOCATIONS: usize = 10;
/// The share of dropped rows above which the report warns.
const MANY_DROPPED: f64 = 0.1;

/// Rows of a file, and of all files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The files, in the order in which they were named.
    pub sources: Vec<SourceReport>,
    /// Loss scales that changed no weight in any row.
    pub unmatched_scales: Vec<String>,
    /// What was done to rows on their way to tokens.
    pub row_notes: RowNotes,
    /// How full the packed rows are, if samples are packed.
    pub packing: Option<Packing>,
}

/// How well samples were packed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Packing {
    /// The number of packed rows.
    pub rows: usize,
    /// The number of samples in them.
    pub samples: usize,
    /// The number of tokens in them.
    pub tokens: usize,
    /// The number of tokens that a row has room for.
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
            "packing: {} in {} of {} tokens, {:.1}% full",
            counted(self.samples, "sample"),
            counted(self.rows, "row"),
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
    /// Parts of such samples that are kept.
    pub parts: usize,
    /// Parts of such samples without a trained token, which are not kept.
    pub idle_parts: usize,
    /// Tokens that would be trained if no part began with them.
    pub untrained_firsts: usize,
    /// Empty cells of a table, by column.
    pub empty_cells: BTreeMap<String, usize>,
    /// Tokens kept.
    pub tokens: usize,
    /// Supervised targets among them.
    pub trained: usize,
    /// The sum of their weights.
    pub weighted: f64,
    /// The length of the longest sample, before any was cut or dropped.
    pub longest: usize,
    /// Which channels its samples belong to.
    pub channels: Channels,
    /// Why rows were dropped.
    pub dropped: BTreeMap<String, Dropped>,
    /// What its rows hold and nobody reads.
    pub unused: Unused,
}

/// Rows dropped for one reason.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dropped {
    /// Their number.
    pub count: usize,
    /// The first of them in the order of the file: the line, and `file:line: what was wrong`.
    pub first: Vec<(usize, String)>,
}

impl SourceReport {
    /// Counts a dropped row. Returns whether it is one of the first, whose locations are remembered.
    pub fn drop_row(&mut self, reason: &str, line: usize, detail: String) -> bool {
        let dropped = self.dropped.entry(reason.to_owned()).or_default();
        dropped.count += 1;
        let position = dropped.first.partition_point(|(known, _)| *known <= line);
        dropped.first.insert(position, (line, detail));
        dropped.first.truncate(LOCATIONS);
        dropped.count <= LOCATIONS
    }

    /// Counts a sample that is kept.
    pub fn keep(&mut self, sample: &Encoded) {
        self.kept += 1;
        self.tokens += sample.len();
        self.trained += sample.targets();
        self.weighted += sample.target_weight();
        self.channels.count(sample);
    }

    /// Its row of the table below [`Report::COLUMNS`].
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

    /// The same as lines of text.
    fn lines(&self) -> String {
        let Self {
            source,
            format,
            rows,
            kept,
            tokens,
            trained,
            longest,
            ..
        } = self;
        format!(
            "{source} ({format})\n  {}, {kept} kept, {} dropped, {} truncated\n  {}, {trained} trained (weighted \
             {:.1}), {longest} in the longest",
            counted(*rows, "row"),
            self.dropped_rows(),
            self.share_truncated(),
            counted(*tokens, "token"),
            self.weighted
        )
    }

    fn split_warning(&self) -> Option<String> {
        let mut text = format!(
            "{}: {} longer than max_length became {} (truncation_strategy split)",
            self.source,
            counted(self.split, "sample"),
            self.parts
        );
        if self.idle_parts > 0 {
            let idle = counted(self.idle_parts, "part");
            text += &format!(", {idle} without a trained token left out");
        }
        if self.untrained_firsts > 0 {
            let first = counted(self.untrained_firsts, "token");
            text += &format!(", {first} not trained because a part begins with it");
        }
        (self.split > 0).then_some(text)
    }

    fn empty_cells_warning(&self) -> Option<String> {
        let cells = self.empty_cells.iter();
        let cells: Vec<_> = cells
            .map(|(column, count)| format!("{count} in `{column}`"))
            .collect();
        let rows = counted(self.rows, "row");
        let text = format!(
            "{}: empty cells in {rows}: {}",
            self.source,
            cells.join(", ")
        );
        (!cells.is_empty()).then_some(text)
    }

    /// The share of the samples that were cut or split.
    fn share_truncated(&self) -> String {
        let cut = self.truncated + self.split;
        match cut {
            0 => "0%".to_owned(),
            _ => {
                let whole = self.kept - self.parts + self.split;
                format!("{:.1}%", 100.0 * cut as f64 / whole.max(1) as f64)
            }
        }
    }

    /// The number of dropped rows, for any reason.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.values().map(|dropped| dropped.count).sum()
    }
}

impl Report {
    /// The headings of the table.
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

    /// Puts the files into this order.
    pub fn order(&mut self, files: &[Arc<str>]) {
        let position =
            |source: &SourceReport| files.iter().position(|file| **file == *source.source);
        self.sources.sort_by_key(position);
    }

    /// Counts the columns of files that were not decoded as not used, in every row.
    pub fn count_left_out(&mut self, files: &[(Arc<str>, Vec<String>)]) {
        for (file, columns) in files {
            for source in self
                .sources
                .iter_mut()
                .filter(|source| *source.source == **file)
            {
                for column in columns {
                    source.unused.count_column(column, source.rows);
                }
            }
        }
    }

    /// The channels of all files.
    pub fn channels(&self) -> Channels {
        let mut all = Channels::default();
        self.sources
            .iter()
            .for_each(|source| all.merge(&source.channels));
        all
    }

    /// The sum of a figure over all files.
    pub fn total(&self, figure: impl Fn(&SourceReport) -> usize) -> usize {
        self.sources.iter().map(figure).sum()
    }

    /// Warnings: what was dropped and why, what is not used, loss scales that matched nothing. A warning may have several
    /// lines.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for source in &self.sources {
            let (name, dropped) = (&source.source, source.dropped_rows());
            if dropped as f64 > MANY_DROPPED * source.rows as f64 {
                warnings.push(format!(
                    "{dropped} of {} rows of {name} were dropped ({:.0}%)",
                    source.rows,
                    100.0 * dropped as f64 / source.rows as f64
                ));
            }
            for (reason, dropped) in &source.dropped {
                let mut lines = vec![format!("{name}: dropped {} ({reason})", dropped.count)];
                lines.extend(
                    dropped
                        .first
                        .iter()
                        .map(|(_, detail)| format!("  {detail}")),
                );
                let more = and_more(dropped.count - dropped.first.len());
                lines.extend(more.map(|more| format!("  {more}")));
                warnings.push(lines.join("\n"));
            }
            if let Some(unused) = source.unused.line() {
                warnings.push(format!("{name}: not used: {unused}"));
            }
            warnings.extend(source.split_warning());
            warnings.extend(source.empty_cells_warning());
        }
        let unmatched = self.unmatched_scales.iter();
        warnings.extend(
            unmatched
                .map(|scale| format!("loss scale `{scale}` matched nothing in the whole dataset")),
        );
        warnings
    }

    /// Notes: what was done to rows, and which formats do not say what they use.
    pub fn notes(&self, texts: &RowNoteTexts) -> Vec<String> {
        [self.row_notes.notes(texts), self.untold_notes()].concat()
    }

    /// A note for each file whose format does not say what it uses.
    pub fn untold_notes(&self) -> Vec<String> {
        let untold = self
            .sources
            .iter()
            .filter(|source| source.unused.is_untold());
        let line = |SourceReport { source, format, .. }: &SourceReport| {
            format!(
                "{source}: the format {format} does not say which columns it uses, so all count as used"
            )
        };
        untold.map(line).collect()
    }

    /// The report as text for a terminal with this many columns: the table, or lines for each file if it is too wide.
    pub fn to_fit(&self, columns: Option<u16>) -> String {
        let table = self.to_string();
        let width = table.lines().next().map_or(0, |line| line.chars().count());
        if columns.is_none_or(|columns| width <= usize::from(columns)) {
            return table;
        }
        let sources = self.sources.iter().map(SourceReport::lines);
        let packing = self.packing.iter().map(Packing::to_string);
        sources.chain(packing).collect::<Vec<_>>().join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_the_file_are_remembered_in_whatever_order_they_come() {
        let mut source = SourceReport::default();
        let told: Vec<bool> = [30, 7, 12, 7, 99, 1, 2, 3, 4, 5, 6, 8]
            .map(|line| source.drop_row("bad row", line, format!("d.jsonl:{line}: x")))
            .into();
        assert_eq!(told, [vec![true; LOCATIONS], vec![false; 2]].concat());
        let dropped = &source.dropped["bad row"];
        let lines: Vec<usize> = dropped.first.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 7, 8, 12]);
        assert_eq!(dropped.count, 12);
    }

    #[test]
    fn a_narrow_terminal_gets_lines_in_place_of_the_table() {
        let mut report = Report::default();
        report.sources.push(SourceReport {
            source: "/data/\u{6570}\u{636e}/train.jsonl".to_owned(),
            format: "messages".to_owned(),
            rows: 1,
            kept: 1,
            tokens: 1200,
            trained: 300,
            weighted: 450.0,
            longest: 1200,
            ..SourceReport::default()
        });
        assert_eq!(report.to_fit(None), report.to_string());
        assert_eq!(report.to_fit(Some(200)), report.to_string());
        let narrow = report.to_fit(Some(80));
        assert_eq!(
            narrow,
            "/data/\u{6570}\u{636e}/train.jsonl (messages)\n  1 row, 1 kept, 0 dropped, 0% truncated\n  1200 tokens, \
             300 trained (weighted 450.0), 1200 in the longest"
        );
        report.unmatched_scales = vec!["hermes".to_owned()];
        assert_eq!(
            report.warnings(),
            ["loss scale `hermes` matched nothing in the whole dataset"]
        );
    }
}
