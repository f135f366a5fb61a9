//! Random weights in the shape of a model: in memory (`--model synthetic:NAME`) or as a checkpoint (`apus model new`), the
//! same numbers either way and on every device.
//!
//! Activations stay sane through all layers by the usual rule: matrices that read the residual stream have standard
//! deviation `1 / sqrt(inputs)`, those that write to it are smaller by `sqrt(2 * layers)`; embeddings have deviation 1, unless
//! they are the output head, too, norms are 1. MXFP4 experts get random nibbles under the power of two nearest to that
//! deviation. So the residual stream starts at rms 1 and stays below 4 to the last layer, and the logits of routers and of the
//! head have deviation 1, which gives every expert its share of tokens.

mod config;
mod presets;

pub use config::{config, generation, set_format};

use crate::families::ModelConfig;
use crate::ops::fill;
use crate::tensors::{FileForm, ModuleKind, Part, Role, TensorList, TensorSpec};
use crate::weights::WeightSource;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

/// The standard deviation of a uniformly random E2M1 value.
const NIBBLE_STD: f64 = 2.926;

/// A source of random weights, which are functions of their names.
pub struct SyntheticWeights {
    list: TensorList,
    seed: u64,
    /// Whether weights that can be packed are in MXFP4.
    pub packed: bool,
}

/// What a tensor of a synthetic checkpoint is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Filling {
    /// Ones.
    Ones,
    /// Normal numbers of this standard deviation, rounded to bf16.
    Normal(f32),
    /// Random bytes.
    Bytes,
    /// This byte.
    Byte(u8),
}

impl SyntheticWeights {
    /// For a model of this shape; what can be packed is in MXFP4 if its configuration says so.
    pub fn new(config: &ModelConfig, seed: u64) -> Self {
        Self {
            list: config.tensors(),
            seed,
            packed: config.raw.contains_key("quantization_config"),
        }
    }

    /// The tensors of the model.
    pub fn list(&self) -> &TensorList {
        &self.list
    }

    /// What the tensor of this name is filled with.
    ///
    /// # Errors
    /// There is no tensor of this name.
    pub fn filling(&self, name: &str) -> Result<Filling> {
        let found = self.list.of_file(name).filter(|_| self.contains(name));
        let (spec, form) = found.with_context(|| format!("a synthetic model has no {name}"))?;
        Ok(match form {
            FileForm::Blocks => Filling::Bytes,
            FileForm::Scales => {
                let exponent = (self.deviation(spec) / NIBBLE_STD).log2().round();
                Filling::Byte((127.0 + exponent) as u8)
            }
            FileForm::Plain => match (spec.role, spec.part) {
                (_, Part::Bias) => Filling::Normal(0.02),
                (Role::Sinks, _) => Filling::Normal(0.5),
                (Role::Embedding, _) if self.has_head() => Filling::Normal(1.0),
                (role, _) if role.module_kind() == ModuleKind::Norm => Filling::Ones,
                _ => Filling::Normal(self.deviation(spec) as f32),
            },
        })
    }

    /// Whether the output head is a tensor of its own, and not the embedding.
    fn has_head(&self) -> bool {
        self.list.weight(None, Role::Head).is_some()
    }

    /// The standard deviation of a matrix.
    fn deviation(&self, spec: &TensorSpec) -> f64 {
        let inputs = spec.dims().map_or(1, |(inputs, _)| inputs);
        let plain = 1.0 / (inputs as f64).sqrt();
        match spec.role.writes_residual() {
            true => plain / (2.0 * self.list.layers() as f64).sqrt(),
            false => plain,
        }
    }
}

impl WeightSource for SyntheticWeights {
    fn contains(&self, name: &str) -> bool {
        let found = self.list.of_file(name);
        found.is_some_and(|(spec, form)| {
            let packed = self.packed && spec.packed().is_some();
            packed == (form != FileForm::Plain)
        })
    }

    fn check(&self, name: &str, _shape: &[usize], _dtype: DType) -> Result<()> {
        ensure!(self.contains(name), "a synthetic model has no {name}");
        Ok(())
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let key = (self.seed, fill::stream(name));
        let make = || -> Result<Tensor> {
            match self.filling(name)? {
                Filling::Ones => Ok(Tensor::ones(shape, dtype, device)?),
                Filling::Bytes => fill::bytes(shape, (0, 256), key, device),
                Filling::Byte(byte) => fill::bytes(shape, (byte, 1), key, device),
                Filling::Normal(std) => {
                    // Rounded to bf16 as in a checkpoint.
                    let tensor = fill::normal(shape, std, key, DType::BF16, device)?;
                    Ok(tensor.to_dtype(dtype)?)
                }
            }
        };
        make().with_context(|| format!("synthetic tensor {name} {shape:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::testing::dense;

    #[test]
    fn an_embedding_that_is_the_head_is_filled_as_a_head() {
        let filling = |tied| {
            let source = SyntheticWeights::new(&dense(tied), 1);
            source.filling("model.embed_tokens.weight").unwrap()
        };
        assert_eq!(filling(false), Filling::Normal(1.0));
        assert_eq!(filling(true), Filling::Normal(0.25));
        let source = SyntheticWeights::new(&dense(true), 1);
        let error = source.filling("lm_head.weight").unwrap_err();
        assert!(
            error.to_string().contains("has no lm_head.weight"),
            "{error}"
        );
    }
}
