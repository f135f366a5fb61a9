//! A callback that asks, in an event that its options name, for what they say.

apus_sdk::export_plugin!();

mod aside;
mod checks;
mod columns;
mod counts;
mod faults;
mod optioned;
mod order;
mod pair;
mod piece;
mod requests;
mod run;
mod tickets;
mod tuner;
mod weighted;

use apus_sdk::serde_json::{Map, Value, json};
use apus_sdk::{Callback, Control, Result, RunState};
use std::path::Path;

apus_sdk::options! {
    struct Asks {
        /// The event.
        event: String = String::new(),
        /// It asks from this step on.
        step: u64 = 0,
        /// For the end of the run.
        stop: bool = false,
        /// For a checkpoint.
        save: bool = false,
        /// For an evaluation.
        evaluate: bool = false,
        /// For a log line.
        log: bool = false,
        /// To end with an error.
        fail: bool = false,
        /// For an answer, at the first time.
        prompt: Option<String> = None,
        /// For this factor on the learning rate.
        lr_factor: Option<f64> = None,
        /// Reports these numbers, with / after each, as `score`: one each time, the last one again and again.
        scores: String = String::new(),
        /// Reports its rank and the number of ranks, as `rank` and `world_size`.
        ranks: bool = false,
    }
    flags {
        step: "ask_from_step",
        scores: "ask_scores",
    }
    state {
        times: usize,
    }
}

apus_sdk::register! {
    /// Asks for what it is told to.
    Callback, "asks", Asks
}

impl Asks {
    fn heard(&mut self, event: &str, state: &RunState, control: &mut Control) -> Result<()> {
        if event == "on_step_end" && self.event == "on_generate" && state.global_step == self.step {
            control.generate.push("Hello?".to_owned());
        }
        if event != self.event || state.global_step < self.step {
            return Ok(());
        }
        if self.fail {
            return Err("told to fail".into());
        }
        control.should_training_stop |= self.stop;
        control.should_save |= self.save;
        control.should_evaluate |= self.evaluate;
        control.should_log |= self.log;
        control.lr_factor = self.lr_factor.or(control.lr_factor);
        if let (0, Some(prompt)) = (self.times, &self.prompt) {
            control.generate.push(prompt.clone());
        }
        let scores: Vec<f64> = self
            .scores
            .split('/')
            .filter_map(|score| score.parse().ok())
            .collect();
        if let Some(score) = scores.get(self.times).or(scores.last()) {
            control.metrics.insert("score".to_owned(), json!(score));
        }
        if self.ranks {
            control.metrics.insert("rank".to_owned(), json!(state.rank));
            let count = json!(state.world_size);
            control.metrics.insert("world_size".to_owned(), count);
        }
        self.times += 1;
        Ok(())
    }
}

macro_rules! events {
    ($($event:ident($($arg:ident: $type:ty),*);)*) => {
        impl Callback for Asks {
            $(fn $event(&mut self, $($arg: $type,)* state: &RunState, control: &mut Control) -> Result<()> {
                self.heard(stringify!($event), state, control)
            })*
        }
    };
}
events! {
    on_init_end();
    on_train_begin();
    on_train_end();
    on_epoch_begin();
    on_epoch_end();
    on_step_begin();
    on_substep_end();
    on_pre_optimizer_step();
    on_optimizer_step();
    on_step_end();
    on_prediction_step();
    on_evaluate(_metrics: &Map<String, Value>);
    on_save(_checkpoint: &Path);
    on_log(_values: &mut Map<String, Value>);
    on_generate(_prompt: &str, _answer: &str);
}
