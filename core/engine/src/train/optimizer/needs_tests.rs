//! What optimizers that declare needs are given, and what is taken back.

use super::*;
use apus_sdk::{OptimizerStep, Param as Handle, StepInfo};
use candle_core::Device;

/// The bowl `0.5 * |x - 1|^2` over two parameters, with the optimizer's passes over it.
struct Bowl(OptimizerHost);

impl Bowl {
    fn new(optimizer: impl Optimizer + 'static, needs: &[Need]) -> Self {
        let params = [("a", &[2, 2][..]), ("b", &[3])].map(|(name, shape)| {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
            let value = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            Param::new(name, &value, true).unwrap()
        });
        let named = Named::new("optimizer test", Box::new(optimizer) as Box<dyn Optimizer>);
        Self(OptimizerHost::new(named.with(needs), params.to_vec()))
    }

    /// A step with gradients that are limited to `max_norm`.
    fn step(&mut self, max_norm: f64) -> Result<()> {
        let params: Vec<_> = self.0.params().cloned().collect();
        let mut run = || {
            let mut loss = 0.0;
            for param in &params {
                let gap = (param.value() - 1.0)?;
                loss += f64::from(gap.sqr()?.sum_all()?.to_scalar::<f32>()?) / 2.0;
                param.accumulate(gap)?;
            }
            Ok(loss)
        };
        run()?;
        self.0.clip(max_norm, Ok)?;
        let passes = Passes {
            run: &mut run,
            total: &Ok,
        };
        let made = self.0.step_as_agreed(0.1, passes, |here| here);
        self.0.zero_grad();
        made
    }

    fn values(&self) -> Vec<f32> {
        let flat = self.0.params().map(|p| p.value().flatten_all().unwrap());
        flat.flat_map(|t| t.to_vec1::<f32>().unwrap()).collect()
    }
}

/// Sharpness-aware minimisation around plain descent: the gradient is that at `x + rho g / |g|`.
struct Sam {
    rho: f64,
}

impl Optimizer for Sam {
    fn step(&mut self, params: &mut [Handle], _: &StepInfo) -> apus_sdk::Result<()> {
        for param in params {
            let step = param.grad.affine(param.lr, 0.0)?;
            param.value.set(&param.value.sub(&step)?)?;
        }
        Ok(())
    }

    fn step_with(
        &mut self,
        params: &mut [Handle],
        step: &mut OptimizerStep,
    ) -> apus_sdk::Result<()> {
        let mut squares = 0.0;
        for param in params.iter() {
            squares += param.grad.sqr()?.sum_all()?.item()?;
        }
        let mut away = Vec::new();
        for param in params.iter() {
            let here = param.value.affine(1.0, 0.0)?;
            let offset = param.grad.affine(self.rho / squares.sqrt(), 0.0)?;
            param.value.set(&here.add(&offset)?)?;
            away.push(here);
        }
        step.evaluate()?;
        for (param, here) in params.iter().zip(away) {
            param.value.set(&here)?;
        }
        self.step(params, &step.info())
    }
}

#[test]
fn a_closure_runs_the_passes_with_the_parameters_as_they_are() {
    for max_norm in [0.0, 0.5] {
        let mut bowl = Bowl::new(Sam { rho: 0.3 }, &[Need::Closure]);
        let mut x: Vec<f64> = bowl.values().into_iter().map(f64::from).collect();
        for _ in 0..5 {
            let clipped = |grad: Vec<f64>| {
                let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
                let factor = if max_norm > 0.0 {
                    (max_norm / (norm + 1e-6)).min(1.0)
                } else {
                    1.0
                };
                grad.into_iter().map(|g| g * factor).collect::<Vec<f64>>()
            };
            let first = clipped(x.iter().map(|x| x - 1.0).collect());
            let norm = first.iter().map(|g| g * g).sum::<f64>().sqrt();
            let there = x.iter().zip(&first).map(|(x, g)| x + 0.3 * g / norm - 1.0);
            let second = clipped(there.collect());
            x = x.iter().zip(second).map(|(x, g)| x - 0.1 * g).collect();
            bowl.step(max_norm).unwrap();
        }
        for (found, expected) in bowl.values().into_iter().zip(x) {
            assert!(
                (f64::from(found) - expected).abs() < 1e-5,
                "{found} {expected}"
            );
        }
    }
}

#[test]
fn what_is_not_declared_is_not_given() {
    let mut bowl = Bowl::new(Sam { rho: 0.3 }, &[Need::Groups]);
    let said = bowl.step(0.0).unwrap_err().to_string();
    assert!(said.contains("Need::Closure"), "{said}");
    // Without any need its ordinary step is made, as a host of 1.0 would.
    Bowl::new(Sam { rho: 0.3 }, &[]).step(0.0).unwrap();
}

#[test]
fn an_error_of_the_passes_ends_the_step_as_it_is() {
    let mut bowl = Bowl::new(Sam { rho: 0.3 }, &[Need::Closure]);
    for param in bowl.0.params() {
        param.accumulate(param.value()).unwrap();
    }
    let mut run = || Err(anyhow::Error::new(std::io::Error::other("lost")));
    let passes = Passes {
        run: &mut run,
        total: &Ok,
    };
    let error = bowl.0.step_as_agreed(0.1, passes, |here| here).unwrap_err();
    assert!(
        error.downcast_ref::<std::io::Error>().is_some(),
        "{error:#}"
    );
    assert!(bowl.0.is_torn());
}

/// Asks for the passes until it gets them.
struct Insists;

impl Optimizer for Insists {
    fn step(&mut self, _: &mut [Handle], _: &StepInfo) -> apus_sdk::Result<()> {
        Ok(())
    }

    fn step_with(&mut self, _: &mut [Handle], step: &mut OptimizerStep) -> apus_sdk::Result<()> {
        (0..3).for_each(|_| drop(step.evaluate()));
        Ok(())
    }
}

/// Other ranks have left the passes by then, and would be waited for.
#[test]
fn passes_that_failed_are_not_made_again() {
    let mut bowl = Bowl::new(Insists, &[Need::Closure]);
    let mut asked = 0;
    let mut run = || {
        asked += 1;
        anyhow::bail!("rank 1 is gone")
    };
    let passes = Passes {
        run: &mut run,
        total: &Ok,
    };
    let made = bowl
        .0
        .step_as_agreed(0.1, passes, |_| unreachable!("nobody is there"));
    assert_eq!(made.unwrap_err().to_string(), "rank 1 is gone");
    assert_eq!(asked, 1);
}

/// Trains `y` and shows `y + 100`; counts its steps, and fails at one of them.
struct Shows {
    steps: u64,
    fails_at: u64,
}

impl Optimizer for Shows {
    fn step(&mut self, params: &mut [Handle], _: &StepInfo) -> apus_sdk::Result<()> {
        self.steps += 1;
        for param in params {
            param.value.set(&param.value.affine(1.0, -0.125)?)?;
        }
        match self.steps == self.fails_at {
            true => Err("told to".into()),
            false => Ok(()),
        }
    }

    fn save_state(&self) -> apus_sdk::Result<Value> {
        Ok(self.steps.into())
    }

    fn load_state(&mut self, saved: Value) -> apus_sdk::Result<()> {
        self.steps = saved.as_u64().ok_or("no number of steps")?;
        Ok(())
    }

    fn before_evaluation(&mut self, params: &mut [Handle]) -> apus_sdk::Result<()> {
        for param in params {
            assert_eq!((param.lr, param.grad.sum_all()?.item()?), (0.0, 0.0));
            param.state.insert("trained", param.value.affine(1.0, 0.0)?);
            param.value.set(&param.value.affine(1.0, 100.0)?)?;
        }
        Ok(())
    }

    fn after_evaluation(&mut self, params: &mut [Handle]) -> apus_sdk::Result<()> {
        for param in params {
            let trained = param.state.remove("trained").ok_or("nothing was kept")?;
            param.value.set(&trained)?;
        }
        Ok(())
    }
}

const ALL: &[Need] = &[Need::State, Need::Hooks];

#[test]
fn other_weights_are_there_between_two_hooks_alone_and_come_back_from_a_checkpoint() {
    let mut bowl = Bowl::new(
        Shows {
            steps: 0,
            fails_at: 0,
        },
        ALL,
    );
    let tell = |bowl: &mut Bowl, hook| bowl.0.hook(hook, |here| here).unwrap();
    let first = bowl.values();
    tell(&mut bowl, Hook::BeforeEvaluation);
    assert_eq!(bowl.values(), first, "there was no step yet");
    bowl.step(0.0).unwrap();
    let trained = bowl.values();
    for [before, after] in [
        [Hook::BeforeEvaluation, Hook::AfterEvaluation],
        [Hook::BeforeSaving, Hook::AfterSaving],
    ] {
        tell(&mut bowl, before);
        assert!(
            bowl.0.is_torn(),
            "nobody saves these weights as those that are trained"
        );
        assert!(bowl.values().iter().all(|value| *value > 90.0));
        tell(&mut bowl, after);
        assert_eq!(bowl.values(), trained);
        assert!(!bowl.0.is_torn() && bowl.0.state().unwrap().is_empty());
    }
    tell(&mut bowl, Hook::BeforeSaving);
    let (weights, state) = (bowl.values(), bowl.0.state().unwrap());
    let own = bowl.0.own_state().unwrap();
    assert_eq!(own, [Value::from(1)]);

    let mut resumed = Bowl::new(
        Shows {
            steps: 0,
            fails_at: 0,
        },
        ALL,
    );
    for (param, saved) in resumed.0.params().zip(bowl.0.params()) {
        param.set(&saved.value()).unwrap();
    }
    assert_eq!(resumed.values(), weights);
    resumed.0.restore_own_state(own).unwrap();
    resumed.0.restore(1, state, &Device::Cpu).unwrap();
    tell(&mut resumed, Hook::AfterSaving);
    assert_eq!(resumed.values(), trained);
    assert_eq!(resumed.0.own_state().unwrap(), [Value::from(1)]);
}

#[test]
fn own_state_is_taken_back_with_a_plugin_s_step() {
    let mut bowl = Bowl::new(
        Shows {
            steps: 0,
            fails_at: 2,
        },
        ALL,
    );
    bowl.0.optimizers[0].from_plugin = true;
    bowl.step(0.0).unwrap();
    let before = bowl.values();
    bowl.step(0.0).unwrap_err();
    assert_eq!(bowl.values(), before);
    assert_eq!(bowl.0.own_state().unwrap(), [Value::from(1)]);
    let mut undeclared = Bowl::new(
        Shows {
            steps: 0,
            fails_at: 0,
        },
        &[],
    );
    undeclared.step(0.0).unwrap();
    assert!(undeclared.0.own_state().unwrap().is_empty() && !undeclared.0.has_hooks());
}

/// Moves the parameters of each group by the number that its options say.
struct Moves;

impl Optimizer for Moves {
    fn step(&mut self, _: &mut [Handle], _: &StepInfo) -> apus_sdk::Result<()> {
        Err("needs groups".into())
    }

    fn step_with(
        &mut self,
        params: &mut [Handle],
        step: &mut OptimizerStep,
    ) -> apus_sdk::Result<()> {
        for (at, param) in params.iter().enumerate() {
            let by = step.group(at)?.options().get("by").and_then(Value::as_f64);
            param
                .value
                .set(&param.value.full_like(by.unwrap_or(0.0))?)?;
        }
        Ok(())
    }
}

#[test]
fn an_optimizer_that_declares_groups_sees_those_of_all_parameters() {
    let mut bowl = Bowl::new(Moves, &[Need::Groups]);
    let options = serde_json::json!({"by": 5.0}).as_object().cloned().unwrap();
    bowl.0.groups.push(ParameterGroup::new("b", options));
    bowl.0.slots[1].group = 1;
    bowl.step(0.0).unwrap();
    assert_eq!(bowl.values(), [0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0]);
}
