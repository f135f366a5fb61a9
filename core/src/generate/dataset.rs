//! Answers to the rows of a dataset, in a file with ms-swift's keys.

use super::view::{Look, View};
use super::{Counts, Sampling, respond};
use crate::chat::{Encoder, turns::COMMENTARY};
use crate::config::InferConfig;
use crate::data::unused::{self, Unused};
use crate::data::{self, SourceOptions, read_sets};
use crate::model::GptOss;
use crate::train::setup::formats;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Conversation, Left, Message, Sample, errln, out, outln};
use serde_json::{Map, Value, json};
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Columns that are a conversation, for a format that does not say which it reads; all others go along to the
/// result.
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

/// Keys that are of the answer in a result, whatever columns a row has.
const ANSWER: [&str; 3] = ["response", "labels", "messages"];

/// One to answer.
struct Question {
    conversation: Conversation,
    /// What the dataset answers.
    labels: Option<Value>,
    others: Map<String, Value>,
    /// File and line.
    place: String,
}

/// All of a dataset.
pub struct Questions {
    all: Vec<Question>,
    path: PathBuf,
    stream: bool,
}

impl Questions {
    /// Reads them. Everything that can be refused is refused here, before a model is loaded.
    ///
    /// # Errors
    /// Files that cannot be read, rows that cannot be asked, no rows.
    pub fn open(config: &InferConfig, encoder: &Encoder, adapter: Option<&Path>) -> Result<Self> {
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
        let mut samples = Vec::new();
        let mut lost = Unused::default();
        for (record, converted) in records.iter().zip(data::converted(&records, &formats)?) {
            let left = converted.left;
            let names = |left| unused::names(left, &converted.samples, encoder.template());
            let mut names = left.as_deref().map(names);
            // Whole columns go along to the result.
            names.iter_mut().for_each(|names| {
                names.retain(|name| name.contains(['.', '[']) || ANSWER.contains(&name.as_str()));
            });
            if let (true, Some([name, ..])) = (config.strict, names.as_deref()) {
                bail!("{record}: not used: {name} (strict)");
            }
            lost.count(record.line, names.as_deref());
            let others = others(record, left.as_deref());
            let of_record = converted.samples.into_iter();
            samples.extend(of_record.map(|sample| (record, sample, others.clone())));
        }
        if let Some(line) = lost.line() {
            errln!("warning: {}: not used: {line}", files.join(", "));
        }
        samples.truncate(config.val_dataset_sample.unwrap_or(usize::MAX));
        ensure!(
            !samples.is_empty(),
            "{}: no rows to answer",
            files.join(", ")
        );
        let mut all = Vec::with_capacity(samples.len());
        for (record, sample, others) in samples {
            let place = record.to_string();
            let question =
                question(sample, others, place.clone()).with_context(|| place.clone())?;
            let (_, prompt) = encoder
                .prompt(&question.conversation)
                .with_context(|| place.clone())?;
            match config.max_length {
                Some(most) if prompt.len() > most => {
                    let text = format!("{place}: {} tokens, max_length is {most}", prompt.len());
                    ensure!(!config.strict, text);
                    errln!("warning: {text}; left out");
                }
                _ => all.push(question),
            }
        }
        let home = adapter.map_or_else(|| PathBuf::from("result"), Path::to_owned);
        let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
        let default = || home.join("infer_result").join(format!("{time}.jsonl"));
        Ok(Self {
            all,
            path: config
                .result_path
                .as_ref()
                .map_or_else(default, PathBuf::from),
            stream: config.stream.unwrap_or(false),
        })
    }

    /// Answers them, a line each, written as soon as it is there, behind what the file holds already.
    ///
    /// # Errors
    /// The file cannot be written, or out of memory.
    pub fn answer(
        self,
        model: &GptOss,
        encoder: &Encoder,
        sampling: &Sampling,
        look: Look,
    ) -> Result<()> {
        let written = || format!("{}: cannot be written", self.path.display());
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent).with_context(written)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path);
        let mut file = BufWriter::new(file.with_context(written)?);
        let start = Instant::now();
        let mut counts = Counts::default();
        for mut question in self.all {
            let mut view = View::new(look);
            let answer = respond(
                model,
                encoder,
                &question.conversation,
                sampling,
                &mut |text| {
                    if self.stream {
                        out!("{}", view.next(text));
                    }
                },
            )
            .with_context(|| question.place.clone())?;
            if self.stream {
                outln!("{}", view.end());
            }
            counts.add(&answer.counts);
            let response = match answer.message.text() {
                Some(text) => text.to_owned(),
                None => answer.text,
            };
            question.conversation.messages.push(answer.message);
            let mut line = Map::new();
            line.insert("response".to_owned(), response.into());
            line.insert("labels".to_owned(), json!(question.labels));
            line.insert("messages".to_owned(), json!(question.conversation.messages));
            line.extend(question.others);
            writeln!(file, "{}", Value::Object(line))
                .and_then(|()| file.flush())
                .with_context(written)?;
        }
        outln!("{}", counts.line(start.elapsed().as_secs_f64()));
        outln!("answers: {}", self.path.display());
        Ok(())
    }
}

/// The columns of a row that are no conversation: what its format left, if it says.
fn others(record: &data::Record, left: Option<&[Left]>) -> Map<String, Value> {
    let mut row = record.row().unwrap_or_default();
    row.retain(|column, _| !ANSWER.contains(&column.as_str()));
    let other = |column: &str| !CONVERSATION.contains(&column);
    row.retain(|column, value| match left {
        // What has no value is not left.
        Some(_) if value.is_null() => other(column),
        Some(left) => left.iter().any(|left| left.path == *column),
        None => other(column),
    });
    row
}

/// A row as a question; the dataset's own answer is taken off, in however many messages it stands.
fn question(sample: Sample, others: Map<String, Value>, place: String) -> Result<Question> {
    let Sample::Conversation(mut conversation) = sample else {
        bail!("a row of token ids cannot be answered; infer needs conversations");
    };
    let messages = &mut conversation.messages;
    let before = messages.iter().rposition(|m| m.role != "assistant");
    let answer = messages.split_off(before.map_or(0, |last| last + 1));
    let labels = label(answer);
    ensure!(
        conversation
            .messages
            .iter()
            .any(|message| message.role != "system"),
        "there is nothing to answer"
    );
    Ok(Question {
        conversation,
        labels,
        others,
        place,
    })
}

/// What a turn answers: its text, without its reasoning and what it says on the way.
fn label(answer: Vec<Message>) -> Option<Value> {
    let says = |message: &&Message| message.channel.as_deref() != Some(COMMENTARY);
    let texts: Vec<&str> = answer
        .iter()
        .filter(says)
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

    #[test]
    fn columns_that_are_not_read_go_along() {
        let record = data::Record {
            source: "d.jsonl".into(),
            line: 1,
            text: r#"{"messages": [], "id": 1, "mood": "x", "tools": null, "note": null, "labels": "y"}"#
                .to_owned(),
        };
        let columns = |left| {
            others(&record, left)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        let left = ["id", "mood", "labels"].map(|path| Left {
            path: path.to_owned(),
            harmless: path == "id",
        });
        assert_eq!(columns(Some(&left[..])), ["id", "mood", "note"]);
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
            question(
                Sample::Conversation(conversation),
                Map::new(),
                "d:1".to_owned(),
            )
        };
        let found = ask(conversation.clone()).unwrap();
        assert_eq!(found.labels, Some(json!("4")));
        assert_eq!(found.conversation.messages.len(), 4);
        let mut spread = conversation.clone();
        let answer = spread.messages.pop().unwrap();
        for (content, channel) in [
            (Value::Null, None),
            (json!("P"), Some(COMMENTARY)),
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
