//! How much memory an optimizer will take for its state. The optimizer is asked itself: it makes one step over tiny
//! parameters of the names and numbers of dimensions that are trained, and the sizes of what it keeps then tell what it
//! will keep about the real ones.
//!
//! The sides of a tiny parameter are different primes. So the number of elements of a state says of which sides it is
//! made: with sides 7 and 11, a moment of the whole matrix has 77 elements, its means over rows 7, a counter one. An
//! optimizer whose state has sides of its own says how large it is.

use super::slot::Slot;
use super::{Grouped, Hook, OptimizerHost};
use anyhow::{Result, ensure};
use apus_model::nn::Param;
use apus_model::ops::fill;
use candle_core::{DType, Device};
use std::collections::BTreeMap;

/// The sides of a tiny parameter.
const SIDES: [usize; 4] = [7, 11, 13, 17];

/// The learning rate of the step.
const LR: f64 = 1e-3;

/// A parameter that will be trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The bytes that stay for these parameters from step to step: the optimizer's state and, for one of a plugin, whose steps
/// can be taken back, the host's copies of state and values. The optimizer has made a step afterwards, so it is not one
/// that a run goes on with.
///
/// # Errors
/// The optimizer refuses such parameters.
pub fn bytes(optimizer: impl Into<Grouped>, trained: &[Trained]) -> Result<u64> {
    let optimizer = optimizer.into();
    let from_plugin = optimizer.optimizer.from_plugin;
    let shapes: BTreeMap<&str, &[usize]> = trained
        .iter()
        .map(|param| (param.name.as_str(), param.shape.as_slice()))
        .collect();
    let host = after_a_step(optimizer, trained)?;
    let mut kept = 0u64;
    for slot in &host.slots {
        let name = slot.param.name();
        let shape = shapes.get(name).copied().unwrap_or_default();
        let optimizer = &host.optimizers[slot.optimizer];
        let asked = optimizer.component.state_bytes(name, shape);
        let bytes = match optimizer.context("state_bytes", asked)? {
            Some(bytes) => bytes,
            None => bytes_by_scale(slot, shape)?,
        };
        kept = kept.saturating_add(bytes);
    }
    let values = trained.iter().map(|param| {
        let sides = param.shape.iter().map(|&side| side as u64);
        sides.fold(DType::F32.size_in_bytes() as u64, u64::saturating_mul)
    });
    Ok(match from_plugin {
        true => values.fold(kept.saturating_mul(2), u64::saturating_add),
        false => kept,
    })
}

/// The optimizer after a step over tiny parameters, and as it is when others are evaluated or saved.
fn after_a_step(optimizer: Grouped, trained: &[Trained]) -> Result<OptimizerHost> {
    let mut params = Vec::with_capacity(trained.len());
    for (number, Trained { name, shape }) in trained.iter().enumerate() {
        ensure!(
            shape.len() <= SIDES.len(),
            "{name} has {} dimensions, expected {} at most",
            shape.len(),
            SIDES.len()
        );
        let tiny = &SIDES[..shape.len()];
        let some = |stream: u64| {
            let key = (stream, number as u64);
            fill::normal(tiny, 0.1, key, DType::F32, &Device::Cpu)
        };
        let param = Param::new(name.as_str(), &some(1)?, true)?;
        param.accumulate(some(2)?)?;
        params.push(param);
    }
    let mut host = OptimizerHost::new(optimizer, params);
    host.step(LR)?;
    // What it keeps while other weights are evaluated or saved.
    host.hook(Hook::BeforeSaving, |here| here)?;
    Ok(host)
}

/// The bytes that are kept about a parameter of this shape, from what is kept about the tiny one.
fn bytes_by_scale(slot: &Slot, shape: &[usize]) -> Result<u64> {
    let mut bytes = 0u64;
    for (_, tensor) in slot.state.iter() {
        let tensor = crate::host::unwrap(tensor)?;
        let width = tensor.dtype().size_in_bytes() as u64;
        let elements = scaled(tensor.elem_count() as u64, shape);
        bytes = bytes.saturating_add(elements.saturating_mul(width));
    }
    Ok(bytes)
}

/// The elements of a state about a parameter of this shape, from its elements about a tiny one.
fn scaled(tiny: u64, shape: &[usize]) -> u64 {
    let (mut left, mut real) = (tiny, 1u64);
    for (&side, &length) in SIDES.iter().zip(shape) {
        while left > 0 && left.is_multiple_of(side as u64) {
            left /= side as u64;
            real = real.saturating_mul(length as u64);
        }
    }
    real.saturating_mul(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_components::registry::{self, Named, Spec};
    use apus_plugins as _;
    use apus_sdk::{Optimizer, Param as Handle, StepInfo};
    use serde_json::json;

    /// A matrix of rank 8 and a vector.
    fn trained() -> Vec<Trained> {
        let param = |name: &str, shape: &[usize]| Trained {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        vec![
            param("model.layers.0.self_attn.q_proj.lora_A.weight", &[8, 2880]),
            param("model.norm.weight", &[2880]),
        ]
    }

    const NUMBERS: u64 = 8 * 2880 + 2880;

    fn built_in(name: &str, options: serde_json::Value) -> u64 {
        let spec = Spec {
            options: options.as_object().cloned().unwrap(),
            ..Spec::named(name)
        };
        bytes(registry::named::<dyn Optimizer>(&spec).unwrap(), &trained()).unwrap()
    }

    #[test]
    fn built_in_optimizers_keep_none_one_or_two_numbers_for_each() {
        assert_eq!(built_in("adamw", json!({})), 2 * 4 * NUMBERS);
        assert_eq!(built_in("lion", json!({})), 4 * NUMBERS);
        assert_eq!(built_in("sgd", json!({})), 0);
        assert_eq!(built_in("sgd", json!({"momentum": 0.9})), 4 * NUMBERS);
    }

    #[test]
    fn an_optimizer_with_sides_of_its_own_is_asked() {
        let state = 8 * 4 + 2 * 4 * 2880 + 2 * 2880;
        assert_eq!(built_in("galore", json!({"rank": 4})), 4 * state);
    }

    /// The means over the rows and over the columns of a matrix, a counter, a Gram matrix of the rows in bf16; of anything
    /// else a moment.
    struct Factored;

    impl Optimizer for Factored {
        fn step(&mut self, params: &mut [Handle], _info: &StepInfo) -> apus_sdk::Result<()> {
            for param in params {
                let grad = &param.grad;
                if let [_, _] = grad.shape() {
                    param.state.insert("rows", grad.mean(1)?);
                    param.state.insert("columns", grad.mean(0)?);
                    let seen = grad.new_full(&[], 1.0, apus_sdk::DType::I64)?;
                    param.state.insert("seen", seen);
                    let gram = grad.matmul(&grad.transpose(0, 1)?)?;
                    param
                        .state
                        .insert("gram", gram.cast(apus_sdk::DType::BF16)?);
                } else {
                    param.state.zeros_like("moment", grad)?;
                }
            }
            Ok(())
        }
    }

    fn named(optimizer: impl Optimizer + 'static) -> Named<dyn Optimizer> {
        Named::new("optimizer test", Box::new(optimizer) as Box<dyn Optimizer>)
    }

    #[test]
    fn state_of_any_shape_is_scaled_by_the_sides_it_is_made_of() {
        let state = 4 * 8 + 4 * 2880 + 8 + 2 * 8 * 8 + 4 * 2880;
        assert_eq!(bytes(named(Factored), &trained()).unwrap(), state);
        let plugin = Named {
            from_plugin: true,
            ..named(Factored)
        };
        let copies = state + 4 * NUMBERS;
        assert_eq!(bytes(plugin, &trained()).unwrap(), state + copies);
    }

    /// Refuses everything.
    struct Refuses;

    impl Optimizer for Refuses {
        fn step(&mut self, _params: &mut [Handle], _info: &StepInfo) -> apus_sdk::Result<()> {
            Err(apus_sdk::Error::new("sides must be multiples of 32"))
        }
    }

    #[test]
    fn an_optimizer_that_refuses_is_an_error_and_nothing_trained_keeps_nothing() {
        let error = bytes(named(Refuses), &trained()).unwrap_err();
        assert!(error.to_string().contains("multiples of 32"), "{error}");
        let adamw = registry::named::<dyn Optimizer>(&Spec::named("adamw")).unwrap();
        assert_eq!(bytes(adamw, &[]).unwrap(), 0);
    }
}
