//! Sends training events to callbacks, and gathers what they ask for and report.
//!
//! After each event it is known which callback asked for what: an error names it, a stop is told with its name, and
//! two callbacks cannot report two numbers under one name. What is done with it has a file each beside this one.

mod kept;
mod numbers;
mod requests;
#[cfg(test)]
mod tests;

pub use kept::OtherWeight;
pub use requests::Asked;

use crate::host::RunView;
use anyhow::{Result, bail};
use apus_base::doing;
use apus_components::registry::Named;
use apus_sdk::{Answer, Callback, Control, Question, RunState};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

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
}
