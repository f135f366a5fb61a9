//! Sends training events to callbacks, and gathers what they ask for.

use anyhow::{Context, Result};
use apus_sdk::{Callback, Control, RunState};
use serde_json::{Map, Value};
use std::path::Path;

/// The callbacks of a run, in the order of the configuration.
pub struct Events {
    callbacks: Vec<(String, Box<dyn Callback>)>,
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
            for (name, callback) in &mut self.callbacks {
                callback
                    .$event($($arg,)* state, &mut self.control)
                    .with_context(|| format!("callback {name}, {}", stringify!($event)))?;
            }
            Ok(())
        }
    )*};
}

impl Events {
    /// Callbacks with their names.
    pub fn new(callbacks: Vec<(String, Box<dyn Callback>)>) -> Self {
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
    }

    /// Numbers are about to be logged.
    ///
    /// # Errors
    /// A callback failed; the error names it.
    pub fn on_log(&mut self, values: &mut Map<String, Value>, state: &RunState) -> Result<()> {
        values.append(&mut self.control.metrics);
        for (name, callback) in &mut self.callbacks {
            callback
                .on_log(values, state, &mut self.control)
                .with_context(|| format!("callback {name}, on_log"))?;
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
        let mut events = Events::new(vec![("stops".to_owned(), Box::new(Stops))]);
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
