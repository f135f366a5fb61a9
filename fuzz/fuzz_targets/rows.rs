//! A row's text through every format and the encoder.

#![no_main]

use apus_data::chat::dialect::harmony::{self, Harmony};
use apus_data::chat::{Chain, ChatTemplate, EncodeOptions, Encoder, Tokenizer};
use apus_components::registry::Spec;
use apus_data::{invariants}; use apus_components::{registry};
use apus_sdk::{DatasetFormat, Kind, LossScale};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::{Arc, LazyLock};

static FORMATS: LazyLock<Vec<Box<dyn DatasetFormat>>> = LazyLock::new(|| {
    apus_plugins::link();
    let all = registry::all(Kind::DatasetFormat).unwrap();
    let build = |entry: registry::Entry| registry::build(&Spec::named(entry.name)).unwrap();
    all.into_iter().map(build).collect()
});

static ENCODERS: LazyLock<[Encoder; 2]> = LazyLock::new(|| {
    apus_plugins::link();
    [Harmony::native(), Harmony::openai()].map(encoder)
});

fn encoder(template: ChatTemplate) -> Encoder {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/tiny/model_bf16");
    let scales = ["react", "ignore_empty_think"].map(|name| {
        let scale: Box<dyn LossScale> = registry::build(&Spec::named(name)).unwrap();
        (name.to_owned(), scale)
    });
    Encoder::new(
        Arc::new(Tokenizer::load(&tiny).unwrap()),
        template,
        Chain::new(scales.into()).unwrap(),
        EncodeOptions::default(),
    )
    .unwrap()
}

fuzz_target!(|text: &str| {
    for format in FORMATS.iter() {
        for encoder in ENCODERS.iter() {
            for (sample, encoded) in invariants::row(text, format.as_ref(), encoder) {
                harmony::invariants::sample(&sample, &encoded, encoder);
            }
        }
    }
});
