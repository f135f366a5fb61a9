//! A run under way: the trainer's loop, without a model.

use super::{Played, Run};
use crate::{Answer, Callback, Control, Error, Question, Request, Result, RunState, needs};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The learning rate of a run for a callback, before a factor.
const LEARNING_RATE: f64 = 1e-4;

/// How often a callback may ask for answers to answers before the next step has its turn.
const ROUNDS: usize = 100;

/// A run under way.
pub struct Player<'a> {
    run: &'a Run,
    callback: &'a mut dyn Callback,
    state: RunState,
    control: Control,
    lr_factor: Option<f64>,
    played: Played,
    /// Questions without an answer yet.
    asked: Vec<Question>,
}

/// Sends an event: its name, and what it is about.
macro_rules! send {
    ($player:ident.$event:ident($($about:expr),*)) => {{
        let event = stringify!($event);
        let result = $player.callback.$event($($about,)* &$player.state, &mut $player.control);
        needs::checked(result)
            .and_then(|()| $player.control.check())
            .map_err(|error| Error::new(format!("{event}: {error}")))?;
        $player.take_requests();
    }};
}

impl<'a> Player<'a> {
    /// A run that has not begun.
    pub fn new(run: &'a Run, callback: &'a mut dyn Callback) -> Self {
        let state = RunState {
            max_steps: run.steps,
            num_train_epochs: 1.0,
            metric_for_best_model: "eval_loss".to_owned(),
            output_dir: PathBuf::from("output"),
            ..RunState::default()
        };
        Self {
            run,
            callback,
            state,
            control: Control::default(),
            lr_factor: None,
            played: Played::default(),
            asked: Vec::new(),
        }
    }

    /// Sends all events.
    pub fn play(mut self) -> Result<Played> {
        send!(self.on_init_end());
        send!(self.on_train_begin());
        while self.state.global_step < self.run.steps && !self.control.should_training_stop {
            if self.state.global_step == 0 {
                send!(self.on_epoch_begin());
            }
            self.step()?;
            if self.state.global_step == self.run.steps {
                send!(self.on_epoch_end());
            }
            self.what_is_due()?;
        }
        self.played.steps = self.state.global_step;
        send!(self.on_train_end());
        Ok(self.played)
    }

    fn take_requests(&mut self) {
        for request in std::mem::take(&mut self.control.requests) {
            if let Request::Ask(question) = &request {
                self.asked.push((**question).clone());
            }
            self.played.requests.push((self.state.global_step, request));
        }
    }

    fn step(&mut self) -> Result<()> {
        send!(self.on_step_begin());
        send!(self.on_substep_end());
        send!(self.on_pre_optimizer_step());
        send!(self.on_optimizer_step());
        self.state.global_step += 1;
        self.state.epoch = self.state.global_step as f64 / self.run.steps as f64;
        self.state.learning_rate = LEARNING_RATE * self.lr_factor.unwrap_or(1.0);
        self.state.loss = Some(1.0 / self.state.global_step as f64);
        self.state.grad_norm = Some(1.0);
        send!(self.on_step_end());
        Ok(())
    }

    /// Logs, evaluates, answers and saves, as the trainer does after a step: each once, whichever event asks for it.
    fn what_is_due(&mut self) -> Result<()> {
        let step = self.state.global_step;
        self.log(Map::from_iter([
            ("loss".to_owned(), json!(self.state.loss)),
            ("grad_norm".to_owned(), json!(self.state.grad_norm)),
            ("learning_rate".to_owned(), json!(self.state.learning_rate)),
        ]))?;
        let due = step <= self.run.eval_losses.len() as u64;
        let (mut evaluate, mut save) = (due, due);
        let (mut evaluated, mut saved, mut rounds) = (false, false, 0);
        loop {
            self.control.should_log = false;
            if std::mem::take(&mut self.control.should_evaluate) && !evaluated {
                self.played.evaluations.push(step);
                evaluate = true;
            }
            if std::mem::take(&mut self.control.should_save) && !saved {
                self.played.saves.push(step);
                save = true;
            }
            if evaluate && !evaluated {
                evaluated = true;
                self.evaluate()?;
            } else if !(self.control.generate.is_empty() && self.asked.is_empty())
                && rounds < ROUNDS
            {
                rounds += 1;
                self.answer()?;
            } else if save && !saved {
                saved = true;
                let path = self.checkpoint();
                send!(self.on_save(&path));
            } else {
                break;
            }
        }
        if let Some(factor) = self.control.lr_factor
            && self.lr_factor != Some(factor)
        {
            self.lr_factor = Some(factor);
            self.played.lr_factors.push((step, factor));
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<()> {
        for prompt in std::mem::take(&mut self.control.generate) {
            let answer = (self.run.answer)(&prompt);
            send!(self.on_generate(&prompt, &answer));
            let step = self.state.global_step;
            self.played.answers.push((step, prompt, answer));
        }
        let mut answers = Vec::new();
        for question in std::mem::take(&mut self.asked) {
            for index in 0..question.count() {
                let text = match (&self.run.respond, question.asked().messages.last()) {
                    (Some(respond), _) => respond(&question, index),
                    (None, last) => {
                        let text = last.and_then(|message| message.text());
                        (self.run.answer)(text.unwrap_or_default())
                    }
                };
                answers.push(Answer::new(question.id(), index, text));
            }
        }
        if !answers.is_empty() {
            send!(self.on_answers(&answers));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<()> {
        send!(self.on_prediction_step());
        let losses = &self.run.eval_losses;
        let given = losses
            .get(self.state.global_step as usize - 1)
            .or(losses.last());
        let loss = given.copied().or(self.state.loss).unwrap_or_default();
        if self.state.best_metric.is_none_or(|best| loss < best) {
            self.state.best_metric = Some(loss);
            self.state.best_model_checkpoint = Some(self.checkpoint());
        }
        let values = Map::from_iter([("eval_loss".to_owned(), json!(loss))]);
        send!(self.on_evaluate(&values));
        self.log(values)
    }

    fn log(&mut self, mut values: Map<String, Value>) -> Result<()> {
        values.insert("epoch".to_owned(), json!(self.state.epoch));
        values.append(&mut self.control.metrics);
        send!(self.on_log(&mut values));
        self.state.log_history.push(values.clone());
        self.played.logs.push(values);
        Ok(())
    }

    fn checkpoint(&self) -> PathBuf {
        let step = self.state.global_step;
        self.state.output_dir.join(format!("checkpoint-{step}"))
    }
}
