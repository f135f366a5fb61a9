//! Components whose faults no run tells: what they remember does not survive a checkpoint, or what they compute is counted twice.
//! `apus plugin check` finds them.

use apus_sdk::serde_json::{Value, json};
use apus_sdk::{
    Callback, Control, EvalBatch, Loss, LossChunk, LrSchedule, Metric, Need, Optimizer, Param,
    Progress, Result, RunState, StepInfo, Tensor,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

apus_sdk::options! {
    struct Remembers {}
    state {
        asked: AtomicU64,
    }
}

apus_sdk::register! {
    /// A factor that falls each time it is asked for.
    LrSchedule, "remembers", Remembers
}

impl LrSchedule for Remembers {
    fn factor(&self, _progress: &Progress) -> Result<f64> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(1.0 / (asked + 1) as f64)
    }
}

apus_sdk::options! {
    struct Weighs {}
}

apus_sdk::register! {
    /// Multiplies by the weights.
    Loss, "weighs", Weighs
}

impl Loss for Weighs {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        chunk.cross_entropy()? * chunk.weights
    }
}

apus_sdk::options! {
    struct Forgets {
        /// How long each step takes, in seconds.
        seconds: u64 = 0,
    }
    state {
        seen: u64,
    }
}

apus_sdk::register! {
    /// Counts steps, which its checkpoints do not know.
    Callback, "forgets", Forgets
}

impl Callback for Forgets {
    fn on_step_end(&mut self, _state: &RunState, control: &mut Control) -> Result<()> {
        sleep(Duration::from_secs(self.seconds));
        self.seen += 1;
        control.metrics.insert("seen".to_owned(), json!(self.seen));
        Ok(())
    }
}

apus_sdk::register! {
    /// Steps that get shorter, from the beginning again after a checkpoint.
    Optimizer, "forgets", Forgets
}

impl Optimizer for Forgets {
    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        self.seen += 1;
        shorter(params, self.seen)
    }
}

fn shorter(params: &mut [Param], steps: u64) -> Result<()> {
    for param in params {
        let rate = param.lr / (1.0 + 0.01 * steps as f64);
        param.value.set(&(&param.value - &param.grad * rate)?)?;
    }
    Ok(())
}

apus_sdk::register! {
    /// A number of all evaluations so far.
    Metric, "hoards", Forgets
}

impl Metric for Forgets {
    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        self.seen += batch.labels.len() as u64;
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        Ok(vec![("hoarded".to_owned(), self.seen as f64)])
    }
}

apus_sdk::options! {
    struct Keeps {}
    state {
        seen: u64,
    }
}

apus_sdk::register! {
    /// Steps that get shorter, also over a checkpoint.
    Optimizer, "keeps", Keeps
}

impl Optimizer for Keeps {
    fn needs() -> &'static [Need] {
        &[Need::State]
    }

    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        self.seen += 1;
        shorter(params, self.seen)
    }

    fn save_state(&self) -> Result<Value> {
        Ok(json!(self.seen))
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        self.seen = saved.as_u64().ok_or("expected a number of steps")?;
        Ok(())
    }
}
