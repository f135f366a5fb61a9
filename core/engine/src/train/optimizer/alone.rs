//! Whether an optimizer updates each parameter by itself, so that its state can be spread over ranks which each give it a
//! part of the parameters. The optimizer is asked itself, as for the [size of its state](super::footprint): it makes a few
//! steps over tiny parameters, all at once and in two parts. One that looks at all of them (a norm over everything, A together
//! with its B) or draws random numbers gives other values, and is not spread.

use super::{Grouped, Hook, OptimizerHost};
use anyhow::Result;
use apus_base::lines::warning;
use apus_model::nn::Param;
use apus_model::ops::fill;
use apus_sdk::Need;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Parameters by the names and shapes that adapters and whole models have. A and B of one module go to different parts.
const PARAMS: [(&str, &[usize]); 8] = [
    (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        &[3, 7],
    ),
    (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        &[5, 3],
    ),
    (
        "base_model.model.model.layers.0.mlp.experts.lora_A.weight",
        &[6, 7],
    ),
    (
        "base_model.model.model.layers.0.mlp.experts.lora_B.weight",
        &[7, 6],
    ),
    (
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
        &[3, 7],
    ),
    (
        "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight",
        &[5, 3],
    ),
    ("model.layers.1.input_layernorm.weight", &[7]),
    ("model.norm.weight", &[7]),
];

/// How large the gradients of each step are: a limit on all of them together acts in one of the steps.
const SIZES: [f64; 4] = [1e-3, 1.0, 1e3, 0.1];

/// The learning rate of the steps.
const LR: f64 = 1e-3;

/// Whether the work of an optimizer can be spread over ranks; one that cannot is named. `make` gives another instance of it with
/// each call.
///
/// # Errors
/// There is no such optimizer.
pub fn can_be_divided(make: &dyn Fn() -> Result<Grouped>) -> Result<bool> {
    let optimizer = make()?.optimizer;
    let why = match updates_each_alone(make) {
        _ if optimizer.declares(Need::Closure) => {
            "it makes the passes of a step again, with the parameters of all ranks as it has set them".to_owned()
        }
        Ok(true) => return Ok(true),
        Ok(false) => "what it does to a parameter depends on which others it is given".to_owned(),
        Err(error) => format!("it makes no step over small parameters ({error:#})"),
    };
    let label = &optimizer.label;
    warning!("{label} is not sharded, and every rank holds all of its state: {why}");
    Ok(false)
}

/// Whether it does; `make` gives another instance of it with each call.
///
/// # Errors
/// It refuses such parameters.
fn updates_each_alone(make: &dyn Fn() -> Result<Grouped>) -> Result<bool> {
    let all = after(make()?, |_| true)?;
    let [mut parts, others] = [
        after(make()?, |at| at % 2 == 0)?,
        after(make()?, |at| at % 2 == 1)?,
    ];
    parts.values.extend(others.values);
    Ok(all == parts && others.own == all.own)
}

/// What is there after the steps.
#[derive(PartialEq)]
struct After {
    /// Bits of values and of state, by name.
    values: BTreeMap<String, Vec<u8>>,
    /// What the optimizer keeps beside them.
    own: Vec<Value>,
}

/// What comes of the parameters that are `there`.
fn after(optimizer: Grouped, there: impl Fn(usize) -> bool) -> Result<After> {
    let numbered = PARAMS.iter().enumerate().filter(|(at, _)| there(*at));
    let some = |shape: &[usize], key: (u64, u64), size: f64| {
        fill::normal(shape, size as f32, key, DType::F32, &Device::Cpu)
    };
    let params = numbered.map(|(at, (name, shape))| {
        let param = Param::new(*name, &some(shape, (0, at as u64), 0.1)?, true)?;
        Ok((at as u64, param))
    });
    let params = params.collect::<Result<Vec<(u64, Arc<Param>)>>>()?;
    let list = params.iter().map(|(_, param)| Arc::clone(param)).collect();
    let mut host = OptimizerHost::new(optimizer, list);
    for (step, size) in (1..).zip(SIZES) {
        for (at, param) in &params {
            param.accumulate(some(param.value().dims(), (step, *at), size)?)?;
        }
        host.step(LR)?;
        host.zero_grad();
    }
    host.hook(Hook::BeforeEvaluation, |here| here)?;
    let values = params
        .iter()
        .map(|(_, param)| (param.name().to_owned(), param.value()));
    let all = values.chain(host.state()?);
    let all = all.map(|(name, tensor)| Ok((name, bytes(&tensor)?)));
    Ok(After {
        values: all.collect::<Result<_>>()?,
        own: host.own_state()?,
    })
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensors = [("tensor", tensor.contiguous()?)];
    Ok(safetensors::serialize(tensors, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_components::registry::{self, Named, Spec};
    use apus_plugins as _;
    use apus_sdk::{Optimizer, StepInfo};

    #[test]
    fn built_in_optimizers_do() {
        for name in [
            "adafactor",
            "adamw",
            "adamw_8bit",
            "galore",
            "lion",
            "muon",
            "schedule_free_adamw",
            "sgd",
        ] {
            let make = || Ok(registry::named::<dyn Optimizer>(&Spec::named(name))?.into());
            assert!(updates_each_alone(&make).unwrap(), "{name}");
        }
    }

    /// Divides by the norm of all gradients if that is large.
    struct Clips;

    impl Optimizer for Clips {
        fn step(&mut self, params: &mut [apus_sdk::Param], _: &StepInfo) -> apus_sdk::Result<()> {
            let mut sum = 0.0;
            for param in params.iter() {
                sum += f64::from(param.grad.sqr()?.sum_all()?.to_vec_f32()?[0]);
            }
            let factor = (100.0 / sum.sqrt()).min(1.0);
            for param in params {
                let step = param.grad.affine(factor * param.lr, 0.0)?;
                param.value.set(&param.value.sub(&step)?)?;
            }
            Ok(())
        }
    }

    /// Adds the mean of A to its B.
    struct Pairs;

    impl Optimizer for Pairs {
        fn step(&mut self, params: &mut [apus_sdk::Param], _: &StepInfo) -> apus_sdk::Result<()> {
            for at in 1..params.len() {
                let [a, b] = [&params[at - 1], &params[at]];
                if a.name.replace("lora_A", "lora_B") == b.name {
                    let mean = a.value.mean_all()?;
                    b.value.set(&b.value.add(&mean)?)?;
                }
            }
            Ok(())
        }
    }

    /// Keeps the number of parameters that it has seen.
    struct Counts(usize);

    impl Optimizer for Counts {
        fn step(&mut self, params: &mut [apus_sdk::Param], _: &StepInfo) -> apus_sdk::Result<()> {
            self.0 += params.len();
            Ok(())
        }

        fn save_state(&self) -> apus_sdk::Result<Value> {
            Ok(self.0.into())
        }
    }

    #[test]
    fn those_that_look_at_several_parameters_do_not() {
        let made = |optimizer: Box<dyn Optimizer>| {
            let named = Named::new("optimizer test", optimizer);
            Ok(named.with(&[Need::State]).into())
        };
        assert!(!updates_each_alone(&|| made(Box::new(Clips))).unwrap());
        assert!(!updates_each_alone(&|| made(Box::new(Pairs))).unwrap());
        assert!(!updates_each_alone(&|| made(Box::new(Counts(0)))).unwrap());
    }

    #[test]
    fn those_that_make_the_passes_again_are_not_divided() {
        let divided = |needs: &'static [Need]| {
            let make = || {
                let sgd = registry::named::<dyn Optimizer>(&Spec::named("sgd"))?;
                Ok(sgd.with(needs).into())
            };
            can_be_divided(&make).unwrap()
        };
        assert!(divided(&[]) && !divided(&[Need::Closure]));
    }
}
