//! Evaluations: loss and metrics over the validation set, and the numbers of the last one.

use super::learner::Learner;
use super::predictions::Predictions;
use super::progress::Progress;
use super::reports::Reports;
use super::set_up::SetUp;
use crate::generate::split;
use crate::host::RunView;
use crate::train::evaluate::{Evaluation, Spelling, evaluate};
use crate::train::events::Events;
use crate::train::settings::Settings;
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_sdk::Metric;
use serde_json::{Map, Value};

/// What evaluations run on, and the last of them.
pub struct Evaluations<'a> {
    ground: Ground<'a>,
    metrics: Vec<Named<dyn Metric>>,
    predictions: Option<Predictions<'a>>,
    /// After how many steps it was made, and its numbers.
    last: Option<(u64, Map<String, Value>)>,
}

impl<'a> Evaluations<'a> {
    /// Evaluations on the validation set of a run, which may be empty.
    pub fn new(set_up: &'a SetUp, metrics: Vec<Named<dyn Metric>>) -> Self {
        let (metrics, of_answers) = split(metrics);
        Self {
            ground: Ground {
                examples: &set_up.data.val.samples,
                settings: &set_up.settings,
                spelling: Spelling(&set_up.encoder),
            },
            metrics,
            predictions: Predictions::new(set_up, of_answers),
            last: None,
        }
    }

    /// Gives the run to the metrics.
    ///
    /// # Errors
    /// A metric failed; the error names it.
    pub fn begin(&mut self, view: &RunView) -> Result<()> {
        let of_answers = self.predictions.iter_mut().flat_map(Predictions::metrics);
        let mut all = self.metrics.iter_mut().chain(of_answers);
        all.try_for_each(|metric| view.begin(metric, |metric, run| metric.begin(run)))
    }

    /// Whether there is nothing to evaluate on.
    pub fn is_empty(&self) -> bool {
        self.ground.examples.is_empty()
    }

    /// Evaluates; callbacks hear of each batch.
    ///
    /// # Errors
    /// A signal, a loss or metric that is not finite, a component that failed, out of memory.
    pub fn evaluate(
        &mut self,
        learner: &Learner,
        progress: &Progress,
        events: &mut Events,
        reports: &Reports,
    ) -> Result<Map<String, Value>> {
        let on = self.ground.evaluation(learner);
        let after = || events.on_prediction_step(&progress.state);
        let mut values = evaluate(learner.model, &learner.loss, &mut self.metrics, &on, after)?;
        let step = progress.state.global_step;
        if let Some(predictions) = &mut self.predictions {
            learner.enter(|| format!("answers after step {step}"), true);
            for (name, value) in predictions.evaluate(learner.model, step, reports)? {
                ensure!(
                    values.insert(name.clone(), value).is_none(),
                    "{name} is reported by a metric of answers and by something else; give one of them another name"
                );
            }
        }
        progress.add_to(&mut values);
        self.last = Some((step, values.clone()));
        Ok(values)
    }

    /// The loss alone of the weights of this step, from the last evaluation if these weights were evaluated then.
    pub fn loss(&self, learner: &Learner, step: u64) -> Result<Option<f64>> {
        if self.is_empty() {
            return Ok(None);
        }
        let loss = |values: &Map<String, Value>| values.get("eval_loss").and_then(Value::as_f64);
        if let Some((evaluated, values)) = &self.last
            && *evaluated == step
        {
            return Ok(loss(values));
        }
        let on = self.ground.evaluation(learner);
        let values = evaluate(learner.model, &learner.loss, &mut [], &on, || Ok(()))?;
        Ok(loss(&values))
    }

    /// The numbers of the last evaluation; none if there was none.
    pub fn last(&self) -> Map<String, Value> {
        let last = self.last.as_ref().map(|(_, values)| values.clone());
        last.unwrap_or_default()
    }
}

/// What every evaluation of a run has in common.
struct Ground<'a> {
    examples: &'a [Encoded],
    settings: &'a Settings,
    spelling: Spelling<'a>,
}

impl Ground<'_> {
    fn evaluation<'b>(&'b self, learner: &'b Learner<'b>) -> Evaluation<'b> {
        Evaluation {
            examples: self.examples,
            batch_size: self.settings.per_device_eval_batch_size,
            aux_coef: self.settings.router_aux_loss_coef,
            channels: self.settings.enable_channel_loss,
            decoder: &self.spelling,
            ranks: learner.ranks.as_ref(),
        }
    }
}
