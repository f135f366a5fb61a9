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
mod schedule;
mod tracker;
mod tuner;

use anyhow::Result;
use apus_components::registry::{self, Entry, Named, Spec};
use apus_sdk::abi::Crosses;
use apus_sdk::{Kind, Options};
use candle_core::Device;
use serde_json::{Map, Value};
use std::fmt;

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

/// The findings about one component, made with its defaults.
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

/// Exercises a component on a device.
pub fn check(entry: &Entry, device: &Device) -> Vec<Finding> {
    let mut findings = Findings::new();
    let spec = Spec::named(&entry.name);
    let Some(kind) = Kind::from_name(&entry.doc.kind) else {
        return vec![Finding::Bad(format!("unknown kind {}", entry.doc.kind))];
    };
    describe(entry, &mut findings);
    refuses_unknown_options(kind, &spec, &mut findings);
    if let Err(error) = exercise(kind, &Checked { spec, device }, &mut findings) {
        findings.push(Finding::Bad(format!("cannot be made: {error:#}")));
    }
    findings
}

macro_rules! by_kind {
    ($($Trait:ident { file: $file:ident, $($columns:tt)* })*) => {
        /// Runs the checks of a kind, which are in the module of the kind.
        fn exercise(kind: Kind, checked: &Checked, findings: &mut Findings) -> Result<()> {
            match kind {
                $(Kind::$Trait => $file::check(checked, findings),)*
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
    let mut options = Options::new();
    options.insert("no_such_option".to_owned(), 1.into());
    let unknown = Spec {
        name: spec.name.clone(),
        options,
    };
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
