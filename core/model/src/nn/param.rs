//! Trainable parameters and frozen weights.

use super::sharding::Sharded;
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A named trainable tensor with its gradient, both f32.
///
/// Its value is changed in place (`ops::copy`, `ops::adamw`), so all who hold the tensor see it.
#[derive(Debug)]
pub struct Param {
    name: String,
    decay: bool,
    value: Tensor,
    /// Whether it is never trained.
    fixed: bool,
    /// Factor on its learning rate.
    lr_factor: f64,
    /// Whether it is not trained for now.
    frozen: AtomicBool,
    grad: Mutex<Option<Tensor>>,
}

impl Param {
    /// Makes a parameter; `decay` says whether weight decay applies to it.
    pub fn new(name: impl Into<String>, value: &Tensor, decay: bool) -> Result<Arc<Self>> {
        Self::learning(name, value, decay, Some(1.0))
    }

    /// The same with a factor on its learning rate; without one it is never trained.
    pub fn learning(
        name: impl Into<String>,
        value: &Tensor,
        decay: bool,
        lr_factor: Option<f64>,
    ) -> Result<Arc<Self>> {
        // The value is copied, since updates in place must not reach other holders of the tensor.
        let value = value.to_dtype(DType::F32)?.contiguous()?.copy()?;
        Ok(Arc::new(Self {
            name: name.into(),
            decay,
            value,
            fixed: lr_factor.is_none(),
            lr_factor: lr_factor.unwrap_or(1.0),
            frozen: AtomicBool::new(lr_factor.is_none()),
            grad: Mutex::new(None),
        }))
    }

    /// Its name, as checkpoints hold it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether weight decay applies.
    pub fn decay(&self) -> bool {
        self.decay
    }

    /// Whether it is never trained.
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The factor on its learning rate.
    pub fn lr_factor(&self) -> f64 {
        self.lr_factor
    }

    /// Its value, f32.
    pub fn value(&self) -> Tensor {
        self.value.clone()
    }

    /// Whether it is not trained for now: no gradient is computed for it.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Freezes it, or trains it again, unless it is never trained. A frozen one has no gradient.
    pub fn set_frozen(&self, frozen: bool) {
        let frozen = frozen || self.fixed;
        self.frozen.store(frozen, Ordering::Relaxed);
        if frozen {
            self.take_grad();
        }
    }

    /// Overwrites its value.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        ensure!(
            value.dims() == self.value.dims(),
            "{}: found shape {:?}, expected {:?}",
            self.name,
            value.dims(),
            self.value.dims()
        );
        let value = value.to_dtype(DType::F32)?.to_device(self.value.device())?;
        crate::ops::copy::into(&self.value, &value)
    }

    /// Adds `grad` to its gradient, unless it is frozen.
    pub fn accumulate(&self, grad: Tensor) -> Result<()> {
        if self.is_frozen() {
            return Ok(());
        }
        ensure!(
            grad.dims() == self.value.dims(),
            "{}: gradient of shape {:?}, expected {:?}",
            self.name,
            grad.dims(),
            self.value.dims()
        );
        let mut slot = self.slot();
        *slot = Some(match slot.take() {
            Some(sum) => (sum + grad.to_dtype(DType::F32)?)?,
            None => grad.to_dtype(DType::F32)?,
        });
        Ok(())
    }

    /// Its gradient, if anything was accumulated.
    pub fn grad(&self) -> Option<Tensor> {
        self.slot().clone()
    }

    /// Takes its gradient and leaves none.
    pub fn take_grad(&self) -> Option<Tensor> {
        self.slot().take()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Tensor>> {
        self.grad.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A weight of the model.
#[derive(Debug, Clone)]
pub enum Weight {
    /// A weight that does not change, in the compute type.
    Frozen(Tensor),
    /// A weight that does not change, in the compute type, of which each rank keeps a part.
    Sharded(Sharded),
    /// A weight that is trained.
    Trainable(Arc<Param>),
}

impl Weight {
    /// Its value in `dtype`.
    ///
    /// # Errors
    /// It is spread over ranks and not gathered.
    pub fn get(&self, dtype: DType) -> Result<Tensor> {
        Ok(match self {
            Self::Frozen(tensor) => tensor.to_dtype(dtype)?,
            Self::Sharded(sharded) => sharded.get()?.to_dtype(dtype)?,
            Self::Trainable(param) => param.value.to_dtype(dtype)?,
        })
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Frozen(tensor) => tensor.dims(),
            Self::Sharded(sharded) => sharded.dims(),
            Self::Trainable(param) => param.value.dims(),
        }
    }

    /// The type it is stored in.
    pub fn stored(&self) -> DType {
        match self {
            Self::Frozen(tensor) => tensor.dtype(),
            Self::Sharded(sharded) => sharded.dtype(),
            Self::Trainable(_) => DType::F32,
        }
    }

    /// Its bytes as it is stored, if it is frozen; of one that is spread over ranks those of a rank.
    pub fn frozen_bytes(&self) -> u64 {
        match self {
            Self::Frozen(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Self::Sharded(sharded) => sharded.bytes(),
            Self::Trainable(_) => 0,
        }
    }

    /// The parameter, if it is trained.
    pub fn param(&self) -> Option<&Arc<Param>> {
        match self {
            Self::Frozen(_) | Self::Sharded(_) => None,
            Self::Trainable(param) => Some(param),
        }
    }

    /// Accumulates a gradient if it is trained and not frozen for now; `grad` is not called otherwise.
    pub fn accumulate(&self, grad: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        match self {
            Self::Frozen(_) | Self::Sharded(_) => Ok(()),
            Self::Trainable(param) if param.is_frozen() => Ok(()),
            Self::Trainable(param) => param.accumulate(grad()?),
        }
    }
}

/// Whether weight decay applies to a parameter of this name. It applies to all but biases and norms, as in transformers'
/// `Trainer.get_decay_parameter_names`.
pub fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let norm = name
        .split('.')
        .any(|part| part == "norm" || part.ends_with("_norm"));
    let none = ["bias", "layernorm", "rmsnorm"];
    !norm && !none.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::decays;

    #[test]
    fn biases_and_norms_do_not_decay() {
        assert!(decays("model.layers.0.self_attn.q_proj.weight"));
        assert!(decays("model.layers.0.self_attn.sinks"));
        assert!(decays("base_model.model.lm_head.lora_A.weight"));
        assert!(!decays("model.layers.0.mlp.experts.down_proj_bias"));
        assert!(!decays("model.layers.0.input_layernorm.weight"));
        assert!(!decays("model.norm.weight"));
    }
}
