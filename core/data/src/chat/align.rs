//! Carries the weights of a conversation's texts over to its rendered form.
//!
//! The dialect finds the texts of the messages in it, and each is matched with the message of the conversation that it came
//! from, whichever renderer made it.

use super::{
    TrainHeader, TrainStop,
    assistant_texts::{self, AssistantText},
    dialect::{Author, Dialect, FramedText, TextEnd},
    rendered::Rendered,
    template::is_system,
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
    /// Where the model has to write another control token than the one that is rendered: the offset of that one, and the
    /// token, in order.
    pub replaced: Vec<(usize, &'static str)>,
    /// The number of texts of reasoning that the renderer left out.
    pub left_out: usize,
}

/// Computes a weight for each byte of the rendered text.
///
/// # Errors
/// The rendered text is not of the dialect, or does not hold the texts of the conversation unchanged.
pub fn align(
    rendered: &Rendered,
    prepared: &PreparedConversation,
    dialect: &dyn Dialect,
    base: Base,
    (header, stop): (TrainHeader, TrainStop),
) -> Result<Aligned> {
    let texts = dialect.texts(rendered);
    let texts =
        texts.with_context(|| format!("the chat template's text is not {}", dialect.name()))?;
    // If everything is trained, the labels are the text as it is rendered.
    let (weight, header, stop) = match base {
        Base::All => (1.0, TrainHeader::Full, TrainStop::AsRendered),
        _ => (0.0, header, stop),
    };
    let mut aligner = Aligner {
        rendered: &rendered.text,
        aligned: Aligned {
            weights: vec![weight; rendered.text.len()],
            replaced: Vec::new(),
            left_out: 0,
        },
        prepared,
        texts: assistant_texts::all(prepared),
        next: 0,
        same_turn: 0.0,
        header,
        stop,
    };
    for framed in &texts {
        aligner.align_text(framed)?;
    }
    aligner.leave_out(usize::MAX)?;
    Ok(aligner.aligned)
}

struct Aligner<'a> {
    rendered: &'a str,
    aligned: Aligned,
    prepared: &'a PreparedConversation,
    /// The texts of the assistant that were not found yet, in order.
    texts: VecDeque<AssistantText<'a>>,
    /// The message that the next text belongs to, or one before it.
    next: usize,
    /// The weight of the stop of the previous message, if the next one is of the same turn of the assistant.
    same_turn: f32,
    header: TrainHeader,
    stop: TrainStop,
}

impl<'a> Aligner<'a> {
    /// Writes the weights of a text.
    fn align_text(&mut self, framed: &FramedText) -> Result<()> {
        let same_turn = std::mem::take(&mut self.same_turn);
        match framed.author {
            Author::Renderer => Ok(()),
            Author::Assistant => self.assistant(framed, same_turn),
            Author::Instructions => match self.prepared.conversation.messages.first() {
                Some(first) if is_system(first) => {
                    self.next = 1;
                    self.prompt(framed, 0)
                }
                _ => Ok(()),
            },
            Author::User => self.next_prompt(framed, "user"),
            Author::Tool => self.next_prompt(framed, "tool"),
        }
    }

    /// Writes the weights of a text that is that of the next message with this role.
    fn next_prompt(&mut self, framed: &FramedText, role: &str) -> Result<()> {
        let index = self.find(role)?;
        self.leave_out(index)?;
        self.next = index + 1;
        self.prompt(framed, index)
    }

    fn find(&self, role: &str) -> Result<usize> {
        let messages = &self.prepared.conversation.messages;
        let rest = messages.iter().enumerate().skip(self.next);
        rest.clone()
            .find(|(_, message)| message.role == role)
            .map(|(index, _)| index)
            .with_context(|| format!("the chat template rendered a {role} message too many"))
    }

    fn prompt(&mut self, framed: &FramedText, index: usize) -> Result<()> {
        let prepared = self.prepared;
        let Some(content) = &prepared.parts[index].content else {
            return Ok(());
        };
        if !content.is_trained() {
            self.fill(framed.opening.start..framed.stop.end, 0.0);
            return Ok(());
        }
        if prepared.conversation.messages[index].role == "tool" {
            // The renderers write results in two ways, as JSON or as plain text, so a result has one weight.
            self.fill(framed.body.clone(), content.open);
        } else if !content.text.is_empty() {
            self.body(framed, content, index)?;
        }
        if self.header == TrainHeader::Full {
            self.fill(framed.opening.start..framed.header.end, content.open);
        }
        self.fill(framed.stop.clone(), content.close);
        Ok(())
    }

    fn assistant(&mut self, framed: &FramedText, same_turn: f32) -> Result<()> {
        let AssistantText { message, part, .. } = self.text(framed)?;
        if !part.is_trained() {
            self.fill(framed.opening.start..framed.stop.end, 0.0);
            return Ok(());
        }
        self.body(framed, part, message)?;
        match self.header {
            TrainHeader::None => {}
            TrainHeader::AfterPrompt => {
                self.fill(framed.header.clone(), part.open);
                self.fill(framed.opening.clone(), same_turn);
            }
            TrainHeader::Full => self.fill(framed.opening.start..framed.header.end, part.open),
        }
        self.fill(framed.stop.clone(), part.close);
        match framed.end {
            TextEnd::Plain => {}
            TextEnd::SameTurn => self.same_turn = part.close,
            TextEnd::NextTurn(token) => self.answer_ends(framed, token, part.close),
        }
        Ok(())
    }

    /// Where an earlier answer ends, what is rendered is not what the model has to write.
    fn answer_ends(&mut self, framed: &FramedText, token: &'static str, weight: f32) {
        match self.stop {
            TrainStop::AsRendered => {}
            TrainStop::None => self.fill(framed.stop.clone(), 0.0),
            TrainStop::AsGenerated if weight > 0.0 => {
                self.aligned.replaced.push((framed.stop.start, token));
            }
            TrainStop::AsGenerated => {}
        }
    }

    /// Finds the text of the assistant that is rendered here, past reasoning that the renderer left out.
    fn text(&mut self, framed: &FramedText) -> Result<AssistantText<'a>> {
        let body = &self.rendered[framed.body.clone()];
        while let Some(text) = self.texts.pop_front() {
            self.next = text.message;
            if text.is_in(framed.kind, body) {
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

    fn body(&mut self, framed: &FramedText, part: &Weighted, index: usize) -> Result<()> {
        let body = &self.rendered[framed.body.clone()];
        let Some(at) = body.find(&part.text) else {
            bail!(
                "message {}: the chat template changed the text, so its weights have no place; \
                 expected `{}` in `{}`",
                index + 1,
                shorten(&part.text),
                shorten(body)
            );
        };
        let from = framed.body.start + at;
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
