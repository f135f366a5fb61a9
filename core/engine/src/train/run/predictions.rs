//! `predict_with_generate`: at an evaluation the rows of its data are answered, and metrics read the answers.

use super::answers::sampling;
use super::reports::Reports;
use super::set_up::SetUp;
use crate::generate::{Answering, Reference, measure};
use anyhow::{Context, Result};
use apus_base::lines::info;
use apus_components::registry::Named;
use apus_data::chat::Encoder;
use apus_model::model::CausalLm;
use apus_sdk::{Metric, TextPair, json};
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// The file of all answers in the folder of a run, as ms-swift names it.
const FILE: &str = "predict.jsonl";

/// What is answered at each evaluation.
pub struct Predictions<'a> {
    rows: &'a [Reference],
    encoder: &'a Encoder,
    metrics: Vec<Named<dyn Metric>>,
    answering: Answering,
    path: PathBuf,
}

impl<'a> Predictions<'a> {
    /// Answers of a run, for metrics that read them; nothing if the run does not ask for them.
    pub fn new(set_up: &'a SetUp, metrics: Vec<Named<dyn Metric>>) -> Option<Self> {
        let config = &set_up.config;
        config.predict_with_generate.then(|| Self {
            rows: &set_up.references,
            encoder: &set_up.encoder,
            metrics,
            answering: Answering::new(
                sampling(config),
                config.per_device_eval_batch_size,
                config.deterministic,
            ),
            path: set_up.settings.run_dir.join(FILE),
        })
    }

    /// The metrics that read them.
    pub fn metrics(&mut self) -> impl Iterator<Item = &mut Named<dyn Metric>> {
        self.metrics.iter_mut()
    }

    /// Answers all rows after so many steps, to each metric as `eval_NAME`.
    ///
    /// # Errors
    /// A signal, a row that cannot be answered, a metric that failed, a file that cannot be written.
    pub fn evaluate(
        &mut self,
        model: &CausalLm,
        step: u64,
        reports: &Reports,
    ) -> Result<Map<String, Value>> {
        let start = Instant::now();
        let all = self.rows.len();
        reports.doing(|| format!("answers 0/{all}"));
        let mut after = |there: usize| reports.doing(|| format!("answers {there}/{all}"));
        let answered = self
            .answering
            .answer(model, self.encoder, self.rows, &mut after);
        let (answers, counts) = answered.context("predict_with_generate")?;
        info!("evaluation: {}", counts.line(start.elapsed().as_secs_f64()));
        self.write(step, &answers)
            .with_context(|| format!("{}: cannot be written", self.path.display()))?;
        let pairs = self.rows.iter().zip(&answers);
        let pairs: Vec<TextPair> = pairs
            .map(|(row, answer)| TextPair {
                reference: &row.answer,
                answer,
            })
            .collect();
        let values = measure(&mut self.metrics, &pairs)?.into_iter();
        Ok(values
            .map(|(name, value)| (format!("eval_{name}"), value.into()))
            .collect())
    }

    fn write(&self, step: u64, answers: &[String]) -> Result<()> {
        let mut lines = String::new();
        for (row, answer) in self.rows.iter().zip(answers) {
            let line = serde_json::json!({
                "response": answer,
                "labels": row.answer,
                "messages": row.conversation.messages,
                "global_step": step,
            });
            lines += &json::text(&line);
            lines.push('\n');
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        Ok(file.write_all(lines.as_bytes())?)
    }
}
