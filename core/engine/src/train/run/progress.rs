//! What a run has reached: the state that callbacks see, the sums since the last line of the log, the place in the data.

use crate::train::about;
use crate::train::clock::{Clock, human};
use crate::train::examples::Examples;
use crate::train::ranks::Loads;
use crate::train::screen::StepNumbers;
use crate::train::settings::Settings;
use crate::train::state::{Pending, StreamState, TrainerState};
use crate::train::step::StepReport;
use crate::train::steps::Steps;
use apus_base::lines::info;
use apus_sdk::RunState;
use candle_core::Device;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;

/// Counters of a run, which change when a step is made as a whole, never on the way.
pub struct Progress {
    /// The steps of the run.
    pub steps: Steps,
    /// What callbacks see.
    pub state: RunState,
    /// Sums since the last line of the log.
    pub pending: Pending,
    /// Where in the data the last whole step has ended.
    pub position: (usize, Option<StreamState>),
    /// The run's id, for trackers.
    pub run_id: String,
    clock: Clock,
    device: Device,
    /// What the ranks told of the last step, where there are several.
    loads: Option<Loads>,
}

impl Progress {
    /// Before the first of these steps.
    pub fn new(steps: Steps, settings: &Settings, examples: &Examples, device: &Device) -> Self {
        Self {
            state: RunState {
                max_steps: steps.total,
                num_train_epochs: steps.epochs(),
                greater_is_better: settings.greater_is_better,
                output_dir: settings.run_dir.clone(),
                ..RunState::default()
            },
            steps,
            pending: Pending::default(),
            position: examples.state(),
            run_id: about::new_id(),
            clock: Clock::start(0),
            device: device.clone(),
            loads: None,
        }
    }

    /// Goes on from what a checkpoint has reached, where `examples` stand there already. The best metric counts on if it
    /// is one of what is `measured` now.
    pub fn resume(&mut self, saved: &TrainerState, measured: &Value, examples: &Examples) {
        saved.restore(&mut self.state, measured);
        if !saved.run_id.is_empty() {
            self.run_id = saved.run_id.clone();
        }
        self.pending = saved.pending.clone();
        for &(from, to) in &saved.accumulation {
            self.change_accumulation(from, to);
        }
        self.position = examples.state();
    }

    /// Lets steps from this one (from 0) on take so many micro-batches.
    pub fn change_accumulation(&mut self, from: u64, to: usize) {
        self.steps.change_accumulation(from, to);
        self.state.max_steps = self.steps.total;
        self.state.num_train_epochs = self.steps.epochs();
    }

    /// Time counts from now on.
    pub fn start_clock(&mut self) {
        self.clock = Clock::start(self.state.global_step);
    }

    /// Whether all steps are made.
    pub fn is_complete(&self) -> bool {
        self.state.global_step >= self.steps.total
    }

    /// A step over `samples` examples is made, begun at `started`; `position` is where it ended in the data.
    pub fn count(
        &mut self,
        report: &StepReport,
        (samples, started): (usize, Instant),
        position: (usize, Option<StreamState>),
    ) {
        self.clock
            .count(started.elapsed(), samples, report.tokens, report.loss);
        self.loads = report.loads;
        if let Some(loads) = &self.loads {
            self.clock.count_collectives(loads.collectives);
        }
        self.position = position;
        self.state.global_step += 1;
        self.state.epoch = self.steps.epochs_after(self.state.global_step);
        self.state.learning_rate = report.learning_rate;
        self.state.loss = Some(report.loss);
        self.state.grad_norm = Some(report.grad_norm);
        self.pending.steps += 1;
        self.pending.loss += report.loss;
        self.pending.aux_loss += report.aux_loss;
        self.pending.right += report.right;
        self.pending.tokens += report.supervised as u64;
        self.pending.channels.merge(&report.channels);
    }

    /// The step that was just counted, for the terminal.
    pub fn shown(&self, report: &StepReport, started: Instant) -> StepNumbers {
        StepNumbers {
            step: self.state.global_step,
            total: self.steps.total,
            epoch: self.state.epoch,
            loss: report.loss,
            lr: report.learning_rate,
            rate: report.tokens as f64 / started.elapsed().as_secs_f64(),
            loads: report.loads,
        }
    }

    /// A line over the steps since the last one; none if there were none.
    pub fn line(&mut self, settings: &Settings) -> Option<Map<String, Value>> {
        let Pending {
            steps,
            loss,
            aux_loss,
            right,
            tokens,
            channels,
        } = std::mem::take(&mut self.pending);
        if steps == 0 {
            return None;
        }
        let mut values = Map::new();
        values.insert("loss".to_owned(), json!(loss / steps as f64));
        values.insert("grad_norm".to_owned(), json!(self.state.grad_norm));
        values.insert("learning_rate".to_owned(), json!(self.state.learning_rate));
        if settings.router_aux_loss_coef != 0.0 {
            values.insert("aux_loss".to_owned(), json!(aux_loss / steps as f64));
        }
        values.insert(
            "token_acc".to_owned(),
            json!(right as f64 / tokens.max(1) as f64),
        );
        if settings.enable_channel_loss {
            values.extend(channels.means());
        }
        self.add_to(&mut values);
        let rate = self.clock.window_rate();
        values.insert("tokens_per_second".to_owned(), json!(rate));
        if self.state.world_size > 1 {
            let share = rate / self.state.world_size as f64;
            values.insert("tokens_per_second_per_rank".to_owned(), json!(share));
            let seconds = self.clock.window_collectives();
            values.insert("collectives(s/it)".to_owned(), json!(seconds));
        }
        Some(values)
    }

    /// Adds to a line what ms-swift adds to every one: epoch and step, times, memory, speed.
    pub fn add_to(&self, values: &mut Map<String, Value>) {
        let (step, total) = (self.state.global_step, self.steps.total);
        let mut put = |name: &str, value: Value| values.insert(name.to_owned(), value);
        put("epoch", json!(self.state.epoch));
        put("global_step/max_steps", json!(format!("{step}/{total}")));
        put("elapsed_time", json!(human(self.clock.elapsed())));
        let left = human(self.clock.remaining(step, total));
        put("remaining_time", json!(left));
        put("memory(GiB)", json!(self.peak_gib()));
        put(
            "train_speed(s/it)",
            json!(self.clock.seconds_per_step(step)),
        );
    }

    /// Says so if there is no step to make, because all are made or because a callback has `stopped` the run.
    pub fn report_if_complete(&self, stopped: Option<&str>) {
        let (step, total) = (self.state.global_step, self.steps.total);
        if let Some(by) = stopped {
            info!(
                "{by}, ends the run before it makes a step, after step {step} of {total}; it goes on without this \
                 callback, or with other options of it"
            );
        } else if step >= total {
            info!(
                "nothing is left to train: {step} of {total} steps are made; a greater num_train_epochs or max_steps \
                 goes on"
            );
        }
    }

    /// Says which callback has `stopped` the run, if one has.
    pub fn report_who_stopped(&self, stopped: Option<&str>) {
        if let Some(by) = stopped {
            let (step, total) = (self.state.global_step, self.steps.total);
            info!("{by}, ends the run after step {step} of {total}");
        }
    }

    /// The last line of the log, by ms-swift's names. Speed and mean loss are those of the steps that this process
    /// made, as transformers counts them.
    pub fn summary(&self, last_checkpoint: Option<&Path>) -> Map<String, Value> {
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
        let rate = self.clock.rate();
        put("tokens_per_second", json!(rate));
        if self.state.world_size > 1 {
            let share = rate / self.state.world_size as f64;
            put("tokens_per_second_per_rank", json!(share));
        }
        put("train_tokens", json!(self.clock.tokens));
        put("epoch", json!(self.state.epoch));
        put("global_step", json!(step));
        put("last_model_checkpoint", json!(last_checkpoint));
        put(
            "best_model_checkpoint",
            json!(self.state.best_model_checkpoint),
        );
        put("best_metric", json!(self.state.best_metric));
        put("memory(GiB)", json!(self.peak_gib()));
        values
    }

    /// The most memory that was in use: of several ranks that of the fullest.
    fn peak_gib(&self) -> Option<f64> {
        let own = apus_model::device::usage::peak(&self.device);
        let fullest = self.loads.and_then(|loads| loads.fullest);
        let bytes = own.max(fullest.map(|(_, bytes)| bytes))?;
        Some((bytes as f64 / f64::from(1u32 << 30) * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::channel_loss::ChannelLosses;
    use crate::train::parts::loop_settings;
    use crate::train::row_loss::RowSums;
    use crate::train::sampling::Sampling;
    use crate::train::terms::Terms;
    use apus_components::config::SftConfig;

    fn report(loss: f64, right: u64) -> StepReport {
        StepReport {
            loss,
            aux_loss: 0.0,
            right,
            supervised: 4,
            channels: ChannelLosses::default(),
            rows: RowSums::default(),
            tokens: 9,
            grad_norm: 2.0,
            learning_rate: 1e-3,
            loads: None,
        }
    }

    #[test]
    fn a_line_is_over_the_steps_since_the_last_one_also_across_a_checkpoint() {
        let (none, run) = ((None, Terms::default()), Path::new("run"));
        let config = SftConfig::default();
        let settings = loop_settings(&config, run, 0, Map::new(), Map::new(), none).unwrap();
        let examples = Examples::in_memory(&[], None, Sampling::of_nothing());
        let begun = || {
            let steps = settings.steps(1000).unwrap();
            Progress::new(steps, &settings, &examples, &Device::Cpu)
        };
        let mut progress = begun();
        assert_eq!(progress.line(&settings), None);
        progress.count(&report(3.0, 1), (1, Instant::now()), examples.state());
        let saved = TrainerState {
            global_step: progress.state.global_step,
            pending: progress.pending.clone(),
            run_id: progress.run_id.clone(),
            ..TrainerState::default()
        };

        let mut resumed = begun();
        assert_ne!(resumed.run_id, progress.run_id);
        resumed.resume(&saved, &Value::Null, &examples);
        resumed.start_clock();
        assert_eq!(resumed.run_id, progress.run_id);
        for progress in [&mut progress, &mut resumed] {
            progress.count(&report(1.0, 2), (1, Instant::now()), examples.state());
            let line = progress.line(&settings).unwrap();
            assert_eq!(
                (&line["loss"], &line["token_acc"]),
                (&json!(2.0), &json!(0.375))
            );
            let step = line["global_step/max_steps"].as_str().unwrap();
            assert!(step.starts_with("2/"), "{step}");
            assert_eq!(progress.line(&settings), None);
        }
        // Of the steps that this process has made.
        assert_eq!(progress.summary(None)["train_loss"], 2.0);
        assert_eq!(resumed.summary(None)["train_loss"], 1.0);
    }

    #[test]
    fn a_line_of_several_ranks_has_the_fullest_and_the_time_in_collectives() {
        let (none, run) = ((None, Terms::default()), Path::new("run"));
        let config = SftConfig::default();
        let settings = loop_settings(&config, run, 0, Map::new(), Map::new(), none).unwrap();
        let examples = Examples::in_memory(&[], None, Sampling::of_nothing());
        let steps = settings.steps(1000).unwrap();
        let mut progress = Progress::new(steps, &settings, &examples, &Device::Cpu);
        let alone = progress.summary(None);
        progress.state.world_size = 4;
        for collectives in [0.5, 0.25] {
            let loads = Loads {
                ranks: 4,
                fullest: Some((2, 3 << 42)),
                collectives,
            };
            let report = StepReport {
                loads: Some(loads),
                ..report(1.0, 1)
            };
            progress.count(&report, (1, Instant::now()), examples.state());
        }
        let line = progress.line(&settings).unwrap();
        assert_eq!(line["memory(GiB)"], 12288.0);
        assert_eq!(line["collectives(s/it)"], 0.375);
        let number = |name: &str| line[name].as_f64().unwrap();
        let (all, each) = (
            number("tokens_per_second"),
            number("tokens_per_second_per_rank"),
        );
        assert!((all / each - 4.0).abs() < 1e-9);
        // A process that is alone logs what it always did.
        let more: Vec<String> = progress.summary(None).keys().cloned().collect();
        let more = more.into_iter().filter(|name| !alone.contains_key(name));
        assert_eq!(more.collect::<Vec<_>>(), ["tokens_per_second_per_rank"]);
    }
}
