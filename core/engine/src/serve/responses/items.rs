//! The items of a response, and the events that tell how they grow.

use crate::serve::answer::{Piece, TokenEntry};
use crate::serve::chat::call_id;
use crate::serve::server::random_id;
use serde_json::{Value, json};

/// An event without its number.
pub type ItemEvent = (&'static str, Value);

/// The items so far.
#[derive(Default)]
pub struct Items {
    items: Vec<Item>,
    /// Whether the last one goes on.
    is_open: bool,
}

struct Item {
    id: String,
    kind: Kind,
    text: String,
    status: &'static str,
}

enum Kind {
    Reasoning,
    Message(Vec<TokenEntry>),
    Call { call_id: String, name: String },
}

impl Item {
    fn json(&self) -> Value {
        match &self.kind {
            Kind::Reasoning => json!({
                "id": self.id,
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": self.text}],
                "status": self.status,
            }),
            Kind::Message(entries) => json!({
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "status": self.status,
                "content": [part(&self.text, entries)],
            }),
            Kind::Call { call_id, name } => json!({
                "id": self.id,
                "type": "function_call",
                "call_id": call_id,
                "name": name,
                "arguments": self.text,
                "status": self.status,
            }),
        }
    }

    /// As it is told when it begins: without its parts.
    fn begun(&self) -> Value {
        let mut item = self.json();
        if matches!(self.kind, Kind::Message(_) | Kind::Reasoning) {
            item["content"] = json!([]);
        }
        item
    }
}

fn part(text: &str, entries: &[TokenEntry]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": entries})
}

impl Items {
    /// All items.
    pub fn json(&self) -> Value {
        self.items.iter().map(Item::json).collect()
    }

    /// Adds a piece.
    pub fn add(&mut self, piece: Piece) -> Vec<ItemEvent> {
        let mut events = Vec::new();
        match piece {
            Piece::Reasoning(text) => {
                let fits = |kind: &Kind| matches!(kind, Kind::Reasoning);
                self.reach(fits, || ("rs", Kind::Reasoning), &mut events);
                self.grow(
                    "response.reasoning_text.delta",
                    &text,
                    json!({"content_index": 0}),
                    &mut events,
                );
            }
            Piece::Content(text, entries) => {
                let fits = |kind: &Kind| matches!(kind, Kind::Message(_));
                self.reach(fits, || ("msg", Kind::Message(Vec::new())), &mut events);
                let more = json!({"content_index": 0, "logprobs": entries});
                if let Some(Item {
                    kind: Kind::Message(all),
                    ..
                }) = self.items.last_mut()
                {
                    all.extend(entries);
                }
                self.grow("response.output_text.delta", &text, more, &mut events);
            }
            Piece::Call(name) => {
                let call = || {
                    (
                        "fc",
                        Kind::Call {
                            call_id: call_id(),
                            name,
                        },
                    )
                };
                self.reach(|_| false, call, &mut events);
            }
            Piece::Arguments(text) => {
                self.grow(
                    "response.function_call_arguments.delta",
                    &text,
                    json!({}),
                    &mut events,
                );
            }
        }
        events
    }

    /// Ends the last item with this status.
    pub fn close(&mut self, status: &'static str) -> Vec<ItemEvent> {
        if !std::mem::replace(&mut self.is_open, false) {
            return Vec::new();
        }
        let at = self.items.len() - 1;
        let item = &mut self.items[at];
        item.status = status;
        let (id, text) = (&item.id, &item.text);
        let mut events = match &item.kind {
            Kind::Reasoning => vec![(
                "response.reasoning_text.done",
                json!({"item_id": id, "output_index": at, "content_index": 0, "text": text}),
            )],
            Kind::Message(entries) => vec![
                (
                    "response.output_text.done",
                    json!({"item_id": id, "output_index": at, "content_index": 0, "text": text, "logprobs": entries}),
                ),
                (
                    "response.content_part.done",
                    json!({"item_id": id, "output_index": at, "content_index": 0, "part": part(text, entries)}),
                ),
            ],
            Kind::Call { name, .. } => vec![(
                "response.function_call_arguments.done",
                json!({"item_id": id, "output_index": at, "name": name, "arguments": text}),
            )],
        };
        events.push((
            "response.output_item.done",
            json!({"output_index": at, "item": item.json()}),
        ));
        events
    }

    /// Makes sure that the last item is one that fits.
    fn reach(
        &mut self,
        fits: impl Fn(&Kind) -> bool,
        new: impl FnOnce() -> (&'static str, Kind),
        events: &mut Vec<ItemEvent>,
    ) {
        if self.is_open && self.items.last().is_some_and(|item| fits(&item.kind)) {
            return;
        }
        events.extend(self.close("completed"));
        let (prefix, kind) = new();
        let item = Item {
            id: format!("{prefix}_{}", random_id()),
            kind,
            text: String::new(),
            status: "in_progress",
        };
        let at = self.items.len();
        events.push((
            "response.output_item.added",
            json!({"output_index": at, "item": item.begun()}),
        ));
        if let Kind::Message(_) = item.kind {
            events.push((
                "response.content_part.added",
                json!({"item_id": item.id, "output_index": at, "content_index": 0, "part": part("", &[])}),
            ));
        }
        self.items.push(item);
        self.is_open = true;
    }

    fn grow(
        &mut self,
        name: &'static str,
        text: &str,
        mut more: Value,
        events: &mut Vec<ItemEvent>,
    ) {
        let at = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut() else {
            return;
        };
        item.text.push_str(text);
        more["item_id"] = item.id.as_str().into();
        more["output_index"] = at.into();
        more["delta"] = text.into();
        events.push((name, more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_grow_one_after_another() {
        let mut items = Items::default();
        let pieces = [
            Piece::Reasoning("t".to_owned()),
            Piece::Reasoning("u".to_owned()),
            Piece::Content("a".to_owned(), Vec::new()),
            Piece::Call("f".to_owned()),
            Piece::Arguments("{".to_owned()),
            Piece::Arguments("}".to_owned()),
        ];
        let mut names: Vec<&str> = Vec::new();
        for piece in pieces {
            names.extend(
                items
                    .add(piece)
                    .iter()
                    .map(|(name, _)| name.trim_start_matches("response.")),
            );
        }
        names.extend(
            items
                .close("completed")
                .iter()
                .map(|(name, _)| name.trim_start_matches("response.")),
        );
        let expected = [
            "output_item.added",
            "reasoning_text.delta",
            "reasoning_text.delta",
            "reasoning_text.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ];
        assert_eq!(names, expected);
        let all = items.json();
        assert_eq!(all[0]["content"][0]["text"], "tu");
        assert_eq!(all[1]["content"][0]["text"], "a");
        assert_eq!(
            (all[2]["name"].as_str(), all[2]["arguments"].as_str()),
            (Some("f"), Some("{}"))
        );
        assert!(items.close("completed").is_empty());
    }
}
