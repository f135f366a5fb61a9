//! `himzhzx/muice-dataset-train.catgirl`: a cat's way of talking, instruction and output, which is on ModelScope alone.

use apus_sdk::{Dataset, DatasetSource, Result};

apus_sdk::options! {
    struct Catgirl {}
}

apus_sdk::register! {
    /// How a cat talks, in Chinese; found on ModelScope wherever ids are looked up.
    Dataset, "himzhzx/muice-dataset-train.catgirl", Catgirl
}

impl Dataset for Catgirl {
    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource> {
        let id = "himzhzx/muice-dataset-train.catgirl";
        Ok(DatasetSource::model_scope(id).subsets(subsets))
    }
}
