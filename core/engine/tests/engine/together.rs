//! Whatever is answered together, each answer is the one that it is alone.

use crate::support::{ADAPTERS, assert_at_rest, base, small, with_adapters};
use apus_engine::generate::{
    Engine, EngineOptions, Event, FinishReason, Request, Sampling, TokenLogprobs,
};
use apus_model::model::CausalLm;
use proptest::prelude::*;
use std::collections::BTreeMap;

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
