//! `apus plugin check`: exercises a component the way a run would, before a run does.
//!
//! What a component does is for its author to judge; checked is what every component of its kind has
//! to keep: shapes, finite numbers, gradients that fit the values, state that survives, errors instead
//! of panics.

mod data;
mod loss;
mod optimizer;
mod run;

use anyhow::Result;
use apus_components::registry::Spec;
use apus_components::registry::{self, Entry};
use apus_sdk::{Kind, Options};
use candle_core::Device;
use std::fmt;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Good(String),
    /// Nothing to object to, but worth knowing.
    Note(String),
    /// A run would fail.
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

/// Exercises a component on a device.
pub fn check(entry: &Entry, device: &Device) -> Vec<Finding> {
    let mut findings = Findings::new();
    let spec = Spec::named(&entry.name);
    let Some(kind) = Kind::from_name(&entry.doc.kind) else {
        return vec![Finding::Bad(format!("unknown kind {}", entry.doc.kind))];
    };
    describe(entry, &mut findings);
    refuses_strangers(kind, &spec, &mut findings);
    let result = match kind {
        Kind::DatasetFormat => registry::named(&spec).map(|c| data::format(&c, &mut findings)),
        Kind::LossScale => registry::named(&spec).map(|c| data::loss_scale(&c, &mut findings)),
        Kind::Loss => registry::named(&spec).map(|c| loss::check(&c, device, &mut findings)),
        Kind::Optimizer => optimizer::check(&spec, device, &mut findings),
        Kind::LrSchedule => registry::named(&spec).map(|c| run::schedule(&c, &mut findings)),
        Kind::Callback => run::callback(&spec, &mut findings),
        Kind::Metric => registry::named(&spec).map(|c| data::metric(c, &mut findings)),
        Kind::Tracker => registry::named(&spec).map(|c| run::tracker(c, &mut findings)),
    };
    if let Err(error) = result {
        findings.push(Finding::Bad(format!("cannot be made: {error:#}")));
    }
    findings
}

/// Without a line of documentation, lists show nothing.
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

/// A misspelt option must be an error, not ignored.
fn refuses_strangers(kind: Kind, spec: &Spec, findings: &mut Findings) {
    let mut options = Options::new();
    options.insert("no_such_option".to_owned(), 1.into());
    let strange = Spec {
        name: spec.name.clone(),
        options,
    };
    let made = match kind {
        Kind::DatasetFormat => registry::build::<dyn apus_sdk::DatasetFormat>(&strange).is_ok(),
        Kind::LossScale => registry::build::<dyn apus_sdk::LossScale>(&strange).is_ok(),
        Kind::Loss => registry::build::<dyn apus_sdk::Loss>(&strange).is_ok(),
        Kind::Optimizer => registry::build::<dyn apus_sdk::Optimizer>(&strange).is_ok(),
        Kind::LrSchedule => registry::build::<dyn apus_sdk::LrSchedule>(&strange).is_ok(),
        Kind::Callback => registry::build::<dyn apus_sdk::Callback>(&strange).is_ok(),
        Kind::Metric => registry::build::<dyn apus_sdk::Metric>(&strange).is_ok(),
        Kind::Tracker => registry::build::<dyn apus_sdk::Tracker>(&strange).is_ok(),
    };
    if made {
        let note = "takes an option that it does not have, so a misspelt one is ignored: use options!, \
                    or #[serde(deny_unknown_fields)]";
        findings.push(Finding::Note(note.to_owned()));
    }
}
