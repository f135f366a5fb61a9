//! The values of a configuration on their way: those of the file, and those of the command line over them.

use super::bounds;
use super::file;
use super::fit::fit;
use super::flag::{Command, Flag, Kind};
use super::resolve::{ComponentOptions, Origin, Resolved, typed};
use super::shorthand::SHORTHANDS;
use super::theirs::{self, Theirs};
use super::{Config, FLAGS};
use crate::nearest::nearest;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Flags of which one, given on the command line, takes the place of others that the file gives.
const RIVALS: &[(&str, &[&str])] = &[
    ("optimizer", &["optim"]),
    ("optim", &["optimizer"]),
    (
        "lr_scheduler",
        &["lr_scheduler_type", "lr_scheduler_kwargs"],
    ),
    ("lr_scheduler_type", &["lr_scheduler"]),
    ("lr_scheduler_kwargs", &["lr_scheduler"]),
    ("warmup_ratio", &["warmup_steps"]),
    ("warmup_steps", &["warmup_ratio"]),
    ("target_modules", &["target_regex"]),
    ("num_train_epochs", &["max_steps"]),
];

/// Values by flag, and where they were written.
pub(super) struct Merged {
    command: Command,
    values: Map<String, Value>,
    written: BTreeMap<String, Written>,
    notes: Vec<String>,
}

struct Written {
    origin: Origin,
    /// For messages: `run.toml, line 3, key lora_rank`, or `--lora_rank`.
    place: String,
}

impl Merged {
    pub fn new(command: Command) -> Self {
        Self {
            command,
            values: Map::new(),
            written: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// A line about the configuration.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    fn flag(&self, name: &str) -> Result<&'static Flag> {
        let mine = || FLAGS.iter().filter(|flag| flag.accepted_by(self.command));
        if let Some(flag) = mine().find(|flag| flag.name == name || flag.aliases.contains(&name)) {
            return Ok(flag);
        }
        let known: Vec<&str> = mine()
            .flat_map(|flag| std::iter::once(flag.name).chain(flag.aliases.iter().copied()))
            .chain(theirs::of(self.command).map(|(name, _)| name))
            .collect();
        match nearest(name, &known).first() {
            Some(near) => bail!("there is no {name}; did you mean {near}?"),
            None => bail!("there is no {name}"),
        }
    }

    /// Answers an argument of ms-swift that is not a flag.
    pub fn answer(&mut self, theirs: &Theirs, name: &str, place: &str, value: &str) -> Result<()> {
        let line = theirs.answer(name, place, value)?;
        self.note(line);
        Ok(())
    }

    /// Takes what a file gives.
    ///
    /// # Errors
    /// A key that is unknown or given twice, or a value of another kind; the error names file, line and key.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        for file::Entry { key, place, value } in file::read(path)? {
            let name = key.replace('-', "_");
            if let Some(theirs) = theirs::find(&name, self.command) {
                self.answer(theirs, &name, &place, &theirs::text(&value))?;
                continue;
            }
            let flag = self.flag(&name).with_context(|| place.clone())?;
            if let Some(before) = self.written.get(flag.name) {
                bail!(
                    "{place}: the same flag as {}; keep one of them",
                    before.place
                );
            }
            let value = fit(flag, value).with_context(|| place.clone())?;
            bounds::check(flag, &value).with_context(|| place.clone())?;
            self.put(flag.name, value, Origin::File, place);
        }
        Ok(())
    }

    fn put(&mut self, flag: &str, value: Value, origin: Origin, place: String) {
        self.values.insert(flag.to_owned(), value);
        self.written
            .insert(flag.to_owned(), Written { origin, place });
    }

    /// Puts the flags and options of the command line over what the file gave.
    ///
    /// # Errors
    /// An option of a component that is not named, or that takes none.
    pub fn go_over(
        &mut self,
        flags: Vec<(&'static Flag, Value)>,
        options: &ComponentOptions,
    ) -> Result<()> {
        let line: BTreeSet<&str> = flags.iter().map(|(flag, _)| flag.name).collect();
        for (flag, rivals) in RIVALS {
            let rivals = rivals.iter().filter(|rival| !line.contains(**rival));
            if line.contains(flag) {
                rivals.for_each(|rival| self.give_way(rival, flag));
            }
        }
        let value = |name| flags.iter().find(|(flag, _)| flag.name == name);
        if let Some((_, kind)) = value("lr_scheduler_type")
            && !line.contains("lr_scheduler_kwargs")
            && self.values.get("lr_scheduler_type") != Some(kind)
        {
            self.give_way("lr_scheduler_kwargs", "lr_scheduler_type");
        }
        self.settle_shorthands(&line, options);
        for (flag, value) in flags {
            let value = match self.values.shift_remove(flag.name) {
                Some(old) => over(flag.kind, old, value),
                None => value,
            };
            self.put(
                flag.name,
                value,
                Origin::CommandLine,
                format!("--{}", flag.name),
            );
        }
        for (component, option, words) in options {
            self.set_option(component, option, words)?;
        }
        Ok(())
    }

    /// A value of the file that a flag of the command line takes the place of is named in a line.
    fn give_way(&mut self, flag: &str, to: &str) {
        self.values.shift_remove(flag);
        if let Some(Written { place, .. }) = self.written.remove(flag) {
            self.note(format!("{place}: not used, because --{to} is given"));
        }
    }

    /// An option of the optimizer and its shorthand mean the same: what the command line says of either goes
    /// over what the file says of the other.
    fn settle_shorthands(&mut self, line: &BTreeSet<&str>, options: &ComponentOptions) {
        let given = |option: &str| {
            let mut words = options.iter();
            words.any(|(component, name, _)| component == "optimizer" && name == option)
        };
        for (flag, option) in SHORTHANDS {
            let (short, long) = (line.contains(flag), given(option));
            if short
                && !long
                && let Some(Value::Object(table)) = self.values.get_mut("optimizer")
            {
                table.shift_remove(*option);
            }
            if long && !short {
                self.values.shift_remove(*flag);
                self.written.remove(*flag);
            }
        }
    }

    /// `--optimizer.momentum 0.95`.
    fn set_option(&mut self, component: &str, option: &str, words: &[String]) -> Result<()> {
        let flag = self
            .flag(component)
            .with_context(|| format!("unknown flag --{component}.{option}"))?;
        let (table, option) = match (flag.kind, self.values.get_mut(flag.name)) {
            (Kind::Component | Kind::Components | Kind::Chain, None) => bail!(
                "--{component}.{option}: give --{} NAME before its options",
                flag.name
            ),
            (Kind::Component, Some(Value::Object(table))) => (table, option),
            (Kind::Components | Kind::Chain, Some(Value::Array(items))) => {
                one_of(flag, items, option)?
            }
            _ => bail!("--{component}.{option}: {} takes no options", flag.name),
        };
        let value = |word: &String| {
            serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.clone()))
        };
        let value = match words {
            [] => Value::Bool(true),
            [word] => value(word),
            words => words.iter().map(value).collect(),
        };
        table.insert(option.to_owned(), value);
        Ok(())
    }

    /// The typed configuration.
    ///
    /// # Errors
    /// A value that does not fit; the error names its place.
    pub fn finish<T: Config>(self) -> Result<Resolved<T>> {
        let place = |flag: &str| match self.written.get(flag) {
            Some(written) => written.place.clone(),
            None => flag.to_owned(),
        };
        let mut config: T = typed(self.values, place)?;
        config.settle()?;
        let given = self.written.into_iter();
        Ok(Resolved {
            config,
            given: given
                .map(|(flag, written)| (flag, written.origin))
                .collect(),
            notes: self.notes,
        })
    }
}

/// A value of the command line over one of the file: a component keeps the options that the file gives to one of
/// its name, and plugins come to those of the file.
fn over(kind: Kind, old: Value, new: Value) -> Value {
    let name = |value: &Value, key: &str| match value {
        Value::Object(table) => table.get(key).cloned(),
        text => Some(text.clone()),
    };
    let component = |old: &[Value], new: Value| match (
        old.iter()
            .find(|old| name(old, "name") == name(&new, "name")),
        new,
    ) {
        (Some(Value::Object(table)), Value::Object(new)) => {
            let mut table = table.clone();
            table.extend(new);
            Value::Object(table)
        }
        (_, new) => new,
    };
    match (kind, old, new) {
        (Kind::Component, old, new) => component(&[old], new),
        (Kind::Components | Kind::Chain, Value::Array(old), Value::Array(new)) => {
            new.into_iter().map(|item| component(&old, item)).collect()
        }
        (Kind::Plugins, Value::Array(mut old), Value::Array(new)) => {
            for plugin in new {
                if !old
                    .iter()
                    .any(|known| name(known, "path") == name(&plugin, "path"))
                {
                    old.push(plugin);
                }
            }
            Value::Array(old)
        }
        (_, _, new) => new,
    }
}

/// The component that `--callbacks.NAME.option` means; with one alone, its name may be left out.
fn one_of<'a>(
    flag: &Flag,
    items: &'a mut [Value],
    option: &'a str,
) -> Result<(&'a mut Map<String, Value>, &'a str)> {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let names: Vec<String> = items.iter().filter_map(name).collect();
    let (at, rest) = match option.split_once('.') {
        Some((wanted, rest)) => (names.iter().position(|name| name == wanted), rest),
        None => ((items.len() == 1).then_some(0), option),
    };
    match at.and_then(|at| items.get_mut(at)) {
        Some(Value::Object(table)) => Ok((table, rest)),
        _ => bail!(
            "--{0}.{option}: which of {1}? Write --{0}.NAME.{rest}",
            flag.name,
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests;
