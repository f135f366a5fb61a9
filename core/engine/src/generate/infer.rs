//! `apus infer`: loads a model with its adapter and generates answers.

use super::chat::{SessionOptions, chat};
use super::results::Results;
use super::{Engine, EngineOptions, dataset, defaults, logits};
use crate::out_of_memory::explain;
use crate::setup::RunArgs;
use crate::setup::{
    ChatOptions, ModelPlace, base_of, encoder, find_model, load as load_model, load_options,
};
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{FLAGS, InferConfig, Topic, values};
use apus_components::plugin;
use apus_components::registry;
use apus_data::chat::dialect::ViewOptions;
use apus_data::chat::{EncodeOptions, Encoder, RenderOptions};
use apus_data::hub;
use apus_model::adapter::Adapter;
use apus_model::model::{CausalLm, Training};
use apus_sdk::errln;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The model that answers, its adapter's folder, and the arguments of the run that made the adapter or, without an
/// adapter, the model.
struct InferTarget {
    place: ModelPlace,
    adapter: Option<PathBuf>,
    args: RunArgs,
    /// The folder below which answers are written if no file is named.
    home: PathBuf,
}

fn find(config: &InferConfig) -> Result<InferTarget> {
    let is_adapter = |dir: &str| Path::new(dir).join("adapter_config.json").is_file();
    let (model, adapter) = match (&config.model, config.adapters.as_slice()) {
        (None, []) => bail!("--model or --adapters is missing"),
        (None, [dir]) => (
            base_of(Path::new(dir))?.display().to_string(),
            Some(dir.clone()),
        ),
        (Some(dir), []) if is_adapter(dir) => (
            base_of(Path::new(dir))?.display().to_string(),
            Some(dir.clone()),
        ),
        (Some(model), []) => (model.clone(), None),
        (Some(model), [dir]) => (model.clone(), Some(dir.clone())),
        (_, many) => bail!("{} adapters are given, infer takes one", many.len()),
    };
    let made = match &adapter {
        Some(dir) => Some(Path::new(dir)),
        None => Some(Path::new(&model)).filter(|dir| dir.join("args.json").is_file()),
    };
    let args = made.map_or_else(|| Ok(RunArgs::default()), RunArgs::beside)?;
    let home = made.map_or_else(
        || Path::new("result").join(Path::new(&model).file_name().unwrap_or("model".as_ref())),
        Path::to_owned,
    );
    // A synthetic base has the weights of the run's seed.
    let place = find_model(&model, args.seed().unwrap_or(42));
    let place = match &adapter {
        Some(dir) => {
            place.with_context(|| format!("base model of {dir} (--model gives another)"))?
        }
        None => place?,
    };
    Ok(InferTarget {
        place,
        adapter: adapter.map(PathBuf::from),
        args,
        home,
    })
}

/// Loads a model with its adapter, frozen.
fn load(config: &InferConfig, target: &InferTarget) -> Result<CausalLm> {
    let device = apus_model::device::open(&config.device)?;
    let adapter = match &target.adapter {
        Some(dir) => Some(Adapter::open(dir, &target.place.config)?),
        None => None,
    };
    for note in adapter.iter().flat_map(|adapter| &adapter.notes) {
        errln!("note: {note}");
    }
    let saved = adapter
        .as_ref()
        .map(|adapter| adapter.targets.modules_to_save.clone())
        .unwrap_or_default();
    let options = load_options(
        &device,
        config.torch_dtype,
        config.experts_dtype,
        Training::Adapters(saved),
    )?;
    let mut model = load_model(&target.place, &options)
        .map_err(|error| explain(error, &device, &values(config)))?;
    if let Some(adapter) = adapter {
        model.add_lora(&adapter.targets, &adapter.config.settings(0))?;
        adapter.load_into(model.params())?;
    }
    Ok(model)
}

fn chat_encoder(config: &InferConfig, target: &InferTarget) -> Result<Encoder> {
    let given = |flag: &Option<String>, key: &str| flag.clone().or_else(|| target.args.text(key));
    let switch = |flag: Option<bool>, key: &str| flag.or_else(|| target.args.flag(key));
    let dir = given(&config.tokenizer, "tokenizer")
        .map(PathBuf::from)
        .or_else(|| target.place.dir.clone())
        .context("a synthetic model has no tokenizer; give one with --tokenizer DIR_OR_ID")?;
    let backend = given(&config.template_backend, "template_backend");
    encoder(ChatOptions {
        dir: &dir,
        model_dir: target.place.dir.as_deref(),
        backend: backend.as_deref().unwrap_or("auto"),
        loss_scale: &[],
        encode: EncodeOptions {
            think_to_analysis: switch(config.think_to_analysis, "think_to_analysis")
                .unwrap_or(true),
            render: RenderOptions {
                add_generation_prompt: true,
                date: given(&config.current_date, "current_date"),
                reasoning_effort: given(&config.reasoning_effort, "reasoning_effort"),
                model_identity: given(&config.model_identity, "model_identity"),
                system: given(&config.system, "system"),
                keep_thinking: switch(config.keep_thinking, "keep_thinking").unwrap_or(false),
            },
            ..EncodeOptions::default()
        },
    })
}

/// An engine that answers one conversation at a time.
fn engine<'m>(model: &'m CausalLm, encoder: &Encoder) -> Result<Engine<'m>> {
    let options = EngineOptions {
        max_batch_size: 1,
        ..EngineOptions::default()
    };
    Engine::new(model, Arc::clone(encoder.tokenizer()), options)
}

/// Given flags that have no effect in a conversation at the terminal, because they are about the rows of a dataset.
fn idle_at_the_terminal(config: &InferConfig) -> Vec<&'static str> {
    let (now, unset) = (values(config), values(&InferConfig::default()));
    let flags = FLAGS
        .iter()
        .filter(|flag| flag.about.contains(&Topic::Questions));
    let names = flags.map(|flag| flag.name);
    names
        .filter(|&name| now.get(name) != unset.get(name))
        .collect()
}

/// Runs `apus infer`.
///
/// # Errors
/// A model or adapter that cannot be loaded, data that cannot be read, output that cannot be written.
pub fn infer(config: &InferConfig) -> Result<()> {
    ensure!(
        config.input_ids.is_empty() || config.dump_logits.is_some(),
        "input_ids are the tokens whose logits go to --dump_logits FILE, which is missing"
    );
    registry::load(&config.plugins)?;
    hub::prefer(config.use_hf);
    let target = find(config)?;
    for line in target.adapter.iter().flat_map(|dir| plugin::compare(dir)) {
        errln!("note: {line}");
    }
    if let Some(path) = &config.dump_logits {
        let ids = logits::ids(
            &config.input_ids,
            target.place.config.architecture.vocab_size,
        )?;
        return logits::dump(&load(config, &target)?, &ids, Path::new(path));
    }
    let (sampling, note) = defaults::sampling(config, target.place.dir.as_deref())?;
    if let Some(note) = note {
        errln!("note: {note}");
    }
    let encoder = chat_encoder(config, &target)?;
    let view_options = ViewOptions {
        thinking: config.show_thinking,
        colour: console::colors_enabled(),
    };
    let positions = target.place.config.architecture.max_position_embeddings;
    if !config.val_dataset.is_empty() || !config.dataset.is_empty() {
        if !config.val_dataset.is_empty() && !config.dataset.is_empty() {
            errln!("note: the rows of val_dataset are answered, those of dataset are not");
        }
        let questions = dataset::Questions::open(config, &encoder, positions, &target.home)?;
        let model = load(config, &target)?;
        let mut engine = engine(&model, &encoder)?;
        return questions.answer(&mut engine, &encoder, &sampling, view_options);
    }
    for flag in idle_at_the_terminal(config) {
        errln!("note: {flag}: is about rows of --val_dataset, and there are none");
    }
    let results = config.result_path.as_deref().map(Path::new);
    let mut session = SessionOptions {
        most: dataset::most(config, positions),
        stream: config.stream.unwrap_or(true),
        view_options,
        results: results.map(Results::open).transpose()?,
    };
    let model = load(config, &target)?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let start = Instant::now();
    let ends = (&mut input as _, &mut output as _);
    let mut engine = engine(&model, &encoder)?;
    let outcome = chat(&mut engine, &encoder, &sampling, ends, &mut session).and_then(|counts| {
        if counts.samples > 0 {
            writeln!(output, "{}", counts.line(start.elapsed().as_secs_f64()))?;
        }
        Ok(())
    });
    match outcome {
        // Whoever read along has left, and nobody else waits for an answer.
        Err(error) if is_closed(&error) => Ok(()),
        result => result,
    }
}

/// Whether an error means that the reader of our output has closed the pipe.
fn is_closed(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
