//! A tuner: a bottleneck adapter (Houlsby et al., 2019), `y + relu(y down + b) up + c`.

use apus_sdk::{AddedParam, Init, LayerInfo, Result, Tensor, Tuner};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Bottleneck {
        /// Numbers in the middle.
        width: usize = 64,
    }
}

apus_sdk::register! {
    /// A small network behind the output of attention.
    Tuner, "{{component}}", Bottleneck
}

impl Tuner for Bottleneck {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let (outside, inside) = (layer.outputs(), self.width);
        let bound = 1.0 / (outside as f64).sqrt();
        // What leads back begins with zeros, so that the layer begins as it was.
        Ok(vec![
            AddedParam::new("down", &[outside, inside], Init::Uniform(bound)),
            AddedParam::new("down_bias", &[inside], Init::Constant(0.0)),
            AddedParam::new("up", &[inside, outside], Init::Constant(0.0)),
            AddedParam::new("up_bias", &[outside], Init::Constant(0.0)),
        ])
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        _x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let inside = y.matmul(&params[0])?.add(&params[1])?.relu()?;
        y.add(&inside.matmul(&params[2])?.add(&params[3])?)
    }

    fn targets(&self) -> Result<Vec<String>> {
        Ok(vec!["o_proj".to_owned()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, tensor, tune};

    const WEIGHT: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

    #[test]
    fn a_layer_begins_as_it_was_and_then_differs() {
        let tuner = make::<dyn Tuner>("{{component}}", json!({"width": 1})).unwrap();
        let layer = LayerInfo::new("model.layers.0.self_attn.o_proj", 2, 2);
        let mut tuned = tune(&*tuner, &layer).unwrap();
        let forward = |tuned: &apus_sdk::testing::Tuned| {
            tuned.forward(&WEIGHT, None, &[1.0, 1.0]).unwrap()
        };
        assert_eq!(forward(&tuned), [3.0, 7.0]);
        tuned.params[0] = tensor(&[1.0f32, 0.0], &[2, 1]);
        tuned.params[2] = tensor(&[0.0f32, 2.0], &[1, 2]);
        assert_eq!(forward(&tuned), [3.0, 13.0]);
        assert_eq!(tuned.merged(&WEIGHT, None).unwrap(), None);
    }
}
