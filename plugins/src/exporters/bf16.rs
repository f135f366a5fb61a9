//! A model's directory with all experts in BF16, with adapters merged.

use apus_sdk::{Exporter, Writes, register};

apus_sdk::options! {
    struct Bf16 {}
}

register! {
    /// A model's directory with all experts in BF16, with adapters merged.
    Exporter, "bf16", Bf16
}

impl Exporter for Bf16 {
    fn writes(&self) -> Writes {
        Writes::Bf16
    }
}
