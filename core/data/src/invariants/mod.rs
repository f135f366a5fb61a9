//! What holds for any input at all, however broken. Property tests call these functions with
//! generated input, fuzz targets (`fuzz/`) with what a fuzzer finds; each panics where something
//! does not hold.

mod closed;
mod spelling;

pub use spelling::{Turn, spelled_alike};

use crate::chat::{
    Chain, Encoded, Encoder, RenderOptions, Rendered,
    encode::IGNORED,
    harmony::{self, Span},
    json::dumps,
    template::is_system,
    turns::{Parts, PreparedConversation, Purpose, prepare},
    weighted::Weighted,
};
use apus_components::registry;
use apus_components::registry::Spec;
use apus_sdk::{Conversation, DatasetFormat, Field, Kind, LossScale, Message, Sample};
use serde_json::Value;

/// The names of the loss scales that can stand anywhere in a chain and need no options.
///
/// # Panics
/// Two of the same name.
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
/// fit together and control tokens that no text of the row made, and its conversation can be read back
/// from the rendered text. Nothing of the row is dropped in silence, and one that says that it is not trained
/// is not.
///
/// # Panics
/// Something of this does not hold.
pub fn row(text: &str, format: &dyn DatasetFormat, encoder: &Encoder) {
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
                comes_back(conversation);
            }
        }
    }
    if let Ok(row) = serde_json::from_str(text) {
        closed::nothing_in_silence(&row, format);
        closed::untrained(&row, format, encoder);
    }
}

fn fits(encoded: &Encoded, encoder: &Encoder, sample: &Sample) {
    let n = encoded.input_ids.len();
    assert_eq!((encoded.labels.len(), encoded.weights.len()), (n, n));
    let stop = encoder.tokenizer().id(harmony::RETURN).map(i64::from);
    let end = encoder.tokenizer().id(harmony::END);
    for ((id, label), weight) in encoded
        .input_ids
        .iter()
        .zip(&encoded.labels)
        .zip(&encoded.weights)
    {
        assert!(weight.is_finite() && *weight >= 0.0);
        assert_eq!(*label == IGNORED, *weight == 0.0);
        let stops = Some(*label) == stop && Some(*id) == end;
        let known = *label == IGNORED || *label == i64::from(*id) || stops;
        assert!(known || matches!(sample, Sample::Tokens(_)));
    }
}

/// The control tokens of a conversation's ids are those of its frame: the same ones that it has with every
/// text in it changed so that it looks like none.
///
/// # Panics
/// They are not.
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
        .prepare(conversation, purpose)
        .expect("it was encoded");
    let plain = &mut plain.conversation;
    let broken = |text: &str| tokenizer.control().broken(text).into_owned();
    for message in &mut plain.messages {
        message.thinking = message.thinking.as_deref().map(broken);
        in_texts(&mut message.content, &broken);
        for call in &mut message.tool_calls {
            in_texts(&mut call.arguments, &broken);
        }
    }
    plain
        .tools
        .iter_mut()
        .for_each(|tool| in_texts(tool, &broken));
    let kwargs = plain.template_kwargs.values_mut();
    kwargs.for_each(|value| in_texts(value, &broken));
    let options = RenderOptions {
        add_generation_prompt,
        ..encoder.options().render.clone()
    };
    let rendered = encoder.render(plain, &options).expect("it was rendered");
    let expected = tokenizer.encode(&rendered).expect("it was encoded").ids;
    assert_eq!(control(ids), control(&expected));
}

fn in_texts(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| in_texts(item, change)),
        Value::Object(fields) => {
            let changed = std::mem::take(fields).into_iter().map(|(key, mut value)| {
                in_texts(&mut value, change);
                (change(&key), value)
            });
            *fields = changed.collect();
        }
        _ => {}
    }
}

/// With all of its reasoning kept, a conversation that can be rendered is read back from its text, whichever
/// of the built-in renderers wrote it.
///
/// # Panics
/// It is not.
pub fn comes_back(conversation: &Conversation) {
    let options = RenderOptions {
        keep_thinking: true,
        date: Some("2025-08-05".to_owned()),
        ..RenderOptions::default()
    };
    let Ok(prepared) = prepare(conversation, &Chain::default(), true, Purpose::Training) else {
        return;
    };
    let native = harmony::native::render(&prepared.conversation, &options);
    let openai = harmony::openai::render(&prepared.conversation, &options);
    for (rendered, is_native) in [(native, true), (openai, false)] {
        if let Ok(rendered) = rendered {
            is_read_back(&rendered, &prepared, is_native);
        }
    }
}

fn is_read_back(rendered: &Rendered, prepared: &PreparedConversation, is_native: bool) {
    let spans = harmony::parse_rendered(rendered).expect("rendered text is harmony");
    turns_end_once(&spans);
    let mut spans = spans.iter().skip_while(|span| {
        let role = span.header.role.as_str();
        role == "system" || role == "developer"
    });
    let messages = prepared.conversation.messages.iter().zip(&prepared.parts);
    for (message, parts) in messages.skip_while(|(message, _)| is_system(message)) {
        let count = messages_of(parts, is_native);
        let own: Vec<&Span> = spans.by_ref().take(count).collect();
        let bodies: Vec<&str> = own.iter().map(|s| &rendered.text[s.body.clone()]).collect();
        match (message.role.as_str(), message.text()) {
            ("assistant", _) => answer_comes_back(message, rendered, &own, is_native),
            ("tool", Some(text)) if !is_native => assert_eq!(bodies, [text]),
            ("tool", _) => assert_eq!(bodies, [dumps(&message.content)]),
            (_, text) => assert_eq!(bodies, [text.unwrap_or_default()]),
        }
    }
    assert_eq!(spans.next(), None, "a message too many");
}

/// A final message ends a turn: no call of the same turn comes after it.
fn turns_end_once(spans: &[Span]) {
    for pair in spans.windows(2) {
        let [one, next] = pair else { continue };
        let answers = one.header.role == "assistant"
            && one.header.recipient.is_none()
            && one.header.channel.as_deref() == Some("final");
        let calls = next.header.role == "assistant" && next.header.recipient.is_some();
        assert!(!(answers && calls), "a call after a final message");
    }
}

/// How many of harmony's messages these parts are.
///
/// An empty text is written by one renderer in some places, and by the other in fewer.
fn messages_of(parts: &Parts, is_native: bool) -> usize {
    let written = |part: &Option<Weighted>, empty: bool| {
        usize::from(
            part.as_ref()
                .is_some_and(|part| empty || !part.text.is_empty()),
        )
    };
    let calls = parts.call.is_some();
    written(&parts.thinking, is_native && !calls)
        + written(&parts.content, !calls)
        + usize::from(calls)
}

fn answer_comes_back(message: &Message, rendered: &Rendered, spans: &[&Span], is_native: bool) {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        // Reasoning that is empty, alone.
        assert!(!is_native && message.content.is_null() && message.tool_calls.is_empty());
        return;
    };
    let completion = rendered.slice(first.opening.end..last.closing.end);
    let completion = harmony::parse_completion(&completion);
    assert!(completion.parts.iter().all(|part| part.complete));
    let found = completion.message();
    assert_eq!(found.tool_calls.len(), message.tool_calls.len());
    for (found, call) in found.tool_calls.iter().zip(&message.tool_calls) {
        assert_eq!(found.name, call.name);
        assert_eq!(dumps(&found.arguments), dumps(&call.arguments));
    }
    let filled = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let thinking = filled(message.thinking.as_deref());
    if message.tool_calls.is_empty() || message.channel.is_some() {
        assert_eq!(found.text(), message.text());
        assert_eq!(filled(found.thinking.as_deref()), thinking);
    } else if is_native {
        let reasoning = thinking.or(filled(message.text()));
        assert_eq!(filled(found.thinking.as_deref()), reasoning);
    } else {
        assert_eq!(filled(found.text()), filled(message.text()));
        assert_eq!(filled(found.thinking.as_deref()), thinking);
    }
}

/// The segments of a chain join back to the text, and the chain is the fold of its links.
///
/// # Panics
/// They do not, or it is not.
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

/// Any text can be read as what a model wrote, and text that is harmony is covered by its messages.
///
/// # Panics
/// It is not.
pub fn harmony_text(text: &str) {
    harmony::parse_completion(&harmony::marked(text)).message();
    let Ok(spans) = harmony::parse(text) else {
        return;
    };
    let mut at = 0;
    for span in &spans {
        let ranges = [&span.opening, &span.head, &span.body, &span.closing];
        for range in ranges {
            assert_eq!(range.start, at);
            at = range.end;
        }
    }
    assert!(at == text.len() || text[at..].starts_with(harmony::START));
}
