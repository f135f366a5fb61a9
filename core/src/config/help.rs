//! The help of a command, from the table of flags and the defaults of its configuration.

use super::flag::{Command, Kind};
use super::{Config, ExportConfig, FLAGS, InferConfig, ModelNewConfig, SftConfig};
use serde_json::Value;
use std::fmt::Write;

/// All flags of a command by group, with defaults.
pub fn help(command: Command) -> String {
    match command {
        Command::Sft => render::<SftConfig>("apus sft [FILE.toml] [flags]"),
        Command::Infer => render::<InferConfig>("apus infer [FILE.toml] [flags]"),
        Command::Export => render::<ExportConfig>("apus export [FILE.toml] [flags]"),
        Command::ModelNew => render::<ModelNewConfig>("apus model new [FILE.toml] [flags]"),
    }
}

fn render<T: Config>(usage: &str) -> String {
    let defaults = serde_json::to_value(T::default()).unwrap_or_default();
    let mut text = format!(
        "{usage}\n\n  --config FILE.toml\n      Keys are the flags' names; flags go over it.\n"
    );
    let mut group = "";
    let mine = || FLAGS.iter().filter(|flag| flag.belongs_to(T::COMMAND));
    for flag in mine().filter(|flag| flag.idle.is_none()) {
        if flag.group != group {
            group = flag.group;
            let _ = write!(text, "\n{group}\n");
        }
        let value = match flag.kind {
            Kind::Bool => "true|false",
            Kind::Int => "N",
            Kind::Float => "X",
            Kind::Text => "TEXT",
            Kind::List => "TEXT...",
            Kind::Json => "JSON",
            Kind::Component => "NAME",
            Kind::Components => "NAME...",
        };
        let _ = write!(text, "  --{} {value}", flag.name);
        for alias in flag.aliases {
            let _ = write!(text, ", --{alias}");
        }
        let default = shown(&defaults[flag.name]);
        let _ = writeln!(text, "\n      {}{default}", flag.help);
    }
    let idle: Vec<&str> = mine()
        .filter(|f| f.idle.is_some())
        .map(|f| f.name)
        .collect();
    if !idle.is_empty() {
        let _ = write!(
            text,
            "\nAccepted, with a line that says why there is nothing to do: {}\n",
            idle.join(", ")
        );
    }
    text
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!(" [{text}]"),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::Object(map) if map.is_empty() => String::new(),
        Value::Array(items) => {
            let names: Vec<String> = items
                .iter()
                .map(|item| item.get("name").unwrap_or(item))
                .map(|item| {
                    item.as_str()
                        .map_or_else(|| item.to_string(), str::to_owned)
                })
                .collect();
            format!(" [{}]", names.join(" "))
        }
        Value::Object(map) => match map.get("name").and_then(Value::as_str) {
            Some(name) => format!(" [{name}]"),
            None => format!(" [{default}]"),
        },
        other => format!(" [{other}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_flags_values_and_defaults() {
        let text = help(Command::Sft);
        assert!(text.contains("  --lora_rank N\n      Rank [8]\n"), "{text}");
        assert!(text.contains("--train_type TEXT, --tuner_type, --sft_type"));
        assert!(text.contains("The loss [cross_entropy]"));
        assert!(text.contains("use_liger_kernel"));
    }
}
