//! Hands what a run reports to its trackers. A tracker that fails is reported once and left alone:
//! looking at a run must never harm it.

use apus_sdk::{EndState, RunInfo, Tracker};
use serde_json::{Map, Value};

/// The trackers of a run.
pub struct Trackers(Vec<(String, Option<Box<dyn Tracker>>)>);

impl Trackers {
    /// Starts each tracker.
    pub fn start(trackers: Vec<(String, Box<dyn Tracker>)>, run: &RunInfo) -> Self {
        let mut all = Self(
            trackers
                .into_iter()
                .map(|(name, t)| (name, Some(t)))
                .collect(),
        );
        all.each(|tracker| tracker.start(run));
        all
    }

    /// Numbers of a step.
    pub fn log(&mut self, step: u64, values: &Map<String, Value>) {
        self.each(|tracker| tracker.log(step, values));
    }

    /// A text of a step.
    pub fn text(&mut self, step: u64, name: &str, text: &str) {
        self.each(|tracker| tracker.text(step, name, text));
    }

    /// The end of the run.
    pub fn finish(&mut self, end: &EndState) {
        self.each(|tracker| tracker.finish(end));
    }

    fn each(&mut self, mut act: impl FnMut(&mut dyn Tracker) -> apus_sdk::Result<()>) {
        for (name, slot) in &mut self.0 {
            if let Some(tracker) = slot
                && let Err(error) = act(tracker.as_mut())
            {
                eprintln!("warning: tracker {name} failed and is left out from here on: {error}");
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(std::sync::Arc<std::sync::atomic::AtomicU32>);
    impl Tracker for Fails {
        fn start(&mut self, _run: &RunInfo) -> apus_sdk::Result<()> {
            Ok(())
        }
        fn log(&mut self, _step: u64, _values: &Map<String, Value>) -> apus_sdk::Result<()> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Err("no network".into())
        }
    }

    #[test]
    fn a_failing_tracker_is_asked_once() {
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let run = RunInfo {
            name: String::new(),
            dir: std::path::PathBuf::new(),
            config: Map::new(),
            max_steps: 2,
            resumed_at: 0,
            interactive: false,
        };
        let tracker: Box<dyn Tracker> = Box::new(Fails(calls.clone()));
        let mut trackers = Trackers::start(vec![("fails".to_owned(), tracker)], &run);
        trackers.log(1, &Map::new());
        trackers.log(2, &Map::new());
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
