//! Low-rank updates that begin with a part of the weight: its principal singular values and vectors (PiSSA,
//! <https://arxiv.org/abs/2404.02948>) or its QR decomposition (OLoRA, <https://arxiv.org/abs/2406.01775>), as
//! `peft.tuners.lora.layer`.
//!
//! PEFT takes that part out of the base weight, and rounds what is left. Here the base stays as it is, packed or not, and the part that
//! the update began with is subtracted beside it: `W x + s (B A - B0 A0) x`, where A0 and B0 stay and are saved with A and B.

use super::factors::{principal, qr};
use apus_sdk::{
    AddedParam, Error, Init, LayerInfo, Need, Result, Tensor, Tuner, options, register,
};

options! {
    enum Start {
        Pissa,
        Olora,
    }
}

options! {
    struct Pissa {
        /// The rank.
        rank: usize = 8,
        /// The update is alpha / rank * (B A - B0 A0).
        alpha: f64 = 32.0,
        /// The update is alpha / sqrt(rank) * (B A - B0 A0).
        use_rslora: bool = false,
        /// With what A and B begin: pissa, the principal singular values and vectors of the weight, or olora, its QR decomposition.
        start: Start = Start::Pissa,
        /// Iterations in which singular vectors are looked for; without them until they stay.
        niter: Option<usize> = None,
        /// The learning rate of B over that of A.
        lr_ratio: f64 = 1.0,
    }
    limits {
        rank: 1.0..,
        alpha: f64::MIN_POSITIVE..,
        lr_ratio: f64::MIN_POSITIVE..,
    }
}

impl Pissa {
    fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The update with what it began with as a part of it: of twice the rank, on the base as it is.
    fn doubled(&self, params: &[Tensor]) -> Result<[Tensor; 2]> {
        let [a, b, start_a, start_b] = four(params)?;
        let (b, start_b) = (b.scale(self.scale())?, start_b.scale(-self.scale())?);
        Ok([
            Tensor::cat(&[a, start_a], 0)?,
            Tensor::cat(&[&b, &start_b], 1)?,
        ])
    }
}

fn four(params: &[Tensor]) -> Result<&[Tensor; 4]> {
    let four = params.try_into();
    four.map_err(|_| Error::new("A, B and what both began with are needed"))
}

impl Tuner for Pissa {
    fn needs() -> &'static [Need] {
        &[Need::Initial]
    }

    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let (a, b) = ([self.rank, layer.inputs()], [layer.outputs(), self.rank]);
        let zero = Init::Constant(0.0);
        Ok(vec![
            // Where the search for singular vectors begins.
            AddedParam::new("pissa_A", &a, Init::Normal(1.0)),
            AddedParam::new("pissa_B", &b, zero).with_lr_factor(self.lr_ratio),
            AddedParam::new("pissa_start_A", &a, zero).frozen(),
            AddedParam::new("pissa_start_B", &b, zero).frozen(),
        ])
    }

    fn initial(
        &self,
        layer: &LayerInfo,
        weight: Option<&Tensor>,
        drawn: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let Some(weight) = weight else {
            return Err(Error::new(format!(
                "{} has no weight to begin with: expected linear layers, or parameters of experts",
                layer.name()
            )));
        };
        let (b, a) = match self.start {
            Start::Olora => qr(weight, self.rank)?,
            Start::Pissa => {
                let (b, a) = principal(weight, self.rank, self.niter, &drawn[0])?;
                // So the product times the scale is the principal part.
                let share = self.scale().sqrt().recip();
                (b.scale(share)?, a.scale(share)?)
            }
        };
        Ok(vec![a.clone(), b.clone(), a, b])
    }

    fn output(
        &self,
        _layer: &LayerInfo,
        x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let [a, b, start_a, start_b] = four(params)?;
        let through = |a: &Tensor, b: &Tensor| {
            let inner = x.matmul(&a.transpose(0, 1)?)?;
            inner.matmul(&b.transpose(0, 1)?)
        };
        let update = through(a, b)?.sub(&through(start_a, start_b)?)?;
        y.add(&update.scale(self.scale())?)
    }

    fn low_rank_update(
        &self,
        _layer: &LayerInfo,
        params: &[Tensor],
    ) -> Result<Option<[Tensor; 2]>> {
        self.doubled(params).map(Some)
    }

    fn merged_weight(
        &self,
        _layer: &LayerInfo,
        weight: &Tensor,
        params: &[Tensor],
    ) -> Result<Option<Tensor>> {
        let [a, b, start_a, start_b] = four(params)?;
        let update = b.matmul(a)?.sub(&start_b.matmul(start_a)?)?;
        weight.add(&update.scale(self.scale())?).map(Some)
    }
}

register! {
    /// Low-rank updates that begin with the principal part of the weight, or with its QR decomposition: PiSSA, OLoRA. Flags such as --init_weights pissa.
    Tuner, "pissa", Pissa
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, tensor, tune, tune_from};

    const WEIGHT: [f32; 6] = [3.0, 0.0, 0.0, 0.0, 2.0, 0.0];

    fn layer() -> LayerInfo {
        LayerInfo::new("model.layers.0.self_attn.v_proj", 3, 2).with_bias(true)
    }

    /// `lora_A = diag(sqrt(Sr / s)) Uhr`, `lora_B = Vr diag(sqrt(Sr / s))` of PEFT, and the layer computes at first what it did.
    #[test]
    fn an_update_begins_with_the_principal_part_and_changes_nothing() {
        let options = json!({"rank": 1, "alpha": 4});
        let pissa = make::<dyn Tuner>("pissa", options).unwrap();
        let mut tuned = tune_from(&*pissa, &layer(), Some(&WEIGHT)).unwrap();
        let product = tuned.params[1].matmul(&tuned.params[0]).unwrap();
        let expected = [3.0 / 4.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        for (found, expected) in product.to_vec_f32().unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let length = tuned.params[0].norm_all().unwrap().item().unwrap();
        assert!((length - (3.0f64 / 4.0).sqrt()).abs() < 1e-6, "{length}");
        let x = [1.0, -2.0, 4.0];
        assert_eq!(tuned.forward(&WEIGHT, None, &x).unwrap(), [3.0, -4.0]);
        tuned.params[0] = tensor(&[0.0f32, 0.0, 1.0], &[1, 3]);
        tuned.params[1] = tensor(&[1.0f32, 0.5], &[2, 1]);
        let forward = tuned.forward(&WEIGHT, None, &x).unwrap();
        // The principal part is gone, and 4 B A is there in its place.
        for (found, expected) in forward.iter().zip([16.0, -4.0 + 8.0]) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        let update = pissa.low_rank_update(&layer(), &tuned.params).unwrap();
        let [a, b] = update.unwrap();
        assert_eq!((a.shape(), b.shape()), (&[2, 3][..], &[2, 2][..]));
        let product = b.matmul(&a).unwrap().to_vec_f32().unwrap();
        for (found, expected) in product.iter().zip([-3.0, 0.0, 4.0, 0.0, 0.0, 2.0]) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        let (merged, _) = tuned.merged(&WEIGHT, None).unwrap().unwrap();
        for (found, expected) in merged.iter().zip([0.0, 0.0, 4.0, 0.0, 2.0, 2.0]) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn olora_begins_with_the_qr_decomposition() {
        let options = json!({"rank": 2, "alpha": 2, "start": "olora"});
        let olora = make::<dyn Tuner>("pissa", options).unwrap();
        let tuned = tune_from(&*olora, &layer(), Some(&WEIGHT)).unwrap();
        let product = tuned.params[1].matmul(&tuned.params[0]).unwrap();
        assert_eq!(product.to_vec_f32().unwrap(), WEIGHT);
    }

    #[test]
    fn what_has_no_weight_is_refused() {
        let pissa = make::<dyn Tuner>("pissa", json!({"rank": 1})).unwrap();
        let said = tune_from(&*pissa, &layer(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(said.contains("has no weight to begin with"), "{said}");
        assert_eq!(tune(&*pissa, &layer()).unwrap().names.len(), 4);
    }
}
