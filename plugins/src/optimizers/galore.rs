//! GaLore (Zhao et al., <https://arxiv.org/abs/2403.03507>), with the order of operations of the package `galore_torch`: the gradient
//! of a matrix is projected on its leading singular vectors, AdamW's moments are kept of the projection, and the step is
//! projected back. Other parameters are AdamW's.
//!
//! Every so many steps the vectors are found anew ([`singular`](super::singular)), while the moments stay as they are. Experts'
//! matrices in one tensor are projected one by one, if they are named.

use super::singular::{Basis, Leading};
use apus_sdk::built_in::{Answer, Argument, OptionFlag};
use apus_sdk::{AdamW, Error, Optimizer, Param, Result, State, StepInfo, Tensor, register};
use serde::{Deserialize, Serialize};

/// The sides of a matrix that are projected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProjType {
    /// The shorter one.
    Std,
    /// The longer one.
    ReverseStd,
    /// Columns.
    Right,
    /// Rows.
    Left,
    /// Both.
    Full,
}

apus_sdk::options! {
    struct GaLore {
        /// Singular vectors that a gradient is projected on, 1 or more.
        rank: usize = 128,
        /// Steps after which they are found anew, 1 or more.
        update_proj_gap: u64 = 50,
        /// Factor on the steps of projected parameters.
        scale: f64 = 1.0,
        /// What is projected of a matrix: std (its shorter side), reverse_std (the longer one), right (columns), left (rows) or full (both).
        proj_type: ProjType = ProjType::Std,
        /// Matrices whose names have one of these in them are projected.
        target_modules: Vec<String> = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec(),
        /// Decay of the mean of gradients, 0 to below 1.
        beta1: f64 = 0.9,
        /// Decay of the mean of squared gradients, 0 to below 1.
        beta2: f64 = 0.95,
        /// Added to the root of the mean of squared gradients, above 0.
        eps: f64 = 1e-8,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.1,
    }
    limits {
        rank: 1.0..,
        update_proj_gap: 1.0..,
        scale: 0.0..,
        beta1: 0.0..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
        weight_decay: 0.0..,
    }
}

register! {
    /// AdamW in the space of the leading singular vectors of each gradient: a state of low rank for full training.
    Optimizer, "galore", GaLore
}

apus_sdk::built_in! {
    Optimizer, "galore",
    gives_way: true,
    aliases: &["galore"],
    flags: &[
        OptionFlag::new("use_galore", OptionFlag::CHOOSES, "Train with the optimizer galore: AdamW whose state is of low rank, for train_type full")
            .beside("same with an AdamW of 32 bits: the optimizer is `galore`"),
        OptionFlag::new("galore_rank", "rank", "Singular vectors that galore projects a gradient on")
            .at_least(1.0),
        OptionFlag::new("galore_target_modules", "target_modules", "Matrices that galore projects, by parts of their names")
            .beside("same; by default q_proj, k_proj, v_proj and o_proj, ms-swift's linear layers of gpt-oss. Experts, which ms-swift cannot project, are projected one by one if they are named (`mlp.experts`)"),
        OptionFlag::new("galore_update_proj_gap", "update_proj_gap", "Steps after which galore finds its vectors anew")
            .at_least(1.0),
        OptionFlag::new("galore_scale", "scale", "Factor on the steps of parameters that galore projects")
            .at_least(0.0),
        OptionFlag::new("galore_proj_type", "proj_type", "What galore projects: std, reverse_std, right, left or full"),
    ],
    after: "optimizer",
    arguments: &[
        Argument {
            commands: &["sft"],
            names: &["optim_target_modules"],
            answer: Answer::Refused(&[], "with galore it is --galore_target_modules here"),
        },
        Argument {
            commands: &["sft"],
            names: &["galore_with_embedding"],
            answer: Answer::Refused(&["false"], "name the embedding among --galore_target_modules: embed_tokens"),
        },
        Argument {
            commands: &["sft"],
            names: &["galore_optim_per_parameter"],
            answer: Answer::Refused(&["false"], "one optimizer updates all parameters here, and state is kept for each"),
        },
        Argument {
            commands: &["sft"],
            names: &["galore_quantization"],
            answer: Answer::Refused(&["false"], "there is no Q-GaLore; leave it out for vectors and moments of 32 bits"),
        },
        Argument {
            commands: &["sft"],
            names: &[
                "galore_config", "galore_proj_quant", "galore_proj_bits", "galore_proj_group_size", "galore_cos_threshold",
                "galore_gamma_proj", "galore_queue_size",
            ],
            answer: Answer::NoEffect("only with galore_quantization, which is an error"),
        },
    ],
}

impl Optimizer for GaLore {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            let lr = param.lr;
            if self.projects(param.name, param.value.shape()) {
                let basis = self.basis(param, info)?;
                let low = basis.project(&param.grad)?;
                let step = low.zeros_like()?;
                self.update(&step, &low, param.state, 1.0, info)?;
                let step = basis.project_back(&step)?.scale(lr * self.scale)?;
                param.value.set(&param.value.add(&step)?)?;
            } else {
                self.update(&param.value, &param.grad, param.state, lr, info)?;
            }
            if param.decay && self.weight_decay != 0.0 {
                let kept = 1.0 - lr * self.weight_decay;
                param.value.set(&param.value.scale(kept)?)?;
            }
        }
        Ok(())
    }

    fn state_bytes(&self, name: &str, shape: &[usize]) -> Result<Option<u64>> {
        let (count, rows, columns) = match *shape {
            [rows, columns] if self.projects(name, shape) => (1, rows, columns),
            [count, rows, columns] if self.projects(name, shape) => (count, rows, columns),
            _ => return Ok(None),
        };
        let rank = self.rank.min(rows).min(columns);
        let (left, right) = self.sides(rows, columns);
        let vectors = usize::from(left) * rows * rank + usize::from(right) * rank * columns;
        let low_rows = if left { rank } else { rows };
        let low_columns = if right { rank } else { columns };
        let moment = low_rows * low_columns;
        let elements = count * (vectors + 2 * moment);
        Ok(Some((elements * size_of::<f32>()) as u64))
    }
}

impl GaLore {
    fn projects(&self, name: &str, shape: &[usize]) -> bool {
        let is_named = |part: &String| name.contains(part.as_str());
        // Biases of experts are matrices too.
        matches!(shape, [_, _] | [_, _, _])
            && !name.ends_with("bias")
            && self.target_modules.iter().any(is_named)
    }

    /// Whether a matrix is projected on its left singular vectors, and on its right ones.
    fn sides(&self, rows: usize, columns: usize) -> (bool, bool) {
        match self.proj_type {
            ProjType::Std => (rows < columns, rows >= columns),
            ProjType::ReverseStd => (rows >= columns, rows < columns),
            ProjType::Right => (false, true),
            ProjType::Left => (true, false),
            ProjType::Full => (true, true),
        }
    }

    /// AdamW's step of `value`, without weight decay. The addend is not divided by the root of the bias correction, as in
    /// the implementations that GaLore's stands on.
    fn update(
        &self,
        value: &Tensor,
        grad: &Tensor,
        state: &mut State,
        lr: f64,
        info: &StepInfo,
    ) -> Result<()> {
        let m = state.zeros_like("exp_avg", grad)?;
        let v = state.zeros_like("exp_avg_sq", grad)?;
        let correction = 1.0 - self.beta2.powf(info.step as f64);
        let hyper = AdamW {
            lr,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps / correction.sqrt(),
            weight_decay: 0.0,
            step: info.step,
        };
        value.adamw(grad, &m, &v, &hyper)
    }

    /// The vectors that a gradient is projected on, found anew if it is time.
    fn basis(&self, param: &mut Param, info: &StepInfo) -> Result<Basis> {
        let [.., rows, columns] = *param.grad.shape() else {
            return Err(Error::new("a gradient that is no matrix is not projected"));
        };
        let (left, right) = self.sides(rows, columns);
        let is_due = info
            .step
            .saturating_sub(1)
            .is_multiple_of(self.update_proj_gap);
        let kept = |wanted: bool, name: &str| match (wanted, param.state.get(name)) {
            (false, _) => Some(None),
            (true, kept) => kept.cloned().map(Some),
        };
        if !is_due && let (Some(left), Some(right)) = (kept(left, "left"), kept(right, "right")) {
            return Ok(Basis { left, right });
        }
        let leading = Leading::of(&param.grad, self.rank)?;
        let basis = Basis {
            left: left.then(|| leading.left(&param.grad)).transpose()?,
            right: right.then(|| leading.right(&param.grad)).transpose()?,
        };
        for (name, vectors) in [("left", &basis.left), ("right", &basis.right)] {
            if let Some(vectors) = vectors {
                param.state.insert(name, vectors.clone());
            }
        }
        Ok(basis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::tensor;

    #[test]
    fn the_state_is_as_large_as_it_is_said_to_be() {
        let types = [
            ProjType::Std,
            ProjType::ReverseStd,
            ProjType::Right,
            ProjType::Left,
            ProjType::Full,
        ];
        let shapes = [&[3, 8][..], &[8, 3], &[2, 3, 8], &[2, 8, 3]];
        for (proj_type, shape, rank) in types
            .into_iter()
            .flat_map(|of| shapes.map(|shape| (of, shape)))
            .flat_map(|(of, shape)| [2, 5].map(|rank| (of, shape, rank)))
        {
            let mut galore = GaLore {
                rank,
                proj_type,
                ..GaLore::default()
            };
            let elements: usize = shape.iter().product();
            let values: Vec<f32> = (0..elements).map(|i| (i * i) as f32).collect();
            let mut state = State::default();
            let name = "layers.0.q_proj.weight";
            let mut params = [Param {
                name,
                value: tensor(&values, shape),
                grad: tensor(&values, shape),
                lr: 0.1,
                decay: true,
                state: &mut state,
            }];
            galore.step(&mut params, &StepInfo { step: 1 }).unwrap();
            let kept: usize = state.iter().map(|(_, kept)| 4 * kept.elements()).sum();
            let said = galore.state_bytes(name, shape).unwrap();
            assert_eq!(said, Some(kept as u64), "{proj_type:?} {shape:?} {rank}");
            assert_eq!(galore.state_bytes("model.norm.weight", shape), Ok(None));
            assert_eq!(galore.state_bytes("layers.0.q_proj.bias", shape), Ok(None));
        }
    }
}
