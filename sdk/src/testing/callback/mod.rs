//! Callbacks: the events of a run in the trainer's order.

mod player;

use crate::{Callback, Question, Request, Result};
use player::Player;
use serde_json::{Map, Value};

/// A run for a callback: one epoch of two micro-batches a step, which logs every step.
///
/// The training loss is 1 / step. An evaluation that a callback asks for where
/// [`eval_losses`](Self::eval_losses) has none gives the last of them, or the training loss.
pub struct Run {
    steps: u64,
    eval_losses: Vec<f64>,
    answer: Box<dyn Fn(&str) -> String>,
    respond: Option<Box<Respond>>,
}

/// Answers a question: the answer of this number.
type Respond = dyn Fn(&Question, usize) -> String;

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Played {
    /// Steps made.
    pub steps: u64,
    /// Steps after which the callback asked for a checkpoint.
    pub saves: Vec<u64>,
    /// Steps after which the callback asked for an evaluation.
    pub evaluations: Vec<u64>,
    /// All lines of the log, with what the callback added: one for each step, and one for each
    /// evaluation.
    pub logs: Vec<Map<String, Value>>,
    /// Factors on the learning rate that the callback asked for, with the step after which it did.
    pub lr_factors: Vec<(u64, f64)>,
    /// Answers: step, prompt, answer.
    pub answers: Vec<(u64, String, String)>,
    /// What the callback asked for by the methods of [`Control`](crate::Control), its questions among them, with the step after
    /// which it did.
    pub requests: Vec<(u64, Request)>,
}

impl Run {
    /// A run of so many steps, without evaluations, in which a prompt is its own answer.
    pub fn new(steps: u64) -> Self {
        Self {
            steps,
            eval_losses: Vec::new(),
            answer: Box::new(str::to_owned),
            respond: None,
        }
    }

    /// Evaluates and saves after each of the first steps, with these losses; less is better.
    #[must_use]
    pub fn eval_losses(self, losses: &[f64]) -> Self {
        let eval_losses = losses.to_vec();
        Self {
            eval_losses,
            ..self
        }
    }

    /// Answers the prompts that the callback asks for.
    #[must_use]
    pub fn answer(self, answer: impl Fn(&str) -> String + 'static) -> Self {
        let answer = Box::new(answer);
        Self { answer, ..self }
    }

    /// Answers the questions of [`Control::ask`](crate::Control::ask): the answer of a number, from 0. Without it
    /// [`answer`](Self::answer) answers their last message.
    #[must_use]
    pub fn respond(self, respond: impl Fn(&Question, usize) -> String + 'static) -> Self {
        let respond: Option<Box<Respond>> = Some(Box::new(respond));
        Self { respond, ..self }
    }

    /// Sends the events of the run. It ends early if the callback asks for that.
    ///
    /// # Errors
    /// Those of the callback, with the event; a request that the host would refuse.
    pub fn play(&mut self, callback: &mut dyn Callback) -> Result<Played> {
        Player::new(self, callback).play()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Control, RunState};
    use std::path::Path;

    /// Records the names of events.
    #[derive(Default)]
    struct Notes(Vec<String>);

    macro_rules! notes {
        ($($event:ident($($about:ident: $type:ty),*);)*) => {
            impl Callback for Notes {
                $(fn $event(
                    &mut self,
                    $($about: $type,)*
                    state: &RunState,
                    _control: &mut Control,
                ) -> Result<()> {
                    $(let _ = $about;)*
                    let event = stringify!($event).trim_start_matches("on_");
                    self.0.push(format!("{event} {}", state.global_step));
                    Ok(())
                })*
            }
        };
    }
    notes! {
        on_init_end();
        on_train_begin();
        on_train_end();
        on_epoch_begin();
        on_epoch_end();
        on_step_begin();
        on_substep_end();
        on_pre_optimizer_step();
        on_optimizer_step();
        on_step_end();
        on_prediction_step();
        on_evaluate(metrics: &Map<String, Value>);
        on_save(checkpoint: &Path);
        on_log(values: &mut Map<String, Value>);
        on_generate(prompt: &str, answer: &str);
    }

    #[test]
    fn events_come_in_the_order_of_the_trainer() {
        let mut notes = Notes::default();
        let played = Run::new(2).eval_losses(&[0.5]).play(&mut notes).unwrap();
        let expected = "init_end 0, train_begin 0, epoch_begin 0, step_begin 0, substep_end 0, \
            pre_optimizer_step 0, optimizer_step 0, step_end 1, log 1, prediction_step 1, \
            evaluate 1, log 1, save 1, step_begin 1, substep_end 1, pre_optimizer_step 1, \
            optimizer_step 1, step_end 2, epoch_end 2, log 2, train_end 2";
        assert_eq!(notes.0.join(", "), expected);
        assert_eq!((played.steps, played.logs.len()), (2, 3));
        assert_eq!(played.logs[1]["eval_loss"], 0.5);
        assert!(played.saves.is_empty() && played.evaluations.is_empty());
    }

    /// Asks for everything after its second step, and stops once the model got worse.
    #[derive(Default)]
    struct Asks {
        best: Vec<Option<f64>>,
        heard: Vec<String>,
    }
    impl Callback for Asks {
        fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
            if state.global_step == 2 {
                control.should_save = true;
                control.should_evaluate = true;
                control.lr_factor = Some(0.5);
                control.generate.push("Who?".to_owned());
                control.metrics.insert("mine".to_owned(), 7.into());
            }
            Ok(())
        }
        fn on_evaluate(
            &mut self,
            metrics: &Map<String, Value>,
            state: &RunState,
            control: &mut Control,
        ) -> Result<()> {
            self.best.push(state.best_metric);
            control.should_training_stop = metrics["eval_loss"].as_f64() > state.best_metric;
            Ok(())
        }
        fn on_generate(
            &mut self,
            _prompt: &str,
            answer: &str,
            _state: &RunState,
            _control: &mut Control,
        ) -> Result<()> {
            self.heard.push(answer.to_owned());
            Ok(())
        }
    }

    #[test]
    fn requests_are_gathered_and_obeyed() {
        let mut asks = Asks::default();
        let mut run = Run::new(9).eval_losses(&[3.0, 1.0, 2.0, 0.0]);
        run = run.answer(|prompt| format!("{prompt} Me."));
        let played = run.play(&mut asks).unwrap();
        assert_eq!(asks.best, [Some(3.0), Some(1.0), Some(1.0)]);
        assert_eq!(
            (played.steps, &*played.saves, &*played.evaluations),
            (3, &[2][..], &[2][..])
        );
        assert_eq!(played.lr_factors, [(2, 0.5)]);
        assert_eq!(
            played.answers,
            [(2, "Who?".to_owned(), "Who? Me.".to_owned())]
        );
        assert_eq!(asks.heard, ["Who? Me."]);
        assert_eq!(played.logs[2]["mine"], 7);
        assert_eq!(played.logs[4]["learning_rate"], 0.5e-4);
        assert_eq!(run.play(&mut Asks::default()).unwrap(), played);
    }

    /// Asks twice for two answers to a question, and rates what it gets.
    #[derive(Default)]
    struct Rates(Vec<(u64, String)>);
    impl Callback for Rates {
        fn on_evaluate(
            &mut self,
            _metrics: &Map<String, Value>,
            _state: &RunState,
            control: &mut Control,
        ) -> Result<()> {
            control.ask(Question::new("rate").user("How?").answers(2));
            control.freeze("layers.0");
            Ok(())
        }
        fn on_answers(
            &mut self,
            answers: &[Answer],
            state: &RunState,
            control: &mut Control,
        ) -> Result<()> {
            for answer in answers {
                let said = format!("{} {}: {}", answer.id(), answer.index(), answer.text());
                self.0.push((state.global_step, said));
            }
            control
                .metrics
                .insert("rated".to_owned(), answers.len().into());
            Ok(())
        }
    }

    #[test]
    fn questions_are_answered_in_their_step() {
        let mut rates = Rates::default();
        let mut run = Run::new(2).eval_losses(&[1.0]);
        let played = run.play(&mut rates).unwrap();
        let said = |index| (1, format!("rate {index}: How?"));
        assert_eq!(rates.0, [said(0), said(1)]);
        assert_eq!(played.logs[2]["rated"], 2);
        let requests: Vec<&Request> = played.requests.iter().map(|(_, asked)| asked).collect();
        assert!(
            matches!(requests[..], [Request::Ask(_), Request::Freeze(layer)] if layer == "layers.0"),
            "{requests:?}"
        );
        run = run.respond(|question, index| format!("{}{index}", question.id()));
        let mut rates = Rates::default();
        run.play(&mut rates).unwrap();
        assert_eq!(rates.0[1].1, "rate 1: rate1");
    }

    struct Wild;
    impl Callback for Wild {
        fn on_step_end(&mut self, _state: &RunState, control: &mut Control) -> Result<()> {
            control.lr_factor = Some(f64::NAN);
            Ok(())
        }
    }

    #[test]
    fn requests_that_make_no_sense_are_errors() {
        let error = Run::new(1).play(&mut Wild).unwrap_err().to_string();
        assert!(
            error.starts_with("on_step_end: asked for a learning-rate factor of NaN"),
            "{error}"
        );
    }
}
