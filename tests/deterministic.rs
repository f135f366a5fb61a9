//! `--deterministic true`: two runs write the same bytes, with the real binary, on the CPU and on a card.

mod common;

use common::{apus, fails, text, words};
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");
const FILES: [&str; 2] = ["adapter_model.safetensors", "optimizer.safetensors"];

fn line(device: &str, dir: &Path) -> String {
    format!(
        "sft --model {TINY}/model_mxfp4 --dataset {TINY}/chat_train.jsonl --device {device} --deterministic true \
         --target_modules all-linear --target_parameters 3.mlp.experts.gate_up_proj 3.mlp.experts.down_proj \
         --modules_to_save embed_tokens --max_steps 6 --per_device_train_batch_size 2 --gradient_accumulation_steps 2 \
         --save_steps 6 --learning_rate 1e-3 --add_version false --output_dir {}",
        dir.display()
    )
}

/// What two runs on a device wrote; nothing if there is no such device.
fn written_twice(device: &str) -> Option<[Vec<Vec<u8>>; 2]> {
    let home = tempfile::tempdir().unwrap();
    let runs = ["first", "second"].map(|name| {
        let dir = home.path().join(name);
        let line = line(device, &dir) + " --current_date 2025-08-05";
        let output = apus(&words(&line), &[]);
        let said = text(&output);
        if device != "cpu" && said.contains("NVIDIA driver") {
            assert!(std::env::var_os("APUS_REQUIRE_CUDA").is_none(), "{said}");
            println!("skipped: {said}");
            return None;
        }
        assert!(output.status.success(), "{said}");
        let read = |file| fs::read(dir.join("checkpoint-6").join(file)).unwrap();
        Some(FILES.map(read).to_vec())
    });
    let [first, second] = runs;
    Some([first?, second?])
}

#[test]
fn two_runs_on_the_cpu_write_the_same_bytes() {
    let [first, second] = written_twice("cpu").unwrap();
    assert!(first == second);
}

#[test]
#[cfg(feature = "cuda")]
fn two_runs_on_a_card_write_the_same_bytes() {
    if let Some([first, second]) = written_twice("cuda") {
        assert!(first == second);
    }
}

#[test]
fn the_day_of_the_run_may_not_get_in() {
    let home = tempfile::tempdir().unwrap();
    fails(
        &line("cpu", home.path()),
        2,
        &["current_date is not given", "--current_date YYYY-MM-DD"],
    );
}
