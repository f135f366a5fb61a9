//! Optimizers: a walk down a bowl.

use super::tensor;
use crate::{Error, Optimizer, Param, Result, State, StepInfo};

/// Steps down the bowl `0.5 * sum((x - target)^2)` from `start`, in one parameter of this shape that
/// weight decay applies to. Gives the value before each step and after the last.
///
/// # Errors
/// Those of the optimizer; `start` or `target` that does not fit the shape.
pub fn minimise(
    optimizer: &mut dyn Optimizer,
    start: &[f32],
    target: &[f32],
    shape: &[usize],
    lr: f64,
    steps: u64,
) -> Result<Vec<f64>> {
    let elements: usize = shape.iter().product();
    if [start.len(), target.len()] != [elements; 2] {
        return Err(Error::new(format!(
            "{} and {} elements for a parameter {shape:?}",
            start.len(),
            target.len()
        )));
    }
    let value = tensor(start, shape);
    let mut state = State::default();
    let mut walk = Vec::new();
    for step in 1..=steps + 1 {
        let now = value.to_vec::<f32>()?;
        let gaps: Vec<f32> = now
            .iter()
            .zip(target)
            .map(|(x, target)| x - target)
            .collect();
        let squares = gaps.iter().map(|&gap| f64::from(gap).powi(2));
        walk.push(0.5 * squares.sum::<f64>());
        if step > steps {
            break;
        }
        let param = Param {
            name: "layers.0.q_proj.lora_A.weight",
            value: value.clone(),
            grad: tensor(&gaps, shape),
            lr,
            decay: true,
            state: &mut state,
        };
        optimizer.step(&mut [param], &StepInfo { step })?;
    }
    Ok(walk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AdamW;

    struct Descent;
    impl Optimizer for Descent {
        fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
            for param in params {
                let step = param.grad.affine(-param.lr, 0.0)?;
                param.value.set(&param.value.add(&step)?)?;
            }
            Ok(())
        }
    }

    struct Adam;
    impl Optimizer for Adam {
        fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
            for param in params {
                let m = param.state.zeros_like("m", &param.value)?;
                let v = param.state.zeros_like("v", &param.value)?;
                let hyper = AdamW {
                    lr: param.lr,
                    beta1: 0.9,
                    beta2: 0.99,
                    eps: 1e-8,
                    weight_decay: 0.0,
                    step: info.step,
                };
                param.value.adamw(&param.grad, &m, &v, &hyper)?;
            }
            Ok(())
        }
    }

    #[test]
    fn half_a_step_leaves_a_quarter_of_the_value() {
        let walk = minimise(&mut Descent, &[2.0, 0.0], &[0.0, 2.0], &[2, 1], 0.5, 3).unwrap();
        assert_eq!(walk, [4.0, 1.0, 0.25, 0.0625]);
        let still = minimise(&mut Descent, &[2.0], &[0.0], &[], 0.5, 0).unwrap();
        assert_eq!(still, [2.0]);
    }

    #[test]
    fn state_stays_between_steps() {
        let walk = minimise(&mut Adam, &[1.0; 4], &[-1.0; 4], &[2, 2], 0.1, 60).unwrap();
        assert!(walk[60] < 0.01 * walk[0], "{walk:?}");
    }

    #[test]
    fn shapes_have_to_fit() {
        assert!(minimise(&mut Descent, &[1.0; 4], &[1.0; 4], &[3], 0.1, 1).is_err());
    }
}
