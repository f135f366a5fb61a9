//! Trackers: where the numbers, texts and logs of a run go.

mod console;
mod jsonl;
pub mod swanlab;
mod tensorboard;

/// The name that transformers gives a number of its log (`rewrite_logs`): `train/loss`, `eval/loss`.
fn rewritten(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}
