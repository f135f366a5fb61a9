//! `cargo run --release -p tiny-gpt-oss -- DIR` writes what tiny-gpt-oss is made from.
//!
//! Into DIR go `train.jsonl` and `val.jsonl` (messages form), the tokenizer, `config.json` and
//! `generation_config.json` of the model, and the cat-girl rows of the quickstart. Everything depends on
//! fixed seeds alone. The README says how the model is trained from it.

mod catgirl;
mod corpus;
mod facts;
mod questions;
mod random;
mod tokenizer;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use random::Random;

const CONVERSATIONS: usize = 24_000;
const VOCABULARY: usize = 2048;

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: tiny-gpt-oss DIR")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let topics = questions::topics();
    let mut random = Random::new(1);
    let train: Vec<Value> = (0..CONVERSATIONS)
        .map(|_| corpus::conversation(&topics, &mut random))
        .collect();
    let val: Vec<Value> = (0..300)
        .map(|_| corpus::single(&topics, &mut random))
        .collect();
    let (cat, cat_val) = catgirl::rows(&topics, 400, 40, &mut random);
    for (name, rows) in [
        ("train.jsonl", &train),
        ("val.jsonl", &val),
        ("catgirl.jsonl", &cat),
        ("catgirl_val.jsonl", &cat_val),
    ] {
        write_rows(&folder.join(name), rows)?;
    }
    let mut texts: Vec<String> = (0..train.len())
        .map(|i| system_block(i, &mut random))
        .collect();
    for row in train.iter().chain(&cat).chain(&cat) {
        collect_strings(row, &mut texts);
    }
    let tokenizer = tokenizer::train(&texts, VOCABULARY)?;
    tokenizer::save(&tokenizer, &folder)?;
    write_configs(&tokenizer, &folder)?;
    println!(
        "{} conversations, {} tokens in the vocabulary",
        train.len(),
        tokenizer.get_vocab_size(true)
    );
    Ok(())
}

fn write_rows(path: &Path, rows: &[Value]) -> Result<()> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text of the system message with some date, so that the tokenizer makes it short.
fn system_block(number: usize, random: &mut Random) -> String {
    let (month, day) = (1 + random.below(12), 1 + random.below(28));
    let effort = ["medium", "medium", "low", "high"][number % 4];
    format!(
        "systemuserdeveloperassistantfinalanalysiscommentary\nYou are ChatGPT, a large language model trained by OpenAI.\n\
         Knowledge cutoff: 2024-06\nCurrent date: 202{}-{month:02}-{day:02}\n\nReasoning: {effort}\n\n# Valid channels: analysis, \
         commentary, final. Channel must be included for every message.# Instructions\n\n",
        5 + random.below(5)
    )
}

fn collect_strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_strings(item, into)),
        Value::Object(fields) => fields
            .values()
            .for_each(|field| collect_strings(field, into)),
        _ => {}
    }
}

/// config.json of the gpt-oss architecture at this size, and generation_config.json.
fn write_configs(tokenizer: &tokenizers::Tokenizer, folder: &Path) -> Result<()> {
    let [start, pad, end] = [0, 1, 2].map(|i| tokenizer::id(tokenizer, tokenizer::SPECIAL[i]));
    let (start, pad, end) = (start?, pad?, end?);
    let layers = 4;
    let kinds: Vec<&str> = (0..layers)
        .map(|i| {
            if i % 2 == 0 {
                "sliding_attention"
            } else {
                "full_attention"
            }
        })
        .collect();
    let config = json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": true,
        "attention_dropout": 0.0,
        "eos_token_id": end,
        "experts_per_token": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 160,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 160,
        "layer_types": kinds,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "output_router_logits": false,
        "pad_token_id": pad,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
            "original_max_position_embeddings": 4096,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 32,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": tokenizer.get_vocab_size(true),
    });
    tokenizer::write_json(&folder.join("config.json"), &config)?;
    let generation = json!({
        "bos_token_id": start, "do_sample": true, "eos_token_id": [end, pad], "pad_token_id": pad,
    });
    tokenizer::write_json(&folder.join("generation_config.json"), &generation)
}
