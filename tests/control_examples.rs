//! The examples of what a callback may see and change, as libraries in whole runs: averaged weights, freezing by a schedule,
//! norms by layer.

mod common;

use candle_core::{Device, Tensor, safetensors};
use common::training::{TINY, by_step, checkpoints, log, losses, refuses, sft, trains, weights};
use common::works;
use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Eight steps of three examples, with the plugin of this library.
fn flags(library: &str) -> String {
    let plugin = common::library(library);
    format!(
        "--model {TINY}/model_mxfp4 --max_steps 8 --gradient_accumulation_steps 3 --lr_scheduler_type constant \
         --plugin {}",
        plugin.display()
    )
}

/// The parameters of a checkpoint's adapter.
fn adapter(dir: &Path, step: u64) -> HashMap<String, Vec<f32>> {
    let path = dir.join(format!("checkpoint-{step}/adapter_model.safetensors"));
    let all = safetensors::load(path, &Device::Cpu).unwrap().into_iter();
    let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    all.map(|(name, tensor)| (name, values(tensor))).collect()
}

const WATCHED: &str = "--eval_steps 1 --save_steps 1 --sample_prompts Hello --max_new_tokens 2";

fn watched() -> String {
    format!("--val_dataset {TINY}/chat_train.jsonl#4 {WATCHED}")
}

#[test]
fn averages_are_evaluated_and_saved_and_the_weights_are_trained() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str, flags: String| {
        let dir = home.path().join(name);
        trains(&dir, &flags);
        dir
    };
    let plain = run("plain", format!("{} --save_steps 1", flags("ema")));
    let start = format!(
        "{} --max_steps 1 --learning_rate 0 --save_steps 1",
        flags("ema")
    );
    let start = run("start", start);
    let ema = format!(
        "{} --callbacks ema --callbacks.decay 0.75 {}",
        flags("ema"),
        watched()
    );
    let whole = run("whole", ema.clone());
    assert_eq!(
        losses(&plain),
        losses(&whole),
        "what is trained is the same"
    );

    // Each checkpoint has the averages of the weights up to its step.
    let mut averages = adapter(&start, 1);
    for step in 1..=8 {
        let (trained, saved) = (adapter(&plain, step), adapter(&whole, step));
        for (name, average) in &mut averages {
            for (average, value) in average.iter_mut().zip(&trained[name]) {
                *average += 0.25 * (value - *average);
            }
            let pairs = average.iter().zip(&saved[name]);
            let gap = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 1e-6, "{name} after step {step}: {gap}");
        }
        assert!(saved != trained);
    }

    // They are what was evaluated: a run that takes them and trains nothing finds the same loss.
    let eval_loss = |dir: &Path| {
        let log = log(dir);
        let mut losses = log
            .iter()
            .filter_map(|line| line.get("eval_loss")?.as_f64());
        losses.next_back().unwrap()
    };
    let only = format!(
        "{} {} --optim sgd --learning_rate 0 --max_steps 1 --resume_only_model true --resume_from_checkpoint {}",
        flags("ema"),
        watched(),
        whole.join("checkpoint-8").display()
    );
    let (found, expected) = (eval_loss(&run("only", only)), eval_loss(&whole));
    assert!(
        (found - expected).abs() < 1e-5 * expected,
        "{found} {expected}"
    );

    // A run that is killed goes on as if nothing had been.
    let killed = home.path().join("killed");
    let mut child = sft(&killed, &ema)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !checkpoints(&killed).iter().any(|&step| step >= 3) {
        assert!(begun.elapsed() < Duration::from_secs(300), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    trains(&killed, &format!("{ema} --resume_from_checkpoint true"));
    assert_eq!(by_step(&killed), by_step(&whole));
    for file in ["adapter_model", "trained_weights", "optimizer"] {
        let read = |dir: &Path| {
            std::fs::read(dir.join(format!("checkpoint-8/{file}.safetensors"))).unwrap()
        };
        assert!(read(&killed) == read(&whole), "{file}");
    }

    // Trained weights that are not as they were written are refused, and without the state of a run there are none.
    let damaged = whole.join("checkpoint-8/trained_weights.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let resume = format!(
        "{ema} --max_steps 9 --resume_changes max_steps --resume_from_checkpoint {}",
        whole.join("checkpoint-8").display()
    );
    refuses(
        &home.path().join("damaged"),
        &resume,
        &["trained_weights.safetensors"],
    );
    let alone = run(
        "alone",
        format!("{ema} --save_only_model true --max_steps 2"),
    );
    assert!(
        !alone
            .join("checkpoint-2/trained_weights.safetensors")
            .exists()
    );
}

#[test]
fn a_schedule_freezes_and_trains_again_and_goes_on_so() {
    let home = tempfile::tempdir().unwrap();
    let changes = r#"[{"freeze":[".*layers\\.[01]\\..*"]},{"step":4,"unfreeze":["layers.1"],"freeze":["layers.3"]}]"#;
    let flags = format!(
        "{} --callbacks freeze_by_schedule --callbacks.changes {changes} --save_steps 2",
        flags("freeze_by_schedule")
    );
    let whole = home.path().join("whole");
    trains(&whole, &flags);
    let moved = |from: u64, to: u64| {
        let (before, after) = (adapter(&whole, from), adapter(&whole, to));
        let all = before.iter().filter(|(name, _)| name.contains("lora_B"));
        let mut layers: Vec<char> = all
            .filter(|(name, value)| after[*name] != **value)
            .map(|(name, _)| {
                name.split("layers.")
                    .nth(1)
                    .unwrap()
                    .chars()
                    .next()
                    .unwrap()
            })
            .collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    };
    assert_eq!((moved(2, 4), moved(4, 6)), (vec!['2', '3'], vec!['1', '2']));
    for from in [2, 4, 6] {
        let rest = home.path().join(format!("from-{from}"));
        let checkpoint = whole.join(format!("checkpoint-{from}"));
        trains(
            &rest,
            &format!("{flags} --resume_from_checkpoint {}", checkpoint.display()),
        );
        assert_eq!(
            weights(&rest.join("checkpoint-8")),
            weights(&whole.join("checkpoint-8"))
        );
    }
}

#[test]
fn norms_by_layer_reach_the_log_and_the_curves() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    trains(
        &dir,
        &format!(
            "{} --max_steps 3 --callbacks layer_norms --callbacks.every 2",
            flags("layer_norms")
        ),
    );
    let log = log(&dir);
    let lines: Vec<_> = log
        .iter()
        .filter(|line| line.get("loss").is_some())
        .collect();
    assert_eq!(lines.len(), 3);
    for (line, has) in lines.iter().zip([true, false, true]) {
        assert_eq!(line.get("grad_norm/layers.0").is_some(), has, "{line}");
        if !has {
            continue;
        }
        // The gradients of all layers are the whole gradient, clipped to 1.
        let layers = line.as_object().unwrap().iter();
        let squares = layers.filter(|(name, _)| name.starts_with("grad_norm/"));
        let sum: f64 = squares
            .map(|(_, norm)| norm.as_f64().unwrap().powi(2))
            .sum();
        let whole = line["grad_norm"].as_f64().unwrap().min(1.0);
        assert!((sum.sqrt() - whole).abs() < 1e-4, "{line}");
        assert!(line["norm/layers.3"].as_f64().unwrap() > 0.0);
    }
    let page = home.path().join("page.html");
    works(&format!(
        "report {} --out {}",
        dir.display(),
        page.display()
    ));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("grad_norm/layers.0"));
}

/// The guide has the example as it is.
#[test]
fn the_guide_shows_the_average_as_the_example_has_it() {
    let read = |path: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    };
    let (guide, example) = (
        read("docs/plugin-guide.md"),
        read("examples/ema/src/lib.rs"),
    );
    let from = example.find("apus_sdk::options!").unwrap();
    let to = example.find("#[cfg(test)]").unwrap();
    assert!(guide.contains(example[from..to].trim_end()));
}

/// What the host takes from `plugin check` and from a callback that gives wrong weights.
#[test]
fn the_examples_pass_the_check_and_wrong_weights_are_refused() {
    let library = |name: &str| common::library(name);
    for (name, says) in [
        ("ema", "evaluate other weights"),
        ("freeze_by_schedule", "asked for nothing"),
        ("layer_norms", "ok    "),
    ] {
        let said = works(&format!("plugin check {}", library(name).display()));
        assert!(said.contains(says) && !said.contains("FAIL"), "{said}");
    }
    let home = tempfile::tempdir().unwrap();
    for (callback, says) in [
        (
            "undeclared --callbacks.weights true",
            "&[Need::Parameters, Need::Hooks]",
        ),
        (
            "sees --callbacks.gives no.such",
            "there is no parameter \"no.such\"",
        ),
        ("sees --callbacks.gives first", "it cannot be set to"),
        ("sees --callbacks.gives twice", "which was given already"),
    ] {
        let flags = format!(
            "{} --callbacks {callback} {}",
            flags("asking_plugin"),
            watched()
        );
        refuses(
            &home.path().join("wrong"),
            &flags,
            &["evaluated_weights", says],
        );
    }
}
