//! Rows through the encoder, as text in which brackets stand around what is trained.

pub use crate::data_common::{chain, jinja, tiny_tokenizer};
pub use apus_data::chat::dialect::harmony::Harmony;
pub use apus_data::chat::{
    Chain, ChatTemplate, Dialect, EncodeOptions, Encoded, Encoder, RenderOptions, TrainHeader,
    TrainStop,
    preview::{MarkStyle, marked},
};
pub use apus_sdk::Sample;
pub use serde_json::{Value, json};

use crate::data_common::conversation;

pub fn encoder(template: ChatTemplate, scales: Chain, header: TrainHeader) -> Encoder {
    encoder_with(template, scales, (header, TrainStop::AsGenerated))
}

pub fn encoder_with(
    template: ChatTemplate,
    scales: Chain,
    (train_header, train_stop): (TrainHeader, TrainStop),
) -> Encoder {
    let options = EncodeOptions {
        train_header,
        train_stop,
        render: RenderOptions {
            date: Some("2025-08-05".to_owned()),
            ..RenderOptions::default()
        },
        ..EncodeOptions::default()
    };
    Encoder::new(tiny_tokenizer(), template, scales, options).unwrap()
}

pub fn sample(row: &Value) -> Sample {
    Sample::Conversation(conversation(row.as_object().unwrap()))
}

/// The marked text after the system message, the same from both renderers.
pub fn marks_with(row: &Value, scales: &str, header: TrainHeader) -> String {
    marks_as(row, scales, (header, TrainStop::AsGenerated))
}

pub fn marks_as(row: &Value, scales: &str, switches: (TrainHeader, TrainStop)) -> String {
    let mut texts: Vec<String> = [Some(Harmony::native()), jinja()]
        .into_iter()
        .flatten()
        .map(|template| marks_by(&encoder_with(template, chain("", scales), switches), row))
        .collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts.remove(0)
}

fn marks_by(encoder: &Encoder, row: &Value) -> String {
    let encoded = encoder.encode(&sample(row)).unwrap();
    check(&encoded);
    let text = marked(&encoded, encoder.tokenizer(), MarkStyle::Brackets);
    let text = text.split_once("every message.").unwrap().1;
    text.trim_start_matches("<|end|>").to_owned()
}

pub fn marks(row: &Value, scales: &str) -> String {
    marks_with(row, scales, TrainHeader::AfterPrompt)
}

/// `<|return|>` of the tiny model.
const RETURN: u32 = 742;

pub fn check(encoded: &Encoded) {
    for ((id, label), weight) in encoded
        .input_ids
        .iter()
        .zip(&encoded.labels)
        .zip(&encoded.weights)
    {
        let own = *label == i64::from(*id);
        assert_eq!(*label == -100, *weight == 0.0);
        assert!(
            own || *label == -100 || *label == i64::from(RETURN),
            "{label}"
        );
    }
}

pub fn two_turns() -> Value {
    json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "thinking": "t"},
    ]})
}

/// The marked text after the system message, by the renderer that has a place for all of harmony.
pub fn native_marks(row: &Value, scales: &str) -> String {
    let scales = chain("", scales);
    let encoder = encoder(Harmony::native(), scales, TrainHeader::AfterPrompt);
    marks_by(&encoder, row)
}
