//! Conversations as lists of messages, OpenAI's form:
//! `{"messages": [{"role": "user", "content": ".."}, ..], "tools": [..]}`.
//!
//! Also read: `from`/`value` in place of `role`/`content`, reasoning under each of its names, `tool_calls` and
//! `function_call`, roles `tool_call` and `tool_response`, Anthropic's content blocks, the channels and recipients
//! of openai-harmony's JSON, ShareGPT's pairs, and marks of what is trained ([`marks`](super::marks)).

use super::{
    keys::{KeyPath, first, noting},
    marks::RowMarks,
    message,
    row::{columns, conversation, list},
};
use apus_sdk::{Converted, DatasetFormat, Error, Result, Row, Sample, options, register};

const COLUMNS: [&str; 3] = ["messages", "conversations", "conversation"];

options! {
    pub struct Messages {
        /// Whether columns may have their usual other names (conversations, system_prompt ..), in any case.
        auto_column_mapping: bool = true,
    }
}

impl Messages {
    /// The columns that may hold the messages.
    fn columns(&self) -> &'static [&'static str] {
        match self.auto_column_mapping {
            true => &COLUMNS,
            false => &COLUMNS[..1],
        }
    }

    fn read(&self, row: &mut Row, at: &KeyPath) -> Result<Vec<Sample>> {
        messages(row, self.columns(), self.auto_column_mapping, at)
    }
}

/// The conversation of a row whose messages stand in the first of these columns.
///
/// # Errors
/// No such column, or what is wrong with a message or with another column.
pub fn messages(
    row: &mut Row,
    names: &[&'static str],
    auto: bool,
    at: &KeyPath,
) -> Result<Vec<Sample>> {
    let Some((name, value)) = first(row, names) else {
        return Err(missing(row, names));
    };
    let in_column = |error| Error::new(format!("column `{name}`: {error}"));
    let marks = RowMarks::take(row)?;
    let items = list(name, value)?;
    let list = message::read_all(items, &marks, &at.key(name)).map_err(in_column)?;
    conversation(row, list, auto, at)
}

impl DatasetFormat for Messages {
    fn recognises(&self, columns: &[&str]) -> bool {
        self.columns().iter().any(|name| columns.contains(name))
    }

    fn rank(&self) -> i32 {
        20
    }

    fn row(&self, text: &str) -> Result<Row> {
        super::row::read(text)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        Ok(self.convert_noting(row)?.samples)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        noting(row, &[], |row, at| self.read(row, at))
    }
}

/// The error of a row without messages under any of these names.
fn missing(row: &Row, names: &[&str]) -> Error {
    let null = names.iter().find(|name| row.contains_key(**name));
    Error::new(match (null, names) {
        (Some(null), _) => format!("column `{null}` is null, expected a list of messages"),
        (None, [name]) => format!("no column `{name}`, found {}", columns(row)),
        (None, names) => format!(
            "no column `{}` (or `{}`), found {}",
            names[0],
            names[1..].join("`, `"),
            columns(row)
        ),
    })
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
            &Messages::default(),
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
            &Messages::default(),
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
            json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{'b': 1, 'a': 2}"}]}),
            json!({"role": "tool_call", "content": "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}"}),
        ];
        for call in calls {
            let found = convert(
                &Messages::default(),
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

    fn one(messages: serde_json::Value) -> apus_sdk::Conversation {
        convert(&Messages::default(), json!({ "messages": messages })).unwrap()
    }

    #[test]
    fn without_the_mapping_only_the_names_themselves_count() {
        let strict = Messages {
            auto_column_mapping: false,
        };
        assert!(strict.recognises(&["messages"]) && !strict.recognises(&["conversations"]));
        let row = json!({"messages": [{"role": "user", "content": "a"}], "system_prompt": "s"});
        assert_eq!(turns(&convert(&strict, row).unwrap()), [("user", "a")]);
        let row = json!({"conversations": [{"role": "user", "content": "a"}]});
        let bad = convert(&strict, row).unwrap_err().to_string();
        assert!(
            bad.contains("no column `messages`, found `conversations`"),
            "{bad}"
        );
    }

    #[test]
    fn roles_under_every_name() {
        let found = one(json!([
            {"from": "system", "value": "s"}, {"from": "human", "value": "a"},
            {"from": "function-call", "value": {"name": "f", "arguments": null}},
            {"from": "observation", "value": "o"}, {"from": "gpt", "value": "b"},
            {"role": "user", "content": "c"}, {"role": "bot", "content": "d"},
        ]));
        let roles: Vec<_> = found.messages.iter().map(|m| m.role.as_str()).collect();
        let expected = [
            "system",
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
            "assistant",
        ];
        assert_eq!(roles, expected);
        assert_eq!(found.messages[2].tool_calls[0].arguments, json!({}));
    }

    #[test]
    fn a_list_as_text_and_pairs_in_any_column() {
        let rows = [
            json!({"messages": "[{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]"}),
            json!({"messages": "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]"}),
            json!({"messages": [{"user": "a", "assistant": "b"}]}),
        ];
        for row in rows {
            let found = convert(&Messages::default(), row).unwrap();
            assert_eq!(turns(&found), [("user", "a"), ("assistant", "b")]);
        }
    }

    #[test]
    fn the_system_column_gives_way_to_a_system_message() {
        let messages =
            json!([{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]);
        let found = convert(
            &Messages::default(),
            json!({"messages": messages, "system": "column"}),
        )
        .unwrap();
        assert_eq!(turns(&found), [("system", "own"), ("user", "a")]);
    }

    #[test]
    fn blocks_of_anthropic() {
        let found = one(json!([
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "t", "signature": "x"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "2", "name": "g", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "2", "content": "two"},
                {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "one"}]},
                {"type": "text", "text": "and?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        ]));
        let call = |i: usize| found.messages[i].tool_calls[0].name.as_str();
        assert_eq!(found.messages[1].thinking.as_deref(), Some("t"));
        assert_eq!((call(1), call(3)), ("f", "g"));
        assert_eq!(
            turns(&found),
            [
                ("user", "q"),
                ("assistant", "(not text)"),
                ("tool", "one"),
                ("assistant", "(not text)"),
                ("tool", "two"),
                ("user", "and?"),
                ("assistant", "b")
            ]
        );
    }

    #[test]
    fn reasoning_between_texts_stays_between_them() {
        let found = one(
            json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t"}, {"type": "thinking", "thinking": "u"},
            {"type": "text", "text": "a"}, {"type": "thinking", "thinking": "v"},
            {"type": "tool_use", "id": "1", "name": "f", "input": null}], "loss": false}]),
        );
        let [_, first, second] = found.messages.as_slice() else {
            panic!("three messages")
        };
        assert_eq!(
            (first.thinking.as_deref(), first.text()),
            (Some("t\nu"), Some("a"))
        );
        assert_eq!(
            (second.thinking.as_deref(), &second.content),
            (Some("v"), &json!(null))
        );
        assert_eq!(
            (second.tool_calls.len(), first.loss, second.loss),
            (1, Some(false), Some(false))
        );
    }

    #[test]
    fn several_calls_of_a_message_stand_before_their_results() {
        let calls = json!([{"id": "x", "function": {"name": "f", "arguments": "{}"}},
            {"id": "y", "function": {"name": "g", "arguments": "{}"}}]);
        let call = json!({"role": "assistant", "content": null, "tool_calls": calls, "thinking": "t", "loss_scale": 2});
        let found = one(json!([{"role": "user", "content": "q"}, call,
            {"role": "tool", "tool_call_id": "y", "content": "2"},
            {"role": "tool", "tool_call_id": "x", "content": "1"}]));
        let names: Vec<_> = found
            .messages
            .iter()
            .map(|m| m.tool_calls.first().map(|c| c.name.as_str()))
            .collect();
        assert_eq!(names, [None, Some("f"), None, Some("g"), None]);
        let results = [&found.messages[2].content, &found.messages[4].content];
        assert_eq!(results, [&json!("1"), &json!("2")]);
        assert_eq!(
            (found.messages[3].loss_scale, &found.messages[3].thinking),
            (Some(2.0), &None)
        );
        let error = |messages| {
            convert(&Messages::default(), json!({ "messages": messages }))
                .unwrap_err()
                .to_string()
        };
        let bad = error(json!([call, {"role": "tool", "content": "1"}]));
        assert!(
            bad.contains("message 1: no result follows call 2 of 2, of `g`"),
            "{bad}"
        );
        let result = json!({"role": "tool", "content": "1"});
        let bad = error(json!([call, result, result, result]));
        assert!(bad.contains("1 more results than calls"), "{bad}");
        let open = one(json!([call]));
        assert_eq!(open.messages.len(), 2);
        let bad = error(json!([{"role": "user", "content": "q", "tool_calls": calls}]));
        assert!(bad.contains("only the assistant calls tools"), "{bad}");
    }

    #[test]
    fn calls_in_messages_of_their_own_are_put_before_their_results() {
        let call =
            |name: &str| json!({"role": "tool_call", "content": {"name": name, "arguments": {}}});
        let result = |text: &str| json!({"role": "tool_response", "content": text});
        let found = one(json!([call("f"), call("g"), result("1"), result("2")]));
        let texts: Vec<_> = found.messages.iter().map(|m| m.text()).collect();
        assert_eq!(texts, [None, Some("1"), None, Some("2")]);
        assert_eq!(found.messages[2].tool_calls[0].name, "g");
        let found = one(json!([call("f"), call("g"), result("1")]));
        assert_eq!(found.messages[1].tool_calls[0].name, "g");
    }

    #[test]
    fn errors_name_the_message_and_what_was_found() {
        let error = |row| convert(&Messages::default(), row).unwrap_err().to_string();
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
        let call = |arguments: &str| {
            json!({"messages": [{"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}]})
        };
        let bad = error(call("{\"a\": 1"));
        assert!(
            bad.contains("message 2") && bad.contains("begin as an object"),
            "{bad}"
        );
        let text = convert(&Messages::default(), call("ls -l")).unwrap();
        assert_eq!(text.messages[1].tool_calls[0].arguments, "ls -l");
        let bad = error(json!({"messages": null, "id": 1}));
        assert_eq!(
            bad,
            "column `messages` is null, expected a list of messages"
        );
        let bad = error(json!({"id": 1}));
        assert_eq!(
            bad,
            "no column `messages` (or `conversations`, `conversation`), found `id`"
        );
        let bad = error(json!({"messages": []}));
        assert!(bad.contains("empty"), "{bad}");
        let bad =
            error(json!({"messages": [{"role": "assistant", "content": "a", "loss_scale": -1}]}));
        assert!(bad.contains("from 0 to 3.4028235e38, found -1"), "{bad}");
        let bad =
            error(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}));
        assert!(bad.contains("type `image_url`"), "{bad}");
    }
}
