//! A turn of the assistant is trained the same in each way in which a list of messages can spell it.

use crate::chat::Encoder;
use apus_sdk::{DatasetFormat, Sample};
use serde_json::{Value, json};

/// What the assistant says in one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its reasoning; may be empty.
    pub thinking: String,
    /// Its text: the words before the call, or the answer.
    pub text: String,
    /// The arguments of its call, if it calls a function.
    pub arguments: Option<Value>,
}

impl Turn {
    /// Makes a turn of these texts, without what `<think>..</think>` and a content cannot hold.
    pub fn new(thinking: &str, text: &str, argument: Option<&str>) -> Self {
        let plain = |text: &str| text.replace('<', "(");
        Self {
            thinking: plain(thinking).trim().to_owned(),
            text: plain(text).trim_start().to_owned(),
            arguments: argument.map(|argument| json!({ "x": argument })),
        }
    }

    /// The spellings, each a list of messages.
    pub fn spellings(&self) -> Vec<Vec<Value>> {
        let mut all = self.in_one();
        all.extend(self.in_several());
        all
    }

    /// Reasoning and text as the content of one message.
    fn content_with_thinking(&self) -> String {
        match self.thinking.as_str() {
            "" => self.text.clone(),
            thinking => format!("<think>\n{thinking}\n</think>\n\n{}", self.text),
        }
    }

    /// The spellings as one message.
    fn in_one(&self) -> Vec<Vec<Value>> {
        let with = |more: Value| {
            let mut message = json!({"role": "assistant", "content": self.text});
            for (key, value) in more.as_object().into_iter().flatten() {
                message[key.as_str()] = value.clone();
            }
            message
        };
        let thinking = |key: &str| match self.thinking.as_str() {
            "" => json!({}),
            text => json!({key: text}),
        };
        let mut blocks = Vec::new();
        if !self.thinking.is_empty() {
            blocks.push(json!({"type": "thinking", "thinking": self.thinking}));
        }
        blocks.push(json!({"type": "text", "text": self.text}));
        let Some(arguments) = &self.arguments else {
            let details = match self.thinking.as_str() {
                "" => json!([]),
                text => json!([{"type": "reasoning.text", "text": text}]),
            };
            return vec![
                vec![with(thinking("thinking"))],
                vec![with(thinking("thoughts"))],
                vec![with(json!({"reasoning_details": details}))],
                vec![with(json!({"content": self.content_with_thinking()}))],
                vec![with(json!({"content": blocks}))],
            ];
        };
        blocks.push(json!({"type": "tool_use", "id": "1", "name": "f", "input": arguments}));
        let call = json!({"name": "f", "arguments": arguments.to_string()});
        let calls = json!([{"type": "function", "id": "1", "function": call}]);
        let mut structured = with(thinking("reasoning_content"));
        let mut older = with(thinking("reasoning"));
        let mut thought = with(json!({"content": self.content_with_thinking()}));
        structured["tool_calls"] = calls.clone();
        older["function_call"] = call;
        thought["tool_calls"] = calls;
        vec![
            vec![structured],
            vec![older],
            vec![thought],
            vec![with(json!({"content": blocks}))],
        ]
    }

    /// The spellings as several messages.
    fn in_several(&self) -> Vec<Vec<Value>> {
        let text = |text: &str| json!({"role": "assistant", "content": text});
        let mut parts = Vec::new();
        if !self.thinking.is_empty() {
            parts.push(json!({"role": "assistant", "content": null, "thinking": self.thinking}));
        }
        let mut thoughts = vec![text(&self.content_with_thinking())];
        let mut texts = parts.clone();
        texts.push(text(&self.text));
        if let Some(arguments) = &self.arguments {
            let call = json!({"name": "f", "arguments": arguments});
            let call = json!({"role": "tool_call", "content": call.to_string()});
            thoughts.push(call.clone());
            texts.push(call);
        }
        vec![thoughts, texts]
    }
}

/// Every spelling of a turn is refused, or all of them give the same ids, labels and weights, whatever
/// stands around the turn. `more` are spellings that only one dialect has.
///
/// # Panics
/// Two spellings differ.
pub fn spelled_alike(
    turn: &Turn,
    more: Vec<Vec<Value>>,
    format: &dyn DatasetFormat,
    encoder: &Encoder,
) {
    let around = [
        json!({"role": "user", "content": "q"}),
        json!({"role": "tool", "content": "r"}),
        json!({"role": "assistant", "content": "a", "thinking": "t"}),
    ];
    let encode = |messages: &[Value]| {
        let [user, result, answer] = &around;
        let mut row = vec![user.clone()];
        row.extend_from_slice(messages);
        if turn.arguments.is_some() {
            row.push(result.clone());
            row.push(answer.clone());
        }
        let row = json!({ "messages": row }).to_string();
        let samples: Vec<Sample> = format.convert_text(&row).expect("a row of messages");
        let encoded = samples.iter().map(|sample| encoder.encode(sample).ok());
        encoded.collect::<Vec<_>>()
    };
    let mut spellings = turn.spellings();
    spellings.extend(more);
    let mut all = spellings.iter().map(|messages| encode(messages));
    let first = all.next();
    for (messages, encoded) in spellings.iter().skip(1).zip(all) {
        assert_eq!(Some(&encoded), first.as_ref(), "{messages:?}");
    }
}
