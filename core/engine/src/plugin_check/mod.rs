//! `apus plugin check`: exercises a component the way a run would, before a run does.
//!
//! Whether a component is useful is for its author to judge. The checks are about the contract of its kind: shapes,
//! finite numbers, gradients that fit the values, state that survives a checkpoint, errors instead of panics. Each
//! kind has a module with its checks.

mod callback;
mod dataset;
mod dataset_format;
mod exporter;
mod loss;
mod loss_scale;
mod metric;
mod optimizer;
mod run;
mod sampler;
mod schedule;
mod tracker;
mod tuner;

use crate::setup::ask;
use anyhow::{Result, anyhow};
use apus_base::doing;
use apus_base::watchdog::{Abandoned, Limits, run_limited};
use apus_components::registry::{self, Entry, Named, Spec};
use apus_sdk::abi::Crosses;
use apus_sdk::{Kind, Need, Options, Setup};
use candle_core::Device;
use serde_json::{Map, Value};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The check passed.
    Good(String),
    /// The check passed, but its author should know something.
    Note(String),
    /// The check failed, and a run would fail.
    Bad(String),
}

impl Finding {
    /// Whether a run would fail.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Bad(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(f, "ok    {text}"),
            Self::Note(text) => write!(f, "note  {text}"),
            Self::Bad(text) => write!(f, "FAIL  {text}"),
        }
    }
}

/// The findings about one component.
type Findings = Vec<Finding>;

/// Adds what a check found: its text, or its error.
fn push(findings: &mut Findings, check: &str, result: Result<String>) {
    findings.push(match result {
        Ok(found) if found.is_empty() => Finding::Good(check.to_owned()),
        Ok(found) => Finding::Good(format!("{check}: {found}")),
        Err(error) => Finding::Bad(format!("{check}: {error:#}")),
    });
}

/// The component that is checked, and the device that it computes on.
struct Checked<'a> {
    spec: Spec,
    device: &'a Device,
}

impl Checked<'_> {
    /// Makes it as a run does.
    fn make<K: Crosses + ?Sized>(&self) -> Result<Named<K>> {
        registry::named(&self.spec)
    }
}

/// Exercises a component, made with these options, on a device, for at most this long.
///
/// # Errors
/// It has not come back; nothing can stop it but the end of the process. The error names it.
pub fn check_within(
    entry: &Entry,
    options: &Options,
    device: &Device,
    time: Duration,
) -> Result<Vec<Finding>> {
    let memory = u64::MAX;
    let (own, options, device) = (entry.clone(), options.clone(), device.clone());
    let work = move || check(&own, options, &device);
    run_limited(Limits { time, memory }, work).map_err(|why| {
        let label = format!("{} {}", entry.doc.kind, entry.name);
        match why {
            Abandoned::TooMuch => {
                let inside = doing::now().map_or_else(String::new, |now| format!(", in {now}"));
                anyhow!(
                    "{label} of {}: it has not come back within {} seconds{inside}; nothing can stop it, so that the check ends \
                     here. Give it more time with --timeout SECONDS if it needs that",
                    entry.source.label(),
                    time.as_secs()
                )
            }
            other => anyhow!("{label}: {other}"),
        }
    })
}

/// Exercises a component on a device.
fn check(entry: &Entry, options: Options, device: &Device) -> Vec<Finding> {
    let mut findings = Findings::new();
    let spec = Spec {
        name: entry.name.clone(),
        options,
    };
    let Some(kind) = Kind::from_name(&entry.doc.kind) else {
        return vec![Finding::Bad(format!("unknown kind {}", entry.doc.kind))];
    };
    describe(entry, &mut findings);
    refuses_unknown_options(kind, &spec, &mut findings);
    let checked = Checked { spec, device };
    looks_at_setup(kind, &checked, &mut findings);
    if let Err(error) = exercise(kind, &checked, &mut findings) {
        findings.push(Finding::Bad(format!("cannot be made: {error:#}")));
    }
    findings
}

/// Shows a component the set-up of a run, which it may refuse; one that checks without saying so would not be asked.
fn looks_at_setup(kind: Kind, checked: &Checked, findings: &mut Findings) {
    let info = run::info(Path::new("run"));
    let setup = Setup::new(Value::Object(info.config.clone()))
        .with_info(info)
        .with_components(kind, [&checked.spec.name]);
    let Ok((needs, asked)) = ask_of_kind(kind, checked, &setup) else {
        return;
    };
    let checks = Need::Check.is_in(&needs);
    findings.extend(match asked {
        Ok(()) if checks => Some(Finding::Good("looks at the set-up of a run".to_owned())),
        Ok(()) => None,
        Err(error) if checks && !format!("{error:#}").contains("panicked") => Some(Finding::Note(
            format!("refuses the set-up of this check: {error:#}"),
        )),
        Err(error) => Some(Finding::Bad(format!("{error:#}"))),
    });
}

macro_rules! by_kind {
    ($($Trait:ident { file: $file:ident, $($columns:tt)* })*) => {
        /// Runs the checks of a kind, which are in the module of the kind.
        fn exercise(kind: Kind, checked: &Checked, findings: &mut Findings) -> Result<()> {
            match kind {
                $(Kind::$Trait => $file::check(checked, findings),)*
            }
        }

        /// What a component of a kind says of a set-up, and its needs.
        fn ask_of_kind(kind: Kind, checked: &Checked, setup: &Setup) -> Result<(Vec<Need>, Result<()>)> {
            match kind {
                $(Kind::$Trait => {
                    let made = checked.make::<dyn apus_sdk::$Trait>()?;
                    let asked = ask(&made, setup, |made, setup| made.check(setup));
                    Ok((made.needs, asked))
                })*
            }
        }

        /// Whether a component of a kind can be made with these options.
        fn can_be_made(kind: Kind, spec: &Spec) -> bool {
            match kind {
                $(Kind::$Trait => registry::build::<dyn apus_sdk::$Trait>(spec).is_ok(),)*
            }
        }
    };
}
apus_sdk::kinds!(by_kind);

/// Notes missing documentation, since lists would show nothing.
fn describe(entry: &Entry, findings: &mut Findings) {
    if entry.doc.doc.is_empty() {
        let note = "no documentation: put a doc comment before it in register!";
        findings.push(Finding::Note(note.to_owned()));
    }
    let bare = entry
        .doc
        .options
        .iter()
        .filter(|option| option.doc.is_empty());
    let bare: Vec<&str> = bare.map(|option| option.name.as_str()).collect();
    if !bare.is_empty() {
        findings.push(Finding::Note(format!(
            "options without documentation: {}; declare them with options!",
            bare.join(", ")
        )));
    }
}

/// Notes a component that ignores unknown options, since a misspelt option must be an error.
fn refuses_unknown_options(kind: Kind, spec: &Spec, findings: &mut Findings) {
    let mut unknown = spec.clone();
    unknown
        .options
        .insert("no_such_option".to_owned(), 1.into());
    if can_be_made(kind, &unknown) {
        let note = "takes an option that it does not have, so a misspelt one is ignored: use options!, \
                    or #[serde(deny_unknown_fields)]";
        findings.push(Finding::Note(note.to_owned()));
    }
}

/// The map of a JSON object.
fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
