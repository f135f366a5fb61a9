//! Bodies of requests to `apus deploy`: whatever a client sends, reading it does not panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| apus_engine::serve::read_anything(body));
