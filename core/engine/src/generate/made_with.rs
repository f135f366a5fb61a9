//! What the answers to a dataset are made with, by the names of the flags: whoever goes on with a file of answers has to have
//! the same.
//!
//! What changes no answer is left out: how many are generated at once, on which device, where files lie.

use super::Sampling;
use super::results::MadeWith;
use super::target::InferTarget;
use crate::setup::model_files;
use anyhow::Result;
use apus_base::checksums::sampled;
use apus_components::config::InferConfig;
use apus_data::chat::Encoder;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The values of a configuration, with what the files say where no flag does.
///
/// # Errors
/// A file of the model or of an adapter that cannot be read.
pub fn made_with(
    config: &InferConfig,
    target: &InferTarget,
    encoder: &Encoder,
    sampling: &Sampling,
) -> Result<MadeWith> {
    let mut values = Map::new();
    let mut put = |name: &str, value: Value| drop(values.insert(name.to_owned(), value));
    put(
        "model",
        match &target.place.dir {
            Some(dir) => hash(&model_files(dir)?)?.into(),
            None => config.model.clone().into(),
        },
    );
    let adapters = target.adapters.iter().map(|adapter| {
        let mut files = model_files(&adapter.dir)?;
        files.push(adapter.dir.join("adapter_config.json"));
        hash(&files)
    });
    put("adapters", adapters.collect::<Result<Vec<_>>>()?.into());
    let chat = target.tokenizer(config)?;
    let files = ["tokenizer.json", "chat_template.jinja"].map(|name| chat.join(name));
    let files: Vec<PathBuf> = files.into_iter().filter(|file| file.is_file()).collect();
    put("tokenizer", hash(&files)?.into());
    let options = encoder.options();
    let render = &options.render;
    put("template_backend", target.backend(config).into());
    put("system", json!(render.system));
    put("current_date", json!(render.date));
    put("reasoning_effort", json!(render.reasoning_effort));
    put("model_identity", json!(render.model_identity));
    put("keep_thinking", render.keep_thinking.into());
    put("think_to_analysis", options.think_to_analysis.into());
    put("max_length", json!(config.max_length));
    put("max_new_tokens", sampling.max_new_tokens.into());
    put("temperature", sampling.temperature.into());
    if sampling.draws() {
        put("seed", sampling.seed.into());
        put("top_k", sampling.top_k.into());
        put("top_p", sampling.top_p.into());
        put("min_p", sampling.min_p.into());
    }
    put("repetition_penalty", sampling.repetition_penalty.into());
    put("presence_penalty", sampling.presence_penalty.into());
    put("frequency_penalty", sampling.frequency_penalty.into());
    put("stop_words", json!(config.stop_words));
    put("n", config.n.into());
    put("logprobs", config.logprobs.into());
    put("top_logprobs", json!(config.top_logprobs));
    Ok(MadeWith::new(values))
}

/// The beginning of a hash over samples of files.
fn hash(files: &[PathBuf]) -> Result<String> {
    let mut hash = sampled(files.iter().map(PathBuf::as_path as fn(&PathBuf) -> &Path))?;
    hash.truncate(16);
    Ok(hash)
}
