//! What holds for any conversation in harmony and any text, as functions that panic where it does not: property tests and
//! fuzz targets call them beside [`invariants`](crate::invariants).

use super::{
    ANALYSIS, COMMENTARY, END, FINAL, Harmony, RETURN, START, Span, marked, native, openai, parse,
    parse_completion, parse_rendered,
};
use crate::chat::{
    Chain, Encoded, Encoder, OfRow, RenderOptions, Rendered,
    encode::IGNORED,
    json::dumps,
    template::is_system,
    turns::{PreparedConversation, Purpose, prepare},
    weighted::{Parts, Weighted},
};
use apus_sdk::{Conversation, Message, Sample};
use serde_json::{Value, json};

/// Only at the end of an earlier answer does a label differ from its token, and the conversation can be read back from its
/// rendered text.
///
/// # Panics
/// One of them does not hold.
pub fn sample(sample: &Sample, encoded: &Encoded, encoder: &Encoder) {
    let Sample::Conversation(conversation) = sample else {
        return;
    };
    let id = |token| encoder.tokenizer().id(token);
    for (token, label) in encoded.input_ids.iter().zip(&encoded.labels) {
        if *label != IGNORED && *label != i64::from(*token) {
            assert_eq!(
                (Some(*token), Some(*label)),
                (id(END), id(RETURN).map(i64::from))
            );
        }
    }
    comes_back(conversation);
}

/// With all of its reasoning kept, a conversation that can be rendered is read back from its text, whichever
/// of the built-in renderers wrote it.
fn comes_back(conversation: &Conversation) {
    let options = RenderOptions {
        keep_thinking: true,
        date: Some("2025-08-05".to_owned()),
        ..RenderOptions::default()
    };
    let Ok(prepared) = prepare(
        conversation,
        &Chain::default(),
        &Harmony,
        true,
        Purpose::Training,
        (OfRow::default(), None),
    ) else {
        return;
    };
    let native = native::render(&prepared.conversation, &options);
    let openai = openai::render(&prepared.conversation, &options);
    for (rendered, is_native) in [(native, true), (openai, false)] {
        if let Ok(rendered) = rendered {
            is_read_back(&rendered, &prepared, is_native);
        }
    }
}

fn is_read_back(rendered: &Rendered, prepared: &PreparedConversation, is_native: bool) {
    let spans = parse_rendered(rendered).expect("rendered text is harmony");
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
            && one.header.channel.as_deref() == Some(FINAL);
        let calls = next.header.role == "assistant" && next.header.recipient.is_some();
        assert!(!(answers && calls), "a call after a final message");
    }
}

/// The number of harmony's messages that these parts are.
///
/// An empty text is written by one renderer in some places, and by the other in fewer.
fn messages_of(parts: &Parts, is_native: bool) -> usize {
    let written = |part: &Option<Weighted>, empty: bool| {
        usize::from(
            part.as_ref()
                .is_some_and(|part| empty || !part.text.is_empty()),
        )
    };
    let calls = !parts.calls.is_empty();
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
    let completion = parse_completion(&completion);
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

/// Any text can be read as what a model wrote, and text that is harmony is covered by its messages.
///
/// # Panics
/// It is not.
pub fn text(text: &str) {
    parse_completion(&marked(text)).message();
    let Ok(spans) = parse(text) else {
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
    assert!(at == text.len() || text[at..].starts_with(START));
}

/// A turn of the assistant as openai-harmony's JSON spells it. Words before a call name a channel there, which they do
/// elsewhere only where reasoning stands before them.
pub fn in_channels(thinking: &str, text: &str, arguments: Option<&Value>) -> Vec<Vec<Value>> {
    let message = |channel: &str, text: &str| {
        json!({"role": "assistant", "name": null, "channel": channel,
            "content": [{"type": "text", "text": text}]})
    };
    let mut messages = Vec::new();
    if !thinking.is_empty() {
        messages.push(message(ANALYSIS, thinking));
    }
    let Some(arguments) = arguments else {
        messages.push(message(FINAL, text));
        return vec![messages];
    };
    if !text.is_empty() {
        if thinking.is_empty() {
            return Vec::new();
        }
        messages.push(message(COMMENTARY, text));
    }
    let mut call = message(COMMENTARY, &arguments.to_string());
    call["recipient"] = "functions.f".into();
    call["content_type"] = "<|constrain|>json".into();
    messages.push(call);
    vec![messages]
}
