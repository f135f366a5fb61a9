//! Optimizers in whole runs: weights that are evaluated and saved in place of those that are trained, groups of parameters.

mod common;

use common::training::{TINY, log, losses, refuses, trains, weights};
use std::path::Path;

/// Eight steps of three examples.
fn flags() -> String {
    format!("--model {TINY}/model_mxfp4 --max_steps 8 --gradient_accumulation_steps 3")
}

fn eval_losses(dir: &Path) -> Vec<f64> {
    let log = log(dir);
    log.iter()
        .filter_map(|line| line.get("eval_loss")?.as_f64())
        .collect()
}

/// What is evaluated, answers and is saved changes nothing of what is trained; what is saved is what was evaluated; and a
/// resumed run is the one that was not interrupted, wherever it was cut.
#[test]
fn averaged_weights_are_evaluated_and_saved_and_others_are_trained() {
    let home = tempfile::tempdir().unwrap();
    let [quiet, whole, rest, again] =
        ["quiet", "whole", "rest", "again"].map(|name| home.path().join(name));
    let flags = format!(
        "{} --optim schedule_free_adamw --lr_scheduler_type constant",
        flags()
    );
    trains(
        &quiet,
        &format!("{flags} --save_strategy no --eval_strategy no"),
    );
    let watched = format!(
        "{flags} --val_dataset {TINY}/chat_train.jsonl#4 --eval_steps 1 --save_steps 1 \
         --sample_prompts Hello --max_new_tokens 2"
    );
    trains(&whole, &watched);
    assert_eq!(losses(&quiet), losses(&whole));
    for from in [3, 8] {
        let checkpoint = whole.join(format!("checkpoint-{from}"));
        let dir = if from == 3 { &rest } else { &again };
        let more = if from == 3 {
            ""
        } else {
            "--max_steps 10 --resume_changes max_steps"
        };
        trains(
            dir,
            &format!(
                "{watched} {more} --resume_from_checkpoint {}",
                checkpoint.display()
            ),
        );
    }
    assert_eq!(losses(&whole)[3..], losses(&rest));
    assert_eq!(
        weights(&whole.join("checkpoint-8")),
        weights(&rest.join("checkpoint-8"))
    );
    assert_eq!(losses(&again).len(), 2);
    // The evaluation of a checkpoint's weights by a run that makes no step of its own with this optimizer's hooks.
    let evaluated = eval_losses(&whole);
    let only = home.path().join("only");
    trains(
        &only,
        &format!(
            "{watched} --optim sgd --learning_rate 0 --max_steps 1 --resume_only_model true --resume_from_checkpoint {}",
            whole.join("checkpoint-8").display()
        ),
    );
    let (saved, last) = (eval_losses(&only)[0], evaluated[evaluated.len() - 1]);
    assert!((saved - last).abs() < 1e-5 * last, "{saved} {last}");
}

#[test]
fn groups_are_checked_at_the_start_and_change_what_is_trained() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str, groups: &str| {
        let dir = home.path().join(name);
        let groups = match groups {
            "" => String::new(),
            groups => format!("--optimizer.groups {groups}"),
        };
        trains(
            &dir,
            &format!("{} --max_steps 2 --optimizer adamw {groups}", flags()),
        );
        weights(&dir.join("checkpoint-2"))
    };
    let plain = run("plain", "");
    assert_eq!(plain, run("same", r#"[{"params":"lora_B","lr_factor":1}]"#));
    let still = run(
        "still",
        r#"[{"params":"lora_A","lr":0},{"params":"lora_B","beta2":0.5}]"#,
    );
    assert_ne!(plain, still);
    let lorap = run("lorap", r#"[{"params":"lora_B","lr_factor":16}]"#);
    let dir = home.path().join("ratio");
    trains(
        &dir,
        &format!(
            "{} --max_steps 2 --optimizer adamw --lorap_lr_ratio 16",
            flags()
        ),
    );
    assert_eq!(lorap, weights(&dir.join("checkpoint-2")));
    for (groups, says) in [
        (r#"[{"params":"no_such"}]"#, "\"no_such\""),
        (r#"[{"params":"lora_A","betta":1}]"#, "betta"),
        (r#"[{"lr":1}]"#, "params"),
    ] {
        let flags = format!("{} --optimizer adamw --optimizer.groups {groups}", flags());
        refuses(&home.path().join("refused"), &flags, &["groups", says]);
    }
}

/// Every optimizer that a name of transformers stands for trains, and goes on from its checkpoint bit for bit.
#[test]
fn optimizers_of_transformers_names_go_on_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    for name in ["adafactor", "muon", "adamw_bnb_8bit"] {
        let [whole, rest] =
            ["whole", "rest"].map(|part| home.path().join(format!("{name}-{part}")));
        let flags = format!("{} --max_steps 4 --save_steps 2 --optim {name}", flags());
        trains(&whole, &flags);
        let checkpoint = whole.join("checkpoint-2");
        trains(
            &rest,
            &format!("{flags} --resume_from_checkpoint {}", checkpoint.display()),
        );
        assert_eq!(losses(&whole)[2..], losses(&rest), "{name}");
        assert_eq!(
            weights(&whole.join("checkpoint-4")),
            weights(&rest.join("checkpoint-4")),
            "{name}"
        );
    }
}
