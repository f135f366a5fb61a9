//! A loss component on one chunk of logits: the only place where candle's autograd is used.

use super::{unwrap, wrap};
use crate::ops::cross_entropy;
use crate::registry::Named;
use anyhow::{Result, bail, ensure};
use apus_sdk::{ChunkOps, Loss, LossChunk};
use candle_core::{CustomOp1, DType, Tensor, Var};

/// What came out of a chunk.
pub struct ChunkLoss {
    /// Loss of each token before weights, `[n]` f32.
    pub per_token: Tensor,
    /// Gradient of `sum(weight * loss) * scale` by the logits, in their type; `None` if not asked for.
    pub dlogits: Option<Tensor>,
}

/// Runs `loss` on `logits` `[n, vocabulary]` with `labels` `[n]` u32 and `weights` `[n]` f32.
///
/// With `scale`, also differentiates `sum(weights * per_token) * scale` by the logits.
///
/// # Errors
/// The component failed, or its result is not `[n]` f32, or no gradient reached the logits.
pub fn chunk_loss(
    loss: &Named<dyn Loss>,
    logits: &Tensor,
    labels: &Tensor,
    weights: &Tensor,
    scale: Option<f64>,
) -> Result<ChunkLoss> {
    let var = match scale {
        Some(_) => Some(Var::from_tensor(logits)?),
        None => None,
    };
    let ops = Chunk {
        logits: var.as_ref().map_or(logits, Var::as_tensor),
        labels,
    };
    let (wrapped_labels, wrapped_weights) = (wrap(labels.clone()), wrap(weights.clone()));
    let chunk = LossChunk::new(&wrapped_labels, &wrapped_weights, &ops);
    let found = loss.said("per_token", loss.component.per_token(&chunk))?;
    let per_token = unwrap(&found)?;
    let n = labels.dim(0)?;
    ensure!(
        per_token.dims() == [n] && per_token.dtype() == DType::F32,
        "{} returned {:?} {:?}, expected one f32 per token: [{n}]",
        loss.label,
        per_token.dtype(),
        per_token.dims()
    );
    let dlogits = match (var, scale) {
        (Some(var), Some(scale)) => {
            let total = ((per_token * weights)?.sum_all()? * scale)?;
            let mut grads = total.backward()?;
            match grads.remove(&var) {
                Some(grad) => Some(grad),
                None => bail!(
                    "no gradient reached the logits: the result of {} does not depend on them, or \
                     passed through detach()",
                    loss.label
                ),
            }
        }
        _ => None,
    };
    Ok(ChunkLoss {
        per_token: per_token.detach(),
        dlogits,
    })
}

struct Chunk<'a> {
    logits: &'a Tensor,
    labels: &'a Tensor,
}

impl ChunkOps for Chunk<'_> {
    fn logits(&self) -> apus_sdk::Result<apus_sdk::Tensor> {
        self.logits
            .to_dtype(DType::F32)
            .map(wrap)
            .map_err(apus_sdk::Error::new)
    }

    fn cross_entropy(&self) -> apus_sdk::Result<apus_sdk::Tensor> {
        let fused = || -> Result<Tensor> {
            let (loss, lse) = cross_entropy::forward(&self.logits.detach(), self.labels)?;
            let op = CrossEntropy {
                loss,
                lse,
                labels: self.labels.clone(),
            };
            Ok(self.logits.apply_op1(op)?)
        };
        fused()
            .map(wrap)
            .map_err(|e| apus_sdk::Error::new(format!("{e:#}")))
    }
}

/// The fused cross entropy as a node of candle's graph; its value was computed before.
struct CrossEntropy {
    loss: Tensor,
    lse: Tensor,
    labels: Tensor,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(
        &self,
        _storage: &candle_core::CpuStorage,
        _layout: &candle_core::Layout,
    ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
        let values = self.loss.to_vec1::<f32>()?;
        let shape = self.loss.shape().clone();
        Ok((candle_core::CpuStorage::F32(values), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _storage: &candle_core::CudaStorage,
        _layout: &candle_core::Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, candle_core::Shape)> {
        use candle_core::backend::BackendStorage;
        let (storage, layout) = self.loss.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cuda(storage) => {
                Ok((storage.try_clone(layout)?, self.loss.shape().clone()))
            }
            _ => candle_core::bail!("cross_entropy: the loss is not on the GPU"),
        }
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let dlogits = cross_entropy::backward(&logits.detach(), &self.lse, &self.labels, grad)
            .map_err(|e| candle_core::Error::Msg(format!("{e:#}")))?;
        Ok(Some(dlogits))
    }
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
        let a = chunk_loss(&named(Fused), &logits, &labels, &weights, Some(0.25)).unwrap();
        let b = chunk_loss(&named(Composed), &logits, &labels, &weights, Some(0.25)).unwrap();
        let close = |a: &Tensor, b: &Tensor| {
            let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
        };
        close(&a.per_token, &b.per_token);
        close(&a.dlogits.unwrap(), &b.dlogits.unwrap());
    }

    #[test]
    fn a_loss_without_gradient_is_an_error() {
        let (logits, labels, weights) = inputs();
        assert!(chunk_loss(&named(Constant), &logits, &labels, &weights, None).is_ok());
        let error = chunk_loss(&named(Constant), &logits, &labels, &weights, Some(1.0))
            .err()
            .unwrap();
        assert!(error.to_string().contains("no gradient reached the logits"));
    }
}
