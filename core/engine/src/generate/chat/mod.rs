//! The conversation of `apus infer` on a terminal, or through a pipe.

mod command;
mod input;
mod piped;
mod typed;

pub(super) use input::Input;
pub(super) use piped::Piped;
pub(super) use typed::Typed;

use super::adapters::BASE;
use super::dataset::fits;
use super::results::{Results, response};
use super::{Answer, Counts, Engine, FinishReason, Job, respond};
use anyhow::Result;
use apus_base::interrupts;
use apus_data::chat::Encoder;
use apus_data::chat::dialect::ViewOptions;
use apus_sdk::{Conversation, Message};
use command::{Command, HELP, KEYS, command};
use input::Asked;
use serde_json::{Map, json};
use std::io::Write;
use std::ops::ControlFlow;

/// A conversation and who answers.
pub(super) struct Session<'a, 'm> {
    /// The engine, with the adapters of these names and no others.
    pub engine: &'a mut Engine<'m>,
    /// Turns the conversation into tokens.
    pub encoder: &'a Encoder,
    /// What becomes of the conversation; itself and the number of the answer are set for each question.
    pub job: Job,
    /// The names of what can answer.
    pub voices: Vec<Voice>,
    /// The most tokens of a question, and the setting that limits it.
    pub most: (usize, &'static str),
    /// Whether an answer is shown while it is generated.
    pub stream: bool,
    /// How an answer is shown.
    pub view_options: ViewOptions,
    /// The file that answers are also written to.
    pub results: Option<Results>,
}

/// Something that can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Voice {
    /// What it is called.
    pub name: String,
    /// The engine's name of it; none for the model as it is loaded.
    pub adapter: Option<String>,
}

/// Answers until the input ends. An answer that fails is reported, and the conversation continues without it.
pub(super) fn chat(
    session: &mut Session,
    input: &mut dyn Input,
    output: &mut dyn Write,
) -> Result<Counts> {
    writeln!(output, "{HELP}")?;
    if input.has_keys() {
        writeln!(output, "{KEYS}")?;
    }
    let mut conversation = Conversation::default();
    let mut counts = Counts::default();
    let (mut several, mut was_interrupted) = (false, false);
    loop {
        let prompt = if several { "<<<[M] " } else { "<<< " };
        let text = match input.ask(output, prompt, several)? {
            Asked::Text(text) => text,
            Asked::End => {
                writeln!(output)?;
                return Ok(counts);
            }
            Asked::Interrupted if was_interrupted => return Ok(counts),
            Asked::Interrupted => {
                writeln!(output, "Ctrl-C once more leaves, and so does /exit")?;
                was_interrupted = true;
                continue;
            }
        };
        was_interrupted = false;
        match command(&text) {
            Command::Leave => return Ok(counts),
            Command::Nothing => {}
            Command::Help => writeln!(output, "{HELP}")?,
            Command::Reset => conversation.messages.retain(|m| m.role == "system"),
            Command::Several(on) => several = on,
            Command::System(Some(text)) => instruct(&mut conversation, &text),
            Command::System(None) => {
                let system = conversation.messages.iter().find(|m| m.role == "system");
                let system = system.and_then(Message::text);
                let system = system.or(session.encoder.options().render.system.as_deref());
                writeln!(output, "instructions so far: {}", system.unwrap_or("none"))?;
                match input.ask(output, "instructions: ", several)? {
                    Asked::Text(text) => instruct(&mut conversation, text.trim()),
                    Asked::End | Asked::Interrupted => {}
                }
            }
            Command::Adapter(name) => session.choose(name.as_deref(), output)?,
            Command::Unknown(name) => writeln!(output, "{}", command::unknown(&name))?,
            Command::Superfluous(name) => {
                writeln!(
                    output,
                    "{name} stands alone; a space before it makes it text"
                )?;
            }
            Command::Text(text) => {
                conversation.messages.push(Message::new("user", text));
                session.answer(&mut conversation, &mut counts, output)?;
            }
        }
    }
}

/// Begins a conversation with these instructions; without any, with those that the run began with.
fn instruct(conversation: &mut Conversation, system: &str) {
    conversation.messages.clear();
    if !system.is_empty() {
        let system = Message::new("system", system);
        conversation.messages.push(system);
    }
}

impl Session<'_, '_> {
    /// Lets the voice of this name answer from now on; without a name, lists them.
    fn choose(&mut self, name: Option<&str>, output: &mut dyn Write) -> Result<()> {
        let Some(name) = name else {
            for voice in &self.voices {
                let mark = if voice.adapter == self.job.adapter {
                    "*"
                } else {
                    " "
                };
                writeln!(output, "{mark} {}", voice.name)?;
            }
            return Ok(());
        };
        match self.voices.iter().find(|voice| voice.name == name) {
            Some(voice) => {
                self.job.adapter.clone_from(&voice.adapter);
                writeln!(output, "{name} answers from now on")?;
            }
            None => {
                let names: Vec<&str> = self
                    .voices
                    .iter()
                    .map(|voice| voice.name.as_str())
                    .collect();
                let meant = apus_components::similar::did_you_mean(name, &names);
                writeln!(output, "no adapter is called {name}{meant}")?;
                writeln!(output, "{}", self.who(&names))?;
            }
        }
        Ok(())
    }

    /// A line that says who can answer.
    fn who(&self, names: &[&str]) -> String {
        let has_base = names.contains(&BASE);
        let alone = match has_base {
            true => "",
            false => "; it answers alone, and the base without it needs a run of its own",
        };
        format!("there is {}{alone}", names.join(", "))
    }

    /// Answers the last question of a conversation, which then has the answer. Ctrl-C stops the answer; what was said so far
    /// stays.
    fn answer(
        &mut self,
        conversation: &mut Conversation,
        counts: &mut Counts,
        output: &mut dyn Write,
    ) -> Result<()> {
        let answer = self.generate(conversation, output)?;
        let number = self.job.number;
        self.job.number = number + 1;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                writeln!(output, "error: {error:#}")?;
                conversation.messages.pop();
                return Ok(());
            }
        };
        counts.add(&answer.counts);
        let (response, reason) = (response(&answer), answer.reason);
        conversation.messages.push(answer.message);
        if let Some(results) = &mut self.results {
            results.write([Map::from_iter([
                ("response".to_owned(), response),
                ("messages".to_owned(), json!(conversation.messages)),
            ])])?;
        }
        match reason {
            FinishReason::Length => {
                let most = self.job.sampling.max_new_tokens;
                writeln!(
                    output,
                    "note: the answer was cut off at --max_new_tokens {most}"
                )?;
            }
            FinishReason::Cancelled => {
                writeln!(
                    output,
                    "note: stopped; what was said so far stays in the conversation"
                )?;
            }
            FinishReason::StopToken(_) | FinishReason::StopString(_) => {}
        }
        if let Err(error) = keep(conversation, self.encoder) {
            writeln!(
                output,
                "note: the conversation goes on without this question and its answer: {error:#}"
            )?;
        }
        Ok(())
    }

    /// Generates and shows an answer.
    ///
    /// # Errors
    /// The output cannot be written. Why there is no answer is the inner error.
    fn generate(
        &mut self,
        conversation: &Conversation,
        output: &mut dyn Write,
    ) -> Result<Result<Answer>> {
        let mut view = self.encoder.dialect().view(self.view_options);
        let mut failed = None;
        let mut show = |text: String| {
            if failed.is_none() {
                failed = write!(output, "{text}").and_then(|()| output.flush()).err();
            }
            failed.is_none()
        };
        let mut whole = String::new();
        interrupts::take();
        let answer = fits(conversation, self.encoder, self.most).and_then(|_| {
            let job = Job {
                conversation: conversation.clone(),
                ..self.job.clone()
            };
            respond(self.engine, self.encoder, job, &mut |text| {
                let is_heard = match self.stream {
                    true => show(view.next(text)),
                    false => {
                        whole.push_str(text);
                        true
                    }
                };
                match is_heard && !interrupts::take() {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })
        });
        if !self.stream {
            show(view.next(&whole));
        }
        show(view.end() + "\n");
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(answer),
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
}
