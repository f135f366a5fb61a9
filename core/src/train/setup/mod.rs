//! From a configuration to what the training loop needs.

mod chat;
mod data;
mod intent;
mod terms;
mod trackers;

pub use chat::{ChatOptions, encode_options, encoder, model_word, run_encoder};
pub use data::{Data, data, formats, longest, rows};
pub use intent::Intent;
pub use terms::{adapter, terms};

use super::resume::Resume;
use super::settings::{Every, Settings};
use super::steps_or_share::StepsOrShare;
use super::terms::Terms;
use super::trainer::Components;
use crate::adapter::{PeftConfig, Wanted};
use crate::config::{Resolved, SftConfig, Spec};
use crate::hub::Hub;
use crate::model::{
    Config, ExpertsDtype, GptOss, Init, LoadOptions, LoraSettings, MAX_RANK, Training,
};
use crate::registry::{self, Named};
use crate::say::{info, warning};
use crate::weights::{Directory, WeightSource};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::Kind;
use apus_sdk::abi::Crosses;
use candle_core::{DType, Device};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A model that is not loaded yet.
pub struct ModelPlace {
    /// Its shape.
    pub config: Config,
    /// Its weights.
    pub source: Box<dyn WeightSource>,
    /// Its directory, unless it is synthetic.
    pub dir: Option<PathBuf>,
}

/// Finds a model: a directory, an id of a hub, or `synthetic:ARCH`.
///
/// # Errors
/// No such directory or id, or not a gpt-oss model.
pub fn find_model(model: &str, seed: u64) -> Result<ModelPlace> {
    if let Some(arch) = model.strip_prefix("synthetic:") {
        let config = crate::synthetic::config(arch)?;
        let source = crate::synthetic::Source::new(&config, seed);
        return Ok(ModelPlace {
            config,
            source: Box::new(source),
            dir: None,
        });
    }
    let dir = Hub::from_environment().model(model)?;
    ensure!(dir.is_dir(), "{model}: no such model directory");
    Ok(ModelPlace {
        config: Config::read(&dir.join("config.json"))?,
        source: Box::new(Directory::open(&dir)?),
        dir: Some(dir),
    })
}

/// What a configuration asks of the device.
///
/// # Errors
/// A type that does not go with the device.
pub fn load_options(
    device: &Device,
    torch_dtype: Option<&str>,
    experts_dtype: &str,
    training: Training,
) -> Result<LoadOptions> {
    let dtype = match (torch_dtype, device) {
        (None | Some("auto"), Device::Cpu) | (Some("float32" | "fp32"), Device::Cpu) => DType::F32,
        (Some("bfloat16" | "bf16"), Device::Cpu) => {
            info!("note: torch_dtype bfloat16: the CPU computes in float32");
            DType::F32
        }
        (None | Some("auto" | "bfloat16" | "bf16"), _) => DType::BF16,
        (Some(other), _) => {
            bail!("torch_dtype is {other:?}; the CPU computes in float32, CUDA in bfloat16")
        }
    };
    let experts = match experts_dtype {
        "mxfp4" => ExpertsDtype::Mxfp4,
        "bf16" | "bfloat16" => ExpertsDtype::Dense,
        other => bail!("experts_dtype is {other:?}, expected mxfp4 or bf16"),
    };
    Ok(LoadOptions {
        device: device.clone(),
        dtype,
        experts,
        training,
    })
}

/// Loads the weights; a line says how long it took.
///
/// # Errors
/// Weights that are missing or do not fit.
pub fn load(place: &ModelPlace, options: &LoadOptions) -> Result<GptOss> {
    let started = Instant::now();
    let model = GptOss::load(&place.config, place.source.as_ref(), options, |_| {})?;
    options.device.synchronize()?;
    if let Some(transfer) = place.source.done() {
        info!("{}", transfer.summary(started.elapsed()));
        if let Some(line) = transfer.left_over() {
            warning!("{line}");
        }
    }
    Ok(model)
}

/// A loaded model and what is written about its adapter.
pub struct Ready {
    /// The model.
    pub model: GptOss,
    /// The adapter's configuration; `None` where the whole model is trained.
    pub peft: Option<PeftConfig>,
}

/// Loads the model and puts adapters on it.
///
/// # Errors
/// Weights that are missing or do not fit, targets that match nothing.
pub fn model(config: &SftConfig, place: &ModelPlace, device: &Device) -> Result<Ready> {
    let intent = Intent::new(config, place)?;
    intent.check_memory(config, place, device)?;
    let options = intent.options(config, device)?;
    let Intent {
        wanted,
        settings,
        start,
        targets,
        ..
    } = intent;
    for note in start.iter().flat_map(|adapter| &adapter.notes) {
        warning!("adapters: {note}");
    }
    let mut model = load(place, &options).with_context(|| format!("model {}", config.model))?;
    let peft = match (wanted, settings) {
        (Some(wanted), Some(settings)) => {
            model.add_lora(&targets, &settings)?;
            if let Some(adapter) = &start {
                adapter.load_into(model.params())?;
            }
            let base = Some(lasting(&config.model));
            Some(match start {
                Some(adapter) => PeftConfig {
                    base_model: base,
                    ..adapter.config
                },
                None => PeftConfig::new(&place.config, &wanted, &targets, &settings, base),
            })
        }
        _ => None,
    };
    Ok(Ready { model, peft })
}

/// A model's or tokenizer's name as it is found again from any folder: a path that is there is made whole, an id of a hub
/// stays.
pub fn lasting(name: &str) -> String {
    const SYNTHETIC: &str = "synthetic:";
    if let Some(arch) = name.strip_prefix(SYNTHETIC) {
        let (file, changes) = match arch.find('?') {
            Some(at) => arch.split_at(at),
            None => (arch, ""),
        };
        return format!("{SYNTHETIC}{}{changes}", lasting(file));
    }
    let path = Path::new(name);
    match (path.exists(), std::path::absolute(path)) {
        (true, Ok(whole)) => whole.display().to_string(),
        _ => name.to_owned(),
    }
}

fn wanted(config: &SftConfig) -> Wanted {
    let mut wanted = Wanted::from_names(config.target_modules.clone());
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
        init: match config.init_weights.to_ascii_lowercase().as_str() {
            "true" => Init::Kaiming,
            "gaussian" => Init::Gaussian,
            other => bail!("init_weights is {other:?}, expected true or gaussian"),
        },
        seed: config.seed,
    })
}

/// Makes the components that a configuration names. A schedule that is a callback as well brings it along, to act on
/// it while the run goes on.
///
/// # Errors
/// An unknown name, or options that do not fit.
pub fn components(resolved: &Resolved<SftConfig>) -> Result<Components> {
    let config = &resolved.config;
    let (optimizer, lines) = optimizer(resolved)?;
    for line in lines {
        info!("note: {line}");
    }
    let schedule = config.schedule_spec();
    let mut callbacks = config.callbacks.clone();
    if registry::is_known(Kind::Callback, &schedule.name)? {
        config.check_evaluated(&format!("the schedule {}", schedule.name))?;
        callbacks.push(schedule.clone());
    }
    if let Some(interval) = config.early_stop_interval {
        let mut spec = Spec::named("early_stop");
        spec.options.insert("interval".to_owned(), interval.into());
        callbacks.push(spec);
    }
    let mut names: Vec<&str> = callbacks.iter().map(|spec| spec.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!(
            "the callback {:?} is given twice (early_stop_interval and the schedule bring one of their own); keep one of them",
            twice[0]
        );
    }
    Ok(Components {
        loss: registry::named(&config.loss_type)?,
        optimizer: registry::named(&optimizer)?,
        schedule: registry::named(&schedule)?,
        callbacks: each(&callbacks)?,
        metrics: each(&config.metrics)?,
        trackers: each(&trackers::specs(config))?,
    })
}

/// The optimizer with its options, and what is to be said about them.
fn optimizer(resolved: &Resolved<SftConfig>) -> Result<(Spec, Vec<String>)> {
    let options = |name: &str| registry::options(Kind::Optimizer, name);
    let origin = |flag: &str| resolved.origin(flag);
    resolved.config.optimizer_spec(&origin, &options)
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
    let every = |strategy: &str, steps: StepsOrShare| match strategy {
        "steps" => Every::Steps(steps),
        "epoch" => Every::Epoch,
        "best" => Every::Better,
        _ => Every::Never,
    };
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
        lorap_lr_ratio: config.lorap_lr_ratio,
        kept_layers,
        router_aux_loss_coef: config.router_aux_loss_coef,
        logging_steps: config.logging_steps,
        logging_first_step: config.logging_first_step,
        evaluate: every(config.eval_strategy(), config.eval_steps()),
        save: every(&config.save_strategy, config.save_steps),
        save_total_limit: config.save_total_limit,
        save_only_model: config.save_only_model,
        metric_for_best_model: config.metric_for_best_model.clone(),
        greater_is_better: config.greater(),
        load_best_model_at_end: config.load_best_model_at_end,
        seed: config.seed,
        data_seed: config.data_seed,
        shuffle: config.train_dataloader_shuffle,
        group_by_length: config.group_by_length,
        resume,
        terms,
        tracker_timeout: Duration::try_from_secs_f64(config.tracker_timeout)
            .context("tracker_timeout")?,
        sample_prompts: config.sample_prompts.clone(),
        plot: config.plot,
        tui: config.tui,
        config: args,
        model,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_hold_in_every_folder() {
        let here = std::env::current_dir().unwrap();
        let whole = |path: &str| here.join(path).display().to_string();
        assert_eq!(lasting("src"), whole("src"));
        assert_eq!(
            lasting("synthetic:src/lib.rs?a=1"),
            format!("synthetic:{}?a=1", whole("src/lib.rs"))
        );
        for name in [
            "openai/gpt-oss-20b",
            "synthetic:gpt-oss-20b",
            "synthetic:gpt-oss-20b?num_hidden_layers=2",
            "/",
        ] {
            assert_eq!(lasting(name), name);
        }
    }
}
