//! What a run must have in common with the checkpoint that it resumes from.
//!
//! A checkpoint is a place in the data and in the schedule as much as it is weights. What fixes that place is kept in
//! it as named values, the terms, and a run that goes on holds its own against them. What is no term may differ: how
//! a step's examples split into micro-batches, logging, evaluating, saving, trackers, the device.

use anyhow::{Result, bail, ensure};
use apus_components::config::{FLAGS, SftConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Named values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Terms(Map<String, Value>);

/// What a term is about, and with it who may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Which weights there are: nothing goes on with others.
    Weights,
    /// Where the run is in its data: with another value the place means nothing.
    Place,
    /// How it learns: the place stays what it is, so that a change can be meant.
    Learning,
}

/// Terms that are no flags of learning by their own names.
const NAMED: &[(&str, About)] = &[
    ("train_type", About::Weights),
    ("trained", About::Weights),
    ("adapter", About::Weights),
    ("streaming", About::Place),
    ("data", About::Place),
    ("examples_per_step", About::Place),
    ("examples_per_epoch", About::Place),
    ("sampler", About::Place),
    ("data_seed", About::Place),
    ("model", About::Learning),
    ("optimizer", About::Learning),
    ("lr_scheduler", About::Learning),
    ("max_steps", About::Learning),
    ("warmup_steps", About::Learning),
    ("lora_dropout", About::Learning),
    ("lorap_lr_ratio", About::Learning),
];

/// A term whose values differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The term.
    pub name: String,
    about: About,
    saved: Value,
    now: Value,
}

impl Terms {
    /// Adds a term.
    ///
    /// # Panics
    /// A name that is none, in a build for tests.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        debug_assert!(about(name).is_some(), "{name} is no term");
        self.0.insert(name.to_owned(), value.into());
    }

    /// The value of a term.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Adds the flags that say how a run learns, with their values among `args`.
    pub fn put_flags(&mut self, args: &Map<String, Value>) {
        for flag in FLAGS.iter().filter(|flag| flag.is_about_learning()) {
            let is_named = NAMED.iter().any(|(name, _)| *name == flag.name);
            if about(flag.name) == Some(About::Learning)
                && !is_named
                && let Some(value) = args.get(flag.name)
            {
                self.0.insert(flag.name.to_owned(), value.clone());
            }
        }
    }

    /// Where `saved` has another value than these. What only one of them has cannot be compared.
    pub fn differences(&self, saved: &Self) -> Vec<Difference> {
        let different = |(name, now): (&String, &Value)| {
            let saved = saved.0.get(name).filter(|saved| !same(saved, now))?;
            Some(Difference {
                name: name.clone(),
                about: about(name)?,
                saved: saved.clone(),
                now: now.clone(),
            })
        };
        self.0.iter().filter_map(different).collect()
    }
}

/// Checks what `--resume_changes` names.
///
/// # Errors
/// A name of nothing that can be changed; the error lists what can.
pub fn check_changes(changes: &[String]) -> Result<()> {
    for name in changes {
        let term = term_of(name);
        if about(term) != Some(About::Learning) {
            let mut known: Vec<&str> = FLAGS
                .iter()
                .map(|flag| flag.name)
                .filter(|name| about(term_of(name)) == Some(About::Learning))
                .collect();
            known.sort_unstable();
            bail!(
                "resume_changes names {name:?}; what a resumed run may change on purpose is {}",
                known.join(", ")
            );
        }
    }
    Ok(())
}

/// Checks that these differences are allowed: all but those of weights where `only_model` starts the rest anew,
/// those of learning that `changes` names. Returns those that were.
///
/// # Errors
/// Others; the error says each of them, what may differ and how.
pub fn allow(
    differences: Vec<Difference>,
    config: &Allowed,
    hints: &dyn Fn(&Difference) -> Option<String>,
) -> Result<Vec<Difference>> {
    let meant = |difference: &Difference| match difference.about {
        About::Weights => false,
        _ if config.only_model => true,
        About::Place => false,
        About::Learning => config
            .changes
            .iter()
            .any(|name| term_of(name) == difference.name),
    };
    let (allowed, refused): (Vec<_>, Vec<_>) = differences.into_iter().partition(meant);
    ensure!(refused.is_empty(), "{}", explain(&refused, hints));
    Ok(allowed)
}

/// What a configuration lets differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allowed {
    /// `resume_only_model`.
    pub only_model: bool,
    /// `resume_changes`.
    pub changes: Vec<String>,
}

impl Allowed {
    /// By its flags.
    pub fn by(config: &SftConfig) -> Self {
        Self {
            only_model: config.resume_only_model,
            changes: config.resume_changes.clone(),
        }
    }
}

fn explain(refused: &[Difference], hints: &dyn Fn(&Difference) -> Option<String>) -> String {
    let mut text = "this run is not the one that the checkpoint was made in:".to_owned();
    for difference in refused {
        let Difference {
            name, saved, now, ..
        } = difference;
        text += &format!(
            "\n  {name}: the checkpoint has {}, this run {}",
            shown(saved),
            shown(now)
        );
        if let Some(hint) = hints(difference) {
            text += &format!(" ({hint})");
        }
    }
    let has = |about: About| refused.iter().any(|difference| difference.about == about);
    let learning: Vec<&str> = refused
        .iter()
        .filter(|difference| difference.about == About::Learning)
        .map(|difference| difference.name.as_str())
        .collect();
    text += "\nGo on with the same values";
    if !learning.is_empty() {
        text += &format!(
            "; a change of {} that is meant is allowed by --resume_changes {}",
            learning.join(", "),
            learning.join(" ")
        );
    }
    if !has(About::Weights) {
        text += "; or take the weights alone with --resume_only_model true, and data, optimizer and schedule start anew";
    }
    text += ". How a step's examples split into per_device_train_batch_size and gradient_accumulation_steps may \
             differ, and so may what is logged, evaluated, saved and tracked, and the device";
    text
}

impl Difference {
    /// The checkpoint's value, and that of this run.
    pub fn values(&self) -> (&Value, &Value) {
        (&self.saved, &self.now)
    }

    /// Whether it is about how long the run is, which matters as far as the learning rate follows from it.
    pub fn is_of_length(&self) -> bool {
        matches!(self.name.as_str(), "max_steps" | "warmup_steps")
    }

    /// A line for people.
    pub fn said(&self) -> String {
        format!(
            "{} was {}, is {}",
            self.name,
            shown(&self.saved),
            shown(&self.now)
        )
    }
}

/// Whether two values are the same; 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A value in a few words.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| match (name.as_str(), value) {
                    ("sha256", Value::String(hash)) => {
                        format!("sha256 {}...", &hash[..hash.len().min(12)])
                    }
                    ("name", Value::String(component)) => component.clone(),
                    (name, value) => format!("{name} {}", shown(value)),
                });
            fields.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// The term that a flag sets.
fn term_of(flag: &str) -> &str {
    let mut known = FLAGS.iter().filter(|known| known.name == flag);
    known.find_map(|known| known.term).unwrap_or(flag)
}

fn about(term: &str) -> Option<About> {
    if let Some((_, about)) = NAMED.iter().find(|(name, _)| *name == term) {
        return Some(*about);
    }
    let flag = FLAGS
        .iter()
        .find(|flag| flag.name == term && flag.is_about_learning())?;
    (term_of(flag.name) == flag.name).then_some(About::Learning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn terms(values: &[(&str, Value)]) -> Terms {
        let mut terms = Terms::default();
        for (name, value) in values {
            terms.put(name, value.clone());
        }
        terms
    }

    fn refusal(saved: &Terms, now: &Terms, allowed: &Allowed) -> String {
        let differences = now.differences(saved);
        allow(differences, allowed, &|_| None).map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn each_difference_is_said_with_what_can_be_done() {
        let saved = terms(&[
            ("examples_per_step", json!(6)),
            ("learning_rate", json!(1e-3)),
            ("optimizer", json!({"name": "adamw", "beta1": 0.9})),
            ("data_seed", json!(42)),
        ]);
        let now = terms(&[
            ("examples_per_step", json!(8)),
            ("learning_rate", json!(5e-4)),
            ("optimizer", json!({"name": "adamw", "beta1": 0.9})),
            ("data_seed", json!(42)),
        ]);
        let said = refusal(&saved, &now, &Allowed::default());
        for part in [
            "examples_per_step: the checkpoint has 6, this run 8",
            "learning_rate: the checkpoint has 0.001, this run 0.0005",
            "--resume_changes learning_rate;",
            "--resume_only_model true",
        ] {
            assert!(said.contains(part), "{part:?} not in {said}");
        }
        assert!(
            !said.contains("optimizer:") && !said.contains("data_seed"),
            "{said}"
        );
        let changes = Allowed {
            changes: vec!["learning_rate".to_owned()],
            ..Allowed::default()
        };
        let said = refusal(&saved, &now, &changes);
        assert!(
            said.contains("examples_per_step") && !said.contains("learning_rate"),
            "{said}"
        );
        let only_model = Allowed {
            only_model: true,
            ..Allowed::default()
        };
        assert_eq!(refusal(&saved, &now, &only_model), "");
    }

    #[test]
    fn other_weights_are_refused_by_all_means() {
        let saved = terms(&[("adapter", json!({"lora_alpha": 32.0}))]);
        let now = terms(&[("adapter", json!({"lora_alpha": 64.0}))]);
        let allowed = Allowed {
            only_model: true,
            changes: vec!["adapter".to_owned()],
        };
        let said = refusal(&saved, &now, &allowed);
        assert!(
            said.contains("the checkpoint has lora_alpha 32.0, this run lora_alpha 64.0"),
            "{said}"
        );
        assert!(!said.contains("--resume_only_model"), "{said}");
    }

    #[test]
    fn what_may_be_changed_is_named_by_flags() {
        let check = |name: &str| check_changes(&[name.to_owned()]);
        for name in [
            "learning_rate",
            "num_train_epochs",
            "weight_decay",
            "model",
            "loss_type",
        ] {
            check(name).unwrap();
        }
        for name in [
            "data_seed",
            "examples_per_step",
            "lora_rank",
            "logging_steps",
            "lerning_rate",
        ] {
            let error = check(name).unwrap_err().to_string();
            assert!(
                error.contains("num_train_epochs") && error.contains("max_grad_norm"),
                "{error}"
            );
        }
    }

    #[test]
    fn every_flag_of_learning_is_a_term_or_spells_one() {
        let config = serde_json::to_value(SftConfig::default()).unwrap();
        let mut terms = Terms::default();
        terms.put_flags(config.as_object().unwrap());
        for flag in FLAGS.iter().filter(|flag| flag.is_about_learning()) {
            let term = term_of(flag.name);
            assert_eq!(about(term), Some(About::Learning), "{}", flag.name);
            assert!(
                terms.get(term).is_some() || NAMED.iter().any(|(name, _)| *name == term),
                "{}",
                flag.name
            );
        }
        for name in [
            "learning_rate",
            "max_grad_norm",
            "loss_type",
            "router_aux_loss_coef",
            "seed",
        ] {
            assert!(terms.get(name).is_some(), "{name}");
        }
    }
}
