//! Arguments of ms-swift that are not flags of Apus.
//!
//! A recipe that was written for ms-swift is taken as it is. What an argument asks for may be so here anyway, or
//! have no meaning here: it is answered in a line. Where leaving it out would change what is trained, answered or
//! written, it is an error that says so. Arguments of RLHF, serving and evaluation are of commands that Apus does not have.

mod generating;
mod running;
mod training;

use super::FLAGS;
use super::flag::Command;
use crate::secrets::is_secret;
use anyhow::{Result, bail};
use serde_json::Value;

/// Arguments that have the same answer.
#[derive(Debug, Clone, Copy)]
pub struct Theirs {
    /// Their names, with underscores; dashes are accepted too.
    pub names: &'static [&'static str],
    /// Commands of ms-swift that take them.
    pub commands: &'static [Command],
    /// The answer.
    pub answer: Answer,
}

/// What becomes of an argument.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// It changes nothing here, whatever its value: why.
    Idle(&'static str),
    /// It would change something, but for these values: why it cannot be done, and what to do.
    Refused(&'static [&'static str], &'static str),
}

const S: &[Command] = &[Command::Sft];
const I: &[Command] = &[Command::Infer];
const E: &[Command] = &[Command::Export];
const SI: &[Command] = &[Command::Sft, Command::Infer];
const SE: &[Command] = &[Command::Sft, Command::Export];
const IE: &[Command] = &[Command::Infer, Command::Export];
const SIE: &[Command] = &[Command::Sft, Command::Infer, Command::Export];

const fn idle(
    commands: &'static [Command],
    names: &'static [&'static str],
    why: &'static str,
) -> Theirs {
    Theirs {
        names,
        commands,
        answer: Answer::Idle(why),
    }
}

const fn refused(
    commands: &'static [Command],
    names: &'static [&'static str],
    harmless: &'static [&'static str],
    why: &'static str,
) -> Theirs {
    Theirs {
        names,
        commands,
        answer: Answer::Refused(harmless, why),
    }
}

/// All of them, in the order of the documentation.
pub fn theirs() -> impl Iterator<Item = &'static Theirs> {
    [running::TABLE, training::TABLE, generating::TABLE]
        .into_iter()
        .flatten()
}

/// What a command takes: each argument that is no flag of its own, and its answer.
pub(super) fn of(command: Command) -> impl Iterator<Item = (&'static str, &'static Theirs)> {
    let is_flag = move |name: &str| {
        let mut mine = FLAGS.iter().filter(|flag| flag.accepted_by(command));
        mine.any(|flag| flag.name == name || flag.aliases.contains(&name))
    };
    theirs()
        .filter(move |theirs| theirs.accepted_by(command))
        .flat_map(|theirs| theirs.names.iter().map(move |name| (*name, theirs)))
        .filter(move |(name, _)| !is_flag(name))
}

/// The answer to an argument, if a command of ms-swift takes it.
pub(super) fn find(name: &str, command: Command) -> Option<&'static Theirs> {
    of(command).find_map(|(known, theirs)| (known == name).then_some(theirs))
}

impl Theirs {
    /// Whether this command takes them; `apus data` takes what `apus sft` does.
    pub fn accepted_by(&self, command: Command) -> bool {
        let wanted = match command {
            Command::Data => Command::Sft,
            other => other,
        };
        self.commands.contains(&wanted)
    }

    /// The line that answers an argument of this value.
    pub(super) fn answer(&self, name: &str, place: &str, value: &str) -> Result<String> {
        match self.answer {
            Answer::Idle(why) => Ok(format!("{name}: nothing to do here: {why}")),
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
