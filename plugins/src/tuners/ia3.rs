//! (IA)^3: a learnt factor on each output of a layer, or on each input of one that follows an activation
//! (<https://arxiv.org/abs/2205.05638>), as `peft.tuners.ia3`.

use apus_sdk::serde_json::json;
use apus_sdk::{AddedParam, Init, LayerInfo, Options, Result, Tensor, Tuner, options, register};

options! {
    struct Ia3 {
        /// Ends of the names of layers whose inputs are scaled in place of their outputs.
        feedforward_modules: Vec<String> = Vec::new(),
    }
}

impl Ia3 {
    fn scales_inputs(&self, layer: &LayerInfo) -> bool {
        let is_end = |end: &String| {
            let rest = layer.name().strip_suffix(end.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.feedforward_modules.iter().any(is_end)
    }
}

impl Tuner for Ia3 {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let shape = match self.scales_inputs(layer) {
            true => [1, layer.inputs()],
            false => [layer.outputs(), 1],
        };
        Ok(vec![AddedParam::new("ia3_l", &shape, Init::Constant(1.0))])
    }

    fn input(&self, layer: &LayerInfo, x: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        match self.scales_inputs(layer) {
            true => x.mul(&params[0].flatten()?),
            false => Ok(x.clone()),
        }
    }

    fn output(
        &self,
        layer: &LayerInfo,
        _x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        match self.scales_inputs(layer) {
            true => Ok(y.clone()),
            false => y.mul(&params[0].flatten()?),
        }
    }

    fn merged_weight(
        &self,
        _layer: &LayerInfo,
        weight: &Tensor,
        params: &[Tensor],
    ) -> Result<Option<Tensor>> {
        weight.mul(&params[0]).map(Some)
    }

    fn merged_bias(&self, layer: &LayerInfo, bias: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        match self.scales_inputs(layer) {
            true => Ok(bias.clone()),
            false => bias.mul(&params[0].flatten()?),
        }
    }

    fn targets(&self) -> Result<Vec<String>> {
        let own = ["k_proj", "v_proj"].map(str::to_owned).into_iter();
        Ok(own.chain(self.feedforward_modules.clone()).collect())
    }

    fn peft_config(&self) -> Result<Options> {
        let fields = [
            ("peft_type", json!("IA3")),
            ("feedforward_modules", json!(self.feedforward_modules)),
            ("fan_in_fan_out", json!(false)),
            ("init_ia3_weights", json!(true)),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), value));
        Ok(fields.into_iter().collect())
    }
}

register! {
    /// (IA)^3: a learnt factor on each output of k_proj and v_proj, or of the layers of target_modules.
    Tuner, "ia3", Ia3
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{make, tensor, tune};

    const WEIGHT: [f32; 6] = [1.0, 2.0, 3.0, -1.0, 0.5, 4.0];
    const BIAS: [f32; 2] = [0.5, -1.0];

    fn layer() -> LayerInfo {
        LayerInfo::new("model.layers.0.self_attn.v_proj", 3, 2).with_bias(true)
    }

    /// `result * ia3_l` of PEFT, the bias included, and its merged weight and bias.
    #[test]
    fn outputs_are_scaled_with_their_bias() {
        let ia3 = make::<dyn Tuner>("ia3", json!({})).unwrap();
        let mut tuned = tune(&*ia3, &layer()).unwrap();
        assert_eq!(tuned.names, ["ia3_l"]);
        assert_eq!(tuned.params[0].shape(), [2, 1]);
        let x = [1.0, 1.0, 2.0];
        let forward = tuned.forward(&WEIGHT, Some(&BIAS), &x).unwrap();
        assert_eq!(forward, [9.5, 6.5]);
        tuned.params = vec![tensor(&[2.0f32, -1.0], &[2, 1])];
        let forward = tuned.forward(&WEIGHT, Some(&BIAS), &x).unwrap();
        assert_eq!(forward, [19.0, -6.5]);
        let (weight, bias) = tuned.merged(&WEIGHT, Some(&BIAS)).unwrap().unwrap();
        assert_eq!(weight, [2.0, 4.0, 6.0, 1.0, -0.5, -4.0]);
        assert_eq!(bias.unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn inputs_are_scaled_where_a_layer_follows_an_activation() {
        let options = json!({"feedforward_modules": ["v_proj"]});
        let ia3 = make::<dyn Tuner>("ia3", options).unwrap();
        let mut tuned = tune(&*ia3, &layer()).unwrap();
        assert_eq!(tuned.params[0].shape(), [1, 3]);
        tuned.params = vec![tensor(&[2.0f32, 0.0, -1.0], &[1, 3])];
        let forward = tuned
            .forward(&WEIGHT, Some(&BIAS), &[1.0, 1.0, 2.0])
            .unwrap();
        assert_eq!(forward, [-3.5, -11.0]);
        let (weight, bias) = tuned.merged(&WEIGHT, Some(&BIAS)).unwrap().unwrap();
        assert_eq!(weight, [2.0, 0.0, -3.0, -2.0, 0.0, -4.0]);
        assert_eq!(bias.unwrap(), BIAS);
    }

    #[test]
    fn a_name_is_an_end_at_a_dot() {
        let ia3 = |end: &str| Ia3 {
            feedforward_modules: vec![end.to_owned()],
        };
        assert!(ia3("v_proj").scales_inputs(&layer()));
        assert!(ia3("self_attn.v_proj").scales_inputs(&layer()));
        assert!(!ia3("proj").scales_inputs(&layer()));
    }
}
