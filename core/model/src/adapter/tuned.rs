//! What a tuner has trained, on disk: `adapter_config.json` with the tuner's name and options, and `adapter_model.safetensors` with its
//! parameters. Where the tuner says how PEFT calls the method, PEFT can read both.

use super::tensors_file::{self, TENSORS};
use super::{Adapter, ExpertMerge, peft_config};
use crate::families::ModelConfig;
use crate::model::updates::PREFIX;
use crate::nn::Param;
use anyhow::{Context, Result, ensure};
use apus_base::checksums;
use apus_sdk::Options;
use apus_sdk::small_file::{self, Limit};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The field of adapter_config.json that makes a folder one of a tuner's.
const KEY: &str = "apus_tuner";

/// `peft_type` of a method that PEFT does not have.
const NOT_IN_PEFT: &str = "APUS_TUNER";

/// What is written beside a tuner's parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunedConfig {
    /// The tuner.
    pub name: String,
    /// Its options.
    pub options: Options,
    /// The linear modules and blocks that it was added to.
    pub modules: Vec<String>,
    /// The parameters of experts that it was added to.
    #[serde(default)]
    pub parameters: Vec<String>,
    /// Modules that were trained whole beside it.
    pub modules_to_save: Vec<String>,
    /// The model that it was trained on.
    pub base_model: Option<String>,
    /// The fields of PEFT's configuration of the same method; empty if PEFT does not have it.
    #[serde(skip)]
    pub peft: Options,
}

impl TunedConfig {
    /// That of a folder; `None` if it holds an adapter of another kind, or none.
    ///
    /// # Errors
    /// It is malformed.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(peft_config::FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = small_file::text(&path, Limit::STORED)?;
        let malformed = || format!("{}: malformed", path.display());
        let json: Value = serde_json::from_str(&text).with_context(malformed)?;
        let Some(own) = json.get(KEY) else {
            return Ok(None);
        };
        let config = serde_json::from_value(own.clone()).with_context(malformed)?;
        Ok(Some(config))
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// The disk.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(peft_config::FILE);
        let text = serde_json::to_string_pretty(&self.to_json()?)?;
        std::fs::write(&path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    fn to_json(&self) -> Result<Map<String, Value>> {
        let mut fields = Map::new();
        fields.insert("peft_type".to_owned(), json!(NOT_IN_PEFT));
        fields.extend(self.peft.clone());
        let saved = (!self.modules_to_save.is_empty()).then_some(&self.modules_to_save);
        let parameters = (!self.parameters.is_empty()).then_some(&self.parameters);
        let common = [
            ("task_type", json!("CAUSAL_LM")),
            ("inference_mode", json!(true)),
            ("base_model_name_or_path", json!(self.base_model)),
            ("target_modules", json!(self.modules)),
            ("target_parameters", json!(parameters)),
            ("modules_to_save", json!(saved)),
            (KEY, serde_json::to_value(self)?),
        ];
        fields.extend(common.map(|(key, value)| (key.to_owned(), value)));
        Ok(fields)
    }
}

/// Writes a tuner's parameters and their configuration. The caller gives a fresh folder and renames it when it is whole.
///
/// # Errors
/// A value is not finite, or a file cannot be written.
pub fn save_tuned(dir: &Path, params: &[Arc<Param>], config: &TunedConfig) -> Result<()> {
    tensors_file::save_tensors(dir, params)?;
    config.write(dir)
}

/// Reads the tensors of a folder, in f32 on the CPU, by their names and shapes.
///
/// # Errors
/// A file is missing or cut, or holds other tensors than these; the error names the first.
pub fn tuned_tensors(
    dir: &Path,
    expected: &BTreeMap<String, Vec<usize>>,
) -> Result<BTreeMap<String, Tensor>> {
    ensure!(dir.is_dir(), "{}: no such adapter folder", dir.display());
    checksums::check(dir, [peft_config::FILE, TENSORS])?;
    tensors_file::read_tensors(&dir.join(TENSORS), expected)
}

/// Sets the parameters of a model that carries what a folder holds.
///
/// # Errors
/// As [`tuned_tensors`].
pub fn load_tuned(dir: &Path, params: &[Arc<Param>]) -> Result<()> {
    let shapes = params.iter().map(|param| {
        let shape = param.value().dims().to_vec();
        (param.name().to_owned(), shape)
    });
    let tensors = tuned_tensors(dir, &shapes.collect())?;
    for param in params {
        let value = tensors.get(param.name());
        param.set(value.with_context(|| format!("{} was not read", param.name()))?)?;
    }
    Ok(())
}

/// An adapter of nothing but whole tensors of a model, by their names there, and of matrices of experts, each merged when it is asked
/// for: what is written in place of the model's own.
///
/// # Errors
/// The model has no such tensor, or in another shape.
pub fn whole_tensors(
    dir: &Path,
    model: &ModelConfig,
    tensors: BTreeMap<String, Tensor>,
    experts: BTreeMap<String, ExpertMerge>,
) -> Result<Adapter> {
    let list = model.tensors();
    for (name, tensor) in &tensors {
        let spec = list.get(name);
        let spec = spec.with_context(|| format!("the model has no tensor {name}"))?;
        ensure!(
            tensor.dims() == spec.shape,
            "{name} has shape {:?}, expected {:?}",
            tensor.dims(),
            spec.shape
        );
    }
    let tensors = tensors.into_iter();
    let tensors = tensors.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor));
    Ok(Adapter::of_whole(dir, model, tensors.collect(), experts))
}
