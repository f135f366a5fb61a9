//! A LoRA of its own: A and B of other ranks by layer, an A that is not trained, other names, or one that begins elsewhere. As it is it
//! computes what `--train_type lora` does.

use apus_sdk::{AddedParam, Init, LayerInfo, Result, Tensor, Tuner};

apus_sdk::options! {
    struct Pair {
        /// The rank.
        rank: usize = 4,
        /// The rank in layers from the third on, if it is another one.
        deep_rank: Option<usize> = None,
        /// The factor on B A.
        scale: f64 = 2.0,
        /// The share of inputs of A that is dropped.
        dropout: f64 = 0.0,
        /// Whether each output has a magnitude.
        decomposed: bool = false,
        /// The factor on the learning rate of B.
        lr_factor: f64 = 1.0,
        /// A stays as it begins.
        frozen: bool = false,
        /// B begins with random numbers around 0 with this deviation.
        deviation: f64 = 0.0,
        /// The parameters have names that PEFT does not know.
        renamed: bool = false,
        /// The update goes through a tanh, which no product of matrices does.
        bent: bool = false,
    }
}

apus_sdk::register! {
    /// A low-rank update.
    Tuner, "pair", Pair
}

impl Pair {
    fn rank(&self, layer: &LayerInfo) -> usize {
        let number = layer
            .name()
            .split('.')
            .find_map(|part| part.parse::<usize>().ok());
        match self.deep_rank {
            Some(rank) if number.is_some_and(|number| number > 1) => rank,
            _ => self.rank,
        }
    }
}

impl Tuner for Pair {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let [a, b] = layer.low_rank_shapes(self.rank(layer));
        let names = match self.renamed {
            true => ["down", "up"],
            false => ["lora_A.weight", "lora_B.weight"],
        };
        let bound = 1.0 / (layer.inputs() as f32).sqrt();
        let mut a = AddedParam::new(names[0], &a, Init::Uniform(bound.into()));
        if self.frozen {
            a = a.frozen();
        }
        let b = match self.deviation {
            0.0 => AddedParam::new(names[1], &b, Init::Constant(0.0)),
            deviation => AddedParam::new(names[1], &b, Init::Normal(deviation)),
        };
        let mut added = vec![a, b.with_lr_factor(self.lr_factor)];
        if self.decomposed {
            let shape = [layer.outputs()];
            added.push(AddedParam::new(
                "lora_magnitude_vector",
                &shape,
                Init::RowNorms,
            ));
        }
        Ok(added)
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        match params {
            [a, b] if self.bent => y.low_rank(x, a, b, self.scale, 0.0)?.tanh(),
            [a, b] => y.low_rank(x, a, b, self.scale, self.dropout),
            [a, b, magnitude, ..] => y.low_rank_decomposed(x, a, b, magnitude, self.scale),
            _ => Err("two or three parameters are needed".into()),
        }
    }
}
