//! The description of a flag.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::path::Path;

/// The commands that take flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `apus sft`
    Sft,
    /// `apus infer`
    Infer,
    /// `apus export`
    Export,
    /// `apus model new`
    ModelNew,
    /// `apus bench`
    Bench,
    /// `apus data`
    Data,
}

/// How a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// `true` or `false`; the flag alone is `true`.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    Text,
    /// One or more texts.
    List,
    /// One or more numbers.
    Floats,
    /// A JSON object of options.
    Json,
    /// A JSON object, or the path of a file that holds one.
    JsonOrFile,
    /// A component: its name, or a table with `name` and options.
    Component,
    /// Several components.
    Components,
    /// Several components in a chain, `a+b`.
    Chain,
    /// Plugin libraries: paths, or tables with `path`, `sha256` and `prefix`.
    Plugins,
}

/// A flag: `--name value`, and the key `name` in a configuration file.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// ms-swift's name, with underscores; dashes are accepted too.
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// How its value is read.
    pub kind: ValueKind,
    /// Heading in the help.
    pub group: &'static str,
    /// Commands that take it.
    pub commands: &'static [Command],
    /// Its help, one line.
    pub help: &'static str,
}

impl Flag {
    /// Parses the flag's words on a command line.
    ///
    /// # Errors
    /// Words that are not of the flag's kind.
    pub fn parse(&self, words: &[String]) -> Result<Value> {
        let one = || match words {
            [word] => Ok(word.as_str()),
            _ => bail!("--{}: expected one value, found {}", self.name, words.len()),
        };
        Ok(match self.kind {
            ValueKind::Bool => match words {
                [] => Value::Bool(true),
                _ => match one()?.to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" => Value::Bool(true),
                    "false" | "0" | "no" => Value::Bool(false),
                    other => bail!("--{}: expected true or false, found {other:?}", self.name),
                },
            },
            ValueKind::Int => whole(self.name, one()?)?,
            ValueKind::Float => number(self.name, one()?)?,
            ValueKind::Floats => {
                let numbers = words.iter().map(|word| number(self.name, word));
                numbers.collect::<Result<_>>()?
            }
            ValueKind::Text => one()?.into(),
            ValueKind::List | ValueKind::Plugins => words.iter().map(String::as_str).collect(),
            ValueKind::Json => {
                let table: Map<String, Value> =
                    serde_json::from_str(one()?).with_context(|| {
                        format!("--{}: expected a JSON object of options", self.name)
                    })?;
                Value::Object(table)
            }
            ValueKind::JsonOrFile if !one()?.trim_start().starts_with('{') => one()?.into(),
            ValueKind::JsonOrFile => serde_json::from_str(one()?).with_context(|| {
                format!("--{}: expected JSON, or the path of a file", self.name)
            })?,
            ValueKind::Component => component(one()?),
            ValueKind::Components => words.iter().map(|word| component(word)).collect(),
            ValueKind::Chain => chain(one()?),
        })
    }

    /// Whether this command accepts the flag. `apus data` also accepts the flags of `apus sft`.
    pub fn accepted_by(&self, command: Command) -> bool {
        self.belongs_to(command) || command == Command::Data && self.belongs_to(Command::Sft)
    }

    /// Whether the flag is listed for this command itself.
    pub fn belongs_to(&self, command: Command) -> bool {
        self.commands.contains(&command)
    }
}

/// A component without options.
pub(super) fn component(name: &str) -> Value {
    serde_json::json!({ "name": name })
}

/// The components of a chain `a+b`. A file in the chain, such as `my/table.json`, stands for the component that its
/// extension names, with the file as its `path`.
pub(super) fn chain(text: &str) -> Value {
    let names = text
        .split('+')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let link = |name| match Path::new(name).extension().and_then(OsStr::to_str) {
        Some(kind) => serde_json::json!({ "name": kind, "path": name }),
        None => component(name),
    };
    names.map(link).collect()
}

fn whole(flag: &str, word: &str) -> Result<Value> {
    match (word.parse::<i64>(), word.parse::<u64>()) {
        (Ok(number), _) => Ok(number.into()),
        (_, Ok(number)) => Ok(number.into()),
        _ => bail!("--{flag}: expected a whole number, found {word:?}"),
    }
}

fn number(flag: &str, word: &str) -> Result<Value> {
    match word.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number.into()),
        Ok(_) => bail!("--{flag}: expected a finite number, found {word:?}"),
        Err(_) => bail!("--{flag}: expected a number, found {word:?}"),
    }
}
