//! A callback that makes the requests of SDK 1.1 that its options name, and one that does not say so beforehand.

use apus_sdk::serde_json::json;
use apus_sdk::{Answer, Callback, Control, Need, Question, Result, Run, RunState, Tensor};
use std::path::Path;

apus_sdk::options! {
    struct Requests {
        /// The step after which it asks, or before which it freezes.
        step: u64 = 0,
        /// Asks this, twice with the adapters and once without.
        question: Option<String> = None,
        /// Freezes parameters of these names before the first step.
        freeze: Option<String> = None,
        /// Freezes parameters of these names after the step.
        freeze_later: Option<String> = None,
        /// Trains parameters of these names again after the step.
        unfreeze: Option<String> = None,
        /// A factor on the learning rate of the parameters of `names`, after the step.
        factor: Option<f64> = None,
        /// See `factor`.
        names: String = "lora_B".to_owned(),
        /// Micro-batches in a step, from the step on.
        accumulation: Option<u64> = None,
        /// The event of the step in which it asks for that.
        accumulation_event: String = "on_step_end".to_owned(),
        /// Keeps the checkpoint of the step.
        keep: bool = false,
    }
}

impl Requests {
    fn accumulate(&self, event: &str, state: &RunState, control: &mut Control) {
        let here = self.accumulation_event == event && state.global_step == self.step;
        if let Some(steps) = self.accumulation.filter(|_| here) {
            control.set_gradient_accumulation_steps(steps);
        }
    }
}

impl Callback for Requests {
    fn needs() -> &'static [Need] {
        &[
            Need::Accumulation,
            Need::Generation,
            Need::Freeze,
            Need::LearningRates,
            Need::Checkpoints,
        ]
    }

    fn on_train_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        if let (Some(names), 0) = (&self.freeze, state.global_step) {
            control.freeze(names);
        }
        self.accumulate("on_train_begin", state, control);
        Ok(())
    }

    fn on_epoch_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        self.accumulate("on_epoch_begin", state, control);
        Ok(())
    }

    fn on_step_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        self.accumulate("on_step_begin", state, control);
        Ok(())
    }

    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        self.accumulate("on_step_end", state, control);
        if state.global_step != self.step {
            return Ok(());
        }
        if let Some(text) = &self.question {
            let question = |id| Question::new(id).system("Be brief.").user(text);
            control.ask(
                question("with")
                    .answers(2)
                    .temperature(1.0)
                    .max_new_tokens(5),
            );
            control.ask(question("without").adapters(false));
        }
        if let Some(names) = &self.freeze_later {
            control.freeze(names);
        }
        if let Some(names) = &self.unfreeze {
            control.unfreeze(names);
        }
        if let Some(factor) = self.factor {
            control.set_lr_factor(&self.names, factor);
        }
        Ok(())
    }

    fn on_answers(
        &mut self,
        answers: &[Answer],
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        for answer in answers {
            apus_sdk::errln!(
                "heard after step {}: {} {} of {} tokens: {:?}",
                state.global_step,
                answer.id(),
                answer.index(),
                answer.tokens(),
                answer.text()
            );
        }
        let tokens: usize = answers.iter().map(Answer::tokens).sum();
        control.metrics.insert("heard".to_owned(), json!(tokens));
        Ok(())
    }

    fn on_save(
        &mut self,
        checkpoint: &Path,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        if self.keep && state.global_step == self.step {
            control.keep(checkpoint);
        }
        Ok(())
    }
}

apus_sdk::register! {
    /// Makes the requests that it is told to.
    Callback, "requests", Requests
}

apus_sdk::options! {
    struct Undeclared {
        /// Gives a weight to be evaluated in place of a request.
        weights: bool = false,
    }
    state {
        run: Option<Run>,
    }
}

impl Callback for Undeclared {
    fn needs() -> &'static [Need] {
        &[Need::Parameters]
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.run = Some(run.clone());
        Ok(())
    }

    fn evaluated_weights(&self) -> Result<Vec<(String, Tensor)>> {
        let run = self.run.as_ref().filter(|_| self.weights);
        let all = run.map(Run::parameters).transpose()?.unwrap_or_default();
        let given = all.iter().zip(run).take(1);
        given
            .map(|(one, run)| Ok((one.name().to_owned(), run.value(one.name())?)))
            .collect()
    }

    fn on_step_end(&mut self, _: &RunState, control: &mut Control) -> Result<()> {
        if !self.weights {
            control.freeze("lora_A");
        }
        Ok(())
    }
}

apus_sdk::register! {
    /// Makes a request that it does not declare.
    Callback, "undeclared", Undeclared
}
