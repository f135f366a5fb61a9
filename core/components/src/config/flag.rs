//! The description of a flag.

use super::bounds::{self, Range};
use super::value::Unexpected;
use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::built_in::BuiltIn;
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
    /// `apus deploy`
    Deploy,
    /// `apus export`
    Export,
    /// `apus model new`
    ModelNew,
    /// `apus bench`
    Bench,
    /// `apus data`
    Data,
    /// `apus eval`
    Eval,
}

impl Command {
    /// Whether it is told of a run: it accepts all flags of `apus sft` beside its own.
    pub fn takes_a_run(self) -> bool {
        matches!(self, Self::Data | Self::Eval)
    }
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
    /// Datasets: texts, or tables with `path` or `id`.
    Datasets,
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

/// The headings of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Group {
    Model,
    Plugins,
    Data,
    Chat,
    Adapter,
    Training,
    Optimizer,
    Saving,
    Logging,
    Generation,
    Serving,
    Output,
    Looking,
    Measuring,
}

impl Group {
    /// As the help has it.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Model => "Model",
            Self::Plugins => "Plugins",
            Self::Data => "Data",
            Self::Chat => "Chat template",
            Self::Adapter => "Adapter",
            Self::Training => "Training",
            Self::Optimizer => "Optimizer and schedule",
            Self::Saving => "Evaluation and saving",
            Self::Logging => "Logging",
            Self::Generation => "Generation",
            Self::Serving => "Serving",
            Self::Output => "Output",
            Self::Looking => "Looking",
            Self::Measuring => "Measuring",
        }
    }
}

/// What another value of a flag would change. A run that resumes from a checkpoint must have the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// How a row of the training data is prepared: the flag is part of the key of prepared data.
    Rows,
    /// Which examples a run trains on and in which order, but not how one is prepared.
    Examples,
    /// What a run learns from its examples; `resume_changes` may name the flag.
    Learning,
}

/// What a flag is about, where its group does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Data: the help of `apus data` shows the flag.
    Data,
    /// The rows that `apus infer` answers: the flag has no effect in a conversation at the terminal.
    Questions,
}

/// A command that takes a flag.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// The command.
    pub command: Command,
    /// What `docs/from-ms-swift.md` says of it beside ms-swift's flag.
    pub place: &'static str,
}

/// The place of a flag that means the same as in `apus sft`.
pub(super) const AS_SFT: &str = "as in `apus sft`";

/// A flag: `--name value`, and the key `name` in a configuration file.
#[derive(Clone, Copy)]
pub struct Flag {
    /// ms-swift's name, with underscores; dashes are accepted too.
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// How its value is read.
    pub kind: ValueKind,
    /// Heading in the help.
    pub group: Group,
    /// Commands that take it.
    pub uses: &'static [Use],
    /// Its help, one line.
    pub help: &'static str,
    /// What another value would change.
    pub changes: Option<Change>,
    /// What it is about, where its group does not tell.
    pub about: &'static [Topic],
    /// Flags of the file that it replaces if it is given on the command line.
    pub over: &'static [&'static str],
    /// The term of a checkpoint that it belongs to, where that has another name.
    pub term: Option<&'static str>,
    /// The option of the optimizer that it is a shorthand for.
    pub option: Option<&'static str>,
    /// Between which numbers it lies, if it is a number.
    pub(super) bounds: Option<Range>,
    /// Checks a text, where it takes only some.
    pub(super) check_text: fn(&str) -> Result<(), Unexpected>,
    /// The built-in component for whose option it stands, if it does.
    pub declared_by: Option<&'static BuiltIn>,
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
                let numbers = words.iter().map(|word| match word.parse::<i64>() {
                    Ok(whole) => Ok(Value::from(whole)),
                    Err(_) => number(self.name, word),
                });
                numbers.collect::<Result<_>>()?
            }
            ValueKind::Text => one()?.into(),
            ValueKind::List | ValueKind::Datasets | ValueKind::Plugins => {
                words.iter().map(String::as_str).collect()
            }
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

    /// Checks a value that is of the flag's kind.
    ///
    /// # Errors
    /// A number out of bounds, a word that the flag does not take; the error names the flag.
    pub(super) fn check(&self, value: &Value) -> Result<()> {
        bounds::check(self, value)?;
        match value {
            Value::String(text) => (self.check_text)(text)
                .map_err(|expected| anyhow!("{} is {text:?}, {expected}", self.name)),
            _ => Ok(()),
        }
    }

    /// Whether this command accepts the flag. Some commands also accept the flags of `apus sft`.
    pub fn accepted_by(&self, command: Command) -> bool {
        self.belongs_to(command) || command.takes_a_run() && self.belongs_to(Command::Sft)
    }

    /// Whether the flag is listed for this command itself.
    pub fn belongs_to(&self, command: Command) -> bool {
        self.place(command).is_some()
    }

    /// Its place beside ms-swift's flag, if the flag is listed for this command.
    pub fn place(&self, command: Command) -> Option<&'static str> {
        let used = self.uses.iter().find(|used| used.command == command);
        used.map(|used| used.place)
    }

    /// Whether it has this name or other spelling.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// Whether the flag is about data. The help of `apus data` shows these flags.
    pub(super) fn is_about_data(&self) -> bool {
        use Group::{Chat, Data, Looking, Plugins};
        matches!(self.group, Plugins | Data | Chat | Looking) || self.about.contains(&Topic::Data)
    }

    /// Whether the flag changes how a row is prepared. Flags that only select rows do not count.
    pub fn shapes_rows(&self) -> bool {
        self.belongs_to(Command::Sft) && self.changes == Some(Change::Rows)
    }

    /// Whether the flag changes the examples that a run trains on.
    pub fn shapes_data(&self) -> bool {
        self.belongs_to(Command::Sft)
            && matches!(self.changes, Some(Change::Rows | Change::Examples))
    }

    /// Whether the flag changes what a run learns. A run that resumes from a checkpoint must have the same value.
    pub fn is_about_learning(&self) -> bool {
        self.belongs_to(Command::Sft) && self.changes == Some(Change::Learning)
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
