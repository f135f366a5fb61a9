//! A model's directory with all experts packed as MXFP4, with adapters merged.

use apus_sdk::{Exporter, Writes, register};

apus_sdk::options! {
    struct Mxfp4 {}
}

register! {
    /// A model's directory with all experts packed as MXFP4, with adapters merged.
    Exporter, "mxfp4", Mxfp4
}

impl Exporter for Mxfp4 {
    fn writes(&self) -> Writes {
        Writes::Mxfp4
    }
}
