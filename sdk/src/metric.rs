//! Evaluation metrics.

use crate::{Error, Need, Result, Run, Setup};

/// Adds up something over an evaluation.
///
/// ```
/// use apus_sdk::{EvalBatch, Metric, Result, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Exact {}
///     state {
///         right: u64,
///         all: u64,
///     }
/// }
///
/// impl Metric for Exact {
///     fn update(&mut self, batch: &EvalBatch) -> Result<()> {
///         for (labels, predictions) in batch.sequences() {
///             self.right += u64::from(batch.decode(labels)? == batch.decode(predictions)?);
///             self.all += 1;
///         }
///         Ok(())
///     }
///
///     fn compute(&mut self) -> Result<Vec<(String, f64)>> {
///         let share = self.right as f64 / self.all.max(1) as f64;
///         *self = Self::default();
///         Ok(vec![("exact".to_owned(), share)])
///     }
/// }
///
/// register! {
///     /// Share of answers that are right to the letter.
///     Metric, "exact", Exact
/// }
///
/// let mut exact = testing::make::<dyn Metric>("exact", json!({}))?;
/// let values = testing::measure(&mut *exact, &[("yes", "yes"), ("no", "now")])?;
/// assert_eq!(values, [("exact".to_owned(), 0.5)]);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Metric: Send {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// Training begins soon, as part of this run. The run tells something to those that declare [`Need::Run`] or a
    /// need that implies it.
    ///
    /// # Errors
    /// Whatever keeps it from working; the run does not begin.
    fn begin(&mut self, run: &Run) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// Takes in one batch. Every metric has this, or [`reads_answers`](Self::reads_answers) and
    /// [`update_answers`](Self::update_answers) in its place.
    ///
    /// # Errors
    /// Whatever the metric cannot handle.
    fn update(&mut self, _batch: &EvalBatch) -> Result<()> {
        Err(Error::new(
            "this metric takes in no tokens: it has no `update`. One that reads generated answers says so by \
             `reads_answers`, and needs an Apus with apus-sdk 1.1",
        ))
    }

    /// Whether the metric reads answers that the model has generated, not the most probable tokens: then it is given
    /// [`update_answers`](Self::update_answers) and never [`update`](Self::update). In a plugin library it declares
    /// [`Need::Answers`].
    fn reads_answers(&self) -> bool {
        false
    }

    /// Takes in answers beside what they should have been, if it [reads](Self::reads_answers) them.
    ///
    /// # Errors
    /// Whatever the metric cannot handle.
    fn update_answers(&mut self, _pairs: &[TextPair]) -> Result<()> {
        Err(Error::new("this metric reads no generated answers"))
    }

    /// Names (without `eval_`) and values over all batches since the last call; starts afresh.
    ///
    /// # Errors
    /// Whatever the metric cannot handle.
    fn compute(&mut self) -> Result<Vec<(String, f64)>>;

    /// The names that [`compute`](Self::compute) gives; none if it does not tell. With
    /// it, a `metric_for_best_model` that nobody reports is an error before the run begins.
    fn names(&self) -> Option<Vec<String>> {
        None
    }
}

/// A generated answer beside the one that stands in the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPair<'a> {
    /// The answer in the dataset.
    pub reference: &'a str,
    /// What the model wrote, without its reasoning.
    pub answer: &'a str,
}

/// The supervised tokens of one batch.
#[derive(Clone, Copy)]
pub struct EvalBatch<'a> {
    /// The right tokens.
    pub labels: &'a [u32],
    /// The most probable tokens, one per label, each given the right tokens before it.
    pub predictions: &'a [u32],
    /// Weight of each token in the loss.
    pub weights: &'a [f32],
    /// Loss of each token, unweighted.
    pub losses: &'a [f32],
    /// Number of supervised tokens of each sequence, in order; adds up to `labels.len()`.
    pub lengths: &'a [usize],
    /// Turns tokens into text.
    pub decoder: &'a dyn Decoder,
}

impl<'a> EvalBatch<'a> {
    /// Right and most probable tokens of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = (&'a [u32], &'a [u32])> {
        let (labels, predictions) = (self.labels, self.predictions);
        let mut start = 0;
        self.lengths.iter().map(move |&length| {
            let range = start..start + length;
            start = range.end;
            (&labels[range.clone()], &predictions[range])
        })
    }

    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    /// The run has no tokenizer.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.decoder.decode(tokens)
    }
}

/// Turns tokens into text; the host's tokenizer.
pub trait Decoder {
    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    /// There is no tokenizer.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
}
