//! What a callback asks a run for: flags by the names of `TrainerControl`, and a list of requests.
//!
//! A request that the other side of the boundary does not know is an error, never nothing: a run that leaves out what was asked
//! for is another run.

use crate::{Error, Need, Question, Result, needs};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What a callback asks for, by the names of `TrainerControl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// Leave after this step, as if all steps were made: it is logged, evaluated and saved. Once one callback has
    /// asked for it, it stays.
    pub should_training_stop: bool,
    /// Save a checkpoint after this step.
    pub should_save: bool,
    /// Evaluate after this step.
    pub should_evaluate: bool,
    /// Log after this step.
    pub should_log: bool,
    /// Extra numbers for the next log line, under names of their own. One of them may be the
    /// `metric_for_best_model`.
    pub metrics: Map<String, Value>,
    /// A factor on the scheduled learning rate from the next step on.
    pub lr_factor: Option<f64>,
    /// Prompts to answer after this step; trackers and [`Callback::on_generate`](crate::Callback::on_generate) receive the texts.
    pub generate: Vec<String>,
    /// What the methods of this type ask for, in the order in which they were called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Request>,
}

/// One thing that a callback asks for beside the flags of [`Control`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// See [`Control::ask`].
    Ask(Box<Question>),
    /// See [`Control::freeze`].
    Freeze(String),
    /// See [`Control::unfreeze`].
    Unfreeze(String),
    /// See [`Control::set_lr_factor`].
    LrFactor(String, f64),
    /// See [`Control::set_gradient_accumulation_steps`].
    Accumulation(u64),
    /// See [`Control::keep`].
    Keep(PathBuf),
    /// See [`Control::release`].
    Release(PathBuf),
}

impl Request {
    /// What a callback declares to ask for it.
    pub fn need(&self) -> Need {
        match self {
            Self::Ask(_) => Need::Generation,
            Self::Freeze(_) | Self::Unfreeze(_) => Need::Freeze,
            Self::LrFactor(..) => Need::LearningRates,
            Self::Accumulation(_) => Need::Accumulation,
            Self::Keep(_) | Self::Release(_) => Need::Checkpoints,
        }
    }

    /// Checks one.
    fn check(&self) -> Result<()> {
        let said = match self {
            Self::Ask(question) => return question.check(),
            Self::Freeze(names) | Self::Unfreeze(names) | Self::LrFactor(names, _)
                if names.is_empty() =>
            {
                "names no parameters: the name is empty".to_owned()
            }
            Self::LrFactor(names, factor) if !(factor.is_finite() && *factor >= 0.0) => {
                format!(
                    "asked for a learning-rate factor of {factor} for {names:?}; it is a finite number of 0 or more"
                )
            }
            Self::Accumulation(steps) if !(1..=1 << 32).contains(steps) => format!(
                "asked for steps of {steps} micro-batches; gradient_accumulation_steps is from 1 to 4294967296"
            ),
            _ => return Ok(()),
        };
        Err(Error::new(said))
    }
}

impl Control {
    /// Asks the model, as it is after this step. [`Callback::on_answers`](crate::Callback::on_answers) of this callback, and of no
    /// other, gets the answers in the same step, all questions that were asked together at once.
    pub fn ask(&mut self, question: Question) {
        self.add(Request::Ask(Box::new(question)));
    }

    /// Trains these parameters no more, from the next step on. A frozen parameter costs no backward pass, and what the optimizer
    /// kept about it is forgotten. Checkpoints hold its value as before, and know that it is frozen.
    ///
    /// `names` is a part of the parameters' names at the borders of their dots, such as `layers.0` or `q_proj.lora_A`, or a
    /// regular expression, as in `--target_modules`, for the whole of a name; or it is the name of a group of
    /// `--optimizer.groups`, which comes first and means the parameters of that group. It has to fit at least one parameter, and at
    /// least one has to be left to train after all requests of the step.
    pub fn freeze(&mut self, names: impl Into<String>) {
        self.add(Request::Freeze(names.into()));
    }

    /// Trains these parameters again, from the next step on; `names` as in [`freeze`](Self::freeze). The optimizer starts with
    /// them as it did in the first step, its count of steps included.
    pub fn unfreeze(&mut self, names: impl Into<String>) {
        self.add(Request::Unfreeze(names.into()));
    }

    /// Multiplies the learning rate of these parameters, from the next step on, in place of an earlier factor of them; 1 takes it
    /// back. `names` as in [`freeze`](Self::freeze). It comes on top of [`lr_factor`](Self::lr_factor), which is for all.
    pub fn set_lr_factor(&mut self, names: impl Into<String>, factor: f64) {
        self.add(Request::LrFactor(names.into(), factor));
    }

    /// Lets a step take so many micro-batches on each rank, from the next step on; asked for in
    /// [`on_step_begin`](crate::Callback::on_step_begin) or later in a step, it holds from the one after that. The last step of an
    /// epoch is short where it was before: it takes what is left.
    ///
    /// A run whose length is epochs passes over the same data in more or fewer steps, and `max_steps` of its state follows. Its
    /// learning rate goes by the data as it was planned: where half of it is trained the schedule is at its half. A run whose
    /// length is `max_steps` makes as many steps over more or less data, and its schedule goes by them. Intervals in steps
    /// count the steps that are made. A checkpoint has the changes, so that a run that goes on is where it was in the data.
    pub fn set_gradient_accumulation_steps(&mut self, steps: u64) {
        self.add(Request::Accumulation(steps));
    }

    /// Keeps this checkpoint of the run, which [`Callback::on_save`](crate::Callback::on_save) was given, whatever
    /// `save_total_limit` says. It does not count there.
    pub fn keep(&mut self, checkpoint: &Path) {
        self.add(Request::Keep(checkpoint.to_owned()));
    }

    /// Takes back [`keep`](Self::keep): `save_total_limit` may delete the checkpoint again.
    pub fn release(&mut self, checkpoint: &Path) {
        self.add(Request::Release(checkpoint.to_owned()));
    }

    fn add(&mut self, request: Request) {
        needs::note(request.need());
        self.requests.push(request);
    }

    /// Reads what came from another process or library.
    ///
    /// # Errors
    /// A request that this version does not know; the error names it.
    #[doc(hidden)]
    pub fn read(sent: Value) -> Result<Self> {
        let unknown = |said: &str| {
            Error::new(format!(
                "asks for what this host does not know: {said}; it was made for a newer version"
            ))
        };
        let known = serde_json::to_value(Self {
            requests: vec![Request::Freeze(String::new())],
            ..Self::default()
        })?;
        let known = |key: &String| known.get(key).is_some();
        let keys = sent.as_object().into_iter().flat_map(Map::keys);
        if let Some(key) = keys.into_iter().find(|key| !known(key)) {
            return Err(unknown(&format!("`{key}`")));
        }
        serde_json::from_value(sent).map_err(|error| unknown(&error.to_string()))
    }

    /// Checks what was asked for.
    ///
    /// # Errors
    /// A learning-rate factor that is negative or not a number, a request that makes no sense; a metric as in
    /// [`check_metric`](Self::check_metric).
    pub fn check(&self) -> Result<()> {
        if let Some(factor) = self.lr_factor
            && !(factor.is_finite() && factor >= 0.0)
        {
            return Err(Error::new(format!(
                "asked for a learning-rate factor of {factor}; it is a finite number of 0 or more"
            )));
        }
        self.requests.iter().try_for_each(Request::check)?;
        let questions = || {
            self.requests.iter().filter_map(|request| match request {
                Request::Ask(question) => Some(question.id()),
                _ => None,
            })
        };
        for (at, id) in questions().enumerate() {
            if questions().take(at).any(|other| other == id) {
                return Err(Error::new(format!(
                    "asks two questions by the id {id:?}; give each its own"
                )));
            }
        }
        let mut metrics = self.metrics.iter();
        metrics.try_for_each(|(name, value)| Self::check_metric(name, value))
    }

    /// Checks a number for the log.
    ///
    /// # Errors
    /// A name that is the run's own, or no finite number.
    pub fn check_metric(name: &str, value: &Value) -> Result<()> {
        if OWN.contains(&name) {
            return Err(Error::new(format!(
                "reports {name:?}, which is the run's own number; give it another name"
            )));
        }
        if !value.as_f64().is_some_and(f64::is_finite) {
            return Err(Error::new(format!(
                "reports {value} as {name:?}; a metric is a finite number (NaN and infinity turn into null)"
            )));
        }
        Ok(())
    }
}

/// Numbers that the run itself reports.
const OWN: [&str; 28] = [
    "loss",
    "aux_loss",
    "grad_norm",
    "learning_rate",
    "token_acc",
    "epoch",
    "global_step",
    "global_step/max_steps",
    "elapsed_time",
    "remaining_time",
    "memory(GiB)",
    "train_speed(s/it)",
    "tokens_per_second",
    "tokens_per_second_per_rank",
    "collectives(s/it)",
    "eval_loss",
    "eval_aux_loss",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_steps_per_second",
    "train_loss",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_tokens",
    "last_model_checkpoint",
    "best_model_checkpoint",
    "best_metric",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_that_is_not_known_is_an_error() {
        let mut control = Control::default();
        control.freeze("layers.0");
        control.ask(Question::new("a").user("Hello?"));
        control.set_lr_factor("lora_B", 2.0);
        let sent = serde_json::to_value(&control).unwrap();
        assert_eq!(Control::read(sent).unwrap(), control);
        // Of a plugin with SDK 1.0.
        let old = json!({"should_save": true, "generate": ["Who?"]});
        assert!(Control::read(old).unwrap().should_save);
        for (sent, name) in [
            (json!({"should_pause": true}), "`should_pause`"),
            (
                json!({"requests": [{"teleport": "layers.0"}]}),
                "`teleport`",
            ),
            (
                json!({"requests": [{"ask": {"id": "a", "conversation": {"messages": []}, "mood": 1}}]}),
                "`mood`",
            ),
        ] {
            let error = Control::read(sent).unwrap_err().to_string();
            assert!(
                error.starts_with("asks for what this host does not know") && error.contains(name),
                "{error}"
            );
        }
    }

    #[test]
    fn requests_are_checked() {
        let question = || Question::new("a").user("Hello?");
        type Act = fn(&mut Control);
        let cases: [(Act, &str); 8] = [
            (
                |control| control.set_gradient_accumulation_steps(0),
                "0 micro-batches",
            ),
            (|control| control.freeze(""), "the name is empty"),
            (
                |control| control.set_lr_factor("a", -1.0),
                "of -1 for \"a\"",
            ),
            (
                |control| control.ask(Question::new("").user("?")),
                "an empty id",
            ),
            (|control| control.ask(Question::new("a")), "no message"),
            (
                |control| control.ask(Question::new("a").user("?").answers(0)),
                "0 answers",
            ),
            (
                |control| control.ask(Question::new("a").user("?").temperature(-1.0)),
                "temperature",
            ),
            (
                |control| control.ask(Question::new("a").user("?").max_new_tokens(0)),
                "max_new_tokens",
            ),
        ];
        for (act, says) in cases {
            let mut control = Control::default();
            act(&mut control);
            let error = control.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let mut control = Control::default();
        control.ask(question());
        control.check().unwrap();
        control.ask(question());
        let error = control.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "asks two questions by the id \"a\"; give each its own"
        );
    }
}
