//! Questions from a pipe or a file, or from a terminal that cannot move its cursor.

use super::command::{Command, command};
use super::input::{Asked, Input};
use anyhow::Result;
use std::io::{BufRead, Write};

/// Reads lines as they are.
pub struct Piped<'a>(pub &'a mut dyn BufRead);

impl Input for Piped<'_> {
    fn ask(&mut self, output: &mut dyn Write, prompt: &str, several: bool) -> Result<Asked> {
        write!(output, "{prompt}")?;
        output.flush()?;
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            if self.0.read_until(b'\n', &mut line)? == 0 {
                return Ok(match text.is_empty() {
                    true => Asked::End,
                    false => Asked::Text(text),
                });
            }
            let line = String::from_utf8_lossy(&line);
            if !several || text.is_empty() && !matches!(command(&line), Command::Text(_)) {
                return Ok(Asked::Text(line.into_owned()));
            }
            match line.trim_end().strip_suffix('#') {
                Some(last) => return Ok(Asked::Text(text + last)),
                None => text += &line,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_several() {
        let mut input: &[u8] = b"one\\\ntwo\n three#\nsingle-line\n\xe5\x96";
        let mut piped = Piped(&mut input);
        let mut next = |several| piped.ask(&mut Vec::new(), "", several).unwrap();
        let text = |text: &str| Asked::Text(text.to_owned());
        assert_eq!(next(false), text("one\\\n"));
        assert_eq!(next(true), text("two\n three"));
        assert_eq!(next(true), text("single-line\n"));
        assert_eq!(next(false), text("\u{fffd}"));
        assert_eq!(next(false), Asked::End);
    }
}
