//! Loss and metrics over the validation set.

use super::batch::MicroBatch;
use super::channel_loss::{ChannelLosses, of_samples};
use super::loss::head_loss;
use super::ranks::{BatchData, Evaluated, Ranks, Task};
use anyhow::{Result, ensure};
use apus_base::signals;
use apus_components::registry::Named;
use apus_data::chat::{Encoded, Encoder};
use apus_model::model::CausalLm;
use apus_model::nn::ForwardOptions;
use apus_sdk::{Decoder, EvalBatch, Loss, Metric, Need};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Spells tokens for metrics that compare texts.
pub struct Spelling<'a>(pub &'a Encoder);

impl Decoder for Spelling<'_> {
    fn decode(&self, tokens: &[u32]) -> apus_sdk::Result<String> {
        Ok(self.0.tokenizer().decode(tokens, false))
    }
}

/// What an evaluation runs on.
pub struct Evaluation<'a> {
    /// The examples.
    pub examples: &'a [Encoded],
    /// How many at a time.
    pub batch_size: usize,
    /// Weight of the router's auxiliary loss in the loss; 0 leaves it out.
    pub aux_coef: f64,
    /// Whether the loss of each channel is reported.
    pub channels: bool,
    /// Text of tokens, for metrics that compare texts.
    pub decoder: &'a dyn Decoder,
    /// The other ranks, which evaluate batches along with this one.
    pub ranks: Option<&'a Ranks>,
}

/// Runs the model over the examples, to `eval_loss`, `eval_runtime`, ..., and each metric of tokens as `eval_NAME`.
/// `after` is called after each batch.
///
/// # Errors
/// A signal came, or the model, the loss or a metric failed; a loss that is not finite names its batch, a metric's
/// value that is not finite names the metric.
pub fn evaluate(
    model: &CausalLm,
    loss: &Named<dyn Loss>,
    metrics: &mut [Named<dyn Metric>],
    on: &Evaluation,
    mut after: impl FnMut() -> Result<()>,
) -> Result<Map<String, Value>> {
    let start = Instant::now();
    let (mut sum, mut aux, mut count, mut batches) = (0.0, 0.0, 0usize, 0usize);
    let mut channels = ChannelLosses::default();
    let groups: Vec<&[Encoded]> = on.examples.chunks(on.batch_size.max(1)).collect();
    for round in groups.chunks(on.ranks.map_or(1, Ranks::size)) {
        signals::check()?;
        for (group, found) in round.iter().zip(on.round(model, loss, round)?) {
            ensure!(
                found.loss.is_finite(),
                "the evaluation loss of batch {batches} is not finite ({}); it was computed by {}",
                found.loss,
                loss.label
            );
            sum += found.loss;
            aux += found.aux_loss * found.targets as f64;
            count += found.tokens.labels.len();
            if on.channels {
                channels.count(&found.tokens, &of_samples(*group));
            }
            let tokens = EvalBatch {
                labels: &found.tokens.labels,
                predictions: &found.tokens.predictions,
                weights: &found.tokens.weights,
                losses: &found.tokens.losses,
                lengths: &found.tokens.lengths,
                decoder: on.decoder,
            };
            for metric in metrics.iter_mut() {
                let updated = metric.component.update(&tokens);
                metric.context("update", updated)?;
            }
            batches += 1;
            after()?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let mean = |sum: f64| sum / count.max(1) as f64;
    let mut values = Map::new();
    // With the auxiliary loss in it, as while training.
    let loss = mean(sum) + on.aux_coef * mean(aux);
    values.insert("eval_loss".to_owned(), json!(loss));
    if on.aux_coef != 0.0 {
        values.insert("eval_aux_loss".to_owned(), json!(mean(aux)));
    }
    values.insert("eval_runtime".to_owned(), json!(seconds));
    values.insert(
        "eval_samples_per_second".to_owned(),
        json!(on.examples.len() as f64 / seconds),
    );
    values.insert(
        "eval_steps_per_second".to_owned(),
        json!(batches as f64 / seconds),
    );
    for (name, mean) in channels.means() {
        values.insert(format!("eval_{name}"), mean);
    }
    for metric in metrics {
        let computed = metric.component.compute();
        for (key, value) in metric.context("compute", computed)? {
            ensure!(
                value.is_finite(),
                "{}: eval_{key} is {value}, expected a finite number",
                metric.label
            );
            ensure!(
                channels.is_empty() || !values.contains_key(&format!("eval_{key}")),
                "{}: reports {key:?}, which this line of the log has already; give the metric or the channel another name",
                metric.label
            );
            values.insert(format!("eval_{key}"), json!(value));
        }
    }
    Ok(values)
}

impl Evaluation<'_> {
    /// What each of these batches gives: one, or one for each rank.
    fn round(
        &self,
        model: &CausalLm,
        loss: &Named<dyn Loss>,
        round: &[&[Encoded]],
    ) -> Result<Vec<Evaluated>> {
        if let Some(ranks) = self.ranks {
            let data = |group: &&[Encoded]| match loss.declares(Need::ChunkRows) {
                true => BatchData::new(*group).of_rows(*group),
                false => BatchData::new(*group),
            };
            let task = |rank: usize| Task::Evaluate(round.get(rank).map(data));
            ranks.give(&(1..ranks.size()).map(task).collect::<Vec<_>>())?;
        }
        let own = || round.iter().take(1).flat_map(|group| group.iter());
        let mut first = MicroBatch::new(own().map(Encoded::sequence), model.device())?;
        if loss.declares(Need::ChunkRows) {
            let (step, rows) = BatchData::default().of_rows(own()).origin;
            first = first.of_rows(step, rows);
        }
        let first = batch(model, loss, &first, self.aux_coef)?;
        match self.ranks {
            Some(ranks) => {
                let all = ranks.gather(&first)?;
                ranks.rests();
                Ok(all)
            }
            None => Ok(vec![first]),
        }
    }
}

/// Loss and predictions of one batch.
pub fn batch(
    model: &CausalLm,
    loss: &Named<dyn Loss>,
    batch: &MicroBatch,
    aux_coef: f64,
) -> Result<Evaluated> {
    let options = ForwardOptions {
        aux_coef,
        ..ForwardOptions::default()
    };
    let (hidden, pass) = model.decoder().forward(&batch.ids, &batch.seqs, &options)?;
    let aux_loss = pass.aux_loss().unwrap_or(0.0);
    drop(pass);
    let found = head_loss(model.head(), loss, hidden, &batch.supervised, None)?;
    Ok(Evaluated {
        loss: found.sum,
        aux_loss,
        targets: batch.targets(),
        tokens: found.tokens,
    })
}
