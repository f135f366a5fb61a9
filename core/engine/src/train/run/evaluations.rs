//! Evaluations: loss and metrics over the validation set, and the numbers of the last one.

use super::answers::Answers;
use super::learner::Learner;
use super::progress::Progress;
use crate::train::evaluate::{Evaluation, evaluate};
use crate::train::events::Events;
use crate::train::settings::Settings;
use anyhow::Result;
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_sdk::Metric;
use serde_json::{Map, Value};

/// What evaluations run on, and the last of them.
pub struct Evaluations<'a> {
    examples: &'a [Encoded],
    metrics: Vec<Named<dyn Metric>>,
    settings: &'a Settings,
    /// After how many steps it was made, and its numbers.
    last: Option<(u64, Map<String, Value>)>,
}

impl<'a> Evaluations<'a> {
    /// Evaluations on these examples, of which there may be none.
    pub fn new(
        examples: &'a [Encoded],
        metrics: Vec<Named<dyn Metric>>,
        settings: &'a Settings,
    ) -> Self {
        Self {
            examples,
            metrics,
            settings,
            last: None,
        }
    }

    /// Whether there is nothing to evaluate on.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Evaluates; callbacks hear of each batch.
    ///
    /// # Errors
    /// A signal, a loss or metric that is not finite, a component that failed, out of memory.
    pub fn evaluate(
        &mut self,
        learner: &Learner,
        answers: &Answers,
        progress: &Progress,
        events: &mut Events,
    ) -> Result<Map<String, Value>> {
        let on = self.on(learner, answers);
        let after = || events.on_prediction_step(&progress.state);
        let mut values = evaluate(learner.model, &learner.loss, &mut self.metrics, &on, after)?;
        progress.add_to(&mut values);
        self.last = Some((progress.state.global_step, values.clone()));
        Ok(values)
    }

    /// The loss alone of the weights of this step, from the last evaluation if these weights were evaluated then.
    pub fn loss(&self, learner: &Learner, answers: &Answers, step: u64) -> Result<Option<f64>> {
        if self.is_empty() {
            return Ok(None);
        }
        let loss = |values: &Map<String, Value>| values.get("eval_loss").and_then(Value::as_f64);
        if let Some((evaluated, values)) = &self.last
            && *evaluated == step
        {
            return Ok(loss(values));
        }
        let on = self.on(learner, answers);
        let values = evaluate(learner.model, &learner.loss, &mut [], &on, || Ok(()))?;
        Ok(loss(&values))
    }

    /// The numbers of the last evaluation; none if there was none.
    pub fn last(&self) -> Map<String, Value> {
        let last = self.last.as_ref().map(|(_, values)| values.clone());
        last.unwrap_or_default()
    }

    fn on<'b>(&self, learner: &'b Learner<'b>, answers: &'b Answers<'b>) -> Evaluation<'b>
    where
        'a: 'b,
    {
        Evaluation {
            examples: self.examples,
            batch_size: self.settings.per_device_eval_batch_size,
            aux_coef: self.settings.router_aux_loss_coef,
            channels: self.settings.enable_channel_loss,
            decoder: answers,
            ranks: learner.ranks.as_ref(),
        }
    }
}
