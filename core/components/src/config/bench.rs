//! The configuration of a measurement.

use super::Lengths;
use super::flag::Command;
use super::sft::SftConfig;
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Flags of `apus bench`; each field is the flag of its name. Those of `apus sft` mean the same here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct BenchConfig {
    pub model: String,
    pub use_hf: Option<bool>,
    pub experts_dtype: String,
    pub device: String,
    pub plugins: Vec<PluginSpec>,
    pub train_type: String,
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub target_modules: Vec<String>,
    pub target_parameters: Vec<String>,
    pub gradient_checkpointing: bool,
    pub gradient_checkpointing_skip_layers: String,
    pub loss_type: Spec,
    pub seed: u64,
    pub learning_rate: Option<f64>,
    pub optimizer: Option<Spec>,
    pub max_grad_norm: f64,
    pub batch: usize,
    pub seq: String,
    pub steps: usize,
    pub trained_share: f64,
    pub ops: bool,
    pub json: Option<String>,
    pub against: Option<String>,
}

impl Default for BenchConfig {
    fn default() -> Self {
        let sft = SftConfig::default();
        Self {
            model: "synthetic:gpt-oss-20b".to_owned(),
            use_hf: None,
            experts_dtype: sft.experts_dtype,
            device: sft.device,
            plugins: sft.plugins,
            train_type: sft.train_type,
            lora_rank: sft.lora_rank,
            lora_alpha: sft.lora_alpha,
            target_modules: sft.target_modules,
            target_parameters: sft.target_parameters,
            gradient_checkpointing: sft.gradient_checkpointing,
            gradient_checkpointing_skip_layers: sft.gradient_checkpointing_skip_layers,
            loss_type: sft.loss_type,
            seed: sft.seed,
            learning_rate: sft.learning_rate,
            optimizer: sft.optimizer,
            max_grad_norm: sft.max_grad_norm,
            batch: 4,
            seq: "4096".to_owned(),
            steps: 12,
            trained_share: 1.0,
            ops: false,
            json: None,
            against: None,
        }
    }
}

impl super::Config for BenchConfig {
    const COMMAND: Command = Command::Bench;
}

impl BenchConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// A value that nothing can be measured with; the error says what is expected.
    pub fn check(&self) -> Result<()> {
        ensure!(
            matches!(self.train_type.as_str(), "lora" | "full"),
            "train_type is {:?}, expected lora or full",
            self.train_type
        );
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
            experts_dtype: self.experts_dtype.clone(),
            device: self.device.clone(),
            plugins: self.plugins.clone(),
            train_type: self.train_type.clone(),
            lora_rank: self.lora_rank,
            lora_alpha: self.lora_alpha,
            target_modules: self.target_modules.clone(),
            target_parameters: self.target_parameters.clone(),
            per_device_train_batch_size: self.batch,
            gradient_accumulation_steps: Some(1),
            gradient_checkpointing: self.gradient_checkpointing,
            gradient_checkpointing_skip_layers: self.gradient_checkpointing_skip_layers.clone(),
            loss_type: self.loss_type.clone(),
            seed: self.seed,
            learning_rate: self.learning_rate,
            optimizer: self.optimizer.clone(),
            max_grad_norm: self.max_grad_norm,
            ..SftConfig::default()
        }
    }
}
