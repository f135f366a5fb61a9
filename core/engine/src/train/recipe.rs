//! `apus sft`, from the configuration to the summary, readable like a recipe.

use super::about;
use super::best;
use super::checkpoint::weights_file;
use super::dry_run::dry_run;
use super::examples::{self, Examples};
use super::fit::fit;
use super::resume::Resume;
use super::run_folder::RunFolder;
use super::trainer::{ModelFiles, Outcome, Trainer, how_to_go_on};
use super::{parts, screen};
use crate::generate::{Sampling, answer};
use crate::out_of_memory;
use crate::setup;
use anyhow::{Context, Result, bail};
use apus_base::say::{info, warning};
use apus_base::signals;
use apus_components::config::{Resolved, SftConfig};
use apus_components::plugin;
use apus_components::registry;
use apus_components::secrets;
use apus_data::chat::Encoder;
use apus_data::hub;
use apus_model::adapter::{self, Adapter, PeftConfig, Table};
use apus_model::model::GptOss;
use apus_model::weights;
use apus_sdk::{Decoder, outln};
use candle_core::Device;
use console::Term;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs a fine-tuning; returns whether a signal ended it early.
///
/// # Errors
/// Anything that stops it; checkpoints that were written stay.
pub fn run(resolved: &Resolved<SftConfig>) -> Result<bool> {
    match train(resolved) {
        Err(error) if signals::is_interrupted(&error) => {
            info!("stopped before the first step; there is nothing to save");
            Ok(true)
        }
        result => result,
    }
}

fn train(resolved: &Resolved<SftConfig>) -> Result<bool> {
    let mut config = resolved.config.clone();
    config.check(&|flag| resolved.given(flag))?;
    refuse_many_processes(&config)?;
    for note in &resolved.notes {
        info!("note: {note}");
    }

    registry::load(&config.plugins)?;
    hub::prefer(config.use_hf);
    let resume = Resume::open(&config)?;
    if let Some(resume) = &resume {
        say_which_plugins_differ(&resume.dir);
        resume.keep_date(&mut config);
    }
    let components = parts::components(resolved)?;
    best::check_name(&config.metric_for_best_model, &components)?;
    let device = apus_model::device::open(&config.device)?;
    if config.deterministic {
        apus_model::device::repeat(&device)?;
    }
    let place = setup::find_model(&config.model, config.seed)?;
    let encoder = Arc::new(setup::run_encoder(&config, place.dir.as_deref())?);
    // Today's if it was left open: what is trained follows from it.
    config.current_date = encoder.options().render.date.clone();
    let config = &config;
    let mut data = setup::data(config, &encoder, Some(place.config.vocab_size))?;
    match &data.stream {
        Some(_) => info!("data: read as training goes on, reported at the end"),
        None => {
            let columns = Term::stderr().size_checked().map(|(_, columns)| columns);
            info!("data\n{}", data.train.report.to_fit(columns));
        }
    }

    let explain = |error| out_of_memory::explain(error, &device, &args(config));
    let lengths = match &data.stream {
        Some(_) => setup::longest(config, &place.config),
        None => examples::lengths(&data.train.samples, data.train.packs.as_deref()),
    };
    if config.dry_run {
        return dry_run(config, &place, &device, &encoder, (&mut data, &lengths)).map(|()| false);
    }
    let mut ready = parts::model(config, &place, &device).map_err(explain)?;
    let shape = fit(config, &mut ready.model, &lengths).map_err(explain)?;
    let table = Table::of(&ready.model);
    info!("{table}");

    let mut folder = RunFolder::take(config)?;
    folder.say_what_is_not_ours(resume.as_ref().map(|resume| resume.dir.as_path()));
    let run_dir = &folder.path().to_owned();
    let args = args(config);
    let args_text = serde_json::to_string_pretty(&args)?;
    let kept_layers = shape.kept_layers as usize;
    let terms = parts::terms(resolved, &args, &place, &ready)?;
    let about = about::model(&table);
    let going_on = (resume, terms);
    let settings = parts::loop_settings(config, run_dir, kept_layers, args, about, going_on)?;
    let files = Files {
        peft: ready.peft,
        config: place.config.raw.clone(),
        model_dir: place.dir.clone(),
        encoder: &encoder,
        sampling: sampling(config),
    };

    signals::catch(screen::restore)?;
    let examples = match data.stream.take() {
        Some(stream) => Examples::streamed(stream),
        None => Examples::in_memory(&data.train.samples, data.train.packs.as_deref()),
    };
    let trainer = Trainer::new(
        &ready.model,
        &files,
        &settings,
        (examples, &data.val.samples),
        components,
    )
    .map_err(explain)?;
    // Only now: a run that was refused leaves the folder as it was.
    folder.keep();
    fs::write(run_dir.join("args.json"), args_text)
        .with_context(|| format!("{}: args.json cannot be written", run_dir.display()))?;
    if let Some(rows) = &data.split_rows {
        let lines: Vec<String> = rows.iter().map(|row| row.one_line()).collect();
        fs::write(run_dir.join("val_dataset.jsonl"), lines.join("\n") + "\n")?;
    }
    info!(
        "run: {}, {} steps",
        run_dir.display(),
        trainer.steps().total
    );
    let mut extra = Map::new();
    extra.insert(
        "model_parameter_info".to_owned(),
        json!(parameter_info(&table)),
    );
    extra.insert(
        "train_dataset".to_owned(),
        json!(data.train.report.to_string()),
    );
    extra.insert("val_dataset".to_owned(), json!(data.val.report.to_string()));
    let outcome = trainer.run(extra)?;
    summary(config, &outcome, run_dir);
    Ok(outcome.interrupted)
}

/// A resumed run says which plugins of it are missing or are other builds now.
fn say_which_plugins_differ(checkpoint: &Path) {
    for line in plugin::compare(checkpoint) {
        warning!("{line}");
    }
}

/// One process uses one card; a launcher's variable must not change the batch in silence.
fn refuse_many_processes(config: &SftConfig) -> Result<()> {
    let Ok(count) = std::env::var("NPROC_PER_NODE") else {
        return Ok(());
    };
    let processes: usize = count
        .parse()
        .with_context(|| format!("NPROC_PER_NODE is {count:?}"))?;
    if processes > 1 {
        let (size, steps) = (config.per_device_train_batch_size, config.accumulation());
        bail!(
            "NPROC_PER_NODE is {processes}, and this apus trains on one card: the global batch would have \
             been {} (per_device_train_batch_size {size} x gradient_accumulation_steps {steps} x {processes} \
             processes). Unset NPROC_PER_NODE and set gradient_accumulation_steps to {} to keep it",
            size * steps * processes,
            steps * processes
        );
    }
    Ok(())
}

/// The resolved configuration as args.json holds it.
pub(crate) fn args(config: &SftConfig) -> Map<String, Value> {
    let Ok(Value::Object(mut args)) = serde_json::to_value(config) else {
        return Map::new();
    };
    args.insert(
        "gradient_accumulation_steps".to_owned(),
        json!(config.accumulation()),
    );
    args.insert("learning_rate".to_owned(), json!(config.base_lr()));
    args.insert("eval_strategy".to_owned(), json!(config.eval_strategy()));
    args.insert("eval_steps".to_owned(), json!(config.eval_steps()));
    args.insert("plugins".to_owned(), json!(plugin::records()));
    args.insert("model".to_owned(), json!(setup::lasting(&config.model)));
    if let Some(tokenizer) = &config.tokenizer {
        args.insert("tokenizer".to_owned(), json!(setup::lasting(tokenizer)));
    }
    args.insert("apus_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    secrets::forget_secrets(&mut args);
    args
}

fn sampling(config: &SftConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        ..Sampling::greedy(config.max_new_tokens)
    }
}

/// The trained part of a model on disk, and its answers.
struct Files<'a> {
    peft: Option<PeftConfig>,
    config: Map<String, Value>,
    model_dir: Option<PathBuf>,
    encoder: &'a Encoder,
    sampling: Sampling,
}

impl Decoder for Files<'_> {
    fn decode(&self, tokens: &[u32]) -> apus_sdk::Result<String> {
        Ok(self.encoder.tokenizer().decode(tokens, false))
    }
}

impl ModelFiles for Files<'_> {
    fn weights_file(&self) -> &'static str {
        weights_file(self.peft.is_none())
    }

    fn save(&self, model: &GptOss, dir: &Path) -> Result<()> {
        if let Some(peft) = &self.peft {
            return adapter::save(dir, model.params(), peft);
        }
        let tensors: HashMap<String, _> = model
            .params()
            .iter()
            .map(|p| (p.name().to_owned(), p.value()))
            .collect();
        weights::save(&tensors, &dir.join(self.weights_file()))?;
        let mut config = self.config.clone();
        config.shift_remove("quantization_config");
        config.insert("torch_dtype".to_owned(), json!("float32"));
        fs::write(
            dir.join("config.json"),
            serde_json::to_string_pretty(&config)?,
        )?;
        if let Some(from) = &self.model_dir {
            crate::export::writer::copy_companions(from, dir)?;
        }
        Ok(())
    }

    fn load(&self, model: &GptOss, dir: &Path) -> Result<()> {
        if self.peft.is_some() {
            return Adapter::open(dir, model.config())?.load_into(model.params());
        }
        let path = dir.join(self.weights_file());
        let saved = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        for param in model.params() {
            let value = saved
                .get(param.name())
                .with_context(|| format!("{}: has no {}", path.display(), param.name()))?;
            param.set(value)?;
        }
        Ok(())
    }

    fn answer(&self, model: &GptOss, prompt: &str) -> Result<String> {
        answer(model, self.encoder, prompt, &self.sampling)
    }
}

/// `20918.7386M Params (3.9813M Trainable [0.0190%])`, as ms-swift writes it.
fn parameter_info(table: &Table) -> String {
    let (all, trained) = (
        table.parameters() as f64 / 1e6,
        table.trainable() as f64 / 1e6,
    );
    format!(
        "{all:.4}M Params ({trained:.4}M Trainable [{:.4}%])",
        100.0 * trained / all
    )
}

/// The last lines, which name nothing that is not on the disk.
fn summary(config: &SftConfig, outcome: &Outcome, run_dir: &Path) {
    let (before, after) = (&outcome.before, &outcome.after);
    let answers = before.answers.iter().zip(&after.answers);
    for (prompt, (before, after)) in config.sample_prompts.iter().zip(answers) {
        outln!("\n{prompt}\n  before: {before}\n  after:  {after}");
    }
    outln!();
    if let (Some(first), Some(last)) = (before.eval_loss, after.eval_loss) {
        outln!("eval loss: {first:.4} before, {last:.4} after");
    }
    let number = |key: &str| outcome.summary.get(key).and_then(Value::as_f64);
    if let (Some(rate), Some(seconds)) = (number("tokens_per_second"), number("train_runtime")) {
        let memory = number("memory(GiB)")
            .map_or(String::new(), |gib| format!(", peak memory {gib:.2} GiB"));
        outln!("{rate:.0} tokens/s, {seconds:.0} s{memory}");
    }
    outln!("run: {}", run_dir.display());
    if let Some((metric, value)) = &outcome.unsaved_best {
        outln!(
            "best {metric}: {value:.4}, of weights that were not saved (--save_strategy best saves them)"
        );
    }
    if let Some(best) = &outcome.best_checkpoint {
        outln!("best checkpoint: {}", best.display());
    }
    if let Some(last) = &outcome.last_checkpoint {
        outln!("last checkpoint: {}", last.display());
    }
    if let Some(weights) = &outcome.weights {
        match config.train_type.as_str() {
            "full" => outln!("try it: apus infer --model {}", weights.display()),
            _ => outln!("try it: apus infer --adapters {}", weights.display()),
        }
    }
    if let (true, Some(last)) = (outcome.interrupted, &outcome.last_checkpoint) {
        outln!("go on:  add {}", how_to_go_on(last, config.save_only_model));
    }
}
