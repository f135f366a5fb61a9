//! The forward pass against transformers: logits, losses, the auxiliary loss, rotary angles, generation.

mod common;

use anyhow::{Context, Result};
use apus_core::model::{ForwardOptions, GptOss};
use candle_core::{DType, Tensor};
use common::*;

#[test]
fn logits_of_both_checkpoint_forms() -> Result<()> {
    let golden = tensors("forward.safetensors")?;
    for form in ["model_mxfp4", "model_bf16"] {
        let model = model(form)?;
        for name in ["short", "long", "batch"] {
            let batch = Batch::golden(name)?;
            let ours = logits(&model, &batch)?;
            let theirs = &golden[&format!("{name}.logits")];
            for (&(b, t), &row) in &batch.row {
                let apart = distance(&ours.get(row as usize)?, &theirs.get(b)?.get(t)?)?;
                assert!(
                    apart < 2e-4,
                    "{form} {name} sequence {b} position {t}: {apart}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn losses_and_auxiliary_losses() -> Result<()> {
    let (model, info) = (model("model_mxfp4")?, info()?);
    for name in ["short", "long", "batch"] {
        let batch = Batch::golden(name)?;
        let expected = |key: &str| info["loss"][name][key].as_f64().context("a number");
        let ours = loss(&model, &batch, 0.0)?;
        assert!((ours - expected("loss")?).abs() < 2e-5, "{name}: {ours}");
        let options = ForwardOptions {
            aux_coef: 0.9,
            ..ForwardOptions::default()
        };
        let (_, pass) = model.forward(&batch.ids, &batch.seqs, &options)?;
        let aux = pass.aux_loss().context("asked for")?;
        assert!((aux - expected("aux_loss")?).abs() < 2e-5, "{name}: {aux}");
        let both = loss(&model, &batch, 0.9)?;
        assert!(
            (both - expected("loss_with_aux")?).abs() < 4e-5,
            "{name}: {both}"
        );
        assert_eq!(
            batch.labels.dim(0)? as u64,
            info["loss"][name]["n_target_tokens"]
        );
    }
    Ok(())
}

#[test]
fn final_norm_and_rotary_angles() -> Result<()> {
    let golden = tensors("forward.safetensors")?;
    let (model, batch) = (model("model_bf16")?, Batch::golden("long")?);
    let (hidden, _) = model.forward(&batch.ids, &batch.seqs, &ForwardOptions::default())?;
    let (normed, _) = model.head().forward(&hidden)?;
    assert!(distance(&hidden, &golden["long.trace.layers.3.out"].get(0)?)? < 2e-4);
    assert!(distance(&normed, &golden["long.trace.final_norm"].get(0)?)? < 2e-4);
    let table = apus_core::model::yarn::Angles::new(model.config(), &CPU).table(40)?;
    for (ours, name) in [(table.cos, "rope_cos"), (table.sin, "rope_sin")] {
        let theirs = golden[&format!("long.trace.{name}")].get(0)?;
        assert!(distance(&ours.narrow(0, 0, 40)?, &theirs)? < 1e-5, "{name}");
    }
    Ok(())
}

fn greedy(model: &GptOss, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
    let mut cache = model.cache();
    let (mut new, mut input) = (Vec::new(), prompt.to_vec());
    while new.len() < count {
        let hidden = model.decode(&input, &mut cache)?;
        let last = hidden.narrow(0, input.len() - 1, 1)?;
        let (normed, _) = model.head().forward(&last)?;
        let next = model.head().logits(&normed)?.to_dtype(DType::F32)?;
        let next = next.argmax(1)?.to_vec1::<u32>()?[0];
        new.push(next);
        input = vec![next];
    }
    Ok(new)
}

#[test]
fn greedy_continuations() -> Result<()> {
    let info = info()?;
    let generation = info["generation"].as_object().context("generation")?;
    let mut compared = 0;
    for (run, prompts) in generation.iter().filter(|(run, _)| *run != "note") {
        let model = match (run.strip_suffix("_merged"), run.strip_suffix("_unmerged")) {
            (Some(curve), _) => merged(&format!("adapter_final_{curve}"))?,
            (_, Some(curve)) => with_adapter("model_mxfp4", &format!("adapter_final_{curve}"))?.0,
            _ => model("model_mxfp4")?,
        };
        for (line, case) in prompts.as_object().context("prompts")? {
            let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone());
            let (prompt, expected) = (ids("prompt")?, ids("new_tokens")?);
            assert_eq!(
                greedy(&model, &prompt, expected.len())?,
                expected,
                "{run} {line}"
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 18);
    Ok(())
}

#[test]
fn decoding_in_pieces_is_the_forward_pass() -> Result<()> {
    let (model, batch) = (model("model_mxfp4")?, Batch::golden("long")?);
    let ids = batch.ids.to_vec1::<u32>()?;
    let (whole, _) = model.forward(&batch.ids, &batch.seqs, &ForwardOptions::default())?;
    let mut cache = model.cache();
    let mut pieces = Vec::new();
    for piece in [&ids[..13], &ids[13..14], &ids[14..31], &ids[31..]] {
        pieces.push(model.decode(piece, &mut cache)?);
    }
    assert_eq!(cache.len(), 40);
    assert!(distance(&Tensor::cat(&pieces, 0)?, &whole)? < 1e-4);
    Ok(())
}
