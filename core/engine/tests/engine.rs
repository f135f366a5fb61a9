//! The answering engine on the reference model: whatever is answered together, each answer is the one that it is alone.

mod common;

use apus_engine::generate::{
    Engine, EngineOptions, Event, FinishReason, Request, RequestId, Sampling, TokenLogprobs,
    TokenMask,
};
use apus_model::model::{CausalLm, ExpertsDtype, Training};
use apus_model::nn::ForwardOptions;
use apus_model::ops::SeqLayout;
use candle_core::{D, Device, Tensor};
use common::{answers, engine, golden, load, merged, with_adapter};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

fn base() -> CausalLm {
    load(
        "model_mxfp4",
        ExpertsDtype::Mxfp4,
        Training::Adapters(vec![]),
    )
}

/// The adapters that requests of these tests name, by their folders.
const ADAPTERS: [&str; 3] = [
    "adapter_final_a_attn",
    "adapter_final_b_attn_experts",
    "adapter_grad_attn_rslora",
];

fn with_adapters(model: &CausalLm, options: EngineOptions) -> Engine<'_> {
    let mut engine = engine(model, options);
    for name in ADAPTERS {
        engine.load_adapter(name, &golden(name)).unwrap();
    }
    engine
}

fn greedy(prompt: &[u32], count: usize, adapter: Option<&str>) -> Request {
    Request {
        adapter: adapter.map(str::to_owned),
        ..Request::new(prompt.to_vec(), Sampling::greedy(count))
    }
}

/// Options with a small pool and small steps.
fn small(cache_tokens: usize, prefill_chunk: usize) -> EngineOptions {
    EngineOptions {
        max_batch_size: 5,
        cache_tokens: Some(cache_tokens),
        prefill_chunk,
        ..EngineOptions::default()
    }
}

/// The greedy continuation by whole forward passes, without a cache.
fn plain(model: &CausalLm, prompt: &[u32], count: usize) -> Vec<u32> {
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
fn assert_at_rest(engine: &Engine) {
    let stats = engine.stats();
    assert_eq!((stats.waiting, stats.running, stats.pages_used), (0, 0, 0));
    assert!(stats.pages_cached <= stats.pages);
}

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
    let mut engine = common::engine(&dora, EngineOptions::default());
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
fn prompts_with_the_same_beginning_share_it() {
    let model = base();
    let beginning: Vec<u32> = (0..100).map(|i| (i * 17 + 7) % 150).collect();
    let prompt = |end: u32| [beginning.as_slice(), &[end, 4, end]].concat();
    for deterministic in [false, true] {
        let options = EngineOptions {
            deterministic,
            prefill_chunk: 32,
            ..EngineOptions::default()
        };
        let mut engine = with_adapters(&model, options);
        let first = engine.add(greedy(&prompt(1), 6, None)).unwrap();
        assert_eq!(answers(&mut engine)[&first], plain(&model, &prompt(1), 6));
        let shared = |engine: &Engine| engine.stats().prefix_hits;
        assert_eq!(shared(&engine), 0);
        // Together, and of another adapter: what is computed with one is not shared with the other.
        let same = [1, 2, 3].map(|end| engine.add(greedy(&prompt(end), 6, None)).unwrap());
        let other = engine
            .add(greedy(&prompt(1), 6, Some(ADAPTERS[1])))
            .unwrap();
        let found = answers(&mut engine);
        for (id, end) in same.iter().zip([1, 2, 3]) {
            assert_eq!(found[id], plain(&model, &prompt(end), 6));
        }
        let adapted = plain(&with_adapter("model_mxfp4", ADAPTERS[1]), &prompt(1), 6);
        assert_eq!(found[&other], adapted);
        assert_eq!(shared(&engine), 3 * 96);
        // The same prompt whole: its last token is computed.
        let whole = beginning[..96].to_vec();
        let id = engine.add(greedy(&whole, 3, None)).unwrap();
        assert_eq!(answers(&mut engine)[&id], plain(&model, &whole, 3));
        let last = if deterministic { 64 } else { 80 };
        assert_eq!(shared(&engine), 3 * 96 + last);
        engine.clear().unwrap();
        assert_eq!(engine.stats().pages_cached, 0);
    }
}

#[test]
fn answers_to_one_prompt_compute_it_once() {
    let model = base();
    let mut engine = engine(&model, EngineOptions::default());
    let prompt: Vec<u32> = (0..130).map(|i| (i * 19 + 2) % 150).collect();
    let asked: Vec<RequestId> = (0..4)
        .map(|number| {
            let sampling = Sampling {
                temperature: 1.0,
                ..Sampling::greedy(5)
            };
            let request = Request {
                number,
                ..Request::new(prompt.clone(), sampling)
            };
            engine.add(request).unwrap()
        })
        .collect();
    let found = answers(&mut engine);
    assert_eq!(engine.stats().prefix_hits, 3 * 128);
    let different: std::collections::BTreeSet<_> = asked.iter().map(|id| &found[id]).collect();
    assert!(different.len() > 1);
}

#[test]
fn requests_that_cannot_be_answered_are_refused_with_the_numbers() {
    let model = base();
    let positions = model.config().architecture.max_position_embeddings;
    let error = |options: EngineOptions, length: usize| {
        let mut engine = engine(&model, options);
        let request = greedy(&vec![1; length], 1, None);
        engine.add(request).unwrap_err().to_string()
    };
    let none = EngineOptions::default();
    assert_eq!(error(none.clone(), 0), "the prompt is empty");
    let long = error(none.clone(), positions + 1);
    assert!(
        long.contains(&format!("{} tokens", positions + 1)),
        "{long}"
    );
    assert!(
        long.contains(&format!("positions of the model is {positions}")),
        "{long}"
    );
    let options = EngineOptions {
        max_length: Some(10),
        ..none.clone()
    };
    assert_eq!(
        error(options, 11),
        "the prompt has 11 tokens, max_length is 10"
    );
    let pool = error(small(20, 8), 33);
    assert!(
        pool.contains("the cache of keys and values has room for 32"),
        "{pool}"
    );
    let mut engine = engine(&model, none);
    let mut odd = |change: fn(&mut Request)| {
        let mut request = greedy(&[1, 2], 1, None);
        change(&mut request);
        engine.add(request).unwrap_err().to_string()
    };
    assert!(odd(|r| r.prompt[1] = 1 << 30).contains("beyond the vocabulary"));
    assert!(odd(|r| r.sampling.logit_bias = vec![(1 << 30, 1.0)]).contains("logit_bias"));
    assert!(odd(|r| r.sampling.min_p = 2.0).starts_with("min_p is 2"));
    assert!(odd(|r| r.stop.strings = vec![String::new()]).contains("stop string"));
}

#[test]
fn an_answer_ends_where_its_length_or_its_stop_is() {
    let model = base();
    let mut engine = engine(&model, small(64, 16));
    let prompt: Vec<u32> = (0..40).map(|i| (i * 23 + 9) % 150).collect();
    let whole = plain(&model, &prompt, 25);
    let mut ask = |request: Request| {
        let id = engine.add(request).unwrap();
        let mut tokens = Vec::new();
        loop {
            for event in engine.step().unwrap() {
                match event {
                    Event::Token { token, .. } => tokens.push(token),
                    Event::Finished {
                        reason,
                        tokens: all,
                        ..
                    } => {
                        assert_eq!(all, tokens);
                        return (reason, all);
                    }
                    Event::Failed { error, .. } => panic!("{id}: {error:#}"),
                }
            }
        }
    };
    // 40 tokens and 25: the last one takes no position of the 64.
    let (reason, tokens) = ask(greedy(&prompt, 100, None));
    assert_eq!((reason, &tokens), (FinishReason::Length, &whole));
    let stop = whole[4];
    let first = whole.iter().position(|&token| token == stop).unwrap();
    let mut request = greedy(&prompt, 20, None);
    request.stop.ids = vec![stop];
    let (reason, tokens) = ask(request);
    assert_eq!(
        (reason, &tokens[..]),
        (FinishReason::StopToken(stop), &whole[..=first])
    );
    let tokenizer = apus_data::chat::Tokenizer::load(&golden("model_bf16")).unwrap();
    let text = tokenizer.decode(&whole[..6], true);
    let string: String = text
        .chars()
        .skip(2)
        .take_while(|c| *c != '\u{fffd}')
        .collect();
    assert!(string.len() > 3, "{text:?}");
    let mut request = greedy(&prompt, 20, None);
    request.stop.strings = vec!["\u{0}never".to_owned(), string.clone()];
    let (reason, tokens) = ask(request);
    assert_eq!(reason, FinishReason::StopString(string.clone()));
    let (found, before) = (&tokens[..], &tokens[..tokens.len() - 1]);
    assert!(tokenizer.decode(found, true).contains(&string));
    assert!(!tokenizer.decode(before, true).contains(&string));
}

/// Allows one token after another of a list.
struct Script(Vec<u32>);

impl TokenMask for Script {
    fn allowed(&mut self) -> anyhow::Result<Vec<u32>> {
        let next = self.0.first().copied();
        let next = next.ok_or_else(|| anyhow::anyhow!("the script is at its end"))?;
        let mut bits = vec![0; next as usize / 32 + 1];
        bits[next as usize / 32] = 1 << (next % 32);
        Ok(bits)
    }

    fn accept(&mut self, token: u32) -> anyhow::Result<()> {
        anyhow::ensure!(self.0.remove(0) == token, "another token");
        Ok(())
    }
}

#[test]
fn a_mask_decides_and_a_request_that_fails_fails_alone() {
    let model = base();
    let mut engine = engine(&model, EngineOptions::default());
    let masked = |script: &[u32], count| Request {
        mask: Some(Box::new(Script(script.to_vec()))),
        logprobs: Some(2),
        ..greedy(&[3, 1, 4], count, None)
    };
    let good = engine.add(masked(&[9, 100, 33], 3)).unwrap();
    let bad = engine.add(masked(&[9, 100], 3)).unwrap();
    let other = engine.add(greedy(&[3, 1, 4], 5, None)).unwrap();
    let (mut finished, mut failed) = (HashMap::new(), HashMap::new());
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { id, logprobs, .. } => {
                    assert_eq!(logprobs.is_some(), id != other);
                    assert!(logprobs.is_none_or(|l| l.top.len() == 2 && l.logprob <= l.top[0].1));
                }
                Event::Finished { id, tokens, .. } => drop(finished.insert(id, tokens)),
                Event::Failed { id, error } => drop(failed.insert(id, error.to_string())),
            }
        }
    }
    assert_eq!(finished[&good], [9, 100, 33]);
    assert_eq!(finished[&other], plain(&model, &[3, 1, 4], 5));
    assert_eq!(failed[&bad], "the script is at its end");
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

/// A request of a random test, and when it comes and perhaps goes.
#[derive(Debug, Clone)]
struct Visit {
    prompt: Vec<u32>,
    adapter: Option<usize>,
    temperature: f64,
    repetition_penalty: f64,
    count: usize,
    number: u64,
    comes: usize,
    goes: Option<usize>,
}

impl Visit {
    fn request(&self) -> Request {
        let sampling = Sampling {
            temperature: self.temperature,
            repetition_penalty: self.repetition_penalty,
            top_k: 20,
            seed: 11,
            ..Sampling::greedy(self.count)
        };
        Request {
            adapter: self.adapter.map(|at| ADAPTERS[at].to_owned()),
            number: self.number,
            logprobs: Some(3),
            ..Request::new(self.prompt.clone(), sampling)
        }
    }
}

fn visit() -> impl Strategy<Value = Visit> {
    // Few beginnings, so that they are shared, and ends of their own.
    let prompt = (0u32..3, 1usize..60, prop::collection::vec(0u32..150, 0..30));
    let prompt = prompt.prop_map(|(seed, length, end)| {
        let beginning = (0..length as u32).map(|i| (i * 29 + seed * 31) % 150);
        beginning.chain(end).collect::<Vec<u32>>()
    });
    (
        prompt,
        prop::option::of(0..ADAPTERS.len()),
        prop_oneof![Just(0.0), Just(0.8)],
        prop_oneof![Just(1.0), Just(1.3)],
        1usize..20,
        0u64..3,
        0usize..30,
        prop::option::weighted(0.2, 0usize..20),
    )
        .prop_map(
            |(prompt, adapter, temperature, repetition_penalty, count, number, comes, goes)| {
                Visit {
                    prompt,
                    adapter,
                    temperature,
                    repetition_penalty,
                    count,
                    number,
                    comes,
                    goes: goes.map(|after| comes + after),
                }
            },
        )
}

/// What came of a visit.
#[derive(Debug, Clone, Default)]
struct Found {
    tokens: Vec<u32>,
    /// The log-probabilities at each token, whose bits show whether the logits have the same.
    logprobs: Vec<TokenLogprobs>,
    /// Whether it finished by itself.
    finished: bool,
}

/// What comes of visits to one engine.
fn visited(engine: &mut Engine, visits: &[Visit]) -> Vec<Found> {
    let mut ids = BTreeMap::new();
    let mut found = vec![Found::default(); visits.len()];
    let mut step = 0;
    while step < 30 || !engine.is_idle() {
        for (at, visit) in visits.iter().enumerate() {
            if visit.comes == step {
                ids.insert(engine.add(visit.request()).unwrap(), at);
            }
            if visit.goes == Some(step) {
                let id = ids.iter().find(|(_, found)| **found == at).unwrap().0;
                engine.cancel(*id);
            }
        }
        let mut ended = Vec::new();
        for event in engine.step().unwrap() {
            match event {
                Event::Token {
                    id,
                    token,
                    logprobs,
                } => {
                    assert!(!ended.contains(&id));
                    let found = &mut found[ids[&id]];
                    found.tokens.push(token);
                    found.logprobs.extend(logprobs);
                }
                Event::Finished { id, reason, tokens } => {
                    ended.push(id);
                    let found = &mut found[ids[&id]];
                    assert_eq!(found.tokens, tokens);
                    found.finished = reason != FinishReason::Cancelled;
                }
                Event::Failed { error, .. } => panic!("{error:#}"),
            }
        }
        step += 1;
        assert!(step < 10_000, "the engine does not come to an end");
    }
    found
}

fn check_visits(model: &CausalLm, visits: &[Visit], options: EngineOptions) {
    let roomy = EngineOptions {
        max_batch_size: 1,
        prefix_cache: false,
        cache_tokens: None,
        ..options.clone()
    };
    let mut alone = with_adapters(model, roomy);
    let deterministic = options.deterministic;
    let mut together = with_adapters(model, options);
    let found = visited(&mut together, visits);
    for (visit, found) in visits.iter().zip(found) {
        let by_itself = Visit {
            comes: 0,
            goes: None,
            ..visit.clone()
        };
        let expected = visited(&mut alone, &[by_itself]).remove(0);
        match found.finished {
            true => assert_eq!(found.tokens, expected.tokens, "{visit:?}"),
            false => assert!(visit.goes.is_some() && expected.tokens.starts_with(&found.tokens)),
        }
        for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
            match deterministic {
                true => assert_eq!(found, expected),
                false => assert!((found.logprob - expected.logprob).abs() < 1e-3),
            }
        }
    }
    assert_at_rest(&together);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_do_not_depend_on_what_else_is_answered(
        visits in prop::collection::vec(visit(), 1..10),
        cache_tokens in 112usize..260,
        prefill_chunk in 5usize..50,
        deterministic: bool,
        prefix_cache: bool,
    ) {
        let options = EngineOptions {
            deterministic,
            prefix_cache,
            ..small(cache_tokens, prefill_chunk)
        };
        check_visits(&base(), &visits, options);
    }
}

#[test]
fn a_small_pool_makes_requests_give_up_their_pages() {
    let model = base();
    let visits: Vec<Visit> = (0..5)
        .map(|number| Visit {
            prompt: (0..30).map(|i| (i * 7 + number as u32) % 150).collect(),
            adapter: None,
            temperature: 0.0,
            repetition_penalty: 1.0,
            count: 40,
            number,
            comes: number as usize,
            goes: None,
        })
        .collect();
    for deterministic in [false, true] {
        let options = EngineOptions {
            deterministic,
            ..small(112, 16)
        };
        check_visits(&model, &visits, options.clone());
        let mut engine = with_adapters(&model, options);
        visited(&mut engine, &visits);
        assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
    }
}

#[test]
fn first_tokens_are_distributed_as_the_models_softmax() {
    let model = base();
    let prompt = [5, 9, 3];
    let options = EngineOptions {
        max_batch_size: 250,
        ..EngineOptions::default()
    };
    let mut engine = engine(&model, options);
    let draws = 20_000;
    for number in 0..draws {
        let sampling = Sampling {
            temperature: 1.0,
            ..Sampling::greedy(1)
        };
        let request = Request {
            number,
            logprobs: (number == 0).then_some(usize::MAX),
            ..Request::new(prompt.to_vec(), sampling)
        };
        engine.add(request).unwrap();
    }
    let (mut counts, mut logprobs) = (BTreeMap::new(), Vec::new());
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Token {
                token, logprobs: l, ..
            } = event
            {
                *counts.entry(token).or_insert(0) += 1;
                logprobs.extend(l.into_iter().flat_map(|l| l.top));
            }
        }
    }
    let seqs = SeqLayout::new(&[3], &Device::Cpu).unwrap();
    let ids = Tensor::new(&prompt, &Device::Cpu).unwrap();
    let (hidden, _) = model
        .decoder()
        .forward(&ids, &seqs, &ForwardOptions::default())
        .unwrap();
    let (normed, _) = model.head().forward(&hidden).unwrap();
    let logits = model.head().logits(&normed).unwrap().get(2).unwrap();
    let logits: Vec<f64> = logits
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|l| f64::from(*l))
        .collect();
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    assert_eq!(logprobs.len(), logits.len());
    for (token, logprob) in logprobs {
        let expected = logits[token as usize] - sum.ln();
        assert!((f64::from(logprob) - expected).abs() < 1e-4);
    }
    // Chi-square: of many degrees of freedom, so that it is all but normal. Rare tokens count together.
    let (mut statistic, mut classes, mut rare) = (0.0, 0.0, (0.0, 0.0));
    for (token, logit) in logits.iter().enumerate() {
        let expected = logit.exp() / sum * draws as f64;
        let count = f64::from(*counts.get(&(token as u32)).unwrap_or(&0));
        match expected < 5.0 {
            true => rare = (rare.0 + count, rare.1 + expected),
            false => {
                statistic += (count - expected) * (count - expected) / expected;
                classes += 1.0;
            }
        }
    }
    if rare.1 > 1.0 {
        statistic += (rare.0 - rare.1) * (rare.0 - rare.1) / rare.1;
    }
    assert!(classes > 50.0, "{classes}");
    let away = (statistic - classes) / f64::sqrt(2.0 * classes);
    assert!(away < 4.0, "{statistic} {classes}");
}

#[test]
fn requests_begin_in_the_order_in_which_they_came() {
    let model = base();
    let options = EngineOptions {
        max_batch_size: 2,
        prefill_chunk: 20,
        ..EngineOptions::default()
    };
    let mut engine = engine(&model, options);
    let prompt = |length: u32, from: u32| (from..from + length).collect::<Vec<u32>>();
    let lengths = [50, 3, 40, 1, 2, 30];
    let asked: Vec<RequestId> = lengths
        .iter()
        .enumerate()
        .map(|(at, &length)| {
            let request = greedy(&prompt(length, 10 * at as u32), 4, None);
            engine.add(request).unwrap()
        })
        .collect();
    let stats = engine.stats();
    assert_eq!((stats.waiting, stats.running), (6, 0));
    let mut begun = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Token { id, .. } = event
                && !begun.contains(&id)
            {
                begun.push(id);
            }
        }
        assert!(engine.stats().running <= 2);
    }
    // The second one is short and overtakes the first, whose prompt takes three steps; nobody begins before his turn.
    assert_eq!(begun.len(), 6);
    assert!(begun[..2].contains(&asked[0]) && begun[..2].contains(&asked[1]));
    let place = |at: usize| begun.iter().position(|id| *id == asked[at]).unwrap();
    assert!((2..6).all(|at| place(at) >= at - 1), "{begun:?}");
    let stats = engine.stats();
    assert_eq!((stats.prompt_tokens, stats.generated_tokens), (126, 24));
}
