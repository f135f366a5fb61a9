//! What a callback asks the model, and what it gets.

use crate::{Conversation, Error, Message, Result, within};
use serde::{Deserialize, Serialize};
use std::ops::Bound;

/// The most answers to a question.
const MOST: usize = 1024;

/// Messages for the model to answer, and how.
///
/// What is not said is as the run's own answers are sampled (`--temperature`, `--max_new_tokens`). The same question has the
/// same random numbers each time that it is asked.
///
/// ```
/// use apus_sdk::{Control, Question};
///
/// let mut control = Control::default();
/// control.ask(Question::new("haiku").user("Write a haiku.").temperature(0.7).answers(4));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    id: String,
    conversation: Conversation,
    #[serde(default = "with", skip_serializing_if = "Clone::clone")]
    adapters: bool,
    #[serde(default = "one")]
    answers: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_new_tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stop: Vec<String>,
}

fn with() -> bool {
    true
}

fn one() -> usize {
    1
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident, $get:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = Some($name);
            self
        }

        #[doc = concat!("What [`", stringify!($name), "`](Self::", stringify!($name), ") said.")]
        pub fn $get(&self) -> Option<$type> {
            self.$name
        }
    )*};
}

impl Question {
    /// A question without messages. `id` comes back with the answers, and is for the callback alone.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            conversation: Conversation::default(),
            adapters: true,
            answers: 1,
            max_new_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
            seed: None,
            stop: Vec::new(),
        }
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, message: Message) -> Self {
        self.conversation.messages.push(message);
        self
    }

    /// Adds what a user says.
    #[must_use]
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::new("user", text))
    }

    /// Adds instructions.
    #[must_use]
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::new("system", text))
    }

    /// The whole conversation, with tools and values for the template, in place of what was added.
    #[must_use]
    pub fn conversation(mut self, conversation: Conversation) -> Self {
        self.conversation = conversation;
        self
    }

    /// `false` asks the model without its adapters: what it was before training. A run that trains weights whole, or DoRA,
    /// refuses that.
    #[must_use]
    pub fn adapters(mut self, adapters: bool) -> Self {
        self.adapters = adapters;
        self
    }

    /// How many answers to give; the first of them is that to a question for one.
    #[must_use]
    pub fn answers(mut self, answers: usize) -> Self {
        self.answers = answers;
        self
    }

    /// A text that ends an answer; it is not in it. There may be several.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    settings! {
        /// The most tokens of an answer.
        max_new_tokens, limit: usize;
        /// The temperature; 0 takes the most probable token each time.
        temperature, temperature_asked: f64;
        /// Keeps only the most probable tokens that together have this probability.
        top_p, top_p_asked: f64;
        /// Keeps only so many of the most probable tokens; 0 keeps all.
        top_k, top_k_asked: usize;
        /// Keeps only tokens of at least this share of the probability of the most probable one.
        min_p, min_p_asked: f64;
        /// Divides logits of tokens that were there already.
        repetition_penalty, repetition_penalty_asked: f64;
        /// The seed of the random numbers.
        seed, seed_asked: u64;
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is asked.
    pub fn asked(&self) -> &Conversation {
        &self.conversation
    }

    /// Whether the adapters take part.
    pub fn has_adapters(&self) -> bool {
        self.adapters
    }

    /// How many answers are wanted.
    pub fn count(&self) -> usize {
        self.answers
    }

    /// The texts that end an answer.
    pub fn stops(&self) -> &[String] {
        &self.stop
    }

    /// Checks it.
    ///
    /// # Errors
    /// No id, no message, or a setting out of its range; the error names the question.
    pub fn check(&self) -> Result<()> {
        if self.id.is_empty() {
            return Err(Error::new("asks a question with an empty id"));
        }
        self.check_rest()
            .map_err(|error| Error::new(format!("asks question {:?}: {error}", self.id)))
    }

    fn check_rest(&self) -> Result<()> {
        if self.conversation.messages.is_empty() {
            return Err(Error::new("it has no message"));
        }
        if !(1..=MOST).contains(&self.answers) {
            return Err(Error::new(format!(
                "{} answers, expected 1 to {MOST}",
                self.answers
            )));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::new("an empty text cannot end an answer"));
        }
        let share = (Bound::Excluded(0.0), Bound::Included(1.0));
        let above_0 = (Bound::Excluded(0.0), Bound::Unbounded);
        let check = |name, value: Option<f64>, range: &(Bound<f64>, Bound<f64>)| {
            value.map_or(Ok(()), |value| within(name, &value, range))
        };
        let from_0 = (Bound::Included(0.0), Bound::Unbounded);
        check("temperature", self.temperature, &from_0)?;
        check("top_p", self.top_p, &share)?;
        check(
            "min_p",
            self.min_p,
            &(Bound::Included(0.0), Bound::Included(1.0)),
        )?;
        check("repetition_penalty", self.repetition_penalty, &above_0)?;
        let limit = self.max_new_tokens.map(|limit| limit as f64);
        check(
            "max_new_tokens",
            limit,
            &(Bound::Included(1.0), Bound::Unbounded),
        )
    }
}

/// An answer to a [`Question`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    id: String,
    index: usize,
    text: String,
    thinking: Option<String>,
    tokens: usize,
    cut_off: bool,
}

impl Answer {
    /// The answer of this number to the question of this id.
    pub fn new(id: impl Into<String>, index: usize, text: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            index,
            text: text.into(),
            ..Self::default()
        }
    }

    /// With the reasoning before it.
    #[must_use]
    pub fn with_thinking(mut self, thinking: Option<String>) -> Self {
        self.thinking = thinking;
        self
    }

    /// With its length in tokens, and whether it was cut off there.
    #[must_use]
    pub fn with_length(mut self, tokens: usize, cut_off: bool) -> Self {
        (self.tokens, self.cut_off) = (tokens, cut_off);
        self
    }

    /// The id of its question.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its number among the answers to the question, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it says in the end, without reasoning; empty where the model has not come to it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reasoning before it, if there is any.
    pub fn thinking(&self) -> Option<&str> {
        self.thinking.as_deref()
    }

    /// Its length in tokens, reasoning included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether it ended at the greatest number of tokens, and not by itself.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }
}
