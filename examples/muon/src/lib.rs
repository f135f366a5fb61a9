//! Muon (Jordan et al., 2024, <https://kellerjordan.github.io/posts/muon/>): momentum, made orthogonal
//! by a few Newton-Schulz steps, for matrices; AdamW for everything else.
//!
//! The update is scaled by `0.2 sqrt(max(rows, columns))` as in Moonlight (Liu et al., 2025,
//! <https://arxiv.org/abs/2502.16982>), so that its size is AdamW's and one learning rate serves both.

use apus_sdk::{AdamW, Optimizer, Param, Result, StepInfo, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Muon {
        /// Decay of the momentum.
        momentum: f64 = 0.95,
        /// Newton-Schulz steps.
        ns_steps: usize = 5,
        /// Decoupled weight decay.
        weight_decay: f64 = 0.1,
        /// AdamW's decay of the first moment.
        beta1: f64 = 0.9,
        /// AdamW's decay of the second moment.
        beta2: f64 = 0.95,
        /// AdamW's addend to the root of the second moment.
        eps: f64 = 1e-8,
    }
    limits {
        momentum: 0.0..1.0,
        weight_decay: 0.0..,
        beta1: 0.0..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
    }
}

apus_sdk::register! {
    /// Orthogonalised momentum for matrices, AdamW for other parameters.
    Optimizer, "muon", Muon
}

impl Optimizer for Muon {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            let weight_decay = if param.decay { self.weight_decay } else { 0.0 };
            match *param.value.shape() {
                [rows, columns] => {
                    let scale = 0.2 * (rows.max(columns) as f64).sqrt();
                    let update = self.direction(param)?.affine(param.lr * scale, 0.0)?;
                    let decayed = param.value.affine(1.0 - param.lr * weight_decay, 0.0)?;
                    param.value.set(&decayed.sub(&update)?)?;
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

impl Muon {
    /// Nesterov's momentum, made orthogonal.
    fn direction(&self, param: &mut Param) -> Result<Tensor> {
        let grad = param.grad.affine(1.0 - self.momentum, 0.0)?;
        let momentum = param.state.zeros_like("momentum", &param.value)?;
        momentum.set(&momentum.affine(self.momentum, 0.0)?.add(&grad)?)?;
        orthogonal(
            &momentum.affine(self.momentum, 0.0)?.add(&grad)?,
            self.ns_steps,
        )
    }
}

/// Moves all singular values of a matrix near to 1, by `x <- a x + (b s + c s s) x` with `s = x x^T`
/// and the coefficients of Jordan et al.
fn orthogonal(matrix: &Tensor, steps: usize) -> Result<Tensor> {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let tall = matrix.shape()[0] > matrix.shape()[1];
    let norm = matrix.sqr()?.sum_all()?.sqrt()?;
    let mut x = matrix.div(&norm.affine(1.0, 1e-7)?)?;
    if tall {
        x = x.transpose(0, 1)?;
    }
    for _ in 0..steps {
        let s = x.matmul(&x.transpose(0, 1)?)?;
        let polynomial = s.affine(b, 0.0)?.add(&s.matmul(&s)?.affine(c, 0.0)?)?;
        x = x.affine(a, 0.0)?.add(&polynomial.matmul(&x)?)?;
    }
    if tall { x.transpose(0, 1) } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::State;
    use apus_sdk::testing::{minimise, tensor};

    /// A parameter after these gradients, at a learning rate of 0.1.
    fn after(start: &[f32], grads: &[[f32; 6]], shape: &[usize]) -> Vec<f32> {
        let (value, mut state) = (tensor(start, shape), State::default());
        let mut muon = Muon::default();
        for (step, grad) in (1..).zip(grads) {
            let param = Param {
                name: "w",
                value: value.clone(),
                grad: tensor(grad, shape),
                lr: 0.1,
                decay: true,
                state: &mut state,
            };
            muon.step(&mut [param], &StepInfo { step }).unwrap();
        }
        value.to_vec().unwrap()
    }

    #[test]
    fn two_steps_are_those_of_numpy() {
        // The same in numpy with float64, momentum and Nesterov written as in torch.optim.Muon.
        let expected = [
            0.056_948, 0.214_987, 0.278_649, 0.383_392, 0.473_000, 0.599_434,
        ];
        let grads = [
            [1.0, -1.0, 0.5, 0.2, 0.3, -0.7],
            [0.5, 0.1, -0.2, -1.0, 0.4, 0.9],
        ];
        let wide = after(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], &grads, &[2, 3]);
        let turned = |x: &[f32]| [0, 3, 1, 4, 2, 5].map(|i: usize| x[i]);
        let tall = after(
            &[0.1, 0.4, 0.2, 0.5, 0.3, 0.6],
            &grads.map(|grad| turned(&grad)),
            &[3, 2],
        );
        for (i, (found, expected)) in wide.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-5, "{i}: {found} {expected}");
        }
        for (found, expected) in tall.iter().zip(turned(&wide)) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn a_gradient_of_zero_changes_nothing_but_the_decay() {
        let found = after(&[1.0; 6], &[[0.0; 6]], &[2, 3]);
        assert!(found.iter().all(|x| (x - 0.99).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn matrices_and_vectors_reach_their_target() {
        for shape in [&[2, 2][..], &[4]] {
            let mut muon = Muon {
                weight_decay: 0.0,
                ..Muon::default()
            };
            let (start, target) = ([1.0, -1.0, 0.5, 2.0], [0.0; 4]);
            let losses = minimise(&mut muon, &start, &target, shape, 0.1, 200).unwrap();
            assert!(losses[200] < 0.01 * losses[0], "{shape:?}: {losses:?}");
        }
    }
}
