//! `HuggingFaceH4/Multilingual-Thinking`: reasoning in the language that the system message names, which is on Hugging Face
//! alone.

use apus_sdk::{Dataset, DatasetSource, Result};

apus_sdk::options! {
    struct MultilingualThinking {}
}

apus_sdk::register! {
    /// Reasoning in several languages; found on Hugging Face wherever ids are looked up.
    Dataset, "HuggingFaceH4/Multilingual-Thinking", MultilingualThinking
}

impl Dataset for MultilingualThinking {
    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource> {
        let id = "HuggingFaceH4/Multilingual-Thinking";
        Ok(DatasetSource::hugging_face(id).subsets(subsets))
    }
}
