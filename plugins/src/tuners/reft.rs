//! Representation finetuning (Wu et al., 2024, <https://arxiv.org/abs/2404.03592>) as `pyreft/interventions.py`: what a layer gives is
//! changed in a subspace of low rank, `h + R^T (W h + b - R h)`, at all positions.
//!
//! pyreft keeps the rows of R orthonormal by a parametrization of torch. Here R is the first rows of a product of Householder
//! reflections, one for each vector that is trained, and so orthonormal whatever they are.

use super::activation::Activation;
use apus_sdk::built_in::{Answer, Argument, OptionFlag};
use apus_sdk::{
    AddedParam, DType, Error, Init, LayerInfo, Result, Tensor, Tuner, options, register,
};

options! {
    /// What is added to h: R has orthonormal rows, W2 any.
    enum Intervention {
        /// `R^T (W h + b - R h)`.
        #[serde(alias = "LoreftIntervention")]
        Loreft,
        /// `W2^T (W h + b - W2 h - c)`.
        #[serde(alias = "NoreftIntervention")]
        Noreft,
        /// `R^T (b - R h)`.
        #[serde(alias = "ConsreftIntervention")]
        Consreft,
        /// `R^T b`.
        #[serde(alias = "LobireftIntervention")]
        Lobireft,
        /// `R^T (W h + b)`.
        #[serde(alias = "DireftIntervention")]
        Direft,
        /// `W2^T (W h + b)`.
        #[serde(alias = "NodireftIntervention")]
        Nodireft,
    }
}

options! {
    struct Reft {
        /// The rank of the subspace.
        rank: usize = 4,
        /// Numbers of the layers whose output is changed; all if there are none.
        layers: Vec<usize> = Vec::new(),
        /// loreft: R^T (W h + b - R h); direft, consreft, lobireft: without R h, W h or both; noreft, nodireft: rows of R that
        /// need not be orthonormal.
        intervention: Intervention = Intervention::Loreft,
        /// An activation of W h + b.
        act_fn: Activation = Activation::Linear,
    }
    limits {
        rank: 1.0..,
    }
}

impl Reft {
    fn has_source(&self) -> bool {
        use Intervention::{Consreft, Lobireft};
        !matches!(self.intervention, Consreft | Lobireft)
    }

    fn is_orthonormal(&self) -> bool {
        use Intervention::{Nodireft, Noreft};
        !matches!(self.intervention, Noreft | Nodireft)
    }
}

/// The first rows `[r, n]` of the product of the Householder reflections of `vectors` `[r, n]`.
fn rotation(vectors: &Tensor) -> Result<Tensor> {
    let &[rank, width] = vectors.shape() else {
        return Err(Error::new("vectors of a rotation are a matrix"));
    };
    let mut unit = vec![0.0f32; rank * rank];
    unit.iter_mut().step_by(rank + 1).for_each(|one| *one = 1.0);
    let rest = vectors.new_zeros(&[rank, width - rank], DType::F32)?;
    let unit = vectors.new_tensor(&unit, &[rank, rank])?;
    let mut rows = match width > rank {
        true => Tensor::cat(&[&unit, &rest], 1)?,
        false => unit,
    };
    for at in 0..rank {
        let v = vectors.narrow(0, at, 1)?;
        let column = v.transpose(0, 1)?;
        let along = rows.matmul(&column)?.div(&v.matmul(&column)?)?;
        rows = rows.sub(&along.matmul(&v)?.scale(2.0)?)?;
    }
    Ok(rows)
}

impl Tuner for Reft {
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let (rank, width) = (self.rank, layer.outputs());
        if rank > width {
            return Err(Error::new(format!(
                "the rank is {rank}, and {} gives {width} numbers: expected no more than those",
                layer.name()
            )));
        }
        let as_torch = Init::Uniform(1.0 / (width as f64).sqrt());
        let mut params = match self.is_orthonormal() {
            true => {
                let spread = Init::Normal(1.0 / (width as f64).sqrt());
                vec![AddedParam::new("reft.rotate_layer", &[rank, width], spread)]
            }
            false => vec![AddedParam::new(
                "reft.proj_layer.weight",
                &[rank, width],
                as_torch,
            )],
        };
        match self.has_source() {
            true => params.extend([
                AddedParam::new("reft.learned_source.weight", &[rank, width], as_torch),
                AddedParam::new("reft.learned_source.bias", &[rank], as_torch),
            ]),
            false => {
                let spread = Init::Uniform(1.0);
                params.push(AddedParam::new("reft.learned_source", &[rank], spread));
            }
        }
        if self.intervention == Intervention::Noreft {
            params.push(AddedParam::new("reft.proj_layer.bias", &[rank], as_torch));
        }
        Ok(params)
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        _x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let rows = match self.is_orthonormal() {
            true => rotation(&params[0])?,
            false => params[0].clone(),
        };
        let project = |matrix: &Tensor| y.matmul(&matrix.transpose(0, 1)?);
        let source = match self.has_source() {
            true => self.act_fn.of(&project(&params[1])?.add(&params[2])?)?,
            false => params[1].broadcast_to(&[y.shape()[0], self.rank])?,
        };
        let moved = match self.intervention {
            Intervention::Loreft | Intervention::Consreft => source.sub(&project(&rows)?)?,
            Intervention::Noreft => source.sub(&project(&rows)?.add(&params[3])?)?,
            Intervention::Lobireft | Intervention::Direft | Intervention::Nodireft => source,
        };
        y.add(&moved.matmul(&rows)?)
    }

    fn targets(&self) -> Result<Vec<String>> {
        match self.layers.as_slice() {
            [] => Ok(vec!["all-layers".to_owned()]),
            some => Ok(some.iter().map(|layer| format!("layers.{layer}")).collect()),
        }
    }
}

register! {
    /// Representation finetuning: the output of layers is changed in a subspace of low rank (Wu et al., 2024).
    Tuner, "reft", Reft
}

apus_sdk::built_in! {
    Tuner, "reft",
    gives_way: true,
    flags: &[
        OptionFlag::new("reft_rank", "rank", "With train_type reft: the rank of the subspace")
            .beside("same, with `train_type reft`")
            .at_least(1.0),
        OptionFlag::new("reft_layers", "layers", "With train_type reft: numbers of the layers whose output is changed")
            .beside("same, with `train_type reft`")
            .at_least(0.0),
        OptionFlag::new("reft_intervention_type", "intervention", "With train_type reft: what is computed, LoreftIntervention and its kin")
            .beside("same, with `train_type reft`"),
    ],
    after: "train_type",
    arguments: &[
        Argument {
            commands: &["sft"],
            names: &["reft_layer_key"],
            answer: Answer::Refused(&["model.layers"], "layers are those of the decoder; --target_modules names others"),
        },
        Argument {
            commands: &["sft"],
            names: &["reft_args"],
            answer: Answer::Refused(
                &["{}"],
                "an activation is --train_type.act_fn, as in `--train_type reft --train_type.act_fn relu`; there is no dropout",
            ),
        },
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::LayerKind;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Tuned, make, tensor, tune};

    const ALL: [&str; 6] = [
        "loreft", "noreft", "consreft", "lobireft", "direft", "nodireft",
    ];

    #[test]
    fn rows_of_a_rotation_are_orthonormal() {
        for (rank, width) in [(1, 1), (3, 3), (2, 7), (4, 5)] {
            let spread = |at: usize| ((at + 1) as f32 * 0.618_034).fract() * 2.0 - 1.0;
            let values: Vec<f32> = (0..rank * width).map(spread).collect();
            let rows = rotation(&tensor(&values, &[rank, width])).unwrap();
            let all = rows.matmul(&rows.transpose(0, 1).unwrap()).unwrap();
            for (at, value) in all.to_vec_f32().unwrap().iter().enumerate() {
                let expected = if at % (rank + 1) == 0 { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-5, "{rank} {width}: {value}");
            }
        }
    }

    /// With one reflection by (1, 1), R is (0, -1); h is (2, 3), W is (1, 0), b is 0.5, c is 0.25.
    #[test]
    fn each_intervention_is_its_formula() {
        let layer = LayerInfo::block("model.layers.0", LayerKind::Decoder, 2);
        for (name, expected) in ALL.iter().zip([
            [2.0, 3.0 - 5.5],
            [2.0 - 2.75, 3.0 - 2.75],
            [2.0, 3.0 - 3.5],
            [2.0, 3.0 - 0.5],
            [2.0, 3.0 - 2.5],
            [2.0 + 2.5, 3.0 + 2.5],
        ]) {
            let options = json!({"rank": 1, "intervention": name});
            let reft = make::<dyn Tuner>("reft", options).unwrap();
            let mut tuned: Tuned = tune(&*reft, &layer).unwrap();
            let value = |name: &String| match name.as_str() {
                "reft.rotate_layer" | "reft.proj_layer.weight" => tensor(&[1.0f32, 1.0], &[1, 2]),
                "reft.learned_source.weight" => tensor(&[1.0f32, 0.0], &[1, 2]),
                "reft.proj_layer.bias" => tensor(&[0.25f32], &[1]),
                _ => tensor(&[0.5f32], &[1]),
            };
            tuned.params = tuned.names.iter().map(value).collect();
            let forward = tuned.forward(&[1.0, 0.0, 0.0, 1.0], None, &[2.0, 3.0]);
            assert_eq!(forward.unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn names_of_pyreft_are_known_and_a_rank_above_the_width_is_refused() {
        let options = json!({"intervention": "DireftIntervention", "layers": [1, 3]});
        let reft = make::<dyn Tuner>("reft", options).unwrap();
        assert_eq!(reft.targets().unwrap(), ["layers.1", "layers.3"]);
        let layer = LayerInfo::block("model.layers.0", LayerKind::Decoder, 3);
        let said = reft.parameters(&layer).unwrap_err().to_string();
        assert!(
            said.contains("the rank is 4, and model.layers.0 gives 3"),
            "{said}"
        );
    }
}
