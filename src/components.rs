//! `apus components [KIND]`, and the part of `--help` that lists components.

use crate::{Ended, Failure};
use apus_components::config::load_plugins;
use apus_components::plugin::PluginSpec;
use apus_components::registry::{self, Entry, flags_of};
use apus_sdk::{Kind, OptionDoc, out};
use clap::{Arg, ArgMatches, Command};
use std::fmt::Write;

/// What clap needs to know about it.
pub fn command() -> Command {
    Command::new("components")
        .about("Lists everything that can be named in a run, with its options")
        .arg(
            Arg::new("kind")
                .value_name("KIND")
                .num_args(0..)
                .help("Only this kind"),
        )
        .arg(plugins_argument())
}

/// `--plugin FILE ...`
pub fn plugins_argument() -> Arg {
    Arg::new("plugins")
        .long("plugins")
        .visible_aliases(["plugin"])
        .value_name("FILE")
        .num_args(1..)
        .help("Plugin libraries or names of installed plugins, beside those in the folders of APUS_PLUGIN_PATH")
}

/// The plugins that were given.
pub fn given_plugins(matches: &ArgMatches) -> Vec<PluginSpec> {
    let files = matches.get_many::<String>("plugins").unwrap_or_default();
    files.map(PluginSpec::new).collect()
}

/// Runs the command.
pub fn run(matches: &ArgMatches) -> Result<Ended, Failure> {
    let words: Vec<&str> = matches
        .get_many::<String>("kind")
        .unwrap_or_default()
        .map(String::as_str)
        .collect();
    let kinds = kinds(&words.join(" "))?;
    load_plugins(&given_plugins(matches)).map_err(Failure::Run)?;
    for kind in kinds {
        out!("{}", section(kind).map_err(Failure::Run)?);
    }
    Ok(Ended::Done)
}

/// The kind of this name, or all.
fn kinds(wanted: &str) -> Result<Vec<Kind>, Failure> {
    if wanted.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    Ok(vec![kind(wanted)?])
}

/// The kind of this name.
pub fn kind(wanted: &str) -> Result<Kind, Failure> {
    Kind::from_name(wanted).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        Failure::Usage(anyhow::anyhow!(
            "there is no kind of component {wanted:?}; there are {}",
            names.join(", ")
        ))
    })
}

/// All components of a kind with their options.
fn section(kind: Kind) -> anyhow::Result<String> {
    let mut text = format!("{kind}\n");
    for entry in registry::all(kind)? {
        text += &lines(&entry);
    }
    Ok(text)
}

/// A component: a line, and one for each of its options.
pub fn lines(entry: &Entry) -> String {
    let mut text = format!(
        "  {:24} {}  ({})\n",
        entry.name,
        entry.doc.doc,
        entry.source.label()
    );
    if !entry.doc.needs.is_empty() {
        let _ = writeln!(text, "      needs {}", entry.doc.needs.join(", "));
    }
    let kind = Kind::from_name(&entry.doc.kind);
    let flags = kind.map(|kind| flags_of(kind, &entry.name, &entry.doc.flags));
    let flags = flags.unwrap_or_default();
    let options = entry.doc.options.iter();
    let rows: Vec<[String; 4]> = options.map(|option| row(option, &flags)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2].map(|column| width(column).unwrap_or(0));
    for [name, kind, default, doc] in &rows {
        let [a, b, c] = widths;
        let line = format!("      {name:a$}  {kind:b$}  {default:c$}  {doc}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn row(option: &OptionDoc, flags: &[(String, String)]) -> [String; 4] {
    let default = option.default.as_ref();
    let flags = flags.iter().filter(|(_, of)| *of == option.name);
    let flags: Vec<String> = flags.map(|(flag, _)| format!("--{flag}")).collect();
    let also = match flags.is_empty() {
        true => String::new(),
        false => format!(" (also {})", flags.join(", ")),
    };
    [
        option.name.clone(),
        option.kind.clone(),
        default.map_or_else(String::new, |default| match default {
            serde_json::Value::Null => "none".to_owned(),
            other => other.to_string(),
        }),
        format!("{}{also}", option.doc),
    ]
}

/// What `--help` says after the flags: every component with its options.
pub fn help() -> String {
    let mut text = "Components: what the flags of these names take. Options are set by \
                    --FLAG.OPTION VALUE (--FLAG.NAME.OPTION VALUE where there are several), or in a \
                    configuration by { name = \"...\", OPTION = VALUE }.\n"
        .to_owned();
    for &kind in Kind::ALL {
        let _ = match section(kind) {
            Ok(section) => write!(text, "\n--{}: {section}", kind.flag()),
            Err(error) => write!(text, "\n{error:#}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_components::config::{Command, FLAGS, ValueKind};

    #[test]
    fn every_kind_has_its_flag() {
        for kind in Kind::ALL {
            let flag = FLAGS.iter().find(|flag| {
                let command = match kind {
                    Kind::Exporter => Command::Export,
                    _ => Command::Sft,
                };
                flag.name == kind.flag()
                    && flag.belongs_to(command)
                    && matches!(
                        flag.kind,
                        ValueKind::Component
                            | ValueKind::Components
                            | ValueKind::Datasets
                            | ValueKind::Chain
                    )
            });
            assert!(flag.is_some(), "{kind}: --{}", kind.flag());
        }
    }
}
