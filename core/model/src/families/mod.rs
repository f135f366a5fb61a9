//! The families of models that Apus trains, one a file. A family says by which `model_type` of config.json it is known and
//! reads that file as an [`Architecture`], which is what everything else asks. It lists the tensors of that architecture, too.

mod architecture;
#[cfg(test)]
mod blocks_tests;
pub mod decoder;
mod fields;
pub mod gpt_oss;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use architecture::{
    Architecture, AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, Rope, Yarn,
};
pub use fields::Fields;

use crate::tensors::TensorList;
use anyhow::{Context, Result, bail};
use apus_sdk::small_file::{self, Limit};
use serde_json::{Map, Value};
use std::path::Path;

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of its config.json.
    pub model_type: &'static str,
    /// Reads config.json. A field that is missing, or has a value that is not computed here, is an error that names it.
    pub architecture: fn(&Fields) -> Result<Architecture>,
    /// Lists the tensors of a model.
    pub tensors: fn(&Architecture) -> TensorList,
    /// What config.json says about weights that are packed as MXFP4, if they can be.
    pub quantization: Option<fn() -> Value>,
    /// How llama.cpp knows such models, if it computes them as they are.
    pub gguf: Option<Gguf>,
}

/// A family in files of llama.cpp.
#[derive(Debug)]
pub struct Gguf {
    /// The name of its architecture there.
    pub architecture: &'static str,
    /// Checks that a model has what is fixed there. An error names what differs.
    pub check: fn(&Architecture) -> Result<()>,
}

/// All families.
pub const FAMILIES: &[&Family] = &[&gpt_oss::FAMILY];

/// config.json of a model.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The family that it belongs to.
    pub family: &'static Family,
    /// What it describes.
    pub architecture: Architecture,
    /// All fields of the file, kept so that they can be written again.
    pub raw: Map<String, Value>,
}

impl ModelConfig {
    /// The tensors of the model.
    pub fn tensors(&self) -> TensorList {
        (self.family.tensors)(&self.architecture)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The file is missing, malformed or of no family that there is, or a field is missing or has a value that no model of
    /// its family has; the error names it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = small_file::text(path, Limit::STORED)?;
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed JSON", path.display()))?;
        Self::parse(value).with_context(|| path.display().to_string())
    }

    /// Reads its content.
    pub fn parse(value: Value) -> Result<Self> {
        let Value::Object(raw) = value else {
            bail!("expected a JSON object")
        };
        let family = family(&raw)?;
        let architecture = (family.architecture)(&Fields::of(&raw))?;
        architecture.check()?;
        Ok(Self {
            family,
            architecture,
            raw,
        })
    }
}

/// The family that the `model_type` of config.json names.
fn family(raw: &Map<String, Value>) -> Result<&'static Family> {
    let known = FAMILIES.iter().map(|family| family.model_type);
    let known = known.collect::<Vec<_>>().join(" and ");
    let Some(found) = raw.get("model_type").and_then(Value::as_str) else {
        bail!("has no model_type; Apus trains {known} models only")
    };
    let mut families = FAMILIES.iter().copied();
    families
        .find(|family| family.model_type == found)
        .with_context(|| format!("model_type is {found:?}; Apus trains {known} models only"))
}
