//! A model's directory with the adapter merged in; experts that no adapter touches stay as they are.

use apus_sdk::{Exporter, Writes, register};

apus_sdk::options! {
    struct Merged {}
}

register! {
    /// A model's directory with the adapter merged in; experts that no adapter touches stay as they are.
    Exporter, "merged", Merged
}

impl Exporter for Merged {
    fn writes(&self) -> Writes {
        Writes::Merged
    }
}
