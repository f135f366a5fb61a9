//! Optimizers: one update of the trainable parameters.

use crate::{Need, OptimizerStep, Result, Run, Setup, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Updates parameters from their gradients.
///
/// ```
/// use apus_sdk::{Optimizer, Param, Result, StepInfo, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Momentum {
///         /// Share of the last step that is kept.
///         beta: f64 = 0.9,
///     }
/// }
///
/// impl Optimizer for Momentum {
///     fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
///         for param in params {
///             let velocity = param.state.zeros_like("velocity", &param.value)?;
///             velocity.set(&velocity.affine(self.beta, 0.0)?.add(&param.grad)?)?;
///             param.value.set(&param.value.sub(&velocity.affine(param.lr, 0.0)?)?)?;
///         }
///         Ok(())
///     }
/// }
///
/// register! {
///     /// Gradient descent with momentum.
///     Optimizer, "momentum", Momentum
/// }
///
/// let mut momentum = testing::make::<dyn Optimizer>("momentum", json!({"beta": 0.5}))?;
/// let values = testing::minimise(&mut *momentum, &[3.0, 1.0], &[0.0, 2.0], &[2], 0.1, 50)?;
/// assert_eq!(values[0], 5.0);
/// assert!(values[50] < 1e-3);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Optimizer: Send {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// Training begins soon, as part of this run. The run tells something to those that declare [`Need::Run`] or a
    /// need that implies it.
    ///
    /// # Errors
    /// Whatever keeps it from working; the run does not begin.
    fn begin(&mut self, run: &Run) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// One step over all parameters, in place ([`Tensor::set`], [`Tensor::adamw`]).
    ///
    /// What has to survive between steps goes into [`Param::state`], which the host saves in
    /// checkpoints and restores, so that a resumed run goes on exactly.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()>;

    /// The same for an optimizer that declares [`Need::Groups`] or [`Need::Closure`], which is called in place of
    /// [`step`](Self::step): the groups of the parameters, and the forward and backward passes of the step once more, with
    /// the parameters as they are now.
    ///
    /// # Errors
    /// Whatever an operation or a pass returns.
    fn step_with(&mut self, params: &mut [Param], step: &mut OptimizerStep) -> Result<()> {
        self.step(params, &step.info())
    }

    /// What a checkpoint keeps of the optimizer beside what it keeps of each parameter: any JSON, for an optimizer that
    /// declares [`Need::State`]. With several ranks each has an optimizer of its own, and all of them must come to the same:
    /// it follows from the steps, not from which parameters an optimizer is given.
    ///
    /// # Errors
    /// Whatever the optimizer finds.
    fn save_state(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Puts back what [`save_state`](Self::save_state) gave: before the first step of a run that goes on, and after a step
    /// that was taken back.
    ///
    /// # Errors
    /// State that does not fit.
    fn load_state(&mut self, _saved: Value) -> Result<()> {
        Ok(())
    }

    /// The bytes that [`Param::state`] will take for a parameter of this name and shape, of an optimizer whose state has sides
    /// of its own (a rank). Of others the plan of memory knows by itself, from a step over a parameter with few rows and
    /// columns; so a host of SDK 1.0 does, which does not ask.
    ///
    /// # Errors
    /// Whatever the optimizer finds.
    fn state_bytes(&self, _name: &str, _shape: &[usize]) -> Result<Option<u64>> {
        Ok(None)
    }

    /// For an optimizer that declares [`Need::Hooks`]: sets the parameters to the weights that are evaluated and that answer
    /// prompts (averaged ones), and keeps those that are trained in [`Param::state`]. Gradients are zeros here, and learning
    /// rates 0. It is not called before the first step.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn before_evaluation(&mut self, _params: &mut [Param]) -> Result<()> {
        Ok(())
    }

    /// Sets the parameters back to the weights that are trained.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn after_evaluation(&mut self, _params: &mut [Param]) -> Result<()> {
        Ok(())
    }

    /// As [`before_evaluation`](Self::before_evaluation), for the weights of a checkpoint; the same as there unless it is written. The checkpoint holds
    /// the state as it is afterwards.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn before_saving(&mut self, params: &mut [Param]) -> Result<()> {
        self.before_evaluation(params)
    }

    /// As [`after_evaluation`](Self::after_evaluation), after a checkpoint was written, and also when a run goes on from one.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn after_saving(&mut self, params: &mut [Param]) -> Result<()> {
        self.after_evaluation(params)
    }
}

/// A trainable parameter in a step.
pub struct Param<'a> {
    /// Its name, as adapters are saved: `...q_proj.lora_A.weight`.
    pub name: &'a str,
    /// Its value (f32), to be changed in place.
    pub value: Tensor,
    /// Its gradient (f32), clipped, of the value's shape.
    pub grad: Tensor,
    /// The learning rate of this parameter at this step (schedule and LoRA+ ratio included).
    pub lr: f64,
    /// Whether weight decay applies (not to biases and norms).
    pub decay: bool,
    /// What the optimizer keeps about this parameter; empty before its first step.
    pub state: &'a mut State,
}

/// Named tensors that an optimizer keeps for one parameter.
#[derive(Debug, Clone, Default)]
pub struct State(BTreeMap<String, Tensor>);

impl State {
    /// The tensor of this name, made of zeros in the shape and type of `like` if there is none.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros_like(&mut self, name: &str, like: &Tensor) -> Result<Tensor> {
        if let Some(tensor) = self.0.get(name) {
            return Ok(tensor.clone());
        }
        let tensor = like.zeros_like()?;
        self.0.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Keeps a tensor under this name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// Takes the tensor of this name out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.0.remove(name)
    }

    /// Takes all tensors out.
    pub(crate) fn take(&mut self) -> BTreeMap<String, Tensor> {
        std::mem::take(&mut self.0)
    }

    /// All tensors by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// Where in the run a step is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepInfo {
    /// Number of this update, from 1.
    pub step: u64,
}

/// The numbers of one AdamW update, for the fused [`Tensor::adamw`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1, for the bias correction.
    pub step: u64,
}
