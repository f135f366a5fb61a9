//! Answers beside each other: the rows that models answer differently, with the answer of the dataset.

use super::Report;
use super::sets::EvalSet;
use crate::generate::Reference;
use apus_sdk::Message;
use std::fmt::Write;

/// A row with the answers of all models.
pub struct Compared<'a> {
    /// The row.
    pub row: &'a Reference,
    /// The answer of each model, by its name.
    pub answers: Vec<(&'a str, &'a str)>,
}

impl Compared<'_> {
    /// All texts by what they are: the last message that is answered, the dataset's answer, and each model's.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let last = self.row.conversation.messages.last();
        let question = last.and_then(Message::text).unwrap_or_default();
        let dataset = [("question", question), ("dataset", &self.row.answer)];
        dataset.into_iter().chain(self.answers.iter().copied())
    }
}

/// The first rows of a dataset whose answers differ, at most so many; of a single model the first rows, and how many
/// rows there are to choose from.
pub fn differing<'a>(report: &'a Report, set: usize, most: usize) -> (Vec<Compared<'a>>, usize) {
    let is_answered = report
        .numbers
        .iter()
        .all(|model| !model[set].answers.is_empty());
    let rows = report.sets[set].references.iter().enumerate();
    let mut found = rows
        .filter(|_| is_answered)
        .map(|(row, reference)| {
            let models = report.models.iter().zip(&report.numbers);
            let answers =
                models.map(|(name, model)| (name.as_str(), model[set].answers[row].as_str()));
            Compared {
                row: reference,
                answers: answers.collect(),
            }
        })
        .filter(|compared| {
            let answers = &compared.answers;
            answers.len() == 1 || answers.iter().any(|(_, answer)| *answer != answers[0].1)
        });
    let shown: Vec<_> = found.by_ref().take(most).collect();
    let all = shown.len() + found.count();
    (shown, all)
}

/// A line about the rows of a dataset that are shown.
pub fn heading(report: &Report, set: &EvalSet, (shown, all): (usize, usize)) -> String {
    let rows = set.references.len();
    match report.models.len() {
        1 => format!("{}: {shown} of {rows} answers", set.name),
        _ => format!(
            "{}: {all} of {rows} rows are answered differently, {shown} are shown",
            set.name
        ),
    }
}

/// The rows as text, for the terminal.
pub fn shown(report: &Report, most: usize) -> String {
    let mut out = String::new();
    if most == 0 {
        return out;
    }
    for (number, set) in report.sets.iter().enumerate() {
        let (rows, all) = differing(report, number, most);
        let _ = writeln!(out, "\n{}", heading(report, set, (rows.len(), all)));
        for compared in rows {
            let _ = writeln!(out, "\n--- {}", compared.row.place);
            for (name, text) in compared.texts() {
                let _ = writeln!(out, "{name}: {text}");
            }
        }
    }
    out
}
