//! Optimizers: a walk down a bowl.

use super::tensor;
use crate::needs::require;
use crate::{
    Error, Need, Optimizer, OptimizerStep, Param, ParameterGroup, Result, State, StepInfo, Tensor,
};

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
    let mut bowl = Bowl::new(start, target, shape)?;
    let mut walk = vec![bowl.value()?];
    for _ in 0..steps {
        bowl.step(optimizer, lr)?;
        walk.push(bowl.value()?);
    }
    Ok(walk)
}

/// The bowl `0.5 * sum(curvature * (x - target)^2)` in one parameter, and an optimizer's state in it.
///
/// It plays the host's part in steps, in evaluations and in checkpoints, and gives an optimizer of
/// [`make`](super::make) what it declares alone.
///
/// ```
/// use apus_sdk::{Optimizer, Param, Result, StepInfo, options, testing};
///
/// options! {
///     struct Descent {}
/// }
///
/// impl Optimizer for Descent {
///     fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
///         for param in params {
///             param.value.set(&param.value.sub(&param.grad.scale(param.lr)?)?)?;
///         }
///         Ok(())
///     }
/// }
///
/// let bowl = testing::Bowl::new(&[1.0, 1.0], &[0.0, 2.0], &[2])?;
/// let mut bowl = bowl.with_curvature(&[1.0, 4.0])?;
/// bowl.step(&mut Descent::default(), 0.25)?;
/// assert_eq!(bowl.at()?, [0.75, 2.0]);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub struct Bowl {
    value: Tensor,
    target: Tensor,
    curvature: Tensor,
    group: ParameterGroup,
    state: State,
    step: u64,
}

impl Bowl {
    /// A bowl that is as steep in all directions, with the parameter at `start`.
    ///
    /// # Errors
    /// `start` or `target` does not fit the shape.
    pub fn new(start: &[f32], target: &[f32], shape: &[usize]) -> Result<Self> {
        let elements: usize = shape.iter().product();
        if [start.len(), target.len()] != [elements; 2] {
            return Err(Error::new(format!(
                "{} and {} elements for a parameter {shape:?}",
                start.len(),
                target.len()
            )));
        }
        Ok(Self {
            value: tensor(start, shape),
            target: tensor(target, shape),
            curvature: tensor(&vec![1.0; elements], shape),
            group: ParameterGroup::default(),
            state: State::default(),
            step: 0,
        })
    }

    /// With this curvature in each direction.
    ///
    /// # Errors
    /// It does not fit the shape.
    pub fn with_curvature(self, curvature: &[f32]) -> Result<Self> {
        let curvature = self.value.new_tensor(curvature, self.value.shape())?;
        Ok(Self { curvature, ..self })
    }

    /// With the parameter in this group.
    pub fn with_group(self, group: ParameterGroup) -> Self {
        Self { group, ..self }
    }

    /// The parameter.
    ///
    /// # Errors
    /// The optimizer has put a tensor of another host into it.
    pub fn at(&self) -> Result<Vec<f32>> {
        self.value.to_vec()
    }

    /// What is minimised, where the parameter is.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn value(&self) -> Result<f64> {
        height(&self.value, &self.target, &self.curvature)
    }

    /// What the optimizer keeps about the parameter.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A step at this learning rate.
    ///
    /// # Errors
    /// Those of the optimizer.
    pub fn step(&mut self, optimizer: &mut dyn Optimizer, lr: f64) -> Result<()> {
        self.step += 1;
        let info = StepInfo { step: self.step };
        let (value, target, curvature) = (&self.value, &self.target, &self.curvature);
        let slope = || value.sub(target)?.mul(curvature);
        let grad = slope()?;
        let held = grad.clone();
        let mut again = || {
            held.set(&slope()?)?;
            height(value, target, curvature)
        };
        let groups = [self.group.clone()];
        let mut params = [Param {
            name: "layers.0.q_proj.lora_A.weight",
            value: value.clone(),
            grad,
            lr,
            decay: true,
            state: &mut self.state,
        }];
        let gives = |need| require(need).is_ok();
        if !gives(Need::Groups) && !gives(Need::Closure) {
            return optimizer.step(&mut params, &info);
        }
        let mut step = OptimizerStep::new(info);
        if gives(Need::Groups) {
            step = step.with_groups(&groups, &[0]);
        }
        if gives(Need::Closure) {
            step = step.with_closure(&mut again);
        }
        optimizer.step_with(&mut params, &mut step)
    }

    /// The parameter as it is evaluated, between the hooks of an evaluation.
    ///
    /// # Errors
    /// Those of the optimizer; the parameter is afterwards another one than before.
    pub fn evaluated(&mut self, optimizer: &mut dyn Optimizer) -> Result<Vec<f32>> {
        let trained = self.at()?;
        self.hook(|params| optimizer.before_evaluation(params))?;
        let evaluated = self.at()?;
        self.hook(|params| optimizer.after_evaluation(params))?;
        self.has_come_back(&trained, "after_evaluation")?;
        Ok(evaluated)
    }

    /// Ends the run at a checkpoint, which another instance of the optimizer goes on from. Gives the parameter as it is in
    /// the checkpoint.
    ///
    /// # Errors
    /// Those of both; the parameter is another one than before the checkpoint.
    pub fn go_on(&mut self, old: &mut dyn Optimizer, new: &mut dyn Optimizer) -> Result<Vec<f32>> {
        let trained = self.at()?;
        self.hook(|params| old.before_saving(params))?;
        if require(Need::State).is_ok() {
            let text = serde_json::to_string(&old.save_state()?)?;
            new.load_state(serde_json::from_str(&text)?)?;
        }
        let saved = self.at()?;
        let copies = self.state.iter().map(|(name, tensor)| {
            // As through a file: nobody holds the old tensors.
            Ok((name.to_owned(), tensor.affine(1.0, 0.0)?))
        });
        let copies: Vec<(String, Tensor)> = copies.collect::<Result<_>>()?;
        copies
            .into_iter()
            .for_each(|(name, copy)| self.state.insert(name, copy));
        self.hook(|params| new.after_saving(params))?;
        self.has_come_back(&trained, "after_saving")?;
        Ok(saved)
    }

    /// Calls a hook, as a host does: after the first step, with gradients of zero, of an optimizer that declares hooks.
    fn hook(&mut self, call: impl FnOnce(&mut [Param]) -> Result<()>) -> Result<()> {
        if self.step == 0 || require(Need::Hooks).is_err() {
            return Ok(());
        }
        call(&mut [Param {
            name: "layers.0.q_proj.lora_A.weight",
            value: self.value.clone(),
            grad: self.value.zeros_like()?,
            lr: 0.0,
            decay: true,
            state: &mut self.state,
        }])
    }

    fn has_come_back(&self, trained: &[f32], hook: &str) -> Result<()> {
        match self.at()? == trained {
            true => Ok(()),
            false => Err(Error::new(format!(
                "after {hook} the parameter is {:?}, and was {trained:?} when it was trained last",
                self.at()?
            ))),
        }
    }
}

fn height(value: &Tensor, target: &Tensor, curvature: &Tensor) -> Result<f64> {
    let (value, target) = (value.to_vec::<f32>()?, target.to_vec::<f32>()?);
    let all = value.iter().zip(&target).zip(curvature.to_vec::<f32>()?);
    let parts = all.map(|((x, target), curve)| f64::from(curve) * f64::from(x - target).powi(2));
    Ok(0.5 * parts.sum::<f64>())
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

    /// Trains `x` and shows `-x`, and keeps its number of steps beside.
    struct Mirrors {
        steps: u64,
        comes_back: bool,
    }

    impl Optimizer for Mirrors {
        fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
            self.steps += 1;
            assert_eq!(self.steps, info.step);
            Descent.step(params, info)
        }

        fn step_with(&mut self, params: &mut [Param], step: &mut OptimizerStep) -> Result<()> {
            assert_eq!(step.group(0)?.name(), "all");
            let here = params[0].value.affine(1.0, 0.0)?;
            params[0].value.set(&here.scale(2.0)?)?;
            // 0.5 * 3 * (2 x - 1)^2 and its slope, while the parameter is at 2 x.
            let x = here.item()?;
            assert_eq!(step.evaluate()?, 1.5 * (2.0 * x - 1.0).powi(2));
            assert_eq!(params[0].grad.item()?, 3.0 * (2.0 * x - 1.0));
            params[0].value.set(&here)?;
            self.step(params, &step.info())
        }

        fn save_state(&self) -> Result<serde_json::Value> {
            Ok(self.steps.into())
        }

        fn load_state(&mut self, saved: serde_json::Value) -> Result<()> {
            self.steps = saved.as_u64().ok_or("no number of steps")?;
            Ok(())
        }

        fn before_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
            params[0].value.set(&params[0].value.neg()?)
        }

        fn after_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
            match self.comes_back {
                true => self.before_evaluation(params),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn passes_groups_hooks_and_state_are_those_of_a_host() {
        let mut mirrors = Mirrors {
            steps: 0,
            comes_back: true,
        };
        let group = ParameterGroup::new("all", crate::Options::new());
        let bowl = Bowl::new(&[2.0], &[1.0], &[1]).unwrap();
        let bowl = bowl.with_curvature(&[3.0]).unwrap();
        let mut bowl = bowl.with_group(group);
        assert_eq!(bowl.value(), Ok(1.5));
        assert_eq!(bowl.evaluated(&mut mirrors), Ok(vec![2.0]));
        bowl.step(&mut mirrors, 0.125).unwrap();
        // The gradient is that of the second pass, 3 (2 * 2 - 1).
        assert_eq!(bowl.at(), Ok(vec![0.875]));
        assert_eq!(bowl.evaluated(&mut mirrors), Ok(vec![-0.875]));
        let mut other = Mirrors {
            steps: 0,
            comes_back: true,
        };
        assert_eq!(bowl.go_on(&mut mirrors, &mut other), Ok(vec![-0.875]));
        bowl.step(&mut other, 0.125).unwrap();
        let mut lost = Mirrors {
            steps: 2,
            comes_back: false,
        };
        let said = bowl.evaluated(&mut lost).unwrap_err().to_string();
        assert!(said.contains("after after_evaluation"), "{said}");
    }
}
