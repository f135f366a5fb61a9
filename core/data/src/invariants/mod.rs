//! What holds for any input, however broken. Property tests call these functions with
//! generated input, and fuzz targets (`fuzz/`) with what a fuzzer finds. A function panics if something
//! does not hold.

mod closed;
mod spelling;

pub use spelling::{Turn, spelled_alike};

use crate::chat::{Chain, Encoded, Encoder, OfRow, RenderOptions, encode::IGNORED, turns::Purpose};
use apus_components::registry;
use apus_components::registry::Spec;
use apus_sdk::{Conversation, DatasetFormat, Field, Kind, LossScale, Sample};
use serde_json::Value;

/// The names of the loss scales that can stand anywhere in a chain and need no options.
///
/// # Panics
/// Two loss scales have the same name.
pub fn scales() -> Vec<String> {
    let known = registry::all(Kind::LossScale).expect("names are unique");
    let names = known.into_iter().map(|entry| entry.name);
    let turn = apus_sdk::Turn {
        role: "assistant",
        field: Field::Content,
        query: None,
        is_last: true,
    };
    let anywhere = |name: &String| {
        let scale = registry::build::<dyn LossScale>(&Spec::named(name.as_str()));
        scale.is_ok_and(|scale| scale.base().is_none() && scale.segments("", &turn).is_ok())
    };
    names.filter(anywhere).collect()
}

/// A row's text is refused or gives samples; a sample is refused or gives ids, labels and weights that
/// fit together and control tokens that no text of the row made. Nothing of the row is dropped in silence, and one that says
/// that it is not trained is not. Returns the samples that can be encoded, for what holds in their dialect besides.
///
/// # Panics
/// Something of this does not hold.
pub fn row(text: &str, format: &dyn DatasetFormat, encoder: &Encoder) -> Vec<(Sample, Encoded)> {
    let mut all = Vec::new();
    for sample in format.convert_text(text).unwrap_or_default() {
        if let Sample::Conversation(conversation) = &sample
            && let Ok((_, ids)) = encoder.prompt(conversation)
        {
            only_the_frame_is_control(&ids, conversation, encoder, true);
        }
        if let Ok(encoded) = encoder.encode(&sample) {
            fits(&encoded, encoder, &sample);
            if let Sample::Conversation(conversation) = &sample {
                only_the_frame_is_control(&encoded.input_ids, conversation, encoder, false);
            }
            all.push((sample, encoded));
        }
    }
    if let Ok(row) = serde_json::from_str(text) {
        closed::nothing_in_silence(&row, format);
        closed::untrained(&row, format, encoder);
    }
    all
}

fn fits(encoded: &Encoded, encoder: &Encoder, sample: &Sample) {
    let n = encoded.input_ids.len();
    assert_eq!((encoded.labels.len(), encoded.weights.len()), (n, n));
    let tokenizer = encoder.tokenizer();
    let stops = tokenizer.stop_ids(encoder.dialect().stop_tokens());
    for ((id, label), weight) in encoded
        .input_ids
        .iter()
        .zip(&encoded.labels)
        .zip(&encoded.weights)
    {
        assert!(weight.is_finite() && *weight >= 0.0);
        assert_eq!(*label == IGNORED, *weight == 0.0);
        let is_stop = |label: i64| stops.iter().any(|stop| i64::from(*stop) == label);
        let replaces = tokenizer.is_special(*id) && is_stop(*label);
        let known = *label == IGNORED || *label == i64::from(*id) || replaces;
        assert!(known || matches!(sample, Sample::Tokens(_)));
    }
}

/// The control tokens of a conversation's ids are those of its frames: they are the same if every text in it is changed so
/// that it holds no control token.
///
/// # Panics
/// They are not the same.
fn only_the_frame_is_control(
    ids: &[u32],
    conversation: &Conversation,
    encoder: &Encoder,
    add_generation_prompt: bool,
) {
    let tokenizer = encoder.tokenizer();
    let control = |ids: &[u32]| -> Vec<u32> {
        let special = ids.iter().filter(|id| tokenizer.is_special(**id));
        special.copied().collect()
    };
    let purpose = match add_generation_prompt {
        true => Purpose::Prompt,
        false => Purpose::Training,
    };
    let mut plain = encoder
        .prepare(conversation, purpose, OfRow::default())
        .expect("it was encoded");
    let plain = &mut plain.conversation;
    let broken = |text: &str| tokenizer.control().broken(text).into_owned();
    for message in &mut plain.messages {
        message.thinking = message.thinking.as_deref().map(broken);
        change_texts(&mut message.content, &broken);
        for call in &mut message.tool_calls {
            change_texts(&mut call.arguments, &broken);
        }
    }
    plain
        .tools
        .iter_mut()
        .for_each(|tool| change_texts(tool, &broken));
    let kwargs = plain.template_kwargs.values_mut();
    kwargs.for_each(|value| change_texts(value, &broken));
    let options = RenderOptions {
        add_generation_prompt,
        ..encoder.options().render.clone()
    };
    let rendered = encoder.render(plain, &options).expect("it was rendered");
    let expected = tokenizer.encode(&rendered).expect("it was encoded").ids;
    assert_eq!(control(ids), control(&expected));
}

/// Changes every text in a value, keys included.
fn change_texts(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change_texts(item, change)),
        Value::Object(fields) => {
            let changed = std::mem::take(fields).into_iter().map(|(key, mut value)| {
                change_texts(&mut value, change);
                (change(&key), value)
            });
            *fields = changed.collect();
        }
        _ => {}
    }
}

/// The segments of a chain join back to the text, and the chain is the fold of its links.
///
/// # Panics
/// One of the two does not hold.
pub fn chain_is_a_fold(text: &str, turn: &apus_sdk::Turn, chain: &Chain, links: &[Chain]) {
    let Ok(segments) = chain.fold(text, turn) else {
        return;
    };
    let joined: String = segments.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(joined, text);
    let mut folded = vec![apus_sdk::Segment::new(text, 1.0)];
    for link in links {
        let inner = |outer: apus_sdk::Segment| {
            let mut parts = link
                .fold(&outer.text, turn)
                .expect("the chain did not fail");
            parts
                .iter_mut()
                .for_each(|part| part.weight *= outer.weight);
            parts
        };
        folded = folded.into_iter().flat_map(inner).collect();
    }
    assert_eq!(segments, folded);
}
