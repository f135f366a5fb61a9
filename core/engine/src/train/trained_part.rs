//! The trained part of a model on disk: an adapter as PEFT writes it, or the whole model.

use super::checkpoint::weights_file;
use crate::export::writer::copy_companions;
use anyhow::{Context, Result};
use apus_model::adapter::{self, Adapter, PeftConfig, TunedConfig};
use apus_model::model::CausalLm;
use apus_model::weights;
use candle_core::Device;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What is written beside an adapter's tensors.
pub enum AdapterForm {
    /// Low-rank updates, as PEFT writes them.
    LowRank(PeftConfig),
    /// What a tuner has added.
    Tuned(TunedConfig),
}

/// What is written about the trained part beside its tensors, and so how it is read back.
pub struct TrainedPart {
    /// The adapter's form; `None` where the whole model is trained.
    pub adapter: Option<AdapterForm>,
    /// The model's config.json.
    pub config: Map<String, Value>,
    /// The model's folder, unless it is synthetic.
    pub model_dir: Option<PathBuf>,
}

impl TrainedPart {
    /// Writes it into a folder.
    pub fn save(&self, model: &CausalLm, dir: &Path) -> Result<()> {
        match &self.adapter {
            Some(AdapterForm::LowRank(peft)) => {
                return adapter::save(dir, model.params(), peft);
            }
            Some(AdapterForm::Tuned(config)) => {
                return adapter::save_tuned(dir, model.params(), config);
            }
            None => {}
        }
        let tensors: HashMap<String, _> = model
            .params()
            .iter()
            .map(|p| (p.name().to_owned(), p.value()))
            .collect();
        weights::save(&tensors, &dir.join(weights_file(true)))?;
        let mut config = self.config.clone();
        config.shift_remove("quantization_config");
        config.insert("torch_dtype".to_owned(), json!("float32"));
        fs::write(
            dir.join("config.json"),
            serde_json::to_string_pretty(&config)?,
        )?;
        if let Some(from) = &self.model_dir {
            copy_companions(from, dir)?;
        }
        Ok(())
    }

    /// Reads it from a folder into the model.
    pub fn load(&self, model: &CausalLm, dir: &Path) -> Result<()> {
        match &self.adapter {
            Some(AdapterForm::LowRank(_)) => {
                return Adapter::open(dir, model.config())?.load_into(model.params());
            }
            Some(AdapterForm::Tuned(_)) => return adapter::load_tuned(dir, model.params()),
            None => {}
        }
        let path = dir.join(weights_file(true));
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
}
