//! Resolves a command line to a typed configuration: the values of the TOML file, overridden by flags.

use super::cli::command;
use super::flag::{Command, Flag, ValueKind};
use super::merged::MergedValues;
use super::ms_swift;
use super::of_components::is_declared;
use super::option_flags::parse;
use super::{Config, FLAGS};
use crate::plugin::PluginSpec;
use crate::registry::OptionFlag;
use anyhow::{Result, bail};
use clap::ArgMatches;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Whether a flag comes from the file or the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In the configuration file.
    File,
    /// On the command line.
    CommandLine,
}

/// Where a flag was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenAt {
    /// In the file or on the command line.
    pub origin: Origin,
    /// For messages: `run.toml, line 3, key lora_rank`, or `--lora_rank`.
    pub place: String,
}

/// A configuration, and where its values come from.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    /// The values.
    pub config: T,
    /// Flags that count, and where they were written.
    pub given: BTreeMap<String, WrittenAt>,
    /// Lines about flags that were given and have no effect.
    pub notes: Vec<String>,
}

/// A configuration of which nothing was written.
impl<T> From<T> for Resolved<T> {
    fn from(config: T) -> Self {
        Self {
            config,
            given: BTreeMap::new(),
            notes: Vec::new(),
        }
    }
}

impl<T> Resolved<T> {
    /// Whether a flag was written.
    pub fn given(&self, flag: &str) -> bool {
        self.given.contains_key(flag)
    }

    /// Where a flag was written, if it was.
    pub fn origin(&self, flag: &str) -> Option<Origin> {
        self.given.get(flag).map(|written| written.origin)
    }

    /// As [`origin`](Self::origin), in words: `run.toml, line 3, key lora_rank`, or `--lora_rank`.
    pub fn place(&self, flag: &str) -> Option<&str> {
        self.given.get(flag).map(|written| written.place.as_str())
    }
}

/// An option of a component on the command line, `--optimizer.momentum 0.95`.
#[derive(Debug, Clone)]
pub struct GivenOption {
    /// The flag of the component's kind, `optimizer`.
    pub component: String,
    /// The option, `momentum`; after the component's name where there are several.
    pub option: String,
    /// The words of its value.
    pub words: Vec<String>,
    /// The flag of its own by which it is given, if it is.
    pub by: Option<OptionFlag>,
}

/// Options of components on the command line.
pub type ComponentOptions = Vec<GivenOption>;

/// Takes the options of components out of a command line, which clap reads the rest of.
pub fn split_options(words: &[String]) -> (Vec<String>, ComponentOptions) {
    let (mut rest, mut options) = (Vec::new(), Vec::new());
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").unwrap_or_default();
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        match name.split_once('.') {
            Some((component, option)) => {
                let mut values: Vec<String> = value.into_iter().collect();
                while let Some(value) = words.next_if(|word| !word.starts_with("--")) {
                    values.push(value.clone());
                }
                options.push(GivenOption {
                    component: component.replace('-', "_"),
                    option: option.to_owned(),
                    words: values,
                    by: None,
                });
            }
            None => rest.push(word.clone()),
        }
    }
    (rest, options)
}

/// Resolves what clap read of a command.
///
/// # Errors
/// An unknown key of the file (with the nearest name), or a value of the wrong kind.
pub fn from_matches<T: Config>(
    matches: &ArgMatches,
    options: &ComponentOptions,
) -> Result<Resolved<T>> {
    let mut merged = MergedValues::new(T::COMMAND);
    let mut options = options.clone();
    let texts = |id: &str| -> Vec<String> {
        let words = matches.get_many::<String>(id);
        words.into_iter().flatten().cloned().collect()
    };
    let is_config = |file: &String| T::COMMAND != Command::Data || file.ends_with(".toml");
    let (mut configs, files): (Vec<_>, Vec<_>) = texts("file").into_iter().partition(is_config);
    configs.extend(texts("config"));
    if let Ok(Some(files)) = matches.try_get_many::<String>("plugins") {
        merged.name_plugins(files.map(PluginSpec::new));
    }
    match configs.as_slice() {
        [] => {}
        [file] => merged.read(Path::new(file))?,
        several => bail!(
            "{} configuration files are given ({}), expected one",
            several.len(),
            several.join(", ")
        ),
    }
    let mut line: Vec<(&'static Flag, Value)> = Vec::new();
    for flag in FLAGS.iter().filter(|flag| flag.accepted_by(T::COMMAND)) {
        let times: Vec<Vec<String>> = matches
            .get_occurrences::<String>(flag.name)
            .map(|times| times.map(|words| words.cloned().collect()).collect())
            .unwrap_or_default();
        let mut words = match flag.kind {
            ValueKind::Plugins => times.concat(),
            _ => times.last().cloned().unwrap_or_default(),
        };
        if times.len() > 1 && flag.kind != ValueKind::Plugins {
            let times = times.len();
            merged.note(format!(
                "--{} is given {times} times; the last one counts",
                flag.name
            ));
        }
        if flag.name == "dataset" {
            words.splice(0..0, files.iter().cloned());
        }
        if !times.is_empty() || !words.is_empty() {
            let value = flag.parse(&words)?;
            flag.check(&value)?;
            line.push((flag, value));
        }
    }
    for (name, arguments) in ms_swift::of(T::COMMAND).filter(|(name, _)| matches.contains_id(name))
    {
        let value = match texts(name).join(" ") {
            alone if alone.is_empty() => "true".to_owned(),
            value => value,
        };
        match merged.declared(name)? {
            Some(own) => options.push(GivenOption {
                component: own.kind.flag().to_owned(),
                option: own.option.clone(),
                words: texts(name),
                by: Some(own),
            }),
            None => merged.answer(arguments, name, &format!("--{name}"), &value)?,
        }
    }
    merged.override_with(line, &options)?;
    merged.finish()
}

/// Resolves the words after a command.
///
/// # Errors
/// An unknown flag or key (with the nearest name), or a value of the wrong kind.
pub fn from_arguments<T: Config>(words: &[String]) -> Result<Resolved<T>> {
    let (matches, options) = parse(&|| command(T::COMMAND).no_binary_name(true), words)?;
    from_matches(&matches, &options)
}

/// Reads a configuration from its values; `place` says where a flag was written.
///
/// # Errors
/// A value that does not fit its flag; the error names its place, what was expected and what was found.
pub(super) fn typed<T: Config>(
    values: Map<String, Value>,
    place: impl Fn(&str) -> String,
) -> Result<T> {
    let is_apart = |flag: &str| T::default().of_components().is_some() && is_declared(flag);
    let (apart, values): (Map<_, _>, Map<_, _>) =
        values.into_iter().partition(|(flag, _)| is_apart(flag));
    let values = Value::Object(values);
    let read: Result<T, _> = serde_path_to_error::deserialize(&values);
    let mut config = read.map_err(|error| {
        let path = error.path().to_string();
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (flag, inside) = path.split_at(end);
        let why = error.into_inner().to_string();
        let unsigned = [
            "expected usize",
            "expected u64",
            "expected u32",
            "expected u16",
        ];
        let why = match values.get(flag) {
            Some(Value::Number(number)) if unsigned.iter().any(|kind| why.contains(kind)) => {
                match number.is_u64() {
                    true => format!("found {number}, which is too large"),
                    false => format!("expected a whole number of 0 or more, found {number}"),
                }
            }
            _ => why,
        };
        match inside.trim_start_matches('.') {
            "" => anyhow::anyhow!("{}: {why}", place(flag)),
            inside => anyhow::anyhow!("{}, {inside}: {why}", place(flag)),
        }
    })?;
    let given = apart.into_iter().filter(|(_, value)| !value.is_null());
    config.set_of_components(given.collect());
    Ok(config)
}

#[cfg(test)]
mod tests;
