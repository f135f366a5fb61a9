//! Muon (Jordan et al., <https://kellerjordan.github.io/posts/muon/>) in the order of operations of `torch.optim.Muon`: momentum
//! of matrices, made orthogonal by Newton-Schulz steps; AdamW for everything else.
//!
//! What is no hidden matrix (embedding, head, norms, biases, experts' matrices in one tensor) is AdamW's, as Muon's authors
//! say. The Newton-Schulz steps are made in float32, where torch rounds to bfloat16.

use apus_sdk::{AdamW, Optimizer, Param, Result, StepInfo, Tensor, register};
use serde::{Deserialize, Serialize};

/// What the learning rate of a matrix is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AdjustLr {
    /// The root of rows over columns, at least 1.
    Original,
    /// 0.2 times the root of the longer side: updates are as large as AdamW's.
    MatchRmsAdamw,
}

apus_sdk::options! {
    struct Muon {
        /// Decay of the momentum, 0 to below 1.
        momentum: f64 = 0.95,
        /// Whether a step looks ahead along the momentum (Nesterov).
        nesterov: bool = true,
        /// Newton-Schulz steps, 1 to 99.
        ns_steps: usize = 5,
        /// match_rms_adamw (updates as large as AdamW's, for its learning rates) or original (for those of Muon's authors).
        adjust_lr: AdjustLr = AdjustLr::MatchRmsAdamw,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.1,
        /// AdamW's decay of the mean of gradients, 0 to below 1.
        beta1: f64 = 0.9,
        /// AdamW's decay of the mean of squared gradients, 0 to below 1.
        beta2: f64 = 0.95,
        /// AdamW's addend to the root of the mean of squared gradients, above 0.
        eps: f64 = 1e-8,
    }
    limits {
        momentum: 0.0..1.0,
        ns_steps: 1.0..100.0,
        weight_decay: 0.0..,
        beta1: 0.0..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
    }
}

register! {
    /// Orthogonal momentum for matrices, AdamW for other parameters.
    Optimizer, "muon", Muon
}

apus_sdk::built_in! {
    Optimizer, "muon",
    gives_way: true,
    aliases: &["muon"],
}

/// Parts of names of matrices that are no hidden ones.
const ENDS: [&str; 3] = ["embed_tokens", "lm_head", "lora_embedding"];

impl Optimizer for Muon {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            let weight_decay = if param.decay { self.weight_decay } else { 0.0 };
            match *param.value.shape() {
                [rows, columns] if !ENDS.iter().any(|end| param.name.contains(end)) => {
                    let update = self.direction(param)?;
                    let rate = param.lr * self.adjust_lr.factor(rows as f64, columns as f64);
                    let kept = param.value.affine(1.0 - param.lr * weight_decay, 0.0)?;
                    param.value.set(&kept.sub(&update.affine(rate, 0.0)?)?)?;
                }
                _ => {
                    let m = param.state.zeros_like("exp_avg", &param.value)?;
                    let v = param.state.zeros_like("exp_avg_sq", &param.value)?;
                    let hyper = AdamW {
                        lr: param.lr,
                        beta1: self.beta1,
                        beta2: self.beta2,
                        eps: self.eps,
                        weight_decay,
                        step: info.step,
                    };
                    param.value.adamw(&param.grad, &m, &v, &hyper)?;
                }
            }
        }
        Ok(())
    }
}

impl AdjustLr {
    fn factor(self, rows: f64, columns: f64) -> f64 {
        match self {
            Self::Original => (rows / columns).max(1.0).sqrt(),
            Self::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
        }
    }
}

impl Muon {
    /// The momentum, made orthogonal.
    fn direction(&self, param: &mut Param) -> Result<Tensor> {
        let momentum = param.state.zeros_like("momentum_buffer", &param.value)?;
        let towards = |from: &Tensor, to: &Tensor, share: f64| {
            from.affine(1.0 - share, 0.0)?.add(&to.affine(share, 0.0)?)
        };
        momentum.set(&towards(&momentum, &param.grad, 1.0 - self.momentum)?)?;
        let ahead = match self.nesterov {
            true => towards(&param.grad, &momentum, self.momentum)?,
            false => momentum,
        };
        orthogonal(&ahead, self.ns_steps)
    }
}

/// Moves all singular values of a matrix near to 1, by `x <- a x + (b s + c s s) x` with `s = x x^T`
/// and the coefficients of Jordan et al.
fn orthogonal(matrix: &Tensor, steps: usize) -> Result<Tensor> {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let is_tall = matrix.shape()[0] > matrix.shape()[1];
    let norm = matrix.sqr()?.sum_all()?.sqrt()?;
    let mut x = matrix.div(&norm.clamp(1e-7, f64::INFINITY)?)?;
    if is_tall {
        x = x.transpose(0, 1)?;
    }
    for _ in 0..steps {
        let s = x.matmul(&x.transpose(0, 1)?)?;
        let polynomial = s.affine(b, 0.0)?.add(&s.matmul(&s)?.affine(c, 0.0)?)?;
        x = x.affine(a, 0.0)?.add(&polynomial.matmul(&x)?)?;
    }
    if is_tall { x.transpose(0, 1) } else { Ok(x) }
}
