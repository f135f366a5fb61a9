//! Whether all ranks have the same weights. They should: each makes the same update of the same gradients. A component that gives
//! something else on each rank (a time, an address, a random number of its own) would train as many models as there are
//! ranks, and say nothing. So checksums of the parameters' bits are compared every so often and before anything is saved.

use super::{Ranks, Task};
use anyhow::Result;
use apus_base::wording;
use apus_model::nn::Param;
use apus_model::ops::reduce;
use candle_core::Tensor;
use std::sync::Arc;

/// Steps from one comparison to the next. It reads each trained number once, which a card does in milliseconds.
pub const EVERY: u64 = 50;

impl Ranks {
    /// Compares the parameters of all ranks after `step` steps, at rank 0, which tells the others to. The optimizer is named by
    /// its `label`.
    ///
    /// # Errors
    /// They differ; every rank gets the same error.
    pub fn compare(&self, params: &[Arc<Param>], step: u64, label: &str) -> Result<()> {
        self.tell(&Task::Compare(step))?;
        let compared = self.take_part_in_comparison(params, step, label);
        self.rests();
        compared
    }

    /// A rank's part in [`compare`](Self::compare).
    ///
    /// # Errors
    /// As there.
    pub fn take_part_in_comparison(
        &self,
        params: &[Arc<Param>],
        step: u64,
        label: &str,
    ) -> Result<()> {
        let values: Vec<Tensor> = params.iter().map(|param| param.value()).collect();
        let all: Vec<Vec<u64>> = self.gather(&reduce::bit_sums(&values)?)?;
        let names: Vec<&str> = params.iter().map(|param| param.name()).collect();
        self.judged(difference(&all, &names, step, label))
    }
}

/// The first parameter that a rank has otherwise than rank 0, and how many more there are.
fn difference(all: &[Vec<u64>], names: &[&str], step: u64, label: &str) -> Option<String> {
    let (zero, others) = all.split_first()?;
    let differs = |at: usize| others.iter().any(|other| other.get(at) != zero.get(at));
    let differing: Vec<usize> = (0..names.len()).filter(|&at| differs(at)).collect();
    let first = *differing.first()?;
    let ranks = all.iter().enumerate().map(|(rank, sums)| {
        let sum = sums.get(first).copied().unwrap_or_default();
        format!("rank {rank}: {sum:016x}")
    });
    let more = match differing.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more parameters differ"),
    };
    Some(format!(
        "after step {step}, {} is not the same on all ranks (checksums of its bits: {}){more}. All ranks gave {label} the same \
         gradients: it has to make the same update of them in every process, whatever the time, the process and the machine",
        names[first],
        wording::some(ranks.collect::<Vec<_>>(), 8)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_and_the_ranks_are_named() {
        let names = ["a", "b", "c"];
        let of = |all: &[Vec<u64>]| difference(all, &names, 7, "optimizer mine");
        assert_eq!(of(&[vec![1, 2, 3], vec![1, 2, 3]]), None);
        let text = of(&[vec![1, 2, 3], vec![1, 2, 3], vec![1, 255, 4]]).unwrap();
        for part in [
            "after step 7, b is not the same",
            "rank 0: 0000000000000002",
            "rank 2: 00000000000000ff",
            "1 more parameter",
            "optimizer mine",
        ] {
            assert!(text.contains(part), "{part:?} not in {text}");
        }
    }
}
