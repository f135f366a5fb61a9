//! A model of two layers whose tokens are bytes and harmony's control tokens, and conversations for it.

use crate::{Error, write};
use serde_json::{Map, Value, json};
use std::path::Path;

/// harmony's control tokens, whose ids follow those of the bytes.
const CONTROL: [&str; 10] = [
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
const BYTES: usize = 256;
/// `<|endoftext|>`.
const PAD: usize = BYTES + 1;
/// `<|return|>`.
const END: usize = BYTES + 2;

/// Values of flags.
pub struct Made {
    pub model: String,
    pub tokenizer: String,
    pub dataset: String,
}

/// Writes what a run needs into a folder.
pub fn write_all(folder: &Path) -> Result<Made, Error> {
    let config = write(folder, "config.json", &config().to_string())?;
    write(folder, "tokenizer.json", &tokenizer().to_string())?;
    let rows: Vec<String> = (0..8).map(|row| conversation(row).to_string()).collect();
    Ok(Made {
        model: format!("synthetic:{config}"),
        tokenizer: folder.display().to_string(),
        dataset: write(folder, "rows.jsonl", &(rows.join("\n") + "\n"))?,
    })
}

fn config() -> Value {
    json!({
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": true,
        "attention_dropout": 0.0,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "experts_per_token": 2,
        "num_experts_per_tok": 2,
        "num_local_experts": 4,
        "head_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 32,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_hidden_layers": 2,
        "max_position_embeddings": 131_072,
        "output_router_logits": false,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": false,
            "original_max_position_embeddings": 4096,
        },
        "rope_theta": 150_000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 32,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": BYTES + CONTROL.len(),
    })
}

/// A byte-level tokenizer without merges.
fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> = letters()
        .zip(0u32..)
        .map(|(letter, id)| (letter.to_string(), id.into()))
        .collect();
    let added = CONTROL.iter().zip(BYTES..).map(|(token, id)| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": bytes,
        "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    })
}

/// GPT-2's letters for the bytes, in their order: printable ones of Latin-1 are themselves, the others those from U+0100 on.
fn letters() -> impl Iterator<Item = char> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX).map(move |byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => others.next().unwrap_or_default(),
    })
}

fn conversation(row: usize) -> Value {
    let words = [
        "one", "two", "three", "four", "five", "six", "seven", "eight",
    ];
    let (this, next) = (words[row % 8], words[(row + 1) % 8]);
    json!({"messages": [
        {"role": "user", "content": format!("What follows {this}?")},
        {"role": "assistant", "content": format!("{next} follows.")},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_byte_and_control_token_has_an_id() {
        let all: Vec<char> = letters().collect();
        assert_eq!(
            (all.len(), all[b'A' as usize], all[b' ' as usize]),
            (256, 'A', '\u{120}')
        );
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 256);
        let tokenizer = tokenizer();
        assert_eq!(
            tokenizer["model"]["vocab"].as_object().unwrap().len(),
            BYTES
        );
        assert_eq!(tokenizer["added_tokens"][2]["content"], "<|return|>");
        assert_eq!(tokenizer["added_tokens"][2]["id"], END);
    }
}
