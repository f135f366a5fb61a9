//! What a configuration asks of a model, before any of it is loaded.

use super::{ModelPlace, settings, wanted};
use crate::setup::load_options;
use anyhow::{Result, bail, ensure};
use apus_components::config::{SftConfig, TrainType};
use apus_model::adapter::{self, Adapter, Blueprint, TargetSpec};
use apus_model::model::{LoadOptions, LoraSettings, Targets, Training};
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
}

impl Intent {
    /// For a model of this shape.
    ///
    /// # Errors
    /// Targets that match nothing, or an adapter that cannot be read.
    pub fn new(config: &SftConfig, place: &ModelPlace) -> Result<Self> {
        let full = config.train_type == TrainType::Full;
        let (wanted, settings, start) = match (full, config.adapters.as_slice()) {
            (true, []) => (None, None, None),
            (true, _) => bail!("adapters cannot be used with train_type full; merge them first"),
            (false, []) => (Some(wanted(config)), Some(settings(config)?), None),
            (false, [dir]) => {
                let adapter = Adapter::open(Path::new(dir), &place.config)?;
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
        })
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
        Blueprint::new(&place.config, source, options, updates)
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
