//! What a line of a conversation says: a command, or text for the model.
//!
//! Commands begin with `/`; the words that ms-swift has are understood as well. A text that looks like a command and is none is
//! not sent, since it may be one that was mistyped; with a space before it, it is text.

use apus_components::similar::did_you_mean;

/// What the terminal says at the beginning, and at `/help`.
pub const HELP: &str = "\
/reset       forget the conversation (clear)
/system TEXT other instructions, and forget the conversation; without TEXT they are asked for (reset-system)
/adapter     list what can answer; /adapter NAME lets that one answer from now on
/multi-line  input of several lines, ended by #; /single-line to go back (multi-line, single-line)
/help        this
/exit        leave (exit, quit)";

/// What a line editor offers besides, for the terminal.
pub const KEYS: &str = "\
A line that ends with \\ goes on in the next one; text that is pasted may have lines. Ctrl-C stops an answer.";

/// The commands with `/`, for completion.
pub const NAMES: [&str; 9] = [
    "/adapter",
    "/clear",
    "/exit",
    "/help",
    "/multi-line",
    "/quit",
    "/reset",
    "/single-line",
    "/system",
];

/// A line of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The conversation ends.
    Leave,
    /// What was said is forgotten.
    Reset,
    /// These are the instructions from now on; without a text they are asked for.
    System(Option<String>),
    /// This adapter answers from now on; without a name they are listed.
    Adapter(Option<String>),
    /// Input has several lines, or one.
    Several(bool),
    /// The commands are shown.
    Help,
    /// No command has this name.
    Unknown(String),
    /// A command that takes nothing was given something.
    Superfluous(String),
    /// The line is empty.
    Nothing,
    /// Text for the model.
    Text(String),
}

/// Reads a line, or several.
pub fn command(text: &str) -> Command {
    let trimmed = text.trim();
    let word = match trimmed.to_lowercase().as_str() {
        "" => return Command::Nothing,
        "exit" | "quit" => Some(Command::Leave),
        "clear" => Some(Command::Reset),
        "multi-line" => Some(Command::Several(true)),
        "single-line" => Some(Command::Several(false)),
        "reset-system" => Some(Command::System(None)),
        _ => None,
    };
    match word.or_else(|| slash(text)) {
        Some(command) => command,
        None => Command::Text(trimmed.to_owned()),
    }
}

/// Reads a line that begins with `/`.
fn slash(text: &str) -> Option<Command> {
    let (name, rest) = match text.find(char::is_whitespace) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let word = name.strip_prefix('/')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // `/usr/bin` is text, and so is anything of several lines but instructions.
    if word.is_empty() || !word.chars().all(is_name) {
        return None;
    }
    let rest = rest.trim();
    let given = (!rest.is_empty()).then(|| rest.to_owned());
    if text.trim().contains('\n') && name != "/system" {
        return None;
    }
    let alone = |command| match rest.is_empty() {
        true => command,
        false => Command::Superfluous(name.to_owned()),
    };
    Some(match word {
        "exit" | "quit" => alone(Command::Leave),
        "reset" | "clear" => alone(Command::Reset),
        "system" => Command::System(given),
        "adapter" => Command::Adapter(given),
        "multi-line" => alone(Command::Several(true)),
        "single-line" => alone(Command::Several(false)),
        "help" => alone(Command::Help),
        _ => Command::Unknown(name.to_owned()),
    })
}

/// What is said of a name that is no command.
pub fn unknown(name: &str) -> String {
    let meant = did_you_mean(name, &NAMES);
    format!(
        "{name} is no command and was not sent{meant}\n/help lists the commands; a space before it makes it text"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Command {
        Command::Text(text.to_owned())
    }

    #[test]
    fn words_of_ms_swift_and_commands_with_a_slash() {
        for (line, expected) in [
            (" quit\n", Command::Leave),
            ("EXIT", Command::Leave),
            ("/exit", Command::Leave),
            ("\n", Command::Nothing),
            ("clear", Command::Reset),
            ("/reset \n", Command::Reset),
            ("/reset now", Command::Superfluous("/reset".to_owned())),
            ("reset-system", Command::System(None)),
            ("/system", Command::System(None)),
            (
                "/system Be\nkind. ",
                Command::System(Some("Be\nkind.".to_owned())),
            ),
            ("/adapter", Command::Adapter(None)),
            ("/adapter a b\n", Command::Adapter(Some("a b".to_owned()))),
            ("multi-line", Command::Several(true)),
            ("/single-line", Command::Several(false)),
            ("/rest", Command::Unknown("/rest".to_owned())),
            ("/rest of it", Command::Unknown("/rest".to_owned())),
            (" /rest", text("/rest")),
            ("/", text("/")),
            ("/usr/bin is what?", text("/usr/bin is what?")),
            ("/reset\nis a command", text("/reset\nis a command")),
            ("clear the table\n", text("clear the table")),
        ] {
            assert_eq!(command(line), expected, "{line:?}");
        }
    }

    #[test]
    fn every_command_is_known_and_in_the_help() {
        for name in NAMES {
            assert!(
                !matches!(command(name), Command::Unknown(_) | Command::Text(_)),
                "{name}"
            );
            let known = ["/clear", "/quit"].contains(&name) || HELP.contains(name);
            assert!(known, "{name}");
        }
        assert!(unknown("/rest").contains("did you mean /reset?"));
        assert!(!unknown("/xxxxxxxx").contains("mean"));
    }
}
