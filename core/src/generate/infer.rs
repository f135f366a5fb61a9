//! `apus infer`: loads a model with its adapter and answers.

use super::{Sampling, chat::chat, respond};
use crate::adapter::Adapter;
use crate::chat::{Encoder, RenderOptions};
use crate::config::InferConfig;
use crate::data::{self, SourceOptions, read_sets};
use crate::model::{ForwardOptions, GptOss, Training};
use crate::ops::SeqLayout;
use crate::train::setup::{ChatOptions, ModelPlace, encoder, find_model, formats, load_options};
use anyhow::{Context, Result, bail};
use apus_sdk::Sample;
use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The base model that an adapter folder names, in args.json or adapter_config.json.
///
/// # Errors
/// Neither names one that exists.
pub fn base_of(adapter: &Path) -> Result<PathBuf> {
    let read = |file: &str, key: &str| -> Option<String> {
        let text = std::fs::read_to_string(adapter.join(file)).ok()?;
        let json: Value = serde_json::from_str(&text).ok()?;
        Some(json.get(key)?.as_str()?.to_owned())
    };
    let named = [
        read("args.json", "model"),
        read("adapter_config.json", "base_model_name_or_path"),
    ];
    for name in named.iter().flatten() {
        if name.starts_with("synthetic:") || Path::new(name).is_dir() {
            return Ok(PathBuf::from(name));
        }
    }
    match named.into_iter().flatten().next() {
        Some(name) => bail!(
            "{}: its base model {name:?} is not there; give it with --model",
            adapter.display()
        ),
        None => bail!(
            "{}: names no base model; give it with --model",
            adapter.display()
        ),
    }
}

/// A model, its adapter's folder, and what the adapter's run was told.
struct Found {
    place: ModelPlace,
    adapter: Option<PathBuf>,
    args: Map<String, Value>,
}

fn find(config: &InferConfig) -> Result<Found> {
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
    let args = adapter
        .as_ref()
        .and_then(|dir| std::fs::read_to_string(Path::new(dir).join("args.json")).ok())
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    Ok(Found {
        place: find_model(&model, 42)?,
        adapter: adapter.map(PathBuf::from),
        args,
    })
}

/// Loads a model with its adapter, frozen.
fn load(config: &InferConfig, found: &Found) -> Result<GptOss> {
    let device = crate::device::open(&config.device)?;
    let adapter = match &found.adapter {
        Some(dir) => Some(Adapter::open(dir, &found.place.config)?),
        None => None,
    };
    let saved = adapter
        .as_ref()
        .map(|adapter| adapter.targets.modules_to_save.clone())
        .unwrap_or_default();
    let options = load_options(
        &device,
        config.torch_dtype.as_deref(),
        &config.experts_dtype,
        Training::Adapters(saved),
    )?;
    let source = found.place.source.as_ref();
    let mut model = GptOss::load(&found.place.config, source, &options, |_| {})?;
    if let Some(adapter) = adapter {
        model.add_lora(&adapter.targets, &adapter.config.settings(0))?;
        adapter.load_into(model.params())?;
    }
    Ok(model)
}

fn chat_encoder(config: &InferConfig, found: &Found) -> Result<Encoder> {
    let arg = |key: &str| {
        found
            .args
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let dir = config
        .tokenizer
        .clone()
        .map(PathBuf::from)
        .or_else(|| found.place.dir.clone())
        .or_else(|| arg("tokenizer").map(PathBuf::from))
        .context("a synthetic model has no tokenizer; give one with --tokenizer DIR")?;
    encoder(ChatOptions {
        dir: &dir,
        backend: &config.template_backend,
        loss_scale: "default",
        render: RenderOptions {
            add_generation_prompt: true,
            date: config.current_date.clone().or_else(|| arg("current_date")),
            reasoning_effort: config
                .reasoning_effort
                .clone()
                .or_else(|| arg("reasoning_effort")),
            model_identity: config
                .model_identity
                .clone()
                .or_else(|| arg("model_identity")),
            system: config.system.clone().or_else(|| arg("system")),
        },
        think_to_analysis: config.think_to_analysis,
    })
}

/// Runs `apus infer`.
///
/// # Errors
/// A model or adapter that cannot be loaded, data that cannot be read, output that cannot be written.
pub fn infer(config: &InferConfig) -> Result<()> {
    let found = find(config)?;
    let model = load(config, &found)?;
    if let Some(path) = &config.dump_logits {
        return dump_logits(&model, &config.input_ids, Path::new(path));
    }
    let encoder = chat_encoder(config, &found)?;
    let sampling = Sampling {
        temperature: config.temperature.unwrap_or(1.0),
        top_p: config.top_p,
        top_k: config.top_k,
        seed: config.seed,
        max_new_tokens: config.max_new_tokens,
    };
    if config.val_dataset.is_empty() {
        let interactive = std::io::stdin().is_terminal();
        let stream = config.stream.unwrap_or(interactive);
        let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
        let ends = (&mut input as _, &mut output as _);
        return chat(
            &model,
            &encoder,
            &sampling,
            ends,
            (stream, config.show_thinking),
        );
    }
    answer_dataset(config, &found, &model, &encoder, &sampling)
}

/// Answers each row of the dataset, with ms-swift's keys in the result.
fn answer_dataset(
    config: &InferConfig,
    found: &Found,
    model: &GptOss,
    encoder: &Encoder,
    sampling: &Sampling,
) -> Result<()> {
    let sets = read_sets(&SourceOptions {
        val_dataset: config.val_dataset.clone(),
        ..SourceOptions::default()
    })?;
    let formats = formats(config.dataset_format.as_ref())?;
    let mut samples = data::samples(&sets.val, &formats)?;
    samples.truncate(config.val_dataset_sample.unwrap_or(usize::MAX));
    let path = result_path(config, found)?;
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("{}: cannot be written", path.display()))?;
    let mut file = BufWriter::new(file);
    let start = Instant::now();
    let (mut read, mut written) = (0, 0);
    let count = samples.len();
    for (_, sample) in samples {
        let Sample::Conversation(mut conversation) = sample else {
            bail!("rows of token ids cannot be answered; infer needs conversations");
        };
        let labels = match conversation.messages.last() {
            Some(last) if last.role == "assistant" => {
                conversation.messages.pop().map(|message| message.content)
            }
            _ => None,
        };
        let stream = config.stream.unwrap_or(false);
        let (message, prompt, new) =
            respond(model, encoder, &conversation, sampling, &mut |text| {
                if stream {
                    print!("{text}");
                    drop(std::io::stdout().flush());
                }
            })?;
        if stream {
            println!();
        }
        read += prompt;
        written += new;
        let response = message.content.clone();
        conversation.messages.push(message);
        let line = json!({
            "response": response,
            "labels": labels,
            "messages": conversation.messages,
        });
        writeln!(file, "{line}")?;
        file.flush()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{count} answers, {read} prompt tokens, {written} generated tokens, {seconds:.1} s, {:.1} tokens/s; {}",
        written as f64 / seconds.max(1e-9),
        path.display()
    );
    Ok(())
}

fn result_path(config: &InferConfig, found: &Found) -> Result<PathBuf> {
    let path = match (&config.result_path, &found.adapter) {
        (Some(path), _) => PathBuf::from(path),
        (None, adapter) => {
            let home = adapter.clone().unwrap_or_else(|| PathBuf::from("result"));
            let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
            home.join("infer_result").join(format!("{time}.jsonl"))
        }
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("{}: cannot be made", parent.display()))?;
    }
    Ok(path)
}

/// Logits of token ids, for comparison with other implementations.
fn dump_logits(model: &GptOss, ids: &[String], path: &Path) -> Result<()> {
    let ids: Vec<u32> = ids
        .iter()
        .flat_map(|word| word.split(','))
        .map(|word| {
            word.trim()
                .parse()
                .with_context(|| format!("input_ids: {word:?} is no token id"))
        })
        .collect::<Result<_>>()?;
    let seqs = SeqLayout::new(&[ids.len()], model.device())?;
    let tokens = Tensor::new(ids.as_slice(), model.device())?;
    let (hidden, _) = model.forward(&tokens, &seqs, &ForwardOptions::default())?;
    let (normed, _) = model.head().forward(&hidden)?;
    let logits = model.head().logits(&normed)?.to_dtype(DType::F32)?;
    let all = HashMap::from([
        ("logits".to_owned(), logits),
        ("input_ids".to_owned(), tokens),
    ]);
    Ok(candle_core::safetensors::save(&all, path)?)
}
