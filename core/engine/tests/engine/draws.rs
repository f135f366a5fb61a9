//! The distribution of sampled tokens.

use crate::common::engine;
use crate::support::base;
use apus_engine::generate::{EngineOptions, Event, Request, Sampling};
use apus_model::nn::ForwardOptions;
use apus_model::ops::SeqLayout;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

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
