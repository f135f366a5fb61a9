//! Adapters that share a batch.

use crate::common::{answers, engine, golden, merged, with_adapter};
use crate::support::{ADAPTERS, assert_at_rest, base, greedy, plain, with_adapters};
use apus_engine::generate::{EngineOptions, Event, RequestId};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

#[test]
fn golden_continuations_of_the_base_and_of_adapters_in_one_batch() {
    let info = std::fs::read_to_string(golden("info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let mut cases = Vec::new();
    for (run, prompts) in info["generation"].as_object().unwrap() {
        if run == "note" || run.ends_with("_merged") {
            continue;
        }
        let adapter = run.strip_suffix("_unmerged");
        let adapter = adapter.map(|curve| format!("adapter_final_{curve}"));
        for case in prompts.as_object().unwrap().values() {
            let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
            cases.push((adapter.clone(), ids("prompt"), ids("new_tokens")));
        }
    }
    assert_eq!(cases.len(), 10);
    let model = base();
    for (deterministic, prefill_chunk, cache_tokens) in [
        (false, 2048, None),
        (false, 7, Some(160)),
        (true, 16, None),
        (true, 32, Some(160)),
    ] {
        let mut engine = engine(
            &model,
            EngineOptions {
                deterministic,
                prefill_chunk,
                cache_tokens,
                ..EngineOptions::default()
            },
        );
        for (adapter, ..) in &cases {
            if let Some(name) = adapter
                && !engine.adapters().contains(name)
            {
                engine.load_adapter(name, &golden(name)).unwrap();
            }
        }
        let asked: Vec<RequestId> = cases
            .iter()
            .map(|(adapter, prompt, expected)| {
                let request = greedy(prompt, expected.len(), adapter.as_deref());
                engine.add(request).unwrap()
            })
            .collect();
        let found = answers(&mut engine);
        for (id, (adapter, _, expected)) in asked.iter().zip(&cases) {
            assert_eq!(&found[id], expected, "{adapter:?} {deterministic}");
        }
        assert_at_rest(&engine);
    }
}

#[test]
fn an_adapter_by_name_is_the_model_with_it_and_the_merged_model() {
    let model = base();
    let mut engine = with_adapters(&model, EngineOptions::default());
    let prompt: Vec<u32> = (0..41).map(|i| (i * 7 + 3) % 150).collect();
    let asked = ADAPTERS.map(|name| engine.add(greedy(&prompt, 12, Some(name))).unwrap());
    let own = engine.add(greedy(&prompt, 12, None)).unwrap();
    let found = answers(&mut engine);
    assert_eq!(found[&own], plain(&model, &prompt, 12));
    for (id, name) in asked.iter().zip(ADAPTERS) {
        let unmerged = plain(&with_adapter("model_mxfp4", name), &prompt, 12);
        assert_eq!(found[id], unmerged, "{name}");
        assert_eq!(found[id], plain(&merged(name), &prompt, 12), "{name}");
    }
    let different: std::collections::BTreeSet<_> = found.values().collect();
    assert!(different.len() > 1);
}

#[test]
fn the_models_own_adapter_is_the_one_without_a_name() {
    let model = with_adapter("model_mxfp4", ADAPTERS[1]);
    let mut engine = engine(&model, EngineOptions::default());
    engine.load_adapter("other", &golden(ADAPTERS[0])).unwrap();
    engine.load_adapter("same", &golden(ADAPTERS[1])).unwrap();
    let prompt: Vec<u32> = (0..30).map(|i| (i * 11 + 5) % 150).collect();
    let asked = [None, Some("same"), Some("other")]
        .map(|adapter| engine.add(greedy(&prompt, 10, adapter)).unwrap());
    let found = answers(&mut engine);
    let expected = plain(&model, &prompt, 10);
    assert_eq!(
        (&found[&asked[0]], &found[&asked[1]]),
        (&expected, &expected)
    );
    let other = plain(&with_adapter("model_mxfp4", ADAPTERS[0]), &prompt, 10);
    assert_eq!(found[&asked[2]], other);
}

#[test]
fn what_cannot_share_a_batch_is_refused_by_name() {
    let model = base();
    let mut engine = engine(&model, EngineOptions::default());
    let mut refused = |name: &str, dir: &str| {
        let error = engine.load_adapter(name, &golden(dir)).unwrap_err();
        format!("{error:#}")
    };
    let dora = refused("d", "adapter_grad_attn_dora");
    assert!(
        dora.contains("adapter `d`") && dora.contains("DoRA"),
        "{dora}"
    );
    let whole = refused("m", "model_bf16");
    assert!(
        whole.contains("whole model") && whole.contains("--model"),
        "{whole}"
    );
    assert!(refused("n", "nowhere").contains("nowhere"));
    engine.load_adapter("a", &golden(ADAPTERS[0])).unwrap();
    let error = engine.load_adapter("a", &golden(ADAPTERS[1])).unwrap_err();
    assert!(error.to_string().contains("`a` is loaded already"));
    let error = engine
        .add(greedy(&[1], 1, Some("b")))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "adapter `b` is not loaded, those that are: a");
    assert!(engine.unload_adapter("b").is_err());

    let dora = with_adapter("model_bf16", "adapter_grad_attn_dora");
    let mut engine = crate::common::engine(&dora, EngineOptions::default());
    let error = engine.load_adapter("a", &golden(ADAPTERS[0])).unwrap_err();
    assert!(error.to_string().contains("DoRA"), "{error}");
    let prompt = [5, 9, 3, 60, 2];
    let id = engine.add(greedy(&prompt, 8, None)).unwrap();
    assert_eq!(answers(&mut engine)[&id], plain(&dora, &prompt, 8));
}

#[test]
fn an_adapter_that_is_unloaded_finishes_what_runs_on_it() {
    let model = base();
    let mut engine = with_adapters(&model, EngineOptions::default());
    let prompt: Vec<u32> = (0..20).map(|i| (i * 13 + 1) % 150).collect();
    let asked = ADAPTERS.map(|name| engine.add(greedy(&prompt, 9, Some(name))).unwrap());
    engine.step().unwrap();
    for name in ADAPTERS {
        engine.unload_adapter(name).unwrap();
        assert!(engine.add(greedy(&prompt, 9, Some(name))).is_err());
    }
    assert_eq!(engine.adapters(), [""; 0]);
    // Another one may have the name at once.
    engine
        .load_adapter(ADAPTERS[0], &golden(ADAPTERS[1]))
        .unwrap();
    let renamed = engine.add(greedy(&prompt, 9, Some(ADAPTERS[0]))).unwrap();
    let found = answers(&mut engine);
    let expected = ADAPTERS.map(|name| plain(&with_adapter("model_mxfp4", name), &prompt, 9));
    for (id, expected) in asked.iter().zip(&expected) {
        assert_eq!(&found[id], expected);
    }
    assert_eq!(found[&renamed], expected[1]);
    assert_at_rest(&engine);
}

#[test]
fn an_adapter_that_makes_numbers_too_large_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (from, file) = (golden(ADAPTERS[0]), "adapter_model.safetensors");
    std::fs::copy(
        from.join("adapter_config.json"),
        dir.path().join("adapter_config.json"),
    )
    .unwrap();
    let tensors = candle_core::safetensors::load(from.join(file), &Device::Cpu).unwrap();
    let large = tensors
        .into_iter()
        .map(|(name, tensor)| (name, (tensor * 1e30).unwrap()));
    let large: HashMap<String, Tensor> = large.collect();
    candle_core::safetensors::save(&large, dir.path().join(file)).unwrap();
    let model = base();
    let mut engine = engine(&model, EngineOptions::default());
    engine.load_adapter("large", dir.path()).unwrap();
    let prompt = [3, 1, 4, 1, 5];
    let bad = engine.add(greedy(&prompt, 4, Some("large"))).unwrap();
    let good = engine.add(greedy(&prompt, 4, None)).unwrap();
    let (mut tokens, mut failed) = (Vec::new(), None);
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { id, token, .. } if id == good => tokens.push(token),
                Event::Failed { id, error } => failed = Some((id, error.to_string())),
                _ => {}
            }
        }
    }
    assert_eq!(tokens, plain(&model, &prompt, 4));
    let (id, error) = failed.unwrap();
    assert!(id == bad && error.contains("not finite"), "{id} {error}");
    assert_at_rest(&engine);
}
