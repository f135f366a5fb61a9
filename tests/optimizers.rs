//! Optimizers in whole runs: weights that are evaluated and saved in place of those that are trained, groups of parameters.

mod common;

use common::training::{TINY, checkpoints, log, losses, refuses, said, sft, trains, weights};
use std::path::Path;

/// The flag of a plugin that `cargo test` built beside this binary.
fn plugin(name: &str) -> String {
    let path = common::library(name);
    format!("--plugin {}", path.display())
}

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
    let galore = "galore --train_type full --galore_rank 3 --galore_update_proj_gap 3 --galore_target_modules q_proj mlp.experts";
    for name in ["adafactor", "muon", "adamw_bnb_8bit", galore] {
        let flags = format!("{} --max_steps 4 --save_steps 2 --optim {name}", flags());
        let name = name.split(' ').next().unwrap_or_default();
        let [whole, rest] =
            ["whole", "rest"].map(|part| home.path().join(format!("{name}-{part}")));
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

/// Optimizers of libraries: what each adds to the flags.
fn of_plugins() -> [(&'static str, String); 3] {
    let counts = r#"--optimizer counts --optimizer.groups [{"params":"lora_B","factor":3}]"#;
    [
        ("sam", format!("{} --optimizer sam", plugin("sam"))),
        (
            "schedule_free",
            format!(
                "{} --optimizer schedule_free --learning_rate 0.1",
                plugin("schedule_free")
            ),
        ),
        ("counts", format!("{} {counts}", plugin("asking_plugin"))),
    ]
}

/// Hooks, own state, groups and passes through the boundary: evaluations, answers and checkpoints change nothing of what is
/// trained, and a resumed run is the one that was not interrupted.
#[test]
fn optimizers_of_plugins_go_on_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    for (name, of_plugin) in of_plugins() {
        let [quiet, whole, rest] =
            ["quiet", "whole", "rest"].map(|part| home.path().join(format!("{name}-{part}")));
        let flags = format!("{} --max_steps 5 {of_plugin}", flags());
        trains(
            &quiet,
            &format!("{flags} --save_steps 5 --eval_strategy no"),
        );
        let watched = format!(
            "{flags} --val_dataset {TINY}/chat_train.jsonl#4 --eval_steps 2 --save_steps 1 --sample_prompts Hello \
             --max_new_tokens 2"
        );
        trains(&whole, &watched);
        let checkpoint = whole.join("checkpoint-3");
        trains(
            &rest,
            &format!(
                "{watched} --resume_from_checkpoint {}",
                checkpoint.display()
            ),
        );
        assert_eq!(losses(&quiet), losses(&whole), "{name}");
        assert_eq!(losses(&whole)[3..], losses(&rest), "{name}");
        let [expected, found, watched] =
            [&quiet, &rest, &whole].map(|run| weights(&run.join("checkpoint-5")));
        assert!(expected == found && expected == watched, "{name}");
    }
}

#[test]
fn the_passes_of_a_step_and_groups_change_what_is_trained() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str, flags_of: &str| {
        let dir = home.path().join(name);
        trains(&dir, &format!("{} --max_steps 3 {flags_of}", flags()));
        (losses(&dir), weights(&dir.join("checkpoint-3")))
    };
    // Without a radius the second passes find what the first ones found, and the rest is AdamW.
    let sam = |rho: f64| format!("{} --optimizer sam --optimizer.rho {rho}", plugin("sam"));
    let adamw = run("adamw", "--optimizer adamw");
    assert!(adamw == run("sam-0", &sam(0.0)));
    assert_ne!(adamw.1, run("sam", &sam(0.5)).1);
    let counts =
        |options: &str| format!("{} --optimizer counts {options}", plugin("asking_plugin"));
    let thrice = run("counts-3", &counts("--optimizer.factor 3"));
    let groups = r#"--optimizer.groups [{"params":"lora","factor":3}]"#;
    assert!(thrice == run("counts-group", &counts(groups)));
    assert_ne!(thrice.1, run("counts-1", &counts("")).1);
}

/// Wherever a run dies between its hooks, what lies on disk are the weights to be used, and it goes on with those to be trained.
#[test]
fn runs_that_die_between_hooks_go_on_exactly() {
    let home = tempfile::tempdir().unwrap();
    let [_, _, (_, counts)] = of_plugins();
    let flags = format!("{} --max_steps 5 --save_steps 1 {counts}", flags());
    let whole = home.path().join("whole");
    trains(&whole, &flags);
    for function in ["before_saving", "save_state", "after_saving"] {
        let run = home.path().join(function);
        let mut dies = sft(&run, &flags);
        let output = dies
            .env("APUS_TEST_DIES", format!("{function}:3"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), None, "{function}: {}", said(&output));
        let newest = if function == "after_saving" { 3 } else { 2 };
        assert_eq!(checkpoints(&run).last(), Some(&newest), "{function}");
        let saved = |run: &Path, step: u64| weights(&run.join(format!("checkpoint-{step}")));
        assert_eq!(saved(&run, newest), saved(&whole, newest), "{function}");
        trains(&run, &format!("{flags} --resume_from_checkpoint true"));
        assert_eq!(saved(&run, 5), saved(&whole, 5), "{function}");
    }
}

/// What fails in a library's optimizer is said with its name and that of the function.
#[test]
fn functions_of_a_plugin_that_fail_are_named() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "{} --optimizer counts {} --max_steps 3 --save_steps 2 --val_dataset {TINY}/chat_train.jsonl#2 --eval_steps 1",
        flags(),
        plugin("asking_plugin")
    );
    let begun = home.path().join("begun");
    trains(&begun, &flags);
    for function in [
        "step_with",
        "save_state",
        "before_evaluation",
        "after_evaluation",
        "before_saving",
        "after_saving",
        "load_state",
    ] {
        let resumed = match function {
            "load_state" => format!(
                "--resume_from_checkpoint {} --resume_changes optimizer",
                begun.join("checkpoint-2").display()
            ),
            _ => String::new(),
        };
        let dir = home.path().join(function);
        let output = sft(
            &dir,
            &format!("{flags} --optimizer.fails {function} {resumed}"),
        )
        .output()
        .unwrap();
        let said = said(&output);
        assert!(!output.status.success(), "{function}\n{said}");
        for part in ["optimizer counts", function, "told to fail"] {
            assert!(said.contains(part), "{function}: {part:?} not in\n{said}");
        }
    }
    // A plan of memory that an optimizer does not help with is made without it.
    let unplanned = home.path().join("unplanned");
    let said = trains(
        &unplanned,
        &format!("{flags} --optimizer.fails state_bytes"),
    );
    let note = said.lines().find(|line| line.contains("told to fail"));
    assert!(
        note.is_some_and(|note| note.contains("memory plan") && note.contains("state_bytes")),
        "{said}"
    );
    let refused = r#"--optimizer sam --optimizer.groups [{"params":"lora_B","beta1":0.5}]"#;
    let flags = format!("{flags} {refused} {}", plugin("sam"));
    refuses(
        &home.path().join("refused"),
        &flags,
        &["optimizer.groups, number 1", "Need::Groups"],
    );
}

#[test]
fn optimizers_of_plugins_pass_their_check() {
    for (name, checks) in [
        (
            "sam",
            [
                "a step that is taken back leaves nothing",
                "makes the passes of a step again: 40 times in 40 steps",
            ],
        ),
        (
            "schedule_free",
            [
                "an evaluation changes nothing of what is trained",
                "a checkpoint changes nothing of what is trained",
            ],
        ),
    ] {
        let library = plugin(name).replace("--plugin ", "");
        let said = common::works(&format!("plugin check {library} --device cpu"));
        for check in checks {
            assert!(
                said.contains(&format!("ok    {check}")),
                "{name}: {check:?} not in\n{said}"
            );
        }
    }
}
