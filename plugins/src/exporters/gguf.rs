//! One GGUF file, the format of llama.cpp and of what is built on it.

use apus_sdk::{Exporter, Writes, register};

apus_sdk::options! {
    struct Gguf {
        /// What the file holds: auto, mxfp4, bf16 or f32.
        outtype: String = "auto".to_owned(),
    }
}

register! {
    /// One GGUF file, for llama.cpp and what is built on it, with adapters merged.
    Exporter, "gguf", Gguf
}

impl Exporter for Gguf {
    fn writes(&self) -> Writes {
        Writes::Gguf(self.outtype.clone())
    }
}
