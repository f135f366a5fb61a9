//! What callbacks ask for and report is done and known in the step in which they do, whichever event it is.

mod common;

use common::training::checkpoints;
use common::{apus, fails, folder, text, words, works};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// Eight steps of two micro-batches, two epochs, an evaluation every other step, without saves or log lines on the way.
fn sft(dir: &Path, flags: &str) -> String {
    let plugin = common::library("asking_plugin");
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --val_dataset {TINY}/chat_train.jsonl \
         --current_date 2025-08-05 --device cpu --num_train_epochs 2 --gradient_accumulation_steps 2 \
         --logging_steps 100 --logging_first_step false --eval_strategy steps --eval_steps 2 --save_steps 100 \
         --lr_scheduler_type constant --lora_rank 4 --learning_rate 1e-3 --max_new_tokens 3 --plugin {} \
         --output_dir {} --add_version false {flags}",
        plugin.display(),
        dir.display()
    )
}

fn lines(dir: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn state(dir: &Path, step: u64) -> Value {
    let path = dir.join(format!("checkpoint-{step}/trainer_state.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Lines with this key, by step.
fn steps_with(dir: &Path, key: &str) -> Vec<String> {
    let lines = lines(dir, "logging.jsonl").into_iter();
    lines
        .filter(|line| line.get(key).is_some() && line.get("train_runtime").is_none())
        .map(|line| line["global_step/max_steps"].as_str().unwrap().to_owned())
        .collect()
}

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
fn what_is_asked_for_is_done_for_the_weights_of_that_step() {
    for event in [
        "on_step_end",
        "on_log",
        "on_evaluate",
        "on_generate",
        "on_save",
    ] {
        let dir = folder(&format!("asks-{event}"));
        let asks = format!(
            "--eval_steps 3 --save_steps 3 --logging_steps 3 --callbacks asks --callbacks.event {event} \
             --callbacks.step 3 --callbacks.save true --callbacks.evaluate true --callbacks.log true \
             --callbacks.prompt Who? --callbacks.lr_factor 0.5"
        );
        works(&sft(&dir, &asks));
        let answers = lines(&dir, "samples.jsonl");
        let asked = answers
            .iter()
            .find(|answer| answer["prompt"] == "Who?")
            .unwrap();
        assert_eq!(asked["step"], 3, "{event}");
        for key in ["loss", "eval_loss"] {
            let made = steps_with(&dir, key);
            assert_eq!(
                made.iter().filter(|step| *step == "3/8").count(),
                1,
                "{event}: {key}"
            );
        }
        assert!(checkpoints(&dir).contains(&3), "{event}");
        // From the next step on, and after a resume too.
        let rates = lines(&dir, "logging.jsonl").into_iter();
        let rates: Vec<f64> = rates
            .filter_map(|line| line["learning_rate"].as_f64())
            .collect();
        assert_eq!((rates[0], rates[1]), (1e-3, 0.5e-3), "{event}");
        if event != "on_save" {
            assert_eq!(state(&dir, 3)["lr_factor"], 0.5, "{event}");
        }
    }
    // Without an interval that would have done it anyway.
    let dir = folder("asks-alone");
    works(&sft(
        &dir,
        "--eval_steps 100 --callbacks asks --callbacks.event on_generate --callbacks.step 3 --callbacks.save true \
         --callbacks.evaluate true --callbacks.log true",
    ));
    assert_eq!(steps_with(&dir, "eval_loss"), ["3/8", "8/8"]);
    assert_eq!(steps_with(&dir, "loss"), ["3/8", "8/8"]);
    assert_eq!(checkpoints(&dir), [3, 8]);
}

/// The parameters of an adapter, by name.
fn adapter(dir: &Path, step: u64) -> std::collections::HashMap<String, Vec<f32>> {
    let path = dir.join(format!("checkpoint-{step}/adapter_model.safetensors"));
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let values = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let all = tensors.into_iter();
    all.map(|(name, tensor)| (name, values(tensor))).collect()
}

fn resumed(dir: &Path, step: u64) -> String {
    let from = dir.join(format!("checkpoint-{step}"));
    format!("--resume_from_checkpoint {}", from.display())
}

#[test]
fn questions_are_answered_to_who_asked_with_and_without_adapters() {
    let flags = "--eval_steps 2 --save_steps 2 --metric_for_best_model heard --callbacks requests \
                 --callbacks.question Who? --callbacks.step 2";
    let dir = folder("questions");
    let said = works(&sft(&dir, &format!("{flags} --max_steps 2")));
    let heard: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("heard after"))
        .collect();
    assert_eq!(heard.len(), 3, "{said}");
    for (line, who) in heard.iter().zip(["with 0", "with 1", "without 0"]) {
        assert!(
            line.contains(&format!("heard after step 2: {who}")),
            "{line}"
        );
    }
    assert!(!heard[2].contains("of 5 tokens"), "{}", heard[2]);
    // What it reports of the answers, in the step of an evaluation, chooses the best.
    let lines = lines(&dir, "logging.jsonl");
    let log = lines.iter().find_map(|line| line.get("heard"));
    assert!(
        log.is_some_and(|heard| heard.as_f64() > Some(1.0)),
        "{lines:?}"
    );
    assert_eq!(
        state(&dir, 2)["best_metric"].as_f64(),
        log.unwrap().as_f64()
    );
    // The model without its adapters answers as before training, whatever was learnt.
    let fast = folder("questions-fast");
    let said = works(&sft(
        &fast,
        &format!("{flags} --max_steps 2 --learning_rate 0.3"),
    ));
    let again: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("heard after"))
        .collect();
    assert_eq!(again[2], heard[2]);
    assert_ne!(again[..2], heard[..2]);

    let dir = folder("questions-full");
    let full = format!("{flags} --train_type full --max_steps 2");
    let line = sft(&dir, &full).replace("--lora_rank 4", "");
    fails(
        &line,
        1,
        &[
            "callback requests",
            "question \"without\": without adapters",
            "trained whole",
        ],
    );
}

#[test]
fn what_is_frozen_is_as_if_it_were_never_trained_and_goes_on_so() {
    let never = folder("frozen-never");
    works(&sft(
        &never,
        "--target_regex .*layers\\.[23]\\.self_attn\\.[qkvo]_proj --save_steps 4",
    ));
    let dir = folder("frozen");
    let flags = "--save_steps 4 --callbacks requests --callbacks.freeze .*layers\\.[01]\\..*";
    works(&sft(&dir, flags));
    let (trained, all, first) = (adapter(&never, 8), adapter(&dir, 8), adapter(&dir, 4));
    assert!(!trained.is_empty() && trained.len() < all.len());
    for (name, values) in &all {
        match trained.get(name) {
            Some(expected) => assert_eq!(values, expected, "{name}"),
            None => assert!(
                name.contains("lora_A") || values.iter().all(|&x| x == 0.0),
                "{name}"
            ),
        }
        assert!(
            trained.contains_key(name) || first[name] == *values,
            "{name}"
        );
    }
    let optimizer = dir.join("checkpoint-8/optimizer.safetensors");
    let kept = candle_core::safetensors::load(optimizer, &candle_core::Device::Cpu).unwrap();
    assert!(
        kept.keys()
            .all(|key| key.contains("layers.2.") || key.contains("layers.3."))
    );
    // A run that goes on is told by its checkpoint what is frozen: the callback asks before the first step alone.
    let rest = folder("frozen-rest");
    works(&sft(&rest, &format!("{flags} {}", resumed(&dir, 4))));
    assert_eq!(adapter(&rest, 8), all);

    // Trained again from the middle on, and the same in a run that goes on after that.
    let later = folder("frozen-later");
    let flags = format!(
        "{flags} --save_steps 6 --callbacks.step 4 --callbacks.unfreeze layers.1 --callbacks.freeze_later layers.3 \
         --callbacks.factor 0.5"
    );
    works(&sft(&later, &flags.replace("--save_steps 4", "")));
    let (six, eight) = (adapter(&later, 6), adapter(&later, 8));
    for (name, values) in &six {
        let moved = *values != first[name];
        assert_eq!(
            moved,
            name.contains("layers.1.") || name.contains("layers.2."),
            "{name}"
        );
    }
    let rest = folder("frozen-later-rest");
    let going_on = flags.replace("--save_steps 4", "");
    works(&sft(&rest, &format!("{going_on} {}", resumed(&later, 6))));
    assert_eq!(adapter(&rest, 8), eight);
    let requested = &state(&later, 6)["requested"];
    let factors = requested["lr_factors"].as_object().unwrap();
    assert!(!factors.is_empty() && factors.keys().all(|name| name.contains("lora_B")));

    for (flags, says) in [
        (
            "--callbacks.freeze lora_A --callbacks.freeze_later lora_B",
            "nothing is left to train",
        ),
        (
            "--callbacks.freeze layers.9",
            "no trained parameter is named by \"layers.9\"",
        ),
    ] {
        let line = sft(
            &folder("frozen-wrong"),
            &format!("--callbacks requests {flags} --callbacks.step 1"),
        );
        fails(
            &line,
            1,
            &["callback requests of plugin asking-plugin", says],
        );
    }
}

#[test]
fn a_factor_on_some_learning_rates_is_that_rate() {
    let factor = folder("rates-factor");
    let flags = "--callbacks requests --callbacks.names lora_B --callbacks.factor 2 --optimizer sgd --max_steps 2";
    works(&sft(
        &factor,
        &format!("{flags} --callbacks.step 1 --save_steps 1"),
    ));
    // The same parameters by the name of their group.
    let group = folder("rates-group");
    let of_group = flags.replace("--callbacks.names lora_B", "--callbacks.names fast");
    let groups = r#"--optimizer.groups [{"params":"lora_B","name":"fast"}]"#;
    works(&sft(
        &group,
        &format!("{of_group} --callbacks.step 1 --save_steps 1 {groups}"),
    ));
    assert_eq!(adapter(&group, 2), adapter(&factor, 2));
    let start = folder("rates-start");
    works(&sft(&start, "--optimizer sgd --max_steps 2 --save_steps 1"));
    let [one, two] = [adapter(&factor, 1), adapter(&factor, 2)];
    let (plain_one, plain_two) = (adapter(&start, 1), adapter(&start, 2));
    for (name, values) in &two {
        let step: Vec<f32> = values.iter().zip(&one[name]).map(|(a, b)| a - b).collect();
        let plain = plain_two[name]
            .iter()
            .zip(&plain_one[name])
            .map(|(a, b)| a - b);
        let times = if name.contains("lora_B") { 2.0 } else { 1.0 };
        for (found, plain) in step.iter().zip(plain) {
            assert!(
                (found - times * plain).abs() <= 1e-6 + 1e-3 * plain.abs(),
                "{name}"
            );
        }
    }
}

#[test]
fn a_checkpoint_that_is_kept_is_not_deleted() {
    let dir = folder("kept");
    works(&sft(
        &dir,
        "--save_steps 2 --save_total_limit 1 --eval_strategy no --callbacks requests --callbacks.keep true \
         --callbacks.step 2",
    ));
    assert_eq!(checkpoints(&dir), [2, 8]);
}

#[test]
fn what_a_callback_does_not_declare_is_not_given() {
    let line = sft(&folder("undeclared"), "--callbacks undeclared");
    fails(
        &line,
        1,
        &[
            "callback undeclared of plugin asking-plugin",
            "on_step_end",
            "fn needs() -> &'static [Need] { &[Need::Parameters, Need::Freeze] }",
        ],
    );
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
