//! What follows from the flags of a fine-tuning run.

use super::defaults::{ANSWER_METRICS, SAMPLER, SAMPLER_BY_LENGTH, SAMPLER_IN_ORDER};
use super::flag::Command;
use super::{EvalStrategy, SaveStrategy, SftConfig, StepsOrShare, TrainType};
use crate::registry::Spec;
use anyhow::Result;
use serde_json::{Map, Value};

impl super::Config for SftConfig {
    const COMMAND: Command = Command::Sft;

    fn of_components(&self) -> Option<&Map<String, Value>> {
        Some(&self.of_components)
    }

    fn set_of_components(&mut self, values: Map<String, Value>) {
        self.of_components = values;
    }

    fn resolve_values(&mut self) -> Result<()> {
        super::instructions(&mut self.system)?;
        self.read_sharding()?;
        super::absolute(&mut self.output_dir)
    }
}

impl SftConfig {
    /// When to evaluate: as checkpoints are saved, or by steps where evaluations decide about that.
    pub fn eval_strategy(&self) -> EvalStrategy {
        self.eval_strategy.unwrap_or(match self.save_strategy {
            SaveStrategy::Steps | SaveStrategy::Best => EvalStrategy::Steps,
            SaveStrategy::Epoch => EvalStrategy::Epoch,
            SaveStrategy::No => EvalStrategy::No,
        })
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
        let default = match &self.train_type {
            TrainType::Full => 1e-5,
            TrainType::Lora | TrainType::Tuner(_) => 1e-4,
        };
        self.learning_rate.unwrap_or(default)
    }

    /// The sampler: the one that is named, or that `group_by_length` and `train_dataloader_shuffle` mean.
    pub fn sampler_spec(&self) -> Spec {
        match &self.sampler {
            Some(spec) => spec.clone(),
            None => Self::usual_sampler(self.group_by_length, self.train_dataloader_shuffle),
        }
    }

    /// The sampler that values of `group_by_length` and `train_dataloader_shuffle` mean.
    pub fn usual_sampler(by_length: bool, shuffle: bool) -> Spec {
        let (grouped, option) = SAMPLER_BY_LENGTH;
        match (by_length, shuffle) {
            (false, true) => Spec::named(SAMPLER),
            (false, false) => Spec::named(SAMPLER_IN_ORDER),
            (true, true) => Spec::named(grouped),
            (true, false) => Spec {
                name: grouped.to_owned(),
                options: Map::from_iter([(option.to_owned(), false.into())]),
            },
        }
    }

    /// The metrics of an evaluation; where answers are asked for and no metric is named, one that reads them is among them.
    pub fn metric_specs(&self, given: bool) -> Vec<Spec> {
        let mut specs = self.metrics.clone();
        if self.predict_with_generate && !given {
            specs.extend(Spec::all_named(ANSWER_METRICS));
        }
        specs
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
