//! The configuration of a measurement.

use super::flag::Command;
use super::{BenchConfig, Lengths, SftConfig};
use anyhow::{Result, ensure};

impl super::Config for BenchConfig {
    const COMMAND: Command = Command::Bench;
}

impl BenchConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// A value that nothing can be measured with; the error says what is expected.
    pub fn check(&self) -> Result<()> {
        ensure!(self.batch > 0, "batch is 0, expected 1 sequence or more");
        ensure!(
            self.steps > 2,
            "steps is {}, expected 3 or more: the first two are reported apart",
            self.steps
        );
        ensure!(
            self.trained_share > 0.0 && self.trained_share <= 1.0,
            "trained_share is {}, expected a share above 0 and up to 1",
            self.trained_share
        );
        Lengths::parse(&self.seq).map(drop)
    }

    /// The run that is measured, as `apus sft` would be told of it: one micro-batch a step.
    pub fn sft(&self) -> SftConfig {
        SftConfig {
            model: self.model.clone(),
            experts_dtype: self.experts_dtype,
            device: self.device.clone(),
            plugins: self.plugins.clone(),
            train_type: self.train_type,
            lora_rank: self.lora_rank,
            lora_alpha: self.lora_alpha,
            target_modules: self.target_modules.clone(),
            target_parameters: self.target_parameters.clone(),
            per_device_train_batch_size: self.batch,
            gradient_accumulation_steps: Some(1),
            gradient_checkpointing: self.gradient_checkpointing,
            gradient_checkpointing_skip_layers: self.gradient_checkpointing_skip_layers,
            loss_type: self.loss_type.clone(),
            seed: self.seed,
            learning_rate: self.learning_rate,
            optimizer: self.optimizer.clone(),
            max_grad_norm: self.max_grad_norm,
            ..SftConfig::default()
        }
    }
}
