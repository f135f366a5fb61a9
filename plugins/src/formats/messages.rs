//! Conversations as lists of messages, OpenAI's form:
//! `{"messages": [{"role": "user", "content": ".."}, ..], "tools": [..]}`.
//!
//! Also read: `from`/`value` in place of `role`/`content`, `thinking` or `reasoning_content`,
//! `tool_calls`, roles `tool_call` and `tool_response`, and per message `loss` and `loss_scale`.

use super::{
    message,
    row::{columns, conversation, first, list},
};
use apus_sdk::{DatasetFormat, Error, Result, Row, Sample, register};
use serde::Deserialize;

const COLUMNS: [&str; 3] = ["messages", "conversations", "conversation"];

#[derive(Deserialize)]
struct Messages;

impl DatasetFormat for Messages {
    fn recognises(&self, columns: &[&str]) -> bool {
        COLUMNS.iter().any(|name| columns.contains(name))
    }

    fn rank(&self) -> i32 {
        20
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let Some((name, value)) = first(&row, &COLUMNS) else {
            return Err(Error::new(format!(
                "no column `messages` (or `conversations`), found {}",
                columns(&row)
            )));
        };
        let in_column = |error| Error::new(format!("column `{name}`: {error}"));
        let messages = message::read_all(list(name, value)?).map_err(in_column)?;
        conversation(&row, messages)
    }
}

register! {
    /// Lists of messages with role and content (OpenAI), or with from and value.
    DatasetFormat, "messages", Messages
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{convert, turns};
    use super::*;
    use serde_json::json;

    #[test]
    fn openai_messages_keep_thinking_and_training_marks() {
        let found = convert(
            &Messages,
            json!({"messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c", "reasoning_content": "r", "loss": false},
                {"role": "user", "content": "d", "thinking": null},
                {"role": "assistant", "content": "e", "thinking": "t", "loss_scale": 0.5, "loss": 1},
            ], "system": "s", "channel": "x", "chat_template_kwargs": {"reasoning_effort": "low"}}),
        )
        .unwrap();
        let expected = [
            ("system", "s"),
            ("user", "ab"),
            ("assistant", "c"),
            ("user", "d"),
            ("assistant", "e"),
        ];
        assert_eq!(turns(&found), expected);
        assert_eq!(found.messages[2].thinking.as_deref(), Some("r"));
        assert_eq!(found.messages[2].loss, Some(false));
        assert_eq!(found.messages[3].thinking, None);
        assert_eq!(found.messages[4].loss_scale, Some(0.5));
        assert_eq!(found.messages[4].loss, Some(true));
        assert_eq!(found.channel.as_deref(), Some("x"));
        assert_eq!(found.template_kwargs["reasoning_effort"], "low");
    }

    #[test]
    fn from_and_value_work_inside_messages() {
        let found = convert(
            &Messages,
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        )
        .unwrap();
        assert_eq!(turns(&found), [("user", "a"), ("assistant", "b")]);
    }

    #[test]
    fn tool_calls_are_read_in_every_form() {
        let calls = [
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}]}),
            json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": 2}}]}),
            json!({"role": "tool_call", "content": "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}"}),
        ];
        for call in calls {
            let found = convert(
                &Messages,
                json!({"messages": [{"role": "user", "content": "q"}, call,
                    {"role": "tool_response", "content": {"t": 1}}],
                    "tools": "[{\"name\": \"f\", \"description\": \"d\"}]"}),
            )
            .unwrap();
            let [_, call, result] = found.messages.as_slice() else {
                panic!("three messages")
            };
            assert!(call.content.is_null());
            assert_eq!(call.tool_calls[0].name, "f");
            assert_eq!(call.tool_calls[0].arguments.to_string(), r#"{"b":1,"a":2}"#);
            assert_eq!(
                (result.role.as_str(), &result.content),
                ("tool", &json!({"t": 1}))
            );
            assert_eq!(found.tools[0]["function"]["description"], "d");
        }
    }

    #[test]
    fn errors_name_the_message_and_what_was_found() {
        let error = |row| convert(&Messages, row).unwrap_err().to_string();
        let bad = error(
            json!({"messages": [{"role": "user", "content": "a"}, {"rolle": "x", "content": "b"}]}),
        );
        assert!(
            bad.contains("message 2: no `role`") && bad.contains("`rolle`"),
            "{bad}"
        );
        let bad = error(json!({"messages": [{"role": "narrator", "content": "a"}]}));
        assert!(bad.contains("unknown role `narrator`"), "{bad}");
        let bad = error(json!({"messages": [{"role": "user", "content": null}]}));
        assert!(bad.contains("`content` is null"), "{bad}");
        let bad = error(json!({"messages": [{"role": "user", "text": "x"}]}));
        assert!(
            bad.contains("no `content`") && bad.contains("`text`"),
            "{bad}"
        );
        let bad = error(json!({"messages": 3}));
        assert!(bad.contains("must be a list, found a number"), "{bad}");
        let bad = error(json!({"messages": []}));
        assert!(bad.contains("empty"), "{bad}");
        let bad =
            error(json!({"messages": [{"role": "assistant", "content": "a", "loss_scale": -1}]}));
        assert!(bad.contains("0 or more, found -1"), "{bad}");
        let bad =
            error(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}));
        assert!(bad.contains("type `image_url`"), "{bad}");
    }
}
