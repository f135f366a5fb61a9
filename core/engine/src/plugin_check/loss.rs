//! Losses: shape, finite values, gradients against finite differences, and chunks that do not depend on
//! each other.

use super::run::SmallRun;
use super::{Checked, Finding, Findings, push};
use crate::host::{ChunkContext, chunk_loss};
use crate::setup::AskedColumns;
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_model::ops::fill;
use apus_sdk::{BatchRow, ChunkRows, Loss};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

const TOKENS: usize = 6;
const VOCABULARY: usize = 11;
const HIDDEN: usize = 4;
const LABELS: [u32; TOKENS] = [0, 10, 3, 3, 7, 1];
const WEIGHTS: [f32; TOKENS] = [1.0, 2.0, 0.5, 1.0, 0.25, 1.0];

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let (mut loss, device) = (checked.make::<dyn Loss>()?, checked.device);
    let run = SmallRun::new(device)?;
    if !run.begins(findings, &mut loss, |loss, run| loss.begin(run)) {
        return Ok(());
    }
    let (loss, _busy) = (&loss, run.busy());
    push(findings, "one finite loss a token", values(loss, device));
    let before = findings.len();
    push(
        findings,
        "gradient against finite differences",
        gradient(loss, device),
    );
    if findings.get(before).is_some_and(Finding::is_failure) {
        let note = "a loss that is meant to hold something constant uses detach(), which finite \
                    differences do not see";
        findings.push(Finding::Note(note.to_owned()));
    }
    push(findings, "extreme logits", extreme(loss, device));
    push(findings, "token by token", token_by_token(loss, device));
    push(findings, "weights", unweighted(loss, device));
    Ok(())
}

fn logits(device: &Device) -> Result<Tensor> {
    fill::normal((TOKENS, VOCABULARY), 2.0, (7, 1), DType::F32, device)
}

fn run(
    loss: &Named<dyn Loss>,
    logits: &Tensor,
    gradient: bool,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    run_weighted(loss, logits, gradient, &WEIGHTS)
}

fn run_weighted(
    loss: &Named<dyn Loss>,
    logits: &Tensor,
    gradient: bool,
    weights: &[f32],
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let n = logits.dim(0)?;
    let labels = Tensor::new(&LABELS[..n], logits.device())?;
    let weights = Tensor::new(&weights[..n], logits.device())?;
    let scale = gradient.then_some(1.0);
    let positions = (1..=n as u32).collect();
    let columns = AskedColumns::of(loss)?.names.into_iter();
    let columns = columns.map(|name| (name, Value::Null)).collect();
    let row = BatchRow::new(Some(0), Some("check".to_owned())).with_columns(columns);
    let context = ChunkContext {
        rows: ChunkRows::new(vec![0; n], positions, vec![row]).at_step(scale.map(|_| 1)),
        hidden: Some(fill::normal(
            (n, HIDDEN),
            1.0,
            (7, 2),
            DType::F32,
            logits.device(),
        )?),
    };
    let found = chunk_loss(loss, logits.copy()?, &labels, &weights, scale, context)?;
    let grad = found
        .dlogits
        .map(|grad| grad.flatten_all()?.to_vec1())
        .transpose()?;
    Ok((found.per_token.to_vec1()?, grad))
}

fn values(loss: &Named<dyn Loss>, device: &Device) -> Result<String> {
    let (values, _) = run(loss, &logits(device)?, false)?;
    ensure!(values.iter().all(|value| value.is_finite()), "{values:?}");
    let (low, high) = values
        .iter()
        .fold((f32::MAX, f32::MIN), |(low, high), &value| {
            (low.min(value), high.max(value))
        });
    Ok(format!("from {low:.4} to {high:.4}"))
}

/// The weighted sum of the losses, in f64.
fn total(loss: &Named<dyn Loss>, logits: &Tensor) -> Result<f64> {
    let (values, _) = run(loss, logits, false)?;
    Ok(values
        .iter()
        .zip(WEIGHTS)
        .map(|(&v, w)| f64::from(v) * f64::from(w))
        .sum())
}

fn gradient(loss: &Named<dyn Loss>, device: &Device) -> Result<String> {
    const STEP: f32 = 1e-2;
    let x = logits(device)?;
    let (_, grad) = run(loss, &x, true)?;
    let grad = grad.unwrap_or_default();
    ensure!(
        grad.iter().all(|value| value.is_finite()),
        "it is not finite"
    );
    let flat: Vec<f32> = x.flatten_all()?.to_vec1()?;
    let scale = grad.iter().fold(0f32, |most, value| most.max(value.abs()));
    ensure!(scale > 0.0, "it is zero everywhere");
    let mut worst = (0.0, 0);
    for at in 0..flat.len() {
        let moved = |by: f32| -> Result<f64> {
            let mut flat = flat.clone();
            flat[at] += by;
            total(loss, &Tensor::from_vec(flat, x.shape(), device)?)
        };
        let numeric = (moved(STEP)? - moved(-STEP)?) / f64::from(2.0 * STEP);
        let gap = (numeric - f64::from(grad[at])).abs();
        if gap > worst.0 {
            worst = (gap, at);
        }
    }
    let (gap, at) = worst;
    ensure!(
        gap <= 2e-2 * f64::from(scale),
        "at token {} and word {} it is off by {gap:.2e}, with gradients up to {scale:.2e}",
        at / VOCABULARY,
        at % VOCABULARY
    );
    Ok(format!(
        "off by at most {gap:.1e}, with gradients up to {scale:.1e}"
    ))
}

fn extreme(loss: &Named<dyn Loss>, device: &Device) -> Result<String> {
    for scale in [0.0, 30.0] {
        let (values, grad) = run(loss, &logits(device)?.affine(scale, 0.0)?, true)?;
        let sound = |values: &[f32]| values.iter().all(|value| value.is_finite());
        ensure!(
            sound(&values),
            "with logits times {scale} the loss is {values:?}"
        );
        ensure!(
            grad.as_deref().is_some_and(sound),
            "with logits times {scale} the gradient is not finite"
        );
    }
    Ok(String::new())
}

/// A chunk is an arbitrary part of a batch: the loss of a token must not depend on its neighbours.
fn token_by_token(loss: &Named<dyn Loss>, device: &Device) -> Result<String> {
    let x = logits(device)?;
    let (all, _) = run(loss, &x, false)?;
    let (first, _) = run(loss, &x.narrow(0, 0, 2)?, false)?;
    for (all, alone) in all.iter().zip(&first) {
        ensure!(
            (all - alone).abs() <= 1e-4 * (1.0 + all.abs()),
            "a token's loss is {all} among {TOKENS} tokens and {alone} among 2: chunks are arbitrary \
             parts of a batch, so it must not depend on them"
        );
    }
    Ok("does not depend on its neighbours".to_owned())
}

/// The host multiplies by the weights; a loss that does so too counts them twice.
fn unweighted(loss: &Named<dyn Loss>, device: &Device) -> Result<String> {
    const FACTOR: f32 = 3.0;
    let x = logits(device)?;
    let (values, _) = run(loss, &x, false)?;
    let (other, _) = run_weighted(loss, &x, false, &WEIGHTS.map(|weight| FACTOR * weight))?;
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
    let mut pairs = values.iter().zip(&other);
    if pairs.all(|(&value, &other)| near(value, other)) {
        return Ok("left to the host".to_owned());
    }
    let mut pairs = values.iter().zip(&other);
    ensure!(
        !pairs.all(|(&value, &other)| near(FACTOR * value, other)),
        "with weights {FACTOR} times as large the losses are {FACTOR} times as large: the host multiplies by the weights, and \
         they would count twice"
    );
    Ok("the losses depend on them; the host multiplies by them as well".to_owned())
}
