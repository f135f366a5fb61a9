//! Which checkpoints a run keeps, and which one a run goes on from.

mod common;

use common::training::{TINY, by_step, checkpoints, copy, log, refuses, trains};
use std::fs;
use std::path::Path;

/// A run of four steps of four examples, saved at each.
const FOUR: &str = "--gradient_accumulation_steps 4 --max_steps 4 --save_steps 1";

fn model() -> String {
    format!("--model {TINY}/model_mxfp4")
}

#[test]
fn true_takes_the_newest_whole_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "{} {FOUR} --add_version true --output_dir {}",
        model(),
        home.path().display()
    );
    let newest = format!("{flags} --resume_from_checkpoint true");
    refuses(home.path(), &newest, &["holds no checkpoint"]);
    trains(home.path(), &format!("{flags} --save_only_model false"));
    let version = |number: u64| {
        let name = format!("v{number}-");
        let mut entries = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .find(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(&name)
            })
            .unwrap()
    };
    let first = version(0);
    // Of the newest a byte is gone, of the next the optimizer; a killed run has left half of one.
    let cut = first.join("checkpoint-4/adapter_model.safetensors");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[1..]).unwrap();
    fs::remove_file(first.join("checkpoint-3/optimizer.safetensors")).unwrap();
    copy(
        &first.join("checkpoint-2"),
        &first.join(".checkpoint-9.tmp"),
    );
    let said = trains(home.path(), &newest);
    for part in [
        "passing over",
        "adapter_model.safetensors: has",
        "optimizer.safetensors is missing",
        &format!("resume: from {}", first.join("checkpoint-2").display()),
    ] {
        assert!(said.contains(part), "{part:?} not in {said}");
    }
    let second = version(1);
    assert_eq!(by_step(&second).keys().collect::<Vec<_>>(), [&3, &4]);

    // The newest by age, not by number: the second run's third.
    fs::remove_dir_all(second.join("checkpoint-4")).unwrap();
    let said = trains(home.path(), &newest);
    let from = format!("resume: from {}", second.join("checkpoint-3").display());
    assert!(said.contains(&from), "{said}");
    assert!(!said.contains("passing over"), "{said}");
    // What is over says so.
    let said = trains(home.path(), &newest);
    assert!(
        said.contains("nothing is left to train: 4 of 4 steps are made"),
        "{said}"
    );

    for path in [first, second, version(2), version(3)] {
        for step in 1..=4 {
            let _ = fs::remove_file(path.join(format!("checkpoint-{step}/trainer_state.json")));
        }
    }
    refuses(
        home.path(),
        &newest,
        &["holds no whole checkpoint", "trainer_state.json is missing"],
    );
}

#[test]
fn rotation_counts_this_runs_checkpoints() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "{} --gradient_accumulation_steps 4 --save_steps 3 --max_steps 6",
        model()
    );
    trains(home.path(), &flags);
    assert_eq!(checkpoints(home.path()), [3, 6]);
    let said = trains(
        home.path(),
        &format!("{flags} --max_steps 2 --save_steps 1 --save_total_limit 1"),
    );
    assert!(
        said.contains("holds checkpoints of another run (steps 3 to 6)"),
        "{said}"
    );
    assert_eq!(checkpoints(home.path()), [2, 3, 6]);
    let last = log(home.path()).pop().unwrap();
    let last = last["last_model_checkpoint"].as_str().unwrap();
    assert!(
        last.ends_with("checkpoint-2") && Path::new(last).is_dir(),
        "{last}"
    );
    // Gone on with from an earlier one of its own: what lies beyond stays until it is replaced.
    let from = home.path().join("checkpoint-3");
    trains(
        home.path(),
        &format!(
            "{flags} --save_steps 1 --max_steps 6 --save_total_limit 2 --resume_from_checkpoint {}",
            from.display()
        ),
    );
    assert_eq!(checkpoints(home.path()), [2, 5, 6]);
}

#[test]
fn best_and_last_stay() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "{} --max_steps 6 --gradient_accumulation_steps 1 --save_steps 1 --save_total_limit 2 \
         --split_dataset_ratio 0.25 --load_best_model_at_end true",
        model()
    );
    trains(home.path(), &flags);
    let summary = log(home.path()).pop().unwrap();
    for key in ["best_model_checkpoint", "last_model_checkpoint"] {
        assert!(
            Path::new(summary[key].as_str().unwrap()).is_dir(),
            "{key}: {summary}"
        );
    }
    assert!(checkpoints(home.path()).len() <= 2);
    assert!(home.path().join("val_dataset.jsonl").is_file());
}

#[test]
fn the_best_of_another_metric_is_no_measure() {
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");
    let flags = format!(
        "{} {FOUR} --split_dataset_ratio 0.25 --max_steps 4",
        model()
    );
    trains(&whole, &flags);
    let resume = format!(
        "{flags} --resume_from_checkpoint {}",
        whole.join("checkpoint-2").display()
    );
    let rest = home.path().join("rest");
    let said = trains(
        &rest,
        &format!("{resume} --metric_for_best_model token_acc"),
    );
    assert!(
        said.contains("is of another metric_for_best_model"),
        "{said}"
    );
    let summary = log(&rest).pop().unwrap();
    let best = summary["best_metric"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&best), "{summary}");
}
