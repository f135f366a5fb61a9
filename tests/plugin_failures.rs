//! What goes wrong inside of the components of a library.

mod common;

use common::plugins::{GOLDENS, fails, sft};
use common::{library, works};
use std::fs;

/// Each failure in a run is an error that names plugin, component and event, with the state saved.
#[test]
fn failures_of_components_are_named_and_the_state_is_saved() {
    let home = tempfile::tempdir().unwrap();
    let check = |name: &str, flags: &str, says: &[&str], saved: bool| {
        let out = home.path().join(name);
        let said = fails(&sft(&out, &library("hostile_plugin"), flags), says);
        assert!(said.contains("plugin hostile-plugin"), "{said}");
        assert_eq!(said.contains("is saved in"), saved, "{said}");
    };
    check(
        "o1",
        "--optimizer panics",
        &["optimizer panics of", "step: panicked"],
        true,
    );
    check("o2", "--optimizer fails", &["optimizer fails of"], true);
    check("o3", "--optimizer nan", &["not finite", "taken back"], true);
    check(
        "o4",
        "--optimizer half",
        &["optimizer half of", "panicked"],
        true,
    );
    check(
        "l1",
        "--loss_type panics",
        &["loss panics of", "per_token: panicked"],
        true,
    );
    check(
        "l2",
        "--loss_type nan",
        &["loss nan of", "the mistake is in the loss"],
        false,
    );
    check(
        "l3",
        "--loss_type short",
        &["loss short of", "one f32 per token"],
        false,
    );
    check(
        "l4",
        "--loss_type constant",
        &["no gradient reached the logits"],
        false,
    );
    check(
        "c1",
        "--callbacks panics",
        &["callback panics of", "on_step_end: panicked"],
        true,
    );
    check(
        "c3",
        "--callbacks panics --callbacks.event save_state",
        &[
            "callback panics of",
            "save_state: panicked",
            "what callbacks keep is not saved",
        ],
        true,
    );
    check(
        "c2",
        "--callbacks bad_factor",
        &["callback bad_factor of", "factor of NaN"],
        true,
    );
    check("m1", "--metrics nan", &["metric nan of", "NaN"], true);
    check(
        "s1",
        "--lr_scheduler_type nan",
        &["schedule nan of", "factor NaN"],
        false,
    );
    check(
        "w1",
        "--loss_scale panics",
        &[
            "chat_train.jsonl:",
            "loss scale panics of",
            "segments: panicked",
        ],
        false,
    );
    let says = [
        "chat_train.jsonl:",
        "loss scale `loses_text`",
        "do not join back",
    ];
    let scale = format!(
        "{} --loss_scale loses_text",
        sft(home.path(), &library("hostile_plugin"), "")
    );
    fails(&scale, &says);
    let rows = home.path().join("rows.jsonl");
    fs::write(&rows, "{\"panics\": \"a\"}\n").unwrap();
    let format = sft(home.path(), &library("hostile_plugin"), "");
    let format = format.replacen(
        &format!("--dataset {GOLDENS}/chat_train.jsonl"),
        &format!("--dataset {}", rows.display()),
        1,
    );
    fails(
        &format,
        &[
            "rows.jsonl:1: dataset format panics of",
            "convert: panicked",
        ],
    );

    let out = home.path().join("tracker");
    let flags = "--trackers panics fails hangs --tracker_timeout 1";
    let said = works(&sft(&out, &library("hostile_plugin"), flags));
    for part in ["tracker panics of", "tracker fails of", "tracker hangs of"] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}
