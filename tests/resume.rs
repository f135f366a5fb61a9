//! Runs that are continued, stopped and broken, with the real binary.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn sft(dir: &Path, flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    let common = format!(
        "sft --dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu --logging_steps 1 \
         --learning_rate 1e-3 --output_dir {} --add_version false {flags}",
        dir.display()
    );
    command.args(common.split_whitespace());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Loss and gradient norm of each step.
fn losses(dir: &Path) -> Vec<(String, Value, Value)> {
    let log = fs::read_to_string(dir.join("logging.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line.get("loss").is_some())
        .map(|line| {
            let step = line["global_step/max_steps"].as_str().unwrap().to_owned();
            (step, line["loss"].clone(), line["grad_norm"].clone())
        })
        .collect()
}

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    let [whole, rest] = ["whole", "rest"].map(|name| home.path().join(name));
    let flags = format!(
        "--model {TINY}/model_mxfp4 --lora_dropout 0.1 --neftune_noise_alpha 5 --max_steps 8 --gradient_accumulation_steps 3 --save_steps 3"
    );
    let output = sft(&whole, &flags).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let checkpoint = whole.join("checkpoint-3");
    let resume = format!("{flags} --resume_from_checkpoint {}", checkpoint.display());
    let output = sft(&rest, &resume).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));

    let (all, later) = (losses(&whole), losses(&rest));
    assert_eq!((all.len(), later.len()), (8, 5));
    assert_eq!(all[3..], later);
    let adapter =
        |dir: &Path| fs::read(dir.join("checkpoint-8/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&whole), adapter(&rest));

    let other = format!("{resume} --data_seed 7");
    let output = sft(&rest, &other).output().unwrap();
    assert!(
        text(&output).contains("data_seed 42, this run has 42 and 7"),
        "{}",
        text(&output)
    );
    fs::remove_file(checkpoint.join("optimizer.safetensors")).unwrap();
    let output = sft(&rest, &resume).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output);
    assert!(
        error.contains("optimizer.safetensors is missing"),
        "{error}"
    );
    assert!(
        error.contains("there is also") && error.contains("checkpoint-8"),
        "{error}"
    );
}

#[test]
#[cfg(unix)]
fn a_signal_saves_and_leaves() {
    let home = tempfile::tempdir().unwrap();
    let flags =
        format!("--model {TINY}/model_mxfp4 --max_steps 100000 --gradient_accumulation_steps 1");
    let mut child = sft(home.path(), &flags)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = home.path().join("logging.jsonl");
    let started = std::time::Instant::now();
    while fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
        assert!(started.elapsed().as_secs() < 60, "the run did not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let checkpoints: Vec<PathBuf> = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && !path.ends_with("images"))
        .collect();
    let [checkpoint] = checkpoints.as_slice() else {
        panic!("{checkpoints:?}")
    };
    for file in [
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
    ] {
        assert!(checkpoint.join(file).is_file(), "{file}");
    }
}

#[test]
fn best_and_last_stay() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "--model {TINY}/model_mxfp4 --max_steps 6 --gradient_accumulation_steps 1 --save_steps 1 --save_total_limit 2 \
         --split_dataset_ratio 0.25 --load_best_model_at_end true"
    );
    let output = sft(home.path(), &flags).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let log = fs::read_to_string(home.path().join("logging.jsonl")).unwrap();
    let summary: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for key in ["best_model_checkpoint", "last_model_checkpoint"] {
        assert!(
            Path::new(summary[key].as_str().unwrap()).is_dir(),
            "{key}: {summary}"
        );
    }
    let kept = fs::read_dir(home.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("checkpoint-")
    });
    assert!(kept.count() <= 2);
    assert!(home.path().join("val_dataset.jsonl").is_file());
}

#[test]
fn a_loss_that_is_not_finite_names_layer_and_batch() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(Path::new(TINY).join("model_bf16")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    // A NaN in the norm before the experts of layer 2.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = &json["model.layers.2.post_attention_layernorm.weight"]["data_offsets"][0];
    let at = 8 + header + at.as_u64().unwrap() as usize;
    bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&weights, bytes).unwrap();

    let flags = format!("--model {} --max_steps 2", model.display());
    let output = sft(&home.path().join("run"), &flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output);
    assert!(error.contains("step 1: micro-batch 0"), "{error}");
    assert!(
        error.contains("the output of layer 2 is the first that is not finite"),
        "{error}"
    );
}

/// No success with NaN: what a step leaves is looked at, and what is not finite is not saved.
#[test]
fn values_that_are_not_finite_end_the_run_without_a_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    for (name, flags) in [
        ("epsilon", "--optimizer adamw --optimizer.eps 1e-300"),
        ("decay", "--weight_decay 1e300"),
        ("rate", "--lorap_lr_ratio 1e300"),
        ("sgd", "--optim sgd --weight_decay 1e300"),
    ] {
        let run = home.path().join(name);
        let flags = format!("--model {TINY}/model_mxfp4 --max_steps 1 --save_steps 1 {flags}");
        let output = sft(&run, &flags).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(
            said.contains("step 1") && said.contains("that are not finite"),
            "{name}: {said}"
        );
        assert!(said.contains("optimizer "), "{name}: {said}");
        assert!(!run.join("checkpoint-1").exists(), "{name}");
    }
}
