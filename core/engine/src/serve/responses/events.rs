//! A response in events, while it is generated.

use super::items::{ItemEvent, Items};
use super::object::{Shown, status, usage};
use crate::serve::answer::Reading;
use crate::serve::http::ApiError;
use crate::serve::http::sse::{Event, Events};
use crate::serve::server::Served;
use crate::serve::worker::{AnswerEvent, Answers};
use serde_json::{Value, json};

/// The events of a response.
pub struct ResponseEvents {
    answers: Answers,
    reading: Reading,
    items: Items,
    shown: Shown,
    prompt: usize,
    /// The number of the next event.
    number: u64,
    has_ended: bool,
    served: Served,
}

impl ResponseEvents {
    /// Events of this answer, of which nothing was read.
    pub fn new(
        answers: Answers,
        reading: Reading,
        shown: Shown,
        prompt: usize,
        served: Served,
    ) -> Self {
        Self {
            answers,
            reading,
            items: Items::default(),
            shown,
            prompt,
            number: 0,
            has_ended: false,
            served,
        }
    }

    fn event(&mut self, (name, mut value): ItemEvent) -> Event {
        value["type"] = name.into();
        value["sequence_number"] = self.number.into();
        self.number += 1;
        Event::Named(name, value)
    }

    fn begin(&mut self) -> Vec<Event> {
        let response = self
            .shown
            .json("in_progress", Value::Null, json!([]), Value::Null);
        ["response.created", "response.in_progress"]
            .map(|name| self.event((name, json!({"response": response}))))
            .to_vec()
    }

    fn take(&mut self, index: usize, event: &AnswerEvent) -> Vec<Event> {
        let pieces = match event {
            _ if self.reading.word().is_some() => Vec::new(),
            AnswerEvent::Token { token, logprobs } => {
                let pieces = self.reading.push(*token, logprobs.as_ref());
                if self.reading.word().is_some() {
                    self.answers.cancel(index);
                }
                pieces
            }
            AnswerEvent::Finished(reason) => self.reading.end(reason),
            AnswerEvent::Failed(_) => Vec::new(),
        };
        let told: Vec<ItemEvent> = pieces
            .into_iter()
            .flat_map(|piece| self.items.add(piece))
            .collect();
        told.into_iter().map(|event| self.event(event)).collect()
    }

    fn end(&mut self) -> Vec<Event> {
        let (status, details) = status(self.reading.word());
        let mut told = self.items.close(status);
        let (tokens, reasoning) = self.reading.tokens();
        self.served.generated(tokens);
        let usage = usage(self.prompt, tokens, reasoning);
        let response = self.shown.json(status, details, self.items.json(), usage);
        let name = match status {
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        };
        told.push((name, json!({"response": response})));
        told.into_iter().map(|event| self.event(event)).collect()
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        self.served.failed(error);
        let mut told = self.items.close("incomplete");
        let mut response = self
            .shown
            .json("failed", Value::Null, self.items.json(), Value::Null);
        response["error"] = json!({"code": "server_error", "message": error.to_string()});
        told.push(("response.failed", json!({"response": response})));
        told.into_iter().map(|event| self.event(event)).collect()
    }
}

impl Events for ResponseEvents {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.has_ended {
            return None;
        }
        if self.number == 0 {
            return Some(self.begin());
        }
        match self.answers.next().await {
            Ok(Some((index, event))) => Some(self.take(index, &event)),
            Ok(None) => {
                self.has_ended = true;
                Some(self.end())
            }
            Err(error) => {
                self.has_ended = true;
                Some(self.fail(&error))
            }
        }
    }
}
