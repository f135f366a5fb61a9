//! A tokenizer for what needs one where there is no model: its tokens are the 256 bytes.

use super::tokenizer::{Tokenizer, letters};
use anyhow::Result;
use serde_json::{Map, Value, json};

impl Tokenizer {
    /// A tokenizer whose tokens are bytes, and whose ids are their values.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), none of which is expected.
    pub fn of_bytes() -> Result<Self> {
        let ids = letters().into_iter().zip(0u32..);
        let vocabulary: Map<String, Value> = ids
            .map(|(letter, id)| (letter.to_string(), id.into()))
            .collect();
        let bytes = json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": false,
        });
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": bytes,
            "decoder": bytes,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        Self::new(tokenizer.to_string().as_bytes(), None, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Rendered;

    #[test]
    fn every_byte_is_the_token_of_its_value() {
        let tokenizer = Tokenizer::of_bytes().unwrap();
        let text = "a\u{0} \u{e9}\u{1f600}\r\n\u{7f}<|end|>";
        let mut rendered = Rendered::default();
        rendered.text(text);
        let ids = tokenizer.encode(&rendered).unwrap().ids;
        assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<u32>>());
        assert_eq!(tokenizer.decode(&ids, false), text);
        assert_eq!(tokenizer.len(), 256);
    }
}
