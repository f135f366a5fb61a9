//! A tuner that no weight can stand for: a bottleneck behind a layer. It fails in the part that its options name.

use apus_sdk::{AddedParam, Error, Init, LayerInfo, Need, Result, Tensor, Tuner};

apus_sdk::options! {
    struct Bottleneck {
        /// Numbers in the middle.
        width: usize = 4,
        /// The part that fails: parameters, initial, output, or panic for a panic in output.
        fails: String = String::new(),
        /// The first factor begins with the first outputs of the weight, times this.
        from_weight: f64 = 0.0,
    }
}

apus_sdk::register! {
    /// A bottleneck behind the output of attention.
    Tuner, "bottleneck", Bottleneck
}

impl Tuner for Bottleneck {
    fn needs() -> &'static [Need] {
        &[Need::Initial]
    }

    fn initial(
        &self,
        layer: &LayerInfo,
        weight: Option<&Tensor>,
        drawn: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        if self.fails == "initial" {
            return Err(Error::new("no beginning today"));
        }
        let mut values = drawn.to_vec();
        if self.from_weight > 0.0 {
            let weight = weight.ok_or_else(|| Error::new("a weight is needed"))?;
            let part = weight.narrow(1, 0, self.width)?.scale(self.from_weight)?;
            if part.shape() != [layer.outputs(), self.width] {
                return Err(Error::new(format!("a weight {:?}", weight.shape())));
            }
            values[0] = part;
        }
        Ok(values)
    }

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
