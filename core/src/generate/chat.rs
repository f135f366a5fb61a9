//! A conversation on a terminal, with ms-swift's commands.

use super::{Sampling, respond};
use crate::chat::Encoder;
use crate::model::GptOss;
use anyhow::Result;
use apus_sdk::{Conversation, Message};
use std::io::{BufRead, Write};

const HELP: &str = "exit or quit to leave, clear to forget the conversation, multi-line to write several lines \
                    (end with #), reset-system to change the instructions";

/// What the user typed.
#[derive(Debug, PartialEq)]
enum Line {
    Leave,
    Clear,
    Several,
    ResetSystem,
    Nothing,
    Text(String),
}

fn read(line: &str) -> Line {
    match line.trim() {
        "exit" | "quit" => Line::Leave,
        "clear" => Line::Clear,
        "multi-line" => Line::Several,
        "reset-system" => Line::ResetSystem,
        "" => Line::Nothing,
        text => Line::Text(text.to_owned()),
    }
}

/// Talks until the input ends.
///
/// # Errors
/// Input or output failed, or out of memory.
pub fn chat(
    model: &GptOss,
    encoder: &Encoder,
    sampling: &Sampling,
    (input, output): (&mut dyn BufRead, &mut dyn Write),
    (stream, thinking): (bool, bool),
) -> Result<()> {
    writeln!(output, "{HELP}")?;
    let mut conversation = Conversation::default();
    loop {
        write!(output, "<<< ")?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(writeln!(output)?);
        }
        let text = match read(&line) {
            Line::Leave => return Ok(()),
            Line::Nothing => continue,
            Line::Clear => {
                conversation.messages.retain(|m| m.role == "system");
                continue;
            }
            Line::ResetSystem => {
                write!(output, "instructions: ")?;
                output.flush()?;
                let mut system = String::new();
                input.read_line(&mut system)?;
                conversation.messages.clear();
                if !system.trim().is_empty() {
                    conversation
                        .messages
                        .push(Message::new("system", system.trim()));
                }
                continue;
            }
            Line::Several => several(input)?,
            Line::Text(text) => text,
        };
        conversation.messages.push(Message::new("user", text));
        let mut failed = None;
        let (message, ..) = respond(model, encoder, &conversation, sampling, &mut |text| {
            if stream && thinking && failed.is_none() {
                failed = write!(output, "{text}").and_then(|()| output.flush()).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if stream && thinking {
            writeln!(output)?;
        } else {
            if let Some(thought) = message.thinking.as_ref().filter(|_| thinking) {
                writeln!(output, "({thought})")?;
            }
            writeln!(output, "{}", message.text().unwrap_or_default())?;
        }
        conversation.messages.push(message);
    }
}

/// Lines up to one that ends with `#`.
fn several(input: &mut dyn BufRead) -> Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(text.trim().to_owned());
        }
        match line.trim_end().strip_suffix('#') {
            Some(last) => return Ok((text + last).trim().to_owned()),
            None => text += &line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_text() {
        assert_eq!(read(" quit\n"), Line::Leave);
        assert_eq!(read("\n"), Line::Nothing);
        assert_eq!(
            read("clear the table\n"),
            Line::Text("clear the table".to_owned())
        );
        let mut input: &[u8] = b"one\ntwo#\nthree\n";
        assert_eq!(several(&mut input).unwrap(), "one\ntwo");
        assert_eq!(input, b"three\n");
    }
}
