//! A chat completion in chunks, while it is generated.

use super::calls::call_id;
use super::response::{Shown, Usage, logprobs};
use crate::serve::answer::{Piece, Reading};
use crate::serve::http::sse::{Event, Events};
use crate::serve::server::Served;
use crate::serve::worker::{AnswerEvent, Answers};
use serde_json::{Value, json};

/// The chunks of all answers.
pub struct Chunks {
    answers: Answers,
    choices: Vec<Choice>,
    shown: Shown,
    usage: bool,
    prompt: usize,
    state: State,
    served: Served,
}

struct Choice {
    reading: Reading,
    calls: usize,
}

#[derive(PartialEq)]
enum State {
    Begins,
    Goes,
    Ended,
}

impl Chunks {
    /// Chunks of these answers, of which nothing was read.
    pub fn new(
        answers: Answers,
        readings: Vec<Reading>,
        shown: Shown,
        usage: bool,
        prompt: usize,
        served: Served,
    ) -> Self {
        let choices = readings
            .into_iter()
            .map(|reading| Choice { reading, calls: 0 });
        Self {
            answers,
            choices: choices.collect(),
            shown,
            usage,
            prompt,
            state: State::Begins,
            served,
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = json!({
            "id": self.shown.id,
            "object": "chat.completion.chunk",
            "created": self.shown.created,
            "model": self.shown.model,
            "system_fingerprint": null,
            "choices": choices,
        });
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&self, index: usize, delta: Value, entries: Value, reason: Option<&str>) -> Event {
        Event::Data(self.chunk(json!([{
            "index": index,
            "delta": delta,
            "logprobs": entries,
            "finish_reason": reason,
        }])))
    }

    fn pieces(&mut self, index: usize, pieces: Vec<Piece>) -> Vec<Event> {
        let mut events = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let mut entries = Value::Null;
            let delta = match piece {
                Piece::Reasoning(_) if !self.shown.include_reasoning => continue,
                Piece::Reasoning(text) => json!({"reasoning": text, "reasoning_content": text}),
                Piece::Content(text, all) => {
                    entries = logprobs(&self.shown, all);
                    json!({"content": text})
                }
                Piece::Call(name) => {
                    let choice = &mut self.choices[index];
                    choice.calls += 1;
                    let function = json!({"name": name, "arguments": ""});
                    json!({"tool_calls": [{
                        "index": choice.calls - 1,
                        "id": call_id(),
                        "type": "function",
                        "function": function,
                    }]})
                }
                Piece::Arguments(text) => {
                    let call = self.choices[index].calls.saturating_sub(1);
                    json!({"tool_calls": [{"index": call, "function": {"arguments": text}}]})
                }
            };
            events.push(self.delta(index, delta, entries, None));
        }
        events
    }

    fn take(&mut self, index: usize, event: &AnswerEvent) -> Vec<Event> {
        let reading = &mut self.choices[index].reading;
        if reading.word().is_some() {
            return Vec::new();
        }
        let (pieces, is_finished) = match event {
            AnswerEvent::Token { token, logprobs } => {
                (reading.push(*token, logprobs.as_ref()), false)
            }
            AnswerEvent::Finished(reason) => (reading.end(reason), true),
            AnswerEvent::Failed(_) => (Vec::new(), false),
        };
        let word = reading.word();
        let mut events = self.pieces(index, pieces);
        if let Some(word) = word {
            if !is_finished {
                self.answers.cancel(index);
            }
            events.push(self.delta(index, json!({}), Value::Null, Some(word)));
        }
        events
    }

    fn usage(&self) -> Usage {
        Usage::of(
            self.prompt,
            self.choices.iter().map(|choice| choice.reading.tokens()),
        )
    }
}

impl Events for Chunks {
    async fn next(&mut self) -> Option<Vec<Event>> {
        match self.state {
            State::Begins => {
                self.state = State::Goes;
                let delta = || json!({"role": "assistant", "content": ""});
                let first = |index| self.delta(index, delta(), Value::Null, None);
                return Some((0..self.choices.len()).map(first).collect());
            }
            State::Goes => {}
            State::Ended => return None,
        }
        match self.answers.next().await {
            Ok(Some((index, event))) => Some(self.take(index, &event)),
            Ok(None) => {
                self.state = State::Ended;
                let usage = self.usage();
                self.served.generated(usage.completion_tokens);
                let mut events = Vec::new();
                if self.usage {
                    let mut chunk = self.chunk(json!([]));
                    chunk["usage"] = usage.json();
                    events.push(Event::Data(chunk));
                }
                events.push(Event::Done);
                Some(events)
            }
            Err(error) => {
                self.state = State::Ended;
                self.served.failed(&error);
                Some(vec![Event::Data(error.body())])
            }
        }
    }
}
