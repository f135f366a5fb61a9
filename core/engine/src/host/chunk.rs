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
use apus_sdk::{ChunkOps, ChunkRows, Loss, LossChunk, Need};
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
    /// Gradient of the same by the hidden states, past the logits, where the loss used them.
    pub dhidden: Option<Tensor>,
}

/// What a loss may know of a chunk beside its tokens.
#[derive(Default)]
pub struct ChunkContext {
    /// The rows that the tokens belong to.
    pub rows: ChunkRows,
    /// The hidden states that the logits are made of, `[n, H]`.
    pub hidden: Option<Tensor>,
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
    context: ChunkContext,
) -> Result<ChunkLoss> {
    let ops = Chunk {
        logits: &logits,
        labels,
        loss,
        context,
        hidden: RefCell::default(),
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
    let hidden = ops.hidden.into_inner();
    let predictions = match &fused {
        Some(fused) => fused.found.argmax.clone(),
        None => logits.argmax(D::Minus1)?,
    };
    let value = per_token.detach();
    let (dlogits, dhidden) = match scale {
        None => (None, None),
        Some(scale) => {
            let leaves = (fused.as_ref(), leaf.as_ref(), hidden.as_ref());
            let mut by = gradients(per_token, weights, scale, leaves)?;
            drop((found, leaf));
            let dhidden = by.hidden.take();
            match by.join(logits, labels, fused)? {
                None if dhidden.is_none() => bail!(
                    "no gradient reached the logits: the result of {} does not depend on them, or \
                     passed through detach()",
                    loss.label
                ),
                dlogits => (dlogits, dhidden),
            }
        }
    };
    Ok(ChunkLoss {
        per_token: value,
        predictions,
        dlogits,
        dhidden,
    })
}

/// Gradients by the tensors that a loss was given.
struct Gradients {
    /// By the cross entropy of each token.
    fused: Option<Tensor>,
    /// By the logits, past the cross entropy.
    logits: Option<Tensor>,
    /// By the hidden states, past the logits.
    hidden: Option<Tensor>,
}

fn gradients(
    per_token: &Tensor,
    weights: &Tensor,
    scale: f64,
    (fused, leaf, hidden): (Option<&Fused>, Option<&Var>, Option<&Var>),
) -> Result<Gradients> {
    if fused.is_some_and(|fused| fused.handed.id() == per_token.id()) {
        return Ok(Gradients {
            fused: Some((weights * scale)?),
            logits: None,
            hidden: None,
        });
    }
    let total = ((per_token * weights)?.sum_all()? * scale)?;
    let mut grads = total.backward()?;
    Ok(Gradients {
        fused: fused.and_then(|fused| grads.remove(&fused.handed)),
        logits: leaf.and_then(|leaf| grads.remove(leaf)),
        hidden: hidden.and_then(|hidden| grads.remove(hidden)),
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
    loss: &'a Named<dyn Loss>,
    context: ChunkContext,
    hidden: RefCell<Option<Var>>,
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

    fn require(&self, need: Need) -> apus_sdk::Result<()> {
        match self.loss.declares(need) {
            true => Ok(()),
            false => Err(need.undeclared(&self.loss.needs)),
        }
    }

    fn hidden_leaf(&self) -> Result<Tensor> {
        let Some(hidden) = &self.context.hidden else {
            bail!("there are no hidden states here");
        };
        if !self.differentiate {
            return Ok(hidden.clone());
        }
        let mut leaf = self.hidden.borrow_mut();
        let var = match leaf.take() {
            Some(var) => var,
            None => Var::from_tensor(hidden)?,
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

    fn rows(&self) -> apus_sdk::Result<ChunkRows> {
        self.require(Need::ChunkRows)?;
        Ok(self.context.rows.clone())
    }

    fn hidden(&self) -> apus_sdk::Result<apus_sdk::Tensor> {
        self.require(Need::HiddenStates)?;
        let hidden = || -> Result<Tensor> { Ok(self.hidden_leaf()?.to_dtype(DType::F32)?) };
        given(hidden())
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
    use apus_sdk::BatchRow;
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
        let run = |loss| {
            chunk_loss(
                &loss,
                logits.copy().unwrap(),
                &labels,
                &weights,
                Some(0.25),
                ChunkContext::default(),
            )
        };
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
        let found = chunk_loss(
            &named(Fused),
            logits,
            &labels,
            &weights,
            Some(0.25),
            ChunkContext::default(),
        )
        .unwrap();
        let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().unwrap();
        assert_eq!(rows(&held), rows(&found.dlogits.unwrap()));
    }

    #[test]
    fn a_loss_without_gradient_is_an_error() {
        let (logits, labels, weights) = inputs();
        let run = |scale| {
            chunk_loss(
                &named(Constant),
                logits.clone(),
                &labels,
                &weights,
                scale,
                ChunkContext::default(),
            )
        };
        assert!(run(None).is_ok());
        let error = run(Some(1.0)).err().unwrap();
        assert!(error.to_string().contains("no gradient reached the logits"));
    }

    /// The cross entropy, and the mean square of the hidden states for rows of one channel.
    struct Hidden;
    impl Loss for Hidden {
        fn per_token(&self, chunk: &LossChunk) -> apus_sdk::Result<apus_sdk::Tensor> {
            let rows = chunk.rows()?;
            let of_channel = rows
                .of_tokens()
                .map(|row| f32::from(row.channel() == Some("a")));
            let of_channel: Vec<f32> = of_channel.collect();
            let hidden = chunk.hidden()?;
            let square = hidden.sqr()?.mean(1)?.squeeze(1)?;
            let factor = square.new_tensor(&of_channel, &[of_channel.len()])?;
            chunk.cross_entropy()?.add(&square.mul(&factor)?)
        }
    }

    /// Gradients flow into the hidden states where the loss uses them, by small differences.
    #[test]
    fn hidden_states_are_differentiable_and_tokens_know_their_rows() {
        let (logits, labels, weights) = inputs();
        let loss = named(Hidden).with(&[Need::ChunkRows, Need::HiddenStates]);
        let values: Vec<f32> = (0..15).map(|i| (i as f32 * 0.7 + 0.3).sin()).collect();
        let row = |channel: &str| BatchRow::new(None, Some(channel.to_owned()));
        let run = |values: &[f32], scale| {
            let context = ChunkContext {
                rows: ChunkRows::new(
                    vec![0, 0, 1, 1, 1],
                    vec![1, 2, 1, 2, 3],
                    vec![row("a"), row("b")],
                ),
                hidden: Some(Tensor::from_slice(values, (5, 3), &Device::Cpu).unwrap()),
            };
            chunk_loss(
                &loss,
                logits.copy().unwrap(),
                &labels,
                &weights,
                scale,
                context,
            )
            .unwrap()
        };
        let found = run(&values, Some(0.25));
        let plain = ChunkContext::default();
        let usual = chunk_loss(
            &named(Fused),
            logits.copy().unwrap(),
            &labels,
            &weights,
            Some(0.25),
            plain,
        );
        let rows = |tensor: Option<Tensor>| tensor.unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows(found.dlogits), rows(usual.unwrap().dlogits));
        let gradient = rows(found.dhidden).concat();
        let total = |values: &[f32]| {
            let losses = run(values, None).per_token;
            (losses * &weights)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                * 0.25
        };
        for (at, found) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[at] += by;
                total(&values)
            };
            let expected = (moved(0.05) - moved(-0.05)) / 0.1;
            assert!((found - expected).abs() < 2e-3, "{at}: {found}, {expected}");
            assert_eq!(*found != 0.0, at < 6, "only tokens of channel a");
        }
        let undeclared = named(Hidden).with(&[Need::ChunkRows]);
        let error = chunk_loss(
            &undeclared,
            logits.clone(),
            &labels,
            &weights,
            None,
            ChunkContext::default(),
        );
        let error = error.err().unwrap().to_string();
        assert!(
            error.ends_with("&[Need::ChunkRows, Need::HiddenStates] }"),
            "{error}"
        );
    }
}
