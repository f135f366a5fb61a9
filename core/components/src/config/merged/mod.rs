//! Merges the values of the configuration file with those of the command line, which override them.

use super::coerce::coerce;
use super::file;
use super::flag::{Command, Flag, ValueKind};
use super::ms_swift::{self, MsSwiftArguments};
use super::option_flags;
use super::resolve::{ComponentOptions, GivenOption, Origin, Resolved, WrittenAt, typed};
use super::shorthand::shorthands;
use super::{Config, FLAGS};
use crate::plugin::PluginSpec;
use crate::registry::OptionFlag;
use crate::similar::did_you_mean;
use anyhow::{Context, Result, bail};
use apus_sdk::Kind;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Values by flag, and where they were written.
pub(super) struct MergedValues {
    command: Command,
    values: Map<String, Value>,
    written: BTreeMap<String, WrittenAt>,
    notes: Vec<String>,
    /// The plugins that the file and the command line name.
    plugins: Vec<PluginSpec>,
    /// Options in the file that are given by flags which components declare.
    declared: Vec<(OptionFlag, Value, String)>,
}

impl MergedValues {
    pub fn new(command: Command) -> Self {
        Self {
            command,
            values: Map::new(),
            written: BTreeMap::new(),
            notes: Vec::new(),
            plugins: Vec::new(),
            declared: Vec::new(),
        }
    }

    /// Plugins whose components may declare flags.
    pub fn name_plugins(&mut self, specs: impl Iterator<Item = PluginSpec>) {
        self.plugins.extend(specs);
    }

    /// The flag of this name that a component declares.
    ///
    /// # Errors
    /// A plugin that cannot be loaded.
    pub fn declared(&self, name: &str) -> Result<Option<OptionFlag>> {
        option_flags::find(name, &self.plugins)
    }

    /// A line about the configuration.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    fn flag(&self, name: &str) -> Result<&'static Flag> {
        let mine = || FLAGS.iter().filter(|flag| flag.accepted_by(self.command));
        if let Some(flag) = mine().find(|flag| flag.is_called(name)) {
            return Ok(flag);
        }
        let known: Vec<&str> = mine()
            .flat_map(|flag| std::iter::once(flag.name).chain(flag.aliases.iter().copied()))
            .chain(ms_swift::of(self.command).map(|(name, _)| name))
            .collect();
        bail!("there is no {name}{}", did_you_mean(name, &known))
    }

    /// Treats an argument of ms-swift that is not a flag: a line about it, or an error.
    pub fn answer(
        &mut self,
        arguments: &MsSwiftArguments,
        name: &str,
        place: &str,
        value: &str,
    ) -> Result<()> {
        let line = arguments.answer(name, place, value)?;
        self.note(line);
        Ok(())
    }

    /// Takes the values of a file.
    ///
    /// # Errors
    /// A key that is unknown or given twice, or a value of another kind; the error names file, line and key.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let entries = file::read(path)?;
        self.name_plugins(entries.iter().flat_map(option_flags::specs));
        for file::Entry { key, place, value } in entries {
            let name = key.replace('-', "_");
            let theirs = ms_swift::find(&name, self.command);
            let flag = self.flag(&name);
            if (theirs.is_some() || flag.is_err())
                && let Some(own) = self.declared(&name)?
            {
                self.declared.push((own, value, place));
                continue;
            }
            if let Some(arguments) = theirs {
                self.answer(arguments, &name, &place, &ms_swift::text(&value))?;
                continue;
            }
            let flag = flag.with_context(|| place.clone())?;
            if let Some(before) = self.written.get(flag.name) {
                bail!(
                    "{place}: the same flag as {}; keep one of them",
                    before.place
                );
            }
            let value = coerce(flag, value).with_context(|| place.clone())?;
            flag.check(&value).with_context(|| place.clone())?;
            self.put(flag.name, value, Origin::File, place);
        }
        Ok(())
    }

    fn put(&mut self, flag: &str, value: Value, origin: Origin, place: String) {
        self.values.insert(flag.to_owned(), value);
        self.written
            .insert(flag.to_owned(), WrittenAt { origin, place });
    }

    /// Overrides the values of the file by the flags and options of the command line.
    ///
    /// # Errors
    /// An option of a component that is not named, or that takes none.
    pub fn override_with(
        &mut self,
        flags: Vec<(&'static Flag, Value)>,
        options: &ComponentOptions,
    ) -> Result<()> {
        let line: BTreeSet<&str> = flags.iter().map(|(flag, _)| flag.name).collect();
        for (flag, _) in &flags {
            for other in flag.over.iter().filter(|other| !line.contains(**other)) {
                self.drop_overridden(other, flag.name);
            }
        }
        let value = |name| flags.iter().find(|(flag, _)| flag.name == name);
        if let Some((_, kind)) = value("lr_scheduler_type")
            && !line.contains("lr_scheduler_kwargs")
            && self.values.get("lr_scheduler_type") != Some(kind)
        {
            self.drop_overridden("lr_scheduler_kwargs", "lr_scheduler_type");
        }
        self.settle_shorthands(&line, options);
        for (flag, value) in flags {
            let value = match self.values.shift_remove(flag.name) {
                Some(old) => merge_value(flag.kind, old, value),
                None => value,
            };
            self.put(
                flag.name,
                value,
                Origin::CommandLine,
                format!("--{}", flag.name),
            );
        }
        for (own, value, place) in std::mem::take(&mut self.declared) {
            self.set_declared(&own, value, &place)?;
        }
        let mut named = BTreeSet::new();
        for GivenOption {
            component,
            option,
            words,
            ..
        } in options.iter().filter(|given| given.by.is_none())
        {
            named.insert(self.set_option(component, option, words)?);
        }
        for GivenOption { words, by, .. } in options {
            let Some(own) = by else { continue };
            let place = format!("--{}", own.flag);
            let same = (own.kind.flag(), own.component.clone(), own.option.clone());
            if named.contains(&same) {
                bail!(
                    "{place} and the option {} of {} {} are both given and are the same; keep one of them",
                    own.option,
                    own.kind,
                    own.component
                );
            }
            self.set_declared(own, value_of(words), &place)?;
        }
        Ok(())
    }

    /// Sets an option by the flag that its component declares for it.
    fn set_declared(&mut self, own: &OptionFlag, value: Value, place: &str) -> Result<()> {
        let (kind, name) = (own.kind, &own.component);
        let flag = kind.flag();
        self.flag(flag).with_context(|| {
            format!(
                "{place} is about {}, which this command has no use for",
                own.label
            )
        })?;
        if kind == Kind::Dataset {
            bail!(
                "{place} is the option {0} of dataset {name}; options of datasets stand behind their names: {name}?{0}=...",
                own.option
            );
        }
        let is_it = |item: &Value| item.get("name").and_then(Value::as_str) == Some(name);
        let chosen = match self.values.get_mut(flag) {
            Some(Value::Array(items)) => items.iter_mut().find(|item| is_it(item)),
            Some(one) if is_it(one) => Some(one),
            _ => None,
        };
        let Some(Value::Object(table)) = chosen else {
            bail!(
                "{place} is the option {} of {}, which is not chosen; give --{flag} {name} as well",
                own.option,
                own.label
            );
        };
        table.insert(own.option.clone(), value);
        Ok(())
    }

    /// A line names each value of the file that a flag of the command line replaces.
    fn drop_overridden(&mut self, flag: &str, to: &str) {
        self.values.shift_remove(flag);
        if let Some(WrittenAt { place, .. }) = self.written.remove(flag) {
            self.note(format!("{place}: not used, because --{to} is given"));
        }
    }

    /// An option of the optimizer and its shorthand mean the same. Either one on the command line overrides the other
    /// one in the file.
    fn settle_shorthands(&mut self, line: &BTreeSet<&str>, options: &ComponentOptions) {
        let given = |option: &str| {
            let mut given = options.iter();
            given.any(|given| given.component == "optimizer" && given.option == option)
        };
        for (flag, option) in shorthands() {
            let (short, long) = (line.contains(flag), given(option));
            if short
                && !long
                && let Some(Value::Object(table)) = self.values.get_mut("optimizer")
            {
                table.shift_remove(option);
            }
            if long && !short {
                self.values.shift_remove(flag);
                self.written.remove(flag);
            }
        }
    }

    /// `--optimizer.momentum 0.95`. Gives the flag of the kind, the component's name and the option.
    fn set_option(
        &mut self,
        component: &str,
        option: &str,
        words: &[String],
    ) -> Result<(&'static str, String, String)> {
        let flag = self
            .flag(component)
            .with_context(|| format!("unknown flag --{component}.{option}"))?;
        let (table, option) = match (flag.kind, self.values.get_mut(flag.name)) {
            (ValueKind::Component | ValueKind::Components | ValueKind::Chain, None) => bail!(
                "--{component}.{option}: give --{} NAME before its options",
                flag.name
            ),
            (ValueKind::Component, Some(Value::Object(table))) => (table, option),
            (ValueKind::Components | ValueKind::Chain, Some(Value::Array(items))) => {
                one_of(flag, items, option)?
            }
            _ => bail!("--{component}.{option}: {} takes no options", flag.name),
        };
        table.insert(option.to_owned(), value_of(words));
        let name = table.get("name").and_then(Value::as_str);
        Ok((
            flag.name,
            name.unwrap_or_default().to_owned(),
            option.to_owned(),
        ))
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
        config.resolve_values()?;
        Ok(Resolved {
            config,
            given: self.written,
            notes: self.notes,
        })
    }
}

/// The value of an option of a component, whose type the component knows.
fn value_of(words: &[String]) -> Value {
    let value =
        |word: &String| serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.clone()));
    match words {
        [] => Value::Bool(true),
        [word] => value(word),
        words => words.iter().map(value).collect(),
    }
}

/// Merges a value of the command line with that of the file. A component keeps the options that the file gives for the
/// same name, and plugins are added to those of the file.
fn merge_value(kind: ValueKind, old: Value, new: Value) -> Value {
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
        (ValueKind::Component, old, new) => component(&[old], new),
        (ValueKind::Components | ValueKind::Chain, Value::Array(old), Value::Array(new)) => {
            new.into_iter().map(|item| component(&old, item)).collect()
        }
        (ValueKind::Plugins, Value::Array(mut old), Value::Array(new)) => {
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
