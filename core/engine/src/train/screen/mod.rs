//! The terminal of a run: a progress bar, a live panel (`--tui true`), or plain lines where there is no terminal.
//!
//! Whoever writes lines meanwhile does it through [`Screen::suspend`], so that they stand above bar and panel.

mod curve;
mod draw;
mod panel;

use super::ranks::Loads;
use crate::progress_bar::bar;
use apus_base::{lines, memory};
use apus_sdk::errln;
use indicatif::ProgressBar;
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
    /// Steps in all, which a callback may change.
    pub total: u64,
    /// Epochs made.
    pub epoch: f64,
    /// Mean loss of the trained tokens.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens a second, of all ranks together.
    pub rate: f64,
    /// What the ranks tell of themselves, where there are several.
    pub loads: Option<Loads>,
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
                Self::Bar(bar(total, made))
            }
            None => Self::Bar(bar(total, made)),
        };
        let above = screen.clone();
        lines::print_by(Some(Arc::new(move |text| above.print(text))));
        screen
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
                bar.set_message(message(&numbers));
                bar.set_length(numbers.total);
                bar.set_position(numbers.step);
            }
            Self::Panel(panel) => panel.step(numbers),
        }
    }

    /// What is being done between steps, beside the bar until the next step.
    pub fn doing(&self, text: impl FnOnce() -> String) {
        if let Self::Bar(bar) = self {
            bar.set_message(text());
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

/// What the bar says of a step.
fn message(numbers: &StepNumbers) -> String {
    let StepNumbers {
        loss,
        lr,
        rate,
        loads,
        ..
    } = numbers;
    let mut text = format!("loss {loss:.4}  lr {lr:.2e}  {rate:.0} tok/s");
    if let Some(loads) = loads {
        text += &format!(" ({:.0} a rank)", rate / loads.ranks as f64);
        if let Some((rank, bytes)) = loads.fullest {
            text += &format!("  {} on rank {rank}", memory::gib(bytes));
        }
        text += &format!("  {:.3} s in collectives", loads.collectives);
    }
    text
}

/// Gives the terminal back as it was, for a process that leaves at once.
pub fn restore() {
    panel::restore();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_tells_of_several_ranks_what_one_has_not() {
        let mut numbers = StepNumbers {
            step: 1,
            total: 9,
            epoch: 0.5,
            loss: 2.0,
            lr: 1e-4,
            rate: 20_000.0,
            loads: None,
        };
        assert_eq!(message(&numbers), "loss 2.0000  lr 1.00e-4  20000 tok/s");
        numbers.loads = Some(Loads {
            ranks: 4,
            fullest: Some((3, 5 << 28)),
            collectives: 0.25,
        });
        assert_eq!(
            message(&numbers),
            "loss 2.0000  lr 1.00e-4  20000 tok/s (5000 a rank)  1.25 GiB on rank 3  0.250 s in collectives"
        );
    }
}
