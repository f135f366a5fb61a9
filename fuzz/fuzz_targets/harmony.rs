//! Any text as harmony, and as what a model wrote.

#![no_main]

use apus_data::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| invariants::harmony_text(text));
