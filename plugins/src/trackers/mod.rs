//! Trackers: where the numbers, texts and logs of a run go.

mod console;
mod jsonl;
mod tensorboard;
