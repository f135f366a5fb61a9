//! What callbacks ask for: answers, frozen parameters, other learning rates, checkpoints that stay.

use crate::common::training::checkpoints;
use crate::common::{fails, folder, works};
use crate::{adapter, lines, resumed, sft, state, steps_with};

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
