//! The bottleneck adapter of Houlsby et al. (<https://arxiv.org/abs/1902.00751>) as ms-swift's `tuners/adapter.py`: behind the MLP of
//! each layer, `y + linear2(act(linear1(y)))`.

use super::activation::Activation;
use apus_sdk::built_in::OptionFlag;
use apus_sdk::{AddedParam, Init, LayerInfo, Result, Tensor, Tuner, options, register};

options! {
    struct Adapter {
        /// Numbers in the middle.
        length: usize = 128,
        /// The activation in the middle.
        act: Activation = Activation::Gelu,
    }
    limits {
        length: 1.0..,
    }
}

impl Tuner for Adapter {
    /// As `nn.init.xavier_uniform_` and `normal_(std=1e-6)` begin them: what is added is not zero at first.
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let (outside, inside) = (layer.outputs(), self.length);
        let xavier = Init::Uniform((6.0 / (outside + inside) as f64).sqrt());
        let small = Init::Normal(1e-6);
        Ok(vec![
            AddedParam::new("adapter.linear1.weight", &[inside, outside], xavier),
            AddedParam::new("adapter.linear1.bias", &[inside], small),
            AddedParam::new("adapter.linear2.weight", &[outside, inside], xavier),
            AddedParam::new("adapter.linear2.bias", &[outside], small),
        ])
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        _x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let linear =
            |x: &Tensor, at: usize| x.matmul(&params[at].transpose(0, 1)?)?.add(&params[at + 1]);
        y.add(&linear(&self.act.of(&linear(y, 0)?)?, 2)?)
    }

    fn targets(&self) -> Result<Vec<String>> {
        Ok(vec!["mlp".to_owned()])
    }
}

register! {
    /// A small network behind the MLP of each layer (Houlsby et al., 2019).
    Tuner, "adapter", Adapter
}

apus_sdk::built_in! {
    Tuner, "adapter",
    gives_way: true,
    flags: &[
        OptionFlag::new("adapter_length", "length", "With train_type adapter: numbers in the middle of the small network")
            .beside("same, with `train_type adapter`")
            .at_least(1.0),
        OptionFlag::new("adapter_act", "act", "With train_type adapter: the activation in its middle")
            .beside("same, with `train_type adapter`"),
    ],
    after: "train_type",
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::LayerKind;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, tensor, tune};

    #[test]
    fn a_small_network_of_the_output_is_added_to_it() {
        let adapter = make::<dyn Tuner>("adapter", json!({"length": 1, "act": "relu"})).unwrap();
        let layer = LayerInfo::block("model.layers.0.mlp", LayerKind::Mlp, 2);
        let mut tuned = tune(&*adapter, &layer).unwrap();
        assert_eq!(tuned.names[0], "adapter.linear1.weight");
        tuned.params = vec![
            tensor(&[1.0f32, -2.0], &[1, 2]),
            tensor(&[0.5f32], &[1]),
            tensor(&[3.0f32, -1.0], &[2, 1]),
            tensor(&[0.25f32, 0.0], &[2]),
        ];
        let identity = [1.0, 0.0, 0.0, 1.0];
        let x = [2.0, 0.5, 0.0, 1.0];
        let forward = tuned.forward(&identity, None, &x).unwrap();
        // relu(2 - 1 + 0.5) = 1.5 and relu(-2 + 0.5) = 0.
        assert_eq!(forward, [6.75, -1.0, 0.25, 1.0]);
        assert_eq!(tuned.merged(&identity, None).unwrap(), None);
    }
}
