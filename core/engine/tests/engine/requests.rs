//! What requests ask for: prompts that share a beginning, ends, masks, limits, turns.

use crate::common::{answers, engine, golden, with_adapter};
use crate::support::{ADAPTERS, assert_at_rest, base, greedy, plain, small, with_adapters};
use apus_engine::generate::{
    Engine, EngineOptions, Event, FinishReason, Request, RequestId, Sampling, TokenMask,
};
use std::collections::HashMap;

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
