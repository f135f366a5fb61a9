//! The adapter alone, in the form that vLLM takes.

use apus_sdk::{Exporter, Writes, register};

apus_sdk::options! {
    struct Vllm {}
}

register! {
    /// The adapter alone, in the form that vLLM takes.
    Exporter, "vllm", Vllm
}

impl Exporter for Vllm {
    fn writes(&self) -> Writes {
        Writes::Vllm
    }
}
