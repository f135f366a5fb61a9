//! Tuners: what is added, shapes, gradients against finite differences, rows that do not depend on each other, and a merged layer that
//! computes what the layer with the tuner does.

use super::{Checked, Findings, push};
use crate::tuners::{Bound, MadeTuner};
use anyhow::{Context, Result, bail, ensure};
use apus_model::model::Addition;
use apus_model::nn::{Linear, Lora, Param, Weight};
use apus_model::ops::fill;
use apus_sdk::{Init, LayerInfo, LayerKind, Tuner};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

const ROWS: usize = 5;
const INPUTS: usize = 6;
const OUTPUTS: usize = 4;

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let tuner: MadeTuner = Arc::new(checked.make::<dyn Tuner>()?);
    let device = checked.device;
    let (layer, bound) = match layer(&tuner, device) {
        Ok((layer, bound, added)) => {
            push(findings, "parameters", Ok(added));
            (layer, bound)
        }
        Err(error) => {
            push(findings, "parameters", Err(error));
            return Ok(());
        }
    };
    push(findings, "shapes and finite values", values(&layer, device));
    push(
        findings,
        "gradient against finite differences",
        gradient(&layer, device),
    );
    push(findings, "row by row", row_by_row(&layer, device));
    push(findings, "merged", merged(&layer, &bound, device));
    Ok(())
}

fn random(shape: &[usize], stream: u64, device: &Device) -> Result<Tensor> {
    fill::normal(shape, 0.5, (7, stream), DType::F32, device)
}

/// A layer with the tuner, whose parameters are moved away from where they begin, so that they do something.
fn layer(tuner: &MadeTuner, device: &Device) -> Result<(Linear, Bound, String)> {
    let (bound, added) = first(tuner)?;
    let (module, (inputs, outputs)) = (added.target.clone(), added.tuning.widths());
    let mut params = Vec::new();
    for (stream, (tensor, param)) in (20..).zip(&added.tensors) {
        let start = match param.init() {
            Init::Constant(value) => Tensor::full(value as f32, tensor.shape.as_slice(), device)?,
            _ => Tensor::zeros(tensor.shape.as_slice(), DType::F32, device)?,
        };
        let value = (start + random(&tensor.shape, stream, device)?)?;
        params.push(Param::new(tensor.name.as_str(), &value, true)?);
    }
    let found = added.tensors.iter();
    let found = found.map(|(_, param)| format!("{} {:?}", param.name(), param.shape()));
    let found: Vec<String> = found.collect();
    let mut layer = Linear {
        name: module.clone(),
        weight: Weight::Frozen(random(&[outputs, inputs], 1, device)?),
        bias: Some(Weight::Frozen(random(&[outputs], 2, device)?)),
        lora: None,
        tuned: None,
    };
    added.put_on(&mut layer, params)?;
    let kind = match added.low_rank {
        Some(_) => "a low-rank update of ",
        None => "",
    };
    let found = format!("{kind}{} of {module}", found.join(", "));
    Ok((layer, bound, found))
}

/// The first kind of layer that the tuner adds something to: a linear layer, or a block, which a matrix stands for.
fn first(tuner: &MadeTuner) -> Result<(Bound, Addition)> {
    let block = |name: &str, kind| LayerInfo::block(format!("model.layers.0{name}"), kind, INPUTS);
    let layers = [
        LayerInfo::new("model.layers.0.self_attn.v_proj", INPUTS, OUTPUTS).with_bias(true),
        block(".mlp", LayerKind::Mlp).with_experts(4),
        block(".mlp.experts", LayerKind::Experts).with_experts(4),
        block("", LayerKind::Decoder),
    ];
    for layer in layers {
        let bound = Bound::new(tuner, layer);
        if let Some(added) = bound.clone().addition()? {
            return Ok((bound, added));
        }
    }
    bail!(
        "it adds nothing to a linear layer, and nothing to an MLP, to experts or to a whole decoder layer"
    )
}

/// What the layer gives for `x`.
fn output(layer: &Linear, x: &Tensor) -> Result<Vec<f32>> {
    let (y, _) = layer.forward(x, None)?;
    Ok(y.flatten_all()?.to_vec1()?)
}

fn values(layer: &Linear, device: &Device) -> Result<String> {
    let found = output(layer, &random(&[ROWS, INPUTS], 3, device)?)?;
    ensure!(found.iter().all(|value| value.is_finite()), "{found:?}");
    Ok(String::new())
}

/// The sum of outputs, each times a fixed number, in f64.
fn total(layer: &Linear, x: &Tensor, dy: &[f32]) -> Result<f64> {
    let found = output(layer, x)?;
    let terms = found.iter().zip(dy);
    Ok(terms.map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum())
}

fn gradient(layer: &Linear, device: &Device) -> Result<String> {
    let (x, dy) = (
        random(&[ROWS, INPUTS], 3, device)?,
        random(&[ROWS, layer.dims().1], 4, device)?,
    );
    let (_, tape) = layer.forward(&x, None)?;
    let dx = layer.backward(&tape, &dy)?;
    let dy: Vec<f32> = dy.flatten_all()?.to_vec1()?;
    let mut most = compare("the input", &dx, &x, |x| total(layer, x, &dy))?;
    for param in differentiated(layer) {
        let (start, grad) = (param.value().copy()?, param.grad());
        let grad = grad.with_context(|| format!("{} has no gradient", param.name()))?;
        let gap = compare(param.name(), &grad, &start, |value| {
            param.set(value)?;
            total(layer, &x, &dy)
        })?;
        param.set(&start)?;
        most = most.max(gap);
    }
    Ok(format!("off by at most {most:.1e}"))
}

/// The parameters whose gradients are those of what is computed: of DoRA not the factors, since norms are not differentiated.
fn differentiated(layer: &Linear) -> Vec<&Arc<Param>> {
    match &layer.lora {
        Some(lora) if lora.magnitude.is_some() => lora.magnitude.iter().collect(),
        _ => params(layer),
    }
}

fn params(layer: &Linear) -> Vec<&Arc<Param>> {
    let tuned = layer.tuned.iter().flat_map(|tuned| &tuned.params);
    let lora = layer.lora.iter().flat_map(Lora::params);
    tuned.chain(lora).collect()
}

/// How far a gradient by the elements of `at` is from finite differences of `total`: from the range between the slope before and
/// the slope behind, since a function such as relu may have a kink within a step.
fn compare(
    what: &str,
    gradient: &Tensor,
    at: &Tensor,
    total: impl Fn(&Tensor) -> Result<f64>,
) -> Result<f64> {
    const STEP: f32 = 1e-2;
    let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
    let flat: Vec<f32> = at.flatten_all()?.to_vec1()?;
    let scale = gradient
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    let here = total(at)?;
    let mut most: f64 = 0.0;
    for (place, found) in gradient.iter().enumerate() {
        let slope = |by: f32| -> Result<f64> {
            let mut flat = flat.clone();
            flat[place] += by;
            let there = total(&Tensor::from_vec(flat, at.shape(), at.device())?)?;
            Ok((there - here) / f64::from(by))
        };
        let (before, behind) = (slope(-STEP)?, slope(STEP)?);
        let found = f64::from(*found);
        let nearest = found.clamp(before.min(behind), before.max(behind));
        most = most.max((found - nearest).abs());
    }
    ensure!(
        most <= 2e-2 * f64::from(scale.max(1e-2)),
        "by {what} it is off by {most:.2e}, with gradients up to {scale:.2e}"
    );
    Ok(most)
}

/// Answers are computed with fewer tokens at a time than training.
fn row_by_row(layer: &Linear, device: &Device) -> Result<String> {
    let x = random(&[ROWS, INPUTS], 3, device)?;
    let (all, first) = (output(layer, &x)?, output(layer, &x.narrow(0, 0, 2)?)?);
    for (all, alone) in all.iter().zip(&first) {
        ensure!(
            (all - alone).abs() <= 1e-4 * (1.0 + all.abs()),
            "an output is {all} among {ROWS} tokens and {alone} among 2: rows are tokens, and must not depend on each other"
        );
    }
    Ok("does not depend on its neighbours".to_owned())
}

fn merged(layer: &Linear, bound: &Bound, device: &Device) -> Result<String> {
    let is_block = bound.layer().kind() != LayerKind::Linear;
    let weight = layer.weight.get(DType::F32)?;
    let bias = layer.bias.as_ref().map(|bias| bias.get(DType::F32));
    let bias = bias.transpose()?;
    let (weight, bias) = match &layer.lora {
        Some(lora) => (lora.merged_weight(&weight)?, bias),
        None => {
            let params = params(layer).into_iter().map(|param| param.value());
            let params: Vec<Tensor> = params.collect();
            let merged = match is_block {
                true => None,
                false => bound.merged_weight(&weight, &params)?,
            };
            let Some(weight) = merged else {
                return Ok("it cannot be, which export refuses by name".to_owned());
            };
            let bias = bias.map(|bias| bound.merged_bias(&bias, &params));
            (weight, bias.transpose()?)
        }
    };
    let alone = Linear {
        name: layer.name.clone(),
        weight: Weight::Frozen(weight),
        bias: bias.map(Weight::Frozen),
        lora: None,
        tuned: None,
    };
    let x = random(&[ROWS, INPUTS], 3, device)?;
    for (with, without) in output(layer, &x)?.iter().zip(output(&alone, &x)?) {
        ensure!(
            (with - without).abs() <= 1e-3 * (1.0 + with.abs()),
            "an output is {with} with the tuner and {without} of the merged layer"
        );
    }
    Ok("computes the same".to_owned())
}
