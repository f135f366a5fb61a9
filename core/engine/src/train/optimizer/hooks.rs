//! Weights that are evaluated and saved in place of those that are trained (averaged ones, those of schedule-free methods):
//! an optimizer sets them before and takes them back after.

use super::OptimizerHost;
use super::update::on_params;
use anyhow::Result;
use apus_sdk::Need;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// What an optimizer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// An evaluation or answers come.
    BeforeEvaluation,
    /// They are over.
    AfterEvaluation,
    /// A checkpoint is written.
    BeforeSaving,
    /// It is written, or was read.
    AfterSaving,
}

impl Hook {
    /// Its function.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeEvaluation => "before_evaluation",
            Self::AfterEvaluation => "after_evaluation",
            Self::BeforeSaving => "before_saving",
            Self::AfterSaving => "after_saving",
        }
    }
}

impl OptimizerHost {
    /// Whether there is anything to tell: the optimizer declares it, and has made a step.
    pub fn has_hooks(&self) -> bool {
        self.step > 0 && self.declares(Need::Hooks)
    }

    /// Tells the optimizer. As a step it is made on all ranks or on none, and a plugin's is taken back if it fails.
    ///
    /// # Errors
    /// The component failed, or left a value that is not finite.
    pub fn hook(&mut self, hook: Hook, agree: impl FnOnce(Result<()>) -> Result<()>) -> Result<()> {
        if !self.has_hooks() {
            return Ok(());
        }
        self.all_or_nothing(|host| host.call_hook(hook), agree)?;
        self.away = matches!(hook, Hook::BeforeEvaluation | Hook::BeforeSaving);
        Ok(())
    }

    fn call_hook(&mut self, hook: Hook) -> Result<()> {
        let rank = self.rank;
        for (at, optimizer) in self.optimizers.iter_mut().enumerate() {
            let own = self.slots.iter_mut();
            let own = own.filter(|slot| slot.moves(rank) && slot.optimizer == at);
            on_params(
                own,
                optimizer,
                hook.name(),
                0.0,
                no_gradient,
                |it, params| match hook {
                    Hook::BeforeEvaluation => it.before_evaluation(params),
                    Hook::AfterEvaluation => it.after_evaluation(params),
                    Hook::BeforeSaving => it.before_saving(params),
                    Hook::AfterSaving => it.after_saving(params),
                },
            )?;
        }
        Ok(())
    }
}

/// Zeros in the shape of a value that take no memory.
fn no_gradient(_: Option<Tensor>, value: &Tensor) -> Result<Tensor> {
    let zero = Tensor::zeros((), value.dtype(), value.device())?;
    Ok(zero.broadcast_as(value.shape())?)
}
