//! Arguments of ms-swift that are not flags of Apus.
//!
//! A recipe that was written for ms-swift is accepted unchanged. An argument that changes nothing in Apus is
//! ignored, and a line says why. An argument whose absence would change what is trained, generated or written is an
//! error that says so. Arguments of RLHF and evaluation are missing: Apus does not have those commands.

mod generating;
mod running;
mod serving;
mod training;

use super::FLAGS;
use super::flag::Command;
use crate::secrets::is_secret;
use anyhow::{Result, bail};
pub use apus_sdk::built_in::Answer;
use apus_sdk::built_in::{Argument, built_ins};
use serde_json::Value;
use std::sync::LazyLock;

/// Arguments that are treated alike.
#[derive(Debug, Clone, Copy)]
pub struct MsSwiftArguments {
    /// Their names, with underscores; dashes are accepted too.
    pub names: &'static [&'static str],
    /// Commands of ms-swift that take them.
    pub commands: &'static [Command],
    /// The answer.
    pub answer: Answer,
}

const S: &[Command] = &[Command::Sft];
const I: &[Command] = &[Command::Infer];
const D: &[Command] = &[Command::Deploy];
const E: &[Command] = &[Command::Export];
const SI: &[Command] = &[Command::Sft, Command::Infer];
const SE: &[Command] = &[Command::Sft, Command::Export];
const IE: &[Command] = &[Command::Infer, Command::Export];
const SIE: &[Command] = &[Command::Sft, Command::Infer, Command::Export];

const fn no_effect(
    commands: &'static [Command],
    names: &'static [&'static str],
    why: &'static str,
) -> MsSwiftArguments {
    MsSwiftArguments {
        names,
        commands,
        answer: Answer::NoEffect(why),
    }
}

const fn refused(
    commands: &'static [Command],
    names: &'static [&'static str],
    harmless: &'static [&'static str],
    why: &'static str,
) -> MsSwiftArguments {
    MsSwiftArguments {
        names,
        commands,
        answer: Answer::Refused(harmless, why),
    }
}

/// All of them, in the order of the documentation; those that built-in components declare come last.
pub fn ms_swift_arguments() -> impl Iterator<Item = &'static MsSwiftArguments> {
    static DECLARED: LazyLock<Vec<MsSwiftArguments>> = LazyLock::new(|| {
        let arguments = built_ins()
            .into_iter()
            .flat_map(|built_in| built_in.arguments);
        arguments.map(declared).collect()
    });
    let tables = [
        running::TABLE,
        training::TABLE,
        generating::TABLE,
        serving::TABLE,
    ];
    tables.into_iter().flatten().chain(DECLARED.iter())
}

/// What a built-in component declares.
fn declared(argument: &'static Argument) -> MsSwiftArguments {
    let all = [
        ("sft", Command::Sft),
        ("infer", Command::Infer),
        ("export", Command::Export),
    ];
    let theirs = all
        .into_iter()
        .filter(|(name, _)| argument.commands.contains(name));
    let commands: Vec<Command> = theirs.map(|(_, command)| command).collect();
    MsSwiftArguments {
        names: argument.names,
        commands: commands.leak(),
        answer: argument.answer,
    }
}

/// What a command takes: each argument that is no flag of its own, and its answer.
pub(super) fn of(
    command: Command,
) -> impl Iterator<Item = (&'static str, &'static MsSwiftArguments)> {
    let is_flag = move |name: &str| {
        let mut mine = FLAGS.iter().filter(|flag| flag.accepted_by(command));
        mine.any(|flag| flag.is_called(name))
    };
    ms_swift_arguments()
        .filter(move |arguments| arguments.accepted_by(command))
        .flat_map(|arguments| arguments.names.iter().map(move |name| (*name, arguments)))
        .filter(move |(name, _)| !is_flag(name))
}

/// The answer to an argument, if a command of ms-swift takes it.
pub(super) fn find(name: &str, command: Command) -> Option<&'static MsSwiftArguments> {
    of(command).find_map(|(known, arguments)| (known == name).then_some(arguments))
}

impl MsSwiftArguments {
    /// Whether this command takes them; one that is told of a run takes what `apus sft` does, and `apus deploy` what `apus infer` does and
    /// more.
    pub fn accepted_by(&self, command: Command) -> bool {
        let wanted: &[Command] = match command {
            command if command.takes_a_run() => S,
            Command::Deploy => &[Command::Infer, Command::Deploy],
            other => &[other],
        };
        wanted.iter().any(|wanted| self.commands.contains(wanted))
    }

    /// The line that answers an argument of this value.
    pub(super) fn answer(&self, name: &str, place: &str, value: &str) -> Result<String> {
        match self.answer {
            Answer::NoEffect(why) => Ok(format!("{name}: nothing to do here: {why}")),
            Answer::Refused(harmless, _)
                if NOTHING
                    .iter()
                    .chain(harmless)
                    .any(|known| same(known, value)) =>
            {
                Ok(format!("{name}: nothing to do here: so it is with {value}"))
            }
            Answer::Refused(_, why) if is_secret(name) => bail!("{place}: {why}"),
            Answer::Refused(_, why) => bail!("{place} is {value}: {why}"),
        }
    }
}

/// A value of a file as the command line would have it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Values that ask for nothing, whatever the argument.
const NOTHING: &[&str] = &["", "none", "null"];

/// Whether two values mean the same: `0` and `0.0`, `False` and `false`.
fn same(known: &str, value: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    known.eq_ignore_ascii_case(value)
        || number(known).is_some_and(|known| Some(known) == number(value))
}

#[cfg(test)]
mod tests;
