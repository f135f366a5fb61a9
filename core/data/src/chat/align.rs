//! Carries the weights of a conversation's texts over to its rendered form.
//!
//! Harmony delimits its messages, so the rendered text is read back into messages and each is matched
//! with the message of the conversation that it came from, whichever renderer made it.

use super::{
    assistant_texts::{self, AssistantText},
    frame::{TrainHeader, TrainStop},
    harmony::{self, END, Span},
    rendered::Rendered,
    turns::PreparedConversation,
    weighted::Weighted,
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::Base;
use std::{collections::VecDeque, ops::Range};

/// The weights of a rendered conversation, which say what of it is trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Aligned {
    /// A weight for each byte; bytes of weight 0 are not trained.
    pub weights: Vec<f32>,
    /// The offsets of each `<|end|>` in whose place the model has to write `<|return|>`, in order.
    pub returns: Vec<usize>,
    /// The number of texts of reasoning that the renderer left out.
    pub left_out: usize,
}

/// Computes a weight for each byte of the rendered text.
///
/// # Errors
/// The rendered text is not harmony, or does not hold the texts of the conversation unchanged.
pub fn align(
    rendered: &Rendered,
    prepared: &PreparedConversation,
    base: Base,
    (header, stop): (TrainHeader, TrainStop),
) -> Result<Aligned> {
    let spans = harmony::parse_rendered(rendered);
    let spans = spans.context("the chat template's text is not harmony")?;
    // If everything is trained, the labels are the text as it is rendered.
    let (weight, header, stop) = match base {
        Base::All => (1.0, TrainHeader::Full, TrainStop::End),
        _ => (0.0, header, stop),
    };
    let mut aligner = Aligner {
        rendered: &rendered.text,
        aligned: Aligned {
            weights: vec![weight; rendered.text.len()],
            returns: Vec::new(),
            left_out: 0,
        },
        prepared,
        texts: assistant_texts::all(prepared),
        next: 0,
        continues: 0.0,
        header,
        stop,
    };
    for (i, span) in spans.iter().enumerate() {
        let goes_on = spans.get(i + 1).is_some_and(is_assistant);
        aligner.align_span(span, goes_on)?;
    }
    aligner.leave_out(usize::MAX)?;
    Ok(aligner.aligned)
}

fn is_assistant(span: &Span) -> bool {
    span.header.role == "assistant"
}

/// Whether a turn ends with a message like this one. Reasoning and commentary do not end it.
fn is_answer(span: &Span) -> bool {
    !matches!(
        span.header.channel.as_deref(),
        Some("analysis" | "commentary")
    )
}

struct Aligner<'a> {
    rendered: &'a str,
    aligned: Aligned,
    prepared: &'a PreparedConversation,
    /// The texts of the assistant that were not found yet, in order.
    texts: VecDeque<AssistantText<'a>>,
    /// The message that the next span belongs to, or one before it.
    next: usize,
    /// The weight of the closing token of the previous message, if both messages are in one turn of the assistant.
    continues: f32,
    header: TrainHeader,
    stop: TrainStop,
}

impl<'a> Aligner<'a> {
    /// Writes the weights of a message; `goes_on` says that the next message is the assistant's, too.
    fn align_span(&mut self, span: &Span, goes_on: bool) -> Result<()> {
        let role = span.header.role.as_str();
        let continues = std::mem::take(&mut self.continues);
        match role {
            "system" => Ok(()),
            "assistant" => self.assistant(span, continues, goes_on),
            "developer" => match self.prepared.conversation.messages.first() {
                Some(first) if first.role == "system" || first.role == "developer" => {
                    self.next = 1;
                    self.prompt(span, 0)
                }
                _ => Ok(()),
            },
            _ => {
                let wanted = if role == "user" { "user" } else { "tool" };
                let index = self.find(wanted)?;
                self.leave_out(index)?;
                self.next = index + 1;
                self.prompt(span, index)
            }
        }
    }

    fn find(&self, role: &str) -> Result<usize> {
        let messages = &self.prepared.conversation.messages;
        let rest = messages.iter().enumerate().skip(self.next);
        rest.clone()
            .find(|(_, message)| message.role == role)
            .map(|(index, _)| index)
            .with_context(|| format!("the chat template rendered a {role} message too many"))
    }

    fn prompt(&mut self, span: &Span, index: usize) -> Result<()> {
        let prepared = self.prepared;
        let Some(content) = &prepared.parts[index].content else {
            return Ok(());
        };
        if !content.is_trained() {
            self.fill(span.opening.start..span.closing.end, 0.0);
            return Ok(());
        }
        if prepared.conversation.messages[index].role == "tool" {
            // The renderers write results in two ways, as JSON or as plain text, so a result has one weight.
            self.fill(span.body.clone(), content.open);
        } else if !content.text.is_empty() {
            self.body(span, content, index)?;
        }
        if self.header == TrainHeader::Full {
            self.fill(span.opening.start..span.head.end, content.open);
        }
        self.fill(span.closing.clone(), content.close);
        Ok(())
    }

    fn assistant(&mut self, span: &Span, continues: f32, goes_on: bool) -> Result<()> {
        let AssistantText { message, part, .. } = self.text(span)?;
        if !part.is_trained() {
            self.fill(span.opening.start..span.closing.end, 0.0);
            return Ok(());
        }
        self.body(span, part, message)?;
        match self.header {
            TrainHeader::None => {}
            TrainHeader::Channel => {
                self.fill(span.head.clone(), part.open);
                self.fill(span.opening.clone(), continues);
            }
            TrainHeader::Full => self.fill(span.opening.start..span.head.end, part.open),
        }
        self.fill(span.closing.clone(), part.close);
        if &self.rendered[span.closing.clone()] == END {
            if goes_on {
                self.continues = part.close;
            } else if is_answer(span) {
                self.answer_ends(span, part.close);
            }
        }
        Ok(())
    }

    /// An earlier answer ends with `<|end|>`, but what the model has to write there is `<|return|>`:
    /// the template writes `<|end|>` only because the conversation goes on.
    fn answer_ends(&mut self, span: &Span, weight: f32) {
        match self.stop {
            TrainStop::End => {}
            TrainStop::None => self.fill(span.closing.clone(), 0.0),
            TrainStop::Return if weight > 0.0 => self.aligned.returns.push(span.closing.start),
            TrainStop::Return => {}
        }
    }

    /// Finds the text that a span of the assistant holds, past reasoning that the renderer left out.
    fn text(&mut self, span: &Span) -> Result<AssistantText<'a>> {
        let body = &self.rendered[span.body.clone()];
        while let Some(text) = self.texts.pop_front() {
            self.next = text.message;
            if text.is_in(span, body) {
                return Ok(text);
            }
            self.left_out(&text)?;
        }
        bail!("the chat template rendered an assistant message too many")
    }

    /// Passes over texts of earlier messages of the assistant that the renderer left out.
    fn leave_out(&mut self, before: usize) -> Result<()> {
        let is_before = |text: &AssistantText| text.message < before;
        while self.texts.front().is_some_and(is_before) {
            if let Some(text) = self.texts.pop_front() {
                self.left_out(&text)?;
            }
        }
        Ok(())
    }

    fn left_out(&mut self, text: &AssistantText) -> Result<()> {
        ensure!(
            text.is_reasoning(),
            "message {}: the chat template left its {} out",
            text.message + 1,
            text.noun()
        );
        self.aligned.left_out += usize::from(!text.part.text.is_empty());
        Ok(())
    }

    fn body(&mut self, span: &Span, part: &Weighted, index: usize) -> Result<()> {
        let body = &self.rendered[span.body.clone()];
        let Some(at) = body.find(&part.text) else {
            bail!(
                "message {}: the chat template changed the text, so its weights have no place; \
                 expected `{}` in `{}`",
                index + 1,
                shorten(&part.text),
                shorten(body)
            );
        };
        let from = span.body.start + at;
        self.aligned.weights[from..from + part.weights.len()].copy_from_slice(&part.weights);
        Ok(())
    }

    fn fill(&mut self, range: Range<usize>, weight: f32) {
        self.aligned.weights[range].fill(weight);
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
