//! Resuming from a checkpoint: which one, whether it is whole, and whether this run is the one that wrote it.

mod global_batch;
mod newest;

use super::checkpoint::{Checkpoint, OPTIMIZER_FILE, weights_file};
use super::examples::Examples;
use super::optimizer::OptimizerHost;
use super::parts;
use super::state::TrainerState;
use super::terms::{self, Allowed, Difference, Terms};
use super::trained_part::TrainedPart;
use anyhow::{Context, Result, anyhow, ensure};
use apus_base::checksums;
use apus_base::lines::{info, warning};
use apus_components::config::{FLAGS, SftConfig, TrainType};
use apus_model::adapter::{PeftConfig, TunedConfig};
use apus_model::model::CausalLm;
use apus_sdk::small_file::{self, Limit};
use candle_core::Device;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A checkpoint to resume from.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Its folder.
    pub dir: PathBuf,
    /// What the run had reached; none where its weights alone are taken.
    state: Option<TrainerState>,
    /// The configuration of the run that made it.
    args: Map<String, Value>,
    allowed: Allowed,
}

impl Resume {
    /// The checkpoint that a configuration resumes from; it exists and is whole.
    ///
    /// # Errors
    /// None there, one that lacks a file or was changed, or flags that mean nothing together.
    pub fn open(config: &SftConfig) -> Result<Option<Self>> {
        terms::check_changes(&config.resume_changes)?;
        let wanted = match config.resume_from_checkpoint.as_deref() {
            None | Some("false") => return Ok(None),
            Some(wanted) => wanted,
        };
        let found = match wanted {
            "true" => newest::find(Path::new(&config.output_dir), config)?,
            dir => Self::at(Path::new(dir), config).map_err(|error| {
                let others = newest::beside(Path::new(dir), config);
                error.context(format!("{dir}: cannot be resumed{others}"))
            })?,
        };
        if let Some(line) = found.doubt() {
            warning!("{line}");
        }
        Ok(Some(found))
    }

    /// The checkpoint in this folder.
    fn at(dir: &Path, config: &SftConfig) -> Result<Self> {
        let weights = weights_file(config.train_type == TrainType::Full);
        let allowed = Allowed::by(config);
        let state = match allowed.only_model {
            true => {
                ensure!(dir.is_dir(), "{}: no such checkpoint folder", dir.display());
                ensure!(
                    dir.join(weights).is_file(),
                    "{}: {weights} is missing",
                    dir.display()
                );
                checksums::check(dir, [weights])?;
                None
            }
            false => {
                let has_sums =
                    Checkpoint::check(dir, &[weights, OPTIMIZER_FILE, TrainerState::FILE])?;
                let state = TrainerState::read(dir)?;
                ensure!(
                    has_sums || state.version == 0,
                    "{}: {} is missing, which this checkpoint had",
                    dir.display(),
                    checksums::FILE
                );
                Some(state)
            }
        };
        let args = small_file::text(&dir.join("args.json"), Limit::STORED).unwrap_or_default();
        Ok(Self {
            dir: dir.to_owned(),
            state,
            args: serde_json::from_str(&args).unwrap_or_default(),
            allowed,
        })
    }

    /// What cannot be known of a checkpoint of an earlier version.
    fn doubt(&self) -> Option<String> {
        let old = self.state.as_ref().is_some_and(|state| state.version == 0);
        old.then(|| {
            format!(
                "{}: made by an earlier version, without sums of its files: whether they are as they were written is \
                 not known, and of data and settings only what its args.json and its number of examples tell is compared",
                self.dir.display()
            )
        })
    }

    /// Lets the date of the checkpoint stand in the system messages of a run that gives none: with today's, every
    /// example would be another one than before midnight.
    pub fn keep_date(&self, config: &mut SftConfig) {
        if let (Some(_), None, Some(Value::String(date))) = (
            &self.state,
            &config.current_date,
            self.args.get("current_date"),
        ) {
            config.current_date = Some(date.clone());
        }
    }

    /// Puts the checkpoint back: its weights, and unless they are all that is taken, the optimizer's state and the
    /// place in the data. Returns what the run had reached then. `terms` are those of this run; `same_rate` says whether
    /// another number of steps and of warm-up gives the same learning rates for what is left.
    ///
    /// # Errors
    /// Another run than the one that made it, or files that do not fit.
    pub fn restore(
        &self,
        terms: &Terms,
        same_rate: &dyn Fn(&TrainerState) -> bool,
        parts: Parts,
    ) -> Result<Option<TrainerState>> {
        let mut differences = terms.differences(&self.terms());
        if let Some(state) = &self.state
            && differences.iter().any(Difference::is_of_length)
            && same_rate(state)
        {
            differences.retain(|difference| !difference.is_of_length());
        }
        let hints = |difference: &Difference| self.hint(difference, parts.args);
        for difference in terms::allow(differences, &self.allowed, &hints)? {
            info!("resume: {}", difference.said());
        }
        parts.trained.load(parts.model, &self.dir)?;
        let Some(state) = self.state.clone() else {
            info!(
                "resume: the weights of {}; data, optimizer and schedule start anew",
                self.dir.display()
            );
            return Ok(None);
        };
        parts
            .examples
            .resume(&state, &self.dir)
            .map_err(|error| anyhow!("{error:#} ({})", self.of_data(parts.args)))?;
        self.restore_optimizer(terms, &state, parts)?;
        Ok(Some(TrainerState {
            best_model_checkpoint: self.best(&state),
            ..state
        }))
    }

    fn restore_optimizer(&self, terms: &Terms, state: &TrainerState, parts: Parts) -> Result<()> {
        let name = |terms: &Terms| terms.get("optimizer").map(|spec| spec["name"].clone());
        let path = self.dir.join(OPTIMIZER_FILE);
        let device = parts.model.device();
        let saved = match (name(terms), name(&state.terms)) {
            (Some(now), Some(saved)) if now != saved => {
                info!("resume: the state of {saved} is nothing to {now}, which starts without one");
                std::collections::HashMap::new()
            }
            _ => {
                parts
                    .optimizer
                    .restore_own_state(state.optimizer_state.clone())?;
                candle_core::safetensors::load(&path, &Device::Cpu)
                    .with_context(|| format!("{}: cannot be read", path.display()))?
            }
        };
        parts
            .optimizer
            .restore(state.global_step, saved.into_iter().collect(), device)
    }

    /// The terms of the checkpoint; of one of an earlier version what its args.json tells.
    fn terms(&self) -> Terms {
        match &self.state {
            Some(state) if state.version > 0 => self.with_sampler(state.terms.clone()),
            Some(state) => {
                let mut terms = Terms::default();
                let number = |name: &str| self.args.get(name).and_then(Value::as_u64);
                if let (Some(size), Some(steps)) = (
                    number("per_device_train_batch_size"),
                    number("gradient_accumulation_steps"),
                ) {
                    terms.put("examples_per_step", size * steps);
                }
                terms.put("data_seed", state.data_seed);
                terms.put("max_steps", state.max_steps);
                terms.put_flags(&self.args);
                self.with_adapter(self.with_sampler(terms))
            }
            // A folder whose weights alone are taken may be an adapter of PEFT's.
            None => {
                let state = TrainerState::read(&self.dir);
                let terms = state.map_or_else(|_| Terms::default(), |state| state.terms);
                self.with_adapter(terms)
            }
        }
    }

    /// The sampler, which checkpoints had two flags for before it was a component.
    fn with_sampler(&self, mut terms: Terms) -> Terms {
        let flag = |name: &str| self.args.get(name).and_then(Value::as_bool);
        if terms.get("sampler").is_none()
            && let (Some(by_length), Some(shuffle)) =
                (flag("group_by_length"), flag("train_dataloader_shuffle"))
            && let Ok(spec) = serde_json::to_value(SftConfig::usual_sampler(by_length, shuffle))
        {
            terms.put("sampler", spec);
        }
        terms
    }

    /// What an adapter's own configuration tells, where terms do not.
    fn with_adapter(&self, mut terms: Terms) -> Terms {
        if terms.get("adapter").is_some() {
            return terms;
        }
        if let Ok(Some(config)) = TunedConfig::read(&self.dir) {
            terms.put("adapter", parts::tuned(&config));
        } else if let Ok((peft, _)) = PeftConfig::read(&self.dir) {
            terms.put("adapter", parts::adapter(&peft));
        }
        terms
    }

    /// What a difference comes from, where the value itself does not tell.
    fn hint(&self, difference: &Difference, args: &Map<String, Value>) -> Option<String> {
        match difference.name.as_str() {
            "data" => Some(self.of_data(args)),
            "examples_per_step" => {
                let (saved, now) = difference.values();
                let (saved, now) = (saved.as_u64()?, now.as_u64()?);
                Some(global_batch::hint((saved, &self.args), (now, args)))
            }
            _ => None,
        }
    }

    /// What other data may come from.
    fn of_data(&self, args: &Map<String, Value>) -> String {
        let flags = FLAGS.iter().filter(|flag| flag.shapes_data());
        let changed = flags.filter_map(|flag| {
            let saved = self.args.get(flag.name)?;
            let now = args.get(flag.name).unwrap_or(&Value::Null);
            (saved != now).then(|| format!("{} was {saved}, is {now}", flag.name))
        });
        let changed: Vec<String> = changed.collect();
        match changed.is_empty() {
            true => "no flag of data differs: a file of the data, the tokenizer or the template has changed".to_owned(),
            false => changed.join("; "),
        }
    }

    /// The best checkpoint so far, where it is now: the folder of a run may have been moved.
    fn best(&self, state: &TrainerState) -> Option<PathBuf> {
        let best = state.best_model_checkpoint.clone()?;
        let beside = self.dir.with_file_name(best.file_name()?);
        match !best.is_dir() && beside.is_dir() {
            true => Some(beside),
            false => Some(best),
        }
    }
}

/// What a checkpoint is put back into.
pub struct Parts<'a, 'b> {
    /// The model.
    pub model: &'a CausalLm,
    /// How its trained part is read.
    pub trained: &'a TrainedPart,
    /// The optimizer.
    pub optimizer: &'a mut OptimizerHost,
    /// The data.
    pub examples: &'a mut Examples<'b>,
    /// The configuration of this run.
    pub args: &'a Map<String, Value>,
}
