//! Trackers: where the numbers, texts and logs of a run go.

use crate::Result;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Receives what a run reports. An error is reported once and never stops the run.
pub trait Tracker: Send {
    /// The run begins.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn start(&mut self, run: &RunInfo) -> Result<()>;

    /// Numbers of a step, by ms-swift's names (`loss`, `eval_loss`, `learning_rate`, ...).
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()>;

    /// A text, such as a sample generation.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        let _ = (step, name, text);
        Ok(())
    }

    /// The run is over; everything must be written.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn finish(&mut self, end: &EndState) -> Result<()> {
        let _ = end;
        Ok(())
    }
}

/// What a tracker is told at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct RunInfo {
    /// Name of the run.
    pub name: String,
    /// Folder of the run, where trackers write.
    pub dir: PathBuf,
    /// The resolved configuration, without secrets.
    pub config: Map<String, Value>,
    /// Updates in the whole run.
    pub max_steps: u64,
    /// Updates already made, when the run continues from a checkpoint.
    pub resumed_at: u64,
    /// Whether the terminal is one, and lines may be drawn over.
    pub interactive: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum EndState {
    /// All steps were made, or a callback stopped it. Holds the summary line of logging.jsonl.
    Finished(Map<String, Value>),
    /// Ctrl-C or SIGTERM; a checkpoint was saved.
    Interrupted,
    /// An error, with its message.
    Crashed(String),
}
