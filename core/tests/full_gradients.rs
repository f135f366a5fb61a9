//! Gradients of every weight of the model, and of the auxiliary loss, by finite differences.

mod common;

use anyhow::{Context, Result};
use apus_core::model::{GptOss, Param, Training};
use candle_core::Tensor;
use common::*;
use std::sync::Arc;

/// Compares the slope of the loss along a direction with the gradient's prediction. The direction has the sign of
/// the gradient at each number (and alternates where it is zero), so every number of the tensor moves and none can
/// cancel another.
fn check(
    model: &GptOss,
    param: &Arc<Param>,
    grad: &Tensor,
    slope_of: impl Fn(&GptOss) -> Result<f64>,
) -> Result<()> {
    let name = param.name();
    let start = param.value().copy()?;
    let flat = grad.flatten_all()?.to_vec1::<f32>()?;
    let direction: Vec<f32> = flat
        .iter()
        .enumerate()
        .map(|(i, g)| match g {
            g if *g != 0.0 => g.signum(),
            _ => [1.0, -1.0][i % 2],
        })
        .collect();
    let predicted: f64 = flat.iter().map(|g| f64::from(g.abs())).sum();
    let direction = Tensor::from_vec(direction, start.dims(), &CPU)?;
    let size = f64::from(largest(&start)?);
    let h = (0.01 / predicted).min(0.01 * size);
    let moved = |h: f64| -> Result<f64> {
        param.set(&(&start + (&direction * h)?)?)?;
        slope_of(model)
    };
    let measured = (moved(h)? - moved(-h)?) / (2.0 * h);
    param.set(&start)?;
    let error = (measured - predicted).abs();
    // The loss itself is an f32 sum: about 2e-6 of noise in the difference.
    let noise = 2e-6 / h;
    assert!(
        error < 0.01 * predicted + noise && predicted > noise,
        "{name}: measured {measured}, gradient {predicted}, noise {noise}"
    );
    Ok(())
}

#[test]
fn every_weight_of_the_model() -> Result<()> {
    let batch = Batch::golden("batch")?;
    for form in ["model_mxfp4", "model_bf16"] {
        let model = load(form, Training::Full)?;
        assert_eq!(model.params().len(), 71);
        train(&model, &batch, 2, 0.0)?;
        for param in model.params() {
            let grad = param
                .take_grad()
                .with_context(|| format!("{}: no gradient", param.name()))?;
            if form == "model_mxfp4" && !param.name().contains("proj") {
                continue;
            }
            check(&model, param, &grad, |m| loss(m, &batch, 0.0))?;
        }
    }
    Ok(())
}

#[test]
fn the_auxiliary_loss() -> Result<()> {
    let batch = Batch::golden("batch")?;
    let model = load("model_bf16", Training::Full)?;
    // The gradient of the auxiliary loss alone: a large coefficient against the same pass without it.
    let coef = 20.0;
    train(&model, &batch, 0, coef)?;
    for param in model.params() {
        let grad = param.take_grad().with_context(|| param.name().to_owned())?;
        let name = param.name();
        let chosen = [
            "router",
            "sinks",
            "norm",
            "layers.0.self_attn.q_proj.weight",
            "layers.0.mlp.experts.down_proj",
        ];
        if !chosen.iter().any(|c| name.contains(c)) || name == "model.norm.weight" {
            continue;
        }
        check(&model, param, &grad, |m| loss(m, &batch, coef))?;
    }
    Ok(())
}

#[test]
fn modules_to_save_train_beside_adapters() -> Result<()> {
    let batch = Batch::golden("batch")?;
    let saved = [
        "lm_head",
        "model.layers.1.mlp.router",
        "model.layers.2.mlp.experts",
    ];
    let training = Training::Adapters(saved.iter().map(|s| (*s).to_owned()).collect());
    let model = load("model_mxfp4", training)?;
    let names: Vec<&str> = model.params().iter().map(|p| p.name()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(names.contains(&"base_model.model.lm_head.weight"));
    train(&model, &batch, 0, 0.0)?;
    for param in model.params() {
        let grad = param.take_grad().context("a gradient")?;
        check(&model, param, &grad, |m| loss(m, &batch, 0.0))?;
    }
    Ok(())
}
