//! Machine, command and source of a run, as the page shows them.

use apus_sdk::RunInfo;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// The metadata of a run; what is not known is left out.
pub fn metadata(run: &RunInfo, dir: &Path) -> Value {
    let mut all = json!({
        "_version": 2,
        "runtime": runtime(run),
        "swanlab": {"version": concat!("apus-", env!("CARGO_PKG_VERSION")), "run_dir": dir},
    });
    if !run.hardware.is_empty() {
        all["hardware"] = hardware(&run.hardware);
    }
    if !run.git.is_empty() {
        all["git"] = Value::Object(run.git.clone());
    }
    all
}

fn runtime(run: &RunInfo) -> Value {
    let mut runtime = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            runtime.insert(name.to_owned(), value);
        }
    };
    put("os", Some(std::env::consts::OS.into()));
    put("os_pretty", pretty_os().map(Value::from));
    put("hostname", run.hardware.get("hostname").cloned());
    put("pid", Some(std::process::id().into()));
    let here = std::env::current_dir().ok();
    put("cwd", here.map(|dir| dir.display().to_string().into()));
    let command = run.command.join(" ");
    put("command", (!command.is_empty()).then(|| command.into()));
    Value::Object(runtime)
}

fn pretty_os() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

fn hardware(known: &Map<String, Value>) -> Value {
    let mut all = Map::new();
    if let Some(cpu) = known.get("cpu") {
        all.insert("cpu".to_owned(), cpu.clone());
    }
    if let Some(memory) = known.get("memory_gib").and_then(Value::as_f64) {
        let memory = json!({"total": memory.round() as u64, "total_unit": "GB"});
        all.insert("memory".to_owned(), memory);
    }
    let cards = known.get("accelerators").and_then(Value::as_array);
    let cards = cards.map(Vec::as_slice).unwrap_or_default();
    if !cards.is_empty() {
        let devices = cards.iter().map(|card| {
            let memory = card
                .get("memory_gib")
                .and_then(Value::as_f64)
                .unwrap_or(0.0);
            json!({"index": card.get("index"), "name": card.get("name"),
                "memory": memory.round() as u64, "memory_unit": "GB"})
        });
        let devices: Vec<Value> = devices.collect();
        let vendor =
            json!({"vendor": "nvidia", "devices": devices, "version": known.get("driver")});
        all.insert("accelerators".to_owned(), json!([vendor]));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_said() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let run = RunInfo {
            command: vec!["apus".to_owned(), "sft".to_owned()],
            hardware: object(json!({
                "cpu": {"brand": "x", "physical_count": 2, "logical_count": 4}, "memory_gib": 23.6,
                "accelerators": [{"index": 0, "name": "H100", "memory_gib": 79.6}], "driver": "550",
            })),
            git: object(json!({"branch": "main"})),
            ..RunInfo::default()
        };
        let found = metadata(&run, Path::new("swanlog/run-1"));
        assert_eq!(found["runtime"]["command"], "apus sft");
        assert_eq!(
            found["hardware"]["memory"],
            json!({"total": 24, "total_unit": "GB"})
        );
        let card = &found["hardware"]["accelerators"][0]["devices"][0];
        assert_eq!(
            (&card["name"], &card["memory"]),
            (&json!("H100"), &json!(80))
        );
        assert_eq!(found["git"]["branch"], "main");
        let nothing = metadata(&RunInfo::default(), Path::new("x"));
        assert!(nothing.get("hardware").is_none() && nothing["runtime"].get("command").is_none());
    }
}
