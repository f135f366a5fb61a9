//! What is trained of a conversation that is rendered as openai-harmony does.

mod data_common;

use apus_data::chat::dialect::harmony::Harmony;
use apus_data::chat::preview::{MarkStyle, marked};
use apus_data::chat::{
    ChatTemplate, EncodeOptions, Encoder, RenderOptions, RowNotes, TrainHeader, TrainStop,
};
use apus_sdk::{Conversation, Message, Sample, ToolCall};
use data_common::{chain, tiny_tokenizer};
use serde_json::{Value, json};

fn encoder(scales: &str, keep_thinking: bool) -> Encoder {
    let options = EncodeOptions {
        train_header: TrainHeader::AfterPrompt,
        train_stop: TrainStop::AsGenerated,
        render: RenderOptions {
            date: Some("2025-08-05".to_owned()),
            keep_thinking,
            ..RenderOptions::default()
        },
        ..EncodeOptions::default()
    };
    let template = Harmony::openai();
    Encoder::new(tiny_tokenizer(), template, chain("", scales), options).unwrap()
}

/// The text behind the system message, trained tokens in brackets.
fn marks(messages: Vec<Message>, encoder: &Encoder) -> (String, RowNotes) {
    let sample = Sample::Conversation(Conversation {
        messages,
        ..Conversation::default()
    });
    let (encoded, noted) = encoder.encode_with_notes(&sample).unwrap();
    let text = marked(&encoded, encoder.tokenizer(), MarkStyle::Brackets);
    let behind = text.split_once("every message.").unwrap().1;
    (behind.trim_start_matches("<|end|>").to_owned(), noted)
}

fn with_call() -> Vec<Message> {
    let thinking = |text: &str| Some(text.to_owned());
    vec![
        Message::new("user", "a"),
        Message {
            thinking: thinking("t"),
            tool_calls: vec![ToolCall {
                name: "f".to_owned(),
                arguments: json!({"x": 1}),
            }],
            ..Message::new("assistant", "Look.")
        },
        Message::new("tool", "r \"s\""),
        Message {
            thinking: thinking("u"),
            ..Message::new("assistant", "b")
        },
    ]
}

const CALL: &str = "<|channel|>commentary<|message|>Look.<|end|><|start|>assistant to=functions.f\
    <|channel|>commentary json<|message|>{\"x\": 1}<|call|>";
const RESULT: &str =
    "<|start|>functions.f to=assistant<|channel|>commentary<|message|>r \"s\"<|end|>";

#[test]
fn reasoning_preamble_call_and_answer_are_trained() {
    let (text, noted) = marks(with_call(), &encoder("default", true));
    let expected = format!(
        "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>analysis<|message|>t<|end|>\
         <|start|>assistant{CALL}]]{RESULT}<|start|>assistant[[<|channel|>analysis<|message|>u<|end|>\
         <|start|>assistant<|channel|>final<|message|>b<|return|>]]"
    );
    assert_eq!(text, expected);
    assert_eq!(noted.dropped, 0);
}

/// As the library does: analysis before the first final message goes where the last answer is one.
#[test]
fn what_the_library_drops_is_counted() {
    let (text, noted) = marks(with_call(), &encoder("default", false));
    let expected = format!(
        "<|start|>user<|message|>a<|end|><|start|>assistant[[{CALL}]]{RESULT}<|start|>assistant\
         [[<|channel|>final<|message|>b<|return|>]]"
    );
    assert_eq!(text, expected);
    assert_eq!(noted.dropped, 1);
    let mut open = with_call();
    open.truncate(2);
    let (text, noted) = marks(open, &encoder("default", false));
    assert!(
        text.contains("[[<|channel|>analysis<|message|>t<|end|>"),
        "{text}"
    );
    assert_eq!(noted.dropped, 0);
}

#[test]
fn weights_find_their_places() {
    let mut messages = with_call();
    messages[1].loss_scale = Some(2.0);
    let (text, _) = marks(messages, &encoder("default", true));
    assert!(
        text.contains(&format!("<|start|>assistant{CALL}]](2){RESULT}")),
        "{text}"
    );
    let (text, _) = marks(with_call(), &encoder("all", true));
    assert!(
        text.contains(RESULT) && text.ends_with("<|return|>]]"),
        "{text}"
    );
    let mut messages = with_call();
    messages[1].loss = Some(false);
    let (text, _) = marks(messages, &encoder("default", true));
    assert!(
        text.contains(&format!("<|start|>assistant{CALL}{RESULT}")),
        "{text}"
    );
}

#[test]
fn an_effort_that_the_library_does_not_know_is_refused() {
    let mut conversation = Conversation {
        messages: vec![Message::new("user", "a"), Message::new("assistant", "b")],
        ..Conversation::default()
    };
    let kwargs = &mut conversation.template_kwargs;
    kwargs.insert("reasoning_effort".to_owned(), Value::from("huge"));
    let error = encoder("default", false).encode(&Sample::Conversation(conversation));
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("\"huge\"") && error.contains("low, medium, high"),
        "{error}"
    );
}

#[test]
fn rows_with_tools_are_counted_where_servers_prompt_otherwise() {
    let sample = Sample::Conversation(Conversation {
        messages: vec![Message::new("user", "a"), Message::new("assistant", "b")],
        tools: vec![json!({"type": "function", "function": {"name": "f"}})],
        ..Conversation::default()
    });
    let tools = |template: ChatTemplate| {
        let options = EncodeOptions::default();
        let encoder = Encoder::new(tiny_tokenizer(), template, chain("", "default"), options);
        encoder.unwrap().encode_with_notes(&sample).unwrap().1.tools
    };
    assert_eq!(tools(Harmony::native()), 1);
    assert_eq!(tools(Harmony::openai()), 0);
}
