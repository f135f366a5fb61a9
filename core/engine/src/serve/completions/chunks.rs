//! A completion in chunks, while it is generated.

use super::choice::Choice;
use super::{Shown, take};
use crate::serve::chat::Usage;
use crate::serve::http::sse::{Event, Events};
use crate::serve::server::Served;
use crate::serve::worker::Answers;
use serde_json::{Value, json};

/// The chunks of all answers.
pub struct Chunks {
    /// None if nothing is generated.
    answers: Option<Answers>,
    choices: Vec<Choice>,
    shown: Shown,
    usage: bool,
    prompt: usize,
    has_begun: bool,
    has_ended: bool,
    served: Served,
}

impl Chunks {
    /// Chunks of these answers, of which nothing was read.
    pub fn new(
        answers: Option<Answers>,
        choices: Vec<Choice>,
        shown: Shown,
        usage: bool,
        prompt: usize,
        served: Served,
    ) -> Self {
        Self {
            answers,
            choices,
            shown,
            usage,
            prompt,
            has_begun: false,
            has_ended: false,
            served,
        }
    }

    fn news(&mut self, index: usize) -> Option<Event> {
        let choice = &mut self.choices[index];
        let news = choice.has_news().then(|| json!([choice.json(index)]))?;
        Some(Event::Data(self.shown.response(news, Value::Null)))
    }

    fn end(&mut self) -> Vec<Event> {
        self.has_ended = true;
        let tokens = self.choices.iter().map(|choice| (choice.tokens(), 0));
        let usage = Usage::of(self.prompt, tokens);
        self.served.generated(usage.completion_tokens);
        let last = self
            .usage
            .then(|| Event::Data(self.shown.response(json!([]), usage.json())));
        last.into_iter().chain([Event::Done]).collect()
    }
}

impl Events for Chunks {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.has_ended {
            return None;
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            if self.answers.is_none() {
                self.choices
                    .iter_mut()
                    .for_each(|choice| choice.end("length"));
            }
            let echoes = (0..self.choices.len()).filter_map(|index| self.news(index));
            return Some(echoes.collect());
        }
        let Some(answers) = &mut self.answers else {
            return Some(self.end());
        };
        match answers.next().await {
            Ok(Some((index, event))) => {
                if self.choices[index].has_ended() {
                    return Some(Vec::new());
                }
                if take(&mut self.choices[index], &event) {
                    answers.cancel(index);
                }
                Some(self.news(index).into_iter().collect())
            }
            Ok(None) => Some(self.end()),
            Err(error) => {
                self.has_ended = true;
                self.served.failed(&error);
                Some(vec![Event::Data(error.body())])
            }
        }
    }
}
