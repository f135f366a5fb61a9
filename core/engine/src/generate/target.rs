//! What answers: a model with adapters, found by their names, and how conversations become its prompts.

use super::adapters::NamedAdapter;
use crate::out_of_memory::explain;
use crate::setup::RunArgs;
use crate::setup::{
    ChatOptions, ModelPlace, base_of, encoder, find_model, load as load_model, load_options,
};
use crate::tuners::OpenedAdapter;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{InferConfig, values};
use apus_data::chat::{EncodeOptions, Encoder, RenderOptions};
use apus_model::model::{CausalLm, Training};
use apus_sdk::errln;
use std::path::{Path, PathBuf};

/// The model that answers, its adapters, and the arguments of the run that made the first of them or, without an adapter, the
/// model.
pub struct InferTarget {
    /// The model.
    pub place: ModelPlace,
    /// Its adapters.
    pub adapters: Vec<NamedAdapter>,
    args: RunArgs,
    /// The folder below which answers are written if no file is named.
    pub home: PathBuf,
}

/// The adapters of a configuration; one may be given in place of the model.
///
/// # Errors
/// Two of one name.
fn adapters(config: &InferConfig) -> Result<(Vec<NamedAdapter>, bool)> {
    let is_adapter = |dir: &str| Path::new(dir).join("adapter_config.json").is_file();
    let named = NamedAdapter::read_all(&config.adapters)?;
    match &config.model {
        Some(dir) if named.is_empty() && is_adapter(dir) => {
            Ok((vec![NamedAdapter::read(dir)?], true))
        }
        _ => Ok((named, false)),
    }
}

/// The folders of the adapters of a configuration.
///
/// # Errors
/// Two of one name.
pub fn adapter_folders(config: &InferConfig) -> Result<Vec<PathBuf>> {
    let (named, _) = adapters(config)?;
    Ok(named.into_iter().map(|adapter| adapter.dir).collect())
}

impl InferTarget {
    /// Finds the model and the adapters of a configuration.
    ///
    /// # Errors
    /// One that is not there, adapters of different models, or two of one name.
    pub fn find(config: &InferConfig) -> Result<Self> {
        let (adapters, in_place_of_model) = adapters(config)?;
        let model = match &config.model {
            Some(model) if !in_place_of_model => model.clone(),
            _ => base_of_all(&adapters)?,
        };
        let made = match adapters.first() {
            Some(adapter) => Some(adapter.dir.as_path()),
            None => Some(Path::new(&model)).filter(|dir| dir.join("args.json").is_file()),
        };
        let args = made.map_or_else(|| Ok(RunArgs::default()), RunArgs::beside)?;
        let home = made.map_or_else(
            || Path::new("result").join(Path::new(&model).file_name().unwrap_or("model".as_ref())),
            Path::to_owned,
        );
        // A synthetic base has the weights of the run's seed.
        let place = find_model(&model, args.seed().unwrap_or(42));
        let place = match adapters.first() {
            Some(adapter) => place.with_context(|| {
                format!(
                    "base model of {} (--model gives another)",
                    adapter.dir.display()
                )
            })?,
            None => place?,
        };
        Ok(Self {
            place,
            adapters,
            args,
            home,
        })
    }

    /// The single adapter, if there is no other.
    pub fn single(&self) -> Option<&NamedAdapter> {
        match self.adapters.as_slice() {
            [single] => Some(single),
            _ => None,
        }
    }

    /// Whether the adapters can be beside the model, so that it answers with each of them and without any. A single one that
    /// cannot is to be a part of the model.
    ///
    /// # Errors
    /// An adapter that cannot be opened.
    pub fn are_beside(&self) -> Result<bool> {
        let Some(single) = self.single() else {
            return Ok(true);
        };
        let adapter = OpenedAdapter::open(&single.dir, &self.place.config)?;
        Ok(adapter.update_set().is_ok())
    }

    /// Loads the model, frozen, with this adapter as a part of it.
    ///
    /// # Errors
    /// A file that is missing or does not fit, or too little memory.
    pub fn load(&self, config: &InferConfig, own: Option<&NamedAdapter>) -> Result<CausalLm> {
        let device = apus_model::device::open(&config.device)?;
        if config.deterministic {
            apus_model::device::make_deterministic(&device)?;
        }
        let adapter = match own {
            Some(own) => Some(OpenedAdapter::open(&own.dir, &self.place.config)?),
            None => None,
        };
        for note in adapter.iter().flat_map(|adapter| adapter.notes()) {
            errln!("note: {note}");
        }
        let saved = adapter
            .as_ref()
            .map(|adapter| adapter.modules_to_save().to_vec())
            .unwrap_or_default();
        let options = load_options(
            &device,
            config.torch_dtype,
            config.experts_dtype,
            Training::Adapters(saved),
        )?;
        let mut model = load_model(&self.place, &options)
            .map_err(|error| explain(error, &device, &values(config)))?;
        if let Some(adapter) = adapter {
            adapter.put_on(&mut model)?;
        }
        Ok(model)
    }

    /// The folder with the tokenizer.
    ///
    /// # Errors
    /// There is none.
    pub fn tokenizer(&self, config: &InferConfig) -> Result<PathBuf> {
        let given = config.tokenizer.clone();
        given
            .or_else(|| self.args.text("tokenizer"))
            .map(PathBuf::from)
            .or_else(|| self.place.dir.clone())
            .context("a synthetic model has no tokenizer; give one with --tokenizer DIR_OR_ID")
    }

    /// The date of prompts, as a flag or the run says it.
    pub fn date(&self, config: &InferConfig) -> Option<String> {
        let given = config.current_date.clone();
        given.or_else(|| self.args.text("current_date"))
    }

    /// What renders conversations.
    pub fn backend(&self, config: &InferConfig) -> String {
        let given = config.template_backend.clone();
        let told = || self.args.text("template_backend");
        given.or_else(told).unwrap_or_else(|| "auto".to_owned())
    }

    /// What turns conversations into prompts. `date` is that of prompts if neither a flag nor the run says one.
    ///
    /// # Errors
    /// A tokenizer or a template that cannot be used.
    pub fn encoder(&self, config: &InferConfig, date: Option<&str>) -> Result<Encoder> {
        let given = |flag: &Option<String>, key: &str| flag.clone().or_else(|| self.args.text(key));
        let switch = |flag: Option<bool>, key: &str| flag.or_else(|| self.args.flag(key));
        let date = self.date(config).or_else(|| date.map(str::to_owned));
        ensure!(
            !config.deterministic || date.is_some(),
            "deterministic is true and current_date is not given: the system message would carry the day of the run; \
             give --current_date YYYY-MM-DD"
        );
        encoder(ChatOptions {
            dir: &self.tokenizer(config)?,
            model_dir: self.place.dir.as_deref(),
            backend: &self.backend(config),
            loss_scale: &[],
            encode: EncodeOptions {
                think_to_analysis: switch(config.think_to_analysis, "think_to_analysis")
                    .unwrap_or(true),
                render: RenderOptions {
                    add_generation_prompt: true,
                    date,
                    reasoning_effort: given(&config.reasoning_effort, "reasoning_effort"),
                    model_identity: given(&config.model_identity, "model_identity"),
                    system: given(&config.system, "system"),
                    keep_thinking: switch(config.keep_thinking, "keep_thinking").unwrap_or(false),
                },
                ..EncodeOptions::default()
            },
        })
    }
}

/// The base model that adapters have in common.
///
/// # Errors
/// No adapters, one that names no base, or two that name different ones.
fn base_of_all(adapters: &[NamedAdapter]) -> Result<String> {
    let Some((first, others)) = adapters.split_first() else {
        bail!("--model or --adapters is missing");
    };
    let place = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let base = base_of(&first.dir)?;
    for other in others {
        let theirs = base_of(&other.dir)?;
        ensure!(
            place(&theirs) == place(&base),
            "adapters: {} is of the model {}, and {} of {}; one model answers with adapters that are its own (--model gives \
             another)",
            first.dir.display(),
            base.display(),
            other.dir.display(),
            theirs.display()
        );
    }
    Ok(base.display().to_string())
}
