//! What whoever makes a component says of it and how a run takes that: flags of its own, and checks before the model is read.

mod common;

use apus_components::config::{Command, FLAGS};
use apus_sdk::Kind;
use common::{apus, fails, folder, text, words, works};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn asking() -> PathBuf {
    common::library("asking_plugin")
}

/// One step on the tiny model.
fn sft(dir: &Path, flags: &str) -> String {
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu \
         --max_steps 1 --gradient_accumulation_steps 1 --eval_strategy no --save_strategy no --lora_rank 2 \
         --output_dir {} --add_version false {flags}",
        dir.display()
    )
}

fn with_plugin(dir: &Path, flags: &str) -> String {
    sft(dir, &format!("--plugin {} {flags}", asking().display()))
}

fn args(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("args.json")).unwrap()).unwrap()
}

/// A program that announces a callback whose option has this flag.
fn announcing(flag: &str) -> PathBuf {
    let components = json!([{
        "kind": "callback", "name": "told",
        "options": [{"name": "count", "default": 1, "flag": flag}],
    }]);
    let announced = json!({"id": 1, "ok": {"name": "told", "components": components}});
    let dir = folder(&format!("announcing-{flag}"));
    let script = dir.join("told.sh");
    fs::write(
        &script,
        format!("read -r line\necho '{announced}'\ncat > /dev/null\n"),
    )
    .unwrap();
    script
}

/// A flag that a component of a library declares is an option of that component where it is chosen, on the command line and in a
/// file.
#[test]
fn a_declared_flag_is_an_option_of_the_chosen_component() {
    let dir = folder("declared");
    works(&with_plugin(
        &dir,
        "--callbacks asks --callbacks.event on_step_end --ask-scores 3/4 --ask_from_step 1",
    ));
    assert_eq!(
        args(&dir)["callbacks"],
        json!([{"name": "asks", "event": "on_step_end", "scores": "3/4", "step": 1}])
    );

    let dir = folder("declared-in-file");
    let file = dir.join("run.toml");
    fs::write(
        &file,
        format!(
            "ask_scores = '5'\nask_from_step = 1\nplugins = ['{}']\ncallbacks = ['asks']\n",
            asking().display()
        ),
    )
    .unwrap();
    let run = dir.join("run");
    works(&sft(
        &run,
        &format!("--config {} --ask_from_step=0", file.display()),
    ));
    assert_eq!(
        args(&run)["callbacks"],
        json!([{"name": "asks", "scores": "5", "step": 0}]),
        "the command line goes over the file"
    );
}

#[test]
fn a_declared_flag_that_cannot_be_meant_is_an_error() {
    let dir = folder("declared-wrong");
    let says = |flags: &str, status: i32, says: &[&str]| {
        fails(&with_plugin(&dir, flags), status, says);
    };
    says(
        "--ask_scores 3",
        2,
        &[
            "--ask_scores is the option scores of callback asks of plugin asking-plugin",
            "give --callbacks asks as well",
        ],
    );
    says(
        "--callbacks asks --ask_scores 3 --callbacks.scores 4",
        2,
        &["--ask_scores and the option scores of callback asks are both given"],
    );
    says(
        "--callbacks asks --ask_from_step soon",
        1,
        &["callback asks: option step: expected a whole number, found \"soon\""],
    );
    says("--callbacks asks --ask_score 3", 2, &["'--ask_score'"]);
    fails(&sft(&dir, "--ask_scores 3"), 2, &["'--ask_scores'"]);
    let file = dir.join("wrong.toml");
    fs::write(&file, "ask_scorse = 3\n").unwrap();
    says(
        &format!("--config {}", file.display()),
        2,
        &[
            "wrong.toml, line 1, key ask_scorse",
            "there is no ask_scorse",
        ],
    );
}

/// Nobody else's flag can be declared: neither that of another component nor one of Apus.
#[test]
fn a_flag_belongs_to_one() {
    let dir = folder("declared-twice");
    let run = |flag: &str| {
        let line = with_plugin(&dir, "--dry_run true");
        let mut all: Vec<String> = words(&line).into_iter().map(str::to_owned).collect();
        let at = all.iter().position(|word| word == "--plugin").unwrap();
        all.insert(at + 1, format!("cmd:sh {}", announcing(flag).display()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let output = apus(&all, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        text(&output)
    };
    let said = run("ask_scores");
    for part in [
        "two components declare the flag --ask_scores",
        "callback asks of plugin asking-plugin",
        "callback told of plugin told",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = run("lora_rank");
    assert!(
        said.contains("callback told of plugin told")
            && said.contains("--lora_rank for its option count, which Apus itself has"),
        "{said}"
    );
    let said = run("early_stop_interval");
    assert!(
        said.contains("callback early_stop (built in) has"),
        "{said}"
    );
}

/// Lists and help say which flags stand for an option.
#[test]
fn lists_name_declared_flags() {
    let listed = works(&format!(
        "components callback --plugin {}",
        asking().display()
    ));
    assert!(
        listed.contains("It asks from this step on. (also --ask_from_step)"),
        "{listed}"
    );
    assert!(listed.contains("(also --early_stop_interval)"), "{listed}");
}

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

/// Every rank asks its components.
#[cfg(feature = "mpi")]
#[test]
fn a_check_ends_every_rank() {
    let dir = folder("checks-ranks");
    let line = with_plugin(&dir, "--callbacks checks");
    let output = apus(&words(&line), &[("NPROC_PER_NODE", "2")]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("check: refused with the optimizer adamw of 1 steps, rank"),
        "{said}"
    );
}

/// What a component forgets over a checkpoint, or counts twice, is found before a run.
#[test]
fn a_check_finds_what_no_run_tells() {
    let said = fails(
        &format!("plugin check {}", asking().display()),
        1,
        &["checks failed"],
    );
    for (component, finding) in [
        (
            "schedule remembers",
            "FAIL  asked in another order: after 39 steps the factor was",
        ),
        (
            "loss weighs",
            "FAIL  weights: with weights 3 times as large the losses are 3 times as large",
        ),
        (
            "callback forgets",
            "FAIL  goes on from a checkpoint: a run that goes on from the checkpoint of step 4 asks at step 5",
        ),
        (
            "optimizer forgets",
            "FAIL  goes on exactly from a checkpoint",
        ),
        ("optimizer keeps", "ok    goes on exactly from a checkpoint"),
        ("metric hoards", "FAIL  does not start afresh after compute"),
        (
            "callback unchecked",
            "fn needs() -> &'static [Need] { &[Need::Check] }",
        ),
        ("loss checks", "note  refuses the set-up of this check"),
    ] {
        let (_, of_it) = said.split_once(&format!("{component} ")).expect(component);
        let lines = of_it
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("      "));
        let found: Vec<&str> = lines.collect();
        assert!(
            found.iter().any(|line| line.contains(finding)),
            "{component}: {found:#?}"
        );
    }
}

/// Components are made with options, and one that does not come back is named.
#[test]
fn a_check_takes_options_and_ends_in_time() {
    let check = format!("plugin check {} --timeout 2 --options", asking().display());
    let before = std::time::Instant::now();
    let slow = |options: &str| {
        let line = format!("{check} JSON");
        let mut all = words(&line);
        all.pop();
        all.push(options);
        let output = apus(&all, &[]);
        (output.status.code(), text(&output))
    };
    let (status, said) = slow(r#"{"callback forgets": {"seconds": 3600}}"#);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("callback forgets of plugin asking-plugin"),
        "{said}"
    );
    assert!(
        said.contains("has not come back within 2 seconds, in callback forgets"),
        "{said}"
    );
    assert!(
        said.contains("optimizer keeps"),
        "those before it are checked: {said}"
    );
    assert!(before.elapsed().as_secs() < 60);
    for (options, says) in [
        (
            r#"{"forgets": {}}"#,
            "forgets is the name of optimizer forgets and callback forgets; give its kind too",
        ),
        (
            r#"{"nobody": {}}"#,
            "there is no component nobody; there are",
        ),
        ("3", "expected an object of objects"),
        (r#"{"keeps": 3}"#, "found 3 for keeps"),
    ] {
        let (status, said) = slow(options);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let (_, said) = slow(r#"{"callback forgets": {"second": 3}}"#);
    assert!(
        said.contains("cannot be made") && said.contains("second"),
        "{said}"
    );
}

/// An error in an option names it, wherever it was written and whoever finds it.
#[test]
fn errors_in_options_name_the_option() {
    let dir = folder("options");
    // What is written in JSON and in TOML, and what is said of it.
    let table = [
        (
            "share",
            r#""x""#,
            "option share: expected a number, found \"x\"",
        ),
        (
            "share",
            "2.5",
            "share is 2.5, expected a number of 0 or more and up to 1",
        ),
        ("share", "[1]", "option share: expected a number, found [1]"),
        (
            "count",
            "1.5",
            "option count: expected a whole number, found 1.5",
        ),
        ("count", "-1", "option count: expected u32, found -1"),
        (
            "shape",
            r#""cosin""#,
            "option shape: expected one of linear, half_cosine, found \"cosin\"",
        ),
        ("shape", "3", "option shape: "),
        ("shapes", r#"["linear", "cosin"]"#, "option shapes: "),
        ("pair", "[1, true]", "option pair: "),
        ("pair", "[1]", "option pair: "),
        (
            "whether",
            "3",
            "option whether: expected true or false, found 3",
        ),
        (
            "shar",
            "1",
            "unknown field `shar`, expected one of `share`, `count`",
        ),
        ("anything", "1", "unknown field `anything`"),
    ];
    for (option, value, says) in table {
        let config = dir.join("run.toml");
        fs::write(
            &config,
            format!("callbacks = [{{ name = 'optioned', {option} = {value} }}]\n"),
        )
        .unwrap();
        let from_file = with_plugin(&dir, &format!("--config {}", config.display()));
        let from_line = with_plugin(&dir, "--callbacks optioned --callbacks.OPTION VALUE");
        let option = format!("--callbacks.{option}");
        let from_line: Vec<&str> = words(&from_line)
            .into_iter()
            .map(|word| match word {
                "--callbacks.OPTION" => &option,
                "VALUE" => value,
                word => word,
            })
            .collect();
        for line in [words(&from_file), from_line] {
            let line: Vec<String> = line
                .into_iter()
                .map(|word| word.replace("model_bf16", "no-model"))
                .collect();
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let output = apus(&line, &[]);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(1), "{line:?}\n{said}");
            assert!(
                said.contains("callback optioned") && said.contains(says),
                "{line:?}: {says}\n{said}"
            );
        }
    }
}
