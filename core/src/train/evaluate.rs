//! Loss and metrics over the validation set.

use super::batch::{MicroBatch, sequence};
use super::loss::head_loss;
use crate::model::{ForwardOptions, GptOss};
use crate::registry::Named;
use anyhow::{Result, ensure};
use apus_sdk::{Decoder, EvalBatch, Loss, Metric, TokenRow};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// What an evaluation runs on.
pub struct Evaluation<'a> {
    /// The examples.
    pub examples: &'a [TokenRow],
    /// How many at a time.
    pub batch_size: usize,
    /// Text of tokens, for metrics that compare texts.
    pub decoder: &'a dyn Decoder,
}

/// Runs the model over the examples, to `eval_loss`, `eval_runtime`, ..., and each metric as `eval_NAME`.
/// `after` is called after each batch.
///
/// # Errors
/// The model, the loss or a metric failed; a loss that is not finite names its batch, a metric's
/// value that is not finite names the metric.
pub fn evaluate(
    model: &GptOss,
    loss: &Named<dyn Loss>,
    metrics: &mut [Named<dyn Metric>],
    on: &Evaluation,
    mut after: impl FnMut() -> Result<()>,
) -> Result<Map<String, Value>> {
    let start = Instant::now();
    let (mut sum, mut count, mut batches) = (0.0, 0usize, 0usize);
    for group in on.examples.chunks(on.batch_size.max(1)) {
        let batch = MicroBatch::new(group.iter().map(sequence), model.device())?;
        let (hidden, _) = model.forward(&batch.ids, &batch.seqs, &ForwardOptions::default())?;
        let found = head_loss(model.head(), loss, hidden, &batch.supervised, None)?;
        ensure!(
            found.sum.is_finite(),
            "the evaluation loss of batch {batches} is not finite ({}); it was computed by {}",
            found.sum,
            loss.label
        );
        sum += found.sum;
        count += found.tokens.labels.len();
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
            metric.said("update", updated)?;
        }
        batches += 1;
        after()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut values = Map::new();
    values.insert("eval_loss".to_owned(), json!(sum / count.max(1) as f64));
    values.insert("eval_runtime".to_owned(), json!(seconds));
    values.insert(
        "eval_samples_per_second".to_owned(),
        json!(on.examples.len() as f64 / seconds),
    );
    values.insert(
        "eval_steps_per_second".to_owned(),
        json!(batches as f64 / seconds),
    );
    for metric in metrics {
        let computed = metric.component.compute();
        for (key, value) in metric.said("compute", computed)? {
            ensure!(
                value.is_finite(),
                "{}: eval_{key} is {value}, expected a finite number",
                metric.label
            );
            values.insert(format!("eval_{key}"), json!(value));
        }
    }
    Ok(values)
}
