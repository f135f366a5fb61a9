//! Reported values in the server's names, limits and forms.

use super::record::{Column, YRange, class, kind};
use apus_sdk::RunInfo;
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::io;

/// The prefix of the keys of the machine's numbers.
pub const SYSTEM: &str = "__swanlab__.";
/// The longest key.
const KEY: usize = 512;
/// The longest line of the terminal.
const LINE: usize = 1024;

/// The hash of bytes, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of a number of the log: `train/loss`, `eval/loss`.
pub fn metric(name: &str) -> String {
    key(&apus_sdk::log_path(name))
}

/// A key that the server takes.
pub fn key(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let outer = |c: char| c == '.' || c == '/' || c.is_whitespace();
    let cut: String = name.trim_matches(outer).chars().take(KEY).collect();
    match cut.trim_end_matches(outer) {
        "" => "unnamed".to_owned(),
        key => key.to_owned(),
    }
}

/// The section of the page that a key goes to: its part before `/` number `rule` (from 0; -1 is the last).
pub fn section(key: &str, rule: i64) -> Option<&str> {
    let rule = usize::try_from(rule).unwrap_or(usize::MAX);
    let slashes: Vec<usize> = key.match_indices('/').map(|(at, _)| at).collect();
    let at = slashes.get(rule).or(slashes.last())?;
    Some(&key[..*at])
}

/// A line of the terminal as the server shows it: without colours, and cut.
pub fn line(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(LINE));
    let mut chars = text.chars().peekable();
    let mut length = 0;
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                // A sequence ends with a letter.
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            continue;
        }
        if c.is_control() && c != '\t' {
            continue;
        }
        plain.push(c);
        length += 1;
        if length == LINE {
            break;
        }
    }
    plain
}

/// Numbers of the machine by the server's names; a number for which it has none keeps its own. The server knows one host and
/// one process: another host's name stands before the index of its card (`gpu.node2-0.pct`) or at the end, a rank at the end.
pub fn system(values: &Map<String, Value>) -> Vec<(String, f64)> {
    let numbers = values
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_f64()?)));
    let named =
        numbers.map(|(name, number)| (key(&format!("{SYSTEM}{}", server_name(name))), number));
    named.collect()
}

fn server_name(name: &str) -> String {
    if let Some((host, name)) = name.rsplit_once('/') {
        // Dots and slashes have a meaning of their own in a key.
        let host = host.replace(['.', '/'], "-");
        return match name.strip_prefix("gpu.") {
            Some(card) => server_name(&format!("gpu.{host}-{card}")),
            None => format!("{}.{host}", server_name(name)),
        };
    }
    let rank = name.strip_prefix("rank.");
    if let Some(rank) = rank.and_then(|rank| rank.strip_suffix(".process_mib")) {
        return format!("mem.proc.rank-{rank}");
    }
    match name {
        "cpu.threads" => "cpu.thds".to_owned(),
        "mem.process_mib" => "mem.proc".to_owned(),
        "mem.process_pct" => "mem.proc.pct".to_owned(),
        "mem.available_mib" => "mem.proc.avail".to_owned(),
        name if name.starts_with("gpu.") => name
            .replace(".mem_pct", ".mem.pct")
            .replace(".mem_mib", ".mem.value"),
        name => name.to_owned(),
    }
}

/// A chart of the page, and the line in it: the chart's own name where there is one line.
fn chart(name: &str) -> (&str, Option<String>) {
    let card = name
        .strip_prefix("gpu.")
        .and_then(|rest| rest.split_once('.'));
    if let Some((card, number)) = card {
        let chart = match number {
            "pct" => "GPU Utilization (%)",
            "mem.pct" => "GPU Memory Allocated (%)",
            "mem.value" => "GPU Memory Allocated (MB)",
            "temp" => "GPU Temperature (°C)",
            "power" => "GPU Power Usage (W)",
            _ => name,
        };
        let line = match card.rsplit_once('-') {
            Some((host, index)) => format!("{host} GPU {index}"),
            None => format!("GPU {card}"),
        };
        return (chart, Some(line));
    }
    let charts = [
        ("cpu.pct", "CPU Utilization (%)"),
        ("cpu.thds", "Process CPU Threads"),
        ("mem.pct", "System Memory Utilization (%)"),
        ("mem.proc.pct", "Process Memory Utilization (%)"),
        ("mem.proc.avail", "Process Memory Available (non-swap) (MB)"),
        ("mem.proc", "Process Memory In Use (non-swap) (MB)"),
    ];
    for (key, chart) in charts {
        match name.strip_prefix(key) {
            Some("") => return (chart, None),
            Some(part) if part.starts_with('.') => {
                return (chart, Some(part[1..].replace("rank-", "rank ")));
            }
            _ => {}
        }
    }
    (name, None)
}

/// The label and unit that the page shows for a number of the machine.
pub fn system_column(key: &str) -> Column {
    let (chart, line) = chart(key.strip_prefix(SYSTEM).unwrap_or(key));
    let label = line.unwrap_or_else(|| chart.to_owned());
    let share = chart.ends_with("(%)");
    Column {
        class: class::SYSTEM,
        kind: kind::SCALAR,
        key: key.to_owned(),
        name: label.clone(),
        section_name: String::new(),
        section_type: 4,
        y_range: Some(YRange {
            min: Some(0.0),
            max: share.then_some(100.0),
        }),
        chart_index: chart.to_owned(),
        chart_name: chart.to_owned(),
        metric_name: label,
    }
}

/// The configuration as the server takes it.
pub fn config(run: &RunInfo) -> Value {
    let mut all = run.config.clone();
    for (name, server_name) in [
        ("parameters", "model_num_parameters"),
        ("trainable", "model_num_trainable"),
    ] {
        if let Some(count) = run.model.get(name) {
            all.insert(server_name.to_owned(), count.clone());
        }
    }
    all.insert("UPPERFRAME".to_owned(), "Apus".into());
    let entries = all.into_iter().enumerate().map(|(sort, (name, value))| {
        let entry = json!({"desc": "", "sort": sort, "value": value});
        (name, entry)
    });
    Value::Object(entries.collect())
}

/// JSON that YAML 1.1 reads in the same way: `1e-5` would be a text there, and some characters have to be escaped.
pub fn yaml(value: &Value) -> String {
    struct Careful;
    impl Formatter for Careful {
        fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, number: f64) -> io::Result<()> {
            let text = format!("{number:?}");
            match text.split_once('e') {
                None => out.write_all(text.as_bytes()),
                Some((digits, power)) => {
                    let point = if digits.contains('.') { "" } else { ".0" };
                    let sign = if power.starts_with('-') { "" } else { "+" };
                    write!(out, "{digits}{point}e{sign}{power}")
                }
            }
        }

        fn write_string_fragment<W: ?Sized + io::Write>(
            &mut self,
            out: &mut W,
            text: &str,
        ) -> io::Result<()> {
            for c in text.chars() {
                match c {
                    '\u{7f}'..='\u{9f}'
                    | '\u{2028}'
                    | '\u{2029}'
                    | '\u{feff}'
                    | '\u{fffe}'
                    | '\u{ffff}' => write!(out, "\\u{:04x}", c as u32)?,
                    c => write!(out, "{c}")?,
                }
            }
            Ok(())
        }
    }
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Careful);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => "{}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_transformers() {
        assert_eq!(metric("loss"), "train/loss");
        assert_eq!(metric("eval_loss"), "eval/loss");
        assert_eq!(metric("memory(GiB)"), "train/memory(GiB)");
        assert_eq!(section("train/loss", 0), Some("train"));
        assert_eq!(section("a/b/c", 1), Some("a/b"));
        assert_eq!(section("loss", 0), None);
    }

    #[test]
    fn keys_fit_the_limits() {
        assert_eq!(key("./Who are you?\n"), "Who are you?");
        assert_eq!(key("a\u{0}b"), "a b");
        assert_eq!(key("///"), "unnamed");
        assert_eq!(key(&"喵".repeat(600)).chars().count(), 512);
    }

    #[test]
    fn lines_are_plain_and_short() {
        assert_eq!(line("\u{1b}[1;31merror\u{1b}[0m: no\r"), "error: no");
        assert_eq!(line(&"é".repeat(3000)).chars().count(), 1024);
    }

    #[test]
    fn the_machine_is_named_as_in_swanlab() {
        let values = json!({"cpu.pct": 3.5, "mem.process_mib": 10, "gpu.0.mem_pct": 4, "gpu.1.mem_mib": 5, "x": "y"});
        let keys: Vec<String> = system(values.as_object().unwrap())
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        let wanted = ["cpu.pct", "mem.proc", "gpu.0.mem.pct", "gpu.1.mem.value"];
        assert_eq!(keys, wanted.map(|key| format!("__swanlab__.{key}")));
        let column = system_column(&keys[2]);
        assert_eq!(column.name, "GPU 0");
        assert_eq!(column.chart_name, "GPU Memory Allocated (%)");
        assert_eq!(column.y_range.unwrap().max, Some(100.0));
    }

    #[test]
    fn every_card_of_every_host_is_a_line_in_the_chart_of_its_kind() {
        let cases = [
            ("gpu.1.pct", "gpu.1.pct", "GPU Utilization (%)", "GPU 1"),
            (
                "node-2.lab/gpu.1.mem_mib",
                "gpu.node-2-lab-1.mem.value",
                "GPU Memory Allocated (MB)",
                "node-2-lab GPU 1",
            ),
            (
                "node2/cpu.pct",
                "cpu.pct.node2",
                "CPU Utilization (%)",
                "node2",
            ),
            (
                "node2/mem.available_mib",
                "mem.proc.avail.node2",
                "Process Memory Available (non-swap) (MB)",
                "node2",
            ),
            (
                "rank.3.process_mib",
                "mem.proc.rank-3",
                "Process Memory In Use (non-swap) (MB)",
                "rank 3",
            ),
            (
                "mem.process_mib",
                "mem.proc",
                "Process Memory In Use (non-swap) (MB)",
                "Process Memory In Use (non-swap) (MB)",
            ),
            (
                "mem.process_pct",
                "mem.proc.pct",
                "Process Memory Utilization (%)",
                "Process Memory Utilization (%)",
            ),
        ];
        let values = cases
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), json!(1)));
        let keys = system(&values.collect());
        for ((name, server_name, chart, line), (key, _)) in cases.iter().zip(&keys) {
            assert_eq!(key, &format!("__swanlab__.{server_name}"), "{name}");
            let column = system_column(key);
            assert_eq!(
                (column.chart_name.as_str(), column.name.as_str()),
                (*chart, *line)
            );
        }
    }

    #[test]
    fn configurations_are_json_and_yaml() {
        let run = RunInfo {
            config: json!({"lr": 1e-5, "big": 1e20, "n": 3, "t": "a\u{7f}\"b\n"})
                .as_object()
                .unwrap()
                .clone(),
            ..RunInfo::default()
        };
        let text = yaml(&config(&run));
        assert!(
            text.contains(r#""lr":{"desc":"","sort":0,"value":1.0e-5}"#),
            "{text}"
        );
        assert!(
            text.contains("1.0e+20") && text.contains(r#""a\u007f\"b\n""#),
            "{text}"
        );
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["lr"]["value"], 1e-5);
        assert_eq!(read["t"]["value"], "a\u{7f}\"b\n");
    }
}
