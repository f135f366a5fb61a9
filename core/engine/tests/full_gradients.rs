//! Gradients of every weight of the model, and of the auxiliary loss, by finite differences over all numbers of a
//! tensor at once.

mod common;

use apus_engine::train::MicroBatch;
use apus_model::model::{CausalLm, ExpertsDtype, Training};
use apus_model::nn::{ForwardOptions, Neftune, Param};
use apus_model::ops::cross_entropy;
use candle_core::{Device, Tensor};
use common::{load, reference};
use std::sync::Arc;

/// Mean loss over the targets plus the auxiliary loss; with `backward`, gradients are left in the parameters.
fn loss(model: &CausalLm, batch: &MicroBatch, aux_coef: f64, backward: bool) -> f64 {
    let options = ForwardOptions {
        kept_layers: 2,
        aux_coef,
        ..ForwardOptions::default()
    };
    loss_with(model, batch, options, backward)
}

fn loss_with(model: &CausalLm, batch: &MicroBatch, options: ForwardOptions, backward: bool) -> f64 {
    let aux_coef = options.aux_coef;
    let options = ForwardOptions {
        training: backward,
        ..options
    };
    let (hidden, pass) = model
        .decoder()
        .forward(&batch.ids, &batch.seqs, &options)
        .unwrap();
    let index = |list: &[u32]| Tensor::new(list, &Device::Cpu).unwrap();
    let (rows, labels) = (
        index(&batch.supervised.rows),
        index(&batch.supervised.labels),
    );
    let picked = hidden.index_select(&rows, 0).unwrap();
    let head = model.head();
    let (normed, tape) = head.forward(&picked).unwrap();
    let logits = head.logits(&normed).unwrap();
    let found = cross_entropy::forward(&logits, &labels).unwrap();
    let losses = found.loss.to_vec1::<f32>().unwrap();
    let n = losses.len();
    let mean = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / n as f64;
    let total = mean + aux_coef * pass.aux_loss().unwrap_or(0.0);
    if backward {
        let dloss = Tensor::full(1.0 / n as f32, n, &Device::Cpu).unwrap();
        let dlogits = cross_entropy::backward(logits, &found.lse, &labels, &dloss).unwrap();
        let dnormed = head.logits_backward(&normed, &dlogits).unwrap();
        let drows = head.backward(&tape, &dnormed).unwrap();
        let zeros = hidden.zeros_like().unwrap();
        let dhidden = zeros.index_add(&rows, &drows, 0).unwrap();
        model
            .decoder()
            .backward(pass, dhidden, 1.0, &mut |_| Ok(()))
            .unwrap();
    }
    total
}

/// Compares the slope of the loss along a direction with the gradient's prediction. The direction has the sign of
/// the gradient at each number (and alternates where it is zero), so every number moves and none cancels another.
fn check(param: &Arc<Param>, value: impl Fn() -> f64) {
    check_within(0.01, param, value);
}

/// The same with another bound of the relative gap.
fn check_within(bound: f64, param: &Arc<Param>, value: impl Fn() -> f64) {
    let grad = param
        .take_grad()
        .unwrap_or_else(|| panic!("{}: no gradient", param.name()));
    let start = param.value().copy().unwrap();
    let grad = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let sign = |(i, g): (usize, &f32)| match *g {
        0.0 => [1.0, -1.0][i % 2],
        g => g.signum(),
    };
    let direction: Vec<f32> = grad.iter().enumerate().map(sign).collect();
    let direction = Tensor::from_vec(direction, start.dims(), &Device::Cpu).unwrap();
    let predicted: f64 = grad.iter().map(|g| f64::from(g.abs())).sum();
    let h = (0.002 / predicted).min(0.01);
    let at = |h: f64| {
        let moved = (&start + (&direction * h).unwrap()).unwrap();
        param.set(&moved).unwrap();
        value()
    };
    let measured = (at(h) - at(-h)) / (2.0 * h);
    param.set(&start).unwrap();
    let gap = (measured - predicted).abs() / predicted;
    assert!(
        gap < bound,
        "{}: measured {measured}, gradient {predicted}",
        param.name()
    );
}

#[test]
fn every_weight_of_the_model() {
    let batch = reference("batch");
    let model = load("model_mxfp4", ExpertsDtype::Mxfp4, Training::Full);
    assert_eq!(model.params().len(), 71);
    loss(&model, &batch, 0.0, true);
    for param in model.params() {
        check(param, || loss(&model, &batch, 0.0, false));
    }
}

#[test]
fn the_auxiliary_loss() {
    let batch = reference("batch");
    let model = load("model_bf16", ExpertsDtype::Dense, Training::Full);
    let coef = 20.0;
    loss(&model, &batch, coef, true);
    let reached = [
        "router",
        "sinks",
        "layernorm",
        "0.self_attn.q_proj",
        "0.mlp.experts.down",
    ];
    for param in model.params() {
        if reached.iter().any(|part| param.name().contains(part)) {
            check(param, || loss(&model, &batch, coef, false));
        }
    }
}

/// With noise on the embeddings, whether layers keep their tapes or run again. Where the noise brings two experts of a
/// token near each other, a small step may exchange them, which no gradient tells: the bound is wider.
#[test]
fn noise_on_the_embeddings() {
    let batch = reference("batch");
    let model = load("model_mxfp4", ExpertsDtype::Mxfp4, Training::Full);
    let options = |kept_layers: usize, alpha: f64| ForwardOptions {
        kept_layers,
        neftune: Some(Neftune { alpha, seed: 9 }),
        ..ForwardOptions::default()
    };
    let reached = [
        "embed_tokens",
        "0.self_attn.q_proj",
        "1.mlp.experts.down",
        "lm_head",
    ];
    let grads = |kept_layers: usize| -> Vec<Vec<f32>> {
        loss_with(&model, &batch, options(kept_layers, 0.5), true);
        let of = |param: &Arc<Param>| param.grad().unwrap().flatten_all().unwrap();
        let grads = model.params().iter().map(|p| of(p).to_vec1().unwrap());
        let grads = grads.collect();
        model
            .params()
            .iter()
            .for_each(|param| drop(param.take_grad()));
        grads
    };
    assert_eq!(
        grads(0),
        grads(3),
        "a layer that runs again sees the same noise"
    );
    let quiet = loss(&model, &batch, 0.0, false);
    let noisy = loss_with(&model, &batch, options(2, 0.5), true);
    assert!(
        (noisy - quiet).abs() > 1e-5,
        "{noisy}, {quiet} without noise"
    );
    assert_eq!(loss_with(&model, &batch, options(2, 0.0), false), quiet);
    for param in model.params() {
        if reached.iter().any(|part| param.name().contains(part)) {
            check_within(0.03, param, || {
                loss_with(&model, &batch, options(2, 0.5), false)
            });
        }
    }
}

#[test]
fn modules_to_save_beside_frozen_weights() {
    let batch = reference("batch");
    let saved = [
        "lm_head",
        "model.layers.1.mlp.router",
        "model.layers.2.mlp.experts",
    ];
    let training = Training::Adapters(saved.map(str::to_owned).to_vec());
    let model = load("model_mxfp4", ExpertsDtype::Mxfp4, training);
    let names: Vec<&str> = model.params().iter().map(|p| p.name()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(names.contains(&"base_model.model.lm_head.weight"));
    loss(&model, &batch, 0.0, true);
    for param in model.params() {
        check(param, || loss(&model, &batch, 0.0, false));
    }
}
