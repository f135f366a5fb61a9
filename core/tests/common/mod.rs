//! What the golden tests share: the tiny model, batches without padding, loss and gradients.
#![allow(dead_code)]

use anyhow::{Context, Result};
use apus_core::adapter::Adapter;
use apus_core::model::{Config, ForwardOptions, GptOss, LoadOptions, Training};
use apus_core::ops::{SeqLayout, cross_entropy};
use apus_core::weights::{Directory, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

pub const CPU: Device = Device::Cpu;

/// A path in the golden folder of the tiny model.
pub fn golden(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../tests/goldens/tiny").join(name)
}

pub fn tensors(name: &str) -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(golden(name), &CPU)?)
}

pub fn info() -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(golden(
        "info.json",
    ))?)?)
}

pub fn config(form: &str) -> Result<Config> {
    Config::read(&golden(form).join("config.json"))
}

pub fn model(form: &str) -> Result<GptOss> {
    load(form, Training::Adapters(Vec::new()))
}

pub fn load(form: &str, training: Training) -> Result<GptOss> {
    let source = Directory::open(&golden(form))?;
    let options = LoadOptions {
        training,
        ..LoadOptions::frozen(&CPU)
    };
    GptOss::load(&config(form)?, &source, &options, |_| {})
}

/// The model with an adapter of the goldens on it.
pub fn with_adapter(form: &str, name: &str) -> Result<(GptOss, Adapter)> {
    let mut model = model(form)?;
    let adapter = Adapter::open(&golden(name), model.config())?;
    model.add_lora(&adapter.targets, &adapter.config.settings(0))?;
    adapter.load_into(model.params())?;
    Ok((model, adapter))
}

/// The base weights with an adapter merged into them, as an exported directory would hold them.
pub struct Merged {
    pub base: Directory,
    pub adapter: Adapter,
}

impl WeightSource for Merged {
    fn contains(&self, name: &str) -> bool {
        self.base.contains(name)
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let base = self.base.tensor(name, shape, dtype, device)?;
        Ok(self.adapter.merged_weight(name, &base)?.unwrap_or(base))
    }
}

pub fn merged(name: &str) -> Result<GptOss> {
    let form = "model_bf16";
    let config = config(form)?;
    let source = Merged {
        base: Directory::open(&golden(form))?,
        adapter: Adapter::open(&golden(name), &config)?,
    };
    GptOss::load(&config, &source, &LoadOptions::frozen(&CPU), |_| {})
}

/// Padded rows of the goldens as concatenated sequences.
pub struct Batch {
    pub ids: Tensor,
    pub seqs: SeqLayout,
    /// Row of the concatenation at (sequence, position).
    pub row: HashMap<(usize, usize), u32>,
    /// Rows that predict a label, and their labels.
    pub rows: Tensor,
    pub labels: Tensor,
}

impl Batch {
    pub fn golden(name: &str) -> Result<Self> {
        let all = tensors("forward.safetensors")?;
        let get = |part: &str| all.get(&format!("{name}.{part}"));
        let ids = get("input_ids").context("input_ids")?.to_vec2::<i64>()?;
        let labels = get("labels").context("labels")?.to_vec2::<i64>()?;
        let mask = match get("attention_mask") {
            Some(mask) => mask.to_vec2::<i64>()?,
            None => ids.iter().map(|row| vec![1; row.len()]).collect(),
        };
        Self::new(&ids, &labels, &mask)
    }

    pub fn new(ids: &[Vec<i64>], labels: &[Vec<i64>], mask: &[Vec<i64>]) -> Result<Self> {
        let (mut flat, mut lengths, mut row) = (Vec::new(), Vec::new(), HashMap::new());
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (b, ((ids, labels), mask)) in ids.iter().zip(labels).zip(mask).enumerate() {
            let length = mask.iter().filter(|&&m| m == 1).count();
            for t in 0..length {
                let here = flat.len() as u32;
                row.insert((b, t), here);
                flat.push(ids[t] as u32);
                if t + 1 < length && labels[t + 1] >= 0 {
                    rows.push(here);
                    targets.push(labels[t + 1] as u32);
                }
            }
            lengths.push(length);
        }
        Ok(Self {
            ids: Tensor::new(flat, &CPU)?,
            seqs: SeqLayout::new(&lengths, &CPU)?,
            row,
            rows: Tensor::new(rows, &CPU)?,
            labels: Tensor::new(targets, &CPU)?,
        })
    }
}

/// Logits of all rows `[T, V]`.
pub fn logits(model: &GptOss, batch: &Batch) -> Result<Tensor> {
    let options = ForwardOptions::default();
    let (hidden, _) = model.forward(&batch.ids, &batch.seqs, &options)?;
    let (normed, _) = model.head().forward(&hidden)?;
    model.head().logits(&normed)
}

/// Mean loss over the targets (plus `aux_coef` times the auxiliary loss), without gradients.
pub fn loss(model: &GptOss, batch: &Batch, aux_coef: f64) -> Result<f64> {
    let options = ForwardOptions {
        aux_coef,
        ..ForwardOptions::default()
    };
    let (hidden, pass) = model.forward(&batch.ids, &batch.seqs, &options)?;
    let (normed, _) = model
        .head()
        .forward(&hidden.index_select(&batch.rows, 0)?)?;
    let (losses, _) = cross_entropy::forward(&model.head().logits(&normed)?, &batch.labels)?;
    Ok(mean(&losses)? + aux_coef * pass.aux_loss().unwrap_or(0.0))
}

fn mean(losses: &Tensor) -> Result<f64> {
    let losses = losses.to_vec1::<f32>()?;
    Ok(losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len() as f64)
}

/// Forward and backward; gradients are left in the model's parameters.
pub fn train(model: &GptOss, batch: &Batch, kept_layers: usize, aux_coef: f64) -> Result<f64> {
    let options = ForwardOptions {
        training: true,
        kept_layers,
        dropout_seed: None,
        aux_coef,
    };
    let (hidden, pass) = model.forward(&batch.ids, &batch.seqs, &options)?;
    let head = model.head();
    let (normed, tape) = head.forward(&hidden.index_select(&batch.rows, 0)?)?;
    let logits = head.logits(&normed)?;
    let (losses, lse) = cross_entropy::forward(&logits, &batch.labels)?;
    let n = losses.dim(0)?;
    let dloss = Tensor::full(1.0 / n as f32, n, &CPU)?;
    let dlogits = cross_entropy::backward(&logits, &lse, &batch.labels, &dloss)?;
    let drows = head.backward(&tape, &head.logits_backward(&normed, &dlogits)?)?;
    let dhidden = hidden.zeros_like()?.index_add(&batch.rows, &drows, 0)?;
    let total = mean(&losses)? + aux_coef * pass.aux_loss().unwrap_or(0.0);
    model.backward(pass, dhidden, 1.0)?;
    Ok(total)
}

/// Largest absolute difference.
pub fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// Largest absolute value.
pub fn largest(a: &Tensor) -> Result<f32> {
    Ok(a.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// Rows of `[T, V]` at the (sequence, position) pairs of the goldens.
pub fn at(logits: &Tensor, batch: &Batch, pairs: &Tensor) -> Result<Tensor> {
    let rows = pairs.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let rows: Vec<u32> = rows
        .iter()
        .map(|pair| batch.row[&(pair[0] as usize, pair[1] as usize)])
        .collect();
    Ok(logits.index_select(&Tensor::new(rows, &CPU)?, 0)?)
}
