//! LoRA (<https://arxiv.org/abs/2106.09685>) with what is built on it: rsLoRA (<https://arxiv.org/abs/2312.03732>), DoRA
//! (<https://arxiv.org/abs/2402.09353>) and LoRA+ (<https://arxiv.org/abs/2402.12354>), as `peft.tuners.lora`.

use apus_sdk::serde_json::{Value, json};
use apus_sdk::{
    AddedParam, Error, Init, LayerInfo, Options, Result, Tensor, Tuner, options, register,
};
use fancy_regex::Regex;

options! {
    enum Start {
        KaimingUniform,
        Gaussian,
    }
}

options! {
    struct Lora {
        /// The rank.
        rank: usize = 8,
        /// The update is alpha / rank * B A.
        alpha: f64 = 32.0,
        /// The probability of dropping an input of A.
        dropout: f64 = 0.0,
        /// The update is alpha / sqrt(rank) * B A (rsLoRA).
        use_rslora: bool = false,
        /// Magnitudes are learnt by themselves (DoRA).
        use_dora: bool = false,
        /// How A begins: kaiming_uniform, or gaussian with a deviation of 1 / rank. B begins at zero.
        init_weights: Start = Start::KaimingUniform,
        /// The learning rate of B over that of A (LoRA+).
        lr_ratio: f64 = 1.0,
        /// Ranks of layers that have another one, by their names, the ends of those from a dot on, or patterns of these.
        rank_pattern: Options = Options::new(),
        /// Alphas of layers that have another one, in the same way.
        alpha_pattern: Options = Options::new(),
    }
    limits {
        rank: 1.0..,
        dropout: 0.0..1.0,
        lr_ratio: f64::MIN_POSITIVE..,
    }
}

impl Lora {
    fn rank(&self, layer: &LayerInfo) -> Result<usize> {
        let Some((pattern, value)) = matching("rank_pattern", &self.rank_pattern, layer)? else {
            return Ok(self.rank);
        };
        let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
        rank.filter(|rank| *rank > 0).ok_or_else(|| {
            Error::new(format!(
                "rank_pattern has {value} for {pattern:?}, expected a whole number of 1 or more"
            ))
        })
    }

    fn alpha(&self, layer: &LayerInfo) -> Result<f64> {
        let Some((pattern, value)) = matching("alpha_pattern", &self.alpha_pattern, layer)? else {
            return Ok(self.alpha);
        };
        value.as_f64().ok_or_else(|| {
            Error::new(format!(
                "alpha_pattern has {value} for {pattern:?}, expected a number"
            ))
        })
    }

    fn scale(&self, layer: &LayerInfo) -> Result<f64> {
        let rank = self.rank(layer)? as f64;
        Ok(self.alpha(layer)? / if self.use_rslora { rank.sqrt() } else { rank })
    }

    fn check(&self, layer: &LayerInfo) -> Result<()> {
        self.scale(layer)?;
        let dropout = self.dropout;
        let said = match (layer.matrices() > 1, self.use_dora, dropout > 0.0) {
            (true, _, true) => format!(
                "lora_dropout {dropout} cannot be used with target_parameters, as in PEFT; set it to 0"
            ),
            (true, true, _) => {
                "use_dora cannot be used with target_parameters, as in PEFT".to_owned()
            }
            (false, true, true) => format!(
                "lora_dropout {dropout} with use_dora is not supported; set lora_dropout to 0"
            ),
            _ => return Ok(()),
        };
        Err(Error::new(said))
    }
}

/// The first pattern that is a layer's whole name or its end from a dot on, with its value, as `get_pattern_key` of PEFT.
fn matching<'a>(
    option: &str,
    patterns: &'a Options,
    layer: &LayerInfo,
) -> Result<Option<(&'a String, &'a Value)>> {
    for (pattern, value) in patterns {
        let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$"));
        let is_match = regex.and_then(|regex| regex.is_match(layer.name()));
        let is_match =
            is_match.map_err(|error| Error::new(format!("{option} {pattern:?}: {error}")))?;
        if is_match {
            return Ok(Some((pattern, value)));
        }
    }
    Ok(None)
}

impl Tuner for Lora {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        self.check(layer)?;
        let rank = self.rank(layer)?;
        let [a, b] = layer.low_rank_shapes(rank);
        let start = match self.init_weights {
            // `kaiming_uniform_(a=sqrt(5))` of torch, in f32 as there.
            Start::KaimingUniform => Init::Uniform((1.0 / (layer.inputs() as f32).sqrt()).into()),
            Start::Gaussian => Init::Normal((1.0 / rank as f32).into()),
        };
        let mut added = vec![
            AddedParam::new("lora_A.weight", &a, start),
            AddedParam::new("lora_B.weight", &b, Init::Constant(0.0)).with_lr_factor(self.lr_ratio),
        ];
        if self.use_dora {
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
        layer: &LayerInfo,
        x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let scale = self.scale(layer)?;
        match params {
            [a, b] => y.low_rank(x, a, b, scale, self.dropout),
            [a, b, magnitude] => y.low_rank_decomposed(x, a, b, magnitude, scale),
            _ => Err(Error::new(
                "A and B are needed, and with use_dora a magnitude",
            )),
        }
    }

    fn peft_config(&self) -> Result<Options> {
        let init = match self.init_weights {
            Start::KaimingUniform => json!(true),
            Start::Gaussian => json!("gaussian"),
        };
        let fields = [
            ("peft_type", json!("LORA")),
            ("r", json!(self.rank)),
            ("lora_alpha", json!(self.alpha)),
            ("lora_dropout", json!(self.dropout)),
            ("use_rslora", json!(self.use_rslora)),
            ("use_dora", json!(self.use_dora)),
            ("init_lora_weights", init),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), value));
        Ok(fields.into_iter().collect())
    }
}

register! {
    /// Low-rank updates: LoRA, rsLoRA, DoRA, LoRA+. A run has it unless train_type names another one, by flags such as --lora_rank.
    Tuner, "lora", Lora
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

    #[test]
    fn an_update_is_that_of_its_paper() {
        let lora =
            make::<dyn Tuner>("lora", json!({"rank": 1, "alpha": 2, "lr_ratio": 4})).unwrap();
        let added = lora.parameters(&layer()).unwrap();
        let factors: Vec<f64> = added.iter().map(AddedParam::lr_factor).collect();
        assert_eq!(factors, [1.0, 4.0]);
        let mut tuned = tune(&*lora, &layer()).unwrap();
        assert_eq!(tuned.names, ["lora_A.weight", "lora_B.weight"]);
        let x = [1.0, 1.0, 2.0];
        // B begins at zero.
        let forward = tuned.forward(&WEIGHT, Some(&BIAS), &x).unwrap();
        assert_eq!(forward, [9.5, 6.5]);
        tuned.params = vec![
            tensor(&[1.0f32, 0.0, -1.0], &[1, 3]),
            tensor(&[0.5f32, -1.0], &[2, 1]),
        ];
        let forward = tuned.forward(&WEIGHT, Some(&BIAS), &x).unwrap();
        assert_eq!(forward, [8.5, 8.5]);
    }

    /// `m * (W + s B A) / |W + s B A|` by rows, with the bias beside it.
    #[test]
    fn magnitudes_are_the_norms_of_rows() {
        let options = json!({"rank": 1, "alpha": 2, "use_dora": true});
        let dora = make::<dyn Tuner>("lora", options).unwrap();
        let mut tuned = tune(&*dora, &layer()).unwrap();
        assert_eq!(tuned.names[2], "lora_magnitude_vector");
        tuned.params = vec![
            tensor(&[1.0f32, 0.0, -1.0], &[1, 3]),
            tensor(&[0.5f32, -1.0], &[2, 1]),
            tensor(&[3.0f32, 7.0], &[2]),
        ];
        // W + s B A is [2, 2, 2] and [-3, 0.5, 6].
        let found = tuned
            .forward(&WEIGHT, Some(&BIAS), &[1.0, 1.0, 2.0])
            .unwrap();
        let expected = [
            8.0 * 3.0 / 12f32.sqrt() + 0.5,
            9.5 * 7.0 / 45.25f32.sqrt() - 1.0,
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn experts_have_a_pair_each_and_neither_dropout_nor_dora() {
        let experts = LayerInfo::new("model.layers.0.mlp.experts.down_proj", 6, 4).with_matrices(3);
        let lora = |options| make::<dyn Tuner>("lora", options).unwrap();
        let added = lora(json!({"rank": 2})).parameters(&experts).unwrap();
        let shapes: Vec<&[usize]> = added.iter().map(AddedParam::shape).collect();
        assert_eq!(shapes, [[6, 6], [4, 6]]);
        for options in [json!({"dropout": 0.1}), json!({"use_dora": true})] {
            let said = lora(options).parameters(&experts).unwrap_err().to_string();
            assert!(said.contains("target_parameters, as in PEFT"), "{said}");
        }
        let both = lora(json!({"dropout": 0.1, "use_dora": true}));
        assert!(both.parameters(&layer()).is_err());
    }

    #[test]
    fn the_scale_of_rslora_goes_by_the_root_of_the_rank() {
        let options = json!({"rank": 4, "alpha": 8, "use_rslora": true});
        let config = make::<dyn Tuner>("lora", options)
            .unwrap()
            .peft_config()
            .unwrap();
        assert_eq!(config["use_rslora"], json!(true));
        let lora = |use_rslora| Lora {
            rank: 4,
            alpha: 8.0,
            use_rslora,
            ..Lora::default()
        };
        let scale = |use_rslora| lora(use_rslora).scale(&layer()).unwrap();
        assert_eq!((scale(true), scale(false)), (4.0, 2.0));
    }

    #[test]
    fn ranks_and_alphas_go_by_the_first_pattern_that_fits() {
        let options = json!({
            "rank": 4,
            "alpha": 8,
            "rank_pattern": {"q_proj": 3, "0.self_attn.v_proj": 2, "v_proj": 1},
            "alpha_pattern": {"_proj": 1, "^v_proj": 1, r".*\.[01]\..*v_proj": 10},
        });
        let lora = make::<dyn Tuner>("lora", options).unwrap();
        let rank = |name: &str| {
            let layer = LayerInfo::new(name, 3, 2);
            lora.parameters(&layer).unwrap()[0].shape()[0]
        };
        assert_eq!(rank("model.layers.0.self_attn.v_proj"), 2);
        assert_eq!(rank("model.layers.1.self_attn.v_proj"), 1);
        assert_eq!(rank("model.layers.1.self_attn.k_proj"), 4);
        let mut tuned = tune(&*lora, &layer()).unwrap();
        tuned.params = vec![
            tensor(&[1.0f32, 0.0, -1.0, 0.0, 0.0, 0.0], &[2, 3]),
            tensor(&[0.5f32, 0.0, -1.0, 0.0], &[2, 2]),
        ];
        // The scale is 10 / 2, and x A^T is -1.
        let forward = tuned.forward(&WEIGHT, Some(&BIAS), &[1.0, 1.0, 2.0]);
        assert_eq!(forward.unwrap(), [9.5 - 2.5, 6.5 + 5.0]);
        for options in [
            json!({"rank_pattern": {"v_proj": 0}}),
            json!({"rank_pattern": {"(": 1}}),
            json!({"alpha_pattern": {"v_proj": "much"}}),
        ] {
            let lora = make::<dyn Tuner>("lora", options).unwrap();
            let said = lora.parameters(&layer()).unwrap_err().to_string();
            assert!(said.contains("_pattern"), "{said}");
        }
    }
}
