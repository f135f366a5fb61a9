//! The header of a message in harmony, by the keys of openai-harmony's JSON: `channel`, `recipient`,
//! `content_type`, and for the result of a tool the name of its author.
//!
//! The renderers write a type of content for calls alone, so that of any other message is left unread, and is named
//! as not used.

use super::{
    calls::FUNCTIONS,
    keys::{KeyPath, take},
};
use apus_sdk::{Error, Result};
use serde_json::{Map, Value};

/// What a message of the assistant is by its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// No header is given, or it adds nothing to the rest of the message.
    Plain,
    /// Reasoning.
    Analysis,
    /// Text of this channel, `commentary` or `final`.
    Text(String),
    /// A call of this function, with the content as its arguments.
    Call(String),
}

/// Puts role and name of `{"author": {"role": .., "name": ..}}` where they usually stand. What is no text stays, so that
/// it is noted where it was written.
///
/// # Errors
/// A mark of what is trained inside of it.
pub fn unfold_author(fields: &mut Map<String, Value>, at: &KeyPath) -> Result<()> {
    let Some(Value::Object(author)) = fields.get_mut("author") else {
        return Ok(());
    };
    let mut author = std::mem::take(author);
    for key in ["role", "name"] {
        if fields.get(key).is_none_or(Value::is_null)
            && author.get(key).is_some_and(Value::is_string)
            && let Some(value) = take(&mut author, &[key])
        {
            fields.insert(key.to_owned(), value);
        }
    }
    at.key("author")
        .note_rest(&author, &["id", "name", "metadata"])
}

/// Takes the header of a message of this role.
///
/// # Errors
/// A header that no message can have, or only one of a built-in tool, which cannot be trained.
pub fn read(fields: &mut Map<String, Value>, role: &str) -> Result<Header> {
    let mut text = |name: &str| match take(fields, &[name]) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Error::new(format!("`{name}` must be text, found {other}"))),
    };
    let channel = text("channel")?;
    let recipient = text("recipient")?.filter(|recipient| recipient != "all");
    let channel = channel.as_deref();
    if let Some(channel) = channel
        && !["analysis", "commentary", "final"].contains(&channel)
    {
        return Err(Error::new(format!(
            "`channel` of a message is harmony's: analysis, commentary or final, found `{channel}`; a group \
             that the loss is reported under is a column of the row"
        )));
    }
    if role != "assistant" {
        return of_others(role, channel, recipient.as_deref());
    }
    let Some(recipient) = recipient else {
        return Ok(match channel {
            None => Header::Plain,
            Some("analysis") => Header::Analysis,
            Some(channel) => Header::Text(channel.to_owned()),
        });
    };
    let Some(function) = recipient.strip_prefix(FUNCTIONS) else {
        return Err(Error::new(format!(
            "`recipient` is `{recipient}`, but only functions can be called: `{FUNCTIONS}name`"
        )));
    };
    if let Some(channel) = channel.filter(|channel| *channel != "commentary") {
        return Err(Error::new(format!(
            "a call in channel `{channel}`; functions are called in `commentary`"
        )));
    }
    let content_type = text("content_type")?;
    let content_type = content_type.as_deref().map(str::trim);
    if let Some(other) = content_type.filter(|kind| !["json", "<|constrain|>json"].contains(kind)) {
        return Err(Error::new(format!(
            "`content_type` of a call is `{other}`; functions are called with json"
        )));
    }
    Ok(Header::Call(function.to_owned()))
}

/// A message of any other role has one possible header, which the renderers write.
fn of_others(role: &str, channel: Option<&str>, recipient: Option<&str>) -> Result<Header> {
    let places = match role {
        "tool" => (Some("commentary"), Some("assistant")),
        _ => (None, None),
    };
    match (channel, recipient) {
        (Some(found), _) if Some(found) != places.0 => Err(Error::new(format!(
            "a message of `{role}` in channel `{found}`, which the renderers cannot write; leave `channel` out"
        ))),
        (_, Some(found)) if Some(found) != places.1 => Err(Error::new(format!(
            "a message of `{role}` to `{found}`, which the renderers cannot write; leave `recipient` out"
        ))),
        _ => Ok(Header::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::noting;
    use super::*;
    use serde_json::json;

    fn unfolded(value: Value) -> Map<String, Value> {
        let Value::Object(mut fields) = value else {
            panic!("an object")
        };
        let unfold = |_: &mut _, at: &KeyPath| unfold_author(&mut fields, at).map(|()| Vec::new());
        noting(Map::new(), &[], unfold).unwrap();
        fields
    }

    fn header(value: Value, role: &str) -> Result<Header> {
        read(&mut unfolded(value), role)
    }

    #[test]
    fn the_header_says_what_a_message_is() {
        let of = |value| header(value, "assistant").unwrap();
        assert_eq!(
            of(json!({"channel": null, "recipient": "all"})),
            Header::Plain
        );
        assert_eq!(of(json!({"channel": "analysis"})), Header::Analysis);
        assert_eq!(
            of(json!({"channel": "final"})),
            Header::Text("final".to_owned())
        );
        let call = json!({"channel": "commentary", "recipient": "functions.f", "content_type": "<|constrain|>json"});
        assert_eq!(of(call), Header::Call("f".to_owned()));
        let result = json!({"channel": "commentary", "recipient": "assistant"});
        assert_eq!(header(result, "tool"), Ok(Header::Plain));
    }

    #[test]
    fn the_author_may_be_an_object() {
        let row = json!({"author": {"role": "tool", "name": "functions.f"}, "name": null});
        let fields = unfolded(row);
        assert_eq!(
            (&fields["role"], &fields["name"]),
            (&json!("tool"), &json!("functions.f"))
        );
        let fields = unfolded(json!({"author": "Ann", "role": "user"}));
        assert_eq!(fields["author"], "Ann");
    }

    #[test]
    fn a_name_that_is_no_text_is_noted_where_it_stands() {
        let row = json!({"author": {"role": "user", "name": {"first": "Ann"}}});
        let Value::Object(mut fields) = row else {
            panic!("an object")
        };
        let unfold = |_: &mut _, at: &KeyPath| unfold_author(&mut fields, at).map(|()| Vec::new());
        let unread = noting(Map::new(), &[], unfold).unwrap().unread.unwrap();
        let paths: Vec<&str> = unread.iter().map(|unread| unread.path.as_str()).collect();
        assert_eq!(paths, ["author.name"]);
        assert!(!fields.contains_key("name") && fields["role"] == "user");
    }

    #[test]
    fn a_type_of_content_is_read_of_calls_alone() {
        let mut call = unfolded(json!({"recipient": "functions.f", "content_type": "json"}));
        read(&mut call, "assistant").unwrap();
        assert_eq!(call["content_type"], Value::Null);
        for role in ["assistant", "user", "tool"] {
            let mut text = unfolded(json!({"content_type": "json"}));
            assert_eq!(read(&mut text, role), Ok(Header::Plain));
            assert_eq!(text["content_type"], "json", "{role}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let error = |value, role| header(value, role).unwrap_err().to_string();
        let bad = error(json!({"channel": "email"}), "assistant");
        assert!(
            bad.contains("found `email`") && bad.contains("column of the row"),
            "{bad}"
        );
        let bad = error(json!({"recipient": "python"}), "assistant");
        assert!(bad.contains("only functions can be called"), "{bad}");
        let bad = error(
            json!({"recipient": "functions.f", "channel": "analysis"}),
            "assistant",
        );
        assert!(bad.contains("called in `commentary`"), "{bad}");
        let bad = error(
            json!({"recipient": "functions.f", "content_type": "code"}),
            "assistant",
        );
        assert!(bad.contains("called with json"), "{bad}");
        assert!(error(json!({"channel": "final"}), "user").contains("leave `channel` out"));
        assert!(error(json!({"channel": "analysis"}), "tool").contains("leave `channel` out"));
        assert!(
            error(json!({"recipient": "functions.f"}), "user").contains("leave `recipient` out")
        );
        assert!(error(json!({"channel": 3}), "user").contains("must be text"));
    }
}
