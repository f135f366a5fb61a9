//! Whether the values of a fine-tuning run fit together.

use super::shorthand::shorthands;
use super::{EvalStrategy, Offload, SaveStrategy, SftConfig, StepsOrShare, TrainType};
use anyhow::{Result, bail, ensure};

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
            self.offload_embedding != Offload::True || self.train_type != TrainType::Full,
            "offload_embedding is true and train_type full, which trains the embedding where it is; keep one of them"
        );
        if self.save_strategy == SaveStrategy::Best {
            self.check_evaluated("save_strategy best")?;
        }
        if self.predict_with_generate {
            self.check_evaluated("predict_with_generate")?;
        }
        ensure!(
            self.warmup_ratio == 0.0 || self.warmup_steps.is_none_or(StepsOrShare::is_zero),
            "warmup_ratio and warmup_steps are both given; keep one of them"
        );
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
        if let Some(sampler) = &self.sampler {
            ensure!(
                !self.streaming,
                "streaming is true and sampler is {}, but a sampler orders examples that lie in memory, and a stream is \
                 trained as it comes; leave one of them out",
                sampler.name
            );
            ensure!(
                !self.group_by_length && self.train_dataloader_shuffle,
                "sampler is {}, and {}: that is short for another sampler; keep one of them",
                sampler.name,
                match self.group_by_length {
                    true => "group_by_length true",
                    false => "train_dataloader_shuffle false",
                }
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
        self.check_components()?;
        if self.use_dora || self.lora_dropout > 0.0 {
            ensure!(
                self.target_parameters.is_empty(),
                "target_parameters cannot be used with lora_dropout or use_dora, as in PEFT"
            );
        }
        self.check_best()?;
        self.check_sharding()?;
        if let Some(optimizer) = &self.optimizer {
            for (flag, option) in shorthands() {
                if given(flag) && optimizer.options.contains_key(option) {
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
        for dataset in self.dataset.iter().chain(&self.val_dataset) {
            dataset.parts()?;
        }
        ensure!(
            !self.packing || self.max_length.is_some(),
            "packing is true and max_length is not given; give the length of a packed row with --max_length"
        );
        Ok(())
    }

    /// Checks that checkpoints are evaluated, where the best is gone back to.
    fn check_best(&self) -> Result<()> {
        if !self.load_best_model_at_end {
            return Ok(());
        }
        self.check_evaluated("load_best_model_at_end")?;
        if self.save_strategy == SaveStrategy::Best {
            return Ok(());
        }
        ensure!(
            self.eval_strategy().as_str() == self.save_strategy.as_str()
                && self.save_strategy != SaveStrategy::No,
            "load_best_model_at_end needs eval_strategy ({}) and save_strategy ({}) to be the same",
            self.eval_strategy(),
            self.save_strategy
        );
        let (save, eval) = (self.save_steps, self.eval_steps());
        ensure!(
            self.save_strategy != SaveStrategy::Steps || save.is_multiple_of(eval),
            "load_best_model_at_end needs save_steps ({save}) to be a multiple of eval_steps ({eval}), both numbers of \
             steps or both shares of the run"
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
    pub fn check_evaluated(&self, what: &str) -> Result<()> {
        ensure!(
            self.eval_strategy() != EvalStrategy::No,
            "{what} needs evaluations, and eval_strategy is no; give --eval_strategy steps or epoch"
        );
        ensure!(
            !self.val_dataset.is_empty() || self.split_dataset_ratio > 0.0,
            "{what} needs evaluations, and there is nothing to evaluate on; give --val_dataset or --split_dataset_ratio"
        );
        Ok(())
    }
}
