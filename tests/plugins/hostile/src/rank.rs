//! A component that fails on one rank only, as a machine with less memory or a bad card does.

use apus_sdk::{
    Loss, LossChunk, Need, Optimizer, OptimizerStep, Param, Result, StepInfo, Tensor, register,
};
use serde::Deserialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

/// How it fails.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// Does not come back.
    Hangs,
    /// Panics.
    Panics,
    /// As an allocation on a card that is full.
    OutOfMemory,
    /// Asks for more memory than there is, so that the process is ended.
    Allocates,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnRank {
    rank: u64,
    way: Way,
    /// Calls before that.
    #[serde(default)]
    after: u64,
    #[serde(skip)]
    calls: AtomicU64,
}

register! {
    /// Fails on the rank and in the way that its options say.
    Loss, "on_rank", OnRank
}

/// The rank of this process, as mpirun or a launcher says.
fn rank() -> Option<u64> {
    let names = ["OMPI_COMM_WORLD_RANK", "RANK"];
    let value = names.iter().find_map(|name| std::env::var(name).ok())?;
    value.parse().ok()
}

impl Loss for OnRank {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        if rank() == Some(self.rank) && self.calls.fetch_add(1, Relaxed) >= self.after {
            match self.way {
                Way::Hangs => sleep(Duration::from_secs(3600)),
                Way::Panics => panic!("hostile on rank {}", self.rank),
                Way::OutOfMemory => return Err("CUDA_ERROR_OUT_OF_MEMORY".into()),
                Way::Allocates => {
                    let mut bytes: Vec<u8> = Vec::new();
                    bytes.reserve_exact(isize::MAX as usize / 2);
                    std::hint::black_box(&bytes);
                }
            }
        }
        chunk.cross_entropy()
    }
}

/// How an optimizer that makes passes again leaves the others.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Leaves {
    /// Fails before it asks for the passes.
    Before,
    /// Fails after they were made.
    After,
    /// Does not ask for them.
    Without,
    /// Asks again and again, whatever comes back.
    Again,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PassesOnRank {
    rank: u64,
    way: Leaves,
    /// Steps before that.
    after: u64,
}

register! {
    /// Makes passes again, and on a rank leaves the others in the way that its options say.
    Optimizer, "passes_on_rank", PassesOnRank
}

impl Optimizer for PassesOnRank {
    fn needs() -> &'static [Need] {
        &[Need::Closure]
    }

    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        for param in params {
            param.value.set(&(&param.value - &param.grad * param.lr)?)?;
        }
        Ok(())
    }

    fn step_with(&mut self, params: &mut [Param], step: &mut OptimizerStep) -> Result<()> {
        let is_here = rank() == Some(self.rank) && step.info().step > self.after;
        match self.way {
            Leaves::Before if is_here => return Err("left before the passes".into()),
            Leaves::Without if is_here => {}
            Leaves::Again if is_here => {
                step.evaluate()?;
                (0..3).for_each(|_| drop(step.evaluate()));
            }
            _ => drop(step.evaluate()?),
        }
        match self.way {
            Leaves::After if is_here => Err("left after the passes".into()),
            _ => self.step(params, &step.info()),
        }
    }
}
