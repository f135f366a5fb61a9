//! Answers to rows that have one already, and metrics that read both.

use super::dataset::question;
use super::{Answer, Counts, Job, Sampling, answers, engine_for};
use anyhow::{Context, Result, bail, ensure};
use apus_components::registry::Named;
use apus_data::chat::Encoder;
use apus_data::data::{Formats, Record, converted};
use apus_model::model::CausalLm;
use apus_sdk::{Conversation, Converted, Metric, Sample, TextPair, json};
use serde_json::Value;

/// The fewest answers that are generated at a time, if there are so many.
const FEWEST_AT_ONCE: usize = 16;

/// A row whose answer in the dataset is compared with a model's.
#[derive(Debug, Clone)]
pub struct Reference {
    /// What is to be answered.
    pub conversation: Conversation,
    /// How many tokens that is.
    tokens: usize,
    /// The answer in the dataset.
    pub answer: String,
    /// File and line.
    pub place: String,
}

/// Rows with their answers, and what is to be said of the others.
#[derive(Debug, Default)]
pub struct References {
    /// The rows that can be answered and compared, in their order.
    pub rows: Vec<Reference>,
    /// Why other rows cannot.
    pub left_out: Vec<String>,
}

impl References {
    /// Takes the last answer off each row. A row that cannot be asked, or has no answer, is left out.
    ///
    /// # Errors
    /// A file whose rows no format recognises.
    pub fn read(
        records: &[Record],
        formats: &Formats,
        encoder: &Encoder,
        positions: usize,
    ) -> Result<Self> {
        let mut found = Self::default();
        for (record, converted) in records.iter().zip(converted(records, formats)?) {
            let samples = match converted {
                Ok(Converted { samples, .. }) => samples,
                Err(error) => {
                    found.left_out.push(format!("{error:#}"));
                    continue;
                }
            };
            for sample in samples {
                match reference(sample, record, encoder, positions) {
                    Ok(row) => found.rows.push(row),
                    Err(error) => found.left_out.push(format!("{error:#}")),
                }
            }
        }
        Ok(found)
    }

    /// A line about rows that are left out, if there are some.
    pub fn warning(&self) -> Option<String> {
        let first = self.left_out.first()?;
        let (count, all) = (self.left_out.len(), self.left_out.len() + self.rows.len());
        Some(format!(
            "{count} of {all} rows are not answered; the first: {first}"
        ))
    }
}

fn reference(
    sample: Sample,
    record: &Record,
    encoder: &Encoder,
    positions: usize,
) -> Result<Reference> {
    let place = record.to_string();
    let question = question(sample, &place, encoder.dialect())?;
    let asked = encoder.prompt(&question.conversation);
    let (_, prompt) = asked.with_context(|| place.clone())?;
    ensure!(
        prompt.len() <= positions,
        "{place}: {} tokens, the number of positions of the model is {positions}",
        prompt.len()
    );
    let answer = match question.labels {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) => bail!("{place}: there is no answer to compare with"),
        Some(other) => json::text(&other),
    };
    Ok(Reference {
        conversation: question.conversation,
        tokens: prompt.len(),
        answer,
        place,
    })
}

/// How rows are answered.
#[derive(Debug, Clone)]
pub struct Answering {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most answers at a time.
    pub max_batch_size: usize,
    /// Whether an answer has the same bits whatever else is answered.
    pub deterministic: bool,
}

impl Answering {
    /// Answers in batches of evaluations.
    pub fn new(sampling: Sampling, eval_batch_size: usize, deterministic: bool) -> Self {
        Self {
            sampling,
            max_batch_size: eval_batch_size.max(FEWEST_AT_ONCE),
            deterministic,
        }
    }

    /// The answers of a model to rows, in their order, without reasoning; empty where the model has not come to one.
    /// `after` is told how many are there.
    ///
    /// # Errors
    /// A signal, or a row that the model cannot answer; the error names it.
    pub fn answer(
        &self,
        model: &CausalLm,
        encoder: &Encoder,
        rows: &[Reference],
        after: &mut dyn FnMut(usize),
    ) -> Result<(Vec<String>, Counts)> {
        let longest = rows.iter().map(|row| row.tokens).max().unwrap_or(0);
        let length = longest + self.sampling.max_new_tokens;
        let at_once = self.max_batch_size.min(rows.len());
        let mut engine = engine_for(model, encoder, (at_once, length), self.deterministic)?;
        let job = |(row, number): (&Reference, u64)| {
            Job::new(row.conversation.clone(), self.sampling.clone(), number)
        };
        let mut texts = vec![String::new(); rows.len()];
        let mut there = 0;
        let jobs = rows.iter().zip(0..).map(job);
        let counts = answers(&mut engine, encoder, jobs, &mut |index, answer| {
            let answer = answer.with_context(|| rows[index].place.clone())?;
            texts[index] = said(&answer);
            there += 1;
            after(there);
            Ok(())
        })?;
        Ok((texts, counts))
    }
}

/// What an answer says in the end.
fn said(answer: &Answer) -> String {
    answer.message.text().unwrap_or_default().to_owned()
}

/// Metrics of tokens, and metrics of answers.
pub type SplitMetrics = (Vec<Named<dyn Metric>>, Vec<Named<dyn Metric>>);

/// Splits metrics into those of tokens and those that read answers.
pub fn split(metrics: Vec<Named<dyn Metric>>) -> SplitMetrics {
    metrics
        .into_iter()
        .partition(|metric| !metric.component.reads_answers())
}

/// The values of metrics that read answers.
///
/// # Errors
/// A metric failed, a value is not finite, or two metrics report one name.
pub fn measure(
    metrics: &mut [Named<dyn Metric>],
    pairs: &[TextPair],
) -> Result<Vec<(String, f64)>> {
    let mut values: Vec<(String, f64)> = Vec::new();
    for metric in metrics {
        let updated = metric.component.update_answers(pairs);
        metric.context("update_answers", updated)?;
        let computed = metric.component.compute();
        for (name, value) in metric.context("compute", computed)? {
            ensure!(
                value.is_finite(),
                "{}: {name} is {value}, expected a finite number",
                metric.label
            );
            ensure!(
                values.iter().all(|(known, _)| *known != name),
                "{}: reports {name}, as another metric does; leave one of them out of metrics",
                metric.label
            );
            values.push((name, value));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static str, f64);

    impl Metric for Fixed {
        fn reads_answers(&self) -> bool {
            true
        }
        fn update_answers(&mut self, pairs: &[TextPair]) -> apus_sdk::Result<()> {
            self.1 += pairs.len() as f64;
            Ok(())
        }
        fn compute(&mut self) -> apus_sdk::Result<Vec<(String, f64)>> {
            Ok(vec![(self.0.to_owned(), self.1)])
        }
    }

    fn measured(metrics: &[(&'static str, f64)]) -> Result<Vec<(String, f64)>> {
        let metrics = metrics.iter().map(|&(name, value)| {
            let metric: Box<dyn Metric> = Box::new(Fixed(name, value));
            Named::new(name, metric)
        });
        let pair = TextPair {
            reference: "a",
            answer: "b",
        };
        let (tokens, mut answers) = split(metrics.collect());
        assert!(tokens.is_empty());
        measure(&mut answers, &[pair])
    }

    #[test]
    fn values_are_finite_and_names_are_unique() {
        let found = measured(&[("a", 1.0), ("b", 2.0)]).unwrap();
        assert_eq!(found, [("a".to_owned(), 2.0), ("b".to_owned(), 3.0)]);
        let error = measured(&[("a", 1.0), ("a", 2.0)]).unwrap_err().to_string();
        assert!(
            error.contains("reports a, as another metric does"),
            "{error}"
        );
        let error = measured(&[("a", f64::NAN)]).unwrap_err().to_string();
        assert!(error.contains("a is NaN"), "{error}");
    }
}
