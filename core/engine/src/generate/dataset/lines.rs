//! The line of a row, with the keys that ms-swift uses.

use super::rows::{ANSWER, Question, Row};
use crate::generate::Answer;
use crate::generate::results::response;
use serde_json::{Map, Value, json};

/// The line of a row that was answered.
pub fn answered(
    row: &Row,
    question: &Question,
    answer: Answer,
    logprobs: Option<Value>,
) -> Map<String, Value> {
    let mut messages = question.conversation.messages.clone();
    let response = response(&answer);
    messages.push(answer.message);
    let mut line = Map::new();
    line.insert("response".to_owned(), response);
    line.insert("labels".to_owned(), label(question));
    if let Some(logprobs) = logprobs {
        line.insert("logprobs".to_owned(), logprobs);
    }
    line.insert("messages".to_owned(), json!(messages));
    line.extend(row.others.clone());
    line
}

/// The line of a row that has no answer, and why.
pub fn unanswered(row: &Row, why: &str) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("response".to_owned(), Value::Null);
    line.extend(row.others.clone());
    line.insert("error".to_owned(), why.into());
    line
}

/// The first key at which a line that was written before is not a line of this row, whatever the answer.
pub fn difference(row: &Row, line: &Map<String, Value>) -> Option<String> {
    let other = row
        .others
        .iter()
        .find(|(key, value)| line.get(*key) != Some(*value));
    let more = line
        .keys()
        .find(|key| !ANSWER.contains(&key.as_str()) && !row.others.contains_key(*key));
    if let Some(key) = other.map(|(key, _)| key).or(more) {
        return Some(key.clone());
    }
    let differs = match (&row.question, line.get("error")) {
        (_, Some(_)) => return None,
        (Err(_), None) => Some("error"),
        (Ok(question), None) => {
            let asked = json!(question.conversation.messages);
            let before = line.get("messages").and_then(Value::as_array);
            let before = before.and_then(|messages| messages.split_last());
            let same = before
                .is_some_and(|(_, before)| asked.as_array().is_some_and(|asked| asked == before));
            match (same, line.get("labels") == Some(&label(question))) {
                (false, _) => Some("messages"),
                (true, false) => Some("labels"),
                (true, true) => None,
            }
        }
    };
    differs.map(str::to_owned)
}

fn label(question: &Question) -> Value {
    question.labels.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Counts, FinishReason};
    use apus_sdk::{Conversation, Message, json as digits};

    fn row(text: &str, labels: Option<Value>) -> Row {
        let others = digits::read(r#"{"id": 123456789012345678901234567890, "x": 1e2}"#).unwrap();
        let conversation = Conversation {
            messages: vec![Message::new("user", text)],
            ..Conversation::default()
        };
        Row {
            question: Ok(Question {
                conversation,
                labels,
            }),
            others: others.as_object().unwrap().clone(),
            place: "d:1".to_owned(),
            tokens: 1,
        }
    }

    fn written(row: &Row) -> Map<String, Value> {
        let question = row.question.as_ref().unwrap();
        let answer = Answer {
            message: Message::new("assistant", "yes"),
            text: "yes".to_owned(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            counts: Counts::default(),
            reason: FinishReason::Length,
        };
        let line = answered(row, question, answer, None);
        let text = digits::text(&Value::Object(line));
        digits::read(&text).unwrap().as_object().unwrap().clone()
    }

    #[test]
    fn a_line_is_known_to_be_of_its_row_and_of_no_other() {
        let asked = row("one?", Some(json!("l")));
        let line = written(&asked);
        assert_eq!(
            line.keys().collect::<Vec<_>>(),
            ["response", "labels", "messages", "id", "x"]
        );
        assert_eq!(difference(&asked, &line), None);
        assert_eq!(
            difference(&row("two?", Some(json!("l"))), &line),
            Some("messages".to_owned())
        );
        assert_eq!(
            difference(&row("one?", None), &line),
            Some("labels".to_owned())
        );
        let mut other = row("one?", Some(json!("l")));
        other.others.insert("x".to_owned(), json!(101));
        assert_eq!(difference(&other, &line), Some("x".to_owned()));
        other.others.remove("x");
        assert_eq!(difference(&other, &line), Some("x".to_owned()));

        let mut bad = row("", None);
        bad.question = Err("d:1: nothing".to_owned());
        assert_eq!(difference(&bad, &line), Some("error".to_owned()));
        let line = unanswered(&bad, "d:1: nothing");
        assert_eq!(difference(&bad, &line), None);
        assert_eq!(line["response"], Value::Null);
        // A question that found no answer keeps its place.
        assert_eq!(
            difference(&asked, &unanswered(&asked, "d:1: no memory")),
            None
        );
    }
}
