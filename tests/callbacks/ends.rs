//! How a run ends that callbacks end, or one of which fails.

use crate::common::training::checkpoints;
use crate::common::{fails, folder, works};
use crate::{lines, sft, state, steps_with};
use std::fs;
use std::path::Path;

#[test]
fn whichever_event_stops_a_run_its_last_step_is_logged_evaluated_and_saved() {
    for (event, step, last, flags) in [
        ("on_epoch_begin", 1, 5, ""),
        ("on_step_begin", 2, 3, ""),
        ("on_substep_end", 2, 3, ""),
        ("on_pre_optimizer_step", 2, 3, ""),
        ("on_optimizer_step", 2, 3, ""),
        ("on_step_end", 3, 3, ""),
        ("on_epoch_end", 1, 4, ""),
        ("on_log", 3, 3, "--logging_steps 3"),
        ("on_prediction_step", 3, 4, ""),
        ("on_evaluate", 3, 4, ""),
        ("on_generate", 3, 3, ""),
        ("on_save", 3, 3, "--save_steps 3"),
    ] {
        let dir = folder(&format!("stops-{event}"));
        let asks = format!(
            "{flags} --callbacks asks --callbacks.event {event} --callbacks.step {step} --callbacks.stop true"
        );
        let said = works(&sft(&dir, &asks));
        let at = format!("{last}/8");
        assert!(
            said.contains(&format!("{event}, ends the run after step {last} of 8")),
            "{said}"
        );
        assert_eq!(steps_with(&dir, "loss").last(), Some(&at), "{event}");
        assert_eq!(steps_with(&dir, "eval_loss").last(), Some(&at), "{event}");
        assert_eq!(checkpoints(&dir), [last], "{event}");
        let saved = state(&dir, last);
        let by = saved["stopped"].as_str().unwrap();
        assert!(
            by.contains("callback asks of plugin asking-plugin") && by.ends_with(event),
            "{by}"
        );
        let log = saved["log_history"].as_array().unwrap();
        assert!(
            log.iter().any(|line| line.get("eval_loss").is_some()),
            "{event}"
        );
        let summary = lines(&dir, "logging.jsonl").pop().unwrap();
        let named = summary["last_model_checkpoint"].as_str().unwrap();
        assert!(Path::new(named).is_dir(), "{event}: {named}");
        assert_eq!(
            summary["best_model_checkpoint"], summary["last_model_checkpoint"],
            "{event}"
        );

        // Whoever goes on is told that the run had been ended.
        let from = dir.join(format!("checkpoint-{last}"));
        let rest = folder(&format!("stopped-{event}"));
        let resume = format!("--resume_from_checkpoint {}", from.display());
        let said = works(&sft(&rest, &resume));
        assert!(
            said.contains(&format!("{event}, has ended the run that is continued")),
            "{said}"
        );
        assert_eq!(checkpoints(&rest), [8], "{event}");
    }
}

#[test]
fn a_run_that_is_ended_before_its_first_step_makes_none() {
    for event in ["on_init_end", "on_train_begin"] {
        let dir = folder(&format!("none-{event}"));
        let asks = format!("--callbacks asks --callbacks.event {event} --callbacks.stop true");
        let said = works(&sft(&dir, &asks));
        assert!(
            said.contains("ends the run before it makes a step"),
            "{said}"
        );
        assert_eq!(checkpoints(&dir), [0u64; 0]);
        assert!(
            !said.contains("checkpoint:") && !said.contains("try it"),
            "{said}"
        );
    }
}

#[test]
fn requests_when_training_is_over_are_done_or_named() {
    let dir = folder("late");
    let said = works(&sft(
        &dir,
        "--callbacks asks --callbacks.event on_train_end --callbacks.save true --callbacks.prompt Who? \
         --callbacks.scores 7/",
    ));
    assert!(
        said.contains("ask for an evaluation or a checkpoint when training is over"),
        "{said}"
    );
    let answers = lines(&dir, "samples.jsonl");
    assert_eq!(
        (&answers[0]["prompt"], &answers[0]["step"]),
        (&"Who?".into(), &8.into())
    );
    assert_eq!(steps_with(&dir, "score"), ["8/8"]);
}

/// An error of a callback loses no step: what is saved is what the weights are, whichever event it was.
#[test]
fn a_callback_that_fails_leaves_the_state_that_its_weights_have() {
    let whole = folder("fails-whole");
    works(&sft(&whole, ""));
    let weights =
        |dir: &Path| fs::read(dir.join("checkpoint-8/adapter_model.safetensors")).unwrap();
    for (event, step, saved) in [
        ("on_step_begin", 2, 2),
        ("on_pre_optimizer_step", 2, 2),
        ("on_optimizer_step", 2, 3),
        ("on_step_end", 3, 3),
    ] {
        let dir = folder(&format!("fails-{event}"));
        let asks = format!(
            "--callbacks asks --callbacks.event {event} --callbacks.step {step} --callbacks.fail true"
        );
        let said = fails(&sft(&dir, &asks), 1, &[event, "told to fail"]);
        let checkpoint = dir.join(format!("checkpoint-{saved}"));
        let line = format!(
            "The state after step {saved} is saved in {0}: go on with --resume_from_checkpoint {0}",
            checkpoint.display()
        );
        assert!(said.contains(&line), "{said}");
        let rest = folder(&format!("fails-{event}-rest"));
        let flags = format!("--resume_from_checkpoint {}", checkpoint.display());
        works(&sft(&rest, &flags));
        assert!(weights(&rest) == weights(&whole), "{event}");

        let only = folder(&format!("fails-{event}-only"));
        let said = fails(
            &sft(&only, &format!("{asks} --save_only_model true")),
            1,
            &["told to fail"],
        );
        assert!(said.contains("--resume_only_model true"), "{said}");
    }
}
