//! A tuner of blocks alone: beside the MLP of each layer goes what it reads, times a learnt factor.

use apus_sdk::{AddedParam, Init, LayerInfo, LayerKind, Result, Tensor, Tuner};

apus_sdk::options! {
    struct Aside {
        /// The number that all factors begin with.
        start: f64 = 0.1,
    }
}

apus_sdk::register! {
    /// The input of an MLP beside it.
    Tuner, "aside", Aside
}

impl Tuner for Aside {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        if layer.kind() != LayerKind::Mlp {
            return Ok(Vec::new());
        }
        let shape = [layer.inputs()];
        Ok(vec![AddedParam::new(
            "factor",
            &shape,
            Init::Constant(self.start),
        )])
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        y.add(&x.mul(&params[0])?)
    }

    fn targets(&self) -> Result<Vec<String>> {
        Ok(vec!["mlp".to_owned()])
    }
}
