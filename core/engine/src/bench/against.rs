//! `apus bench --against FILE`: figures beside those that an earlier measurement wrote with `--json`.
//!
//! Two measurements are compared only as far as they measured the same thing. What differs in their settings is named
//! above the table, because a figure of another setting is no news about the code.

use super::table;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::small_file::{self, Limit};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// Flags that do not change what is measured.
const NO_SETTINGS: [&str; 2] = ["json", "against"];

/// Figures beside the configuration that tell what was measured.
const SETTINGS: [&str; 7] = [
    "machine",
    "ranks",
    "experts",
    "layers",
    "kept_layers",
    "parameters",
    "trained_parameters",
];

/// A figure of a measurement: its name, its key, and how a value of it is shown.
type Figure = (&'static str, &'static str, fn(f64) -> String);

/// Figures that grow with the number of ranks. With another number they are no news about the code.
const OF_ALL_RANKS: [&str; 2] = ["tokens_per_second", "trained_tokens_per_second"];

/// Figures of a measurement of training.
const FIGURES: [Figure; 7] = [
    ("tokens/s", "tokens_per_second", whole),
    ("trained tokens/s", "trained_tokens_per_second", whole),
    ("tokens/s a rank", OF_A_RANK, whole),
    ("median step", "median_seconds", |seconds| {
        format!("{seconds:.3} s")
    }),
    ("operations", "tflops", |tflops| table::rate(tflops * 1e12)),
    ("peak memory", "peak_memory_bytes", |bytes| {
        table::gib(bytes as u64)
    }),
    ("final loss", "loss", |loss| format!("{loss:.4}")),
];

const OF_A_RANK: &str = "tokens_per_second_per_rank";

/// A figure of training; what all of one rank do is what each does.
fn figure(figures: &Map<String, Value>, key: &str) -> Option<f64> {
    let alone = || match key == OF_A_RANK && !figures.contains_key("ranks") {
        true => figures.get("tokens_per_second"),
        false => None,
    };
    figures.get(key).or_else(alone).and_then(Value::as_f64)
}

/// An earlier measurement.
#[derive(Debug)]
pub struct Earlier {
    path: String,
    figures: Map<String, Value>,
}

impl Earlier {
    /// Reads what `apus bench --json` wrote; `ops` tells whether operations are timed alone.
    ///
    /// # Errors
    /// The file cannot be read, was not written by `apus bench --json`, or measured the other of training and operations.
    pub fn read(path: &str, ops: bool) -> Result<Self> {
        let text = small_file::text(Path::new(path), Limit::STORED)?;
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("{path}: malformed JSON"))?;
        let Value::Object(figures) = value else {
            bail!("{path}: expected the figures that apus bench --json writes, found no object")
        };
        let kind = match ops {
            true => "operations",
            false => "tokens_per_second",
        };
        let other = match ops {
            true => "tokens_per_second",
            false => "operations",
        };
        ensure!(
            !figures.contains_key(other),
            "{path}: it is a measurement {} --ops, this one is not",
            if ops { "without" } else { "with" }
        );
        ensure!(
            figures.contains_key(kind) && figures.contains_key("config"),
            "{path}: expected the figures that apus bench --json writes, found no {kind} or no config in it"
        );
        Ok(Self {
            path: path.to_owned(),
            figures,
        })
    }

    /// The earlier figures beside those of `now`.
    pub fn beside(&self, now: &Value) -> String {
        let mut text = format!("against {}", self.path);
        if let Some(version) = self.figures.get("apus_version").and_then(Value::as_str) {
            let _ = write!(text, ", apus {version}");
        }
        for (name, there, here) in self.differences(now) {
            let _ = write!(text, "\nanother setting: {name} {there} there, {here} here");
        }
        let mut lines = table::plain();
        lines.set_header(["", "there", "here", "change"]);
        let none = Map::new();
        let now_figures = now.as_object().unwrap_or(&none);
        let ranks = [&self.figures, now_figures].map(|figures| figures.get("ranks"));
        let compares = |key: &str| match key {
            OF_A_RANK => ranks.iter().any(Option::is_some),
            key => ranks[0] == ranks[1] || !OF_ALL_RANKS.contains(&key),
        };
        for (name, key, show) in FIGURES.into_iter().filter(|(_, key, _)| compares(key)) {
            if let (Some(there), Some(here)) =
                (figure(&self.figures, key), figure(now_figures, key))
            {
                lines.add_row([
                    name.to_owned(),
                    show(there),
                    show(here),
                    change(there, here),
                ]);
            }
        }
        for (name, there, here) in self.timed(now) {
            lines.add_row([
                name,
                milliseconds(there),
                milliseconds(here),
                there
                    .zip(here)
                    .map_or_else(String::new, |(there, here)| change(there, here)),
            ]);
        }
        table::align_right(&mut lines, 1..4);
        format!("{text}\n{lines}\n")
    }

    /// Settings that are not the same.
    fn differences(&self, now: &Value) -> Vec<(String, String, String)> {
        let none = Map::new();
        let config = |figures: Option<&Value>| {
            let config = figures.and_then(Value::as_object);
            config.unwrap_or(&none).clone()
        };
        let (there, here) = (
            config(self.figures.get("config")),
            config(now.get("config")),
        );
        let keys = here
            .keys()
            .chain(there.keys().filter(|key| !here.contains_key(*key)));
        let flags = keys
            .filter(|key| !NO_SETTINGS.contains(&key.as_str()))
            .map(|key| (key.as_str(), there.get(key), here.get(key)));
        let others = SETTINGS.map(|key| (key, self.figures.get(key), now.get(key)));
        let show =
            |value: Option<&Value>| value.map_or_else(|| "not given".to_owned(), Value::to_string);
        // A flag that an earlier version did not have is one that was not given.
        flags
            .chain(others)
            .map(|(key, there, here)| (key, given(there), given(here)))
            .filter(|(_, there, here)| there != here)
            .map(|(key, there, here)| (key.to_owned(), show(there), show(here)))
            .collect()
    }

    /// Milliseconds by group of operations, or of each operation: there and here.
    fn timed(&self, now: &Value) -> Vec<(String, Option<f64>, Option<f64>)> {
        let there = rows(&self.figures.get("profile"), self.figures.get("operations"));
        let here = rows(&now.get("profile"), now.get("operations"));
        let find = |rows: &[(String, f64)], name: &str| {
            rows.iter().find(|row| row.0 == name).map(|row| row.1)
        };
        let gone = there.iter().filter(|row| find(&here, &row.0).is_none());
        let names = here.iter().chain(gone).map(|row| row.0.clone());
        names
            .map(|name| {
                let times = (find(&there, &name), find(&here, &name));
                (name, times.0, times.1)
            })
            .collect()
    }
}

fn given(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

/// The names and milliseconds of a profile's groups, or of operations.
fn rows(profile: &Option<&Value>, operations: Option<&Value>) -> Vec<(String, f64)> {
    let groups = profile.and_then(|profile| profile.get("groups"));
    let Some(Value::Array(rows)) = groups.or(operations) else {
        return Vec::new();
    };
    let row = |row: &Value| {
        let name = row
            .get("group")
            .or_else(|| row.get("operation"))?
            .as_str()?;
        Some((name.to_owned(), row.get("milliseconds")?.as_f64()?))
    };
    rows.iter().filter_map(row).collect()
}

fn whole(value: f64) -> String {
    table::grouped(value.round() as usize)
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3} ms"))
}

/// By how much of the earlier value a value is greater or smaller.
fn change(there: f64, here: f64) -> String {
    match there == 0.0 {
        true => String::new(),
        false => format!("{:+.1} %", 100.0 * (here / there - 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures(rate: f64, seq: &str) -> Value {
        json!({
            "apus_version": "0.1.0",
            "machine": "a card",
            "config": { "seq": seq, "json": rate.to_string() },
            "tokens_per_second": rate,
            "median_seconds": 512.0 / rate,
            "peak_memory_bytes": null,
            "profile": { "groups": [{ "group": "experts", "milliseconds": 1e5 / rate }] },
        })
    }

    fn earlier(text: &str, ops: bool) -> Result<Earlier> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Earlier::read(file.path().to_str().unwrap(), ops)
    }

    #[test]
    fn figures_stand_beside_each_other() {
        let there = earlier(&figures(1000.0, "64").to_string(), false).unwrap();
        let text = there.beside(&figures(1250.0, "64"));
        let row = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(name));
            line.unwrap()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            row("tokens/s"),
            ["tokens/s", "1,000", "1,250", "+25.0", "%"]
        );
        assert_eq!(
            row("experts"),
            ["experts", "100.000", "ms", "80.000", "ms", "-20.0", "%"]
        );
        assert!(
            !text.contains("peak memory") && !text.contains("another setting"),
            "{text}"
        );
    }

    #[test]
    fn another_setting_is_named() {
        let there = earlier(&figures(1000.0, "64").to_string(), false).unwrap();
        let text = there.beside(&figures(1000.0, "128"));
        assert!(
            text.contains(r#"another setting: seq "64" there, "128" here"#),
            "{text}"
        );
    }

    #[test]
    fn a_flag_that_is_not_given_is_as_one_that_there_was_not() {
        let there = earlier(&figures(1000.0, "64").to_string(), false).unwrap();
        let mut here = figures(1000.0, "64");
        here["config"]["shard_base"] = Value::Null;
        assert!(!there.beside(&here).contains("another setting"));
        here["config"]["shard_base"] = true.into();
        let text = there.beside(&here);
        assert!(
            text.contains("another setting: shard_base not given there, true here"),
            "{text}"
        );
    }

    #[test]
    fn ranks_are_compared_with_as_many_ranks_or_one_by_one() {
        let ranks = |rate: f64, count: usize| {
            let mut figures = figures(rate, "64");
            figures["ranks"] = count.into();
            figures["tokens_per_second_per_rank"] = (rate / count as f64).into();
            figures
        };
        let line = |text: &str, name: &str| {
            let mut lines = text.lines().map(str::trim_start);
            let line = lines.find(|line| line.starts_with(&format!("{name}  ")));
            line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let alone = earlier(&figures(1000.0, "64").to_string(), false).unwrap();
        let text = alone.beside(&ranks(1960.0, 2));
        assert!(
            text.contains("another setting: ranks not given there, 2 here"),
            "{text}"
        );
        assert_eq!(line(&text, "tokens/s"), None);
        assert_eq!(
            line(&text, "tokens/s a rank").as_deref(),
            Some("tokens/s a rank 1,000 980 -2.0 %")
        );
        let two = earlier(&ranks(2000.0, 2).to_string(), false).unwrap();
        let text = two.beside(&ranks(1960.0, 2));
        assert!(!text.contains("another setting"), "{text}");
        assert_eq!(
            line(&text, "tokens/s").as_deref(),
            Some("tokens/s 2,000 1,960 -2.0 %")
        );
    }

    #[test]
    fn only_figures_of_the_same_kind_are_read() {
        let cases = [
            ("[]", false, "found no object"),
            ("{", false, "malformed JSON"),
            ("{}", false, "found no tokens_per_second"),
            (r#"{"config": {}, "operations": []}"#, false, "with --ops"),
            (
                r#"{"config": {}, "tokens_per_second": 1}"#,
                true,
                "without --ops",
            ),
        ];
        for (text, ops, says) in cases {
            let error = earlier(text, ops).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
