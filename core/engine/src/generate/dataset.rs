//! Answers the rows of a dataset and writes a file with the keys that ms-swift uses. A row that cannot be answered does
//! not stop the others.

use super::results::{Results, response};
use super::{Answer, Counts, Engine, Job, Sampling, respond};
use crate::out_of_memory::is as is_out_of_memory;
use crate::setup::formats;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::InferConfig;
use apus_data::chat::Encoder;
use apus_data::chat::dialect::{Dialect, ViewOptions};
use apus_data::data::unused::{self, Unused};
use apus_data::data::{self, SourceOptions, read_sets};
use apus_sdk::{Conversation, Converted, Message, Sample, Unread, errln, json, out, outln};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
const ANSWER: [&str; 4] = ["response", "labels", "messages", "error"];

/// How many reasons are printed; further ones are only counted.
const SAID: usize = 10;

/// A row to answer, or the reason why it cannot be answered.
struct Row {
    question: Result<Question, String>,
    /// Its other columns.
    others: Map<String, Value>,
}

/// A conversation whose last message is to be answered.
pub(super) struct Question {
    /// The conversation.
    pub conversation: Conversation,
    /// The answer in the dataset.
    pub labels: Option<Value>,
    /// File and line.
    place: String,
}

/// The rows of a dataset.
pub struct Questions {
    rows: Vec<Row>,
    path: PathBuf,
    stream: bool,
    strict: bool,
}

impl Questions {
    /// Reads the rows. All errors in them are found here, before a model is loaded. A row that cannot be asked gets the
    /// reason in place of an answer; with `strict` it is an error.
    ///
    /// # Errors
    /// Files that cannot be read, no rows, no row that can be asked.
    pub fn open(
        config: &InferConfig,
        encoder: &Encoder,
        positions: usize,
        home: &Path,
    ) -> Result<Self> {
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
        )?;
        let named = files.join(", ");
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
                let asked = sample.and_then(|sample| {
                    let question = question(sample, place.clone(), encoder.dialect())?;
                    fits(&question.conversation, encoder, most)
                        .with_context(|| question.place.clone())?;
                    Ok(question)
                });
                let question = match asked {
                    Err(error) if config.strict => return Err(error),
                    asked => asked.map_err(|error| format!("{error:#}")),
                };
                let others = others.clone();
                rows.push(Row { question, others });
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
        let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
        let default = || home.join("infer_result").join(format!("{time}.jsonl"));
        Ok(Self {
            rows,
            path: config
                .result_path
                .as_ref()
                .map_or_else(default, PathBuf::from),
            stream: config.stream.unwrap_or(false),
            strict: config.strict,
        })
    }

    /// Answers the rows. Each answer is appended to the file as a line as soon as it is complete. The line of a row without
    /// an answer has the reason.
    ///
    /// # Errors
    /// The file cannot be written, the model failed, or, when all are through, rows without an answer.
    pub fn answer(
        self,
        engine: &mut Engine,
        encoder: &Encoder,
        sampling: &Sampling,
        view_options: ViewOptions,
    ) -> Result<()> {
        let mut results = Results::open(&self.path)?;
        let start = Instant::now();
        let mut counts = Counts::default();
        let (rows, mut missing) = (self.rows.len(), Vec::new());
        for (number, Row { question, others }) in self.rows.into_iter().enumerate() {
            let answered = match question {
                Err(why) => Err(why),
                Ok(question) => {
                    let view_options = self.stream.then_some(view_options);
                    let sampling = (sampling, number as u64);
                    match answer(engine, encoder, &question, sampling, view_options) {
                        Ok(answer) => Ok((question, answer)),
                        // The next row may be shorter; any other failure is not the row's.
                        Err(error) if is_out_of_memory(&error) && !self.strict => {
                            let why = format!("{}: {error:#}", question.place);
                            errln!("warning: {why}; not answered");
                            Err(why)
                        }
                        Err(error) => return Err(error.context(question.place)),
                    }
                }
            };
            let mut line = Map::new();
            match answered {
                Ok((question, answer)) => {
                    counts.add(&answer.counts);
                    given(question, answer, &mut line);
                    line.extend(others);
                }
                Err(why) => {
                    line.insert("response".to_owned(), Value::Null);
                    line.extend(others);
                    line.insert("error".to_owned(), why.as_str().into());
                    missing.push(why);
                }
            }
            results.write(line)?;
        }
        outln!("{}", counts.line(start.elapsed().as_secs_f64()));
        outln!("answers: {}", results.path().display());
        match missing.first() {
            None => Ok(()),
            Some(first) => bail!(
                "{} of {rows} rows have no answer; `error` in their lines says why, in the first: {first}",
                missing.len()
            ),
        }
    }
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

/// Answers a question. With view options, the answer is shown while it is generated.
fn answer(
    engine: &mut Engine,
    encoder: &Encoder,
    question: &Question,
    (sampling, number): (&Sampling, u64),
    view_options: Option<ViewOptions>,
) -> Result<Answer> {
    let mut view = view_options.map(|options| encoder.dialect().view(options));
    let job = Job::new(question.conversation.clone(), sampling.clone(), number);
    let answer = respond(engine, encoder, job, &mut |text| {
        if let Some(view) = &mut view {
            out!("{}", view.next(text));
        }
    })?;
    if let Some(mut view) = view {
        outln!("{}", view.end());
    }
    Ok(answer)
}

/// Adds the keys of an answered row.
fn given(question: Question, answer: Answer, line: &mut Map<String, Value>) {
    let response = response(&answer);
    let mut messages = question.conversation.messages;
    messages.push(answer.message);
    line.insert("response".to_owned(), response);
    line.insert("labels".to_owned(), question.labels.unwrap_or_default());
    line.insert("messages".to_owned(), serde_json::json!(messages));
}

/// The most tokens of a question, and the setting that limits it.
pub(super) fn most(config: &InferConfig, positions: usize) -> (usize, &'static str) {
    match config.max_length {
        Some(most) if most < positions => (most, "max_length"),
        _ => (positions, "the number of positions of the model"),
    }
}

/// Checks that a question is short enough to be answered.
pub(super) fn fits(
    conversation: &Conversation,
    encoder: &Encoder,
    (most, name): (usize, &str),
) -> Result<()> {
    let (_, prompt) = encoder.prompt(conversation)?;
    ensure!(
        prompt.len() <= most,
        "{} tokens, {name} is {most}",
        prompt.len()
    );
    Ok(())
}

/// Makes a question of a row: the answer in the dataset, which may be several messages, is taken off its end.
pub(super) fn question(sample: Sample, place: String, dialect: &dyn Dialect) -> Result<Question> {
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
        place,
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
            question(sample, "d:1".to_owned(), &Harmony)
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
