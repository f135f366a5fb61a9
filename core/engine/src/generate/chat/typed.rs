//! Questions typed at a terminal: a line editor with the lines before it under the arrow keys, which are kept nowhere.
//!
//! A line that ends with a backslash goes on in the next one. In text that was pasted a backslash at the end of a line stands for
//! itself, so the editor remembers which ones were typed to go on.

use super::command::{Command, NAMES, command};
use super::input::{Asked, Input};
use anyhow::{Context as _, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};
use std::cell::{Cell, RefCell};
use std::io::Write;

/// The line editor.
pub struct Typed(Editor<Rules, DefaultHistory>);

impl Typed {
    /// An editor that completes commands and these names of adapters.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn new(adapters: Vec<String>) -> Result<Self> {
        let config = rustyline::Config::builder().auto_add_history(false).build();
        let mut editor = Editor::with_config(config).context("the terminal cannot be used")?;
        editor.set_helper(Some(Rules {
            adapters,
            ..Rules::default()
        }));
        Ok(Self(editor))
    }
}

impl Input for Typed {
    fn ask(&mut self, output: &mut dyn Write, prompt: &str, several: bool) -> Result<Asked> {
        output.flush()?;
        if let Some(rules) = self.0.helper_mut() {
            rules.several.set(several);
            rules.continued.borrow_mut().clear();
        }
        let typed = match self.0.readline(prompt) {
            Ok(typed) => typed,
            Err(ReadlineError::Interrupted) => return Ok(Asked::Interrupted),
            Err(ReadlineError::Eof) => return Ok(Asked::End),
            Err(error) => return Err(error).context("the terminal cannot be read"),
        };
        let continued = self
            .0
            .helper()
            .map(|rules| rules.continued.borrow().clone());
        let text = joined(typed, &continued.unwrap_or_default());
        if !text.trim().is_empty() {
            self.0.add_history_entry(text.as_str())?;
        }
        let is_command = !matches!(command(&text), Command::Text(_));
        Ok(Asked::Text(match text.trim_end().strip_suffix('#') {
            Some(last) if several && !is_command => last.to_owned(),
            _ => text,
        }))
    }

    fn has_keys(&self) -> bool {
        true
    }
}

/// The text without the backslashes with which these beginnings of it went on in the next line.
fn joined(mut text: String, continued: &[String]) -> String {
    for begin in continued.iter().rev() {
        let goes_on = text.strip_prefix(begin.as_str());
        if goes_on.is_some_and(|rest| rest.starts_with('\n')) {
            text.remove(begin.len() - 1);
        }
    }
    text
}

/// What the editor asks while a line is typed.
#[derive(Default)]
struct Rules {
    adapters: Vec<String>,
    several: Cell<bool>,
    /// What had been typed each time that a backslash made it go on.
    continued: RefCell<Vec<String>>,
}

impl Validator for Rules {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let typed = context.input();
        let is_open = match self.several.get() {
            true => matches!(command(typed), Command::Text(_)) && !typed.trim_end().ends_with('#'),
            false => typed.ends_with('\\'),
        };
        if !is_open {
            return Ok(ValidationResult::Valid(None));
        }
        if !self.several.get() {
            self.continued.borrow_mut().push(typed.to_owned());
        }
        Ok(ValidationResult::Incomplete)
    }
}

impl Completer for Rules {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(completed(&line[..at], &self.adapters))
    }
}

/// Where the word begins that can be completed, and what it can become.
fn completed(typed: &str, adapters: &[String]) -> (usize, Vec<String>) {
    const ADAPTER: &str = "/adapter ";
    let begin = |names: Vec<&str>, typed: &str| {
        let names = names.into_iter().filter(|name| name.starts_with(typed));
        names.map(str::to_owned).collect()
    };
    match typed.strip_prefix(ADAPTER) {
        Some(name) => {
            let adapters = adapters.iter().map(String::as_str).collect();
            (ADAPTER.len(), begin(adapters, name))
        }
        None if typed.starts_with('/') => (0, begin(NAMES.to_vec(), typed)),
        None => (typed.len(), Vec::new()),
    }
}

impl Hinter for Rules {
    type Hint = String;
}

impl Highlighter for Rules {}

impl Helper for Rules {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_that_was_pasted_stays() {
        let continued = ["a\\".to_owned(), "a\\\nb \\\nc\\".to_owned()];
        let text = "a\\\nb \\\nc\\\nd".to_owned();
        assert_eq!(joined(text, &continued), "a\nb \\\nc\nd");
        // What was edited afterwards is another beginning.
        assert_eq!(joined("x\\\nb".to_owned(), &continued), "x\\\nb");
        assert_eq!(joined("a\\".to_owned(), &continued), "a\\");
    }

    #[test]
    fn commands_and_adapters_are_completed() {
        let adapters = ["base".to_owned(), "mew".to_owned()];
        let found = |typed| completed(typed, &adapters);
        assert_eq!(found("/re"), (0, vec!["/reset".to_owned()]));
        assert_eq!(found("/adapter m"), (9, vec!["mew".to_owned()]));
        assert_eq!(found("/adapter ").1.len(), 2);
        assert_eq!(found("re"), (2, Vec::new()));
    }
}
