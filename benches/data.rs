//! Conversations to tokens with weights: rendering, loss scales, tokenising.

use apus_components::registry::Spec;
use apus_data::chat::EncodeOptions;
use apus_engine::setup::{ChatOptions, encoder};
use apus_sdk::{Conversation, Message, Sample};
use std::path::Path;

fn main() {
    apus_plugins::link();
    divan::main();
}

/// A thousand conversations of two turns.
fn samples() -> Vec<Sample> {
    let conversation = |i: usize| Conversation {
        messages: vec![
            Message::new("user", format!("What is the capital of country {i}?")),
            Message::new(
                "assistant",
                format!("<think>\n\n</think>\n\nIt is city {i}, a harbour town."),
            ),
            Message::new("user", "And how many people live there?"),
            Message::new("assistant", format!("About {} thousand.", i * 7 % 900)),
        ],
        ..Conversation::default()
    };
    (0..1000)
        .map(|i| Sample::Conversation(conversation(i)))
        .collect()
}

#[divan::bench(args = ["default", "ignore_empty_think", "hermes+ignore_empty_think"])]
fn thousand_conversations(bencher: divan::Bencher, loss_scale: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny/model_mxfp4");
    let scales: Vec<Spec> = loss_scale.split('+').map(Spec::named).collect();
    let encoder = encoder(ChatOptions {
        dir: &dir,
        model_dir: None,
        backend: "native",
        loss_scale: &scales,
        encode: EncodeOptions::default(),
    })
    .unwrap();
    let samples = samples();
    bencher.bench_local(|| {
        samples
            .iter()
            .map(|sample| encoder.encode(sample).unwrap().input_ids.len())
            .sum::<usize>()
    });
}
