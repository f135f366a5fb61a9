//! A callback changes how many micro-batches a step has: where that is in the data, in the schedule and in a run that goes on.

mod common;

use common::training::{TINY, checkpoints, log, losses, refuses, trains, weights};
use serde_json::Value;
use std::path::Path;

/// Eight examples, two epochs, two micro-batches of one example in a step, until a callback of a library asks for other numbers.
fn flags(more: &str) -> String {
    let plugin = common::library("asking_plugin");
    format!(
        "--model {TINY}/model_mxfp4 --num_train_epochs 2 --gradient_accumulation_steps 2 --save_steps 1 \
         --lr_scheduler_type constant --plugin {} {more}",
        plugin.display()
    )
}

fn asks(to: u64, event: &str, step: u64) -> String {
    format!(
        "--callbacks requests --callbacks.accumulation {to} --callbacks.accumulation_event {event} --callbacks.step {step}"
    )
}

/// A number of each step, as the log has it.
fn numbers(dir: &Path, key: &str) -> Vec<f64> {
    let log = log(dir);
    let steps = log.iter().filter(|line| line.get("loss").is_some());
    steps.map(|line| line[key].as_f64().unwrap()).collect()
}

fn last(dir: &Path) -> Value {
    log(dir).pop().unwrap()
}

/// Every checkpoint of a run goes on to the same end.
#[track_caller]
fn goes_on_from_everywhere(home: &Path, whole: &Path, flags: &str) {
    let steps = checkpoints(whole);
    let end = format!("checkpoint-{}", steps[steps.len() - 1]);
    for from in &steps[..steps.len() - 1] {
        let rest = home.join(format!("{}-{from}", whole.file_name().unwrap().display()));
        let checkpoint = whole.join(format!("checkpoint-{from}"));
        trains(
            &rest,
            &format!("{flags} --resume_from_checkpoint {}", checkpoint.display()),
        );
        assert_eq!(losses(whole)[*from as usize..], losses(&rest), "{flags}");
        let ends = [whole, &rest].map(|dir| weights(&dir.join(&end)));
        assert!(ends[0] == ends[1], "{flags}");
    }
}

#[test]
fn a_change_before_the_first_step_is_the_flag() {
    let home = tempfile::tempdir().unwrap();
    let [asked, flag] = ["asked", "flag"].map(|name| home.path().join(name));
    trains(&asked, &flags(&asks(4, "on_train_begin", 0)));
    trains(&flag, &flags("--gradient_accumulation_steps 4"));
    assert_eq!(losses(&asked), losses(&flag));
    assert!(weights(&asked.join("checkpoint-4")) == weights(&flag.join("checkpoint-4")));
}

#[test]
fn a_run_of_epochs_passes_over_the_same_data() {
    let home = tempfile::tempdir().unwrap();
    let plain = home.path().join("plain");
    trains(&plain, &flags(""));
    for (to, event, step, epochs) in [
        (4, "on_step_end", 2, &[0.25, 0.5, 1.0, 1.5, 2.0][..]),
        // A step that has begun takes what it was given.
        (4, "on_step_begin", 2, &[0.25, 0.5, 0.75, 1.0, 1.5, 2.0]),
        (
            3,
            "on_epoch_begin",
            4,
            &[0.25, 0.5, 0.75, 1.0, 1.375, 1.75, 2.0],
        ),
        (
            1,
            "on_step_end",
            6,
            &[0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.625, 1.75, 1.875, 2.0],
        ),
    ] {
        let dir = home.path().join(format!("{event}-{to}"));
        let flags = flags(&asks(to, event, step));
        trains(&dir, &flags);
        assert_eq!(numbers(&dir, "epoch"), epochs, "{event}");
        assert_eq!(last(&dir)["train_tokens"], last(&plain)["train_tokens"]);
        let count = epochs.len();
        let line = log(&dir);
        let line = line
            .iter()
            .rfind(|line| line.get("loss").is_some())
            .unwrap();
        assert_eq!(line["global_step/max_steps"], format!("{count}/{count}"));
        goes_on_from_everywhere(home.path(), &dir, &flags);
    }
    // What was made before the change is what it would have been anyway.
    let changed = home.path().join("on_step_end-1");
    assert_eq!(losses(&changed)[..6], losses(&plain)[..6]);
}

#[test]
fn the_schedule_follows_the_data_or_the_steps() {
    let home = tempfile::tempdir().unwrap();
    let rates = |name: &str, more: &str| {
        let dir = home.path().join(name);
        let asks = asks(4, "on_step_end", 2);
        trains(
            &dir,
            &flags(&format!(
                "--lr_scheduler_type linear --warmup_ratio 0 {asks} {more}"
            )),
        );
        let rates = numbers(&dir, "learning_rate").into_iter();
        rates.map(|rate| (rate * 8e3).round()).collect::<Vec<_>>()
    };
    assert_eq!(rates("epochs", ""), [8.0, 7.0, 6.0, 4.0, 2.0]);
    let steps = rates("steps", "--max_steps 8");
    assert_eq!(steps, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
}

#[test]
fn packs_and_streams_go_on_where_they_were() {
    let home = tempfile::tempdir().unwrap();
    for (name, more, count) in [
        ("steps", "--max_steps 6", 6),
        (
            "packed",
            "--max_length 192 --packing true --num_train_epochs 3",
            0,
        ),
        (
            "streamed",
            "--streaming true --shuffle_buffer_size 4 --max_steps 6",
            6,
        ),
        (
            "streamed-packs",
            "--streaming true --max_length 192 --packing true --shuffle_buffer_size 4 --max_steps 5",
            5,
        ),
    ] {
        let dir = home.path().join(name);
        let flags = flags(&format!("{more} {}", asks(3, "on_step_end", 2)));
        trains(&dir, &flags);
        let steps = losses(&dir).len();
        assert!(count == 0 || steps == count, "{name}: {steps}");
        assert!(steps > 3, "{name}: {steps}");
        if name.starts_with("streamed") {
            assert_eq!(numbers(&dir, "epoch").last(), Some(&1.0));
        }
        goes_on_from_everywhere(home.path(), &dir, &flags);
    }
    let none = flags(&asks(0, "on_train_begin", 0));
    refuses(
        &home.path().join("none"),
        &none,
        &["callback requests", "0 micro-batches"],
    );
}
