//! The configuration of a fine-tuning run.

use super::component::Spec;
use super::flag::Command;
use super::shorthand::SHORTHANDS;
use crate::plugin::PluginSpec;
use crate::train::Warmup;
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

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
    pub warmup_steps: Option<f64>,
    pub eval_strategy: Option<String>,
    pub eval_steps: Option<u64>,
    pub metrics: Vec<Spec>,
    pub save_strategy: String,
    pub save_steps: u64,
    pub save_total_limit: Option<usize>,
    pub save_only_model: bool,
    pub metric_for_best_model: String,
    pub greater_is_better: Option<bool>,
    pub load_best_model_at_end: bool,
    pub logging_steps: u64,
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
            save_steps: 500,
            save_total_limit: None,
            save_only_model: false,
            metric_for_best_model: "loss".to_owned(),
            greater_is_better: None,
            load_best_model_at_end: false,
            logging_steps: 5,
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

    fn settle(&mut self) -> Result<()> {
        super::instructions(&mut self.system)?;
        super::absolute(&mut self.output_dir)
    }
}

impl SftConfig {
    /// Checks that the values fit together; `given` says which flags were written.
    ///
    /// # Errors
    /// Values that contradict each other; the error names both.
    pub fn check(&self, given: &dyn Fn(&str) -> bool) -> Result<()> {
        ensure!(
            !self.model.is_empty(),
            "--model is missing: a model directory, an id such as openai/gpt-oss-20b, or synthetic:gpt-oss-20b"
        );
        ensure!(
            !self.dataset.is_empty(),
            "--dataset is missing: a file, folder or pattern, or an id (owner/name)"
        );
        ensure!(
            matches!(self.train_type.as_str(), "lora" | "full"),
            "train_type is {:?}, expected lora or full",
            self.train_type
        );
        ensure!(
            self.offload_embedding != "true" || self.train_type != "full",
            "offload_embedding is true and train_type full, which trains the embedding where it is; keep one of them"
        );
        ensure!(
            matches!(
                self.save_strategy.as_str(),
                "steps" | "epoch" | "best" | "no"
            ),
            "save_strategy is {:?}, expected steps, epoch, best or no",
            self.save_strategy
        );
        ensure!(
            matches!(self.eval_strategy(), "steps" | "epoch" | "no"),
            "eval_strategy is {:?}, expected steps, epoch or no",
            self.eval_strategy()
        );
        if self.save_strategy == "best" {
            self.check_evaluated("save_strategy best")?;
            ensure!(
                self.early_stop_interval.is_none(),
                "early_stop_interval counts checkpoints without a better metric, and save_strategy best saves none \
                 of them; save by steps or epoch"
            );
        }
        if self.early_stop_interval.is_some() {
            self.check_evaluated("early_stop_interval")?;
        }
        ensure!(
            (0.0..1.0).contains(&self.warmup_ratio),
            "warmup_ratio is {}, expected a share from 0 to below 1",
            self.warmup_ratio
        );
        if let Some(steps) = self.warmup_steps {
            ensure!(
                (0.0..1.0).contains(&steps) || steps >= 1.0 && steps.fract() == 0.0,
                "warmup_steps is {steps}, expected a whole number of steps, or below 1 a share of all steps"
            );
            ensure!(
                steps == 0.0 || self.warmup_ratio == 0.0,
                "warmup_ratio and warmup_steps are both given; keep one of them"
            );
        }
        if given("lr_scheduler") && (given("lr_scheduler_type") || given("lr_scheduler_kwargs")) {
            bail!(
                "lr_scheduler and its shorthand lr_scheduler_type / lr_scheduler_kwargs are both given; keep one of them"
            );
        }
        if given("optimizer") && given("optim") {
            bail!("optimizer and its shorthand optim are both given; keep one of them");
        }
        if self.streaming {
            ensure!(
                self.max_steps > 0,
                "streaming is true and max_steps is {}: the length of the data is not known beforehand; give --max_steps N",
                self.max_steps
            );
            ensure!(
                self.split_dataset_ratio == 0.0,
                "streaming is true and split_dataset_ratio {}: nothing can be split off a stream; give --val_dataset",
                self.split_dataset_ratio
            );
            ensure!(
                !self.group_by_length,
                "streaming and group_by_length are both true, but lengths are not known before a stream is read; leave \
                 one of them out (--packing true fills rows of a stream evenly)"
            );
        }
        if self.deterministic {
            ensure!(
                self.current_date.is_some(),
                "deterministic is true and current_date is not given: the system message would carry the day of the \
                 run; give --current_date YYYY-MM-DD"
            );
        }
        self.check_resume()?;
        self.check_data()?;
        self.check_swanlab()?;
        if self.use_dora || self.lora_dropout > 0.0 {
            ensure!(
                self.target_parameters.is_empty(),
                "target_parameters cannot be used with lora_dropout or use_dora, as in PEFT"
            );
        }
        if self.load_best_model_at_end {
            self.check_evaluated("load_best_model_at_end")?;
        }
        if self.load_best_model_at_end && self.save_strategy != "best" {
            ensure!(
                self.eval_strategy() == self.save_strategy && self.save_strategy != "no",
                "load_best_model_at_end needs eval_strategy ({}) and save_strategy ({}) to be the same",
                self.eval_strategy(),
                self.save_strategy
            );
            ensure!(
                self.save_strategy != "steps" || self.save_steps.is_multiple_of(self.eval_steps()),
                "load_best_model_at_end needs save_steps ({}) to be a multiple of eval_steps ({})",
                self.save_steps,
                self.eval_steps()
            );
        }
        if let Some(optimizer) = &self.optimizer {
            for (flag, option) in SHORTHANDS {
                if given(flag) && optimizer.options.contains_key(*option) {
                    bail!("{flag} and optimizer.{option} are both given; keep one of them");
                }
            }
        }
        Ok(())
    }

    /// Checks the values that data depends on.
    ///
    /// # Errors
    /// Values that contradict each other; the error names both.
    pub fn check_data(&self) -> Result<()> {
        let unfilled = |dataset: &&String| {
            let id = dataset.split('#').next().unwrap_or_default();
            let id = id.rsplit("::").next().unwrap_or_default();
            let id = id.split([':', '@']).next().unwrap_or_default();
            id.ends_with("/self-cognition") && !Path::new(id).exists()
        };
        if let Some(dataset) = self.dataset.iter().find(unfilled) {
            bail!(
                "dataset {dataset}: its texts have {{{{NAME}}}} and {{{{AUTHOR}}}} in them, which ms-swift fills in from \
                 model_name and model_author and Apus does not; fill them in a copy and give its path"
            );
        }
        ensure!(
            !self.packing || self.max_length.is_some(),
            "packing is true and max_length is not given; give the length of a packed row with --max_length"
        );
        ensure!(
            self.max_length != Some(0),
            "max_length is 0, expected 1 token or more"
        );
        Ok(())
    }

    /// Checks what goes on from a checkpoint.
    fn check_resume(&self) -> Result<()> {
        let resumes = !matches!(self.resume_from_checkpoint.as_deref(), None | Some("false"));
        ensure!(
            resumes || !self.resume_only_model && self.resume_changes.is_empty(),
            "resume_only_model and resume_changes are about --resume_from_checkpoint CHECKPOINT, which is not given"
        );
        match (self.resume_only_model, self.ignore_data_skip) {
            (_, None) | (true, Some(true)) | (false, Some(false)) => Ok(()),
            (true, Some(false)) => bail!(
                "resume_only_model is true and ignore_data_skip false: with the weights alone the data starts anew; \
                 to go on where the checkpoint was made leave resume_only_model out"
            ),
            (false, Some(true)) => bail!(
                "ignore_data_skip is true: a resumed run goes on in the data where the checkpoint was made; to start \
                 the data anew with its weights give --resume_only_model true"
            ),
        }
    }

    /// Checks that there are evaluations, which something needs.
    ///
    /// # Errors
    /// There are none.
    pub fn check_evaluated(&self, what: &str) -> Result<()> {
        ensure!(
            self.eval_strategy() != "no",
            "{what} needs evaluations, and eval_strategy is no; give --eval_strategy steps or epoch"
        );
        ensure!(
            !self.val_dataset.is_empty() || self.split_dataset_ratio > 0.0,
            "{what} needs evaluations, and there is nothing to evaluate on; give --val_dataset or --split_dataset_ratio"
        );
        Ok(())
    }

    /// When to evaluate: as checkpoints are saved, or by steps where evaluations decide about that.
    pub fn eval_strategy(&self) -> &str {
        match (&self.eval_strategy, self.save_strategy.as_str()) {
            (Some(given), _) => given,
            (None, "best") => "steps",
            (None, saves) => saves,
        }
    }

    /// Steps between evaluations.
    pub fn eval_steps(&self) -> u64 {
        self.eval_steps.unwrap_or(self.save_steps)
    }

    /// Micro-batches in a step: 16 examples in all unless given, as ms-swift.
    pub fn accumulation(&self) -> usize {
        let size = self.per_device_train_batch_size.max(1);
        self.gradient_accumulation_steps
            .unwrap_or_else(|| 16usize.div_ceil(size).max(1))
    }

    /// How much of the run warms up: `warmup_steps`, below 1 a share as in transformers 5, or `warmup_ratio`.
    pub fn warmup(&self) -> Warmup {
        match self.warmup_steps {
            Some(steps) if steps >= 1.0 => Warmup::Steps(steps as u64),
            Some(share) if share > 0.0 => Warmup::Share(share),
            _ => Warmup::Share(self.warmup_ratio),
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
        self.greater_is_better
            .unwrap_or_else(|| !name.ends_with("loss") && !name.ends_with("perplexity"))
    }
}
