//! The best evaluation, and the best checkpoint.
//!
//! The two differ: where evaluations come more often than checkpoints, the best weights may be saved nowhere.
//! The best of the checkpoints on the disk is the one that is named, kept by `save_total_limit` and loaded at the end.

use super::channel_loss::PREFIX;
use super::parts::Components;
use super::state::TrainerState;
use anyhow::{Result, bail};
use apus_base::lines::warning;
use apus_components::config::SftConfig;
use apus_components::similar::similar_names;
use apus_sdk::RunState;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

/// Numbers of every evaluation, by their names without `eval_`.
const ALWAYS: [&str; 4] = ["loss", "runtime", "samples_per_second", "steps_per_second"];

/// Keeps track of the best evaluation and the best checkpoint.
#[derive(Debug, Default)]
pub struct Best {
    name: String,
    greater: bool,
    /// The last evaluation: after how many steps, and its value once it is known.
    last: Option<(u64, Option<f64>)>,
    /// Value of the best checkpoint.
    saved: Option<f64>,
}

impl Best {
    /// By `metric_for_best_model`, which may stand without its `eval_`.
    pub fn by(name: &str, greater: bool) -> Self {
        Self {
            name: name.strip_prefix("eval_").unwrap_or(name).to_owned(),
            greater,
            ..Self::default()
        }
    }

    /// The metric as evaluations name it.
    pub fn key(&self) -> String {
        format!("eval_{}", self.name)
    }

    /// Goes on from a checkpoint, whose best may have been deleted since.
    pub fn resume(&mut self, saved: &TrainerState, state: &mut RunState) {
        let Some(path) = &state.best_model_checkpoint else {
            return;
        };
        if path.is_dir() {
            self.saved = saved.best_saved_metric.or(state.best_metric);
            return;
        }
        warning!(
            "the best checkpoint so far, {}, is gone; the best is looked for among those to come",
            path.display()
        );
        state.best_model_checkpoint = None;
    }

    /// An evaluation gave these numbers. Whether it is the best so far, as far as it is known yet.
    pub fn evaluated(&mut self, values: &Map<String, Value>, state: &mut RunState) -> bool {
        self.last = Some((state.global_step, None));
        match values.get(&self.key()).and_then(Value::as_f64) {
            Some(value) => self.value_is(value, state),
            None => false,
        }
    }

    /// Whether the evaluation of these weights waits for a number that a callback has to report.
    pub fn waits(&self, step: u64) -> bool {
        self.last == Some((step, None))
    }

    /// Takes the number that callbacks reported. Whether it is the best so far.
    ///
    /// # Errors
    /// No callback reported it.
    pub fn reported(
        &mut self,
        evaluation: &Map<String, Value>,
        reported: &Map<String, Value>,
        state: &mut RunState,
    ) -> Result<bool> {
        let found = [self.key(), self.name.clone()];
        let found = found.iter().find_map(|name| reported.get(name)?.as_f64());
        match found {
            Some(value) => Ok(self.value_is(value, state)),
            None => {
                let names = evaluation.keys().chain(reported.keys());
                bail!(self.nobody_reports(names.map(String::as_str)))
            }
        }
    }

    fn value_is(&mut self, value: f64, state: &mut RunState) -> bool {
        self.last = Some((state.global_step, Some(value)));
        let better = self.is_better(value, state.best_metric);
        if better {
            state.best_metric = Some(value);
        }
        better
    }

    fn is_better(&self, value: f64, than: Option<f64>) -> bool {
        match than {
            None => true,
            Some(best) if self.greater => value > best,
            Some(best) => value < best,
        }
    }

    /// The value that a checkpoint of these weights has, if that makes it the best checkpoint.
    pub fn makes_best(&self, step: u64) -> Option<f64> {
        let (_, value) = self.last.filter(|(evaluated, _)| *evaluated == step)?;
        value.filter(|&value| self.is_better(value, self.saved))
    }

    /// The value of the best checkpoint.
    pub fn saved(&self) -> Option<f64> {
        self.saved
    }

    /// A checkpoint of these weights is on the disk.
    pub fn saved_at(&mut self, path: &Path, state: &mut RunState) {
        if let Some(value) = self.makes_best(state.global_step) {
            self.saved = Some(value);
            state.best_model_checkpoint = Some(path.to_owned());
        }
    }

    /// Refuses a metric that nobody will report, where everybody tells what they report.
    fn check(
        &self,
        metrics: Option<&[String]>,
        callbacks: Option<&[String]>,
        channels: &BTreeSet<String>,
    ) -> Result<()> {
        let (Some(metrics), Some(callbacks)) = (metrics, callbacks) else {
            return Ok(());
        };
        let known = ALWAYS.iter().copied();
        let known: Vec<&str> = known
            .chain(metrics.iter().chain(channels).map(String::as_str))
            .collect();
        let of_callbacks = callbacks.iter().map(String::as_str);
        let is_ours = |name: &str| name == self.name || name == self.key();
        match known
            .iter()
            .copied()
            .chain(of_callbacks.clone())
            .any(is_ours)
        {
            true => Ok(()),
            false => bail!(self.nobody_reports(known.iter().copied().chain(of_callbacks))),
        }
    }

    fn nobody_reports<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        let names: Vec<&str> = names.collect();
        let tip = match similar_names(&self.name, &names).first() {
            Some(near) => format!("did you mean {near}? "),
            None => String::new(),
        };
        format!(
            "metric_for_best_model is {:?}, which nobody reports; {tip}there are {}. --metrics adds one, a callback may \
             report one, and --enable_channel_loss true reports {PREFIX}NAME for each channel of the evaluation data",
            self.name,
            names.join(", ")
        )
    }
}

/// Refuses a `metric_for_best_model` that nobody will report, as far as components tell what they do. It may be the loss
/// of a channel of the evaluation data, all of them `channels`; before these are known, of any channel.
///
/// # Errors
/// No component reports the metric.
pub fn check_name(
    config: &SftConfig,
    components: &Components,
    channels: Option<&BTreeSet<String>>,
) -> Result<()> {
    let best = Best::by(&config.metric_for_best_model, false);
    let of_channel = config.enable_channel_loss && best.name.starts_with(PREFIX);
    if of_channel && channels.is_none() {
        return Ok(());
    }
    let metrics = components
        .metrics
        .iter()
        .map(|metric| metric.component.names());
    let metrics: Option<Vec<_>> = metrics.collect();
    let callbacks = components.callbacks.iter();
    let callbacks: Option<Vec<_>> = callbacks
        .map(|callback| callback.component.metric_names())
        .collect();
    let (metrics, callbacks) = (
        metrics.map(|names| names.concat()),
        callbacks.map(|names| names.concat()),
    );
    let channels = channels.cloned().unwrap_or_default();
    best.check(metrics.as_deref(), callbacks.as_deref(), &channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(value: Value) -> Map<String, Value> {
        let Value::Object(line) = value else {
            unreachable!()
        };
        line
    }

    #[test]
    fn only_checkpoints_are_the_best_checkpoint() {
        let mut best = Best::by("loss", false);
        let mut state = RunState::default();
        let mut evaluated = |best: &mut Best, step: u64, loss: f64, save: bool| {
            state.global_step = step;
            let better = best.evaluated(&line(json!({"eval_loss": loss})), &mut state);
            let path = Path::new("run").join(format!("checkpoint-{step}"));
            if save {
                best.saved_at(&path, &mut state);
            }
            let name = |path: &Path| path.to_string_lossy().into_owned();
            let saved = state.best_model_checkpoint.as_deref().map(name);
            (
                better,
                saved.unwrap_or_default(),
                state.best_metric.unwrap(),
            )
        };
        let at = |step| format!("run/checkpoint-{step}");
        assert_eq!(
            evaluated(&mut best, 1, 3.0, false),
            (true, String::new(), 3.0)
        );
        assert_eq!(evaluated(&mut best, 2, 4.0, true), (false, at(2), 3.0));
        assert_eq!(evaluated(&mut best, 3, 1.0, false), (true, at(2), 1.0));
        assert_eq!(evaluated(&mut best, 4, 2.0, true), (false, at(4), 1.0));
        assert_eq!(evaluated(&mut best, 5, 2.0, true), (false, at(4), 1.0));
        assert_eq!(best.saved(), Some(2.0));
        // A checkpoint without an evaluation of its weights is not compared.
        assert_eq!(best.makes_best(6), None);
    }

    #[test]
    fn the_metric_may_be_a_callbacks() {
        for name in ["score", "eval_score"] {
            let mut best = Best::by(name, true);
            let mut state = RunState::default();
            let evaluation = line(json!({"eval_loss": 1.0}));
            assert!(!best.evaluated(&evaluation, &mut state));
            assert!(best.waits(0));
            let none = best.reported(&evaluation, &Map::new(), &mut state);
            let error = none.unwrap_err().to_string();
            assert!(
                error.contains("\"score\"") && error.contains("eval_loss"),
                "{error}"
            );
            let reported = line(json!({ "score": 2 }));
            assert!(best.reported(&evaluation, &reported, &mut state).unwrap());
            assert!(!best.waits(0));
            assert_eq!(state.best_metric, Some(2.0));
        }
    }

    #[test]
    fn a_name_that_nobody_reports_is_known_before_the_run() {
        let (acc, mine) = (["token_acc".to_owned()], ["mine".to_owned()]);
        let check = |name: &str, metrics, callbacks| {
            let channels = BTreeSet::from(["loss_math".to_owned()]);
            let checked = Best::by(name, true).check(metrics, callbacks, &channels);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check("eval_token_acc", Some(&acc), Some(&[])), Ok(()));
        assert_eq!(check("loss", Some(&[]), Some(&[])), Ok(()));
        assert_eq!(check("mine", Some(&acc), Some(&mine)), Ok(()));
        assert_eq!(check("mine", Some(&acc), None), Ok(()));
        assert_eq!(check("mine", None, Some(&[])), Ok(()));
        assert_eq!(check("eval_loss_math", Some(&acc), Some(&[])), Ok(()));
        let error = check("loss_maths", Some(&acc), Some(&[])).unwrap_err();
        assert!(error.contains("did you mean loss_math?"), "{error}");
        let error = check("token_ac", Some(&acc), Some(&[])).unwrap_err();
        assert!(error.contains("did you mean token_acc?"), "{error}");
    }
}
