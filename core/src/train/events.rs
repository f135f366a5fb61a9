//! Sends training events to callbacks, and gathers what they ask for.

use crate::registry::Named;
use anyhow::Result;
use apus_sdk::{Callback, Control, RunState};
use serde_json::{Map, Value};
use std::path::Path;

/// The callbacks of a run, in the order of the configuration.
pub struct Events {
    callbacks: Vec<Named<dyn Callback>>,
    /// What they have asked for and was not done yet.
    pub control: Control,
}

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident($($arg:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// A callback failed; the error names it.
        pub fn $event(&mut self, $($arg: $type,)* state: &RunState) -> Result<()> {
            for callback in &mut self.callbacks {
                let event = callback
                    .component
                    .$event($($arg,)* state, &mut self.control)
                    .and_then(|()| self.control.check());
                callback.said(stringify!($event), event)?;
            }
            Ok(())
        }
    )*};
}

impl Events {
    /// These callbacks.
    pub fn new(callbacks: Vec<Named<dyn Callback>>) -> Self {
        Self {
            callbacks,
            control: Control::default(),
        }
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

    /// Numbers are about to be logged.
    ///
    /// # Errors
    /// A callback failed; the error names it.
    pub fn on_log(&mut self, values: &mut Map<String, Value>, state: &RunState) -> Result<()> {
        values.append(&mut self.control.metrics);
        for callback in &mut self.callbacks {
            let event = callback
                .component
                .on_log(values, state, &mut self.control)
                .and_then(|()| self.control.check());
            callback.said("on_log", event)?;
        }
        Ok(())
    }

    /// What callbacks keep, by name.
    ///
    /// # Errors
    /// A callback failed; the error names it.
    pub fn save_state(&self) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        for callback in &self.callbacks {
            let kept = callback.said("save_state", callback.component.save_state())?;
            if !kept.is_null() {
                all.insert(callback.name.clone(), kept);
            }
        }
        Ok(all)
    }

    /// Gives back what callbacks kept.
    ///
    /// # Errors
    /// A callback does not know its state; the error names it.
    pub fn load_state(&mut self, mut saved: Map<String, Value>) -> Result<()> {
        for callback in &mut self.callbacks {
            if let Some(kept) = saved.remove(&callback.name) {
                let loaded = callback.component.load_state(kept);
                callback.said("load_state", loaded)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stops;
    impl Callback for Stops {
        fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> apus_sdk::Result<()> {
            control.should_training_stop = state.global_step >= 2;
            control
                .metrics
                .insert("mine".to_owned(), state.global_step.into());
            Ok(())
        }
        fn on_save(&mut self, _: &Path, _: &RunState, _: &mut Control) -> apus_sdk::Result<()> {
            Err("disk on fire".into())
        }
    }

    #[test]
    fn requests_and_errors_reach_the_trainer() {
        let mut events = Events::new(vec![Named::new("callback stops", Box::new(Stops))]);
        let state = RunState {
            global_step: 2,
            ..Default::default()
        };
        events.on_step_end(&state).unwrap();
        assert!(events.control.should_training_stop);
        let mut values = Map::new();
        events.on_log(&mut values, &state).unwrap();
        assert_eq!(values["mine"], 2);
        let error = format!("{:#}", events.on_save(Path::new("c"), &state).unwrap_err());
        assert_eq!(error, "callback stops, on_save: disk on fire");
    }
}
