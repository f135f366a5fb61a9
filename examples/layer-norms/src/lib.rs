//! The norms of the weights and of their gradients, layer by layer, as curves: where training happens, and where it explodes.

use apus_sdk::serde_json::json;
use apus_sdk::{Callback, Control, Need, Result, Run, RunState, Tensor};
use std::collections::BTreeMap;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct LayerNorms {
        /// Steps between two measurements.
        every: u64 = 10,
    }
    limits {
        every: 1.0..,
    }
    state {
        run: Option<Run>,
    }
}

apus_sdk::register! {
    /// Logs the norms of weights and gradients of each layer.
    Callback, "layer_norms", LayerNorms
}

/// `layers.3` of `model.layers.3.self_attn.q_proj.lora_A.weight`; `other` of what is in no layer.
fn layer(name: &str) -> String {
    let mut parts = name.split('.').skip_while(|part| *part != "layers");
    match (parts.next(), parts.next()) {
        (Some(layers), Some(number)) => format!("{layers}.{number}"),
        _ => "other".to_owned(),
    }
}

/// The norm over all tensors of each layer. Each layer waits for the device once.
fn norms(run: &Run, of: impl Fn(&str) -> Result<Tensor>) -> Result<BTreeMap<String, f64>> {
    let mut squares: BTreeMap<String, Tensor> = BTreeMap::new();
    for parameter in run
        .parameters()?
        .iter()
        .filter(|parameter| parameter.trainable())
    {
        let (layer, name) = (layer(parameter.name()), parameter.name());
        let mut sum = of(name)?.sqr()?.sum_all()?;
        if let Some(others) = squares.get(&layer) {
            sum = (others + sum)?;
        }
        squares.insert(layer, sum);
    }
    let norm = |(layer, square): (String, Tensor)| Ok((layer, square.item()?.sqrt()));
    squares.into_iter().map(norm).collect()
}

impl Callback for LayerNorms {
    fn needs() -> &'static [Need] {
        &[Need::Parameters]
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.run = Some(run.clone());
        Ok(())
    }

    fn on_pre_optimizer_step(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        if !state.global_step.is_multiple_of(self.every) {
            return Ok(());
        }
        let run = self.run.as_ref().ok_or("begin comes first")?;
        for (layer, norm) in norms(run, |name| run.value(name))? {
            control.metrics.insert(format!("norm/{layer}"), json!(norm));
        }
        for (layer, norm) in norms(run, |name| run.gradient(name))? {
            control
                .metrics
                .insert(format!("grad_norm/{layer}"), json!(norm));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{self, Host, make};

    #[test]
    fn norms_are_over_all_tensors_of_a_layer() {
        let host = Host::new()
            .parameter("model.layers.0.q.weight", &[3.0], &[1])
            .parameter("model.layers.0.k.weight", &[0.0, 4.0], &[2])
            .parameter("lm_head.weight", &[2.0], &[1])
            .gradient("model.layers.0.q.weight", &[6.0])
            .gradient("model.layers.0.k.weight", &[8.0, 0.0])
            .gradient("lm_head.weight", &[1.0]);
        let mut callback = make::<dyn Callback>("layer_norms", json!({"every": 2})).unwrap();
        callback.begin(&host.run()).unwrap();
        let played = testing::Run::new(3).play(&mut *callback).unwrap();
        for (line, has) in played.logs.iter().zip([true, false, true]) {
            assert_eq!(line.get("norm/layers.0").is_some(), has);
        }
        let number = |name: &str| played.logs[0][name].as_f64().unwrap();
        assert_eq!((number("norm/layers.0"), number("norm/other")), (5.0, 2.0));
        assert_eq!(
            (number("grad_norm/layers.0"), number("grad_norm/other")),
            (10.0, 1.0)
        );
    }
}
