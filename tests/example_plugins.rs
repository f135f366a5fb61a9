//! The example libraries: each passes its check, and five of them replace every part of one run: format, loss scale, loss,
//! optimizer, callback and tracker.

mod common;

use common::{folder, library, works};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::thread;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn plugins(names: &[&str]) -> String {
    let path = |name: &&str| library(name).display().to_string();
    let paths: Vec<String> = names.iter().map(path).collect();
    format!("--plugin {}", paths.join(" "))
}

fn ticket(product: &str, answer: &str) -> String {
    let ticket = serde_json::json!({"subject": "Light", "product": product, "turns": [
        {"from": "customer", "text": "It is dark."},
        {"from": "bot", "text": "Is it plugged in?"},
        {"from": "agent", "text": answer},
    ]});
    format!("{ticket}\n")
}

/// Crates in `examples` that make a library, by the name of the library.
fn examples() -> Vec<String> {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let crates = folders.filter_map(|folder| {
        let folder = folder.unwrap();
        let manifest = fs::read_to_string(folder.path().join("Cargo.toml")).ok()?;
        let name = folder.file_name().to_string_lossy().replace('-', "_");
        manifest.contains("\"cdylib\"").then_some(name)
    });
    crates.collect()
}

/// Whatever lies in the folder of examples: one that is new is checked too, and has to be among the dependencies of the tests, so that
/// cargo builds it.
#[test]
fn check_passes_every_example() {
    let examples = examples();
    assert!(examples.len() >= 22, "{examples:?}");
    thread::scope(|scope| {
        for name in &examples {
            scope.spawn(move || {
                let said = works(&format!("plugin check {}", library(name).display()));
                assert!(said.contains("ok    ") && !said.contains("FAIL"), "{said}");
            });
        }
    });
}

#[test]
fn a_dataset_has_a_name_of_its_own() {
    let home = folder("example-dataset");
    let year = home.join("2024");
    fs::create_dir_all(&year).unwrap();
    let rows = ["lamp", "desk", "lamp"].map(|product| ticket(product, "It is on its way."));
    fs::write(year.join("spring.jsonl"), rows.concat()).unwrap();
    let name = |rest: &str| format!("support/tickets{rest}?folder={}&year=2024", home.display());
    for (rest, count) in [("", 3), (":lamp", 2), (":lamp#1", 1), (":chair/desk", 1)] {
        let said = works(&format!(
            "sft --device cpu --model {TINY}/model_bf16 --dry_run true --dataset {} {}",
            name(rest),
            plugins(&["ticket_format", "ticket_archive"])
        ));
        let line = said.lines().find(|line| line.contains("spring.jsonl ┆"));
        let line = line.unwrap_or_default().replace(' ', "");
        assert!(
            line.contains(&format!("┆ticket┆{count}┆")),
            "{rest}: {said}"
        );
    }
}

#[test]
fn every_part_of_a_run_is_of_a_library() {
    let home = folder("example-plugins");
    let data = home.join("tickets.jsonl");
    let rows = [
        ticket(
            "lamp",
            "Run this:\n```sh\nlight --on\n```\nThen it is bright.\n",
        ),
        ticket("desk", "A new one is on its way.\n"),
    ];
    fs::write(&data, rows.concat()).unwrap();
    let questions = home.join("run.toml");
    let (data, out) = (data.display(), home.join("out"));
    let toml = "[[callbacks]]\nname = \"quiz\"\ntokens = 3\nquestions = { \"Is it dark?\" = \"\", \"Who?\" = \"nobody\" }\n";
    fs::write(&questions, toml).unwrap();
    let plugins = plugins(&[
        "ticket_format",
        "code_decay",
        "smooth_z_loss",
        "adafactor",
        "quiz",
    ]);
    let said = works(&format!(
        "sft --config {} --device cpu --model {TINY}/model_bf16 --dataset {data}?format=ticket&include_bot=true --val_dataset {data} \
         {plugins} --loss_scale default+code_decay --loss_type smooth_z --optimizer adafactor --trackers page \
         --max_steps 4 --eval_strategy steps --eval_steps 2 --save_steps 2 --lora_rank 4 --learning_rate 1e-2 \
         --metric_for_best_model quiz_correct --greater_is_better true --enable_channel_loss true \
         --output_dir {} --add_version false",
        questions.display(),
        out.display()
    ));
    assert!(said.contains("step 4: 1 of 2 are right"), "{said}");
    let page = fs::read_to_string(out.join("numbers.md")).unwrap();
    assert!(
        page.contains("| step | eval_loss | quiz_correct |"),
        "{page}"
    );
    assert_eq!(page.matches("| 0.5 |").count(), 2, "{page}");
    let state = fs::read_to_string(out.join("checkpoint-4/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["best_metric"], 0.5);
    let args = fs::read_to_string(out.join("args.json")).unwrap();
    let args: Value = serde_json::from_str(&args).unwrap();
    assert_eq!(args["plugins"].as_array().map(Vec::len), Some(5), "{args}");
    let log = fs::read_to_string(out.join("logging.jsonl")).unwrap();
    assert!(
        log.contains("loss_lamp") && log.contains("loss_desk"),
        "{log}"
    );
}
