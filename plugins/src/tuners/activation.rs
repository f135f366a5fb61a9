//! Activations of tuners, by their names in transformers (`ACT2FN`).

use apus_sdk::{Result, Tensor};

apus_sdk::options! {
    pub enum Activation {
        Linear,
        Gelu,
        #[serde(alias = "gelu_pytorch_tanh")]
        GeluNew,
        QuickGelu,
        Relu,
        #[serde(alias = "swish")]
        Silu,
        Sigmoid,
        Tanh,
    }
}

impl Activation {
    /// The activation of each element.
    pub fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear => Ok(x.clone()),
            Self::Gelu => x.mul(&x.scale(0.5_f64.sqrt())?.erf()?.affine(0.5, 0.5)?),
            Self::GeluNew => {
                let cubic = x.add(&x.powf(3.0)?.scale(0.044_715)?)?;
                let inside = cubic.scale(std::f64::consts::FRAC_2_PI.sqrt())?;
                x.mul(&inside.tanh()?.affine(0.5, 0.5)?)
            }
            Self::QuickGelu => x.mul(&x.scale(1.702)?.sigmoid()?),
            Self::Relu => x.relu(),
            Self::Silu => x.mul(&x.sigmoid()?),
            Self::Sigmoid => x.sigmoid(),
            Self::Tanh => x.tanh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::tensor;

    /// The numbers are those of `torch.nn.functional` and of transformers' `ACT2FN` at -1, 0 and 2.
    #[test]
    fn each_is_that_of_transformers() {
        let x = tensor(&[-1.0f32, 0.0, 2.0], &[3]);
        for (activation, expected) in [
            (Activation::Linear, [-1.0, 0.0, 2.0]),
            (Activation::Gelu, [-0.158_655, 0.0, 1.954_5]),
            (Activation::GeluNew, [-0.158_808, 0.0, 1.954_598]),
            (Activation::QuickGelu, [-0.154_202, 0.0, 1.935_657]),
            (Activation::Relu, [0.0, 0.0, 2.0]),
            (Activation::Silu, [-0.268_941, 0.0, 1.761_594]),
            (Activation::Sigmoid, [0.268_941, 0.5, 0.880_797]),
            (Activation::Tanh, [-0.761_594, 0.0, 0.964_028]),
        ] {
            let found = activation.of(&x).unwrap().to_vec_f32().unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{activation:?}: {found} {expected}"
                );
            }
        }
    }
}
