//! From a configuration to what the training loop needs.

use super::settings::{Every, Settings};
use super::trainer::Components;
use crate::adapter::{self, Adapter, PeftConfig, Wanted};
use crate::chat::{
    Chain, ChatTemplate, EncodeOptions, Encoder, RenderOptions, Renderer, Tokenizer,
};
use crate::config::{FLAGS, Resolved, SftConfig, Spec};
use crate::data::cache::{self, Fingerprint};
use crate::data::progress::Preparing;
use crate::data::{
    self, Cache, Dataset, Formats, Mix, PrepareOptions, SourceOptions, Stream, StreamOptions,
    read_sets,
};
use crate::hub::Hub;
use crate::model::{
    Config, ExpertsDtype, GptOss, Init, LoadOptions, LoraSettings, Targets, Training,
};
use crate::plugin;
use crate::registry::{self, Named};
use crate::weights::{Directory, WeightSource};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::abi::Crosses;
use apus_sdk::{DatasetFormat, Kind, LossScale, TokenRow};
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
            eprintln!("note: torch_dtype bfloat16: the CPU computes in float32");
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

/// How conversations are rendered and weighed.
pub struct ChatOptions<'a> {
    /// Directory with the tokenizer, or an id.
    pub dir: &'a Path,
    /// `auto`, `jinja` or `native`.
    pub backend: &'a str,
    /// Chain of loss scales.
    pub loss_scale: &'a [Spec],
    /// Rendering, and what is trained of it.
    pub encode: EncodeOptions,
}

/// Makes the encoder.
///
/// # Errors
/// No tokenizer, a broken template, an unknown loss scale.
pub fn encoder(options: ChatOptions) -> Result<Encoder> {
    let keep_thinking = options.encode.render.keep_thinking;
    let renderer = match options.backend {
        // The two write the same text but for what the model's template cannot do.
        "auto" if keep_thinking => Renderer::Native,
        "auto" => Renderer::Auto,
        "jinja" if keep_thinking => bail!(
            "keep_thinking and template_backend jinja exclude each other: the model's template leaves \
             the reasoning of earlier turns out"
        ),
        "jinja" => Renderer::Jinja,
        "native" => Renderer::Native,
        other => bail!("template_backend is {other:?}, expected auto, jinja or native"),
    };
    let dir = Hub::from_environment().tokenizer(options.dir)?;
    let tokenizer = Tokenizer::load(&dir)?;
    let template = ChatTemplate::load(&dir, renderer)?;
    let scales = options
        .loss_scale
        .iter()
        .map(|spec| Ok((scale_name(spec), registry::build::<dyn LossScale>(spec)?)))
        .collect::<Result<Vec<_>>>()?;
    let chain = Chain::new(scales)?;
    Encoder::new(Arc::new(tokenizer), template, chain, options.encode)
}

/// Where the tokenizer and the chat template of a run are: `--tokenizer`, or the model's directory.
///
/// # Errors
/// A model without a directory, and no `--tokenizer`.
pub fn chat_dir(config: &SftConfig, model_dir: Option<&Path>) -> Result<PathBuf> {
    match (&config.tokenizer, model_dir) {
        (Some(dir), _) => Ok(PathBuf::from(dir)),
        (None, Some(dir)) => Ok(dir.to_owned()),
        (None, None) => bail!(
            "{} has no tokenizer; give one with --tokenizer DIR",
            config.model
        ),
    }
}

/// The model as it was named, a directory or an id, unless it is synthetic or missing.
pub fn model_word(config: &SftConfig) -> Option<&Path> {
    let named = !config.model.is_empty() && !config.model.starts_with("synthetic:");
    named.then(|| Path::new(&config.model))
}

/// The encoder of a run.
///
/// # Errors
/// As of [`encoder`], or no tokenizer.
pub fn run_encoder(config: &SftConfig, model_dir: Option<&Path>) -> Result<Encoder> {
    encoder(ChatOptions {
        dir: &chat_dir(config, model_dir)?,
        backend: &config.template_backend,
        loss_scale: &config.loss_scale,
        encode: encode_options(config)?,
    })
}

/// What messages call a loss scale: its name, or the file that it reads.
fn scale_name(spec: &Spec) -> String {
    let path = spec.options.get("path").and_then(serde_json::Value::as_str);
    path.unwrap_or(&spec.name).to_owned()
}

/// All dataset formats; one alone if it is forced.
///
/// # Errors
/// An unknown format.
pub fn formats(forced: Option<&Spec>) -> Result<Formats> {
    let known = registry::all(Kind::DatasetFormat)?
        .into_iter()
        .map(|entry| {
            let spec = match forced {
                Some(spec) if spec.name == entry.name => spec.clone(),
                _ => Spec::named(entry.name),
            };
            let format = registry::build::<dyn DatasetFormat>(&spec)?;
            Ok((spec.name, format))
        })
        .collect::<Result<Vec<_>>>()?;
    Formats::new(known, forced.map(|spec| spec.name.as_str()))
}

/// Training and validation set of a run.
pub struct Data {
    /// To train on; empty where the data is streamed.
    pub train: Dataset,
    /// To train on, where the data is streamed.
    pub stream: Option<Stream>,
    /// To evaluate on; may be empty.
    pub val: Dataset,
    /// The rows of `val`, where they were split off, to be kept with the run.
    pub split_rows: Option<Vec<data::Record>>,
}

/// Reads and encodes the data of a run.
///
/// # Errors
/// Files that cannot be read, rows that cannot be used, nothing left.
pub fn data(config: &SftConfig, encoder: &Arc<Encoder>, vocabulary: Option<usize>) -> Result<Data> {
    ensure!(
        !config.streaming || !(config.packing || config.group_by_length),
        "streaming reads the data as it goes: packing and group_by_length need all of it; leave them out"
    );
    let mix = mix(config)?;
    let sets = read_sets(&SourceOptions {
        dataset: match config.streaming {
            true => Vec::new(),
            false => config.dataset.clone(),
        },
        val_dataset: config.val_dataset.clone(),
        split_dataset_ratio: config.split_dataset_ratio,
        mix: mix.clone().filter(|_| !config.streaming),
        columns: config.columns.clone(),
        dataset_shuffle: config.dataset_shuffle,
        val_dataset_shuffle: false,
        data_seed: config.data_seed,
    })?;
    ensure!(
        config.streaming || !sets.train.is_empty(),
        "{}: no rows",
        config.dataset.join(", ")
    );
    let formats = Arc::new(formats(config.dataset_format.as_ref())?);
    let options = PrepareOptions {
        max_length: config.max_length,
        truncation: config.truncation_strategy.parse()?,
        strict: config.strict,
        workers: None,
        vocabulary,
    };
    let cache = match config.load_from_cache_file {
        true => Some(data_cache(config, encoder, vocabulary)?),
        false => None,
    };
    let prepare = |records: &[data::Record]| {
        let anew = || {
            let bar = Preparing::start(records.len());
            data::prepare(records, &formats, encoder, &options, &|_| bar.one_more())
        };
        match &cache {
            Some(cache) => cache.get_or(records, anew),
            None => anew(),
        }
    };
    let mut train = match config.streaming {
        true => Dataset::default(),
        false => prepare(&sets.train).context("training data")?,
    };
    if let (true, Some(max_length)) = (config.packing, config.max_length) {
        train.pack(max_length);
    }
    let val = match sets.val.is_empty() {
        true => Dataset::default(),
        false => prepare(&sets.val).context("validation data")?,
    };
    // Columns of a stream are not known yet.
    let of_columns = sets.warnings.into_iter().filter(|_| !config.streaming);
    for line in of_columns
        .chain(train.report.warnings())
        .chain(val.report.warnings())
    {
        eprintln!("warning: {line}");
    }
    for note in encoder.notes() {
        eprintln!("data: {note}");
    }
    let stream = StreamOptions {
        dataset: config.dataset.clone(),
        mix,
        columns: config.columns.clone(),
        shuffle_buffer: config.dataset_shuffle.then_some(config.shuffle_buffer_size),
        data_seed: config.data_seed,
        prepare: options,
    };
    let open = || {
        let say = |line: &str| eprintln!("warning: {line}");
        Stream::open(stream, formats, Arc::clone(encoder), Box::new(say))
    };
    Ok(Data {
        train,
        stream: config.streaming.then(open).transpose()?,
        val,
        split_rows: sets.val_is_split.then_some(sets.val),
    })
}

/// The cache of prepared data, for everything that what is prepared depends on.
fn data_cache(config: &SftConfig, encoder: &Encoder, vocabulary: Option<usize>) -> Result<Cache> {
    let dir = chat_dir(config, model_word(config))?;
    let dir = Hub::from_environment().tokenizer(&dir)?;
    let options = serde_json::to_value(config)?;
    let flags = FLAGS.iter().filter(|flag| flag.shapes_rows());
    let flags = flags.map(|flag| (flag.name, &options[flag.name]));
    let mut settings = Fingerprint::new();
    settings.flags(flags)?;
    settings.text(&format!("{:?} {vocabulary:?}", encoder.options()));
    settings.text(&serde_json::to_string(&plugin::records())?);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        settings.file(&dir.join(name))?;
    }
    Ok(Cache::new(cache::folder()?, settings))
}

fn mix(config: &SftConfig) -> Result<Option<Mix>> {
    if config.interleave_prob.is_empty() {
        return Ok(None);
    }
    Ok(Some(Mix {
        probabilities: config.interleave_prob.clone(),
        stopping: config.stopping_strategy.parse()?,
    }))
}

/// Tokens of the examples of a stream, which are not known: a micro-batch is planned at its longest.
pub fn longest(config: &SftConfig, model: &Config) -> Vec<usize> {
    let longest = config.max_length.unwrap_or(model.max_position_embeddings);
    vec![longest; config.per_device_train_batch_size]
}

/// Encoded examples as the training loop takes them.
pub fn rows(dataset: &Dataset) -> Vec<TokenRow> {
    let rows = dataset.samples.iter().map(|sample| TokenRow {
        input_ids: sample.input_ids.clone(),
        labels: sample.labels.clone(),
        loss_scale: Some(sample.weights.clone()),
    });
    rows.collect()
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
        eprintln!("{}", transfer.summary(started.elapsed()));
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
    let full = config.train_type == "full";
    let (wanted, settings, start) = match (full, config.adapters.as_slice()) {
        (true, []) => (None, None, None),
        (true, _) => bail!("adapters cannot be used with train_type full; merge them first"),
        (false, []) => (Some(wanted(config)), Some(settings(config)?), None),
        (false, [dir]) => {
            let adapter = Adapter::open(Path::new(dir), &place.config)?;
            let settings = adapter.config.settings(config.seed);
            (Some(adapter.config.wanted()), Some(settings), Some(adapter))
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
    let options = load_options(
        device,
        config.torch_dtype.as_deref(),
        &config.experts_dtype,
        training,
    )?;
    let mut model = load(place, &options).with_context(|| format!("model {}", config.model))?;
    let peft = match (wanted, settings) {
        (Some(wanted), Some(settings)) => {
            model.add_lora(&targets, &settings)?;
            if let Some(adapter) = &start {
                adapter.load_into(model.params())?;
            }
            let base = Some(config.model.clone());
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

/// Makes the components that a configuration names.
///
/// # Errors
/// An unknown name, or options that do not fit.
pub fn components(resolved: &Resolved<SftConfig>) -> Result<Components> {
    let config = &resolved.config;
    let given = |flag: &str| resolved.given(flag);
    let named = |specs: &[Spec]| specs.to_vec();
    let mut callbacks = named(&config.callbacks);
    if let Some(interval) = config.early_stop_interval {
        let mut spec = Spec::named("early_stop");
        spec.options.insert("interval".to_owned(), interval.into());
        callbacks.push(spec);
    }
    let mut trackers = vec![Spec::named("console"), Spec::named("jsonl")];
    for name in &config.report_to {
        match name.as_str() {
            "none" | "console" | "jsonl" => {}
            "swanlab" | "wandb" | "mlflow" => eprintln!(
                "note: report_to {name}: that tracker is not there yet; numbers go to the terminal and logging.jsonl"
            ),
            other => trackers.push(Spec::named(other)),
        }
    }
    trackers.extend(named(&config.trackers));
    Ok(Components {
        loss: registry::named(&config.loss_type)?,
        optimizer: registry::named(&config.optimizer_spec(&given)?)?,
        schedule: registry::named(&config.schedule_spec())?,
        callbacks: each(&callbacks)?,
        metrics: each(&config.metrics)?,
        trackers: each(&trackers)?,
    })
}

fn each<T: Crosses + ?Sized>(specs: &[Spec]) -> Result<Vec<Named<T>>> {
    specs.iter().map(registry::named).collect()
}

/// The numbers of the loop.
///
/// # Errors
/// A value that is none of those a flag takes.
pub fn loop_settings(
    config: &SftConfig,
    run_dir: &Path,
    kept_layers: usize,
    args: serde_json::Map<String, serde_json::Value>,
) -> Result<Settings> {
    let every = |strategy: &str, steps: u64| match strategy {
        "steps" => Every::Steps(steps),
        "epoch" => Every::Epoch,
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
        warmup_ratio: config.warmup_ratio,
        warmup_steps: config.warmup_steps,
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
        resume_from_checkpoint: config.resume_from_checkpoint.as_ref().map(PathBuf::from),
        tracker_timeout: Duration::try_from_secs_f64(config.tracker_timeout)
            .context("tracker_timeout")?,
        config: args,
    })
}

/// How a configuration has conversations encoded.
///
/// # Errors
/// A switch that has no such value.
pub fn encode_options(config: &SftConfig) -> Result<EncodeOptions> {
    Ok(EncodeOptions {
        think_to_analysis: config.think_to_analysis,
        train_header: config.train_header.parse()?,
        train_stop: config.train_stop.parse()?,
        render: RenderOptions {
            add_generation_prompt: false,
            date: config.current_date.clone(),
            reasoning_effort: config.reasoning_effort.clone(),
            model_identity: config.model_identity.clone(),
            system: config.system.clone(),
            keep_thinking: config.keep_thinking,
        },
    })
}
