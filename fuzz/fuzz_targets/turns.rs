//! A turn of the assistant in all of its spellings.

#![no_main]

use apus_data::chat::dialect::harmony::{self, Harmony};
use apus_data::chat::{Chain, EncodeOptions, Encoder, RenderOptions, Tokenizer};
use apus_components::registry::Spec;
use apus_data::invariants::{Turn, spelled_alike};
use apus_components::registry;
use apus_sdk::DatasetFormat;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::{Arc, LazyLock};

static MESSAGES: LazyLock<Box<dyn DatasetFormat>> = LazyLock::new(|| {
    apus_plugins::link();
    registry::build(&Spec::named("messages")).unwrap()
});

static ENCODERS: LazyLock<Vec<Encoder>> = LazyLock::new(|| {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/tiny/model_bf16");
    let tokenizer = Arc::new(Tokenizer::load(&tiny).unwrap());
    let encoder = |template, keep_thinking| {
        let options = EncodeOptions {
            render: RenderOptions {
                keep_thinking,
                ..RenderOptions::default()
            },
            ..EncodeOptions::default()
        };
        Encoder::new(Arc::clone(&tokenizer), template, Chain::default(), options).unwrap()
    };
    let each = [true, false].map(|keep_thinking| {
        [Harmony::native(), Harmony::openai()]
            .map(|template| encoder(template, keep_thinking))
    });
    each.into_iter().flatten().collect()
});

fuzz_target!(|input: (String, String, Option<String>)| {
    let (thinking, text, argument) = input;
    let turn = Turn::new(&thinking, &text, argument.as_deref());
    let more = harmony::invariants::in_channels(&turn.thinking, &turn.text, turn.arguments.as_ref());
    for encoder in ENCODERS.iter() {
        spelled_alike(&turn, more.clone(), MESSAGES.as_ref(), encoder);
    }
});
