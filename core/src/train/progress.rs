//! The progress bar on a terminal; silent elsewhere, where the console tracker writes lines.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A bar over the steps of a run.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar of `total` steps, `made` of which are done; hidden if standard error is no terminal.
    pub fn new(total: u64, made: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(total).with_position(made);
        let style = "{bar:30} {pos}/{len}  {msg}  {elapsed} < {eta}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self(bar)
    }

    /// Whether it draws.
    pub fn visible(&self) -> bool {
        !self.0.is_hidden()
    }

    /// One step more.
    pub fn step(&self, loss: f64, lr: f64, tokens_per_second: f64) {
        self.0.set_message(format!(
            "loss {loss:.4}  lr {lr:.2e}  {tokens_per_second:.0} tok/s"
        ));
        self.0.inc(1);
    }

    /// The bar, for those who write around it.
    pub fn bar(&self) -> &ProgressBar {
        &self.0
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
