//! Merging an adapter into the weights it was trained on, tensor by tensor, rounding as PEFT's
//! `merge_and_unload` does.

use super::file::{Adapter, Pair};
use crate::tensors::TensorSpec;
use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The merged matrix `[O, I]` of an expert, f32, from its number and its own.
pub type ExpertMerge = Arc<dyn Fn(usize, &Tensor) -> Result<Tensor> + Send + Sync>;

impl Adapter {
    /// Whether merging changes the model's tensor of this name (experts by their BF16 name,
    /// `model.layers.N.mlp.experts.gate_up_proj`).
    pub fn touches(&self, name: &str) -> bool {
        let updated = self.list.get(name).and_then(|spec| self.pair_of(spec));
        self.saved(name).is_some() || updated.is_some() || self.experts.contains_key(name)
    }

    /// The matrix `[I, O]` of an expert that is written in place of the model's: out of a tensor that is stored whole, or merged by a
    /// tuner from the model's own `[O, I]`, f32. `None` if there is none, or it is that of the model.
    ///
    /// # Errors
    /// The tuner's own, or another shape.
    pub fn merged_expert(
        &self,
        spec: &TensorSpec,
        expert: usize,
        own: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        if let Some(saved) = self.saved(&spec.name) {
            ensure!(
                saved.dims() == spec.shape,
                "the adapter's tensor has shape {:?}, the base's {:?}",
                saved.dims(),
                spec.shape
            );
            return Ok(Some(saved.get(expert)?));
        }
        let Some(merge) = self.experts.get(&spec.name) else {
            return Ok(None);
        };
        let own = own()?;
        let merged = merge(expert, &own)?;
        let numbers = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        match numbers(&merged)? == numbers(&own)? {
            true => Ok(None),
            false => Ok(Some(merged.t()?.contiguous()?)),
        }
    }

    /// The pair that updates a tensor.
    pub(super) fn pair_of(&self, spec: &TensorSpec) -> Option<Pair<'_>> {
        match (spec.layer, spec.expert_matrix()) {
            (Some(layer), Some(matrix)) => self.expert_pair(layer, matrix),
            _ => self.pair(spec.name.strip_suffix(".weight")?),
        }
    }

    /// The merged tensor of this name, in the type of `base` (f32 or bf16) on the CPU, or `None` where nothing changes.
    ///
    /// Linear layers are summed in f32 and rounded once; for expert matrices `[E, in, out]` PEFT rounds the
    /// update to the base's type before it adds it.
    ///
    /// # Errors
    /// `base` has another shape than the adapter was trained on.
    pub fn merged_weight(&self, name: &str, base: &Tensor) -> Result<Option<Tensor>> {
        let merged = if let Some(saved) = self.saved(name) {
            ensure!(
                saved.dims() == base.dims(),
                "the adapter's tensor has shape {:?}, the base's {:?}",
                saved.dims(),
                base.dims()
            );
            saved.to_dtype(base.dtype()).map_err(Into::into)
        } else {
            let spec = self.list.get(name);
            let Some((spec, pair)) = spec.and_then(|spec| Some((spec, self.pair_of(spec)?))) else {
                return Ok(None);
            };
            let scale = self.scale(spec);
            match spec.expert_matrix() {
                Some(_) => merge_experts(base, &pair, scale),
                None => merge_linear(base, &pair, self.magnitude(spec.module()), scale),
            }
        };
        merged.map(Some).with_context(|| format!("merging {name}"))
    }

    /// Rows of the tensor that [`merged_weight`](Self::merged_weight) gives, out of the same rows of `base`. Matrices of experts
    /// are merged one by one instead ([`expert_update`](Self::expert_update)), unless they are stored whole.
    ///
    /// # Errors
    /// `base` has another shape than the adapter was trained on.
    pub fn merged_rows(
        &self,
        name: &str,
        rows: &Range<usize>,
        base: &Tensor,
    ) -> Result<Option<Tensor>> {
        let of = |t: &Tensor| t.narrow(0, rows.start, rows.len());
        let merged = || -> Result<Option<Tensor>> {
            if let Some(saved) = self.saved(name) {
                let saved = of(saved)?;
                ensure!(
                    saved.dims() == base.dims(),
                    "the adapter's tensor has shape {:?}, the base's {:?}",
                    saved.dims(),
                    base.dims()
                );
                return Ok(Some(saved.to_dtype(base.dtype())?));
            }
            let spec = self.list.get(name);
            let Some((spec, pair)) = spec.and_then(|spec| Some((spec, self.pair_of(spec)?))) else {
                return Ok(None);
            };
            ensure!(
                spec.expert_matrix().is_none(),
                "experts are not merged by rows"
            );
            let (a, b) = (pair.a, &of(pair.b)?);
            let magnitude = self.magnitude(spec.module()).map(of).transpose()?;
            let scale = self.scale(spec);
            merge_linear(base, &Pair { a, b }, magnitude.as_ref(), scale).map(Some)
        };
        merged().with_context(|| format!("merging rows {rows:?} of {name}"))
    }
}

/// Returns `W + s B A`, with DoRA `(m / ||W + s B A||) (W + s B A)` by rows.
fn merge_linear(
    base: &Tensor,
    pair: &Pair,
    magnitude: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let w = base.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let merged = (w + (pair.b.matmul(pair.a)? * scale)?)?;
    let merged = match magnitude {
        Some(m) => {
            let factor = (m / merged.sqr()?.sum(D::Minus1)?.sqrt()?)?;
            merged.broadcast_mul(&factor.unsqueeze(1)?)?
        }
        None => merged,
    };
    Ok(merged.to_dtype(base.dtype())?)
}

/// Returns `W[e] + (s B[:, e::E] A[e r..(e+1) r])^T`, one expert at a time to bound the memory.
pub(super) fn merge_experts(base: &Tensor, pair: &Pair, scale: f64) -> Result<Tensor> {
    let (e, input, output) = base.dims3()?;
    let (ranks, _) = pair.a.dims2()?;
    ensure!(
        pair.a.dims() == [ranks, input] && pair.b.dims() == [output, ranks] && ranks % e == 0,
        "the adapter's pair {:?}, {:?} does not fit the experts {:?}",
        pair.a.dims(),
        pair.b.dims(),
        base.dims()
    );
    let r = ranks / e;
    let a = pair.a.reshape((e, r, input))?;
    let b = pair.b.reshape((output, r, e))?.permute((2, 0, 1))?;
    let merged = Tensor::zeros((e, input, output), base.dtype(), &Device::Cpu)?;
    for expert in 0..e {
        let delta = b.get(expert)?.contiguous()?.matmul(&a.get(expert)?)?;
        let delta = (delta.t()? * scale)?.to_dtype(base.dtype())?;
        let w = base.get(expert)?.to_device(&Device::Cpu)?;
        let sum = (w.to_dtype(DType::F32)? + delta.to_dtype(DType::F32)?)?;
        let sum = sum.to_dtype(base.dtype())?.contiguous()?;
        merged.slice_set(&sum.unsqueeze(0)?, 0, expert)?;
    }
    Ok(merged)
}

/// The matrix `[O, I]` of an expert with its part of a pair that the experts have in the layouts of PEFT, in f32 throughout.
///
/// # Errors
/// The pair does not fit.
pub fn expert_merged(
    own: &Tensor,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
    (expert, experts): (usize, usize),
) -> Result<Tensor> {
    let r = a.dim(0)? / experts;
    let a = a.narrow(0, expert * r, r)?;
    let b = b.reshape((b.dim(0)?, r, experts))?.narrow(2, expert, 1)?;
    Ok((own + (b.squeeze(2)?.contiguous()?.matmul(&a)? * scale)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::{goldens, tiny};
    use crate::weights::{Directory, WeightSource};
    use std::path::Path;

    /// The golden merge was done in f32 and rounded once to bf16, from the BF16 checkpoint.
    #[test]
    fn merged_weights_are_those_of_peft() {
        let adapter = Adapter::open(&goldens().join("adapter_grad_attn_experts"), &tiny()).unwrap();
        let base = Directory::open(&goldens().join("model_bf16")).unwrap();
        let file = goldens().join("merged_attn_experts_touched_bf16.safetensors");
        let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        assert_eq!(golden.len(), 18);
        for (name, expected) in golden {
            assert!(adapter.touches(&name), "{name}");
            let w = base
                .tensor(&name, expected.dims(), DType::F32, &Device::Cpu)
                .unwrap();
            let merged = adapter.merged_weight(&name, &w).unwrap().unwrap();
            let bits = |t: &Tensor| {
                let t = t.to_dtype(DType::BF16).unwrap().flatten_all().unwrap();
                t.to_vec1::<half::bf16>().unwrap()
            };
            let (ours, theirs) = (bits(&merged), bits(&expected));
            let apart = ours.iter().zip(&theirs).filter(|(a, b)| a != b);
            // A tie of the rounding may fall the other way where the sum in f32 differs in its last bit.
            let far = |a: half::bf16, b: half::bf16| a.to_bits().abs_diff(b.to_bits()) > 1;
            assert!(!apart.clone().any(|(a, b)| far(*a, *b)), "{name}");
            assert!(apart.count() * 1000 <= ours.len(), "{name}");
        }
        let untouched = ["model.layers.0.mlp.experts.down_proj", "lm_head.weight"];
        assert!(untouched.iter().all(|name| !adapter.touches(name)));
    }

    /// Rows of every linear module, in parts of any size, have the bits of the whole.
    #[test]
    fn rows_are_those_of_the_whole() -> Result<()> {
        let base = Directory::open(&goldens().join("model_bf16"))?;
        for name in ["attn", "attn_rslora", "attn_dora"] {
            let golden = goldens().join(format!("adapter_grad_{name}"));
            let adapter = Adapter::open(&golden, &tiny())?;
            let list = tiny().tensors();
            let mut merged = 0;
            for spec in list.iter().filter(|spec| adapter.touches(&spec.name)) {
                for dtype in [DType::BF16, DType::F32] {
                    let w = base.tensor(&spec.name, &spec.shape, dtype, &Device::Cpu)?;
                    let whole = adapter.merged_weight(&spec.name, &w)?.unwrap();
                    for size in [1, 7, 16, 100] {
                        let count = w.dim(0)?;
                        for first in (0..count).step_by(size) {
                            let rows = first..count.min(first + size);
                            let part = w.narrow(0, first, rows.len())?;
                            let part = adapter.merged_rows(&spec.name, &rows, &part)?.unwrap();
                            let there = whole.narrow(0, first, rows.len())?;
                            let bits = |t: &Tensor| {
                                let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                                t.to_vec1::<f32>().unwrap()
                            };
                            assert_eq!(bits(&part), bits(&there), "{} {rows:?}", spec.name);
                        }
                    }
                    merged += 1;
                }
            }
            assert_eq!(merged, 32);
        }
        Ok(())
    }

    #[test]
    fn experts_round_the_update_before_the_sum() -> Result<()> {
        let cpu = &Device::Cpu;
        let t = |v: f32| Tensor::new(&[[v]], cpu);
        let (a, b) = (t(1.0)?, t(0.003_91)?);
        let pair = Pair { a: &a, b: &b };
        let base = Tensor::new(&[[[1.0f32]]], cpu)?.to_dtype(DType::BF16)?;
        // bf16(0.00391) lies above the half step 0.00390625 only after rounding down to it: ties to even.
        let experts = merge_experts(&base, &pair, 1.0)?
            .flatten_all()?
            .to_dtype(DType::F32)?;
        let linear = merge_linear(&base.squeeze(0)?, &pair, None, 1.0)?.flatten_all()?;
        assert_eq!(experts.to_vec1::<f32>()?, [1.0]);
        assert_eq!(
            linear.to_dtype(DType::F32)?.to_vec1::<f32>()?,
            [1.007_812_5]
        );
        Ok(())
    }

    #[test]
    fn modules_stored_whole_replace_the_base() -> Result<()> {
        let golden = Adapter::open(&goldens().join("adapter_grad_attn"), &tiny())?;
        let head = Tensor::ones((768, 64), DType::F32, &Device::Cpu)?;
        let mut params = Vec::new();
        for (name, t) in golden.tensors() {
            params.push(crate::nn::Param::new(name.clone(), t, true)?);
        }
        params.push(crate::nn::Param::new(
            "base_model.model.lm_head.weight",
            &head,
            true,
        )?);
        let dir = tempfile::tempdir()?;
        super::super::save(dir.path(), &params, &golden.config)?;
        let adapter = Adapter::open(Path::new(dir.path()), &tiny())?;
        assert_eq!(adapter.targets.modules_to_save, ["lm_head"]);
        let base = head.zeros_like()?.to_dtype(DType::BF16)?;
        let merged = adapter
            .merged_weight("lm_head.weight", &base)?
            .expect("stored whole");
        assert_eq!(merged.dtype(), DType::BF16);
        assert_eq!(
            merged.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?,
            768.0 * 64.0
        );
        Ok(())
    }
}
