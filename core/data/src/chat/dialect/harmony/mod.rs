//! OpenAI's harmony format, written and read: `<|start|>header<|message|>body<|end|>`. gpt-oss speaks it.
//!
//! Two renderers write it, because two are in use and differ: `native` as the chat template of
//! openai/gpt-oss does, `openai` as OpenAI's library openai-harmony.

mod answer;
mod by_hand;
mod completion;
mod frame;
mod grammar;
pub mod invariants;
mod native;
mod openai;
mod parse;
mod reader;
mod row_notes;
mod schema;
mod system;
mod texts;
mod tools;
mod turn;
mod view;

use super::{
    AnswerReader, AnswerShape, AnswerView, BuiltInRenderer, Dialect, FramedText, SplitAnswer,
    ViewOptions,
};
use crate::chat::{
    notes::RowNoteTexts,
    rendered::Rendered,
    template::{ChatTemplate, RenderOptions},
    turns::Purpose,
    weighted::WeightedMessage,
};
use anyhow::Result;
use apus_sdk::Message;
use completion::parse_completion;
pub use parse::marked;
use parse::{Header, Span, parse, parse_rendered};

/// Opens a message.
const START: &str = "<|start|>";
/// Separates header and body.
const MESSAGE: &str = "<|message|>";
/// Names the channel inside a header.
const CHANNEL: &str = "<|channel|>";
/// Names the type of the body inside a header.
const CONSTRAIN: &str = "<|constrain|>";
/// Ends a message.
const END: &str = "<|end|>";
/// Ends a message and the generation.
const RETURN: &str = "<|return|>";
/// Ends a call of a tool and the generation.
const CALL: &str = "<|call|>";
/// What names of tools that are functions begin with.
const FUNCTIONS: &str = "functions.";
/// Opens an assistant's message; a prompt ends with it.
const ASSISTANT: &str = "<|start|>assistant";
/// The channel of reasoning.
const ANALYSIS: &str = "analysis";
/// The channel of words to the user before a call or an answer, and of calls.
const COMMENTARY: &str = "commentary";
/// The channel of answers.
const FINAL: &str = "final";

static RENDERERS: [BuiltInRenderer; 2] = [
    BuiltInRenderer {
        name: "native",
        writes_as: Some(native::PUBLISHED_TEMPLATE),
        variables: &system::VARIABLES,
        render: native::render,
    },
    BuiltInRenderer {
        name: "harmony",
        writes_as: None,
        variables: &system::VARIABLES,
        render: openai::render,
    },
];

/// The dialect of gpt-oss.
#[derive(Debug, Clone, Copy)]
pub struct Harmony;

impl Harmony {
    /// The renderer that writes what the template of gpt-oss does.
    pub fn native() -> ChatTemplate {
        ChatTemplate::built_in(&Self, &RENDERERS[0])
    }

    /// The renderer that writes what openai-harmony does.
    pub fn openai() -> ChatTemplate {
        ChatTemplate::built_in(&Self, &RENDERERS[1])
    }
}

impl Dialect for Harmony {
    fn name(&self) -> &'static str {
        "harmony"
    }

    fn split(&self, answer: WeightedMessage, think_to_analysis: bool) -> Result<SplitAnswer> {
        answer::split(answer, think_to_analysis)
    }

    fn join(&self, turn: Vec<WeightedMessage>, purpose: Purpose) -> Result<Vec<WeightedMessage>> {
        turn::join(turn, purpose)
    }

    fn renderers(&self) -> &'static [BuiltInRenderer] {
        &RENDERERS
    }

    fn reasoning_key(&self) -> &'static str {
        "thinking"
    }

    fn without_place(&self, message: &Message) -> Option<&'static str> {
        let is_commentary = message.channel.as_deref() == Some(COMMENTARY);
        is_commentary.then_some("commentary")
    }

    fn remark(&self, options: &RenderOptions) -> Option<String> {
        system::remark(options)
    }

    fn row_notes(&self) -> &'static RowNoteTexts {
        &row_notes::TEXTS
    }

    fn texts(&self, rendered: &Rendered) -> Result<Vec<FramedText>> {
        texts::texts(rendered)
    }

    fn stop_tokens(&self) -> &'static [&'static str] {
        &[RETURN, CALL]
    }

    fn answer(&self, generated: &Rendered) -> Message {
        parse_completion(generated).message()
    }

    fn is_final(&self, message: &Message) -> bool {
        message.channel.as_deref() != Some(COMMENTARY)
    }

    fn reader(&self) -> Box<dyn AnswerReader> {
        Box::new(reader::Reader::default())
    }

    fn grammar(&self, shape: &AnswerShape) -> Option<String> {
        Some(grammar::grammar(shape))
    }

    fn view(&self, options: ViewOptions) -> Box<dyn AnswerView> {
        Box::new(view::View::new(options))
    }
}
