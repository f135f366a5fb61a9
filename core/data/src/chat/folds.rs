//! Texts of many rows that go to the loss scales together.
//!
//! A scale in another process answers a hundred texts nearly as quickly as one. So where a chain has such a scale, a row is
//! prepared twice: the first time its texts are collected, all of weight 1; then they are weighed together with those of other
//! rows, and the second time each text finds its segments.

use super::scale::{Chain, Place};
use super::tokenizer::Tokenizer;
use anyhow::Result;
use apus_sdk::{Field, Segment, Turn};
use std::cell::RefCell;
use std::collections::VecDeque;

/// What is known of the row of a conversation.
#[derive(Clone, Copy, Default)]
pub struct OfRow<'a> {
    /// Its JSON text; empty where there is no row.
    pub text: &'a str,
    /// Its texts, if they are weighed together with those of other rows.
    pub folds: Option<&'a Folds>,
}

/// The texts of one sample.
pub struct Folds(RefCell<State>);

enum State {
    Collecting(Vec<Text>),
    Weighed(VecDeque<(Text, Result<Vec<Segment>>)>),
}

/// A text and where it stands.
struct Text {
    text: String,
    role: String,
    field: Field,
    query: Option<String>,
    is_last: bool,
    message: usize,
    messages: usize,
}

impl Default for Folds {
    fn default() -> Self {
        Self(RefCell::new(State::Collecting(Vec::new())))
    }
}

impl Folds {
    /// The segments of a text: one, as long as texts are collected, then those that it was weighed with; `None` for a text
    /// that was not collected.
    pub(super) fn segments(&self, text: &str, place: &Place) -> Option<Result<Vec<Segment>>> {
        match &mut *self.0.borrow_mut() {
            State::Collecting(texts) => {
                texts.push(Text::new(text, place));
                Some(Ok(vec![Segment::new(text, 1.0)]))
            }
            State::Weighed(texts) => {
                let is_next = texts.front().is_some_and(|(next, _)| next.is(text, place));
                let next = if is_next { texts.pop_front() } else { None };
                next.map(|(_, segments)| segments)
            }
        }
    }

    /// Weighs the texts of many samples, each with the channel and the text of its row. The tokenizer counts tokens for scales
    /// that ask how many there are.
    pub fn weigh(chain: &Chain, tokenizer: &Tokenizer, all: &[(&Self, Option<&str>, &str)]) {
        let taken = all.iter().map(|(folds, ..)| {
            let weighed = State::Weighed(VecDeque::new());
            match folds.0.replace(weighed) {
                State::Collecting(texts) => texts,
                State::Weighed(_) => Vec::new(),
            }
        });
        let taken: Vec<Vec<Text>> = taken.collect();
        let turns = taken.iter().flatten().map(Text::turn);
        let turns: Vec<Turn> = turns.collect();
        let rows = taken.iter().zip(all);
        let texts = rows.flat_map(|(texts, row)| texts.iter().map(move |text| (text, row)));
        let places = texts.zip(&turns).map(|((text, (_, channel, row)), turn)| {
            let place = Place {
                turn,
                message: text.message,
                messages: text.messages,
                channel: *channel,
                row,
                tokenizer: Some(tokenizer),
                folds: None,
            };
            (text.text.as_str(), place)
        });
        let places: Vec<(&str, Place)> = places.collect();
        let mut found = chain.fold_all(&places).into_iter();
        for (texts, (folds, ..)) in taken.into_iter().zip(all) {
            *folds.0.borrow_mut() = State::Weighed(texts.into_iter().zip(found.by_ref()).collect());
        }
    }
}

impl Text {
    fn new(text: &str, place: &Place) -> Self {
        Self {
            text: text.to_owned(),
            role: place.turn.role.to_owned(),
            field: place.turn.field,
            query: place.turn.query.map(str::to_owned),
            is_last: place.turn.is_last,
            message: place.message,
            messages: place.messages,
        }
    }

    fn turn(&self) -> Turn<'_> {
        Turn {
            role: &self.role,
            field: self.field,
            query: self.query.as_deref(),
            is_last: self.is_last,
        }
    }

    fn is(&self, text: &str, place: &Place) -> bool {
        self.text == text && self.message == place.message && self.turn() == *place.turn
    }
}
