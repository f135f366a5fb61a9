//! What one family of models has its own way of: how its conversations look as text, and how its answers read.
//!
//! A [`Dialect`] is the only place that knows a family's control tokens. Whoever uses one works on what it gives:
//! preparation ([`turns`](super::turns)) asks how a turn is split into messages and joined, rendering
//! ([`template`](super::template)) which renderers are built in, alignment ([`align`](super::align)) where the texts of a
//! conversation stand in its rendered form, and generation where an answer ends and what it says.
//!
//! A dialect is a folder beside this file and a row of the list below.

mod framed_text;
pub mod harmony;
mod reader;
mod renderer;
mod view;

pub use framed_text::{Author, FramedText, TextEnd, TextKind};
pub use reader::{AnswerDelta, AnswerPart, AnswerReader, AnswerShape};
pub use renderer::BuiltInRenderer;
pub use view::{AnswerView, ViewOptions};

use super::{
    notes::RowNoteTexts, rendered::Rendered, template::RenderOptions, turns::Purpose,
    weighted::WeightedMessage,
};
use anyhow::Result;
use apus_sdk::Message;
use harmony::Harmony;

/// The dialect of each family of models, by `model_type` in its config.json. The first one is that of tokenizers that no
/// config.json stands beside.
const DIALECTS: [(&str, &dyn Dialect); 1] = [("gpt_oss", &Harmony)];

/// The dialect of a family of models.
pub fn of(model_type: Option<&str>) -> &'static dyn Dialect {
    let known = DIALECTS
        .iter()
        .find(|(known, _)| Some(*known) == model_type);
    known.unwrap_or(&DIALECTS[0]).1
}

/// The conversation format of a family of models.
pub trait Dialect: Sync {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Splits an answer of the dataset into the messages that it is: an answer may hold reasoning or calls in its content.
    /// With `think_to_analysis`, a leading `<think>` block is reasoning.
    ///
    /// # Errors
    /// The dialect has no place for what the answer holds.
    fn split(&self, answer: WeightedMessage, think_to_analysis: bool) -> Result<SplitAnswer>;

    /// Joins the messages of one turn of the assistant into those that are rendered.
    ///
    /// # Errors
    /// The dialect cannot write such a turn; the error names the message by its number.
    fn join(&self, turn: Vec<WeightedMessage>, purpose: Purpose) -> Result<Vec<WeightedMessage>>;

    /// The renderers that are built in. The first one stands in for a model without a template.
    fn renderers(&self) -> &'static [BuiltInRenderer] {
        &[]
    }

    /// The key of a message under which templates look for its reasoning.
    fn reasoning_key(&self) -> &'static str;

    /// What a message holds that the model's own template has no place for.
    fn without_place(&self, _message: &Message) -> Option<&'static str> {
        None
    }

    /// A note on rendering options that the models of this dialect were not trained with.
    fn remark(&self, _options: &RenderOptions) -> Option<String> {
        None
    }

    /// What is said of rows that were changed on their way to tokens.
    fn row_notes(&self) -> &'static RowNoteTexts;

    /// Finds the texts of all messages in a rendered conversation, in order. A generation prompt at the end is left out.
    ///
    /// # Errors
    /// The text is not of this dialect; the error says from which byte on.
    fn texts(&self, rendered: &Rendered) -> Result<Vec<FramedText>>;

    /// The control tokens at which generation of an answer stops, in addition to those that the model's files name.
    fn stop_tokens(&self) -> &'static [&'static str];

    /// Reads what a model generated after a prompt: reasoning, calls of tools and answer. Whatever a model writes can be
    /// read.
    fn answer(&self, generated: &Rendered) -> Message;

    /// Whether the content of a message of the assistant is part of its final answer.
    fn is_final(&self, message: &Message) -> bool;

    /// Reads an answer while it is generated.
    fn reader(&self) -> Box<dyn AnswerReader>;

    /// The grammar of answers of a shape, in Lark's notation as llguidance reads it; `None` if the dialect has none.
    fn grammar(&self, _shape: &AnswerShape) -> Option<String> {
        None
    }

    /// Shows an answer while it is generated.
    fn view(&self, options: ViewOptions) -> Box<dyn AnswerView>;
}

impl dyn Dialect {
    /// The built-in renderer of this name.
    pub fn renderer(&self, name: &str) -> Option<&'static BuiltInRenderer> {
        self.renderers().iter().find(|known| known.name == name)
    }

    /// The names of the built-in renderers, for messages: `a or b`; empty if there are none.
    pub fn renderer_names(&self) -> String {
        let names: Vec<&str> = self.renderers().iter().map(|known| known.name).collect();
        names.join(" or ")
    }

    /// Advice to use a built-in renderer, between these texts; empty if there is none.
    pub fn advise(&self, before: &str, after: &str) -> String {
        match self.renderer_names() {
            names if names.is_empty() => names,
            names => format!("{before}--template_backend {names}{after}"),
        }
    }
}

/// An answer of the dataset as the messages that it is.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitAnswer {
    /// The messages, in order.
    pub messages: Vec<WeightedMessage>,
    /// Whether a `<think>` block was taken out of the content.
    pub moved_thinking: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_dialect_and_others_the_first() {
        for (model_type, dialect) in DIALECTS {
            assert_eq!(of(Some(model_type)).name(), dialect.name());
        }
        for unknown in [None, Some("llama")] {
            assert_eq!(of(unknown).name(), DIALECTS[0].1.name());
        }
    }

    #[test]
    fn renderers_have_names_of_their_own() {
        for (_, dialect) in DIALECTS {
            for (i, renderer) in dialect.renderers().iter().enumerate() {
                assert!(!["auto", "jinja"].contains(&renderer.name));
                let found = dialect
                    .renderers()
                    .iter()
                    .position(|r| r.name == renderer.name);
                assert_eq!(found, Some(i), "{}", renderer.name);
                assert!(dialect.renderer(renderer.name).is_some());
            }
        }
    }
}
