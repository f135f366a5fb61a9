//! Flags that components of plugins declare for their options: found once the plugins that a command line and its file name are
//! loaded, and taken where the component is chosen.

use super::file;
use super::resolve::{ComponentOptions, GivenOption, split_options};
use super::suggestion::with_suggestion;
use super::{FLAGS, Flag};
use crate::plugin::{PATH_VARIABLE, PluginSpec};
use crate::registry::{self, OptionFlag};
use anyhow::{Result, bail};
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{ArgMatches, Command};
use serde_json::Value;
use std::path::Path;

/// Loads plugins, and checks that names are unique: those of all components, those of the flags that they declare.
///
/// # Errors
/// As [`registry::load`]; a flag that another component, or Apus itself, has.
pub fn load(specs: &[PluginSpec]) -> Result<()> {
    registry::load(specs)?;
    for own in registry::option_flags()? {
        if let Some(flag) = FLAGS.iter().find(|flag| flag.is_called(&own.flag)) {
            let of = match flag.declared_by {
                Some(built_in) => format!("{} {} (built in) has", built_in.kind, built_in.name),
                None => "Apus itself has".to_owned(),
            };
            bail!(
                "{} declares the flag --{} for its option {}, which {of}; its author has to call it otherwise",
                own.label,
                own.flag,
                own.option
            );
        }
    }
    Ok(())
}

/// The declared flag of this name, once these plugins are loaded.
///
/// # Errors
/// As [`load`].
pub(super) fn find(name: &str, plugins: &[PluginSpec]) -> Result<Option<OptionFlag>> {
    if !plugins.is_empty() || std::env::var_os(PATH_VARIABLE).is_some() {
        load(plugins)?;
    }
    let mut all = registry::option_flags()?.into_iter();
    let name = name.replace('-', "_");
    Ok(all.find(|own| own.flag == name))
}

/// Parses words; options of components, and flags that components of the plugins in these words declare, are taken out
/// before.
///
/// # Errors
/// A flag that nobody knows, with the nearest name; a plugin that cannot be loaded.
pub fn parse(
    command: &dyn Fn() -> Command,
    words: &[String],
) -> Result<(ArgMatches, ComponentOptions)> {
    let (mut words, mut options) = split_options(words);
    loop {
        match command().try_get_matches_from(&words) {
            Ok(matches) => return Ok((matches, options)),
            Err(error) => match take(&error, &mut words)? {
                Some(given) => options.push(given),
                None => {
                    let named = match command().is_no_binary_name_set() {
                        true => &words[..],
                        false => words.get(1..).unwrap_or_default(),
                    };
                    return Err(with_suggestion(error, &command(), named).into());
                }
            },
        }
    }
}

/// Takes the flag that clap does not know, with its words, if a component declares it.
fn take(error: &Error, words: &mut Vec<String>) -> Result<Option<GivenOption>> {
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return Ok(None);
    };
    let name = |word: &str| {
        let name = word.strip_prefix("--")?;
        Some(name.split('=').next().unwrap_or(name).to_owned())
    };
    let Some(flag) = name(unknown) else {
        return Ok(None);
    };
    let Some(own) = find(&flag, &plugins_of(words))? else {
        return Ok(None);
    };
    let Some(at) = words
        .iter()
        .position(|word| name(word).as_ref() == Some(&flag))
    else {
        return Ok(None);
    };
    let first = words.remove(at);
    let mut values: Vec<String> = first
        .split_once('=')
        .map(|(_, value)| value.to_owned())
        .into_iter()
        .collect();
    while words.get(at).is_some_and(|word| !word.starts_with("--")) {
        values.push(words.remove(at));
    }
    Ok(Some(GivenOption {
        component: own.kind.flag().to_owned(),
        option: own.option.clone(),
        words: values,
        by: Some(own),
    }))
}

fn is_plugins(name: &str) -> bool {
    let name = name.replace('-', "_");
    let flag: Option<&Flag> = FLAGS.iter().find(|flag| flag.name == "plugins");
    flag.is_some_and(|flag| flag.is_called(&name))
}

/// The plugins that a command line names, in itself and in its file.
pub fn plugins_of(words: &[String]) -> Vec<PluginSpec> {
    let (mut found, mut after) = (Vec::new(), false);
    for word in words {
        match word.strip_prefix("--") {
            Some(flag) => match flag.split_once('=') {
                Some((name, file)) if is_plugins(name) => found.push(PluginSpec::new(file)),
                Some((_, file)) if file.ends_with(".toml") => found.extend(plugins_in(file)),
                _ => after = is_plugins(flag),
            },
            None if after => found.push(PluginSpec::new(word)),
            None if word.ends_with(".toml") => found.extend(plugins_in(word)),
            None => {}
        }
    }
    found
}

/// The plugins that a file names; none if it cannot be read, which is found out where it is read.
fn plugins_in(file: &str) -> Vec<PluginSpec> {
    let entries = file::read(Path::new(file)).unwrap_or_default();
    entries.iter().flat_map(specs).collect()
}

/// The plugins of an entry of a file, if it is about plugins.
pub(super) fn specs(entry: &file::Entry) -> Vec<PluginSpec> {
    let items = match &entry.value {
        _ if !is_plugins(&entry.key) => return Vec::new(),
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let read = |item: &Value| serde_json::from_value(item.clone()).ok();
    items.iter().filter_map(read).collect()
}
