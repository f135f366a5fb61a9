//! Where a run reports while it trains: to the trackers, and to the bar or panel on the terminal.

use super::progress::Progress;
use crate::train::about;
use crate::train::logs::Trackers;
use crate::train::pictures::Pictures;
use crate::train::ranks::Ranks;
use crate::train::screen::{Screen, StepNumbers};
use crate::train::settings::Settings;
use apus_components::registry::Named;
use apus_sdk::{EndState, RunInfo, Tracker};
use candle_core::Device;
use serde_json::{Map, Value};
use std::path::Path;

/// What components and trackers are told of a run, new or resumed, at the step of `progress`.
pub fn info(settings: &Settings, progress: &Progress, ranks: Option<&Ranks>) -> RunInfo {
    let mut about = about::process();
    if let Some(others) = ranks.map(Ranks::other_machines) {
        let described = others.described();
        about.hardware.insert("ranks".to_owned(), described);
    }
    RunInfo {
        name: settings.run_name.clone(),
        dir: settings.run_dir.clone(),
        config: settings.config.clone(),
        max_steps: progress.steps.total,
        resumed_at: progress.state.global_step,
        id: progress.run_id.clone(),
        model: settings.model.clone(),
        world_size: progress.state.world_size,
        ..about
    }
}

/// Trackers and screen.
pub struct Reports {
    trackers: Trackers,
    screen: Screen,
}

impl Reports {
    /// Starts the trackers of a run, new or resumed.
    pub fn start(
        trackers: Vec<Named<dyn Tracker>>,
        info: RunInfo,
        settings: &Settings,
        device: &Device,
        ranks: Option<&Ranks>,
    ) -> Self {
        let title = settings.run_dir.file_name().unwrap_or_default();
        let (total, made) = (info.max_steps, info.resumed_at);
        let screen = Screen::open(&title.to_string_lossy(), total, made, settings.tui);
        let others = ranks.map(Ranks::other_machines);
        let info = RunInfo {
            interactive: screen.draws(),
            ..info
        };
        let mut trackers = Trackers::start(trackers, &info, &screen, settings.tracker_timeout);
        if settings.plot {
            trackers.draw(Pictures::new(&settings.run_dir));
        }
        trackers.watch_machine(apus_model::device::bus_address(device), others);
        Self { trackers, screen }
    }

    /// Shows a step on the terminal.
    pub fn step(&self, numbers: StepNumbers) {
        self.screen.step(numbers);
    }

    /// Says on the terminal what is being done between steps.
    pub fn doing(&self, text: impl FnOnce() -> String) {
        self.screen.doing(text);
    }

    /// A line of the log.
    pub fn log(&self, step: u64, values: &Map<String, Value>) {
        self.trackers.log(step, values);
    }

    /// The answer to a prompt.
    pub fn text(&self, step: u64, prompt: &str, answer: &str) {
        self.trackers.text(step, prompt, answer);
    }

    /// A checkpoint.
    pub fn saved(&self, step: u64, checkpoint: &Path) {
        self.trackers.saved(step, checkpoint);
    }

    /// Takes bar or panel away.
    pub fn close_screen(&self) {
        self.screen.close();
    }

    /// The end of the run after `step` steps.
    pub fn finish(&mut self, step: u64, end: &EndState) {
        self.trackers.finish(step, end);
    }
}
