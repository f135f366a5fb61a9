//! The conversation of `apus infer` on a terminal, with the commands that ms-swift has there.

use super::dataset::fits;
use super::results::{Results, response};
use super::{Counts, Engine, Job, Sampling, respond};
use anyhow::Result;
use apus_data::chat::Encoder;
use apus_data::chat::dialect::ViewOptions;
use apus_sdk::{Conversation, Message};
use serde_json::{Map, json};
use std::io::{BufRead, Write};

const HELP: &str = "\
exit or quit to leave, clear to forget the conversation, reset-system to change the instructions,
multi-line for input of several lines, each ended by #, and single-line to go back";

/// A line of the user: a command, or text.
#[derive(Debug, PartialEq)]
enum Input {
    Leave,
    Clear,
    Several(bool),
    ResetSystem,
    Nothing,
    Text(String),
}

fn command(text: &str) -> Input {
    match text.trim() {
        "exit" | "quit" => Input::Leave,
        "clear" => Input::Clear,
        "multi-line" => Input::Several(true),
        "single-line" => Input::Several(false),
        "reset-system" => Input::ResetSystem,
        "" => Input::Nothing,
        text => Input::Text(text.to_owned()),
    }
}

/// The options of a conversation.
pub(super) struct SessionOptions {
    /// The most tokens of a question, and the setting that limits it.
    pub most: (usize, &'static str),
    /// Whether an answer is shown while it is generated.
    pub stream: bool,
    /// How an answer is shown.
    pub view_options: ViewOptions,
    /// The file that answers are also written to.
    pub results: Option<Results>,
}

/// Answers until the input ends. An answer that fails is reported, and the conversation continues without it.
pub(super) fn chat(
    engine: &mut Engine,
    encoder: &Encoder,
    sampling: &Sampling,
    (input, output): (&mut dyn BufRead, &mut dyn Write),
    options: &mut SessionOptions,
) -> Result<Counts> {
    writeln!(output, "{HELP}")?;
    let mut conversation = Conversation::default();
    let mut counts = Counts::default();
    let mut several = false;
    let mut number = 0;
    loop {
        let Some(text) = ask(
            input,
            output,
            if several { "<<<[M] " } else { "<<< " },
            several,
        )?
        else {
            writeln!(output)?;
            return Ok(counts);
        };
        let text = match command(&text) {
            Input::Leave => return Ok(counts),
            Input::Nothing => continue,
            Input::Clear => {
                conversation.messages.retain(|m| m.role == "system");
                continue;
            }
            Input::Several(on) => {
                several = on;
                continue;
            }
            Input::ResetSystem => {
                let system = ask(input, output, "instructions: ", several)?.unwrap_or_default();
                conversation.messages.clear();
                if !system.trim().is_empty() {
                    let system = Message::new("system", system.trim());
                    conversation.messages.push(system);
                }
                continue;
            }
            Input::Text(text) => text,
        };
        conversation.messages.push(Message::new("user", text));
        let mut view = encoder.dialect().view(options.view_options);
        let mut failed = None;
        let mut show = |text: String| {
            if failed.is_none() {
                failed = write!(output, "{text}").and_then(|()| output.flush()).err();
            }
        };
        let mut whole = String::new();
        let answer = fits(&conversation, encoder, options.most).and_then(|()| {
            let job = Job::new(conversation.clone(), sampling.clone(), number);
            respond(engine, encoder, job, &mut |text| match options.stream {
                true => show(view.next(text)),
                false => whole.push_str(text),
            })
        });
        number += 1;
        if !options.stream {
            show(view.next(&whole));
        }
        show(view.end() + "\n");
        if let Some(error) = failed {
            return Err(error.into());
        }
        match answer {
            Ok(answer) => {
                counts.add(&answer.counts);
                let (response, is_cut_off) = (response(&answer), answer.is_cut_off());
                conversation.messages.push(answer.message);
                if let Some(results) = &mut options.results {
                    results.write(Map::from_iter([
                        ("response".to_owned(), response),
                        ("messages".to_owned(), json!(conversation.messages)),
                    ]))?;
                }
                if is_cut_off {
                    let most = sampling.max_new_tokens;
                    writeln!(
                        output,
                        "note: the answer was cut off at --max_new_tokens {most}"
                    )?;
                }
                if let Err(error) = keep(&mut conversation, encoder) {
                    writeln!(
                        output,
                        "note: the conversation goes on without this question and its answer: {error:#}"
                    )?;
                }
            }
            Err(error) => {
                writeln!(output, "error: {error:#}")?;
                conversation.messages.pop();
            }
        }
    }
}

/// Keeps the last answer in the conversation if the next prompt can contain it. Otherwise the answer and its question are
/// removed: a model may write anything, and the conversation must be able to continue.
///
/// # Errors
/// The reason why no prompt can contain the answer.
fn keep(conversation: &mut Conversation, encoder: &Encoder) -> Result<()> {
    encoder.prompt(conversation).map(drop).inspect_err(|_| {
        let question = conversation.messages.len().saturating_sub(2);
        conversation.messages.truncate(question);
    })
}

/// Reads a line, or several lines up to one that ends with `#`; `None` at the end of the input.
fn ask(
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    prompt: &str,
    several: bool,
) -> Result<Option<String>> {
    write!(output, "{prompt}")?;
    output.flush()?;
    let mut text = String::new();
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok((!text.is_empty()).then_some(text));
        }
        let line = String::from_utf8_lossy(&line);
        if !several || text.is_empty() && !matches!(command(&line), Input::Text(_)) {
            return Ok(Some(line.into_owned()));
        }
        match line.trim_end().strip_suffix('#') {
            Some(last) => return Ok(Some(text + last)),
            None => text += &line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_data::chat::dialect::Dialect;
    use apus_data::chat::dialect::harmony::{Harmony, marked};
    use apus_data::chat::{Chain, ChatTemplate, EncodeOptions, Tokenizer};
    use std::path::Path;
    use std::sync::Arc;

    /// A template with the places that the one of gpt-oss has.
    const TEMPLATE: &str = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|start|>assistant{% endif %}";

    fn encoders() -> [Encoder; 3] {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/model_bf16");
        let tokenizer = Arc::new(Tokenizer::load(&tiny).unwrap());
        let jinja =
            ChatTemplate::jinja(&Harmony, TEMPLATE.to_owned(), "t", &serde_json::Value::Null);
        [Harmony::native(), Harmony::openai(), jinja.unwrap()].map(|template| {
            let options = EncodeOptions::default();
            Encoder::new(Arc::clone(&tokenizer), template, Chain::default(), options).unwrap()
        })
    }

    /// The next prompt after a question, what the model wrote, and another question; whether the answer was kept.
    fn next_prompt(encoder: &Encoder, written: &str) -> (String, bool) {
        let mut conversation = Conversation::default();
        conversation.messages.push(Message::new("user", "one?"));
        let answer = Harmony.answer(&marked(written));
        conversation.messages.push(answer);
        let kept = keep(&mut conversation, encoder).is_ok();
        conversation.messages.push(Message::new("user", "two?"));
        (encoder.prompt(&conversation).unwrap().0, kept)
    }

    #[test]
    fn an_answer_that_was_cut_off_inside_its_reasoning_is_kept_as_reasoning() {
        for encoder in encoders() {
            let (prompt, kept) = next_prompt(&encoder, "<|channel|>analysis<|message|>hm");
            assert!(kept);
            let reasoning = "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>";
            let reasoning = match encoder.template().is_built_in() {
                true => reasoning,
                false => "",
            };
            let expected = format!(
                "<|start|>user<|message|>one?<|end|>{reasoning}<|start|>user<|message|>two?<|end|><|start|>assistant"
            );
            assert!(prompt.ends_with(&expected), "{prompt}");
        }
    }

    #[test]
    fn whatever_a_model_writes_the_next_question_can_be_asked() {
        for encoder in encoders() {
            for (written, kept) in [
                ("<|channel|>final<|message|>yes<|return|>", true),
                ("<|channel|>final<|message|>ye", true),
                ("yes", true),
                ("", false),
                ("<|channel|>fin", false),
                ("<|return|>", false),
                (
                    " to=f<<|channel|>commentary json<|message|>{}<|call|>",
                    false,
                ),
            ] {
                let (prompt, found) = next_prompt(&encoder, written);
                assert_eq!(found, kept, "{written}");
                assert_eq!(prompt.contains("one?"), kept, "{written}");
            }
        }
    }

    #[test]
    fn commands_and_text() {
        assert_eq!(command(" quit\n"), Input::Leave);
        assert_eq!(command("\n"), Input::Nothing);
        let text = Input::Text("clear the table".to_owned());
        assert_eq!(command("clear the table\n"), text);
    }

    #[test]
    fn one_line_and_several() {
        let mut input: &[u8] = b"one\ntwo\n three#\nsingle-line\n\xe5\x96";
        let mut next = |several| ask(&mut input, &mut Vec::new(), "", several).unwrap();
        assert_eq!(next(false).as_deref(), Some("one\n"));
        assert_eq!(next(true).as_deref(), Some("two\n three"));
        assert_eq!(next(true).as_deref(), Some("single-line\n"));
        assert_eq!(next(false).as_deref(), Some("\u{fffd}"));
        assert_eq!(next(false), None);
    }
}
