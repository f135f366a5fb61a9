//! Short runs of the reference model with a plugin.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// The reference models and their data.
pub const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// Runs a command that has to fail in an orderly way and say all of these.
#[track_caller]
pub fn fails(line: &str, says: &[&str]) -> String {
    super::fails(line, 1, says)
}

/// `apus sft` on the reference model for four steps, with an evaluation and a checkpoint every two.
pub fn sft(out: &Path, plugin: &Path, flags: &str) -> String {
    format!(
        "sft --device cpu --add_version false --model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl \
         --val_dataset {GOLDENS}/chat_train.jsonl --per_device_train_batch_size 4 \
         --gradient_accumulation_steps 1 --max_steps 4 --logging_steps 1 --save_steps 2 --lora_rank 4 \
         --learning_rate 1e-3 --max_new_tokens 3 --output_dir {} --plugin {} {flags}",
        out.display(),
        plugin.display()
    )
}

/// What the lines of the log say of losses.
pub fn losses(run: &Path) -> Vec<String> {
    let log = fs::read_to_string(run.join("logging.jsonl")).unwrap();
    log.lines()
        .filter_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let keys = ["loss", "grad_norm", "learning_rate", "eval_loss"];
            let found = keys.map(|key| line.get(key).map(Value::to_string));
            found
                .iter()
                .any(Option::is_some)
                .then(|| format!("{found:?}"))
        })
        .collect()
}
