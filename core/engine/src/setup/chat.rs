//! From a configuration to how conversations become tokens.

use anyhow::{Result, bail};
use apus_base::lines::info;
use apus_components::config::SftConfig;
use apus_components::registry;
use apus_components::registry::Spec;
use apus_data::chat::{
    Chain, ChatTemplate, EncodeOptions, Encoder, RenderOptions, Renderer, Tokenizer,
};
use apus_data::hub::Hub;
use apus_sdk::LossScale;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The options of the encoder.
pub struct ChatOptions<'a> {
    /// The directory of the tokenizer, or its id on a hub.
    pub dir: &'a Path,
    /// `auto`, `jinja`, `native` or `harmony`.
    pub backend: &'a str,
    /// The chain of loss scales.
    pub loss_scale: &'a [Spec],
    /// How conversations are rendered, and which parts are trained.
    pub encode: EncodeOptions,
}

/// Makes the encoder.
///
/// # Errors
/// No tokenizer, a broken template, an unknown loss scale.
pub fn encoder(options: ChatOptions) -> Result<Encoder> {
    let keep_thinking = options.encode.render.keep_thinking;
    let renderer = match options.backend {
        // These two write the same text but for what the model's template cannot do.
        "auto" if keep_thinking => Renderer::Native,
        "auto" => Renderer::Auto,
        "jinja" if keep_thinking => bail!(
            "keep_thinking and template_backend jinja exclude each other: the model's template leaves \
             the reasoning of earlier turns out"
        ),
        "jinja" => Renderer::Jinja,
        "native" => Renderer::Native,
        "harmony" => Renderer::Harmony,
        other => bail!("template_backend is {other:?}, expected auto, jinja, native or harmony"),
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
    let encoder = Encoder::new(Arc::new(tokenizer), template, chain, options.encode)?;
    Ok(encoder.of_folder(dir))
}

/// The directory of a run's tokenizer and chat template: `--tokenizer`, or the model's directory.
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

/// The model as the configuration names it, a directory or an id; `None` if it is synthetic or missing.
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

/// The name of a loss scale in messages: its own name, or the file that it reads.
fn scale_name(spec: &Spec) -> String {
    let path = spec.options.get("path").and_then(serde_json::Value::as_str);
    path.unwrap_or(&spec.name).to_owned()
}

/// The reasoning efforts that the model was trained with.
const EFFORTS: [&str; 3] = ["low", "medium", "high"];

/// The encoder's options in a configuration.
///
/// # Errors
/// An unknown value of a flag.
pub fn encode_options(config: &SftConfig) -> Result<EncodeOptions> {
    if let Some(effort) = &config.reasoning_effort
        && !EFFORTS.contains(&effort.as_str())
    {
        info!(
            "note: reasoning_effort {effort}: gpt-oss knows {}",
            EFFORTS.join(", ")
        );
    }
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
