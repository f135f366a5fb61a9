//! Trains the byte-level BPE tokenizer and writes it as Hugging Face files.
//!
//! The pieces are those of `o200k_harmony`: its pre-tokenizer pattern, byte-level merges and the harmony
//! special tokens after the learned vocabulary.

use std::path::Path;

use anyhow::{Result, anyhow};
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// The special tokens, in the order of their ids, which follow the learned vocabulary.
pub const SPECIAL: [&str; 10] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
    "<|endofprompt|>",
];

const PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Learns a vocabulary of at most `vocab_size` tokens, special ones included, from `texts`.
///
/// Fails if the pattern or the training is refused by the tokenizer library.
pub fn train(texts: &[String], vocab_size: usize) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let split = Split::new(
        SplitPattern::Regex(PATTERN.into()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(|error| anyhow!("the pre-tokenizer pattern was refused: {error}"))?;
    let bytes = ByteLevel::new(false, true, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .show_progress(false)
        .min_frequency(2)
        .max_token_length(Some(16))
        .vocab_size(vocab_size - SPECIAL.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    tokenizer
        .train(&mut trainer, texts.iter().map(String::as_str))
        .map_err(|error| anyhow!("training the tokenizer failed: {error}"))?;
    tokenizer
        .add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)))
        .map_err(|e| anyhow!(e))?;
    Ok(tokenizer)
}

/// The id of a token; an error if the vocabulary lacks it.
pub fn id(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer
        .token_to_id(token)
        .ok_or_else(|| anyhow!("the tokenizer has no token {token}"))
}

/// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`.
pub fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    let path = folder.join("tokenizer.json");
    tokenizer
        .save(&path, false)
        .map_err(|error| anyhow!("cannot write {}: {error}", path.display()))?;
    let mut decoder = Map::new();
    for token in SPECIAL {
        let entry = json!({
            "content": token, "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": true,
        });
        decoder.insert(id(tokenizer, token)?.to_string(), entry);
    }
    let names =
        json!({ "bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[1] });
    let config = json!({
        "added_tokens_decoder": decoder,
        "bos_token": SPECIAL[0],
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL[2],
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "pad_token": SPECIAL[1],
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    write_json(&folder.join("special_tokens_map.json"), &names)
}

/// Writes indented JSON with a final line break.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}
