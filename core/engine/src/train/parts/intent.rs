//! What a configuration asks of a model, before any of it is loaded.

use super::{ModelPlace, settings, wanted};
use crate::setup::load_options;
use crate::tuners::{self, OpenedAdapter, TunedAdapter};
use anyhow::{Result, bail, ensure};
use apus_base::lines::info;
use apus_components::config::{InitWeights, SftConfig, TUNER, TrainType};
use apus_components::registry::Spec;
use apus_model::adapter::{self, Adapter, Blueprint, TargetSpec, TunedConfig};
use apus_model::model::{Addition, LoadOptions, LoraSettings, Numbers, Targets, Training};
use apus_sdk::{Kind, Options};
use candle_core::Device;
use std::collections::BTreeMap;
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
    /// The low-rank updates that a tuner adds.
    pub updates: Vec<Addition>,
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
        let mut chosen = match &config.train_type {
            TrainType::Tuner(spec) => vec![spec.clone()],
            _ => Vec::new(),
        };
        for line in config.add_flagged(Kind::Tuner, &mut chosen).1 {
            info!("note: {line}");
        }
        match (&config.train_type, config.adapters.as_slice()) {
            (TrainType::Full, []) => Ok(Self {
                wanted: None,
                settings: None,
                start: None,
                targets: Targets::default(),
                updates: Vec::new(),
                training: Training::Full,
                tuned: None,
            }),
            (TrainType::Full, _) => {
                bail!("adapters cannot be used with train_type full; merge them first")
            }
            (TrainType::Tuner(spec), []) => {
                check_flags(config)?;
                Self::begun(config, &with_flags(config, spec), place)
            }
            (TrainType::Lora, []) => Self::begun(config, &of_flags(config)?, place),
            (_, [dir]) => match OpenedAdapter::open(Path::new(dir), &place.config)? {
                OpenedAdapter::LowRank(adapter) => Self::trained_on(config, *adapter, place),
                OpenedAdapter::Tuned(tuned) => Self::of_tuned(config, tuned),
            },
            (_, many) => bail!("{} adapters are given, sft starts from one", many.len()),
        }
    }

    /// Low-rank updates of a tuner.
    fn of_updates(
        wanted: TargetSpec,
        settings: LoraSettings,
        targets: Targets,
        updates: Vec<Addition>,
    ) -> Self {
        Self {
            wanted: Some(wanted),
            settings: Some(settings),
            start: None,
            training: Training::Adapters(targets.modules_to_save.clone()),
            targets,
            updates,
            tuned: None,
        }
    }

    /// Low-rank updates from a folder, which are trained on.
    fn trained_on(config: &SftConfig, adapter: Adapter, place: &ModelPlace) -> Result<Self> {
        let settings = adapter.config.settings(config.seed);
        let spec = match &config.train_type {
            TrainType::Tuner(spec) => {
                check_flags(config)?;
                with_flags(config, spec)
            }
            _ => tuners::lora(
                &settings,
                config.lorap_lr_ratio,
                tuners::patterns(&adapter.targets),
            ),
        };
        let tuner = tuners::make(&spec)?;
        let updates = tuners::additions(&tuner, &place.config, &adapter.targets)?;
        let found = tuners::lora_settings(&tuner, &updates, config.seed)?;
        let of = |settings: &LoraSettings| {
            let LoraSettings {
                rank,
                dropout,
                use_dora,
                ..
            } = *settings;
            (rank, settings.scale(), dropout, use_dora)
        };
        // Where modules are trained whole and nothing else, there are no updates.
        let own = &adapter.targets.own;
        let fits = |(found, numbers): &(LoraSettings, BTreeMap<String, Numbers>)| {
            of(found) == of(&settings) && numbers == own
        };
        let fits = updates.is_empty() || found.as_ref().is_some_and(fits);
        ensure!(
            fits,
            "{}: holds low-rank updates, and train_type is {}, which adds {}; leave train_type out to train them on",
            adapter.dir().display(),
            config.train_type,
            match found {
                None => "something else",
                Some(_) => "other ones",
            }
        );
        let (wanted, targets) = (adapter.config.target_spec(), adapter.targets.clone());
        Ok(Self {
            start: Some(adapter),
            ..Self::of_updates(wanted, settings, targets, updates)
        })
    }

    /// What a tuner adds to a model.
    fn begun(config: &SftConfig, spec: &Spec, place: &ModelPlace) -> Result<Self> {
        let tuner = tuners::make(spec)?;
        let mut wanted = TargetSpec {
            blocks: config.train_type != TrainType::Lora,
            ..wanted(config)
        };
        if wanted.modules == ["all-linear"] && wanted.regex.is_none() {
            wanted.modules = tuner.context("targets", tuner.component.targets())?;
        }
        let targets = adapter::resolve(&place.config, &wanted)?;
        let additions = tuners::additions(&tuner, &place.config, &targets)?;
        let own = match config.train_type {
            TrainType::Lora if spec.name == TUNER => Some((settings(config)?, BTreeMap::new())),
            _ => None,
        };
        let found = tuners::lora_settings(&tuner, &additions, config.seed)?;
        let of_blocks = !targets.blocks.is_empty();
        if let Some((settings, own)) = found.or(own).filter(|_| !of_blocks) {
            let linears = additions
                .iter()
                .filter(|addition| addition.experts.is_none());
            let linears = linears.map(|addition| addition.target.clone());
            let targets = Targets {
                linears: linears.collect(),
                blocks: Vec::new(),
                experts: additions
                    .iter()
                    .filter_map(|addition| addition.experts)
                    .collect(),
                modules_to_save: targets.modules_to_save,
                own,
            };
            return Ok(Self::of_updates(wanted, settings, targets, additions));
        }
        let (of_experts, others): (Vec<&Addition>, Vec<&Addition>) = additions
            .iter()
            .partition(|addition| addition.experts.is_some());
        let names = |of: &[&Addition]| of.iter().map(|a| a.target.clone()).collect();
        let config = TunedConfig {
            name: spec.name.clone(),
            options: spec.options.clone(),
            modules: names(&others),
            parameters: names(&of_experts),
            modules_to_save: targets.modules_to_save.clone(),
            base_model: None,
            // PEFT adds nothing to blocks, and to parameters of experts low-rank updates alone.
            peft: match of_blocks || !of_experts.is_empty() {
                true => Options::new(),
                false => tuner.context("peft_config", tuner.component.peft_config())?,
            },
        };
        Ok(Self::with_tuner(config, additions, None))
    }

    /// What a tuner has trained already.
    fn of_tuned(config: &SftConfig, tuned: Box<TunedAdapter>) -> Result<Self> {
        check_flags(config)?;
        let named = match &config.train_type {
            TrainType::Tuner(spec) => {
                let spec = with_flags(config, spec);
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
            updates: Vec::new(),
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
        let added = self.updates.iter().chain(&blueprint.additions);
        blueprint.frozen = added.flat_map(Addition::frozen).cloned().collect();
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

/// The tuner that a run has of which nothing is said, by its flags.
fn of_flags(config: &SftConfig) -> Result<Spec> {
    let settings = settings(config)?;
    let start = match config.init_weights {
        InitWeights::Pissa(niter) => ("pissa", niter),
        InitWeights::Olora => ("olora", None),
        InitWeights::KaimingUniform | InitWeights::Gaussian => {
            let patterns = [config.rank_pattern.clone(), config.alpha_pattern.clone()];
            return Ok(tuners::lora(&settings, config.lorap_lr_ratio, patterns));
        }
    };
    for (flag, is_set) in [
        ("use_dora", settings.use_dora),
        ("lora_dropout", settings.dropout != 0.0),
        ("rank_pattern", !config.rank_pattern.is_empty()),
        ("alpha_pattern", !config.alpha_pattern.is_empty()),
    ] {
        ensure!(
            !is_set,
            "{flag} is set, which does not go with init_weights {}: leave one of both out",
            String::from(config.init_weights)
        );
    }
    Ok(tuners::pissa(&settings, config.lorap_lr_ratio, start))
}

/// A tuner with the options that flags stand for.
pub(super) fn with_flags(config: &SftConfig, spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    config.add_flagged(Kind::Tuner, std::slice::from_mut(&mut spec));
    spec
}

/// Refuses flags of low-rank updates that a tuner has no use for and that would otherwise be ignored.
fn check_flags(config: &SftConfig) -> Result<()> {
    let flags = [
        ("use_dora", config.use_dora),
        ("use_rslora", config.use_rslora),
        ("lorap_lr_ratio", config.lorap_lr_ratio.is_some()),
        ("lora_dropout", config.lora_dropout != 0.0),
        ("rank_pattern", !config.rank_pattern.is_empty()),
        ("alpha_pattern", !config.alpha_pattern.is_empty()),
    ];
    for (flag, is_set) in flags {
        ensure!(
            !is_set,
            "{flag} is set, which is a setting of --train_type lora: leave it out, or train with lora; another tuner has settings of \
             its own"
        );
    }
    Ok(())
}
