//! Losses: supervised tokens with known logits, and gradients by small differences.

use super::reference::{floats, unrounded, values};
use super::tensor;
use crate::{BatchRow, ChunkOps, ChunkRows, DType, Error, Loss, LossChunk, Result, Tensor};

/// How far a logit is moved to each side for a gradient.
const STEP: f64 = 1e-4;

/// Supervised tokens for a loss.
#[derive(Debug, Clone)]
pub struct Chunk {
    logits: Vec<f64>,
    vocabulary: usize,
    labels: Vec<u32>,
    weights: Vec<f32>,
    rows: Option<ChunkRows>,
    hidden: Option<(Vec<f32>, usize)>,
}

impl Chunk {
    /// Tokens with these labels; `logits` holds a row of `vocabulary` numbers for each. All weights
    /// are 1.
    ///
    /// # Panics
    /// Another number of logits, or a label outside the vocabulary.
    #[track_caller]
    pub fn new(logits: &[f32], vocabulary: usize, labels: &[u32]) -> Self {
        assert_eq!(
            logits.len(),
            labels.len() * vocabulary,
            "every label needs {vocabulary} logits"
        );
        for &label in labels {
            assert!(
                (label as usize) < vocabulary,
                "label {label} is outside the vocabulary"
            );
        }
        Self {
            logits: logits.iter().map(|&logit| logit.into()).collect(),
            vocabulary,
            labels: labels.to_vec(),
            weights: vec![1.0; labels.len()],
            rows: None,
            hidden: None,
        }
    }

    /// Random tokens: normal logits with a standard deviation of 2, any labels. The same seed gives
    /// the same tokens.
    ///
    /// # Panics
    /// The vocabulary is empty.
    #[track_caller]
    pub fn random(tokens: usize, vocabulary: usize, seed: u64) -> Self {
        let draw = || {
            let beside = floats(Vec::new(), &[0])?;
            let logits = beside.new_randn(&[tokens, vocabulary], 0.0, 2.0, (seed, 0))?;
            let labels = beside.new_rand(&[tokens], 0.0, vocabulary as f64, (seed, 1))?;
            let labels = labels.cast(DType::U32)?.to_vec()?;
            Ok::<_, Error>(Self::new(&logits.to_vec()?, vocabulary, &labels))
        };
        match draw() {
            Ok(chunk) => chunk,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same tokens with other weights.
    ///
    /// # Panics
    /// Not one weight for each token.
    #[must_use]
    #[track_caller]
    pub fn with_weights(self, weights: &[f32]) -> Self {
        assert_eq!(
            weights.len(),
            self.labels.len(),
            "every token needs a weight"
        );
        let weights = weights.to_vec();
        Self { weights, ..self }
    }

    /// The same tokens of these rows, for a loss that asks for [`LossChunk::rows`]. By itself a chunk is one sequence.
    #[must_use]
    pub fn with_rows(self, rows: ChunkRows) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    /// The same tokens with hidden states of this size, `size` numbers for each token.
    ///
    /// # Panics
    /// Another number of elements.
    #[must_use]
    #[track_caller]
    pub fn with_hidden(self, hidden: &[f32], size: usize) -> Self {
        assert_eq!(
            hidden.len(),
            self.labels.len() * size,
            "every token needs {size} numbers"
        );
        Self {
            hidden: Some((hidden.to_vec(), size)),
            ..self
        }
    }

    /// The loss of each token, not multiplied by its weight.
    ///
    /// # Errors
    /// Those of the loss; a result of another shape or type; a loss that is not finite.
    pub fn per_token(&self, loss: &dyn Loss) -> Result<Vec<f32>> {
        let found = self.run(loss, self.logits.clone())?;
        Ok(found.into_iter().map(|loss| loss as f32).collect())
    }

    /// The cross entropy of each token, by its formula: `log(sum of e^logit) - logit of the label`.
    pub fn cross_entropy(&self) -> Vec<f32> {
        let rows = self.logits.chunks(self.vocabulary.max(1));
        let one = |(row, &label): (&[f64], &u32)| {
            let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|logit| (logit - greatest).exp()).sum();
            (greatest + sum.ln() - row[label as usize]) as f32
        };
        rows.zip(&self.labels).map(one).collect()
    }

    /// The gradient of `sum(weight * loss)` by each logit, row by row, by central differences.
    ///
    /// Tensors hold f64 meanwhile, so that about seven digits are right, unless the loss rounds to
    /// another type. It runs the loss twice for every logit: keep the chunk small. It is the gradient
    /// of the values, so [`Tensor::detach`] changes nothing.
    ///
    /// # Errors
    /// As [`per_token`](Self::per_token).
    pub fn numeric_gradient(&self, loss: &dyn Loss) -> Result<Vec<f32>> {
        let total = |place: usize, by: f64| -> Result<f64> {
            let mut logits = self.logits.clone();
            logits[place] += by;
            let losses = self.run(loss, logits)?;
            let weighted = losses.iter().zip(&self.weights);
            Ok(weighted
                .map(|(loss, &weight)| loss * f64::from(weight))
                .sum())
        };
        let one = |place| -> Result<f32> {
            let difference = total(place, STEP)? - total(place, -STEP)?;
            Ok((difference / (2.0 * STEP)) as f32)
        };
        unrounded(|| (0..self.logits.len()).map(one).collect())
    }

    fn run(&self, loss: &dyn Loss, logits: Vec<f64>) -> Result<Vec<f64>> {
        let n = self.labels.len();
        let ops = ChunkTensors {
            logits: floats(logits, &[n, self.vocabulary])?,
            labels: tensor(&self.labels, &[n]),
            rows: self.rows.clone().unwrap_or_else(|| {
                let positions = (1..=n as u32).collect();
                ChunkRows::new(vec![0; n], positions, vec![BatchRow::default()])
            }),
            hidden: self
                .hidden
                .as_ref()
                .map(|(all, size)| tensor(all, &[n, *size])),
        };
        let weights = tensor(&self.weights, &[n]);
        let found = loss.per_token(&LossChunk::new(&ops.labels, &weights, &ops))?;
        if found.shape() != [n] || found.dtype() != DType::F32 {
            return Err(Error::new(format!(
                "the loss returned {:?} {:?}, expected one F32 per token: [{n}]",
                found.dtype(),
                found.shape()
            )));
        }
        let losses = values(&found)?;
        match losses.iter().position(|loss| !loss.is_finite()) {
            Some(token) => Err(Error::new(format!(
                "the loss of token {token} is {}",
                losses[token]
            ))),
            None => Ok(losses),
        }
    }
}

/// The logits and labels of a chunk.
struct ChunkTensors {
    logits: Tensor,
    labels: Tensor,
    rows: ChunkRows,
    hidden: Option<Tensor>,
}

impl ChunkOps for ChunkTensors {
    fn logits(&self) -> Result<Tensor> {
        Ok(self.logits.clone())
    }

    fn cross_entropy(&self) -> Result<Tensor> {
        let logs = self.logits.log_softmax(1)?;
        logs.gather(1, &self.labels.unsqueeze(1)?)?
            .neg()?
            .squeeze(1)
    }

    fn rows(&self) -> Result<ChunkRows> {
        Ok(self.rows.clone())
    }

    fn hidden(&self) -> Result<Tensor> {
        let hidden = self.hidden.clone();
        hidden.ok_or_else(|| Error::new("give the chunk hidden states: Chunk::with_hidden"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fused;
    impl Loss for Fused {
        fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
            chunk.cross_entropy()
        }
    }

    /// A loss that the function computes from the logits.
    struct Of(fn(&Tensor) -> Result<Tensor>);
    impl Loss for Of {
        fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
            (self.0)(&chunk.logits()?)
        }
    }

    #[test]
    fn cross_entropy_by_hand() {
        let chunk = Chunk::new(&[0.0, 0.0, 3f32.ln(), 0.0], 2, &[1, 0]);
        for found in [chunk.cross_entropy(), chunk.per_token(&Fused).unwrap()] {
            assert!((found[0] - 2f32.ln()).abs() < 1e-6);
            assert!((found[1] - (4f32 / 3.0).ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn the_gradient_of_cross_entropy_is_softmax_less_one() {
        let chunk = Chunk::random(3, 5, 1).with_weights(&[1.0, 0.5, 2.0]);
        let found = chunk.numeric_gradient(&Fused).unwrap();
        for (token, row) in chunk.logits.chunks(5).enumerate() {
            let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
            for (i, logit) in row.iter().enumerate() {
                let one = f64::from(u8::from(i == chunk.labels[token] as usize));
                let expected = (logit.exp() / sum - one) * f64::from(chunk.weights[token]);
                assert!((f64::from(found[token * 5 + i]) - expected).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn random_tokens_come_from_the_seed() {
        let chunk = Chunk::random(50, 7, 3);
        assert_eq!(chunk.logits, Chunk::random(50, 7, 3).logits);
        assert_ne!(chunk.logits, Chunk::random(50, 7, 4).logits);
        assert!((0..7).all(|token| chunk.labels.contains(&token)));
    }

    #[test]
    fn results_that_a_host_would_refuse_are_errors() {
        let chunk = Chunk::random(2, 3, 0);
        let said = |f| chunk.per_token(&Of(f)).unwrap_err().to_string();
        let wrong = "the loss returned F32 [2, 3], expected one F32 per token: [2]";
        assert_eq!(said(|x| x.neg()), wrong);
        assert!(said(|x| x.argmax(1)?.squeeze(1)).contains("returned U32 [2]"));
        assert_eq!(
            said(|x| x.sum(1)?.squeeze(1)?.affine(0.0, f64::INFINITY)?.sqrt()),
            "the loss of token 0 is inf"
        );
        assert!(chunk.numeric_gradient(&Of(|x| x.sum(7))).is_err());
    }

    #[test]
    #[should_panic(expected = "label 3 is outside the vocabulary")]
    fn labels_are_in_the_vocabulary() {
        Chunk::new(&[0.0; 3], 3, &[3]);
    }
}
