//! The built-in optimizers against the numbers of their reference implementations, which `tests/goldens/optimizers/make.py`
//! has written: values after 1, 5 and 24 steps at a learning rate that falls, of several shapes and options.

use apus_sdk::testing::{make, tensor};
use apus_sdk::{Optimizer, Param, State, StepInfo, Tensor};
use serde_json::Value;

/// What the files and this test know of a walk.
struct Walk {
    value: Tensor,
    state: State,
}

/// The values that the reference starts with.
fn start(elements: usize) -> Vec<f32> {
    (0..elements)
        .map(|i| (1.3 * i as f64 + 0.5).sin() as f32)
        .collect()
}

/// Its gradients.
fn gradient(step: u64, value: &[f32]) -> Vec<f32> {
    let at = |(i, x): (usize, &f32)| {
        let noise = (0.37 * i as f64 * (step as f64 + 1.0) + step as f64).cos();
        noise as f32 + 0.5 * x
    };
    value.iter().enumerate().map(at).collect()
}

impl Walk {
    fn params(&mut self, lr: f64, grad: Tensor) -> [Param<'_>; 1] {
        [Param {
            name: "layers.0.mlp.weight",
            value: self.value.clone(),
            grad,
            lr,
            decay: true,
            state: &mut self.state,
        }]
    }

    fn values(&self) -> Vec<f32> {
        self.value.to_vec().unwrap()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// Holds every run of a file against the optimizer; `tolerance` is relative to 1 or the value.
fn follow(name: &str, tolerance: f64) {
    let path = format!(
        "{}/../tests/goldens/optimizers/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (steps, lr) = (
        file["steps"].as_u64().unwrap(),
        file["lr"].as_f64().unwrap(),
    );
    let runs = file["runs"].as_array().unwrap();
    assert!(steps >= 20 && runs.len() >= 6);
    for run in runs {
        let shape: Vec<usize> = numbers(&run["shape"])
            .into_iter()
            .map(|side| side as usize)
            .collect();
        let elements: usize = shape.iter().product();
        let mut options = run["options"].clone();
        for (option, default) in defaults(name) {
            options
                .as_object_mut()
                .unwrap()
                .entry(option)
                .or_insert(default);
        }
        let mut optimizer = make::<dyn Optimizer>(name, options.clone()).unwrap();
        let mut walk = Walk {
            value: tensor(&start(elements), &shape),
            state: State::default(),
        };
        let mut found = run["found"].as_array().unwrap().iter().peekable();
        for step in 0..steps {
            let rate = lr * (1.0 - step as f64 / (2.0 * steps as f64));
            let grad = tensor(&gradient(step, &walk.values()), &shape);
            optimizer
                .step(&mut walk.params(rate, grad), &StepInfo { step: step + 1 })
                .unwrap();
            let Some(expected) = found.next_if(|entry| entry["step"] == step + 1) else {
                continue;
            };
            let compare = |walk: &Walk, key: &str| {
                let expected = numbers(&expected[key]);
                let values = walk.values();
                let stride = if elements <= 64 { 1 } else { elements / 37 };
                let picked: Vec<f32> = values.into_iter().step_by(stride).collect();
                assert_eq!(picked.len(), expected.len());
                for (at, (found, expected)) in picked.into_iter().zip(expected).enumerate() {
                    let gap = (f64::from(found) - expected).abs();
                    assert!(
                        gap <= tolerance * expected.abs().max(1.0),
                        "{name} {options} {shape:?}, {key} {at} after step {}: {found}, the reference has {expected}",
                        step + 1
                    );
                }
            };
            compare(&walk, "values");
            if expected.get("shown").is_some() {
                let trained = walk.values();
                let nothing = || tensor(&vec![0.0; elements], &shape);
                optimizer
                    .before_evaluation(&mut walk.params(0.0, nothing()))
                    .unwrap();
                compare(&walk, "shown");
                optimizer
                    .after_evaluation(&mut walk.params(0.0, nothing()))
                    .unwrap();
                assert_eq!(
                    walk.values(),
                    trained,
                    "the weights that are trained come back"
                );
            }
        }
        assert!(found.next().is_none());
    }
}

/// Where the defaults here are others than in the reference.
fn defaults(name: &str) -> Vec<(&'static str, Value)> {
    match name {
        "schedule_free_adamw" => vec![("weight_decay", 0.0.into())],
        "galore" => vec![("target_modules", ["mlp"].into())],
        _ => Vec::new(),
    }
}

#[test]
fn adafactor_is_that_of_transformers() {
    follow("adafactor", 2e-5);
}

#[test]
fn schedule_free_adamw_is_that_of_schedulefree() {
    follow("schedule_free_adamw", 1e-5);
}

#[test]
fn muon_is_that_of_torch() {
    follow("muon", 5e-5);
}

/// Signs of singular vectors are those of the greatest elements, here and in the reference.
#[test]
fn galore_is_that_of_galore_torch() {
    follow("galore", 5e-4);
}

/// A moment next to the middle between two codes may take the other one, which is 1 % of it at most.
#[test]
fn adamw_8bit_is_that_of_torchao() {
    follow("adamw_8bit", 2e-4);
}
