//! Loss and metrics over the validation set.

use super::batch::{MicroBatch, sequence};
use super::loss::head_loss;
use crate::model::{ForwardOptions, GptOss};
use anyhow::{Context, Result, ensure};
use apus_sdk::{Loss, Metric, TokenRow};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Metrics with their names.
pub type Metrics = Vec<(String, Box<dyn Metric>)>;

/// Runs the model over `examples`, `batch_size` at a time, to `eval_loss`, `eval_runtime`, ..., and each
/// metric as `eval_NAME`. `after` is called after each batch.
///
/// # Errors
/// The model, the loss or a metric failed; a loss that is not finite names its batch.
pub fn evaluate(
    model: &GptOss,
    loss: &dyn Loss,
    metrics: &mut Metrics,
    examples: &[TokenRow],
    batch_size: usize,
    mut after: impl FnMut() -> Result<()>,
) -> Result<Map<String, Value>> {
    let start = Instant::now();
    let (mut sum, mut count, mut batches) = (0.0, 0usize, 0usize);
    for group in examples.chunks(batch_size.max(1)) {
        let batch = MicroBatch::new(group.iter().map(sequence), model.device())?;
        let (hidden, _) = model.forward(&batch.ids, &batch.seqs, &ForwardOptions::default())?;
        let found = head_loss(model.head(), loss, &hidden, &batch.supervised, None)?;
        ensure!(
            found.sum.is_finite(),
            "the evaluation loss of batch {batches} is not finite ({})",
            found.sum
        );
        sum += found.sum;
        count += found.tokens.labels.len();
        for (name, metric) in metrics.iter_mut() {
            metric
                .update(&found.tokens)
                .with_context(|| format!("metric {name}"))?;
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
        json!(examples.len() as f64 / seconds),
    );
    values.insert(
        "eval_steps_per_second".to_owned(),
        json!(batches as f64 / seconds),
    );
    for (name, metric) in metrics {
        for (key, value) in metric.compute().with_context(|| format!("metric {name}"))? {
            values.insert(format!("eval_{key}"), json!(value));
        }
    }
    Ok(values)
}
