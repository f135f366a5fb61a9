//! The model that is served, found and loaded as `apus infer` does.

use crate::generate::{InferTarget, Sampling, default_sampling};
use anyhow::Result;
use apus_components::config::InferConfig;
use apus_data::chat::Encoder;
use apus_model::model::CausalLm;
use std::path::{Path, PathBuf};

/// A model that is not loaded yet.
pub struct Target {
    found: InferTarget,
    config: InferConfig,
}

impl Target {
    /// Finds the model of a configuration.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(config: InferConfig) -> Result<Self> {
        Ok(Self {
            found: InferTarget::find(&config)?,
            config,
        })
    }

    /// What it is called where it comes from: the last part of an id, or of a folder.
    pub fn name(&self) -> String {
        let word = self.config.model.as_ref().or(self.config.adapters.first());
        let word = word.map(String::as_str).unwrap_or_default();
        let last = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let path = Path::new(word);
        let name = last(path).or_else(|| last(&path.canonicalize().ok()?));
        name.unwrap_or_else(|| word.to_owned())
    }

    /// Where it comes from.
    pub fn root(&self) -> String {
        let root = self.config.model.as_ref().or(self.config.adapters.first());
        root.cloned().unwrap_or_default()
    }

    /// The folder of the adapter that is part of it.
    pub fn adapter(&self) -> Option<&PathBuf> {
        self.found.single().map(|adapter| &adapter.dir)
    }

    /// What turns conversations into prompts.
    ///
    /// # Errors
    /// A tokenizer or a template that cannot be used.
    pub fn encoder(&self) -> Result<Encoder> {
        // A server may have the date of each day, whatever it promises of answers to the same prompt.
        let config = InferConfig {
            deterministic: false,
            ..self.config.clone()
        };
        self.found.encoder(&config, None)
    }

    /// Whether prompts have a date that a flag, or the run that made the weights, says.
    pub fn has_date(&self) -> bool {
        self.found.date(&self.config).is_some()
    }

    /// How tokens are chosen where a request does not say: by the flags, or the model's generation_config.json if that samples, or
    /// as OpenAI does, at temperature 1.
    ///
    /// # Errors
    /// A value out of its range, or a file that needs what is not built.
    pub fn defaults(&self) -> Result<Sampling> {
        let (sampling, _) = default_sampling(&self.config, self.found.place.dir.as_deref())?;
        // Without a flag it is 0 where the model does not say that it is sampled.
        let is_said = self.config.temperature.is_some() || sampling.draws();
        Ok(Sampling {
            temperature: if is_said { sampling.temperature } else { 1.0 },
            ..sampling
        })
    }

    /// Loads it.
    ///
    /// # Errors
    /// A file that is missing or does not fit, or too little memory.
    pub fn load(&self) -> Result<CausalLm> {
        self.found.load(&self.config, self.found.single())
    }
}
