//! From a configuration to how conversations become tokens.

use super::run_args::json_object;
use anyhow::{Result, bail};
use apus_base::lines::info;
use apus_components::config::SftConfig;
use apus_components::registry;
use apus_components::registry::Spec;
use apus_data::chat::{
    Chain, ChatTemplate, EncodeOptions, Encoder, RenderOptions, Renderer, Tokenizer, dialect,
};
use apus_data::hub::Hub;
use apus_sdk::{LossScale, Need};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The options of the encoder.
pub struct ChatOptions<'a> {
    /// The directory of the tokenizer, or its id on a hub.
    pub dir: &'a Path,
    /// The directory of the model, if it has one; its family chooses the dialect.
    pub model_dir: Option<&'a Path>,
    /// `auto`, `jinja` or the name of a built-in renderer of the dialect.
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
    let dir = Hub::from_environment().tokenizer(options.dir)?;
    let dialect = dialect::of(model_type(options.model_dir, &dir)?.as_deref());
    let keep_thinking = options.encode.render.keep_thinking;
    let renderer = match (options.backend, dialect.renderers().first()) {
        // These two write the same text but for what the model's template cannot do.
        ("auto", Some(built_in)) if keep_thinking => Renderer::BuiltIn(built_in.name),
        ("auto", _) => Renderer::Auto,
        ("jinja", _) if keep_thinking => bail!(
            "keep_thinking and template_backend jinja exclude each other: the model's template leaves \
             the reasoning of earlier turns out"
        ),
        ("jinja", _) => Renderer::Jinja,
        (name, _) => Renderer::BuiltIn(name),
    };
    let tokenizer = Tokenizer::load(&dir)?;
    let template = ChatTemplate::load(&dir, dialect, renderer)?;
    let scales = options
        .loss_scale
        .iter()
        .map(|spec| Ok((scale_name(spec), registry::named::<dyn LossScale>(spec)?)))
        .collect::<Result<Vec<_>>>()?;
    let needs: Vec<Vec<Need>> = scales
        .iter()
        .map(|(_, scale)| scale.needs.clone())
        .collect();
    let scales = scales
        .into_iter()
        .map(|(name, scale)| (name, scale.component));
    let chain = Chain::new(scales.collect())?.with_needs(&needs);
    let encoder = Encoder::new(Arc::new(tokenizer), template, chain, options.encode)?;
    Ok(encoder.of_folder(dir))
}

/// The family of a model: `model_type` in its config.json, or else in the one beside the tokenizer.
fn model_type(model_dir: Option<&Path>, tokenizer_dir: &Path) -> Result<Option<String>> {
    for dir in model_dir.into_iter().chain([tokenizer_dir]) {
        let config = json_object(&dir.join("config.json"))?;
        if let Some(model_type) = config.get("model_type").and_then(Value::as_str) {
            return Ok(Some(model_type.to_owned()));
        }
    }
    Ok(None)
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
    let encoder = encoder(ChatOptions {
        dir: &chat_dir(config, model_dir)?,
        model_dir,
        backend: &config.template_backend,
        loss_scale: &config.loss_scale,
        encode: encode_options(config)?,
    })?;
    if let Some(note) = encoder.dialect().remark(&encoder.options().render) {
        info!("note: {note}");
    }
    Ok(encoder)
}

/// The name of a loss scale in messages: its own name, or the file that it reads.
fn scale_name(spec: &Spec) -> String {
    let path = spec.options.get("path").and_then(Value::as_str);
    path.unwrap_or(&spec.name).to_owned()
}

/// The encoder's options in a configuration.
///
/// # Errors
/// An unknown value of a flag.
pub fn encode_options(config: &SftConfig) -> Result<EncodeOptions> {
    Ok(EncodeOptions {
        think_to_analysis: config.think_to_analysis,
        train_header: config.train_header,
        train_stop: config.train_stop,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_is_that_of_the_model_before_that_of_the_tokenizer() {
        let (model, tokenizer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let found = || model_type(Some(model.path()), tokenizer.path()).unwrap();
        let write = |dir: &Path, json: &str| std::fs::write(dir.join("config.json"), json).unwrap();
        assert_eq!(found(), None);
        write(tokenizer.path(), r#"{"model_type": "b"}"#);
        assert_eq!(found().as_deref(), Some("b"));
        write(model.path(), r#"{"model_type": "a"}"#);
        assert_eq!(found().as_deref(), Some("a"));
        write(model.path(), "{");
        let bad = model_type(Some(model.path()), tokenizer.path()).unwrap_err();
        assert!(
            format!("{bad:#}").contains("config.json: malformed JSON"),
            "{bad:#}"
        );
    }
}
