//! Components look at the set-up of a command before its model is looked for, whatever the command.

use crate::common::{fails, folder, words};
use crate::{TINY, asking, with_plugin};
use apus_components::config::{Command, FLAGS};
use apus_sdk::Kind;
use serde_json::json;
use std::fs;

/// A component of each kind refuses the set-up before anything of the model is looked for: there is no such model.
#[test]
fn a_check_ends_the_command_before_the_model_is_read() {
    let dir = folder("checks");
    let run = |flags: &str| {
        let line = with_plugin(&dir, flags);
        line.replace(&format!("{TINY}/model_bf16"), "/nowhere/no-model")
    };
    let of = |kind: &str| match kind {
        "schedule" => "schedule checks_rates of plugin asking-plugin".to_owned(),
        kind => format!("{kind} checks of plugin asking-plugin"),
    };
    let before = std::time::Instant::now();
    for (flags, kind) in [
        ("--dataset_format checks", "dataset format"),
        ("--loss_scale all+checks", "loss scale"),
        ("--loss_type checks", "loss"),
        ("--lr_scheduler checks_rates", "schedule"),
        ("--callbacks checks", "callback"),
        ("--metrics checks", "metric"),
        ("--trackers checks", "tracker"),
        ("--train_type checks", "tuner"),
    ] {
        for dry in ["", " --dry_run true"] {
            fails(
                &run(&format!("{flags}{dry}")),
                1,
                &[
                    &of(kind),
                    "check: refused with the optimizer adamw of 1 steps, rank 0 of 1",
                ],
            );
        }
    }
    let each = before.elapsed() / 16;
    assert!(each.as_secs_f64() < 2.0, "{each:?} for a refusal");
    fails(
        &run("--optimizer checks"),
        1,
        &[&of("optimizer"), "the optimizer checks of 1 steps"],
    );
    let dataset = run("").replace(&format!("{TINY}/chat_train.jsonl"), "mine/checks");
    fails(
        &dataset,
        1,
        &[
            "dataset mine/checks of plugin asking-plugin",
            "check: refused",
        ],
    );
    fails(
        &format!(
            "export --to checks --model /nowhere/no-model --plugin {}",
            asking().display()
        ),
        1,
        &[&of("exporter"), "check: refused"],
    );
    fails(
        &run("--callbacks checks --callbacks.panics true"),
        1,
        &[&of("callback"), "check: panicked", "a panic of a check"],
    );
    fails(
        &run("--callbacks unchecked"),
        1,
        &["fn needs() -> &'static [Need] { &[Need::Check] }"],
    );
    fails(&run(""), 1, &["/nowhere/no-model"]);
}

/// A command, what it needs beside the flag that chooses a component, the flags that do, and those that are about training, which
/// it reads over.
struct Asks {
    command: Command,
    line: &'static str,
    asks: &'static [(&'static str, &'static str)],
    idle: &'static [&'static str],
}

const OF_DATA: [(&str, &str); 5] = [
    ("dataset", "mine/checks"),
    ("val_dataset", "mine/checks"),
    ("dataset_format", "checks"),
    ("loss_scale", "checks"),
    ("loss_type", "checks"),
];

const ASKS: [Asks; 8] = [
    Asks {
        command: Command::Sft,
        line: "sft --output_dir RUN --max_steps 1 --device cpu",
        asks: &[
            OF_DATA[0],
            OF_DATA[1],
            OF_DATA[2],
            OF_DATA[3],
            OF_DATA[4],
            ("optimizer", "checks"),
            ("lr_scheduler", "checks_rates"),
            ("sampler", "checks"),
            ("callbacks", "checks"),
            ("metrics", "checks"),
            ("trackers", "checks"),
            ("report_to", "checks"),
            ("train_type", "checks"),
            ("adapters", "ADAPTER"),
        ],
        idle: &[],
    },
    Asks {
        command: Command::Infer,
        line: "infer --device cpu",
        asks: &[
            OF_DATA[0],
            OF_DATA[1],
            OF_DATA[2],
            ("metrics", "checks"),
            ("adapters", "ADAPTER"),
        ],
        idle: &[],
    },
    Asks {
        command: Command::Deploy,
        line: "deploy --device cpu --port 0",
        asks: &[("adapters", "ADAPTER"), ("adapters", "mine=ADAPTER")],
        idle: &[],
    },
    Asks {
        command: Command::Export,
        line: "export",
        asks: &[("to", "checks"), ("adapters", "ADAPTER")],
        idle: &[],
    },
    Asks {
        command: Command::ModelNew,
        line: "model new",
        asks: &[],
        idle: &[],
    },
    Asks {
        command: Command::Bench,
        line: "bench --device cpu",
        asks: &[
            ("loss_type", "checks"),
            ("optimizer", "checks"),
            ("train_type", "checks"),
        ],
        idle: &[],
    },
    Asks {
        command: Command::Data,
        line: "data",
        asks: &OF_DATA,
        idle: &[
            "optimizer",
            "lr_scheduler",
            "sampler",
            "callbacks",
            "metrics",
            "trackers",
            "train_type",
            "adapters",
        ],
    },
    Asks {
        command: Command::Eval,
        line: "eval --device cpu",
        asks: &[
            OF_DATA[0],
            OF_DATA[1],
            OF_DATA[2],
            OF_DATA[3],
            OF_DATA[4],
            ("metrics", "checks"),
            ("adapters", "ADAPTER"),
        ],
        idle: &[
            "optimizer",
            "lr_scheduler",
            "sampler",
            "callbacks",
            "trackers",
            "train_type",
        ],
    },
];

/// Every command asks the components that it makes before its model is looked for (there is none); the error names the component and
/// the place where it was chosen, on the command line and in a file.
#[test]
fn every_command_asks_the_components_that_it_makes() {
    let dir = folder("checks-commands");
    let adapter = dir.join("adapter");
    fs::create_dir(&adapter).unwrap();
    let tuned = json!({
        "peft_type": "NONE",
        "base_model_name_or_path": "/nowhere/no-model",
        "apus_tuner": {"name": "checks", "options": {}, "modules": [], "modules_to_save": []},
    });
    fs::write(adapter.join("adapter_config.json"), tuned.to_string()).unwrap();
    let chat = format!("{TINY}/chat_train.jsonl");
    for Asks { line, asks, .. } in ASKS {
        for (flag, value) in asks {
            let mut all = format!("{line} --model /nowhere/no-model")
                .replace("RUN", &dir.join("run").display().to_string());
            if !["export", "deploy", "bench"].contains(&words(line)[0]) {
                let rows = match words(line)[0] {
                    "infer" if *flag != "dataset" => "val_dataset",
                    _ => "dataset",
                };
                if rows != *flag {
                    all += &format!(" --{rows} {chat}");
                }
            }
            all += &format!(" --plugin {}", asking().display());
            let value = value.replace("ADAPTER", &adapter.display().to_string());
            let config = dir.join("run.toml");
            fs::write(&config, format!("{flag} = {value:?}\n")).unwrap();
            let kind = Kind::ALL.iter().find(|kind| kind.flag() == *flag);
            let component = match (*flag, kind) {
                ("adapters", _) => "tuner checks".to_owned(),
                ("report_to", _) => "tracker checks".to_owned(),
                (_, Some(Kind::Dataset)) | ("val_dataset", _) => "dataset mine/checks".to_owned(),
                (_, kind) => format!("{} {value}", kind.unwrap()),
            };
            let says = format!("{component} of plugin asking-plugin");
            let said = fails(
                &format!("{all} --{flag} {value}"),
                1,
                &[&format!("--{flag}: {says}"), "check: refused"],
            );
            assert!(!said.contains("no such model"), "{said}");
            fails(
                &format!("{all} --config {}", config.display()),
                1,
                &[
                    &format!("{}, line 1, key {flag}: {says}", config.display()),
                    "check: refused",
                ],
            );
        }
    }
}

/// The table above has every command, and every flag of one that chooses components.
#[test]
fn the_table_of_commands_that_ask_is_whole() {
    let mut all: Vec<Command> = FLAGS
        .iter()
        .flat_map(|flag| flag.uses.iter().map(|used| used.command))
        .collect();
    all.sort_by_key(|command| format!("{command:?}"));
    all.dedup();
    for command in all {
        let asks = ASKS.iter().find(|asks| asks.command == command);
        let asks = asks.unwrap_or_else(|| panic!("{command:?}"));
        let chooses =
            |name: &str| name == "adapters" || Kind::ALL.iter().any(|kind| kind.flag() == name);
        let flags = FLAGS
            .iter()
            .filter(|flag| flag.accepted_by(command) && chooses(flag.name));
        for flag in flags {
            let is_asked = asks.asks.iter().any(|(name, _)| *name == flag.name);
            assert!(
                is_asked != asks.idle.contains(&flag.name),
                "{command:?}: --{}",
                flag.name
            );
        }
    }
}

/// Components are asked again once the rows are counted, before the weights are read.
#[test]
fn a_check_is_told_the_rows() {
    let dir = folder("checks-rows");
    fails(
        &with_plugin(&dir, "--loss_type checks --loss_type.rows true"),
        1,
        &["loss checks of plugin asking-plugin", " rows are refused"],
    );
}
