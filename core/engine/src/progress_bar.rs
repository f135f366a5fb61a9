//! Progress bars on standard error, all of one form.

use apus_base::lines;
use apus_sdk::errln;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;

/// A bar over `total`, of which `made` are done, with a message.
pub fn bar(total: u64, made: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_position(made);
    let style = "{bar:30} {pos}/{len}  {msg}  {elapsed} < {eta}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

/// A bar until it is dropped, with the lines for people above it; nothing where standard error is no terminal.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Shows a bar.
    pub fn open(total: usize, made: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = bar(total as u64, made as u64);
        let above = bar.clone();
        lines::print_by(Some(Arc::new(move |text: &str| {
            above.suspend(|| errln!("{text}"));
        })));
        Self(Some(bar))
    }

    /// So many are done.
    pub fn set(&self, made: usize, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.0 {
            bar.set_message(message());
            bar.set_position(made as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
            lines::print_by(None);
        }
    }
}
