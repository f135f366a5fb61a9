//! From a configuration to what the training loop needs.

mod check;
mod intent;
mod terms;
mod trackers;

pub use check::check;
pub use intent::Intent;
pub use terms::{adapter, model_hash, terms, tuned};

use super::optimizer::groups::{self, Grouped};
use super::resume::Resume;
use super::sampling::{RowTable, Sampling};
use super::settings::{Every, Settings};
use super::terms::Terms;
use super::trained_part::AdapterForm;
use crate::out_of_memory::Phase;
use crate::setup::{self, ModelPlace, lasting, load};
use anyhow::{Context, Result, bail, ensure};
use apus_base::limits::MAX_RANK;
use apus_base::lines::{info, warning};
use apus_components::config::{
    EvalStrategy, InitWeights, Origin, Resolved, SaveStrategy, SftConfig,
};
use apus_components::registry::Spec;
use apus_components::registry::{self, Named};
use apus_model::adapter::{PeftConfig, TargetSpec, TunedConfig};
use apus_model::model::{CausalLm, Init, LoadOptions, LoraSettings};
use apus_model::nn::Sharding;
use apus_sdk::abi::Crosses;
use apus_sdk::{Callback, Kind, Loss, LrSchedule, Metric, Need, Sampler, Tracker};
use candle_core::Device;
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// A loaded model and what is written about its adapter.
pub struct Ready {
    /// The model.
    pub model: CausalLm,
    /// The adapter's form; `None` where the whole model is trained.
    pub adapter: Option<AdapterForm>,
}

/// Loads the model and puts adapters on it; `sharding` says how the frozen base is spread over ranks, if it is.
///
/// # Errors
/// Weights that are missing or do not fit, targets that match nothing.
pub fn model(
    config: &SftConfig,
    place: &ModelPlace,
    device: &Device,
    sharding: Option<Sharding>,
) -> Result<Ready> {
    let intent = Intent::new(config, place)?;
    let options = LoadOptions {
        sharding,
        ..intent.options(config, device)?
    };
    intent.check_memory(config, place, &options)?;
    let Intent {
        wanted,
        settings,
        start,
        targets,
        updates,
        tuned,
        ..
    } = intent;
    for note in start.iter().flat_map(|adapter| &adapter.notes) {
        warning!("adapters: {note}");
    }
    let mut model = load(place, &options).with_context(|| Phase::Loading(config.model.clone()))?;
    let base = Some(lasting(&config.model));
    if let Some(intended) = tuned {
        // What is trained on from an adapter is read from it.
        let seed = intended.start.is_none().then_some(config.seed);
        model.add_tuned(&intended.additions, seed)?;
        if let Some(adapter) = &intended.start {
            adapter.load_into(&model)?;
        }
        let config = TunedConfig {
            base_model: base,
            ..intended.config
        };
        let adapter = Some(AdapterForm::Tuned(config));
        return Ok(Ready { model, adapter });
    }
    let adapter = match (wanted, settings) {
        (Some(wanted), Some(settings)) => {
            model.add_tuned(&updates, Some(settings.seed))?;
            if let Some(adapter) = &start {
                adapter.load_into(model.params())?;
            }
            Some(AdapterForm::LowRank(match start {
                Some(adapter) => PeftConfig {
                    base_model: base,
                    ..adapter.config
                },
                None => PeftConfig::new(&place.config, &wanted, &targets, &settings, base),
            }))
        }
        _ => None,
    };
    Ok(Ready { model, adapter })
}

fn wanted(config: &SftConfig) -> TargetSpec {
    let mut wanted = TargetSpec::from_names(config.target_modules.clone());
    if let Some(regex) = &config.target_regex {
        wanted.modules.clear();
        wanted.regex = Some(regex.clone());
    }
    wanted.parameters = config.target_parameters.clone();
    wanted.save = config.modules_to_save.clone();
    wanted
}

fn settings(config: &SftConfig) -> Result<LoraSettings> {
    ensure!(
        (1..=MAX_RANK).contains(&config.lora_rank),
        "lora_rank is {}, expected a whole number from 1 to {MAX_RANK}",
        config.lora_rank
    );
    Ok(LoraSettings {
        rank: config.lora_rank,
        alpha: config.lora_alpha,
        dropout: config.lora_dropout,
        use_rslora: config.use_rslora,
        use_dora: config.use_dora,
        init: match config.init_weights {
            InitWeights::Gaussian => Init::Gaussian,
            // PiSSA and OLoRA are a tuner of their own.
            InitWeights::KaimingUniform | InitWeights::Pissa(_) | InitWeights::Olora => {
                Init::Kaiming
            }
        },
        seed: config.seed,
    })
}

/// The components of a run.
pub struct Components {
    /// Loss.
    pub loss: Named<dyn Loss>,
    /// Optimizer.
    pub optimizer: Grouped,
    /// Schedule.
    pub schedule: Named<dyn LrSchedule>,
    /// Sampler.
    pub sampler: Named<dyn Sampler>,
    /// Callbacks.
    pub callbacks: Vec<Named<dyn Callback>>,
    /// Metrics.
    pub metrics: Vec<Named<dyn Metric>>,
    /// Trackers.
    pub trackers: Vec<Named<dyn Tracker>>,
}

/// Makes the components that a configuration names. A schedule that is a callback as well brings it along, to act on
/// it while the run goes on.
///
/// # Errors
/// An unknown name, or options that do not fit.
pub fn components(resolved: &Resolved<SftConfig>) -> Result<Components> {
    let config = &resolved.config;
    let (optimizer, lines) = optimizer(config, &|flag| resolved.origin(flag))?;
    for line in lines {
        info!("note: {line}");
    }
    let schedule = config.schedule_spec();
    let mut callbacks = config.callbacks.clone();
    if registry::is_known(Kind::Callback, &schedule.name)? {
        config.check_evaluated(&format!("the schedule {}", schedule.name))?;
        callbacks.push(schedule.clone());
    }
    let (joining, lines) = config.add_flagged(Kind::Callback, &mut callbacks);
    callbacks.extend(joining);
    for line in lines {
        info!("note: {line}");
    }
    let mut names: Vec<&str> = callbacks.iter().map(|spec| spec.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!(
            "the callback {:?} is given twice (the schedule brings one of its own); keep one of them",
            twice[0]
        );
    }
    let metrics: Vec<Named<dyn Metric>> = each(&config.metric_specs(resolved.given("metrics")))?;
    let of_answers = metrics
        .iter()
        .find(|metric| metric.component.reads_answers());
    if let (false, Some(metric)) = (config.predict_with_generate, of_answers) {
        bail!(
            "{} reads generated answers, and predict_with_generate is false; give --predict_with_generate true, or leave \
             {} out of --metrics",
            metric.label,
            metric.name
        );
    }
    Ok(Components {
        loss: registry::named(&config.loss_type)?,
        optimizer: groups::make(&optimizer, config.base_lr())?,
        schedule: registry::named(&schedule)?,
        sampler: registry::named(&config.sampler_spec())?,
        callbacks: each(&callbacks)?,
        metrics,
        trackers: each(&trackers::specs(config)?)?,
    })
}

/// The optimizer with its options, and what is to be said about them; `origin` says where a flag was given.
///
/// # Errors
/// An optimizer that there is not, or a flag that it has no option for.
pub fn optimizer(
    config: &SftConfig,
    origin: &dyn Fn(&str) -> Option<Origin>,
) -> Result<(Spec, Vec<String>)> {
    let options = |name: &str| registry::options(Kind::Optimizer, name);
    config.optimizer_spec(origin, &options)
}

/// Another instance of a run's optimizer, to find out how much memory its state will take.
///
/// # Errors
/// An optimizer that there is not, or options that do not fit.
pub fn trial_optimizer(resolved: &Resolved<SftConfig>) -> Result<Grouped> {
    let (spec, _) = optimizer(&resolved.config, &|flag| resolved.origin(flag))?;
    groups::make(&spec, resolved.config.base_lr())
}

/// A sampler with the training data that it orders, in steps of `count` ranks.
///
/// # Errors
/// The sampler failed.
pub fn sampling(
    config: &SftConfig,
    sampler: Named<dyn Sampler>,
    data: &setup::Data,
    count: usize,
) -> Result<Sampling> {
    let train = &data.train;
    let datasets = (data.datasets.as_slice(), data.dataset_names.clone());
    let mut table = RowTable::new(&train.samples, train.packs.as_deref(), datasets);
    if sampler.declares(Need::Columns) {
        let names = sampler.context("columns", sampler.component.columns())?;
        table.add_columns(&names, &train.samples, train.packs.as_deref());
    }
    let batch = config.per_device_train_batch_size;
    let step = batch * config.accumulation() * count;
    Sampling::new(sampler, table, config.data_seed, (batch, step))
}

fn each<T: Crosses + ?Sized>(specs: &[Spec]) -> Result<Vec<Named<T>>> {
    specs.iter().map(registry::named).collect()
}

/// The numbers of the loop, and what it goes on from; `args` and `model` are for the trackers.
///
/// # Errors
/// A value that is none of those a flag takes.
pub fn loop_settings(
    config: &SftConfig,
    run_dir: &Path,
    kept_layers: usize,
    args: Map<String, Value>,
    model: Map<String, Value>,
    (resume, terms): (Option<Resume>, Terms),
) -> Result<Settings> {
    Ok(Settings {
        run_dir: run_dir.to_owned(),
        run_name: config
            .run_name
            .clone()
            .unwrap_or_else(|| run_dir.display().to_string()),
        num_train_epochs: config.num_train_epochs,
        max_steps: u64::try_from(config.max_steps)
            .ok()
            .filter(|&steps| steps > 0),
        per_device_train_batch_size: config.per_device_train_batch_size,
        per_device_eval_batch_size: config.per_device_eval_batch_size,
        gradient_accumulation_steps: config.accumulation(),
        learning_rate: config.base_lr(),
        drop_last: config.dataloader_drop_last,
        neftune_noise_alpha: config.neftune_noise_alpha.filter(|alpha| *alpha != 0.0),
        warmup: config.warmup(),
        max_grad_norm: config.max_grad_norm,
        planned_tokens: 0,
        kept_layers,
        router_aux_loss_coef: config.router_aux_loss_coef,
        enable_channel_loss: config.enable_channel_loss,
        logging_steps: config.logging_steps,
        logging_first_step: config.logging_first_step,
        evaluate: match config.eval_strategy() {
            EvalStrategy::Steps => Every::Steps(config.eval_steps()),
            EvalStrategy::Epoch => Every::Epoch,
            EvalStrategy::No => Every::Never,
        },
        save: match config.save_strategy {
            SaveStrategy::Steps => Every::Steps(config.save_steps),
            SaveStrategy::Epoch => Every::Epoch,
            SaveStrategy::Best => Every::Better,
            SaveStrategy::No => Every::Never,
        },
        save_total_limit: config.save_total_limit,
        save_only_model: config.save_only_model,
        metric_for_best_model: config.metric_for_best_model.clone(),
        greater_is_better: config.greater(),
        load_best_model_at_end: config.load_best_model_at_end,
        seed: config.seed,
        data_seed: config.data_seed,
        resume,
        terms,
        tracker_timeout: Duration::try_from_secs_f64(config.tracker_timeout)
            .context("tracker_timeout")?,
        plot: config.plot,
        tui: config.tui,
        config: args,
        model,
    })
}
