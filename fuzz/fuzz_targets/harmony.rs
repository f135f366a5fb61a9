//! Any text as harmony, and as what a model wrote.

#![no_main]

use apus_data::chat::dialect::harmony::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| invariants::text(text));
