//! How many optimizer steps a run has, and which micro-batches each one takes.

use anyhow::{Result, ensure};
use apus_components::config::StepsOrShare;
use std::ops::Range;

/// The arithmetic of epochs, batches and optimizer steps, as `transformers.Trainer` does it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// Micro-batches in an epoch: `ceil(examples / per_device_train_batch_size)`; with `dataloader_drop_last` those
    /// that are full.
    pub batches_per_epoch: usize,
    /// Examples that an epoch takes: all, or those of full micro-batches.
    pub examples_per_epoch: usize,
    /// Micro-batches in a full optimizer step.
    pub accumulation: usize,
    /// Optimizer steps in an epoch; the last one may be short.
    pub per_epoch: usize,
    /// Optimizer steps in the run.
    pub total: u64,
    /// Optimizer steps of warm-up.
    pub warmup: u64,
}

/// What determines the number of steps, as the configuration and the data say it.
#[derive(Debug, Clone, Copy)]
pub struct RunLength {
    /// Examples in the training set.
    pub examples: usize,
    /// Examples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub accumulation: usize,
    /// Epochs; a fraction is fine.
    pub epochs: f64,
    /// Steps, in place of epochs.
    pub max_steps: Option<u64>,
    /// Leave out the last micro-batch of an epoch where it is not full (`dataloader_drop_last`).
    pub drop_last: bool,
    /// How much of it warms up.
    pub warmup: StepsOrShare,
}

impl Steps {
    /// Computes the steps of a run.
    ///
    /// # Errors
    /// No examples, or sizes of zero.
    pub fn new(length: &RunLength) -> Result<Self> {
        ensure!(length.examples > 0, "the training set is empty");
        ensure!(
            length.batch_size > 0 && length.accumulation > 0,
            "per_device_train_batch_size and gradient_accumulation_steps must be 1 or more"
        );
        let batches_per_epoch = match length.drop_last {
            true => length.examples / length.batch_size,
            false => length.examples.div_ceil(length.batch_size),
        };
        ensure!(
            batches_per_epoch > 0,
            "dataloader_drop_last is true and the training set has {} examples, fewer than \
             per_device_train_batch_size ({}): no micro-batch is left",
            length.examples,
            length.batch_size
        );
        let per_epoch = batches_per_epoch.div_ceil(length.accumulation);
        let total = length
            .max_steps
            .unwrap_or_else(|| (length.epochs * per_epoch as f64).ceil() as u64);
        ensure!(
            total > 0,
            "num_train_epochs {} gives no step at all",
            length.epochs
        );
        Ok(Self {
            batches_per_epoch,
            examples_per_epoch: length.examples.min(batches_per_epoch * length.batch_size),
            accumulation: length.accumulation,
            per_epoch,
            total,
            warmup: length.warmup.of(total),
        })
    }

    /// The epoch (from 0) of a step (from 0).
    pub fn epoch_of(&self, step: u64) -> usize {
        (step / self.per_epoch as u64) as usize
    }

    /// The micro-batches of a step (from 0) within its epoch.
    pub fn batches_of(&self, step: u64) -> Range<usize> {
        let start = (step % self.per_epoch as u64) as usize * self.accumulation;
        start..(start + self.accumulation).min(self.batches_per_epoch)
    }

    /// Epochs done after `steps` steps, as a fraction.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        if steps == 0 {
            return 0.0;
        }
        let last = steps - 1;
        self.epoch_of(last) as f64
            + self.batches_of(last).end as f64 / self.batches_per_epoch as f64
    }

    /// Whether the step (from 0) is the last of its epoch.
    pub fn ends_epoch(&self, step: u64) -> bool {
        self.batches_of(step).end == self.batches_per_epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: RunLength = RunLength {
        examples: 10,
        batch_size: 2,
        accumulation: 2,
        epochs: 1.5,
        max_steps: None,
        drop_last: false,
        warmup: StepsOrShare::Share(0.3),
    };

    #[test]
    fn a_short_step_ends_an_epoch() {
        let steps = Steps::new(&LENGTH).unwrap();
        assert_eq!((steps.batches_per_epoch, steps.per_epoch), (5, 3));
        assert_eq!((steps.total, steps.warmup), (5, 2));
        let ranges: Vec<_> = (0..5).map(|step| steps.batches_of(step)).collect();
        assert_eq!(ranges, [0..2, 2..4, 4..5, 0..2, 2..4]);
        assert_eq!(
            (0..4).map(|s| steps.epoch_of(s)).collect::<Vec<_>>(),
            [0, 0, 0, 1]
        );
        assert_eq!(steps.epochs_after(3), 1.0);
        assert_eq!(steps.epochs_after(4), 1.4);
        assert!(steps.ends_epoch(2) && !steps.ends_epoch(3));
    }

    #[test]
    fn max_steps_and_warmup_steps_win() {
        let length = RunLength {
            max_steps: Some(20),
            warmup: StepsOrShare::Steps(7),
            ..LENGTH
        };
        let steps = Steps::new(&length).unwrap();
        assert_eq!((steps.total, steps.warmup), (20, 7));
    }

    #[test]
    fn the_last_micro_batch_is_left_out_where_it_is_not_full() {
        let steps = |examples: usize| {
            Steps::new(&RunLength {
                examples,
                batch_size: 4,
                drop_last: true,
                ..LENGTH
            })
        };
        let eleven = steps(11).unwrap();
        assert_eq!((eleven.batches_per_epoch, eleven.per_epoch), (2, 1));
        assert_eq!((eleven.batches_of(0), eleven.batches_of(1)), (0..2, 0..2));
        assert_eq!(eleven.epochs_after(1), 1.0);
        assert_eq!(steps(12).unwrap().batches_per_epoch, 3);
        let said = steps(3).unwrap_err().to_string();
        assert!(said.contains("3 examples, fewer than"), "{said}");
    }

    #[test]
    fn nothing_to_train_is_an_error() {
        assert!(
            Steps::new(&RunLength {
                examples: 0,
                ..LENGTH
            })
            .is_err()
        );
        assert!(
            Steps::new(&RunLength {
                epochs: 0.0,
                ..LENGTH
            })
            .is_err()
        );
    }
}
