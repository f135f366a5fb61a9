//! Several ranks, and a build that has nothing by which they talk. With the feature `mpi` they train: `tests/ranks`.
#![cfg(not(any(feature = "mpi", feature = "cuda")))]

mod common;

use common::{apus, text, words};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

#[test]
fn several_processes_are_refused_with_the_build_that_has_them() {
    let line = format!(
        "sft --model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl \
         --per_device_train_batch_size 2 --gradient_accumulation_steps 4"
    );
    let temporary = tempfile::tempdir().unwrap();
    let inside = temporary.path().to_str().unwrap();
    let output = apus(
        &words(&line),
        &[("NPROC_PER_NODE", "4"), ("TMPDIR", inside)],
    );
    let said = text(&output);
    assert!(!output.status.success());
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(left, 0, "a start that fails leaves no folder behind");
    let nowhere = format!("{inside}/nowhere");
    let refused = apus(
        &words(&line),
        &[("NPROC_PER_NODE", "4"), ("TMPDIR", &nowhere)],
    );
    let refused = text(&refused);
    assert!(
        refused.contains("no folder for the output of ranks can be made in"),
        "{refused}"
    );
    for part in [
        "NPROC_PER_NODE is 4",
        "was built without it",
        "--features mpi",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}
