//! The configuration of a measurement of models over datasets.

use super::flag::{Command, Flag, Topic};
use super::resolve::typed;
use super::{Config, EvalConfig, FLAGS, SftConfig, values};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

impl Config for EvalConfig {
    const COMMAND: Command = Command::Eval;
}

/// The flags of a run that an evaluation reads, besides those that shape rows.
const READ: &[&str] = &[
    "model",
    "use_hf",
    "adapters",
    "tokenizer",
    "torch_dtype",
    "experts_dtype",
    "device",
    "plugins",
    "dataset",
    "val_dataset",
    "per_device_eval_batch_size",
    "loss_type",
    "router_aux_loss_coef",
    "metrics",
    "max_new_tokens",
    "temperature",
    "seed",
    "deterministic",
];

/// Flags that shape the rows of training alone.
const OF_TRAINING: &[&str] = &[
    "interleave_prob",
    "stopping_strategy",
    "streaming",
    "shuffle_buffer_size",
];

/// Flags besides those that shape rows for which the run's value holds where none is given.
const OF_THE_RUN: &[&str] = &["tokenizer", "loss_type", "router_aux_loss_coef"];

impl Flag {
    /// Whether an evaluation reads the flag; the help of `apus eval` shows these.
    pub(super) fn is_about_evaluation(&self) -> bool {
        let shapes = self.shapes_rows() && !OF_TRAINING.contains(&self.name);
        self.belongs_to(Command::Eval) || READ.contains(&self.name) || shapes
    }

    /// Whether what the run said holds where nothing is given: how conversations become tokens and what their loss is, not
    /// how the columns of a dataset are read.
    fn is_of_the_run(&self) -> bool {
        let shapes = self.shapes_rows() && !self.about.contains(&Topic::Questions);
        self.is_about_evaluation() && shapes || OF_THE_RUN.contains(&self.name)
    }
}

impl EvalConfig {
    /// The run as whose evaluations datasets are measured: what is given, and what is not as the run has it that made
    /// the weights, whose args.json is `args`.
    ///
    /// # Errors
    /// A value that does not fit its flag.
    pub fn sft(
        &self,
        args: &Map<String, Value>,
        given: &dyn Fn(&str) -> bool,
    ) -> Result<SftConfig> {
        let mut run: SftConfig = typed(self.run.clone(), str::to_owned)?;
        run.resolve_values()?;
        let mut all = values(&run);
        for flag in FLAGS.iter().filter(|flag| flag.is_of_the_run()) {
            if let Some(value) = args.get(flag.name)
                && !given(flag.name)
            {
                all.insert(flag.name.to_owned(), value.clone());
            }
        }
        typed(all, |flag| format!("args.json of the run, {flag}"))
            .context("the settings of the run")
    }

    /// Names of flags of which two runs have other values, where an evaluation takes those of the first.
    pub fn differing<'a>(
        first: &'a Map<String, Value>,
        second: &'a Map<String, Value>,
        given: &'a dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = &'static str> + 'a {
        let flags = FLAGS.iter().filter(|flag| flag.is_of_the_run());
        let names = flags.map(|flag| flag.name).filter(|name| !given(name));
        names.filter(move |name| {
            let [one, other] = [first, second].map(|args| args.get(*name).unwrap_or(&Value::Null));
            one != other
        })
    }

    /// Flags that were given and change nothing in an evaluation.
    pub fn idle(given: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
        let mine = FLAGS.iter().filter(|flag| flag.accepted_by(Command::Eval));
        let idle = mine.filter(|flag| !flag.is_about_evaluation() && given(flag.name));
        idle.map(|flag| flag.name).collect()
    }

    /// Checks that there is something to measure, and on what.
    ///
    /// # Errors
    /// No model, no dataset.
    pub fn check(&self, run: &SftConfig) -> Result<()> {
        ensure!(
            !run.model.is_empty() || !run.adapters.is_empty(),
            "--model or --adapters is missing: a model directory or an id, or folders of adapters"
        );
        ensure!(
            !run.val_dataset.is_empty() || !run.dataset.is_empty(),
            "--val_dataset is missing: files, folders, patterns or ids, each of which is measured by itself"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_arguments;
    use serde_json::json;

    #[test]
    fn the_run_says_what_is_not_given() {
        apus_plugins::link();
        for name in READ.iter().chain(OF_TRAINING).chain(OF_THE_RUN) {
            let known = FLAGS
                .iter()
                .any(|flag| flag.name == *name && flag.belongs_to(Command::Sft));
            assert!(known, "{name}");
        }
        let words =
            "--model m --val_dataset a b --max_length 64 --learning_rate 1 --metrics token_acc";
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let resolved = from_arguments::<EvalConfig>(&words).unwrap();
        let given = |flag: &str| resolved.given(flag);
        let mut of_run = SftConfig {
            max_length: Some(9),
            system: Some("x\\ny.txt".to_owned()),
            keep_empty_answers: true,
            learning_rate: Some(3.0),
            ..SftConfig::default()
        };
        of_run.columns = json!({"a": "query"});
        let args = values(&of_run);
        let run = resolved.config.sft(&args, &given).unwrap();
        assert_eq!((run.max_length, run.keep_empty_answers), (Some(64), true));
        assert_eq!(run.system.as_deref(), Some("x\\ny.txt"));
        assert!(run.columns.is_null());
        assert_eq!(EvalConfig::idle(&given), ["learning_rate"]);
        let other = values(&SftConfig::default());
        let differing: Vec<_> = EvalConfig::differing(&args, &other, &given).collect();
        assert_eq!(differing, ["keep_empty_answers", "system"]);
        assert!(resolved.config.check(&run).is_ok());
    }

    #[test]
    fn what_is_missing_is_said() {
        let run = |model: &str, data: &[&str]| SftConfig {
            model: model.to_owned(),
            val_dataset: data.iter().map(|&name| name.into()).collect(),
            ..SftConfig::default()
        };
        let config = EvalConfig::default();
        for (run, missing) in [
            (run("", &["a"]), "--model"),
            (run("m", &[]), "--val_dataset"),
        ] {
            let error = config.check(&run).unwrap_err().to_string();
            assert!(error.starts_with(missing), "{error}");
        }
    }
}
