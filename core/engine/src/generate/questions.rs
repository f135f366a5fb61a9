//! Answers to the questions of callbacks: many at once, each with settings of its own, with the adapters of the model or without.

use super::adapters::BASE;
use super::{Job, PROMPTS, Sampling, Stop, answers, engine_for, number_of};
use anyhow::{Context, Result, ensure};
use apus_data::chat::Encoder;
use apus_model::model::CausalLm;
use apus_sdk::{Answer, Question};

/// A question, and who asks it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The callback, for messages.
    pub by: &'a str,
    /// What it asks.
    pub question: &'a Question,
}

impl Asking<'_> {
    fn place(&self) -> String {
        format!("{}, question {:?}", self.by, self.question.id())
    }

    /// How tokens are chosen: as the question says, and where it does not, as the run's own answers are.
    fn sampling(&self, usual: &Sampling) -> Sampling {
        let asked = self.question;
        Sampling {
            temperature: asked.temperature_asked().unwrap_or(usual.temperature),
            top_p: asked.top_p_asked().unwrap_or(usual.top_p),
            top_k: asked.top_k_asked().unwrap_or(usual.top_k),
            min_p: asked.min_p_asked().unwrap_or(usual.min_p),
            repetition_penalty: asked
                .repetition_penalty_asked()
                .unwrap_or(usual.repetition_penalty),
            seed: asked.seed_asked().unwrap_or(usual.seed),
            max_new_tokens: asked.limit().unwrap_or(usual.max_new_tokens),
            ..usual.clone()
        }
    }

    /// The jobs of its answers. The random numbers follow from the conversation and the number of the answer.
    fn jobs(&self, usual: &Sampling) -> Result<Vec<Job>> {
        let question = self.question;
        let conversation = question.asked();
        let text = serde_json::to_string(conversation)?;
        let job = |index| Job {
            adapter: (!question.has_adapters()).then(|| BASE.to_owned()),
            stop: Stop {
                strings: question.stops().to_vec(),
                ..Stop::default()
            },
            ..Job::new(
                conversation.clone(),
                self.sampling(usual),
                number_of(format!("{index} {text}").as_bytes()),
            )
        };
        Ok((0..question.count()).map(job).collect())
    }
}

/// Generates the answers to questions together: those to each, in its order.
///
/// # Errors
/// A signal, or a question that cannot be answered; the error names it.
pub fn answer_questions(
    model: &CausalLm,
    encoder: &Encoder,
    asked: &[Asking],
    (sampling, deterministic): (&Sampling, bool),
) -> Result<Vec<Vec<Answer>>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let positions = model.config().architecture.max_position_embeddings;
    let (mut jobs, mut places, mut longest) = (Vec::new(), Vec::new(), 0);
    for (at, asking) in asked.iter().enumerate() {
        let (_, prompt) = encoder
            .prompt(asking.question.asked())
            .with_context(|| asking.place())?;
        ensure!(
            prompt.len() < positions,
            "{}: {} tokens, the number of positions of the model is {positions}",
            asking.place(),
            prompt.len()
        );
        let own = asking.jobs(sampling)?;
        longest = longest.max(prompt.len() + asking.sampling(sampling).max_new_tokens);
        places.extend((0..own.len()).map(|index| (at, index)));
        jobs.extend(own);
    }
    let at_once = jobs.len().min(PROMPTS);
    let mut engine = engine_for(model, encoder, (at_once, longest), deterministic)?;
    if let Some(base) = asked.iter().find(|asking| !asking.question.has_adapters()) {
        engine
            .name_base(BASE)
            .with_context(|| format!("{}: without adapters", base.place()))?;
    }
    let mut found: Vec<Vec<Answer>> = asked.iter().map(|_| Vec::new()).collect();
    for (of, asking) in found.iter_mut().zip(asked) {
        of.resize(asking.question.count(), Answer::default());
    }
    answers(&mut engine, encoder, jobs, &mut |job, answer| {
        let (at, index) = places[job];
        let answer = answer.with_context(|| asked[at].place())?;
        let text = answer.message.text().unwrap_or_default();
        found[at][index] = Answer::new(asked[at].question.id(), index, text)
            .with_thinking(answer.message.thinking.clone())
            .with_length(answer.counts.generated, answer.is_cut_off());
        Ok(())
    })?;
    Ok(found)
}
