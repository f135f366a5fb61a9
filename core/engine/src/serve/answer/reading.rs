//! Reads an answer in its dialect while it is generated.

use super::logprobs::{TokenEntry, entry};
use crate::generate::{AnswerText, FinishReason, TokenLogprobs};
use apus_data::chat::dialect::{AnswerDelta, AnswerPart, AnswerReader};
use apus_data::chat::{Dialect, Tokenizer};
use std::sync::Arc;

/// How answers are read.
#[derive(Clone)]
pub struct ReadingOptions {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The dialect.
    pub dialect: &'static dyn Dialect,
    /// Strings at which the text of an answer ends; they are not part of it. Reasoning and calls do not end there.
    pub stop: Vec<String>,
    /// Tokens at which an answer ends, beside the dialect's; they are not part of its text.
    pub stop_ids: Vec<u32>,
}

/// What a token adds.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Reasoning.
    Reasoning(String),
    /// Text of the answer. It is empty where only the log-probabilities of a token are told.
    Content(String, Vec<TokenEntry>),
    /// A call begins: the name of its tool.
    Call(String),
    /// More of the arguments of the call that began last.
    Arguments(String),
}

/// Reads one answer.
pub struct Reading {
    options: ReadingOptions,
    reader: Box<dyn AnswerReader>,
    part: Option<AnswerPart>,
    /// Whole characters of the text between two control tokens.
    characters: AnswerText,
    content: AnswerText,
    /// Log-probabilities of tokens that may turn out to be text of the answer.
    entries: Vec<TokenEntry>,
    has: Has,
    tokens: usize,
    reasoning_tokens: usize,
    word: Option<&'static str>,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Has {
    reasoning: bool,
    content: bool,
    call: bool,
}

impl Reading {
    /// Before the first token.
    pub fn new(options: ReadingOptions) -> Self {
        Self {
            reader: options.dialect.reader(),
            part: None,
            characters: AnswerText::new(&[]),
            content: AnswerText::new(&options.stop),
            entries: Vec::new(),
            has: Has::default(),
            tokens: 0,
            reasoning_tokens: 0,
            word: None,
            options,
        }
    }

    /// Reads a token.
    pub fn push(&mut self, token: u32, logprobs: Option<&TokenLogprobs>) -> Vec<Piece> {
        if self.word.is_some() {
            return Vec::new();
        }
        self.tokens += 1;
        let mut pieces = Vec::new();
        let tokenizer = Arc::clone(&self.options.tokenizer);
        if tokenizer.is_special(token) {
            let rest = std::mem::replace(&mut self.characters, AnswerText::new(&[])).end();
            let deltas = self.reader.text(&rest);
            self.take(deltas, &mut pieces);
            let deltas = self.reader.control(&tokenizer.decode(&[token], true));
            self.take(deltas, &mut pieces);
            self.entries.clear();
        } else if !self.options.stop_ids.contains(&token) {
            let text = self.characters.push(token, &tokenizer, false);
            let deltas = self.reader.text(&text);
            self.entries
                .extend(logprobs.map(|logprobs| entry(&tokenizer, token, logprobs)));
            self.take(deltas, &mut pieces);
        }
        match self.part {
            Some(AnswerPart::Content | AnswerPart::Preamble) if !self.entries.is_empty() => {
                let entries = std::mem::take(&mut self.entries);
                match pieces.iter_mut().rev().find_map(|piece| match piece {
                    Piece::Content(_, entries) => Some(entries),
                    _ => None,
                }) {
                    Some(last) => last.extend(entries),
                    None => pieces.push(Piece::Content(String::new(), entries)),
                }
            }
            Some(AnswerPart::Reasoning | AnswerPart::Call(_)) => self.entries.clear(),
            _ => {}
        }
        self.reasoning_tokens += usize::from(self.part == Some(AnswerPart::Reasoning));
        pieces
    }

    /// Reads the end of the answer.
    pub fn end(&mut self, reason: &FinishReason) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if self.word.is_none() {
            let rest = self.characters.end();
            let mut deltas = self.reader.text(&rest);
            deltas.extend(self.reader.end());
            self.take(deltas, &mut pieces);
            let rest = self.content.end();
            if !rest.is_empty() {
                pieces.push(Piece::Content(rest, Vec::new()));
            }
        }
        let word = match reason {
            FinishReason::Length => "length",
            _ if self.has.call => "tool_calls",
            _ => "stop",
        };
        self.word.get_or_insert(word);
        pieces
    }

    /// Why the answer ended, once it has.
    pub fn word(&self) -> Option<&'static str> {
        self.word
    }

    /// Tokens so far, and those of them that are reasoning.
    pub fn tokens(&self) -> (usize, usize) {
        (self.tokens, self.reasoning_tokens)
    }

    fn take(&mut self, deltas: Vec<AnswerDelta>, pieces: &mut Vec<Piece>) {
        for delta in deltas {
            if self.word.is_some() {
                return;
            }
            match delta {
                AnswerDelta::Opened(part) => {
                    // Parts of one kind are joined by line breaks.
                    match &part {
                        AnswerPart::Reasoning
                            if std::mem::replace(&mut self.has.reasoning, true) =>
                        {
                            pieces.push(Piece::Reasoning("\n".to_owned()));
                        }
                        AnswerPart::Content | AnswerPart::Preamble
                            if std::mem::replace(&mut self.has.content, true) =>
                        {
                            self.say("\n", pieces);
                        }
                        AnswerPart::Call(name) => {
                            self.has.call = true;
                            pieces.push(Piece::Call(name.clone()));
                        }
                        _ => {}
                    }
                    self.part = Some(part);
                }
                AnswerDelta::Text(text) => match self.part {
                    Some(AnswerPart::Reasoning) => pieces.push(Piece::Reasoning(text)),
                    Some(AnswerPart::Call(_)) => pieces.push(Piece::Arguments(text)),
                    _ => self.say(&text, pieces),
                },
                AnswerDelta::Closed => self.part = None,
            }
        }
    }

    /// Adds text to the answer, up to a stop string.
    fn say(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        let text = self.content.push_text(text);
        if !text.is_empty() {
            pieces.push(Piece::Content(text, Vec::new()));
        }
        if self.content.has_ended() {
            self.word = Some("stop");
        }
    }
}
