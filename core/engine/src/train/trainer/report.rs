//! Lines of the log: of steps, of evaluations, and the last one.

use super::super::clock::human;
use super::super::state::Pending;
use super::Trainer;
use anyhow::Result;
use serde_json::{Map, Value, json};

impl Trainer<'_> {
    /// A line over the steps since the last one.
    pub(super) fn log(&mut self) -> Result<()> {
        let Pending {
            steps,
            loss,
            aux_loss,
            right,
            tokens,
        } = std::mem::take(&mut self.pending);
        if steps == 0 {
            return Ok(());
        }
        let mut values = Map::new();
        values.insert("loss".to_owned(), json!(loss / steps as f64));
        values.insert("grad_norm".to_owned(), json!(self.state.grad_norm));
        values.insert("learning_rate".to_owned(), json!(self.state.learning_rate));
        if self.settings.router_aux_loss_coef != 0.0 {
            values.insert("aux_loss".to_owned(), json!(aux_loss / steps as f64));
        }
        values.insert(
            "token_acc".to_owned(),
            json!(right as f64 / tokens.max(1) as f64),
        );
        values.insert("epoch".to_owned(), json!(self.state.epoch));
        self.add_progress(&mut values);
        values.insert(
            "tokens_per_second".to_owned(),
            json!(self.clock.window_rate()),
        );
        self.report(values)
    }

    /// The progress keys that ms-swift adds to every line.
    pub(super) fn add_progress(&self, values: &mut Map<String, Value>) {
        let (step, total) = (self.state.global_step, self.steps.total);
        values.insert(
            "global_step/max_steps".to_owned(),
            json!(format!("{step}/{total}")),
        );
        values.insert(
            "elapsed_time".to_owned(),
            json!(human(self.clock.elapsed())),
        );
        let left = human(self.clock.remaining(step, total));
        values.insert("remaining_time".to_owned(), json!(left));
        values.insert("memory(GiB)".to_owned(), json!(self.peak_gib()));
        values.insert(
            "train_speed(s/it)".to_owned(),
            json!(self.clock.seconds_per_step(step)),
        );
    }

    fn peak_gib(&self) -> Option<f64> {
        let bytes = apus_model::device::usage::peak(self.model.device())?;
        Some((bytes as f64 / f64::from(1u32 << 30) * 100.0).round() / 100.0)
    }

    /// Hands a line to callbacks, which may add to it, and to trackers.
    pub(super) fn report(&mut self, mut values: Map<String, Value>) -> Result<()> {
        self.events.on_log(&mut values, &self.state)?;
        self.state.log_history.push(values.clone());
        let step = self.state.global_step;
        self.trackers.log(step, &values);
        Ok(())
    }

    /// The last line of the log, by ms-swift's names. Speed and mean loss are those of the steps that this process
    /// made, as transformers counts them.
    pub(super) fn summary(&self) -> Map<String, Value> {
        let seconds = self.clock.elapsed().as_secs_f64();
        let step = self.state.global_step;
        let mut values = Map::new();
        let mut put = |name: &str, value: Value| values.insert(name.to_owned(), value);
        put("train_runtime", json!(seconds));
        put(
            "train_samples_per_second",
            json!(self.clock.samples as f64 / seconds),
        );
        put(
            "train_steps_per_second",
            json!(self.clock.made(step) as f64 / seconds),
        );
        put("train_loss", json!(self.clock.mean_loss(step)));
        put("tokens_per_second", json!(self.clock.rate()));
        put("train_tokens", json!(self.clock.tokens));
        put("epoch", json!(self.state.epoch));
        put("global_step", json!(step));
        put("last_model_checkpoint", json!(self.last_checkpoint));
        put(
            "best_model_checkpoint",
            json!(self.state.best_model_checkpoint),
        );
        put("best_metric", json!(self.state.best_metric));
        put("memory(GiB)", json!(self.peak_gib()));
        values
    }
}
