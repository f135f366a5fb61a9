//! Changes in place.

use super::Arguments;
use super::array::Array;
use crate::{DType, Error, Result, Update};

pub fn run(op: Update, arguments: &Arguments) -> Result<()> {
    match op {
        Update::Set => {
            let [x, src] = arguments.tensors()?;
            if x.shape != src.shape || x.dtype != src.dtype {
                return Err(Error::new(
                    "a tensor is set to one of its own shape and type",
                ));
            }
            x.set(src.values())
        }
        Update::AdamW => adamw(arguments),
    }
}

/// Decay, moments, then the step with bias-corrected moments.
fn adamw(arguments: &Arguments) -> Result<()> {
    let all: [&Array; 4] = arguments.tensors()?;
    let [param, grad, m, v] = all;
    let [step] = arguments.ints()?;
    let [lr, beta1, beta2, eps, weight_decay] = arguments.floats()?;
    let fits = |x: &&Array| x.dtype == DType::F32 && x.shape == param.shape;
    if !all.iter().all(fits) {
        return Err(Error::new("all must be F32 of one shape"));
    }
    if (0..4).any(|i| all[..i].iter().any(|other| other.shares(all[i]))) {
        return Err(Error::new(
            "parameter, gradient and moments are four different tensors",
        ));
    }
    if step < 1 {
        return Err(Error::new("steps are counted from 1"));
    }
    let moment = |old: &Array, beta: f64, power: i32| {
        let pairs = old.values().into_iter().zip(grad.values());
        old.set(
            pairs
                .map(|(old, g)| beta * old + (1.0 - beta) * g.powi(power))
                .collect(),
        )
    };
    moment(m, beta1, 1)?;
    moment(v, beta2, 2)?;
    let corrected = |moment: f64, beta: f64| moment / (1.0 - beta.powf(step as f64));
    let moments = m.values().into_iter().zip(v.values());
    let values = param.values().into_iter().zip(moments).map(|(x, (m, v))| {
        let direction = corrected(m, beta1) / (corrected(v, beta2).sqrt() + eps);
        x * (1.0 - lr * weight_decay) - lr * direction
    });
    param.set(values.collect())
}

#[cfg(test)]
mod tests {
    use crate::AdamW;
    use crate::testing::tensor;

    #[test]
    fn set_is_seen_by_all_who_hold_the_tensor() {
        let x = tensor(&[1.0f32, 2.0], &[2]);
        let (same, row) = (x.clone(), x.reshape(&[1, 2]).unwrap());
        let sum = x.affine(1.0, 0.0).unwrap();
        x.set(&tensor(&[3.0f32, 4.0], &[2])).unwrap();
        assert_eq!(same.to_vec::<f32>().unwrap(), [3.0, 4.0]);
        assert_eq!(row.to_vec::<f32>().unwrap(), [3.0, 4.0]);
        assert_eq!(sum.to_vec::<f32>().unwrap(), [1.0, 2.0]);
        x.set(&same).unwrap();
        assert!(x.set(&row).is_err());
        assert!(x.set(&tensor(&[1u32, 2], &[2])).is_err());
    }

    #[test]
    fn adamw_makes_the_first_step_by_hand() {
        let (x, grad) = (tensor(&[1.0f32, -1.0], &[2]), tensor(&[0.5f32, -4.0], &[2]));
        let (m, v) = (x.zeros_like().unwrap(), x.zeros_like().unwrap());
        let hyper = AdamW {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 0.0,
            weight_decay: 0.5,
            step: 1,
        };
        x.adamw(&grad, &m, &v, &hyper).unwrap();
        // The first step goes by lr against the sign, after a decay of 0.05.
        let close = |found: &crate::Tensor, expected: [f32; 2]| {
            for (found, expected) in found.to_vec::<f32>().unwrap().iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        };
        close(&x, [0.85, -0.85]);
        close(&m, [0.05, -0.4]);
        close(&v, [0.0025, 0.16]);
        let step_0 = AdamW { step: 0, ..hyper };
        assert!(x.adamw(&grad, &m, &v, &step_0).is_err());
        assert!(x.adamw(&grad, &m, &m, &hyper).is_err());
        assert!(x.adamw(&tensor(&[1.0f32], &[1]), &m, &v, &hyper).is_err());
    }
}
