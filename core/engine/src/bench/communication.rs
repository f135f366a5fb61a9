//! What several ranks cost: the time of their collectives, alone and as far as computing does not hide it.

use super::report::median;
use crate::train::ranks::Ranks;
use anyhow::Result;
use apus_base::memory;
use apus_model::model::CausalLm;
use serde_json::{Value, json};
use std::time::Instant;

/// How often the gradients of a step travel alone.
const ROUNDS: usize = 5;

/// Several ranks of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Communication {
    /// How many they are.
    pub ranks: usize,
    /// What carries their tensors.
    pub carrier: String,
    /// Bytes that a rank puts into collectives in a step.
    pub bytes: u64,
    /// Seconds that its gradients take while nothing is computed.
    pub alone: f64,
}

impl Communication {
    /// Sends the gradients of a step around while nothing is computed. Every rank does so at the same time. `bytes` were put
    /// into collectives in a step.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn measure(ranks: &Ranks, model: &CausalLm, bytes: u64) -> Result<Self> {
        let round = || -> Result<f64> {
            ranks.barrier()?;
            let start = Instant::now();
            ranks.sum_gradients(model)?;
            model.device().synchronize()?;
            let seconds = start.elapsed().as_secs_f64();
            model
                .params()
                .iter()
                .for_each(|param| drop(param.take_grad()));
            Ok(seconds)
        };
        let rounds = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<f64>>>()?;
        Ok(Self {
            ranks: ranks.size(),
            carrier: ranks.carrier(),
            bytes,
            alone: median(rounds),
        })
    }

    /// Lines of the report beside a step of `step` seconds, of which ranks stand still for `waited`.
    pub fn lines(&self, step: f64, waited: f64) -> [(&'static str, String); 3] {
        let share = |seconds: f64| 100.0 * seconds / step;
        [
            ("ranks", format!("{}, {}", self.ranks, self.carrier)),
            (
                "communication",
                format!(
                    "{:.4} s for the gradients of a step alone, {:.1} % of it; {} travel in a step",
                    self.alone,
                    share(self.alone),
                    memory::gib(self.bytes)
                ),
            ),
            (
                "not hidden",
                format!(
                    "{waited:.4} s a step, {:.1} % of it, in which ranks wait in collectives",
                    share(waited)
                ),
            ),
        ]
    }

    /// The figures as JSON.
    pub fn json(&self, step: f64, waited: f64) -> Value {
        json!({
            "carrier": self.carrier,
            "bytes": self.bytes,
            "seconds": self.alone,
            "share": self.alone / step,
            "waiting_seconds": waited,
            "waiting_share": waited / step,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_a_step() {
        let communication = Communication {
            ranks: 4,
            carrier: "NCCL 2.28.9".to_owned(),
            bytes: 3 << 28,
            alone: 0.01,
        };
        let [ranks, all, rest] = communication.lines(0.5, 0.0025).map(|(_, line)| line);
        assert_eq!(ranks, "4, NCCL 2.28.9");
        assert_eq!(
            all,
            "0.0100 s for the gradients of a step alone, 2.0 % of it; 768.0 MiB travel in a step"
        );
        assert!(rest.starts_with("0.0025 s a step, 0.5 % of it"), "{rest}");
        let json = communication.json(0.5, 0.0025);
        assert_eq!(
            (&json["share"], &json["waiting_share"]),
            (&json!(0.02), &json!(0.005))
        );
    }
}
