//! The tiny reference model of tests/goldens/tiny and what was computed with it.

#![allow(dead_code)]

use apus_data::chat::Tokenizer;
use apus_engine::generate::{Engine, EngineOptions, Event, RequestId};
use apus_engine::train::{MicroBatch, Sequence};
use apus_model::adapter::Adapter;
use apus_model::families::ModelConfig;
use apus_model::model::{CausalLm, ExpertsDtype, LoadOptions, Training};
use apus_model::ops::SeqLayout;
use apus_model::weights::{Directory, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A file of the reference data.
pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/goldens/tiny"
    ))
    .join(path)
}

/// The reference model on the CPU.
pub fn load(form: &str, experts: ExpertsDtype, training: Training) -> CausalLm {
    load_on(&Device::Cpu, form, experts, training)
}

/// The reference model on a device.
pub fn load_on(device: &Device, form: &str, experts: ExpertsDtype, training: Training) -> CausalLm {
    let dir = golden(form);
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let options = LoadOptions {
        experts,
        training,
        ..LoadOptions::frozen(device)
    };
    CausalLm::load(&config, &Directory::open(&dir).unwrap(), &options, |_| {}).unwrap()
}

/// All tensors of a file.
pub fn tensors(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(file), &Device::Cpu).unwrap()
}

/// The unpadded rows of `[B, T]` by the attention mask.
pub fn unpad(all: &HashMap<String, Tensor>, name: &str, mask: &str) -> Vec<Vec<i64>> {
    let read = |name: &str| {
        all[name]
            .to_dtype(DType::I64)
            .unwrap()
            .to_vec2::<i64>()
            .unwrap()
    };
    let rows = read(name);
    let mask = match all.contains_key(mask) {
        true => read(mask),
        false => rows.iter().map(|row| vec![1; row.len()]).collect(),
    };
    let keep = |(row, mask): (Vec<i64>, &Vec<i64>)| {
        row.into_iter()
            .zip(mask)
            .filter(|(_, m)| **m == 1)
            .map(|(x, _)| x)
            .collect()
    };
    rows.into_iter().zip(&mask).map(keep).collect()
}

/// Sequences one after another.
pub fn batch(rows: &[Vec<i64>]) -> (Tensor, SeqLayout) {
    let ids: Vec<u32> = rows.iter().flatten().map(|&id| id as u32).collect();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let ids = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
    (ids, SeqLayout::new(&lengths, &Device::Cpu).unwrap())
}

/// The greatest difference.
pub fn max_gap(a: &Tensor, b: &Tensor) -> f32 {
    let b = b.to_dtype(DType::F32).unwrap();
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar()
        .unwrap()
}

/// A batch of the forward references, `short`, `long` or `batch`.
pub fn reference(name: &str) -> MicroBatch {
    let all = tensors("forward.safetensors");
    let mask = format!("{name}.attention_mask");
    let ids = unpad(&all, &format!("{name}.input_ids"), &mask);
    let labels = unpad(&all, &format!("{name}.labels"), &mask);
    let ids: Vec<Vec<u32>> = ids
        .iter()
        .map(|row| row.iter().map(|&id| id as u32).collect())
        .collect();
    let rows = ids.iter().zip(&labels);
    let rows = rows.map(|(i, l)| (i.as_slice(), l.as_slice(), None) as Sequence);
    MicroBatch::new(rows, &Device::Cpu).unwrap()
}

/// The reference model with an adapter of the goldens on it.
pub fn with_adapter(form: &str, name: &str) -> CausalLm {
    let mut model = load(form, ExpertsDtype::Mxfp4, Training::Adapters(vec![]));
    let adapter = Adapter::open(&golden(name), model.config()).unwrap();
    let settings = adapter.config.settings(0);
    model.add_lora(&adapter.targets, &settings).unwrap();
    adapter.load_into(model.params()).unwrap();
    model
}

/// Base weights with an adapter merged into them, as an exported directory holds them.
struct Merged {
    base: Directory,
    adapter: Adapter,
}

impl WeightSource for Merged {
    fn contains(&self, name: &str) -> bool {
        self.base.contains(name)
    }

    fn check(&self, name: &str, shape: &[usize], dtype: DType) -> anyhow::Result<()> {
        self.base.check(name, shape, dtype)
    }

    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> anyhow::Result<Tensor> {
        let base = self.base.tensor(name, shape, dtype, device)?;
        Ok(self.adapter.merged_weight(name, &base)?.unwrap_or(base))
    }
}

/// The reference model with an adapter of the goldens merged into its weights.
pub fn merged(name: &str) -> CausalLm {
    let dir = golden("model_bf16");
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let source = Merged {
        base: Directory::open(&dir).unwrap(),
        adapter: Adapter::open(&golden(name), &config).unwrap(),
    };
    let options = LoadOptions::frozen(&Device::Cpu);
    CausalLm::load(&config, &source, &options, |_| {}).unwrap()
}

/// An engine on a model with the reference tokenizer.
pub fn engine(model: &CausalLm, options: EngineOptions) -> Engine<'_> {
    let tokenizer = Tokenizer::load(&golden("model_bf16")).unwrap();
    Engine::new(model, Arc::new(tokenizer), options).unwrap()
}

/// Steps until an engine is idle; the answers of the requests that finished. A request that fails is an error.
pub fn answers(engine: &mut Engine) -> HashMap<RequestId, Vec<u32>> {
    let mut answers = HashMap::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { .. } => {}
                Event::Finished { id, tokens, .. } => drop(answers.insert(id, tokens)),
                Event::Failed { id, error } => panic!("request {id}: {error:#}"),
            }
        }
    }
    answers
}
