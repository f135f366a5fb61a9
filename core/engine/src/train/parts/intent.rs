//! What a configuration asks of a model, before any of it is loaded.

use super::{ModelPlace, settings, wanted};
use crate::setup::load_options;
use crate::tuners::{self, OpenedAdapter, TunedAdapter};
use anyhow::{Result, bail, ensure};
use apus_components::config::{SftConfig, TrainType};
use apus_components::registry::Spec;
use apus_model::adapter::{self, Adapter, Blueprint, TargetSpec, TunedConfig};
use apus_model::model::{Addition, LoadOptions, LoraSettings, Targets, Training};
use candle_core::Device;
use std::path::Path;

/// What is trained, and where it begins.
pub struct Intent {
    /// What updates were asked for; `None` where the whole model is trained.
    pub wanted: Option<TargetSpec>,
    /// Their numbers.
    pub settings: Option<LoraSettings>,
    /// The adapter that the run begins with.
    pub start: Option<Adapter>,
    /// What is adapted.
    pub targets: Targets,
    /// Which of the model's own weights are trained.
    pub training: Training,
    /// What a tuner adds, in place of low-rank updates.
    pub tuned: Option<IntendedTuner>,
}

/// A tuner of a run.
pub struct IntendedTuner {
    /// What is written beside its parameters.
    pub config: TunedConfig,
    /// What it adds.
    pub additions: Vec<Addition>,
    /// What the run begins with.
    pub start: Option<Box<TunedAdapter>>,
}

impl Intent {
    /// For a model of this shape.
    ///
    /// # Errors
    /// Targets that match nothing, or an adapter that cannot be read.
    pub fn new(config: &SftConfig, place: &ModelPlace) -> Result<Self> {
        let full = config.train_type == TrainType::Full;
        if let (TrainType::Tuner(spec), []) = (&config.train_type, config.adapters.as_slice()) {
            return Self::tuner(config, spec, place);
        }
        let (wanted, settings, start) = match (full, config.adapters.as_slice()) {
            (true, []) => (None, None, None),
            (true, _) => bail!("adapters cannot be used with train_type full; merge them first"),
            (false, []) => (Some(wanted(config)), Some(settings(config)?), None),
            (false, [dir]) => {
                let adapter = match OpenedAdapter::open(Path::new(dir), &place.config)? {
                    OpenedAdapter::LowRank(adapter) => *adapter,
                    OpenedAdapter::Tuned(tuned) => return Self::of_tuned(config, tuned),
                };
                ensure!(
                    config.train_type == TrainType::Lora,
                    "{dir}: holds low-rank updates, and train_type is {}; leave train_type out to train them on",
                    config.train_type
                );
                let settings = adapter.config.settings(config.seed);
                (
                    Some(adapter.config.target_spec()),
                    Some(settings),
                    Some(adapter),
                )
            }
            (false, many) => bail!("{} adapters are given, sft starts from one", many.len()),
        };
        let targets = match (&start, &wanted) {
            (Some(adapter), _) => adapter.targets.clone(),
            (None, Some(wanted)) => adapter::resolve(&place.config, wanted)?,
            (None, None) => Targets::default(),
        };
        let training = match full {
            true => Training::Full,
            false => Training::Adapters(targets.modules_to_save.clone()),
        };
        Ok(Self {
            wanted,
            settings,
            start,
            targets,
            training,
            tuned: None,
        })
    }

    /// What a tuner adds to a model.
    fn tuner(config: &SftConfig, spec: &Spec, place: &ModelPlace) -> Result<Self> {
        check_flags(config)?;
        let tuner = tuners::make(spec)?;
        let mut wanted = wanted(config);
        if wanted.modules == ["all-linear"] && wanted.regex.is_none() {
            wanted.modules = tuner.context("targets", tuner.component.targets())?;
        }
        let targets = adapter::resolve(&place.config, &wanted)?;
        let additions = tuners::additions(&tuner, &place.config, &targets.linears)?;
        let modules = additions.iter().map(|addition| addition.target.clone());
        let config = TunedConfig {
            name: spec.name.clone(),
            options: spec.options.clone(),
            modules: modules.collect(),
            modules_to_save: targets.modules_to_save.clone(),
            base_model: None,
            peft: tuner.context("peft_config", tuner.component.peft_config())?,
        };
        Ok(Self::with_tuner(config, additions, None))
    }

    /// What a tuner has trained already.
    fn of_tuned(config: &SftConfig, tuned: Box<TunedAdapter>) -> Result<Self> {
        check_flags(config)?;
        let named = match &config.train_type {
            TrainType::Tuner(spec) => {
                spec.name == tuned.config.name && spec.options == tuned.config.options
            }
            _ => true,
        };
        ensure!(
            named,
            "the adapter was trained by the {}, with the options {}, and train_type is another one; leave train_type out to \
             train it on",
            tuned.label(),
            serde_json::Value::Object(tuned.config.options.clone())
        );
        let (settings, additions) = (tuned.settings()?, tuned.additions.clone());
        Ok(Self::with_tuner(settings, additions, Some(tuned)))
    }

    fn with_tuner(
        config: TunedConfig,
        additions: Vec<Addition>,
        start: Option<Box<TunedAdapter>>,
    ) -> Self {
        Self {
            wanted: None,
            settings: None,
            start: None,
            targets: Targets::default(),
            training: Training::Adapters(config.modules_to_save.clone()),
            tuned: Some(IntendedTuner {
                config,
                additions,
                start,
            }),
        }
    }

    /// How to load the model.
    ///
    /// # Errors
    /// A type that does not go with the device.
    pub fn options(&self, config: &SftConfig, device: &Device) -> Result<LoadOptions> {
        load_options(
            device,
            config.torch_dtype,
            config.experts_dtype,
            self.training.clone(),
        )
    }

    /// All tensors that the run will have on its device.
    ///
    /// # Errors
    /// A type that does not go with the device.
    pub fn blueprint(
        &self,
        config: &SftConfig,
        place: &ModelPlace,
        device: &Device,
    ) -> Result<Blueprint> {
        self.blueprint_by(place, &self.options(config, device)?)
    }

    fn blueprint_by(&self, place: &ModelPlace, options: &LoadOptions) -> Result<Blueprint> {
        let updates = self
            .settings
            .as_ref()
            .map(|settings| (&self.targets, settings));
        let source = place.source.as_ref();
        let mut blueprint = Blueprint::new(&place.config, source, options, updates)?;
        if let Some(tuned) = &self.tuned {
            blueprint.additions = tuned.additions.clone();
        }
        Ok(blueprint)
    }

    /// Checks before anything is allocated that weights and what is trained can be there at all.
    ///
    /// # Errors
    /// They take more memory than is free.
    pub fn check_memory(
        &self,
        config: &SftConfig,
        place: &ModelPlace,
        options: &LoadOptions,
    ) -> Result<()> {
        let device = &options.device;
        let Some(free) = apus_model::device::usage::free(device) else {
            return Ok(());
        };
        let blueprint = self.blueprint_by(place, options)?;
        let (weights, trained) = (blueprint.weight_bytes(), blueprint.trainable());
        let gib = apus_base::memory::gib;
        ensure!(
            weights.saturating_add(trained.saturating_mul(4)) <= free,
            "the weights take {}, the {trained} trained parameters {}, and {} are free on {}: lower lora_rank ({}), train \
             fewer modules, take a smaller model or more memory, or spread the model over more cards (--shard_base true; \
             --dry_run true shows the whole plan)",
            gib(weights),
            gib(trained.saturating_mul(4)),
            gib(free),
            apus_model::device::name(device),
            config.lora_rank
        );
        Ok(())
    }
}

/// Refuses flags of low-rank updates that a tuner has no use for and that would otherwise be ignored.
fn check_flags(config: &SftConfig) -> Result<()> {
    let flags = [
        ("target_parameters", !config.target_parameters.is_empty()),
        ("use_dora", config.use_dora),
        ("use_rslora", config.use_rslora),
        ("lorap_lr_ratio", config.lorap_lr_ratio.is_some()),
        ("lora_dropout", config.lora_dropout != 0.0),
    ];
    for (flag, is_set) in flags {
        ensure!(
            !is_set,
            "{flag} is set, which is about low-rank updates, and a tuner trains something else on linear layers: leave it out, \
             or train with --train_type lora"
        );
    }
    Ok(())
}
