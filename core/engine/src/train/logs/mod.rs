//! Passes what a run reports to its trackers. Observing a run must never harm it.
//!
//! Each tracker works on a thread of its own behind a queue of bounded length. One that is slow loses
//! reports rather than time of the run; one that fails or panics is left out from there on; one that
//! hangs is waited for at the end only as long as was allowed. Each of these is reported once.

mod line;

use super::about::hardware::Watch;
use super::about::machines::OtherMachines;
use super::pictures::Pictures;
use super::screen::Screen;
use apus_base::lines;
use apus_components::registry::Named;
use apus_sdk::{EndState, RunInfo, Tracker};
use line::{Line, Report};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the pictures at the end wait for what they show.
const SETTLE: Duration = Duration::from_secs(1);

/// The trackers of a run.
pub struct Trackers {
    outlet: Outlet,
    screen: Screen,
    patience: Duration,
    machine: Option<Watch>,
    pictures: Option<Pictures>,
}

/// Hands reports to all trackers, from any thread.
#[derive(Clone, Default)]
struct Outlet(Arc<Mutex<Vec<Line>>>);

impl Outlet {
    fn send(&self, report: Report) {
        let report = Arc::new(report);
        for line in &mut *self.lines() {
            line.offer(&report);
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trackers {
    /// Starts each tracker. `screen` makes way for those that write to the terminal; `patience` is how
    /// long the end of the run waits for all of them together.
    pub fn start(
        trackers: Vec<Named<dyn Tracker>>,
        run: &RunInfo,
        screen: &Screen,
        patience: Duration,
    ) -> Self {
        let lines = trackers
            .into_iter()
            .map(|tracker| Line::new(tracker, screen.clone()));
        let outlet = Outlet(Arc::new(Mutex::new(lines.collect())));
        outlet.send(Report::Start(Box::new(run.clone())));
        let lines = outlet.clone();
        lines::follow(move |level, line| lines.send(Report::Line(level, line.to_owned())));
        Self {
            outlet,
            screen: screen.clone(),
            patience,
            machine: None,
            pictures: None,
        }
    }

    /// Draws pictures at each checkpoint and at the end, and writes a report then.
    pub fn draw(&mut self, pictures: Option<Pictures>) {
        self.pictures = pictures;
    }

    /// Measures the machine every ten seconds from now on; `card` is the address of the run's card on the bus, and `others`
    /// have what other ranks measure.
    pub fn watch_machine(&mut self, card: Option<String>, others: Option<OtherMachines>) {
        let (outlet, screen) = (self.outlet.clone(), self.screen.clone());
        self.machine = Watch::start(card, move |mut values| {
            if let Some(others) = &others {
                others.add_to(&mut values);
            }
            screen.note(&values);
            outlet.send(Report::System(values));
        });
    }

    /// Numbers of a step.
    pub fn log(&self, step: u64, values: &Map<String, Value>) {
        self.screen.note(values);
        self.outlet.send(Report::Log(step, values.clone()));
    }

    /// A text of a step.
    pub fn text(&self, step: u64, name: &str, text: &str) {
        let (name, text) = (name.to_owned(), text.to_owned());
        self.outlet.send(Report::Text(step, name, text));
    }

    /// A checkpoint.
    pub fn saved(&self, step: u64, checkpoint: &Path) {
        if let Some(pictures) = &self.pictures {
            pictures.draw();
        }
        self.outlet.send(Report::Saved(step, checkpoint.to_owned()));
    }

    /// The end of the run after `step` steps: everything that waits is still worked off, as far as patience goes.
    pub fn finish(&mut self, step: u64, end: &EndState) {
        self.machine = None;
        let until = Instant::now() + self.patience;
        let pictures = self.pictures.take().map(|pictures| {
            self.settle(until);
            pictures.finish()
        });
        lines::unfollow();
        let (drawn, report) = pictures.unzip();
        for picture in drawn.unwrap_or_default() {
            let file = picture.path.file_stem().unwrap_or_default();
            let name = format!("images/{}", file.to_string_lossy());
            self.outlet.send(Report::Image(step, name, picture.png));
        }
        let last = Arc::new(Report::Finish(end.clone()));
        let mut lines = std::mem::take(&mut *self.outlet.lines());
        for line in &mut lines {
            line.close(&last, until);
        }
        for line in &mut lines {
            line.join(until);
        }
        if let Some(report) = report {
            report.write();
        }
    }

    /// Waits until every tracker has written what it was told so far, for a second at most.
    fn settle(&self, until: Instant) {
        let until = until.min(Instant::now() + SETTLE);
        let (done, settled) = channel();
        self.outlet.send(Report::Settled(done));
        // The last holder of `done` lets it go when all of them have come to it.
        let left = until.saturating_duration_since(Instant::now());
        let _ = settled.recv_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::line::QUEUE;
    use super::*;
    use apus_sdk::{Error, Level};
    use std::path::PathBuf;

    /// Does what the function says at each log, and keeps the steps that it was called for.
    struct Does(Arc<Mutex<Vec<u64>>>, fn(u64) -> apus_sdk::Result<()>);
    impl Tracker for Does {
        fn start(&mut self, _run: &RunInfo) -> apus_sdk::Result<()> {
            Ok(())
        }
        fn log(&mut self, step: u64, _values: &Map<String, Value>) -> apus_sdk::Result<()> {
            self.0.lock().unwrap().push(step);
            (self.1)(step)
        }
    }

    fn run(act: fn(u64) -> apus_sdk::Result<()>, steps: u64, patience: u64) -> Vec<u64> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let does: Box<dyn Tracker> = Box::new(Does(Arc::clone(&seen), act));
        let tracker = Named::new("tracker does", does);
        let patience = Duration::from_millis(patience);
        let mut trackers =
            Trackers::start(vec![tracker], &RunInfo::default(), &Screen::Plain, patience);
        for step in 0..steps {
            trackers.log(step, &Map::new());
        }
        trackers.finish(steps, &EndState::Interrupted);
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    #[test]
    fn every_report_arrives_in_order() {
        assert_eq!(run(|_| Ok(()), 500, 10_000), (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_fails_is_left_out() {
        let fails = |step| match step {
            2 => Err(Error::new("no network")),
            _ => Ok(()),
        };
        assert_eq!(run(fails, 50, 10_000), [0, 1, 2]);
        assert_eq!(run(|step| panic!("at {step}"), 50, 10_000), [0]);
    }

    #[test]
    fn one_that_hangs_holds_nobody_up() {
        let start = Instant::now();
        let seen = run(
            |_| {
                std::thread::sleep(Duration::from_secs(3600));
                Ok(())
            },
            3 * QUEUE as u64,
            50,
        );
        assert_eq!(seen, [0]);
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    /// Writes the log that pictures are drawn from, slowly, and keeps what it hears.
    struct Writes(PathBuf, Arc<Mutex<Vec<String>>>);
    impl Tracker for Writes {
        fn start(&mut self, _run: &RunInfo) -> apus_sdk::Result<()> {
            Ok(())
        }
        fn log(&mut self, step: u64, _values: &Map<String, Value>) -> apus_sdk::Result<()> {
            std::thread::sleep(Duration::from_millis(50));
            let line = format!("{{\"loss\": {step}, \"global_step/max_steps\": \"{step}/2\"}}\n");
            let mut log = std::fs::read_to_string(&self.0).unwrap_or_default();
            log.push_str(&line);
            Ok(std::fs::write(&self.0, log)?)
        }
        fn image(&mut self, step: u64, name: &str, png: &[u8]) -> apus_sdk::Result<()> {
            assert!(png.starts_with(b"\x89PNG"));
            self.1.lock().unwrap().push(format!("{name} at {step}"));
            Ok(())
        }
        fn line(&mut self, _level: Level, line: &str) -> apus_sdk::Result<()> {
            assert!(!line.contains("pictures:"), "{line}");
            Ok(())
        }
        fn finish(&mut self, _end: &EndState) -> apus_sdk::Result<()> {
            self.1.lock().unwrap().push("the end".to_owned());
            Ok(())
        }
    }

    #[test]
    fn pictures_show_all_of_the_log_and_come_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let writes = Writes(dir.path().join("logging.jsonl"), Arc::clone(&heard));
        let writes: Box<dyn Tracker> = Box::new(writes);
        let tracker = Named::new("tracker writes", writes);
        let (run, patience) = (RunInfo::default(), Duration::from_secs(10));
        let mut trackers = Trackers::start(vec![tracker], &run, &Screen::Plain, patience);
        trackers.draw(Pictures::new(dir.path()));
        trackers.log(1, &Map::new());
        trackers.log(2, &Map::new());
        trackers.finish(2, &EndState::Interrupted);
        assert_eq!(
            *heard.lock().unwrap(),
            ["images/train_loss at 2", "the end"]
        );
        let report = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
        assert!(
            report.contains("[1.0,2.0]") || report.contains("[1,2]"),
            "both steps"
        );
    }
}
