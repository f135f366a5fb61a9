//! Trackers: where the numbers, texts and logs of a run go.

use crate::{Need, Result, Setup};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Receives what a run reports.
///
/// A tracker has a thread of its own and a queue of bounded length: it may be slow without slowing
/// the run. An error or a panic is reported once and the tracker is left out from there on; it never
/// stops the run.
///
/// ```
/// use apus_sdk::{Result, RunInfo, Tracker, options, register, testing};
/// use serde_json::{Map, Value, json};
/// use std::{fs, io::Write};
///
/// options! {
///     struct Csv {
///         /// The number that is written.
///         key: String = "loss".to_owned(),
///     }
///     state {
///         file: Option<fs::File>,
///     }
/// }
///
/// impl Tracker for Csv {
///     fn start(&mut self, run: &RunInfo) -> Result<()> {
///         self.file = Some(fs::File::create(run.dir.join("losses.csv"))?);
///         Ok(())
///     }
///
///     fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
///         if let (Some(file), Some(value)) = (&mut self.file, values.get(&self.key)) {
///             writeln!(file, "{step},{value}")?;
///         }
///         Ok(())
///     }
/// }
///
/// register! {
///     /// One number as a table.
///     Tracker, "csv", Csv
/// }
///
/// let dir = std::env::temp_dir().join(format!("apus-csv-{}", std::process::id()));
/// fs::create_dir_all(&dir)?;
/// let mut csv = testing::make::<dyn Tracker>("csv", json!({}))?;
/// testing::track(&mut *csv, &dir, &[(1, json!({"loss": 2.5})), (2, json!({"loss": 1.5}))])?;
/// assert_eq!(fs::read_to_string(dir.join("losses.csv"))?, "1,2.5\n2,1.5\n");
/// fs::remove_dir_all(&dir)?;
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Tracker: Send {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

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

    /// A picture, as PNG.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<()> {
        let _ = (step, name, png);
        Ok(())
    }

    /// A line that the run wrote to the terminal, those before its start among them.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn line(&mut self, level: Level, line: &str) -> Result<()> {
        let _ = (level, line);
        Ok(())
    }

    /// Numbers of the machine, every ten seconds: `cpu.pct`, `cpu.threads` of the process, `mem.pct`, `mem.process_mib`,
    /// `mem.process_pct`, `mem.available_mib`, and for each card of the run `gpu.0.pct`, `gpu.0.mem_pct`, `gpu.0.mem_mib`,
    /// `gpu.0.temp` (degrees Celsius), `gpu.0.power` (watts), as far as the system tells. Where several processes train the
    /// run together, these are the numbers of rank 0 and of the cards of its host; those of another host follow its name and
    /// a slash, as `node2/gpu.0.pct` and `node2/mem.pct`, and `rank.3.process_mib` is the memory of another process.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        let _ = values;
        Ok(())
    }

    /// A checkpoint was written.
    ///
    /// # Errors
    /// Whatever keeps the tracker from working.
    fn saved(&mut self, step: u64, checkpoint: &Path) -> Result<()> {
        let _ = (step, checkpoint);
        Ok(())
    }

    /// Whether it writes to the terminal, so that the progress bar has to make way for it.
    fn on_terminal(&self) -> bool {
        false
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

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Progress and results.
    Info,
    /// Something that was corrected or left out.
    Warning,
    /// What stopped the run.
    Error,
}

/// What a tracker is told at the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Whether the output is a terminal, on which lines may be drawn over.
    pub interactive: bool,
    /// Eight characters, a-z and 0-9, made once: a run that continues from a checkpoint has the same.
    pub id: String,
    /// When the process began, RFC 3339.
    pub started: String,
    /// The command line, without secrets.
    pub command: Vec<String>,
    /// The machine: `{"hostname", "cpu": {"brand", "physical_count", "logical_count"}, "memory_gib", "accelerators":
    /// [{"index", "name", "memory_gib"}], "driver"}`, as far as the system tells. Where several processes train the run
    /// together it is that of rank 0, and `"ranks": [{"rank", "host", "pid", "card"}]` has all of them, `card` being its
    /// address on the bus of its host.
    pub hardware: Map<String, Value>,
    /// Where the working folder stands in its repository: `remote_url`, `branch`, `commit`.
    pub git: Map<String, Value>,
    /// The model: `parameters`, `trainable`, and `groups`, a list of `{"name", "tensors", "parameters"}` that are trained.
    pub model: Map<String, Value>,
    /// The process of the trackers among those that train the run together. It is always 0.
    pub rank: usize,
    /// How many processes train the run together, each on its card; 1 for a process that is alone.
    pub world_size: usize,
}

/// A run of one process of which nothing is known.
impl Default for RunInfo {
    fn default() -> Self {
        Self {
            name: String::new(),
            dir: PathBuf::new(),
            config: Map::new(),
            max_steps: 0,
            resumed_at: 0,
            interactive: false,
            id: String::new(),
            started: String::new(),
            command: Vec::new(),
            hardware: Map::new(),
            git: Map::new(),
            model: Map::new(),
            rank: 0,
            world_size: 1,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// All steps were made, or a callback stopped it. Holds the summary line of logging.jsonl.
    Finished(Map<String, Value>),
    /// Ctrl-C or SIGTERM; a checkpoint was saved.
    Interrupted,
    /// An error, with its message.
    Crashed(String),
}

/// The path under which transformers shows a number of its log (`rewrite_logs` of its integrations): `loss` is
/// `train/loss`, `eval_loss` is `eval/loss`.
pub fn log_path(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}
