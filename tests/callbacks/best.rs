//! Numbers of callbacks that choose the best checkpoint, and callbacks that follow evaluations.

use crate::common::training::checkpoints;
use crate::common::{apus, fails, folder, text, words, works};
use crate::{lines, sft};
use std::path::Path;

#[test]
fn a_callbacks_metric_may_choose_the_best() {
    for event in ["on_step_end", "on_evaluate", "on_log", "on_generate"] {
        let scores = format!(
            "--eval_steps 1 --save_steps 1 --metric_for_best_model score --greater_is_better true \
             --callbacks asks --callbacks.event {event} --callbacks.scores 1/3/2/"
        );
        // One answer alone makes the first score the only one.
        let best = if event == "on_generate" { 1 } else { 2 };
        let scores = match event {
            "on_generate" => format!("{scores} --callbacks.step 1"),
            _ => scores,
        };
        let dir = folder(&format!("scores-{event}"));
        works(&sft(&dir, &scores));
        let summary = lines(&dir, "logging.jsonl").pop().unwrap();
        let named = summary["best_model_checkpoint"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            named.ends_with(&format!("checkpoint-{best}")),
            "{event}: {named}"
        );

        let dir = folder(&format!("better-{event}"));
        works(&sft(&dir, &format!("{scores} --save_strategy best")));
        assert_eq!(checkpoints(&dir), Vec::from_iter(1..=best), "{event}");
    }
}

#[test]
fn a_metric_that_nobody_reports_is_an_error_before_anything_is_lost() {
    // Built-in components tell what they report: before the model is looked for.
    let dir = folder("nobody");
    let line = sft(&dir, "--metric_for_best_model token_ac").replace("model_bf16", "no_model");
    fails(
        &line,
        1,
        &[
            "metric_for_best_model is \"token_ac\"",
            "did you mean token_acc?",
        ],
    );
    // Those of a library do not: at the first evaluation, with the weights saved.
    let dir = folder("nobody-of-a-library");
    fails(
        &sft(
            &dir,
            "--metric_for_best_model rouge --callbacks asks --callbacks.scores 1/ --callbacks.event on_evaluate",
        ),
        1,
        &[
            "metric_for_best_model is \"rouge\"",
            "score",
            "The state after step 2 is saved",
        ],
    );
    assert_eq!(checkpoints(&dir), [2]);
}

#[test]
fn early_stop_says_that_it_did_and_goes_on_with_more_patience() {
    let dir = folder("early");
    // A metric that never gets better.
    let flags = "--eval_steps 1 --save_steps 1 --metric_for_best_model score --greater_is_better true --callbacks asks \
                 --callbacks.event on_evaluate --callbacks.scores 1/";
    let said = works(&sft(&dir, &format!("{flags} --early_stop_interval 2")));
    assert!(
        said.contains("callback early_stop, on_save, ends the run after step 3 of 8"),
        "{said}"
    );
    assert_eq!(checkpoints(&dir), [1, 2, 3]);
    let resume = |name: &str, interval: u64| {
        let rest = folder(name);
        let from = dir.join("checkpoint-3");
        let said = works(&sft(
            &rest,
            &format!(
                "{flags} --early_stop_interval {interval} --resume_from_checkpoint {}",
                from.display()
            ),
        ));
        assert!(
            said.contains("callback early_stop, on_save, has ended the run that is continued"),
            "{said}"
        );
        (checkpoints(&rest), said)
    };
    let (made, said) = resume("early-again", 2);
    assert!(made.is_empty());
    assert!(said.contains("callback early_stop, on_train_begin, ends the run before it makes a step, after step 3 of 8"), "{said}");
    let (made, said) = resume("early-longer", 4);
    assert_eq!(made, [4, 5]);
    assert!(
        said.contains("callback early_stop, on_save, ends the run after step 5 of 8"),
        "{said}"
    );
}

#[test]
fn the_plateau_schedule_follows_evaluations_and_resumes() {
    // An evaluation each step, of a metric that never gets better.
    let flags = "--eval_steps 1 --save_steps 3 --logging_steps 1 --lr_scheduler_type reduce_lr_on_plateau \
                 --metric_for_best_model score --greater_is_better true --callbacks asks \
                 --callbacks.event on_evaluate --callbacks.scores 1/";
    let kwargs = ["--lr_scheduler_kwargs", r#"{"patience": 1, "factor": 0.5}"#];
    let run = |dir: &Path, more: &str| {
        let line = sft(dir, &format!("{flags} {more}"));
        let line = line.replace("--lr_scheduler_type constant", "");
        let mut arguments = words(&line);
        arguments.extend(kwargs);
        let output = apus(&arguments, &[]);
        assert!(output.status.success(), "{}", text(&output));
        let log = lines(dir, "logging.jsonl").into_iter();
        log.filter(|line| line.get("train_runtime").is_none())
            .filter_map(|line| line.get("learning_rate")?.as_f64())
            .collect::<Vec<f64>>()
    };
    let whole = folder("plateau");
    let rates = run(&whole, "");
    let expected = [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125].map(|factor| factor * 1e-3);
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
    assert!(
        rates.len() == 8 && rates.iter().zip(&expected).all(near),
        "{rates:?}"
    );
    for step in [3, 6] {
        let rest = folder(&format!("plateau-{step}"));
        let from = whole.join(format!("checkpoint-{step}"));
        let later = run(
            &rest,
            &format!("--resume_from_checkpoint {}", from.display()),
        );
        assert_eq!(later, rates[step..]);
    }
    let line = sft(&folder("plateau-blind"), "").replace("constant", "reduce_lr_on_plateau");
    let line = line.replace("--eval_strategy steps", "--eval_strategy no");
    fails(
        &line,
        1,
        &["the schedule reduce_lr_on_plateau needs evaluations, and eval_strategy is no"],
    );
}
