//! How many optimizer steps a run has, and which micro-batches each one takes, also where a callback has changed how many
//! that are.
//!
//! A step never goes over the end of an epoch, so that the last one of an epoch may be short. With another accumulation a run whose
//! length is epochs ends at the same place in the data, after more or fewer steps, and its schedule follows the data as it
//! was planned; a run whose length is steps makes as many.

use anyhow::{Result, ensure};
use apus_components::config::StepsOrShare;
use std::ops::Range;

/// The arithmetic of epochs, batches and optimizer steps, as `transformers.Trainer` does it.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Micro-batches in an epoch: `ceil(examples / per_device_train_batch_size)`; with `dataloader_drop_last` those
    /// that are full.
    pub batches_per_epoch: usize,
    /// Examples that an epoch takes: all, or those of full micro-batches.
    pub examples_per_epoch: usize,
    /// Micro-batches in a full optimizer step, as planned.
    pub accumulation: usize,
    /// Optimizer steps in an epoch, as planned; the last one may be short.
    pub per_epoch: usize,
    /// Optimizer steps in the run.
    pub total: u64,
    /// The same as planned at the start.
    pub planned: u64,
    /// Optimizer steps of warm-up, of those planned.
    pub warmup: u64,
    /// What ends the run.
    end: End,
    /// Steps with one accumulation, in their order; the first begins with the run.
    stretches: Vec<Stretch>,
}

/// What ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A number of steps.
    Steps,
    /// A number of steps over data whose length is not known: the whole run is one epoch.
    StepsOfStream,
    /// A place in the data: so many micro-batches of an epoch (from 0).
    Data { epoch: usize, batches: usize },
}

/// Steps with one accumulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    /// The first of them (from 0).
    first: u64,
    /// Where it begins in the data.
    place: Place,
    /// Micro-batches in a full step.
    accumulation: usize,
}

/// Where a step begins: its epoch, and the micro-batch in it, both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    epoch: usize,
    batch: usize,
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
        let place = Place { epoch: 0, batch: 0 };
        let mut steps = Self {
            batches_per_epoch,
            examples_per_epoch: length.examples.min(batches_per_epoch * length.batch_size),
            accumulation: length.accumulation,
            per_epoch,
            total,
            planned: total,
            warmup: length.warmup.of(total),
            end: End::Steps,
            stretches: vec![Stretch {
                first: 0,
                place,
                accumulation: length.accumulation,
            }],
        };
        if length.max_steps.is_none() {
            steps.end = End::Data {
                epoch: steps.epoch_of(total - 1),
                batches: steps.batches_of(total - 1).end,
            };
        }
        Ok(steps)
    }

    /// The same over a stream, whose whole run is one epoch.
    #[must_use]
    pub fn of_a_stream(self) -> Self {
        Self {
            end: End::StepsOfStream,
            ..self
        }
    }

    /// Lets steps from this one (from 0) on take so many micro-batches. No step after it has been made or changed.
    pub fn change_accumulation(&mut self, from: u64, to: usize) {
        let (place, _) = self.place(from);
        self.stretches.retain(|stretch| stretch.first < from);
        let before = self.stretches.last().map(|last| last.accumulation);
        if before != Some(to) {
            self.stretches.push(Stretch {
                first: from,
                place,
                accumulation: to,
            });
        }
        match self.end {
            End::Steps => {}
            End::StepsOfStream => {
                // Where the last step would end if the epoch had no end.
                self.batches_per_epoch = usize::MAX;
                self.batches_per_epoch = self.batches_of(self.total - 1).end;
            }
            End::Data { epoch, batches } => self.total = self.steps_until(epoch, batches),
        }
    }

    /// The changes that were made: the first step (from 0) of each, and its micro-batches in a step.
    pub fn changes(&self) -> Vec<(u64, usize)> {
        let changed = self.stretches.iter();
        let changed = changed
            .filter(|stretch| (stretch.first, stretch.accumulation) != (0, self.accumulation));
        changed
            .map(|stretch| (stretch.first, stretch.accumulation))
            .collect()
    }

    /// Where a step (from 0) begins, and how many micro-batches it takes if the epoch has as many left.
    fn place(&self, step: u64) -> (Place, usize) {
        let after = self
            .stretches
            .partition_point(|stretch| stretch.first <= step);
        let Stretch {
            first,
            place,
            accumulation,
        } = self.stretches[after.max(1) - 1];
        let made = step - first;
        let left = (self.batches_per_epoch - place.batch).div_ceil(accumulation) as u64;
        let place = match made.checked_sub(left) {
            None => Place {
                batch: place.batch + (made as usize).saturating_mul(accumulation),
                ..place
            },
            Some(made) => {
                let of_epoch = self.batches_per_epoch.div_ceil(accumulation) as u64;
                Place {
                    epoch: place.epoch + 1 + (made / of_epoch) as usize,
                    batch: (made % of_epoch) as usize * accumulation,
                }
            }
        };
        (place, accumulation)
    }

    /// How many steps it takes to so many micro-batches of an epoch (from 0), which the last stretch reaches.
    fn steps_until(&self, epoch: usize, batches: usize) -> u64 {
        let Stretch {
            first,
            place,
            accumulation,
        } = self.stretches[self.stretches.len() - 1];
        let steps = |batches: usize| batches.div_ceil(accumulation) as u64;
        first
            + match epoch.checked_sub(place.epoch) {
                None => 0,
                Some(0) => steps(batches.saturating_sub(place.batch)),
                Some(epochs) => {
                    steps(self.batches_per_epoch - place.batch)
                        + (epochs as u64 - 1) * steps(self.batches_per_epoch)
                        + steps(batches)
                }
            }
    }

    /// What the schedule of the learning rate goes by at a step (from 0): the number of the step and of all steps. Where the data
    /// ends the run, these are the steps that were planned, of which the one that has this step's first micro-batch.
    pub fn scheduled(&self, step: u64) -> (u64, u64) {
        match self.end {
            End::Steps | End::StepsOfStream => (step, self.total),
            End::Data { .. } => {
                let (place, _) = self.place(step);
                let planned =
                    (place.epoch * self.per_epoch + place.batch / self.accumulation) as u64;
                (planned, self.planned)
            }
        }
    }

    /// Epochs of the run, as a fraction.
    pub fn epochs(&self) -> f64 {
        match self.changes().is_empty() {
            true => self.total as f64 / self.per_epoch as f64,
            false => self.epochs_after(self.total),
        }
    }

    /// The epoch (from 0) of a step (from 0).
    pub fn epoch_of(&self, step: u64) -> usize {
        self.place(step).0.epoch
    }

    /// The micro-batches of a step (from 0) within its epoch.
    pub fn batches_of(&self, step: u64) -> Range<usize> {
        let (place, accumulation) = self.place(step);
        let end = place.batch.saturating_add(accumulation);
        place.batch..end.min(self.batches_per_epoch)
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
    fn another_accumulation_passes_over_the_same_data() {
        let length = RunLength {
            examples: 20,
            epochs: 3.0,
            ..LENGTH
        };
        let mut steps = Steps::new(&length).unwrap();
        assert_eq!((steps.per_epoch, steps.total), (5, 15));
        let whole = steps.clone();
        // In the middle of the first epoch, at the end of one, and several times.
        let all = [
            vec![(2, 3)],
            vec![(5, 1)],
            vec![(0, 4)],
            vec![(1, 5), (3, 1), (3, 2), (9, 7)],
        ];
        for changes in all {
            steps = whole.clone();
            for &(from, to) in &changes {
                steps.change_accumulation(from, to);
            }
            let mut place = (0, 0);
            for step in 0..steps.total {
                let batches = steps.batches_of(step);
                assert_eq!((steps.epoch_of(step), batches.start), place, "{changes:?}");
                let last = changes.iter().rev().find(|(from, _)| *from <= step);
                let full = last.map_or(2, |(_, to)| *to);
                assert_eq!(batches.len(), full.min(10 - batches.start), "{changes:?}");
                place = match steps.ends_epoch(step) {
                    true => (place.0 + 1, 0),
                    false => (place.0, batches.end),
                };
            }
            assert_eq!(place, (3, 0), "{changes:?}");
            // What a checkpoint keeps of it makes the same plan, and the schedule follows the data.
            let mut again = whole.clone();
            for (from, to) in steps.changes() {
                again.change_accumulation(from, to);
            }
            assert_eq!(again, steps);
            for step in 0..steps.total {
                let batch = steps.epoch_of(step) * 10 + steps.batches_of(step).start;
                assert_eq!(steps.scheduled(step), (batch as u64 / 2, 15));
            }
            assert_eq!(steps.epochs(), 3.0);
        }
        steps.change_accumulation(4, 2);
        steps.change_accumulation(0, 2);
        assert_eq!((&steps, steps.changes()), (&whole, vec![]));
    }

    #[test]
    fn a_run_of_so_many_steps_makes_as_many_with_another_accumulation() {
        let length = RunLength {
            max_steps: Some(6),
            ..LENGTH
        };
        let mut steps = Steps::new(&length).unwrap();
        steps.change_accumulation(2, 4);
        assert_eq!((steps.total, steps.scheduled(5)), (6, (5, 6)));
        let ranges: Vec<_> = (0..6).map(|step| steps.batches_of(step)).collect();
        assert_eq!(ranges, [0..2, 2..4, 4..5, 0..4, 4..5, 0..4]);

        // The whole run over a stream is one epoch.
        let examples = 6 * 2 * 2;
        let mut steps = Steps::new(&RunLength { examples, ..length })
            .unwrap()
            .of_a_stream();
        steps.change_accumulation(2, 4);
        steps.change_accumulation(4, 1);
        let ranges: Vec<_> = (0..6).map(|step| steps.batches_of(step)).collect();
        assert_eq!(ranges, [0..2, 2..4, 4..8, 8..12, 12..13, 13..14]);
        assert_eq!((steps.epochs_after(6), steps.ends_epoch(4)), (1.0, false));
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
