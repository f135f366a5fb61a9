//! A loss component on one chunk of logits: the only place where candle's autograd is used.
//!
//! The graph starts at what is handed out. The fused cross entropy is a leaf of its own, `n` numbers whose gradient
//! the fused backward carries on to the logits; the logits are a leaf, and copied, only for a loss that asks for
//! them. A loss that returns the cross entropy as it was given (by whatever name, from wherever it was loaded) has
//! no graph at all: its gradient is the weights.

use super::{unwrap, wrap};
use anyhow::{Result, bail, ensure};
use apus_components::registry::Named;
use apus_model::ops::cross_entropy::{self, CrossEntropy};
use apus_sdk::{ChunkOps, Loss, LossChunk};
use candle_core::{D, DType, Tensor, Var};
use std::cell::RefCell;

/// The result of a chunk.
pub struct ChunkLoss {
    /// Loss of each token before weights, `[n]` f32.
    pub per_token: Tensor,
    /// The most probable token of each row, `[n]` u32.
    pub predictions: Tensor,
    /// Gradient of `sum(weight * loss) * scale` by the logits, in their type; `None` if not asked for.
    pub dlogits: Option<Tensor>,
}

/// Runs `loss` on `logits` `[n, vocabulary]` with `labels` `[n]` u32 and `weights` `[n]` f32.
///
/// With `scale`, also differentiates `sum(weights * per_token) * scale` by the logits. The gradient may take the
/// memory of the logits, so they must be held by nobody else who reads them again.
///
/// # Errors
/// The component failed, or its result is not `[n]` f32, or no gradient reached the logits.
pub fn chunk_loss(
    loss: &Named<dyn Loss>,
    logits: Tensor,
    labels: &Tensor,
    weights: &Tensor,
    scale: Option<f64>,
) -> Result<ChunkLoss> {
    let ops = Chunk {
        logits: &logits,
        labels,
        differentiate: scale.is_some(),
        fused: RefCell::default(),
        leaf: RefCell::default(),
    };
    let (wrapped_labels, wrapped_weights) = (wrap(labels.clone()), wrap(weights.clone()));
    let chunk = LossChunk::new(&wrapped_labels, &wrapped_weights, &ops);
    let inside = apus_base::doing::enter(&loss.label, "per_token");
    let found = loss.context("per_token", loss.component.per_token(&chunk))?;
    drop(inside);
    let per_token = unwrap(&found)?;
    let n = labels.dim(0)?;
    ensure!(
        per_token.dims() == [n] && per_token.dtype() == DType::F32,
        "{} returned {:?} {:?}, expected one f32 per token: [{n}]",
        loss.label,
        per_token.dtype(),
        per_token.dims()
    );
    let (fused, leaf) = (ops.fused.into_inner(), ops.leaf.into_inner());
    let predictions = match &fused {
        Some(fused) => fused.found.argmax.clone(),
        None => logits.argmax(D::Minus1)?,
    };
    let value = per_token.detach();
    let dlogits = match scale {
        None => None,
        Some(scale) => {
            let by = gradients(per_token, weights, scale, fused.as_ref(), leaf.as_ref())?;
            drop((found, leaf));
            match by.join(logits, labels, fused)? {
                Some(dlogits) => Some(dlogits),
                None => bail!(
                    "no gradient reached the logits: the result of {} does not depend on them, or \
                     passed through detach()",
                    loss.label
                ),
            }
        }
    };
    Ok(ChunkLoss {
        per_token: value,
        predictions,
        dlogits,
    })
}

/// Gradients by the tensors that a loss was given.
struct Gradients {
    /// By the cross entropy of each token.
    fused: Option<Tensor>,
    /// By the logits, past the cross entropy.
    logits: Option<Tensor>,
}

fn gradients(
    per_token: &Tensor,
    weights: &Tensor,
    scale: f64,
    fused: Option<&Fused>,
    leaf: Option<&Var>,
) -> Result<Gradients> {
    if fused.is_some_and(|fused| fused.handed.id() == per_token.id()) {
        return Ok(Gradients {
            fused: Some((weights * scale)?),
            logits: None,
        });
    }
    let total = ((per_token * weights)?.sum_all()? * scale)?;
    let mut grads = total.backward()?;
    Ok(Gradients {
        fused: fused.and_then(|fused| grads.remove(&fused.handed)),
        logits: leaf.and_then(|leaf| grads.remove(leaf)),
    })
}

impl Gradients {
    /// The whole gradient by the logits; `None` if there is none.
    fn join(self, logits: Tensor, labels: &Tensor, fused: Option<Fused>) -> Result<Option<Tensor>> {
        let (Some(dloss), Some(fused)) = (self.fused, fused) else {
            return Ok(self.logits);
        };
        let dlogits = cross_entropy::backward(logits, &fused.found.lse, labels, &dloss)?;
        Ok(Some(match self.logits {
            Some(rest) => (dlogits + rest)?,
            None => dlogits,
        }))
    }
}

/// The fused cross entropy of a chunk, and the tensor that stands for its losses in a graph.
struct Fused {
    found: CrossEntropy,
    handed: Tensor,
}

struct Chunk<'a> {
    logits: &'a Tensor,
    labels: &'a Tensor,
    differentiate: bool,
    fused: RefCell<Option<Fused>>,
    leaf: RefCell<Option<Var>>,
}

impl Chunk<'_> {
    fn leaf(&self) -> Result<Tensor> {
        if !self.differentiate {
            return Ok(self.logits.clone());
        }
        let mut leaf = self.leaf.borrow_mut();
        let var = match leaf.take() {
            Some(var) => var,
            None => Var::from_tensor(self.logits)?,
        };
        Ok(leaf.insert(var).as_tensor().clone())
    }

    fn fused(&self) -> Result<Tensor> {
        let mut fused = self.fused.borrow_mut();
        let there = match fused.take() {
            Some(there) => there,
            None => {
                let found = cross_entropy::forward(self.logits, self.labels)?;
                let handed = match self.differentiate {
                    true => Var::from_tensor(&found.loss)?.into_inner(),
                    false => found.loss.clone(),
                };
                Fused { found, handed }
            }
        };
        Ok(fused.insert(there).handed.clone())
    }
}

impl ChunkOps for Chunk<'_> {
    fn logits(&self) -> apus_sdk::Result<apus_sdk::Tensor> {
        let logits = || -> Result<Tensor> { Ok(self.leaf()?.to_dtype(DType::F32)?) };
        given(logits())
    }

    fn cross_entropy(&self) -> apus_sdk::Result<apus_sdk::Tensor> {
        given(self.fused())
    }
}

fn given(tensor: Result<Tensor>) -> apus_sdk::Result<apus_sdk::Tensor> {
    tensor
        .map(wrap)
        .map_err(|e| apus_sdk::Error::new(format!("{e:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    struct Fused;
    impl Loss for Fused {
        fn per_token(&self, chunk: &LossChunk) -> apus_sdk::Result<apus_sdk::Tensor> {
            chunk.cross_entropy()
        }
    }

    struct Composed;
    impl Loss for Composed {
        fn per_token(&self, chunk: &LossChunk) -> apus_sdk::Result<apus_sdk::Tensor> {
            let n = chunk.labels.shape()[0];
            let picked = chunk
                .logits()?
                .log_softmax(1)?
                .gather(1, &chunk.labels.reshape(&[n, 1])?)?;
            picked.neg()?.reshape(&[n])
        }
    }

    struct Constant;
    impl Loss for Constant {
        fn per_token(&self, chunk: &LossChunk) -> apus_sdk::Result<apus_sdk::Tensor> {
            chunk.weights.affine(0.0, 1.0)
        }
    }

    /// The cross entropy as it was given, and a part of the logits beside it.
    struct Both;
    impl Loss for Both {
        fn per_token(&self, chunk: &LossChunk) -> apus_sdk::Result<apus_sdk::Tensor> {
            let first = chunk.cross_entropy()?.affine(0.5, 0.0)?;
            let again = chunk.cross_entropy()?.affine(0.25, 0.0)?;
            let composed = Composed.per_token(chunk)?.affine(0.25, 0.0)?;
            first.add(&again)?.add(&composed)
        }
    }

    fn named(loss: impl Loss + 'static) -> Named<dyn Loss> {
        Named::new("loss test", Box::new(loss))
    }

    fn inputs() -> (Tensor, Tensor, Tensor) {
        let logits = Tensor::randn(0f32, 2.0, (5, 7), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0u32, 6, 3, 3, 1], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[1f32, 2.0, 0.5, 1.0, 3.0], &Device::Cpu).unwrap();
        (logits, labels, weights)
    }

    #[test]
    fn fused_and_composed_losses_agree() {
        let (logits, labels, weights) = inputs();
        let run = |loss| chunk_loss(&loss, logits.copy().unwrap(), &labels, &weights, Some(0.25));
        let expected = run(named(Composed)).unwrap();
        let dlogits = expected.dlogits.unwrap();
        let close = |a: &Tensor, b: &Tensor| {
            let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
        };
        for loss in [named(Fused), named(Both)] {
            let found = run(loss).unwrap();
            close(&found.per_token, &expected.per_token);
            close(&found.dlogits.unwrap(), &dlogits);
            let best = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
            assert_eq!(best(&found.predictions), best(&expected.predictions));
        }
    }

    #[test]
    fn the_gradient_of_the_cross_entropy_takes_the_memory_of_the_logits() {
        let (logits, labels, weights) = inputs();
        let held = logits.clone();
        let found = chunk_loss(&named(Fused), logits, &labels, &weights, Some(0.25)).unwrap();
        let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().unwrap();
        assert_eq!(rows(&held), rows(&found.dlogits.unwrap()));
    }

    #[test]
    fn a_loss_without_gradient_is_an_error() {
        let (logits, labels, weights) = inputs();
        let run = |scale| chunk_loss(&named(Constant), logits.clone(), &labels, &weights, scale);
        assert!(run(None).is_ok());
        let error = run(Some(1.0)).err().unwrap();
        assert!(error.to_string().contains("no gradient reached the logits"));
    }
}
