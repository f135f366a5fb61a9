//! The rows of a dataset that are to be answered. All that is wrong with them is found before a model is loaded.

use crate::setup::formats;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{InferConfig, listed_datasets};
use apus_data::chat::Encoder;
use apus_data::chat::dialect::Dialect;
use apus_data::data::unused::{self, Unused};
use apus_data::data::{self, SourceOptions, read_sets};
use apus_sdk::{Conversation, Converted, Message, Options, Sample, Unread, errln, json};
use serde_json::{Map, Value};

/// The columns of a conversation, for a format that does not tell which columns it reads. All other columns are copied to
/// the result.
const CONVERSATION: [&str; 13] = [
    "messages",
    "conversations",
    "conversation",
    "instruction",
    "input",
    "output",
    "query",
    "prompt",
    "response",
    "history",
    "system",
    "labels",
    "tools",
];

/// Keys of a result that are about the answer. Columns of the row with these names are not copied.
pub const ANSWER: [&str; 5] = ["response", "labels", "logprobs", "messages", "error"];

/// How many reasons are printed; further ones are only counted.
const SAID: usize = 10;

/// A row to answer.
pub struct Row {
    /// What is asked, or the reason why nothing can be.
    pub question: Result<Question, String>,
    /// Its columns that are not the conversation.
    pub others: Map<String, Value>,
    /// File and line.
    pub place: String,
    /// The length of its prompt.
    pub tokens: usize,
}

/// A conversation whose last message is to be answered.
pub struct Question {
    /// The conversation.
    pub conversation: Conversation,
    /// The answer in the dataset.
    pub labels: Option<Value>,
}

/// Reads the rows. A row that cannot be asked gets the reason in place of a question; with `strict` it is an error.
///
/// # Errors
/// Files that cannot be read, no rows, no row that can be asked.
pub fn read(config: &InferConfig, encoder: &Encoder, positions: usize) -> Result<Vec<Row>> {
    let files = match config.val_dataset.is_empty() {
        true => &config.dataset,
        false => &config.val_dataset,
    };
    let sets = read_sets(&SourceOptions {
        val_dataset: files.clone(),
        columns: config.columns.clone(),
        ..SourceOptions::default()
    })?;
    for line in &sets.warnings {
        errln!("warning: {line}");
    }
    let records = sets.val;
    let formats = formats(
        config.dataset_format.as_ref(),
        config.disable_auto_column_mapping,
        files,
        &Options::new(),
    )?;
    let named = listed_datasets(files);
    let most = most(config, positions);
    let mut rows = Vec::with_capacity(records.len());
    let mut lost = Unused::default();
    for (record, converted) in records.iter().zip(data::converted(&records, &formats)?) {
        let place = record.to_string();
        let (samples, unread, mut names) = match converted {
            Ok(Converted { samples, unread }) => {
                let names = |unread| unused::names(unread, &samples, encoder.template());
                let names = unread.as_deref().map(names);
                (samples.into_iter().map(Ok).collect(), unread, names)
            }
            Err(error) => (vec![Err(error)], None, Some(Vec::new())),
        };
        // Whole columns go along to the result.
        names.iter_mut().for_each(|names| {
            names.retain(|name| name.contains(['.', '[']) || ANSWER.contains(&name.as_str()));
        });
        if let (true, Some([name, ..])) = (config.strict, names.as_deref()) {
            bail!("{record}: not used: {name} (strict)");
        }
        lost.count(record.line, names.as_deref());
        let others = others(record, unread.as_deref());
        for sample in samples {
            let mut tokens = 0;
            let asked = sample.and_then(|sample| {
                let question = question(sample, &place, encoder.dialect())?;
                tokens =
                    fits(&question.conversation, encoder, most).with_context(|| place.clone())?;
                Ok(question)
            });
            let question = match asked {
                Err(error) if config.strict => return Err(error),
                asked => asked.map_err(|error| format!("{error:#}")),
            };
            rows.push(Row {
                question,
                others: others.clone(),
                place: place.clone(),
                tokens,
            });
        }
    }
    if let Some(line) = lost.line() {
        errln!("warning: {named}: not used: {line}");
    }
    rows.truncate(config.val_dataset_sample.unwrap_or(usize::MAX));
    ensure!(!rows.is_empty(), "{named}: no rows to answer");
    let why = rows.iter().filter_map(|row| row.question.as_ref().err());
    let count = why.clone().count();
    for why in why.clone().take(SAID) {
        errln!("warning: {why}; not answered");
    }
    if count > SAID {
        errln!("warning: {} more rows cannot be answered", count - SAID);
    }
    if let Some(why) = why.clone().next().filter(|_| count == rows.len()) {
        bail!("{named}: none of {count} rows can be answered; the first: {why}");
    }
    Ok(rows)
}

/// The columns of a row that are not the conversation: those that its format did not read, if it tells.
fn others(record: &data::Record, unread: Option<&[Unread]>) -> Map<String, Value> {
    let mut row = match json::read(&record.text) {
        Ok(Value::Object(row)) => row,
        _ => Map::new(),
    };
    row.retain(|column, _| !ANSWER.contains(&column.as_str()));
    let other = |column: &str| !CONVERSATION.contains(&column);
    row.retain(|column, value| match unread {
        // Formats do not name what has no value.
        Some(_) if value.is_null() => other(column),
        Some(unread) => unread.iter().any(|unread| unread.path == *column),
        None => other(column),
    });
    row
}

/// The most tokens of a question, and the setting that limits it.
pub fn most(config: &InferConfig, positions: usize) -> (usize, &'static str) {
    match config.max_length {
        Some(most) if most < positions => (most, "max_length"),
        _ => (positions, "the number of positions of the model"),
    }
}

/// Checks that a question is short enough to be answered; gives its length in tokens.
pub fn fits(
    conversation: &Conversation,
    encoder: &Encoder,
    (most, name): (usize, &str),
) -> Result<usize> {
    let (_, prompt) = encoder.prompt(conversation)?;
    ensure!(
        prompt.len() <= most,
        "{} tokens, {name} is {most}",
        prompt.len()
    );
    Ok(prompt.len())
}

/// Makes a question of a row: the answer in the dataset, which may be several messages, is taken off its end.
pub fn question(sample: Sample, place: &str, dialect: &dyn Dialect) -> Result<Question> {
    let Sample::Conversation(mut conversation) = sample else {
        bail!("{place}: a row of token ids cannot be answered, only conversations can");
    };
    let messages = &mut conversation.messages;
    let before = messages.iter().rposition(|m| m.role != "assistant");
    let answer = messages.split_off(before.map_or(0, |last| last + 1));
    let labels = label(answer, dialect);
    ensure!(
        conversation
            .messages
            .iter()
            .any(|message| message.role != "system"),
        "{place}: there is nothing to answer"
    );
    Ok(Question {
        conversation,
        labels,
    })
}

/// The final answer of a turn: its text without reasoning and without comments between calls.
fn label(answer: Vec<Message>, dialect: &dyn Dialect) -> Option<Value> {
    let texts: Vec<&str> = answer
        .iter()
        .filter(|message| dialect.is_final(message))
        .filter_map(Message::text)
        .collect();
    match texts.is_empty() {
        true => answer.into_iter().next_back().map(|last| last.content),
        false => Some(texts.concat().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_data::chat::dialect::harmony::Harmony;
    use serde_json::json;

    #[test]
    fn columns_that_are_not_read_go_along() {
        let record = data::Record {
            source: "d.jsonl".into(),
            line: 1,
            text: r#"{"messages": [], "id": 1, "mood": "x", "tools": null, "note": null, "labels": "y", "error": "z"}"#
                .to_owned(),
            format: None,
        };
        let columns = |unread| {
            others(&record, unread)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        let unread = ["id", "mood", "labels", "error"].map(|path| Unread {
            path: path.to_owned(),
            harmless: path == "id",
        });
        assert_eq!(columns(Some(&unread[..])), ["id", "mood", "note"]);
        assert_eq!(columns(Some(&[])), ["note"]);
        assert_eq!(columns(None), ["id", "mood", "note"]);
    }

    #[test]
    fn the_last_answer_is_the_label() {
        let mut conversation = Conversation::default();
        let roles = ["system", "user", "assistant", "user", "assistant"];
        let messages = roles.iter().enumerate();
        conversation.messages = messages
            .map(|(i, &role)| Message::new(role, i.to_string()))
            .collect();
        let ask = |conversation| {
            let sample = Sample::Conversation(conversation);
            question(sample, "d:1", &Harmony)
        };
        let found = ask(conversation.clone()).unwrap();
        assert_eq!(found.labels, Some(json!("4")));
        assert_eq!(found.conversation.messages.len(), 4);
        let mut spread = conversation.clone();
        let answer = spread.messages.pop().unwrap();
        for (content, channel) in [
            (Value::Null, None),
            (json!("P"), Some("commentary")),
            (json!("4"), None),
        ] {
            spread.messages.push(Message {
                content,
                channel: channel.map(str::to_owned),
                ..answer.clone()
            });
        }
        let found = ask(spread).unwrap();
        assert_eq!(found.labels, Some(json!("4")));
        assert_eq!(found.conversation.messages.len(), 4);
        conversation.messages.truncate(1);
        assert!(ask(conversation).is_err());
    }
}
