//! What callbacks ask for reaches all ranks in the same step: several ranks train what one process trains that is asked for the same,
//! also where each rank updates a part of the parameters.

use crate::common::training::{TINY, log};
use crate::runs::{ranks, same, trains};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::Path;

fn plugin(library: &str) -> String {
    let file = format!("{DLL_PREFIX}{library}{DLL_SUFFIX}");
    let path = std::env::current_exe().unwrap().with_file_name(file);
    format!("--plugin {}", path.display())
}

/// The numbers that a callback has logged under this name.
fn logged(run: &Path, name: &str) -> Vec<String> {
    let log = log(run);
    let found = log.iter().filter_map(|line| line.get(name));
    found.map(ToString::to_string).collect()
}

/// Eight micro-batches of one example in a step, of all ranks together; `flags` has the flags of a run by so many ranks.
#[track_caller]
fn compare(name: &str, flags: impl Fn(u64) -> String) {
    let home = tempfile::tempdir().unwrap();
    let run = |place: &str, count: u64, more: &str| {
        let dir = home.path().join(place);
        let flags = format!(
            "--gradient_accumulation_steps {} {} {more}",
            8 / count,
            flags(count)
        );
        trains(&mut ranks(&dir, count as usize, &flags));
        dir
    };
    let one = run("one", 1, "");
    for (place, count, more) in [("two", 2, ""), ("zero1", 2, "--deepspeed zero1")] {
        let several = run(place, count, more);
        same(&format!("{name}, {place}"), &one, &several);
        for heard in ["heard", "norm/layers.0"] {
            let (expected, found) = (logged(&one, heard), logged(&several, heard));
            assert_eq!(expected.len(), found.len(), "{name}, {place}: {heard}");
        }
        if name == "questions" {
            assert_eq!(logged(&one, "heard"), logged(&several, "heard"), "{place}");
        }
    }
}

fn requests(asked: &str) -> String {
    format!(
        "{} --callbacks requests --callbacks.step 2 {asked}",
        plugin("asking_plugin")
    )
}

#[test]
fn frozen_parameters_and_rates_are_the_same_on_all_ranks() {
    compare("freeze", |_| {
        requests(
            "--callbacks.freeze .*layers\\.[01]\\..* --callbacks.unfreeze layers.1 --callbacks.freeze_later layers.3",
        )
    });
    compare("factors", |_| {
        requests("--callbacks.factor 0.25 --callbacks.names q_proj --optimizer sgd")
    });
}

#[test]
fn questions_and_other_weights_do_not_part_the_ranks() {
    compare("questions", |_| {
        requests("--callbacks.question Who? --eval_steps 2")
    });
    compare("averages", |_| {
        format!(
            "{} --callbacks ema --callbacks.decay 0.5 --eval_steps 1 --val_dataset {TINY}/chat_train.jsonl#4",
            plugin("ema")
        )
    });
}

#[test]
fn another_accumulation_is_of_all_ranks() {
    compare("accumulation", |count| {
        requests(&format!("--callbacks.accumulation {}", 4 / count))
    });
}

#[test]
fn layers_are_drawn_for_all_ranks() {
    compare("lisa", |_| {
        "--train_type full --optim lion --lisa_activated_layers 1 --lisa_step_interval 2".to_owned()
    });
}
