//! A micro-batch on the device: sequences one after another, and which tokens are supervised.

use super::loss::{LossReport, Supervised, head_loss};
use anyhow::{Result, anyhow, bail, ensure};
use apus_base::wording;
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_model::model::CausalLm;
use apus_model::nn::{ForwardOptions, OnReady, Ready};
use apus_model::ops::{SeqLayout, TokenKey};
use apus_sdk::{BatchRow, Loss, LossChunk};
use candle_core::{Device, Tensor};

/// The row of a sample, for a loss that asks for rows.
pub(super) fn batch_row(number: Option<u64>, sample: &Encoded) -> BatchRow {
    BatchRow::new(number, sample.channel.clone()).with_columns(sample.columns())
}

/// Sequences on the device.
pub struct MicroBatch {
    /// Token ids of all sequences, `[T]` u32.
    pub ids: Tensor,
    /// Where sequences lie.
    pub seqs: SeqLayout,
    /// Supervised tokens.
    pub supervised: Supervised,
    /// The numbers of its examples in the dataset, for messages.
    examples: Vec<usize>,
    /// The channel of each sequence, where their losses are reported.
    pub channels: Vec<String>,
    /// The place in the step of the example of each sequence, where losses of examples are collected.
    pub places: Vec<u32>,
}

/// A tokenised sequence: ids, labels (-100 is not trained), weights (1 if absent).
pub type Sequence<'a> = (&'a [u32], &'a [i64], Option<&'a [f32]>);

/// What a micro-batch gave.
pub struct MicroReport {
    /// Loss and predictions.
    pub loss: LossReport,
    /// Auxiliary loss, if asked for.
    pub aux: Option<f64>,
}

impl MicroBatch {
    /// Concatenates sequences. The label of a token supervises its predecessor in the sequence; the
    /// label of a first token supervises nothing.
    ///
    /// # Errors
    /// Lengths that differ, a label below 0 other than -100, an empty sequence, or out of memory.
    pub fn new<'a>(
        sequences: impl IntoIterator<Item = Sequence<'a>>,
        device: &Device,
    ) -> Result<Self> {
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        let mut supervised = Supervised::default();
        for (tokens, labels, weights) in sequences {
            ensure!(
                tokens.len() == labels.len() && weights.is_none_or(|w| w.len() == tokens.len()),
                "a sequence has {} tokens, {} labels and {:?} weights",
                tokens.len(),
                labels.len(),
                weights.map(<[f32]>::len)
            );
            ensure!(!tokens.is_empty(), "a sequence is empty");
            let (start, before) = (ids.len(), supervised.rows.len());
            for (at, &label) in labels.iter().enumerate().skip(1) {
                match u32::try_from(label) {
                    Ok(label) => {
                        supervised.rows.push((start + at - 1) as u32);
                        supervised.labels.push(label);
                        supervised.weights.push(weights.map_or(1.0, |w| w[at]));
                    }
                    Err(_) if label == -100 => {}
                    Err(_) => bail!("label {label} is neither a token nor -100"),
                }
            }
            supervised.lengths.push(supervised.rows.len() - before);
            supervised.starts.push(start as u32);
            ids.extend_from_slice(tokens);
            lengths.push(tokens.len());
        }
        Ok(Self {
            ids: Tensor::new(ids.as_slice(), device)?,
            seqs: SeqLayout::new(&lengths, device)?,
            supervised,
            examples: Vec::new(),
            channels: Vec::new(),
            places: Vec::new(),
        })
    }

    /// As this one, with the numbers of its examples for messages.
    #[must_use]
    pub fn of_examples(mut self, numbers: &[usize]) -> Self {
        self.examples = numbers.to_vec();
        self
    }

    /// As this one, whose sequences begin at these tokens of their step.
    ///
    /// # Errors
    /// There are more or fewer sequences.
    pub fn beginning_at(mut self, firsts: Vec<TokenKey>) -> Result<Self> {
        self.seqs = self.seqs.beginning_at(firsts)?;
        Ok(self)
    }

    /// As this one, with the channel of each sequence, under which its loss is reported.
    #[must_use]
    pub fn of_channels(mut self, channels: Vec<String>) -> Self {
        self.channels = channels;
        self
    }

    /// As this one, with the place in the step of the example of each sequence, whose losses are collected.
    #[must_use]
    pub fn at_places(mut self, places: Vec<u32>) -> Self {
        self.places = places;
        self
    }

    /// As this one, for a loss that asks for the step and for the rows of its sequences.
    #[must_use]
    pub fn of_rows(mut self, step: Option<u64>, rows: Vec<BatchRow>) -> Self {
        self.supervised.origin = (step, rows);
        self
    }

    /// For messages: `96 tokens (examples 3, 1, 4)`, of many the first eight and how many more.
    pub fn described(&self) -> String {
        let tokens = self.tokens();
        match self.examples.as_slice() {
            [] => format!("{tokens} tokens"),
            examples => format!("{tokens} tokens (examples {})", wording::some(examples, 8)),
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.seqs.tokens()
    }

    /// Number of supervised tokens.
    pub fn targets(&self) -> usize {
        self.supervised.rows.len()
    }

    /// Forward and backward: the gradient of `sum(weight * loss) / window`, with `window` the number
    /// of supervised tokens of the whole accumulation window, is accumulated in the parameters. The
    /// auxiliary loss weighs by this batch's share of the window, as in ms-swift. `ready` hears of each part of the model
    /// whose gradients are complete.
    ///
    /// # Errors
    /// The loss is not finite (the error names the first layer that is not), a component failed, or
    /// out of memory.
    pub fn train(
        &self,
        model: &CausalLm,
        loss: &Named<dyn Loss>,
        window: usize,
        options: &ForwardOptions,
        ready: OnReady,
    ) -> Result<MicroReport> {
        let (hidden, pass) = model.decoder().forward(&self.ids, &self.seqs, options)?;
        let scale = 1.0 / window.max(1) as f64;
        let mut found = head_loss(model.head(), loss, hidden, &self.supervised, Some(scale))?;
        if !found.sum.is_finite() {
            return Err(self.not_finite(model, loss, options, found.sum)?);
        }
        let aux = pass.aux_loss();
        if let Some(dhidden) = found.dhidden.take() {
            let share = self.targets() as f64 * scale;
            ready(Ready::Head)?;
            model.decoder().backward(pass, dhidden, share, ready)?;
        }
        Ok(MicroReport { loss: found, aux })
    }

    /// Why the loss is not finite, found by running forward again: a step that goes well keeps nothing for it.
    fn not_finite(
        &self,
        model: &CausalLm,
        loss: &Named<dyn Loss>,
        options: &ForwardOptions,
        sum: f64,
    ) -> Result<anyhow::Error> {
        if model.decoder().is_sharded() {
            return Ok(anyhow!(
                "the loss is not finite ({sum}), as {} computed it: which layer it comes from is not looked for, since that takes \
                 more passes of this rank alone and the base is spread over the ranks (shard_base). Lower learning_rate or \
                 max_grad_norm, and look at the batch for broken rows; earlier checkpoints are untouched",
                loss.label
            ));
        }
        let options = ForwardOptions {
            training: false,
            ..options.clone()
        };
        let (hidden, _) = model.decoder().forward(&self.ids, &self.seqs, &options)?;
        let usual = Named::<dyn Loss>::new("cross entropy", Box::new(CrossEntropy));
        let usual = head_loss(model.head(), &usual, hidden, &self.supervised, None)?;
        if usual.sum.is_finite() {
            return Ok(anyhow!(
                "{} gave a loss that is not finite ({sum}), while the cross entropy of the same tokens \
                 is ({}): the model is sound, the mistake is in the loss",
                loss.label,
                usual.sum
            ));
        }
        let place = match model
            .decoder()
            .first_non_finite_layer(&self.ids, &self.seqs)?
        {
            Some(layer) => format!("the output of layer {layer} is the first that is not finite"),
            None => {
                "every layer's output is finite, so it arose in the head or the loss".to_owned()
            }
        };
        Ok(anyhow!(
            "the loss is not finite ({sum}): {place}. Lower learning_rate or max_grad_norm, and look \
             at the batch for broken rows; earlier checkpoints are untouched"
        ))
    }
}

/// The loss to compare another one with.
struct CrossEntropy;

impl Loss for CrossEntropy {
    fn per_token(&self, chunk: &LossChunk) -> apus_sdk::Result<apus_sdk::Tensor> {
        chunk.cross_entropy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_supervise_the_token_before_within_a_sequence() {
        let weights = [0.0, 1.0, 2.0];
        let sequences: [Sequence; 2] = [
            (&[5, 6, 7], &[5, -100, 7], Some(&weights)),
            (&[8, 9], &[8, 9], None),
        ];
        let batch = MicroBatch::new(sequences, &Device::Cpu).unwrap();
        assert_eq!(batch.supervised.rows, [1, 3]);
        assert_eq!(batch.supervised.labels, [7, 9]);
        assert_eq!(batch.supervised.weights, [2.0, 1.0]);
        assert_eq!(batch.supervised.lengths, [1, 1]);
        assert_eq!(batch.seqs.offsets, [0, 3, 5]);
        let broken: [Sequence; 1] = [(&[5, 6], &[5, -7], None)];
        assert!(MicroBatch::new(broken, &Device::Cpu).is_err());
    }
}
