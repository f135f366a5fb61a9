//! Finds a model by its name and loads its weights.

use anyhow::{Context, Result, bail, ensure};
use apus_base::lines::{info, warning};
use apus_components::config::{ExpertsForm, TorchDtype};
use apus_data::hub::Hub;
use apus_model::families::ModelConfig;
use apus_model::model::{CausalLm, ExpertsDtype, LoadOptions, Training};
use apus_model::weights::{Directory, WeightSource};
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A model that is not loaded yet.
pub struct ModelPlace {
    /// Its shape.
    pub config: ModelConfig,
    /// Its weights.
    pub source: Box<dyn WeightSource>,
    /// Its directory, unless it is synthetic.
    pub dir: Option<PathBuf>,
}

/// Finds a model: a directory, an id of a hub, or `synthetic:ARCH`.
///
/// # Errors
/// No such directory or id, or not a model of a family that is known.
pub fn find_model(model: &str, seed: u64) -> Result<ModelPlace> {
    if let Some(arch) = model.strip_prefix("synthetic:") {
        let config = apus_model::synthetic::config(arch)?;
        let source = apus_model::synthetic::SyntheticWeights::new(&config, seed);
        return Ok(ModelPlace {
            config,
            source: Box::new(source),
            dir: None,
        });
    }
    let dir = Hub::from_environment().model(model)?;
    ensure!(dir.is_dir(), "{model}: no such model directory");
    Ok(ModelPlace {
        config: ModelConfig::read(&dir.join("config.json"))?,
        source: Box::new(Directory::open(&dir)?),
        dir: Some(dir),
    })
}

/// The options of loading in a configuration.
///
/// # Errors
/// A data type that the device does not support.
pub fn load_options(
    device: &Device,
    torch_dtype: Option<TorchDtype>,
    experts_dtype: ExpertsForm,
    training: Training,
) -> Result<LoadOptions> {
    let dtype = match (torch_dtype.unwrap_or(TorchDtype::Auto), device) {
        (TorchDtype::Auto | TorchDtype::Float32, Device::Cpu) => DType::F32,
        (TorchDtype::Bfloat16, Device::Cpu) => {
            info!("note: torch_dtype bfloat16: the CPU computes in float32");
            DType::F32
        }
        (TorchDtype::Auto | TorchDtype::Bfloat16, _) => DType::BF16,
        (TorchDtype::Float32, _) => {
            bail!("torch_dtype is float32; the CPU computes in float32, CUDA in bfloat16")
        }
    };
    let experts = match experts_dtype {
        ExpertsForm::Mxfp4 => ExpertsDtype::Mxfp4,
        ExpertsForm::Bf16 => ExpertsDtype::Dense,
    };
    Ok(LoadOptions {
        device: device.clone(),
        dtype,
        experts,
        training,
        sharding: None,
    })
}

/// Loads the weights, and prints how long it took.
///
/// # Errors
/// Weights that are missing or of the wrong shape.
pub fn load(place: &ModelPlace, options: &LoadOptions) -> Result<CausalLm> {
    let started = Instant::now();
    let model = CausalLm::load(&place.config, place.source.as_ref(), options, |_| {})?;
    options.device.synchronize()?;
    if let Some(transfer) = place.source.done() {
        info!("{}", transfer.summary(started.elapsed()));
        if let Some(line) = transfer.left_over() {
            warning!("{line}");
        }
    }
    Ok(model)
}

/// The files that say what a model computes, in the order of their names.
///
/// # Errors
/// The folder cannot be read.
pub fn model_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let is_weights = path
            .extension()
            .is_some_and(|ending| ending == "safetensors");
        if is_weights || path.ends_with("config.json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The name of a model or tokenizer in a form that is valid from any folder: an existing path becomes absolute, an id of a
/// hub stays the same.
pub fn lasting(name: &str) -> String {
    const SYNTHETIC: &str = "synthetic:";
    if let Some(arch) = name.strip_prefix(SYNTHETIC) {
        let (file, changes) = match arch.find('?') {
            Some(at) => arch.split_at(at),
            None => (arch, ""),
        };
        return format!("{SYNTHETIC}{}{changes}", lasting(file));
    }
    let path = Path::new(name);
    match (path.exists(), std::path::absolute(path)) {
        (true, Ok(whole)) => whole.display().to_string(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_hold_in_every_folder() {
        let here = std::env::current_dir().unwrap();
        let whole = |path: &str| here.join(path).display().to_string();
        assert_eq!(lasting("src"), whole("src"));
        assert_eq!(
            lasting("synthetic:src/lib.rs?a=1"),
            format!("synthetic:{}?a=1", whole("src/lib.rs"))
        );
        for name in [
            "openai/gpt-oss-20b",
            "synthetic:gpt-oss-20b",
            "synthetic:gpt-oss-20b?num_hidden_layers=2",
            "/",
        ] {
            assert_eq!(lasting(name), name);
        }
    }
}
