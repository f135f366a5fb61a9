//! A tuner that no weight can stand for: a bottleneck behind a layer. It fails in the part that its options name.

use apus_sdk::{AddedParam, Error, Init, LayerInfo, Result, Tensor, Tuner};

apus_sdk::options! {
    struct Bottleneck {
        /// Numbers in the middle.
        width: usize = 4,
        /// The part that fails: parameters, output, or panic for a panic in output.
        fails: String = String::new(),
    }
}

apus_sdk::register! {
    /// A bottleneck behind the output of attention.
    Tuner, "bottleneck", Bottleneck
}

impl Tuner for Bottleneck {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        if self.fails == "parameters" {
            return Err(Error::new("no parameters today"));
        }
        let (outside, inside) = (layer.outputs(), self.width);
        Ok(vec![
            AddedParam::new("down", &[outside, inside], Init::Uniform(0.1)),
            AddedParam::new("bias_down", &[inside], Init::Constant(0.1)),
            AddedParam::new("up", &[inside, outside], Init::Normal(0.05)),
        ])
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        _x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        match self.fails.as_str() {
            "output" => return Err(Error::new("no output today")),
            "panic" => panic!("a panic of the tuner"),
            _ => {}
        }
        let inside = y.matmul(&params[0])?.add(&params[1])?.tanh()?;
        y.add(&inside.matmul(&params[2])?)
    }

    fn targets(&self) -> Result<Vec<String>> {
        Ok(vec!["o_proj".to_owned()])
    }
}
