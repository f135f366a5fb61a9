//! Adapters of PEFT read from disk, unmerged and merged, and greedy generation with them, against PEFT
//! (tests/goldens/tiny/README.md).

mod common;

use apus_engine::generate::{EngineOptions, Request, Sampling};
use apus_model::model::{CausalLm, ExpertsDtype, Training};
use apus_model::nn::{ForwardOptions, PagedCache};
use candle_core::{DType, Device, Tensor};
use common::{answers, engine, golden, load, max_gap, merged, reference, tensors, with_adapter};

/// Logits of the reference batch at the rows that the goldens list.
fn reference_logits(model: &CausalLm) -> Tensor {
    let batch = reference("batch");
    let options = ForwardOptions::default();
    let (hidden, _) = model
        .decoder()
        .forward(&batch.ids, &batch.seqs, &options)
        .unwrap();
    let starts: Vec<u32> = batch.seqs.offsets.clone();
    let rows = tensors("lora.safetensors")["logit_rows"]
        .to_dtype(DType::U32)
        .unwrap();
    let rows: Vec<u32> = rows
        .to_vec2::<u32>()
        .unwrap()
        .iter()
        .map(|row| starts[row[0] as usize] + row[1])
        .collect();
    let rows = Tensor::new(rows, &Device::Cpu).unwrap();
    let picked = hidden.index_select(&rows, 0).unwrap();
    let (normed, _) = model.head().forward(&picked).unwrap();
    model.head().logits(&normed).unwrap()
}

#[test]
fn logits_unmerged_and_merged() {
    let expected = tensors("lora.safetensors");
    let check = |model: &CausalLm, key: &str| {
        let gap = max_gap(&reference_logits(model), &expected[key]);
        assert!(gap < 2e-4, "{key}: {gap}");
    };
    for kind in ["attn", "attn_experts", "attn_rslora", "attn_dora"] {
        let name = format!("adapter_grad_{kind}");
        let unmerged = format!("{kind}.batch_logits");
        check(&with_adapter("model_mxfp4", &name), &unmerged);
        let key = format!("{kind}.merged_batch_logits");
        let key = if expected.contains_key(&key) {
            key
        } else {
            unmerged
        };
        check(&merged(&name), &key);
    }
    for curve in ["a_attn", "b_attn_experts", "c_fast_accum2_wd", "d_loraplus"] {
        let model = with_adapter("model_bf16", &format!("adapter_final_{curve}"));
        check(&model, &format!("{curve}.final_batch_logits"));
    }
    let model = merged("adapter_final_b_attn_experts");
    check(&model, "b_attn_experts.final_merged_batch_logits");
}

fn greedy(model: &CausalLm, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut engine = engine(model, EngineOptions::default());
    let request = Request::new(prompt.to_vec(), Sampling::greedy(count));
    let id = engine.add(request).unwrap();
    answers(&mut engine).remove(&id).unwrap()
}

#[test]
fn greedy_continuations_with_a_cache() {
    let info = std::fs::read_to_string(golden("info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let mut compared = 0;
    for (run, prompts) in info["generation"].as_object().unwrap() {
        if run == "note" {
            continue;
        }
        let adapter = |curve| format!("adapter_final_{curve}");
        let model = match (run.strip_suffix("_merged"), run.strip_suffix("_unmerged")) {
            (Some(curve), _) => merged(&adapter(curve)),
            (_, Some(curve)) => with_adapter("model_mxfp4", &adapter(curve)),
            _ => load(
                "model_mxfp4",
                ExpertsDtype::Mxfp4,
                Training::Adapters(vec![]),
            ),
        };
        for (line, case) in prompts.as_object().unwrap() {
            let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
            let (prompt, expected) = (ids("prompt"), ids("new_tokens"));
            let found = greedy(&model, &prompt, expected.len());
            assert_eq!(found, expected, "{run} {line}");
            compared += 1;
        }
    }
    assert_eq!(compared, 18);
}

#[test]
fn decoding_in_pieces_is_the_forward_pass() {
    let model = load(
        "model_mxfp4",
        ExpertsDtype::Mxfp4,
        Training::Adapters(vec![]),
    );
    let batch = reference("long");
    let ids = batch.ids.to_vec1::<u32>().unwrap();
    let options = ForwardOptions::default();
    let (whole, _) = model
        .decoder()
        .forward(&batch.ids, &batch.seqs, &options)
        .unwrap();
    let cache = PagedCache::alone(model.decoder(), ids.len(), model.dtype()).unwrap();
    let pieces = [0..13, 13..14, 14..31, 31..40].map(|range| {
        let from = range.start;
        model
            .decoder()
            .step_alone(&ids[range], from, &cache)
            .unwrap()
    });
    let gap = max_gap(&Tensor::cat(&pieces, 0).unwrap(), &whole);
    assert!(gap < 1e-4, "{gap}");
    let expected = tensors("forward.safetensors");
    let last = expected["long.trace.layers.3.out"].get(0).unwrap();
    assert!(max_gap(&whole, &last) < 2e-4);
}
