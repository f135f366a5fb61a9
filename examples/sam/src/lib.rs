//! Sharpness-aware minimization (Foret et al., 2021, <https://arxiv.org/abs/2010.01412>): the step is made with the gradient at
//! the point within `rho` where the loss is greatest to first order, `w + rho g / |g|`, and AdamW makes it.

use apus_sdk::{AdamW, Need, Optimizer, OptimizerStep, Param, Result, StepInfo, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Sam {
        /// How far away the gradient is taken.
        rho: f64 = 0.05,
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
        rho: 0.0..,
        weight_decay: 0.0..,
        beta1: 0.0..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
    }
}

apus_sdk::register! {
    /// AdamW with the gradient of the worst point nearby; each step takes two forward and backward passes.
    Optimizer, "sam", Sam
}

impl Optimizer for Sam {
    fn needs() -> &'static [Need] {
        &[Need::Closure]
    }

    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            let m = param.state.zeros_like("exp_avg", &param.value)?;
            let v = param.state.zeros_like("exp_avg_sq", &param.value)?;
            let hyper = AdamW {
                lr: param.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: if param.decay { self.weight_decay } else { 0.0 },
                step: info.step,
            };
            param.value.adamw(&param.grad, &m, &v, &hyper)?;
        }
        Ok(())
    }

    fn step_with(&mut self, params: &mut [Param], step: &mut OptimizerStep) -> Result<()> {
        let Some(norm) = norm(params)? else {
            return Ok(());
        };
        let factor = norm.affine(1.0, 1e-12)?.recip()?.scale(self.rho)?;
        let mut here = Vec::with_capacity(params.len());
        for param in params.iter() {
            here.push(param.value.affine(1.0, 0.0)?);
            param
                .value
                .set(&param.value.add(&param.grad.mul(&factor)?)?)?;
        }
        step.evaluate()?;
        for (param, here) in params.iter().zip(&here) {
            param.value.set(here)?;
        }
        self.step(params, &step.info())
    }
}

/// The norm of all gradients together, if there is one.
fn norm(params: &[Param]) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for param in params {
        let squares = param.grad.sqr()?.sum_all()?;
        sum = Some(match sum {
            Some(sum) => sum.add(&squares)?,
            None => squares,
        });
    }
    sum.map(|sum| sum.sqrt()).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Bowl, make, minimise};

    /// Foret et al.'s formula and AdamW's, in f64, on a bowl with these curvatures around 0.
    fn by_formula(sam: &Sam, start: &[f32], curvature: &[f32], lr: f64, steps: i32) -> Vec<f64> {
        let curvature: Vec<f64> = curvature.iter().map(|&h| f64::from(h)).collect();
        let mut w: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
        let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        for t in 1..=steps {
            let slope: Vec<f64> = w.iter().zip(&curvature).map(|(w, h)| h * w).collect();
            let norm = slope.iter().map(|g| g * g).sum::<f64>().sqrt();
            for i in 0..w.len() {
                let g = curvature[i] * (w[i] + sam.rho * slope[i] / norm);
                m[i] = sam.beta1 * m[i] + (1.0 - sam.beta1) * g;
                v[i] = sam.beta2 * v[i] + (1.0 - sam.beta2) * g * g;
                let (m, v) = (
                    m[i] / (1.0 - sam.beta1.powi(t)),
                    v[i] / (1.0 - sam.beta2.powi(t)),
                );
                w[i] -= lr * (sam.weight_decay * w[i] + m / (v.sqrt() + sam.eps));
            }
        }
        w
    }

    #[test]
    fn steps_on_a_quadratic_are_those_of_the_formula() {
        let (start, curvature) = ([1.0, -2.0, 0.5, 3.0], [1.0, 10.0, 0.1, 4.0]);
        for rho in [0.0, 0.05, 2.0] {
            let mut sam = make::<dyn Optimizer>("sam", json!({"rho": rho})).unwrap();
            let bowl = Bowl::new(&start, &[0.0; 4], &[2, 2]).unwrap();
            let mut bowl = bowl.with_curvature(&curvature).unwrap();
            for _ in 0..20 {
                bowl.step(&mut *sam, 0.1).unwrap();
            }
            let sam = Sam {
                rho,
                ..Sam::default()
            };
            let expected = by_formula(&sam, &start, &curvature, 0.1, 20);
            for (found, expected) in bowl.at().unwrap().into_iter().zip(expected) {
                let gap = (f64::from(found) - expected).abs();
                assert!(gap < 2e-5, "{rho}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_gradient_of_zero_changes_nothing_but_the_decay() {
        let mut bowl = Bowl::new(&[2.0, -2.0], &[2.0, -2.0], &[2]).unwrap();
        bowl.step(&mut Sam::default(), 0.1).unwrap();
        assert_eq!(bowl.at().unwrap(), [1.98, -1.98]);
    }

    #[test]
    fn it_reaches_its_target() {
        let mut sam = Sam {
            weight_decay: 0.0,
            ..Sam::default()
        };
        let losses = minimise(&mut sam, &[1.0, -1.0], &[0.0; 2], &[2], 0.05, 200).unwrap();
        assert!(losses[200] < 0.01 * losses[0], "{losses:?}");
    }
}
