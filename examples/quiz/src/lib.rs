//! A callback that asks the model after each evaluation and counts right answers, and a tracker that writes numbers of the
//! run, such as that count, to a table in Markdown.

mod page;

use apus_sdk::serde_json::{Map, Value};
use apus_sdk::{Answer, Callback, Control, Need, Question, Result, RunState, outln};
use std::collections::BTreeMap;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Quiz {
        /// What is asked, and what a right answer has in it.
        questions: BTreeMap<String, String> = BTreeMap::new(),
        /// Instructions before each question.
        system: String = "Answer in one word.".to_owned(),
        /// The most tokens of an answer.
        tokens: usize = 64,
    }
}

apus_sdk::register! {
    /// Asks `questions` after each evaluation and reports the share of right answers as `quiz_correct`.
    Callback, "quiz", Quiz
}

impl Callback for Quiz {
    fn needs() -> &'static [Need] {
        &[Need::Generation]
    }

    fn on_evaluate(
        &mut self,
        _metrics: &Map<String, Value>,
        _state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        for question in self.questions.keys() {
            let asked = Question::new(question).system(&self.system).user(question);
            control.ask(asked.temperature(0.0).max_new_tokens(self.tokens));
        }
        Ok(())
    }

    fn on_answers(
        &mut self,
        answers: &[Answer],
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        let is_right = |answer: &&Answer| answer.text().contains(&self.questions[answer.id()]);
        let right = answers.iter().filter(is_right).count();
        outln!(
            "step {}: {right} of {} are right",
            state.global_step,
            answers.len()
        );
        let share = right as f64 / answers.len() as f64;
        control
            .metrics
            .insert("quiz_correct".to_owned(), share.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Run, make};

    #[test]
    fn right_answers_are_counted_after_each_evaluation() {
        let questions = json!({"2 + 2?": "4", "The capital of France?": "Paris"});
        let mut quiz = make::<dyn Callback>("quiz", json!({"questions": questions})).unwrap();
        let answer = |question: &Question, _: usize| match question.id() {
            "2 + 2?" => "It is 4.".to_owned(),
            _ => "Lyon".to_owned(),
        };
        let mut run = Run::new(3).eval_losses(&[2.0, 1.0]).respond(answer);
        let played = run.play(&mut *quiz).unwrap();
        let shares = played.logs.iter().filter_map(|log| log.get("quiz_correct"));
        assert_eq!(shares.collect::<Vec<_>>(), [&json!(0.5); 2]);
    }
}
