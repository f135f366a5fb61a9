//! What a tuner has trained as low-rank updates, where it comes to such: then it shares batches with other adapters, and is written
//! where nothing but these is taken.

use super::adapter::TunedAdapter;
use super::bound::Bound;
use anyhow::{Result, bail, ensure};
use apus_model::adapter::Adapter;
use apus_model::model::{Addition, UpdateSet};
use apus_model::ops::lora::Factors;
use candle_core::Tensor;

impl TunedAdapter {
    /// Its updates for rows that name it.
    ///
    /// # Errors
    /// It is more than low-rank updates.
    pub(super) fn update_set(&self) -> Result<UpdateSet> {
        match self.updates()? {
            Some(updates) => UpdateSet::of_scaled(updates),
            None => bail!(
                "it was trained by the {}, which cannot share a batch with other adapters; it can answer alone, given by \
                 --adapters",
                self.tuner.label
            ),
        }
    }

    /// The same as an adapter of PEFT; `None` if it is more than low-rank updates.
    ///
    /// # Errors
    /// The tuner's own.
    pub fn low_rank_adapter(&self) -> Result<Option<Adapter>> {
        let Some(updates) = self.updates()? else {
            return Ok(None);
        };
        let base = self.config.base_model.clone();
        Adapter::of_updates(&self.dir, &self.model, base, updates).map(Some)
    }

    /// A and B of each linear module and parameter of experts, and the factor on their product.
    fn updates(&self) -> Result<Option<Vec<(String, f64, Factors)>>> {
        if !self.config.modules_to_save.is_empty() {
            return Ok(None);
        }
        let mut all = Vec::new();
        for addition in &self.additions {
            let Some((scale, factors)) = self.update(addition)? else {
                return Ok(None);
            };
            all.push((addition.target.clone(), scale, factors));
        }
        Ok(Some(all))
    }

    fn update(&self, addition: &Addition) -> Result<Option<(f64, Factors)>> {
        let params = self.params_of(addition)?;
        if let Some(update) = &addition.low_rank {
            let [a, b] = [update.a, update.b].map(|place| params[place].clone());
            let plain = update.magnitude.is_none();
            return Ok(plain.then_some((update.scale, Factors { a, b })));
        }
        let bound = Bound::of_addition(&self.tuner, &self.model, addition)?;
        if addition.experts.is_none() {
            let factors = bound.low_rank_update(&params)?;
            return Ok(factors.map(|factors| (1.0, factors)));
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let experts = params[0].dim(0)?;
        for expert in 0..experts {
            let own = params.iter().map(|param| Ok(param.get(expert)?));
            let Some(factors) = bound.low_rank_update(&own.collect::<Result<Vec<_>>>()?)? else {
                return Ok(None);
            };
            a.push(factors.a);
            b.push(factors.b);
        }
        let (outputs, rank) = b[0].dims2()?;
        ensure!(
            b.iter().all(|b| b.dims() == [outputs, rank]),
            "{}, low_rank_update of {}: the experts have different ranks, expected one",
            self.tuner.label,
            addition.target
        );
        // PEFT's layouts: the rows of an expert together, and the columns of a rank together.
        let b = Tensor::stack(&b, 2)?.reshape((outputs, rank * experts))?;
        let a = Tensor::cat(&a, 0)?;
        Ok(Some((1.0, Factors { a, b })))
    }
}
