//! Builds a command's command line for clap, from the table of flags and the defaults of its configuration.

use super::flag::{Command as Tool, Flag, ValueKind};
use super::{
    BenchConfig, Config, DataConfig, DeployConfig, EvalConfig, ExportConfig, FLAGS, InferConfig,
    ModelNewConfig, SftConfig, ms_swift, values,
};
use clap::{Arg, ArgAction, Command};
use serde_json::Value;

/// The command for clap.
pub fn command(tool: Tool) -> Command {
    match tool {
        Tool::Sft => build::<SftConfig>("sft", "Fine-tunes a model"),
        Tool::Infer => build::<InferConfig>("infer", "Answers, on the terminal or for a dataset"),
        Tool::Deploy => build::<DeployConfig>("deploy", "Serves the model by OpenAI's API"),
        Tool::Export => build::<ExportConfig>("export", "Merges an adapter, or packs experts"),
        Tool::ModelNew => build::<ModelNewConfig>("new", "Writes a checkpoint of random weights"),
        Tool::Data => build::<DataConfig>(
            "data",
            "Shows what data becomes before it is trained: a report, and examples with trained tokens marked",
        ),
        Tool::Bench => build::<BenchConfig>("bench", "Times training, or each operation alone"),
        Tool::Eval => build::<EvalConfig>(
            "eval",
            "Measures a model over datasets, and adapters beside it: loss, perplexity, metrics, answers",
        ),
    }
}

/// The help of a command.
pub fn help(tool: Tool) -> String {
    command(tool).render_help().to_string()
}

fn build<T: Config>(name: &'static str, about: &'static str) -> Command {
    let defaults = values(&T::default());
    let file = match T::COMMAND {
        Tool::Data => Arg::new("file")
            .value_name("FILE")
            .num_args(1..)
            .help("Same as --dataset; FILE.toml as --config"),
        _ => Arg::new("file")
            .value_name("FILE.toml")
            .help("Same as --config"),
    };
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE.toml")
        .help("Configuration file; its keys are the flags' names, and flags go over it");
    let mine = FLAGS.iter().filter(|flag| flag.accepted_by(T::COMMAND));
    Command::new(name)
        .about(about)
        .args([file, config])
        .args(ms_swift::of(T::COMMAND).map(|(name, _)| ms_swift_argument(name)))
        .args(mine.map(|flag| {
            let hidden = match T::COMMAND {
                Tool::Data => !flag.is_about_data(),
                Tool::Eval => !flag.is_about_evaluation(),
                _ => false,
            };
            argument(flag, &defaults[flag.name]).hide(hidden)
        }))
}

fn argument(flag: &'static Flag, default: &Value) -> Arg {
    let value = match flag.kind {
        ValueKind::Bool => "true|false",
        ValueKind::Int => "N",
        ValueKind::Float | ValueKind::Floats => "X",
        ValueKind::Text | ValueKind::List | ValueKind::Datasets => "TEXT",
        ValueKind::Json => "JSON",
        ValueKind::JsonOrFile => "JSON|FILE",
        ValueKind::Component | ValueKind::Components => "NAME",
        ValueKind::Chain => "NAME+NAME",
        ValueKind::Plugins => "FILE",
    };
    let mut argument = Arg::new(flag.name)
        .long(flag.name)
        .visible_aliases(flag.aliases.to_vec())
        .aliases(
            flag.aliases
                .iter()
                .copied()
                .chain([flag.name])
                .filter_map(dashed)
                .collect::<Vec<_>>(),
        )
        .value_name(value)
        .help_heading(flag.group.heading())
        .action(ArgAction::Append)
        .allow_negative_numbers(true)
        .help(format!("{}{}", flag.help, shown(default)));
    argument = match flag.kind {
        ValueKind::Bool => argument.num_args(0..=1).default_missing_value("true"),
        ValueKind::List
        | ValueKind::Datasets
        | ValueKind::Floats
        | ValueKind::Components
        | ValueKind::Plugins => argument.num_args(1..),
        _ => argument.num_args(1),
    };
    argument
}

/// An argument of ms-swift that is not a flag. It is accepted with any value and hidden from the help; how it is treated
/// is decided later.
fn ms_swift_argument(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .aliases(dashed(name))
        .action(ArgAction::Append)
        .num_args(0..)
        .allow_negative_numbers(true)
        .hide(true)
}

/// A name with dashes in place of underscores.
fn dashed(name: &str) -> Option<String> {
    name.contains('_').then(|| name.replace('_', "-"))
}

fn shown(default: &Value) -> String {
    let name = |value: &Value| match value.get("name").unwrap_or(value) {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = match default {
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(name).collect::<Vec<_>>().join(" "),
        Value::Object(map) if map.is_empty() => String::new(),
        other => name(other),
    };
    match text.is_empty() {
        true => text,
        false => format!(" [{text}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_every_command() {
        for tool in [
            Tool::Sft,
            Tool::Infer,
            Tool::Export,
            Tool::ModelNew,
            Tool::Bench,
            Tool::Data,
            Tool::Eval,
        ] {
            command(tool).debug_assert();
        }
    }

    #[test]
    fn help_names_flags_values_and_defaults() {
        let text = help(Tool::Sft);
        // A long line of help is broken somewhere.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "--lora_rank <N>",
            "Rank [8]",
            "aliases: --tuner_type, --sft_type",
            "The loss [cross_entropy]",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
