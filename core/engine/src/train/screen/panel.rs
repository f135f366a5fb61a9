//! The live panel: the numbers it shows, and the thread that draws it at the foot of the terminal.
//!
//! It is an inline viewport: lines that are written stand above it and stay in the terminal's history. Keys are not
//! read, so that Ctrl-C and scrolling work as without it.

use super::StepNumbers;
use super::curve::Curve;
use super::draw::{HEIGHT, draw};
use ratatui::backend::CrosstermBackend;
use ratatui::{Terminal, TerminalOptions, Viewport};
use serde_json::{Map, Value};
use std::io::{Stderr, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two pictures.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether the cursor is hidden at the moment.
static OPEN: AtomicBool = AtomicBool::new(false);

/// What is shown.
pub struct Shown {
    /// Name of the run.
    pub title: String,
    /// Steps in all.
    pub total: u64,
    /// Steps made when the run began.
    pub made: u64,
    /// The last step.
    pub last: Option<StepNumbers>,
    /// Losses by step.
    pub losses: Curve,
    /// Losses of evaluations by step.
    pub evaluations: Vec<(f64, f64)>,
    /// The newest numbers of the log and the machine.
    pub values: Map<String, Value>,
    /// When the first step began.
    pub started: Instant,
    /// Time since then.
    pub elapsed: Duration,
}

impl Shown {
    /// A run that has made `made` of `total` steps.
    pub fn new(title: &str, total: u64, made: u64) -> Self {
        Self {
            title: title.to_owned(),
            total,
            made,
            last: None,
            losses: Curve::new(),
            evaluations: Vec::new(),
            values: Map::new(),
            started: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    /// One step more.
    pub fn step(&mut self, numbers: StepNumbers) {
        self.total = numbers.total;
        self.losses.push(numbers.step as f64, numbers.loss);
        self.last = Some(numbers);
    }

    /// Newer numbers.
    pub fn note(&mut self, values: &Map<String, Value>) {
        let step = self.last.map_or(self.made, |last| last.step) as f64;
        if let Some(loss) = values.get("eval_loss").and_then(Value::as_f64) {
            self.evaluations.push((step, loss));
        }
        for (name, value) in values {
            self.values.insert(name.clone(), value.clone());
        }
    }
}

type Drawn = Terminal<CrosstermBackend<Lenient>>;

/// Standard error, which may be gone without anybody failing: a terminal that cannot be written to when it is let go is
/// a panic in ratatui.
struct Lenient(Stderr);

impl Write for Lenient {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// A panel on the terminal.
pub struct Panel {
    shown: Mutex<Shown>,
    /// None while somebody else writes, and at the end.
    terminal: Mutex<Option<Drawn>>,
    /// Dropped, it ends the thread.
    thread: Mutex<Option<Sender<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the panel below the cursor.
fn attach() -> std::io::Result<Drawn> {
    let options = TerminalOptions {
        viewport: Viewport::Inline(HEIGHT),
    };
    Terminal::with_options(CrosstermBackend::new(Lenient(stderr())), options)
}

/// Takes the panel away and leaves the cursor where it began. A terminal that is gone is no trouble.
fn detach(mut terminal: Drawn) {
    let top = terminal.get_frame().area().as_position();
    let _ = terminal.clear();
    let _ = terminal.set_cursor_position(top);
    let _ = terminal.show_cursor();
    let _ = stderr().flush();
}

impl Panel {
    /// Draws the panel and starts the thread that does so again.
    pub fn open(title: &str, total: u64, made: u64) -> std::io::Result<Arc<Self>> {
        let terminal = attach()?;
        OPEN.store(true, Ordering::SeqCst);
        let (stop, stopped) = channel::<()>();
        let panel = Arc::new(Self {
            shown: Mutex::new(Shown::new(title, total, made)),
            terminal: Mutex::new(Some(terminal)),
            thread: Mutex::new(Some(stop)),
        });
        let drawn = Arc::clone(&panel);
        let redraw = move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                drawn.redraw();
            }
        };
        std::thread::Builder::new()
            .name("panel".to_owned())
            .spawn(redraw)?;
        panel.redraw();
        Ok(panel)
    }

    pub(super) fn step(&self, numbers: StepNumbers) {
        locked(&self.shown).step(numbers);
    }

    pub(super) fn note(&self, values: &Map<String, Value>) {
        locked(&self.shown).note(values);
    }

    fn redraw(&self) {
        if let Some(terminal) = &mut *locked(&self.terminal) {
            let mut shown = locked(&self.shown);
            shown.elapsed = shown.started.elapsed();
            // A terminal that is gone must not stop the run.
            let _ = terminal.draw(|frame| draw(frame, &shown));
        }
    }

    pub(super) fn suspend<R>(&self, act: impl FnOnce() -> R) -> R {
        let mut terminal = locked(&self.terminal);
        let Some(drawn) = terminal.take() else {
            return act();
        };
        detach(drawn);
        let result = act();
        *terminal = attach().ok();
        drop(terminal);
        self.redraw();
        result
    }

    pub(super) fn close(&self) {
        *locked(&self.thread) = None;
        if let Some(terminal) = locked(&self.terminal).take() {
            detach(terminal);
        }
        OPEN.store(false, Ordering::SeqCst);
    }
}

/// Shows the cursor again, if a panel has hidden it.
pub fn restore() {
    if OPEN.swap(false, Ordering::SeqCst) {
        let _ = stderr().write_all(b"\x1b[?25h");
    }
}
