//! Looking at the model on the way: evaluations and answers.

use super::super::evaluate::{Evaluation, evaluate};
use super::Trainer;
use anyhow::Result;
use serde_json::{Map, Value, json};

/// The model before or after training, for the comparison at the end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// Answers to the sample prompts.
    pub answers: Vec<String>,
    /// Loss on the validation set; only where there are prompts as well.
    pub eval_loss: Option<f64>,
}

impl Trainer<'_> {
    /// Answers the sample prompts and evaluates.
    pub(super) fn look(&mut self) -> Result<Look> {
        if self.settings.sample_prompts.is_empty() {
            return Ok(Look::default());
        }
        Ok(Look {
            answers: self.answer_samples()?,
            eval_loss: match self.val.is_empty() {
                true => None,
                false => self.eval_loss()?,
            },
        })
    }

    /// The loss on the validation set, from the log if these weights were evaluated there.
    fn eval_loss(&mut self) -> Result<Option<f64>> {
        let loss = |values: &Map<String, Value>| values.get("eval_loss").and_then(Value::as_f64);
        if let Some((step, values)) = &self.evaluation
            && *step == self.weights_step()
        {
            return Ok(loss(values));
        }
        let on = self.evaluation_set();
        let values = evaluate(self.model, &self.loss, &mut [], &on, || Ok(()))?;
        Ok(loss(&values))
    }

    /// Evaluates the weights of this step and logs what comes of it. Whether they are the best so far, as far as
    /// that is known before callbacks have reported their numbers.
    pub(super) fn evaluate(&mut self) -> Result<bool> {
        let on = self.evaluation_set();
        let (events, state) = (&mut self.events, &self.state);
        let mut values = evaluate(self.model, &self.loss, &mut self.metrics, &on, || {
            events.on_prediction_step(state)
        })?;
        let better = self.best.evaluated(&values, &mut self.state);
        self.note_best();
        values.insert("epoch".to_owned(), json!(self.state.epoch));
        self.add_progress(&mut values);
        self.evaluation = Some((self.state.global_step, values.clone()));
        self.events.on_evaluate(&values, &self.state)?;
        self.report(values)?;
        Ok(better)
    }

    /// Answers the sample prompts and shows them to the trackers, under the step of the weights that answer.
    pub(super) fn answer_samples(&self) -> Result<Vec<String>> {
        let step = self.weights_step();
        let prompts = &self.settings.sample_prompts;
        let answers = prompts.iter().map(|prompt| {
            let answer = self.files.answer(self.model, prompt)?;
            self.trackers.text(step, prompt, &answer);
            Ok(answer)
        });
        answers.collect()
    }

    /// Answers what callbacks have asked for. What they ask for when they hear the answers is theirs to ask.
    pub(super) fn answer_callbacks(&mut self) -> Result<()> {
        let step = self.weights_step();
        for prompt in self.events.take_prompts() {
            let answer = self.files.answer(self.model, &prompt)?;
            self.trackers.text(step, &prompt, &answer);
            self.events.on_generate(&prompt, &answer, &self.state)?;
        }
        Ok(())
    }
}

impl<'a> Trainer<'a> {
    fn evaluation_set(&self) -> Evaluation<'a> {
        Evaluation {
            examples: self.val,
            batch_size: self.settings.per_device_eval_batch_size,
            aux_coef: self.settings.router_aux_loss_coef,
            decoder: self.files,
        }
    }
}
