//! Answers during a run: to the sample prompts, and to prompts of callbacks.

use super::reports::Reports;
use crate::generate::{Asking, Sampling, answer_prompts, answer_questions};
use crate::train::events::Events;
use anyhow::Result;
use apus_components::config::SftConfig;
use apus_data::chat::Encoder;
use apus_model::model::CausalLm;
use apus_sdk::{Answer, RunState};
use std::collections::BTreeMap;

/// Answers prompts.
pub struct Answers<'a> {
    encoder: &'a Encoder,
    sampling: Sampling,
    deterministic: bool,
    /// The sample prompts, answered before the first step, at each evaluation and after the last step.
    prompts: &'a [String],
}

/// How the answers of a run are sampled.
pub fn sampling(config: &SftConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        ..Sampling::greedy(config.max_new_tokens)
    }
}

impl<'a> Answers<'a> {
    /// Answers with the settings of a configuration.
    pub fn new(config: &'a SftConfig, encoder: &'a Encoder) -> Self {
        Self {
            encoder,
            sampling: sampling(config),
            deterministic: config.deterministic,
            prompts: &config.sample_prompts,
        }
    }

    /// Whether there are sample prompts.
    pub fn has_samples(&self) -> bool {
        !self.prompts.is_empty()
    }

    /// Answers the sample prompts and shows them to the trackers, under the `step` of the weights that answer.
    pub fn samples(&self, model: &CausalLm, step: u64, reports: &Reports) -> Result<Vec<String>> {
        self.answers(model, self.prompts, step, reports)
    }

    /// Answers what callbacks have asked for. Prompts that they ask for while they are told of the answers wait for the next call.
    ///
    /// # Errors
    /// A signal, out of memory, or a callback that failed.
    pub fn of_callbacks(
        &self,
        model: &CausalLm,
        step: u64,
        (events, state): (&mut Events, &RunState),
        reports: &Reports,
    ) -> Result<()> {
        let prompts = events.take_prompts();
        let answers = self.answers(model, &prompts, step, reports)?;
        for (prompt, answer) in prompts.iter().zip(&answers) {
            events.on_generate(prompt, answer, state)?;
        }
        self.of_questions(model, (events, state))
    }

    /// Answers the questions of callbacks together, each by its own settings; a callback gets the answers to its own.
    fn of_questions(
        &self,
        model: &CausalLm,
        (events, state): (&mut Events, &RunState),
    ) -> Result<()> {
        let questions = events.take_questions();
        let asked = questions.iter().map(|(asker, question)| Asking {
            by: events.label(*asker),
            question,
        });
        let how = (&self.sampling, self.deterministic);
        let answers = answer_questions(model, self.encoder, &asked.collect::<Vec<_>>(), how)?;
        let mut of_askers: BTreeMap<usize, Vec<Answer>> = BTreeMap::new();
        for ((asker, _), answers) in questions.iter().zip(answers) {
            of_askers.entry(*asker).or_default().extend(answers);
        }
        for (asker, answers) in of_askers {
            events.on_answers(asker, &answers, state)?;
        }
        Ok(())
    }

    /// Answers prompts together.
    fn answers(
        &self,
        model: &CausalLm,
        prompts: &[String],
        step: u64,
        reports: &Reports,
    ) -> Result<Vec<String>> {
        let how = (&self.sampling, self.deterministic);
        let answers = answer_prompts(model, self.encoder, prompts, how)?;
        for (prompt, answer) in prompts.iter().zip(&answers) {
            reports.text(step, prompt, answer);
        }
        Ok(answers)
    }
}
