//! The terminal of a run: a progress bar, a live panel (`--tui true`), or plain lines where there is no terminal.
//!
//! Whoever writes lines meanwhile does it through [`Screen::suspend`], so that they stand above bar and panel.

mod curve;
mod draw;
mod panel;

use apus_base::lines;
use apus_sdk::errln;
use indicatif::{ProgressBar, ProgressStyle};
use panel::Panel;
use serde_json::{Map, Value};
use std::io::IsTerminal;
use std::sync::Arc;

/// Where the progress of a run is shown; clones show the same.
#[derive(Clone)]
pub enum Screen {
    /// Nothing is drawn.
    Plain,
    /// A progress bar.
    Bar(ProgressBar),
    /// A panel with the loss curve.
    Panel(Arc<Panel>),
}

/// The numbers of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepNumbers {
    /// Steps made, this one among them.
    pub step: u64,
    /// Epochs made.
    pub epoch: f64,
    /// Mean loss of the trained tokens.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens a second.
    pub rate: f64,
}

impl Screen {
    /// A bar over `total` steps, `made` of which are done, or a panel; plain if standard error is no terminal.
    /// Lines that are said from now on go through it.
    pub fn open(title: &str, total: u64, made: u64, tui: bool) -> Self {
        if !std::io::stderr().is_terminal() {
            if tui {
                lines::info!("note: tui: standard error is no terminal; lines are written instead");
            }
            return Self::Plain;
        }
        let screen = match tui.then(|| Panel::open(title, total, made)) {
            Some(Ok(panel)) => Self::Panel(panel),
            Some(Err(error)) => {
                lines::warning!("tui: {error}; a progress bar is drawn instead");
                Self::bar(total, made)
            }
            None => Self::bar(total, made),
        };
        let above = screen.clone();
        lines::print_by(Some(Arc::new(move |text| above.print(text))));
        screen
    }

    fn bar(total: u64, made: u64) -> Self {
        let bar = ProgressBar::new(total).with_position(made);
        let style = "{bar:30} {pos}/{len}  {msg}  {elapsed} < {eta}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self::Bar(bar)
    }

    /// Whether it draws.
    pub fn draws(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// One step more.
    pub fn step(&self, numbers: StepNumbers) {
        match self {
            Self::Plain => {}
            Self::Bar(bar) => {
                let StepNumbers { loss, lr, rate, .. } = numbers;
                bar.set_message(format!("loss {loss:.4}  lr {lr:.2e}  {rate:.0} tok/s"));
                bar.set_position(numbers.step);
            }
            Self::Panel(panel) => panel.step(numbers),
        }
    }

    /// Numbers of the log or of the machine, by their names.
    pub fn note(&self, values: &Map<String, Value>) {
        if let Self::Panel(panel) = self {
            panel.note(values);
        }
    }

    /// Lets `act` write to the terminal.
    pub fn suspend<R>(&self, act: impl FnOnce() -> R) -> R {
        match self {
            Self::Plain => act(),
            Self::Bar(bar) => bar.suspend(act),
            Self::Panel(panel) => panel.suspend(act),
        }
    }

    fn print(&self, text: &str) {
        self.suspend(|| errln!("{text}"));
    }

    /// Takes bar or panel away.
    pub fn close(&self) {
        match self {
            Self::Plain => return,
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Panel(panel) => panel.close(),
        }
        lines::print_by(None);
    }
}

/// Gives the terminal back as it was, for a process that leaves at once.
pub fn restore() {
    panel::restore();
}
