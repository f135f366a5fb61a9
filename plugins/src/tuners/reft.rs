//! Representation finetuning (Wu et al., 2024, <https://arxiv.org/abs/2404.03592>) as `pyreft/interventions.py`: what a layer gives is
//! changed in a subspace of low rank, `h + R^T (W h + b - R h)`, at all positions.
//!
//! pyreft keeps the rows of R orthonormal by a parametrization of torch, which turns the rows that it began with. Here R is the first
//! rows of a product of Householder reflections, one for each vector that is trained, and so orthonormal whatever they are. It
//! begins as there (`torch.nn.init.orthogonal_`): with the rows of a random matrix made orthonormal.

use super::activation::Activation;
use apus_sdk::built_in::{Answer, Argument, OptionFlag};
use apus_sdk::{
    AddedParam, DType, Error, Init, LayerInfo, Need, Result, Tensor, Tuner, options, register,
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

/// Vectors `[r, n]` of which [`rotation`] makes the rows of a matrix made orthonormal, one after another: Householder's QR
/// decomposition of its transpose, whose last reflection comes first here.
fn reflections(matrix: &[f32], width: usize) -> Vec<f32> {
    let rows = matrix.chunks(width);
    let mut rows: Vec<Vec<f64>> = rows
        .map(|row| row.iter().map(|&v| v.into()).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut vectors = Vec::new();
    for at in 0..rows.len() {
        let mut v = rows[at].clone();
        v[..at].fill(0.0);
        let length = dot(&v, &v).sqrt();
        v[at] -= length;
        if dot(&v, &v) <= 1e-12 * length * length {
            // It lies on the axis already, and no vector stands for no reflection: it is turned around.
            v[at] += 2.0 * length;
        }
        let square = dot(&v, &v);
        for row in &mut rows[at..] {
            let along = 2.0 * dot(row, &v) / square;
            row.iter_mut()
                .zip(&v)
                .for_each(|(value, v)| *value -= along * v);
        }
        vectors.push(v);
    }
    let vectors = vectors.into_iter().rev().flatten();
    vectors.map(|v| v as f32).collect()
}

impl Tuner for Reft {
    fn needs() -> &'static [Need] {
        &[Need::Initial]
    }

    fn initial(
        &self,
        layer: &LayerInfo,
        _weight: Option<&Tensor>,
        drawn: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let mut values = drawn.to_vec();
        if self.is_orthonormal() {
            let vectors = reflections(&drawn[0].to_vec_f32()?, layer.outputs());
            values[0] = drawn[0].new_tensor(&vectors, drawn[0].shape())?;
        }
        Ok(values)
    }

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
                // `torch.rand`.
                let spread = Init::Between(0.0, 1.0);
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

    /// A random matrix, of which R begins with the rows made orthonormal by Gram and Schmidt.
    #[test]
    fn a_rotation_begins_with_random_rows_made_orthonormal() {
        for (rank, width) in [(1, 1), (3, 3), (2, 7), (4, 5)] {
            let spread = |at: usize| ((at + 1) as f32 * 0.618_034).fract() * 2.0 - 1.0;
            let random: Vec<f32> = (0..rank * width).map(spread).collect();
            let vectors = reflections(&random, width);
            let found = rotation(&tensor(&vectors, &[rank, width])).unwrap();
            let mut expected: Vec<Vec<f64>> = Vec::new();
            for row in random.chunks(width) {
                let mut row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
                for before in &expected {
                    let along: f64 = row.iter().zip(before).map(|(a, b)| a * b).sum();
                    row.iter_mut()
                        .zip(before)
                        .for_each(|(v, b)| *v -= along * b);
                }
                let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.iter_mut().for_each(|v| *v /= length);
                expected.push(row);
            }
            let expected = expected.into_iter().flatten();
            for (found, expected) in found.to_vec_f32().unwrap().iter().zip(expected) {
                // Where nothing is left to turn, a row may be turned around.
                let gap = f64::from(*found).abs() - expected.abs();
                assert!(gap.abs() < 1e-5, "{rank} {width}: {found} {expected}");
            }
        }
    }

    /// `pyreft/interventions.py` line by line, at rank 2 of width 3 with an activation, for several rows.
    #[test]
    fn interventions_are_those_of_pyreft_at_a_higher_rank() {
        let layer = LayerInfo::block("model.layers.0", LayerKind::Decoder, 3);
        let h = [[0.5f64, -1.0, 2.0], [1.5, 0.25, -0.75]];
        let (w, b) = ([[0.3f64, -0.6, 0.2], [0.9, 0.1, -0.4]], [0.2f64, -0.3]);
        let (proj, c) = ([[0.7f64, 0.2, -0.1], [-0.5, 0.4, 0.6]], [0.1f64, 0.15]);
        let flat = |rows: &[[f64; 3]; 2]| -> Vec<f32> {
            rows.iter().flatten().map(|&v| v as f32).collect()
        };
        let vectors = [[1.0f64, 2.0, -0.5], [0.25, -1.0, 0.75]];
        let r = rotation(&tensor(&flat(&vectors), &[2, 3])).unwrap();
        let r: Vec<f64> = r.to_vec_f32().unwrap().into_iter().map(f64::from).collect();
        let r = [[r[0], r[1], r[2]], [r[3], r[4], r[5]]];
        let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for name in ALL {
            let options = json!({"rank": 2, "intervention": name, "act_fn": "relu"});
            let reft = make::<dyn Tuner>("reft", options).unwrap();
            let mut tuned = tune(&*reft, &layer).unwrap();
            let value = |name: &String| match name.as_str() {
                "reft.rotate_layer" => tensor(&flat(&vectors), &[2, 3]),
                "reft.proj_layer.weight" => tensor(&flat(&proj), &[2, 3]),
                "reft.learned_source.weight" => tensor(&flat(&w), &[2, 3]),
                "reft.proj_layer.bias" => tensor(&c.map(|v| v as f32), &[2]),
                _ => tensor(&b.map(|v| v as f32), &[2]),
            };
            tuned.params = tuned.names.iter().map(value).collect();
            let unit = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
            let x: Vec<f32> = h.iter().flatten().map(|&v| v as f32).collect();
            let found = tuned.forward(&unit, None, &x).unwrap();
            let rows = if name.starts_with("no") { &proj } else { &r };
            let expected = h.iter().flat_map(|h| {
                let moved: Vec<f64> = (0..2)
                    .map(|at| {
                        // `self.act_fn(self.learned_source(base))`, and constants without it.
                        let source = (dot(&w[at], h) + b[at]).max(0.0);
                        match name {
                            "loreft" => source - dot(&rows[at], h),
                            "noreft" => source - (dot(&rows[at], h) + c[at]),
                            "consreft" => b[at] - dot(&rows[at], h),
                            "lobireft" => b[at],
                            _ => source,
                        }
                    })
                    .collect();
                (0..3).map(move |at| h[at] + moved[0] * rows[0][at] + moved[1] * rows[1][at])
            });
            for (found, expected) in found.iter().zip(expected.collect::<Vec<_>>()) {
                let gap = (f64::from(*found) - expected).abs();
                assert!(gap < 1e-5, "{name}: {found} {expected}");
            }
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
