//! The configuration of a fine-tuning run.

use super::StepsOrShare;
use super::flag::Command;
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Flags of `apus sft`; each field is the flag of its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SftConfig {
    pub model: String,
    pub use_hf: Option<bool>,
    pub adapters: Vec<String>,
    pub tokenizer: Option<String>,
    pub torch_dtype: Option<String>,
    pub experts_dtype: String,
    pub offload_embedding: String,
    pub device: String,
    pub plugins: Vec<PluginSpec>,
    pub dataset: Vec<String>,
    pub val_dataset: Vec<String>,
    pub interleave_prob: Vec<f64>,
    pub stopping_strategy: String,
    pub columns: Value,
    pub disable_auto_column_mapping: bool,
    pub streaming: bool,
    pub shuffle_buffer_size: usize,
    pub split_dataset_ratio: f64,
    pub dataset_format: Option<Spec>,
    pub dataset_shuffle: bool,
    pub train_dataloader_shuffle: bool,
    pub dataloader_drop_last: bool,
    pub data_seed: u64,
    pub strict: bool,
    pub keep_empty_answers: bool,
    pub load_from_cache_file: bool,
    pub max_length: Option<usize>,
    pub truncation_strategy: String,
    pub packing: bool,
    pub group_by_length: bool,
    pub loss_scale: Vec<Spec>,
    pub enable_channel_loss: bool,
    pub system: Option<String>,
    pub reasoning_effort: Option<String>,
    pub model_identity: Option<String>,
    pub current_date: Option<String>,
    pub template_backend: String,
    pub think_to_analysis: bool,
    pub keep_thinking: bool,
    pub train_header: String,
    pub train_stop: String,
    pub train_type: String,
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub target_modules: Vec<String>,
    pub target_regex: Option<String>,
    pub target_parameters: Vec<String>,
    pub modules_to_save: Vec<String>,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub lorap_lr_ratio: Option<f64>,
    pub init_weights: String,
    pub num_train_epochs: f64,
    pub max_steps: i64,
    pub per_device_train_batch_size: usize,
    pub per_device_eval_batch_size: usize,
    pub gradient_accumulation_steps: Option<usize>,
    pub gradient_checkpointing: bool,
    pub gradient_checkpointing_skip_layers: String,
    pub loss_type: Spec,
    pub router_aux_loss_coef: f64,
    pub neftune_noise_alpha: Option<f64>,
    pub seed: u64,
    pub deterministic: bool,
    pub callbacks: Vec<Spec>,
    pub early_stop_interval: Option<u64>,
    pub resume_from_checkpoint: Option<String>,
    pub resume_only_model: bool,
    pub ignore_data_skip: Option<bool>,
    pub resume_changes: Vec<String>,
    pub dry_run: bool,
    pub learning_rate: Option<f64>,
    pub optim: String,
    pub optimizer: Option<Spec>,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub max_grad_norm: f64,
    pub lr_scheduler_type: String,
    pub lr_scheduler_kwargs: Map<String, Value>,
    pub lr_scheduler: Option<Spec>,
    pub warmup_ratio: f64,
    pub warmup_steps: Option<StepsOrShare>,
    pub eval_strategy: Option<String>,
    pub eval_steps: Option<StepsOrShare>,
    pub metrics: Vec<Spec>,
    pub save_strategy: String,
    pub save_steps: StepsOrShare,
    pub save_total_limit: Option<usize>,
    pub save_only_model: bool,
    pub metric_for_best_model: String,
    pub greater_is_better: Option<bool>,
    pub load_best_model_at_end: bool,
    pub logging_steps: StepsOrShare,
    pub logging_first_step: bool,
    pub report_to: Vec<String>,
    pub trackers: Vec<Spec>,
    pub tracker_timeout: f64,
    pub run_name: Option<String>,
    pub plot: bool,
    pub tui: bool,
    pub swanlab_token: Option<String>,
    pub swanlab_project: Option<String>,
    pub swanlab_workspace: Option<String>,
    pub swanlab_exp_name: Option<String>,
    pub swanlab_mode: Option<String>,
    pub swanlab_notification_method: Option<String>,
    pub swanlab_webhook_url: Option<String>,
    pub swanlab_secret: Option<String>,
    pub swanlab_sender_email: Option<String>,
    pub swanlab_receiver_email: Option<String>,
    pub swanlab_smtp_server: Option<String>,
    pub swanlab_smtp_port: Option<u16>,
    pub swanlab_email_language: Option<String>,
    pub sample_prompts: Vec<String>,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub output_dir: String,
    pub add_version: bool,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            use_hf: None,
            adapters: Vec::new(),
            tokenizer: None,
            torch_dtype: None,
            experts_dtype: "mxfp4".to_owned(),
            offload_embedding: "auto".to_owned(),
            device: "auto".to_owned(),
            plugins: Vec::new(),
            dataset: Vec::new(),
            val_dataset: Vec::new(),
            interleave_prob: Vec::new(),
            stopping_strategy: "first_exhausted".to_owned(),
            columns: Value::Null,
            disable_auto_column_mapping: false,
            streaming: false,
            shuffle_buffer_size: 1000,
            split_dataset_ratio: 0.0,
            dataset_format: None,
            dataset_shuffle: true,
            train_dataloader_shuffle: true,
            dataloader_drop_last: false,
            data_seed: 42,
            strict: false,
            keep_empty_answers: false,
            load_from_cache_file: false,
            max_length: None,
            truncation_strategy: "delete".to_owned(),
            packing: false,
            group_by_length: false,
            loss_scale: vec![Spec::named("default")],
            enable_channel_loss: false,
            system: None,
            reasoning_effort: None,
            model_identity: None,
            current_date: None,
            template_backend: "auto".to_owned(),
            think_to_analysis: true,
            keep_thinking: false,
            train_header: "channel".to_owned(),
            train_stop: "return".to_owned(),
            train_type: "lora".to_owned(),
            lora_rank: 8,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: vec!["all-linear".to_owned()],
            target_regex: None,
            target_parameters: Vec::new(),
            modules_to_save: Vec::new(),
            use_rslora: false,
            use_dora: false,
            lorap_lr_ratio: None,
            init_weights: "true".to_owned(),
            num_train_epochs: 3.0,
            max_steps: -1,
            per_device_train_batch_size: 1,
            per_device_eval_batch_size: 1,
            gradient_accumulation_steps: None,
            gradient_checkpointing: true,
            gradient_checkpointing_skip_layers: "0".to_owned(),
            loss_type: Spec::named("cross_entropy"),
            router_aux_loss_coef: 0.0,
            neftune_noise_alpha: None,
            seed: 42,
            deterministic: false,
            callbacks: Vec::new(),
            early_stop_interval: None,
            resume_from_checkpoint: None,
            resume_only_model: false,
            ignore_data_skip: None,
            resume_changes: Vec::new(),
            dry_run: false,
            learning_rate: None,
            optim: "adamw_torch".to_owned(),
            optimizer: None,
            weight_decay: 0.1,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            lr_scheduler_type: "cosine".to_owned(),
            lr_scheduler_kwargs: Map::new(),
            lr_scheduler: None,
            warmup_ratio: 0.0,
            warmup_steps: None,
            eval_strategy: None,
            eval_steps: None,
            metrics: vec![Spec::named("token_acc")],
            save_strategy: "steps".to_owned(),
            save_steps: StepsOrShare::Steps(500),
            save_total_limit: None,
            save_only_model: false,
            metric_for_best_model: "loss".to_owned(),
            greater_is_better: None,
            load_best_model_at_end: false,
            logging_steps: StepsOrShare::Steps(5),
            logging_first_step: true,
            report_to: Vec::new(),
            trackers: Vec::new(),
            tracker_timeout: 30.0,
            run_name: None,
            plot: true,
            tui: false,
            swanlab_token: None,
            swanlab_project: None,
            swanlab_workspace: None,
            swanlab_exp_name: None,
            swanlab_mode: None,
            swanlab_notification_method: None,
            swanlab_webhook_url: None,
            swanlab_secret: None,
            swanlab_sender_email: None,
            swanlab_receiver_email: None,
            swanlab_smtp_server: None,
            swanlab_smtp_port: None,
            swanlab_email_language: None,
            sample_prompts: Vec::new(),
            max_new_tokens: 128,
            temperature: 0.0,
            output_dir: "output".to_owned(),
            add_version: true,
        }
    }
}

impl super::Config for SftConfig {
    const COMMAND: Command = Command::Sft;

    fn resolve_values(&mut self) -> Result<()> {
        super::instructions(&mut self.system)?;
        super::absolute(&mut self.output_dir)
    }
}

impl SftConfig {
    /// When to evaluate: as checkpoints are saved, or by steps where evaluations decide about that.
    pub fn eval_strategy(&self) -> &str {
        match (&self.eval_strategy, self.save_strategy.as_str()) {
            (Some(given), _) => given,
            (None, "best") => "steps",
            (None, saves) => saves,
        }
    }

    /// Steps between evaluations.
    pub fn eval_steps(&self) -> StepsOrShare {
        self.eval_steps.unwrap_or(self.save_steps)
    }

    /// Micro-batches in a step: 16 examples in all unless given, as ms-swift.
    pub fn accumulation(&self) -> usize {
        let size = self.per_device_train_batch_size.max(1);
        self.gradient_accumulation_steps
            .unwrap_or_else(|| 16usize.div_ceil(size).max(1))
    }

    /// How much of the run warms up: `warmup_steps`, below 1 a share as in transformers 5, or `warmup_ratio`.
    pub fn warmup(&self) -> StepsOrShare {
        match self.warmup_steps {
            Some(steps) if !steps.is_zero() => steps,
            _ => StepsOrShare::Share(self.warmup_ratio),
        }
    }

    /// Base learning rate.
    pub fn base_lr(&self) -> f64 {
        let default = if self.train_type == "full" {
            1e-5
        } else {
            1e-4
        };
        self.learning_rate.unwrap_or(default)
    }

    /// Whether more of the metric is better.
    pub fn greater(&self) -> bool {
        let name = &self.metric_for_best_model;
        let of_channel = self.enable_channel_loss
            && name
                .strip_prefix("eval_")
                .unwrap_or(name)
                .starts_with("loss_");
        self.greater_is_better
            .unwrap_or(!of_channel && !name.ends_with("loss") && !name.ends_with("perplexity"))
    }
}
