//! Losses: supervised tokens to a loss per token.

use crate::{ChunkRows, Error, Need, Result, Run, Setup, Tensor, needs};

/// Computes the loss of each supervised token.
///
/// Called several times a step, once per chunk of tokens, so that the logits of a whole batch
/// never exist. The host multiplies the result by the tokens' weights, adds it up, divides by the
/// number of supervised tokens of the whole accumulation window, and differentiates it.
///
/// ```
/// use apus_sdk::{Loss, LossChunk, Result, Tensor, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Focal {
///         /// How much less a token counts that is already known; 0 is cross entropy.
///         gamma: f64 = 2.0,
///     }
/// }
///
/// impl Loss for Focal {
///     fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
///         let loss = chunk.cross_entropy()?;
///         let missing = loss.neg()?.exp()?.affine(-1.0, 1.0)?;
///         missing.powf(self.gamma)?.mul(&loss)
///     }
/// }
///
/// register! {
///     /// Cross entropy that looks at what is not yet known.
///     Loss, "focal", Focal
/// }
///
/// let chunk = testing::Chunk::random(4, 9, 0);
/// let plain = testing::make::<dyn Loss>("focal", json!({"gamma": 0}))?;
/// for (found, expected) in chunk.per_token(&*plain)?.iter().zip(chunk.cross_entropy()) {
///     assert!((found - expected).abs() < 1e-5);
/// }
/// let focal = testing::make::<dyn Loss>("focal", json!({}))?;
/// assert!(chunk.per_token(&*focal)?.iter().zip(chunk.cross_entropy()).all(|(f, c)| *f < c));
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Loss: Send + Sync {
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

    /// The columns of rows that it reads ([`BatchRow::column`](crate::BatchRow::column)). It is asked once, after it was
    /// made, if it declares [`Need::ChunkRows`]; the columns are kept with the tokens of each row. A column that no row of the
    /// training data has is an error.
    ///
    /// ```
    /// use apus_sdk::{BatchRow, ChunkRows, Loss, LossChunk, Need, Result, Tensor, options, register, testing};
    /// use serde_json::{Value, json};
    ///
    /// options! {
    ///     struct Scored {
    ///         /// The column with the factor of a row.
    ///         column: String = "score".to_owned(),
    ///     }
    /// }
    ///
    /// impl Loss for Scored {
    ///     fn needs() -> &'static [Need] {
    ///         &[Need::ChunkRows]
    ///     }
    ///
    ///     fn columns(&self) -> Result<Vec<String>> {
    ///         Ok(vec![self.column.clone()])
    ///     }
    ///
    ///     fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
    ///         let rows = chunk.rows()?;
    ///         let factor = |row: &BatchRow| Ok(row.column(&self.column)?.as_f64().unwrap_or(1.0) as f32);
    ///         let factors: Vec<f32> = rows.of_tokens().map(factor).collect::<Result<_>>()?;
    ///         let loss = chunk.cross_entropy()?;
    ///         loss.mul(&loss.new_tensor(&factors, &[factors.len()])?)
    ///     }
    /// }
    ///
    /// register! {
    ///     /// Cross entropy, times a number of the row.
    ///     Loss, "scored", Scored
    /// }
    ///
    /// let columns = |value: Value| value.as_object().cloned().unwrap_or_default();
    /// let half = BatchRow::new(None, None).with_columns(columns(json!({"score": 0.5})));
    /// let chunk = testing::Chunk::random(2, 7, 0).with_rows(ChunkRows::new(vec![0, 0], vec![1, 2], vec![half]));
    /// let loss = testing::make::<dyn Loss>("scored", json!({}))?;
    /// for (found, usual) in chunk.per_token(&*loss)?.iter().zip(chunk.cross_entropy()) {
    ///     assert!((found - 0.5 * usual).abs() < 1e-6);
    /// }
    /// # Ok::<(), apus_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// Whatever keeps it from knowing them; the run does not begin.
    fn columns(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// A loss `[n]` (f32), one per token, not yet multiplied by the weights.
    ///
    /// # Errors
    /// Whatever an operation returns; a result of another shape is refused by the host.
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor>;
}

/// `n` supervised tokens.
pub struct LossChunk<'a> {
    /// The token each row should predict, `[n]` (u32).
    pub labels: &'a Tensor,
    /// The weight of each token, `[n]` (f32), for a loss that wants to look at it.
    pub weights: &'a Tensor,
    ops: &'a dyn ChunkOps,
}

impl<'a> LossChunk<'a> {
    /// A chunk; made by the host and by tests.
    pub fn new(labels: &'a Tensor, weights: &'a Tensor, ops: &'a dyn ChunkOps) -> Self {
        Self {
            labels,
            weights,
            ops,
        }
    }

    pub(crate) fn ops(&self) -> &'a dyn ChunkOps {
        self.ops
    }

    /// The logits `[n, vocabulary]` in f32. They are differentiable, and take `n * vocabulary` numbers of memory.
    ///
    /// # Errors
    /// Out of memory.
    pub fn logits(&self) -> Result<Tensor> {
        self.ops.logits()
    }

    /// The cross entropy of each token `[n]` (f32) by a fused operation. Differentiable.
    ///
    /// # Errors
    /// Out of memory.
    pub fn cross_entropy(&self) -> Result<Tensor> {
        self.ops.cross_entropy()
    }

    /// The sequences and rows that the tokens belong to, and the step.
    ///
    /// # Errors
    /// The loss does not declare [`Need::ChunkRows`].
    pub fn rows(&self) -> Result<ChunkRows> {
        needs::require(Need::ChunkRows)?;
        self.ops.rows()
    }

    /// The hidden states `[n, hidden size]` in f32 that the head makes the logits of: the output of the last layer after
    /// the final norm. They are differentiable.
    ///
    /// # Errors
    /// The loss does not declare [`Need::HiddenStates`]; out of memory.
    pub fn hidden(&self) -> Result<Tensor> {
        needs::require(Need::HiddenStates)?;
        self.ops.hidden()
    }
}

/// The operations of the host for a [`LossChunk`].
pub trait ChunkOps {
    /// See [`LossChunk::logits`].
    ///
    /// # Errors
    /// As there.
    fn logits(&self) -> Result<Tensor>;

    /// See [`LossChunk::cross_entropy`].
    ///
    /// # Errors
    /// As there.
    fn cross_entropy(&self) -> Result<Tensor>;

    /// See [`LossChunk::rows`].
    ///
    /// # Errors
    /// As there; this host does not have it.
    fn rows(&self) -> Result<ChunkRows> {
        Err(Error::new("rows of a chunk need an Apus with apus-sdk 1.1"))
    }

    /// See [`LossChunk::hidden`].
    ///
    /// # Errors
    /// As there; this host does not have it.
    fn hidden(&self) -> Result<Tensor> {
        Err(Error::new("hidden states need an Apus with apus-sdk 1.1"))
    }
}
