//! Sends training events to callbacks, and gathers what they ask for and report.
//!
//! After each event it is known which callback asked for what: an error names it, a stop is told with its name, and
//! two callbacks cannot report two numbers under one name.

use super::settings::Due;
use crate::host::RunView;
use anyhow::{Result, bail};
use apus_base::doing;
use apus_base::lines::warning;
use apus_components::registry::Named;
use apus_sdk::{Answer, Callback, Control, Need, Question, Request, RunState, Tensor};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The callbacks of a run, in the order of the configuration.
pub struct Events {
    callbacks: Vec<Named<dyn Callback>>,
    /// What callbacks asked for and was not done yet.
    pub control: Control,
    /// Which callback reports a number of the log, by the name of the number.
    owners: HashMap<String, usize>,
    /// The newest numbers that callbacks reported.
    reported: Map<String, Value>,
    lr_factor: f64,
    stopped: Option<String>,
    /// Questions without an answer yet, each with the number of the callback that asked.
    questions: Vec<(usize, Question)>,
    /// What else was asked for by a list of requests.
    requests: Vec<Asked>,
    /// Whether callbacks were told that training is over.
    ended: bool,
}

/// A request, and who made it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The callback and the event, for messages.
    pub by: String,
    /// The request.
    pub request: Request,
}

/// A weight that a callback gives in place of a trained one.
pub struct OtherWeight {
    /// The callback, for messages.
    pub by: String,
    /// The parameter.
    pub name: String,
    /// The weight.
    pub value: Tensor,
}

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident($($arg:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// A callback failed, or asked for what cannot be; the error names it.
        pub fn $event(&mut self, $($arg: $type,)* state: &RunState) -> Result<()> {
            for index in 0..self.callbacks.len() {
                let before = self.control.metrics.clone();
                let callback = &mut self.callbacks[index];
                let inside = doing::enter(&callback.label, stringify!($event));
                let event = callback.component.$event($($arg,)* state, &mut self.control);
                drop(inside);
                self.record_requests(index, stringify!($event), event, &before)?;
            }
            Ok(())
        }
    )*};
}

impl Events {
    /// The events of a run with these callbacks.
    pub fn new(callbacks: Vec<Named<dyn Callback>>) -> Self {
        Self {
            callbacks,
            control: Control::default(),
            owners: HashMap::new(),
            reported: Map::new(),
            lr_factor: 1.0,
            stopped: None,
            questions: Vec::new(),
            requests: Vec::new(),
            ended: false,
        }
    }

    /// Gives the run to the callbacks.
    ///
    /// # Errors
    /// A callback failed; the error names it.
    pub fn begin(&mut self, view: &RunView) -> Result<()> {
        let mut all = self.callbacks.iter_mut();
        all.try_for_each(|callback| view.begin(callback, |callback, run| callback.begin(run)))
    }

    events! {
        /// The trainer is ready.
        on_init_end();
        /// Training begins.
        on_train_begin();
        /// Training is over.
        on_train_end();
        /// An epoch begins.
        on_epoch_begin();
        /// An epoch is over.
        on_epoch_end();
        /// An optimizer step begins.
        on_step_begin();
        /// A micro-batch that is not the last of its step is over.
        on_substep_end();
        /// Gradients are clipped.
        on_pre_optimizer_step();
        /// The optimizer has run.
        on_optimizer_step();
        /// A step is over.
        on_step_end();
        /// A batch of an evaluation is over.
        on_prediction_step();
        /// An evaluation is over.
        on_evaluate(metrics: &Map<String, Value>);
        /// A checkpoint was saved.
        on_save(checkpoint: &Path);
        /// A prompt was answered.
        on_generate(prompt: &str, answer: &str);
    }

    /// Numbers are about to be logged; those of callbacks join them.
    ///
    /// # Errors
    /// A callback failed, or touched a number that is not its own; the error names it.
    pub fn on_log(&mut self, values: &mut Map<String, Value>, state: &RunState) -> Result<()> {
        for (name, value) in std::mem::take(&mut self.control.metrics) {
            if values.contains_key(&name) {
                let owner = self.owners.get(&name).map(|&index| &self.callbacks[index]);
                let owner = owner.map_or("a callback", |owner| &owner.label);
                bail!(
                    "{owner} reports {name:?}, which this line of the log has already; give it another name"
                );
            }
            values.insert(name, value);
        }
        for index in 0..self.callbacks.len() {
            let (logged, before) = (values.clone(), self.control.metrics.clone());
            let callback = &mut self.callbacks[index];
            let inside = doing::enter(&callback.label, "on_log");
            let event = callback.component.on_log(values, state, &mut self.control);
            drop(inside);
            self.record_requests(index, "on_log", event, &before)?;
            self.record_logged(index, &logged, values)?;
        }
        Ok(())
    }

    /// Training is over, however it came to its end: callbacks are told once.
    ///
    /// # Errors
    /// A callback failed, or asked for what cannot be; the error names it.
    pub fn end_training(&mut self, state: &RunState) -> Result<()> {
        match std::mem::replace(&mut self.ended, true) {
            true => Ok(()),
            false => self.on_train_end(state),
        }
    }

    /// Records what callback `index` asked for in an event.
    fn record_requests(
        &mut self,
        index: usize,
        event: &str,
        result: apus_sdk::Result<()>,
        before: &Map<String, Value>,
    ) -> Result<()> {
        let callback = &self.callbacks[index];
        callback.context(event, result)?;
        if let Err(error) = self.control.check() {
            bail!("{}, {event}: {error}", callback.label);
        }
        let fresh = self.control.metrics.clone().into_iter();
        for (name, value) in fresh.filter(|(name, value)| before.get(name) != Some(value)) {
            self.record_number(index, name, value)?;
        }
        self.take_list(index, event)?;
        if let Some(factor) = self.control.lr_factor {
            self.lr_factor = factor;
        }
        if self.control.should_training_stop && self.stopped.is_none() {
            self.stopped = Some(format!("{}, {event}", self.callbacks[index].label));
        }
        self.control.should_training_stop = self.stopped.is_some();
        Ok(())
    }

    /// Takes what callback `index` asked for in its list of requests.
    fn take_list(&mut self, index: usize, event: &str) -> Result<()> {
        let callback = &self.callbacks[index];
        for request in std::mem::take(&mut self.control.requests) {
            let need = request.need();
            if !callback.declares(need) {
                bail!(
                    "{}, {event}: {}",
                    callback.label,
                    need.undeclared(&callback.needs)
                );
            }
            match request {
                Request::Ask(question) => {
                    let mut own = self.questions.iter().filter(|(asker, _)| *asker == index);
                    if own.any(|(_, other)| other.id() == question.id()) {
                        bail!(
                            "{}, {event}: asks two questions by the id {:?} in one step; give each its own",
                            callback.label,
                            question.id()
                        );
                    }
                    self.questions.push((index, *question));
                }
                request => self.requests.push(Asked {
                    by: format!("{}, {event}", callback.label),
                    request,
                }),
            }
        }
        Ok(())
    }

    /// Records what callback `index` added to the line `logged`, which is `values` now.
    fn record_logged(
        &mut self,
        index: usize,
        logged: &Map<String, Value>,
        values: &Map<String, Value>,
    ) -> Result<()> {
        let label = &self.callbacks[index].label;
        let others = logged
            .iter()
            .filter(|(name, _)| self.owners.get(*name) != Some(&index));
        for (name, value) in others {
            if values.get(name) != Some(value) {
                bail!(
                    "{label}, on_log: changes {name:?}, which is not its own; give the number another name"
                );
            }
        }
        let fresh: Vec<_> = values
            .iter()
            .filter(|(name, value)| logged.get(*name) != Some(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in fresh {
            if let Err(error) = Control::check_metric(&name, &value) {
                bail!("{}, on_log: {error}", self.callbacks[index].label);
            }
            self.record_number(index, name, value)?;
        }
        Ok(())
    }

    /// Records a number of callback `index` under its name.
    fn record_number(&mut self, index: usize, name: String, value: Value) -> Result<()> {
        let owner = *self.owners.entry(name.clone()).or_insert(index);
        if owner != index {
            bail!(
                "{} reports {name:?}, as {} does; give one of them another name",
                self.callbacks[index].label,
                self.callbacks[owner].label
            );
        }
        self.reported.insert(name, value);
        Ok(())
    }

    /// What was asked for since the last time.
    pub(super) fn take_requests(&mut self) -> Due {
        let Control {
            should_log,
            should_evaluate,
            should_save,
            ..
        } = &mut self.control;
        Due {
            log: std::mem::take(should_log),
            evaluate: std::mem::take(should_evaluate),
            save: std::mem::take(should_save),
        }
    }

    /// Whether answers were asked for.
    pub fn has_prompts(&self) -> bool {
        !self.control.generate.is_empty() || !self.questions.is_empty()
    }

    /// Questions that were asked since the last time, each with the number of the callback that asked.
    pub fn take_questions(&mut self) -> Vec<(usize, Question)> {
        std::mem::take(&mut self.questions)
    }

    /// What was asked of the parameters since the last time.
    pub fn take_of_parameters(&mut self) -> Vec<Asked> {
        let of_parameters =
            |asked: &mut Asked| !matches!(asked.request, Request::Keep(_) | Request::Release(_));
        self.requests.extract_if(.., of_parameters).collect()
    }

    /// The checkpoints that are to be kept, or not any more: who asks, which, and whether to keep it.
    pub fn take_kept(&mut self) -> Vec<(String, PathBuf, bool)> {
        let mut kept = Vec::new();
        self.requests.retain(|Asked { by, request }| match request {
            Request::Keep(path) | Request::Release(path) => {
                let keep = matches!(request, Request::Keep(_));
                kept.push((by.clone(), path.clone(), keep));
                false
            }
            _ => true,
        });
        kept
    }

    /// The callback of a number, for messages.
    pub fn label(&self, index: usize) -> &str {
        &self.callbacks[index].label
    }

    /// Gives a callback the answers to its questions.
    ///
    /// # Errors
    /// As those of the events.
    pub fn on_answers(&mut self, index: usize, answers: &[Answer], state: &RunState) -> Result<()> {
        let before = self.control.metrics.clone();
        let callback = &mut self.callbacks[index];
        let inside = doing::enter(&callback.label, "on_answers");
        let event = callback
            .component
            .on_answers(answers, state, &mut self.control);
        drop(inside);
        self.record_requests(index, "on_answers", event, &before)
    }

    /// Prompts that were asked for since the last time.
    pub fn take_prompts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.control.generate)
    }

    /// Which callback asked for the end of the run, and in which event.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// The factor on the learning rate from the next step on.
    pub fn lr_factor(&self) -> f64 {
        self.lr_factor
    }

    /// Restores the factor that was asked for before a checkpoint.
    pub fn resume_lr_factor(&mut self, factor: f64) {
        self.lr_factor = factor;
    }

    /// The newest numbers that callbacks reported.
    pub fn reported(&self) -> &Map<String, Value> {
        &self.reported
    }

    /// The weights that are evaluated, answer and are saved in place of those that are trained.
    ///
    /// # Errors
    /// A callback failed, or does not declare that it gives some; the error names it.
    pub fn evaluated_weights(&self) -> Result<Vec<OtherWeight>> {
        const CALL: &str = "evaluated_weights";
        let mut all = Vec::new();
        for callback in &self.callbacks {
            let inside = doing::enter(&callback.label, CALL);
            let weights = callback.component.evaluated_weights();
            drop(inside);
            let weights = callback.context(CALL, weights)?;
            if !weights.is_empty() && !callback.declares(Need::Hooks) {
                let error = Need::Hooks.undeclared(&callback.needs);
                bail!("{}, {CALL}: {error}", callback.label);
            }
            all.extend(weights.into_iter().map(|(name, value)| OtherWeight {
                by: format!("{}, {CALL}", callback.label),
                name,
                value,
            }));
        }
        Ok(all)
    }

    /// What callbacks keep, by name.
    ///
    /// # Errors
    /// A callback failed; the error names it.
    pub fn save_state(&self) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        for callback in &self.callbacks {
            let kept = callback.context("save_state", callback.component.save_state())?;
            if !kept.is_null() {
                all.insert(callback.name.clone(), kept);
            }
        }
        Ok(all)
    }

    /// Restores what callbacks kept.
    ///
    /// # Errors
    /// A callback does not know its state; the error names it.
    pub fn load_state(&mut self, mut saved: Map<String, Value>) -> Result<()> {
        for callback in &mut self.callbacks {
            if let Some(kept) = saved.remove(&callback.name) {
                let loaded = callback.component.load_state(kept);
                callback.context("load_state", loaded)?;
            }
        }
        for name in saved.keys() {
            warning!(
                "resume: the checkpoint holds what the callback {name} kept, and this run has no callback of that name: \
                 it is left out"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Does what a function says in `on_step_end`, and another one in `on_log`.
    #[derive(Default)]
    struct Does(
        Option<fn(&mut Control)>,
        Option<fn(&mut Map<String, Value>)>,
    );
    impl Callback for Does {
        fn on_step_end(&mut self, _: &RunState, control: &mut Control) -> apus_sdk::Result<()> {
            self.0.into_iter().for_each(|act| act(control));
            Ok(())
        }
        fn on_log(
            &mut self,
            values: &mut Map<String, Value>,
            _: &RunState,
            _: &mut Control,
        ) -> apus_sdk::Result<()> {
            self.1.into_iter().for_each(|act| act(values));
            Ok(())
        }
        fn on_save(&mut self, _: &Path, _: &RunState, _: &mut Control) -> apus_sdk::Result<()> {
            Err("disk on fire".into())
        }
    }

    fn events(callbacks: [Does; 2]) -> Events {
        let labels = ["callback one", "callback two"];
        let named = labels
            .into_iter()
            .zip(callbacks)
            .map(|(label, callback)| Named::<dyn Callback>::new(label, Box::new(callback)));
        Events::new(named.collect())
    }

    fn on_step(act: fn(&mut Control)) -> Does {
        Does(Some(act), None)
    }

    fn line(events: &mut Events, values: Value) -> Result<Map<String, Value>> {
        let Value::Object(mut values) = values else {
            unreachable!()
        };
        events.on_log(&mut values, &RunState::default())?;
        Ok(values)
    }

    #[test]
    fn requests_reach_the_trainer() {
        let mut events = events([
            on_step(|control| {
                control.should_training_stop = true;
                control.lr_factor = Some(0.5);
                control.metrics.insert("mine".to_owned(), 2.into());
            }),
            // Another one does not take back what the first asked for.
            on_step(|control| {
                control.should_save = true;
                control.should_training_stop = false;
                control.lr_factor = None;
            }),
        ]);
        events.on_step_end(&RunState::default()).unwrap();
        assert_eq!(events.stopped(), Some("callback one, on_step_end"));
        assert!(events.control.should_training_stop);
        assert_eq!(events.lr_factor(), 0.5);
        let asked = events.take_requests();
        assert!(asked.save && !asked.log && !asked.evaluate);
        assert!(!events.take_requests().save);
        assert_eq!(events.reported()["mine"], 2);
        let logged = line(&mut events, json!({"loss": 1.0})).unwrap();
        assert_eq!(Value::Object(logged), json!({"loss": 1.0, "mine": 2}));
        assert!(events.control.metrics.is_empty());
    }

    #[test]
    fn errors_name_their_callback() {
        let mut events = events(Default::default());
        let error = events.on_save(Path::new("c"), &RunState::default());
        let error = format!("{:#}", error.unwrap_err());
        assert_eq!(error, "callback one, on_save: disk on fire");
    }

    #[test]
    fn a_metric_is_a_finite_number_under_a_name_of_its_own() {
        for (act, says) in [
            (
                (|control| drop(control.metrics.insert("loss".to_owned(), 0.into())))
                    as fn(&mut Control),
                "callback two, on_step_end: reports \"loss\", which is the run's own number",
            ),
            (
                |control| drop(control.metrics.insert("x".to_owned(), json!(f64::NAN))),
                "callback two, on_step_end: reports null as \"x\"",
            ),
            (
                |control| drop(control.metrics.insert("x".to_owned(), "7".into())),
                "callback two, on_step_end: reports \"7\" as \"x\"",
            ),
            (
                |control| drop(control.metrics.insert("mine".to_owned(), 8.into())),
                "callback two reports \"mine\", as callback one does",
            ),
        ] {
            let first = |control: &mut Control| {
                control.metrics.insert("mine".to_owned(), 7.into());
            };
            let mut events = events([on_step(first), on_step(act)]);
            let error = events.on_step_end(&RunState::default()).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.starts_with(says), "{error}");
        }
        // What only shows when it is logged.
        for (act, says) in [
            (
                (|values| drop(values.insert("loss".to_owned(), 0.into())))
                    as fn(&mut Map<String, Value>),
                "callback two, on_log: changes \"loss\"",
            ),
            (
                |values| drop(values.shift_remove("loss")),
                "callback two, on_log: changes \"loss\"",
            ),
            (
                |values| drop(values.insert("x".to_owned(), Value::Null)),
                "callback two, on_log: reports null as \"x\"",
            ),
        ] {
            let mut events = events([Does::default(), Does(None, Some(act))]);
            let error = line(&mut events, json!({"loss": 1.0})).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.starts_with(says), "{error}");
        }
        let of_a_metric = |control: &mut Control| {
            control.metrics.insert("eval_f1".to_owned(), 1.into());
        };
        let mut events = events([on_step(of_a_metric), Does::default()]);
        events.on_step_end(&RunState::default()).unwrap();
        let error = line(&mut events, json!({"eval_f1": 0.5})).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with("callback one reports \"eval_f1\", which this line"),
            "{error}"
        );
    }
}
