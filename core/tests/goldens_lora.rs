//! Adapters against PEFT: logits, every gradient, merged logits, and recomputation bit for bit.

mod common;

use anyhow::{Context, Result};
use common::*;

const KINDS: [&str; 4] = ["attn", "attn_experts", "attn_rslora", "attn_dora"];

#[test]
fn gradients_of_every_kind_of_adapter() -> Result<()> {
    let (golden, info) = (tensors("lora.safetensors")?, info()?);
    let batch = Batch::golden("batch")?;
    for kind in KINDS {
        let (model, _) = with_adapter("model_mxfp4", &format!("adapter_grad_{kind}"))?;
        let ours = train(&model, &batch, 4, 0.0)?;
        let expected = &info["lora_grads"][kind];
        let loss = expected["loss"].as_f64().context("loss")?;
        assert!(
            (ours - loss).abs() < 2e-5,
            "{kind}: loss {ours}, expected {loss}"
        );
        let mut square_sum = 0.0;
        let mut count = 0;
        for param in model.params() {
            let name = param.name();
            let key = format!("{kind}.grad.{name}");
            let theirs = golden
                .get(&key)
                .or_else(|| golden.get(&format!("{key}.weight")))
                .with_context(|| format!("no golden gradient {key}"))?;
            let grad = param
                .take_grad()
                .with_context(|| format!("no gradient of {name}"))?;
            let apart = distance(&grad, theirs)? / largest(theirs)?;
            assert!(
                apart < 1e-3,
                "{kind} {name}: {apart} of the largest gradient"
            );
            square_sum += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            count += grad.elem_count() as u64;
        }
        let norm = expected["grad_norm"].as_f64().context("grad_norm")?;
        assert!((square_sum.sqrt() / norm - 1.0).abs() < 1e-3, "{kind}");
        assert_eq!(expected["n_trainable"], count);
    }
    Ok(())
}

#[test]
fn logits_with_adapters_unmerged_and_merged() -> Result<()> {
    let golden = tensors("lora.safetensors")?;
    let batch = Batch::golden("batch")?;
    let rows = &golden["logit_rows"];
    for kind in KINDS {
        let name = format!("adapter_grad_{kind}");
        let (model, _) = with_adapter("model_mxfp4", &name)?;
        let ours = at(&logits(&model, &batch)?, &batch, rows)?;
        let apart = distance(&ours, &golden[&format!("{kind}.batch_logits")])?;
        assert!(apart < 2e-4, "{kind}: {apart}");
        let ours = at(&logits(&merged(&name)?, &batch)?, &batch, rows)?;
        let key = format!("{kind}.merged_batch_logits");
        let theirs = golden
            .get(&key)
            .unwrap_or(&golden[&format!("{kind}.batch_logits")]);
        let apart = distance(&ours, theirs)?;
        assert!(apart < 2e-4, "{kind} merged: {apart}");
    }
    for curve in ["a_attn", "b_attn_experts", "c_fast_accum2_wd", "d_loraplus"] {
        let name = format!("adapter_final_{curve}");
        let (model, _) = with_adapter("model_bf16", &name)?;
        let ours = at(&logits(&model, &batch)?, &batch, rows)?;
        let apart = distance(&ours, &golden[&format!("{curve}.final_batch_logits")])?;
        assert!(apart < 2e-4, "{curve}: {apart}");
    }
    let ours = at(
        &logits(&merged("adapter_final_b_attn_experts")?, &batch)?,
        &batch,
        rows,
    )?;
    let theirs = &golden["b_attn_experts.final_merged_batch_logits"];
    assert!(distance(&ours, theirs)? < 2e-4);
    Ok(())
}

#[test]
fn recomputation_changes_no_bit() -> Result<()> {
    let batch = Batch::golden("batch")?;
    for kind in ["attn_experts", "attn_dora"] {
        let (model, _) = with_adapter("model_mxfp4", &format!("adapter_grad_{kind}"))?;
        let mut runs = Vec::new();
        for kept in [4, 0, 2] {
            let loss = train(&model, &batch, kept, 0.5)?;
            let mut grads = vec![loss.to_bits()];
            for param in model.params() {
                let grad = param.take_grad().context("a gradient")?.flatten_all()?;
                let bits = grad
                    .to_vec1::<f32>()?
                    .into_iter()
                    .map(|g| u64::from(g.to_bits()));
                grads.extend(bits);
            }
            runs.push(grads);
        }
        assert!(runs[0] == runs[1] && runs[0] == runs[2], "{kind}");
    }
    Ok(())
}

#[test]
fn gradients_of_micro_batches_add_up() -> Result<()> {
    let batch = Batch::golden("batch")?;
    let (model, _) = with_adapter("model_mxfp4", "adapter_grad_attn_experts")?;
    train(&model, &batch, 0, 0.0)?;
    let once: Vec<_> = model.params().iter().map(|p| p.take_grad()).collect();
    train(&model, &batch, 0, 0.0)?;
    train(&model, &batch, 0, 0.0)?;
    for (param, once) in model.params().iter().zip(once) {
        let (twice, once) = (
            param.take_grad().context("a gradient")?,
            once.context("a gradient")?,
        );
        assert!(
            distance(&twice, &(&once * 2.0)?)? <= 1e-6 * largest(&once)?,
            "{}",
            param.name()
        );
    }
    Ok(())
}
