//! Layerwise importance sampled AdamW (LISA, Pan et al. 2024, <https://arxiv.org/abs/2403.17919>): every so many steps some
//! layers are drawn, and only they are trained, with everything that is in no layer (embedding, last norm, head). The others
//! cost no gradients and no state of the optimizer.
//!
//! Which layers are drawn follows from the seed and the step alone, so that a run that goes on draws what it would have drawn.

use apus_sdk::built_in::OptionFlag;
use apus_sdk::{Callback, Control, Error, Need, Options, Result, Run, RunState, register};
use serde_json::Value;
use std::collections::BTreeSet;

apus_sdk::options! {
    struct Lisa {
        /// Layers that are trained at a time; 0 trains all of them.
        activated_layers: u64 = 2,
        /// Steps after which others are drawn.
        step_interval: u64 = 20,
    }
    limits {
        step_interval: 1.0..,
    }
    state {
        layers: Vec<u64>,
        seed: u64,
    }
}

/// The layer of a parameter: 3 of `model.layers.3.self_attn.q_proj.weight`.
fn layer(name: &str) -> Option<u64> {
    let mut parts = name.split('.').skip_while(|part| *part != "layers");
    parts.nth(1)?.parse().ok()
}

/// The next of a sequence of random numbers (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Lisa {
    /// The layers that are trained after so many steps.
    fn drawn(&self, step: u64) -> BTreeSet<u64> {
        let mut left = self.layers.clone();
        let mut random = self.seed;
        random = next(&mut random) ^ step;
        let count = (self.activated_layers as usize).min(left.len());
        (0..count)
            .map(|_| {
                let at = (u128::from(next(&mut random)) * left.len() as u128) >> 64;
                left.swap_remove(at as usize)
            })
            .collect()
    }

    fn change(&self, step: u64, control: &mut Control) {
        if self.activated_layers == 0 {
            return;
        }
        let drawn = self.drawn(step);
        // What is trained comes first: at no time is everything frozen.
        let (trained, frozen): (Vec<u64>, Vec<u64>) =
            self.layers.iter().partition(|layer| drawn.contains(layer));
        for layer in trained {
            control.unfreeze(format!("layers.{layer}"));
        }
        for layer in frozen {
            control.freeze(format!("layers.{layer}"));
        }
    }
}

/// Refuses to draw layers where only what is added to them is trained.
fn check_train_type(train_type: &Value) -> Result<()> {
    match train_type.as_str() {
        Some("full") => Ok(()),
        other => Err(Error::new(format!(
            "LISA draws layers of a model that is trained whole, and train_type is {}; give --train_type full",
            other.unwrap_or("not given")
        ))),
    }
}

impl Callback for Lisa {
    fn needs() -> &'static [Need] {
        &[Need::Run, Need::Freeze]
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        let config = run.config();
        if self.activated_layers > 0 {
            check_train_type(&config["train_type"])?;
        }
        self.seed = config["seed"].as_u64().unwrap_or_default();
        let parameters = run.parameters()?;
        let layers = parameters.iter().filter_map(|one| layer(one.name()));
        self.layers = layers.collect::<BTreeSet<u64>>().into_iter().collect();
        if self.activated_layers > self.layers.len() as u64 {
            return Err(Error::new(format!(
                "activated_layers is {}, and the model has {} layers",
                self.activated_layers,
                self.layers.len()
            )));
        }
        Ok(())
    }

    /// A run that goes on knows from its checkpoint which layers are frozen.
    fn on_train_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        if state.global_step == 0 {
            self.change(0, control);
        }
        Ok(())
    }

    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        if state.global_step.is_multiple_of(self.step_interval) {
            self.change(state.global_step, control);
        }
        Ok(())
    }

    fn metric_names(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

register! {
    /// Trains a few layers at a time, others every so many steps (LISA).
    Callback, "lisa", Lisa
}

apus_sdk::built_in! {
    Callback, "lisa",
    flags: &[
        OptionFlag::new("lisa_activated_layers", "activated_layers", "Train so many layers at a time, others every lisa_step_interval steps (LISA); needs train_type full")
            .beside("same: the callback `lisa`; which layers, follows from `seed` and the step")
            .at_least(0.0),
        OptionFlag::new("lisa_step_interval", "step_interval", "Steps after which other layers are trained")
            .beside("same; an error without `lisa_activated_layers`")
            .at_least(1.0),
    ],
    after: "callbacks",
    joined_by: &["lisa_activated_layers"],
    check: check,
}

/// Refuses before anything is loaded what `begin` would refuse.
fn check(values: &Options) -> Result<()> {
    let number = |name: &str| values.get(name).and_then(Value::as_u64);
    match (
        number("lisa_activated_layers"),
        number("lisa_step_interval"),
    ) {
        (None | Some(0), None) | (Some(0), Some(_)) => Ok(()),
        (None, Some(_)) => Err(Error::new(
            "lisa_step_interval is given without lisa_activated_layers, which says how many layers are trained at a time",
        )),
        (Some(_), _) => check_train_type(values.get("train_type").unwrap_or(&Value::Null)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::Request;
    use apus_sdk::testing::{self, Host, make};
    use serde_json::json;

    fn host(layers: u64, train_type: &str) -> Host {
        let host = Host::new().config(json!({"train_type": train_type, "seed": 42}));
        (0..layers).fold(
            host.parameter("lm_head.weight", &[1.0], &[1]),
            |host, layer| {
                let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
                host.parameter(&name("q_proj"), &[1.0], &[1]).parameter(
                    &name("k_proj"),
                    &[1.0],
                    &[1],
                )
            },
        )
    }

    /// The layers that are trained from each step on at which they change.
    fn trained(seed: u64, options: serde_json::Value, steps: u64) -> Vec<(u64, Vec<String>)> {
        let mut lisa = make::<dyn Callback>("lisa", options).unwrap();
        let host = host(5, "full").config(json!({"train_type": "full", "seed": seed}));
        lisa.begin(&host.run()).unwrap();
        let played = testing::Run::new(steps).play(&mut *lisa).unwrap();
        let mut all: Vec<(u64, Vec<String>)> = Vec::new();
        for (step, request) in played.requests {
            if all.last().is_none_or(|(last, _)| *last != step) {
                all.push((step, Vec::new()));
            }
            match (request, all.last_mut()) {
                (Request::Unfreeze(layer), Some((_, trained))) => trained.push(layer),
                (Request::Freeze(_), _) => {}
                other => panic!("{other:?}"),
            }
        }
        all
    }

    #[test]
    fn layers_are_drawn_by_seed_and_step() {
        let options = || json!({"activated_layers": 2, "step_interval": 3});
        let drawn = trained(42, options(), 60);
        let steps: Vec<u64> = drawn.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (0..=20).map(|i| 3 * i).collect::<Vec<_>>());
        assert!(drawn.iter().all(|(_, layers)| layers.len() == 2));
        let all: BTreeSet<&String> = drawn.iter().flat_map(|(_, layers)| layers).collect();
        assert_eq!(all.len(), 5, "every layer has its turn: {drawn:?}");
        assert_eq!(trained(42, options(), 60), drawn);
        assert_ne!(trained(43, options(), 60), drawn);
    }

    #[test]
    fn what_it_cannot_do_is_said_at_the_start() {
        let begin = |layers, train_type, activated: u64| {
            let options = json!({"activated_layers": activated});
            let mut lisa = make::<dyn Callback>("lisa", options).unwrap();
            lisa.begin(&host(layers, train_type).run())
        };
        begin(2, "full", 2).unwrap();
        let said = begin(2, "lora", 1).unwrap_err().to_string();
        assert!(said.contains("--train_type full"), "{said}");
        begin(2, "lora", 0).unwrap();
        let said = begin(2, "full", 3).unwrap_err().to_string();
        assert_eq!(said, "activated_layers is 3, and the model has 2 layers");

        let check = |values: Value| super::check(values.as_object().unwrap());
        for ok in [
            json!({"train_type": "lora"}),
            json!({"train_type": "lora", "lisa_activated_layers": 0, "lisa_step_interval": 20}),
            json!({"train_type": "full", "lisa_activated_layers": 2}),
        ] {
            check(ok).unwrap();
        }
        for (values, says) in [
            (
                json!({"train_type": "lora", "lisa_activated_layers": 2}),
                "train_type is lora",
            ),
            (
                json!({"train_type": "full", "lisa_step_interval": 2}),
                "without lisa_activated_layers",
            ),
        ] {
            let said = check(values).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
