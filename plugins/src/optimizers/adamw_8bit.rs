//! AdamW whose moments are kept in 8 bits (Dettmers et al., <https://arxiv.org/abs/2110.02861>), as bitsandbytes' and torchao's:
//! blocks of 256 elements, each scaled by its greatest magnitude, in the dynamic codes of 8 bits. Parameters of fewer than 4,096
//! elements, or whose elements are no whole number of blocks, are kept in 32 bits.

use apus_sdk::{Optimizer, Param, Result, State, StepInfo, Tensor, register};

apus_sdk::options! {
    struct AdamW8bit {
        /// Decay of the mean of gradients, 0 to below 1.
        beta1: f64 = 0.9,
        /// Decay of the mean of squared gradients, 0 to below 1; 0.95 as ms-swift, 0.999 in torch.
        beta2: f64 = 0.95,
        /// Added to the root of the mean of squared gradients, above 0.
        eps: f64 = 1e-8,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.1,
    }
    limits {
        beta1: 0.0..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
        weight_decay: 0.0..,
    }
}

register! {
    /// AdamW with moments of 8 bits: a quarter of its state.
    Optimizer, "adamw_8bit", AdamW8bit
}

// A paged optimizer of transformers computes the same numbers.
apus_sdk::built_in! {
    Optimizer, "adamw_8bit",
    gives_way: true,
    aliases: &["adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit", "paged_adamw_8bit"],
}

/// Elements that share a scale.
const BLOCK: usize = 256;

/// The fewest elements of a parameter whose moments are kept in 8 bits.
const LEAST: usize = 4096;

impl Optimizer for AdamW8bit {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        let step = info.step as f64;
        let first = 1.0 - self.beta1.powf(step);
        let second = (1.0 - self.beta2.powf(step)).sqrt();
        for param in params {
            let decay = if param.decay { self.weight_decay } else { 0.0 };
            let square = param.grad.sqr()?;
            let m = moment(param.state, "exp_avg", &param.grad, self.beta1, true)?;
            let v = moment(param.state, "exp_avg_sq", &square, self.beta2, false)?;
            let denominator = v.sqrt()?.affine(1.0 / second, self.eps)?;
            let update = m.affine(param.lr / first, 0.0)?.div(&denominator)?;
            let kept = param.value.affine(1.0 - param.lr * decay, 0.0)?;
            param.value.set(&kept.sub(&update)?)?;
        }
        Ok(())
    }
}

/// The mean under this name, after `new` came in. It is kept in 8 bits where there are enough of them; what is returned has all
/// of its bits.
fn moment(state: &mut State, name: &str, new: &Tensor, beta: f64, signed: bool) -> Result<Tensor> {
    let mixed = |old: &Tensor| old.affine(beta, 0.0)?.add(&new.affine(1.0 - beta, 0.0)?);
    if new.elements() < LEAST || !new.elements().is_multiple_of(BLOCK) {
        let kept = state.zeros_like(name, new)?;
        kept.set(&mixed(&kept)?)?;
        return Ok(kept);
    }
    let (codes, scales) = (format!("{name}_codes"), format!("{name}_scales"));
    let map: Vec<f32> = dynamic_map(signed);
    let map = new.new_tensor(&map, &[map.len()])?;
    let old = match (state.get(&codes), state.get(&scales)) {
        (Some(codes), Some(scales)) => {
            let blocks = codes
                .dequantize(&map)?
                .reshape(&[scales.elements(), BLOCK])?;
            blocks.mul(scales)?.reshape(new.shape())?
        }
        _ => new.zeros_like()?,
    };
    let mean = mixed(&old)?;
    let blocks = mean.reshape(&[mean.elements() / BLOCK, BLOCK])?;
    let scale = blocks.abs()?.max(1)?.clamp(1e-12, f64::INFINITY)?;
    state.insert(codes, blocks.div(&scale)?.quantize(&map)?);
    state.insert(scales, scale);
    Ok(mean)
}

/// The numbers of the 256 codes, from the least: a dynamic exponent, and as many bits of a fraction as it leaves
/// (`create_dynamic_map` of bitsandbytes).
fn dynamic_map(signed: bool) -> Vec<f32> {
    const EXPONENTS: i32 = 7;
    let mut map = vec![0.0, 1.0];
    for exponent in 0..EXPONENTS {
        let bits = if signed { exponent } else { exponent + 1 };
        let items = 2usize.pow(bits.cast_unsigned());
        let edge = |at: usize| 0.1 + 0.9 * at as f64 / items as f64;
        for at in 0..items {
            let size = 10f64.powi(exponent - EXPONENTS + 1) * (edge(at) + edge(at + 1)) / 2.0;
            map.push(size as f32);
            if signed {
                map.push(-size as f32);
            }
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_bitsandbytes() {
        let (signed, unsigned) = (dynamic_map(true), dynamic_map(false));
        let near = |found: f32, expected: f32| {
            assert!(
                (found - expected).abs() < 2e-7 * expected.abs().max(1e-6),
                "{found} {expected}"
            )
        };
        assert_eq!((signed.len(), unsigned.len()), (256, 256));
        for (at, expected) in [
            (0, -0.992_968_74),
            (126, -5.5e-7),
            (127, 0.0),
            (130, 7.75e-6),
            (254, 0.992_968_74),
            (255, 1.0),
        ] {
            near(signed[at], expected);
        }
        for (at, expected) in [
            (0, 0.0),
            (1, 3.25e-7),
            (4, 4.375e-6),
            (128, 0.110_546_87),
            (254, 0.996_484_4),
        ] {
            near(unsigned[at], expected);
        }
    }
}
