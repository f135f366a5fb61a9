//! The reference model, its adapters, and what answers are compared with.

use crate::common::{engine, golden, load};
use apus_engine::generate::{Engine, EngineOptions, Request, Sampling};
use apus_model::model::{CausalLm, ExpertsDtype, Training};
use apus_model::nn::ForwardOptions;
use apus_model::ops::SeqLayout;
use candle_core::{D, Device, Tensor};

pub fn base() -> CausalLm {
    load(
        "model_mxfp4",
        ExpertsDtype::Mxfp4,
        Training::Adapters(vec![]),
    )
}

/// The adapters that requests of these tests name, by their folders.
pub const ADAPTERS: [&str; 3] = [
    "adapter_final_a_attn",
    "adapter_final_b_attn_experts",
    "adapter_grad_attn_rslora",
];

pub fn with_adapters(model: &CausalLm, options: EngineOptions) -> Engine<'_> {
    let mut engine = engine(model, options);
    for name in ADAPTERS {
        engine.load_adapter(name, &golden(name)).unwrap();
    }
    engine
}

pub fn greedy(prompt: &[u32], count: usize, adapter: Option<&str>) -> Request {
    Request {
        adapter: adapter.map(str::to_owned),
        ..Request::new(prompt.to_vec(), Sampling::greedy(count))
    }
}

/// Options with a small pool and small steps.
pub fn small(cache_tokens: usize, prefill_chunk: usize) -> EngineOptions {
    EngineOptions {
        max_batch_size: 5,
        cache_tokens: Some(cache_tokens),
        prefill_chunk,
        ..EngineOptions::default()
    }
}

/// The greedy continuation by whole forward passes, without a cache.
pub fn plain(model: &CausalLm, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..count {
        let seqs = SeqLayout::new(&[ids.len()], &Device::Cpu).unwrap();
        let tokens = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
        let options = ForwardOptions::default();
        let (hidden, _) = model.decoder().forward(&tokens, &seqs, &options).unwrap();
        let last = hidden.narrow(0, ids.len() - 1, 1).unwrap();
        let (normed, _) = model.head().forward(&last).unwrap();
        let logits = model.head().logits(&normed).unwrap();
        ids.push(logits.argmax(D::Minus1).unwrap().to_vec1().unwrap()[0]);
    }
    ids.split_off(prompt.len())
}

/// Nothing runs, and every page is free or kept for prompts to share.
pub fn assert_at_rest(engine: &Engine) {
    let stats = engine.stats();
    assert_eq!((stats.waiting, stats.running, stats.pages_used), (0, 0, 0));
    assert!(stats.pages_cached <= stats.pages);
}
