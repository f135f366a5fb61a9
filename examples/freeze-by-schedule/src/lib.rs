//! Freezes parameters and trains them again after so many steps, such as the lower layers until the upper ones have settled.

use apus_sdk::{Callback, Control, Need, Result, RunState};
use serde::{Deserialize, Serialize};

apus_sdk::export_plugin!();

/// What changes after so many steps; 0 is before the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Change {
    step: u64,
    /// Parameters that are not trained from there on, by names as in `layers.0` or patterns.
    freeze: Vec<String>,
    /// Parameters that are trained from there on.
    unfreeze: Vec<String>,
}

apus_sdk::options! {
    struct FreezeBySchedule {
        /// What is frozen and trained again, each with `step`, `freeze` and `unfreeze`.
        changes: Vec<Change> = Vec::new(),
    }
}

apus_sdk::register! {
    /// Freezes parameters and trains them again after so many steps.
    Callback, "freeze_by_schedule", FreezeBySchedule
}

impl FreezeBySchedule {
    fn ask(&self, step: u64, control: &mut Control) {
        for change in self.changes.iter().filter(|change| change.step == step) {
            change
                .unfreeze
                .iter()
                .for_each(|names| control.unfreeze(names));
            change.freeze.iter().for_each(|names| control.freeze(names));
        }
    }
}

impl Callback for FreezeBySchedule {
    fn needs() -> &'static [Need] {
        &[Need::Freeze]
    }

    /// A run that goes on knows from its checkpoint what was frozen before.
    fn on_train_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        if state.global_step == 0 {
            self.ask(0, control);
        }
        Ok(())
    }

    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        self.ask(state.global_step, control);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::Request;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Run, make};

    #[test]
    fn each_change_is_asked_for_once_in_its_step() {
        let changes = json!({"changes": [
            {"freeze": ["layers.0", "layers.1"]},
            {"step": 2, "unfreeze": ["layers.0"], "freeze": ["lora_A"]},
        ]});
        let mut callback = make::<dyn Callback>("freeze_by_schedule", changes).unwrap();
        let played = Run::new(3).play(&mut *callback).unwrap();
        let text = |names: &str| names.to_owned();
        assert_eq!(
            played.requests,
            [
                (0, Request::Freeze(text("layers.0"))),
                (0, Request::Freeze(text("layers.1"))),
                (2, Request::Unfreeze(text("layers.0"))),
                (2, Request::Freeze(text("lora_A"))),
            ]
        );
    }
}
