//! The configurations of the other commands.

use super::flag::Command;
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Flags of `apus infer`; each field is the flag of its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct InferConfig {
    pub model: Option<String>,
    pub use_hf: Option<bool>,
    pub adapters: Vec<String>,
    pub tokenizer: Option<String>,
    pub torch_dtype: Option<String>,
    pub experts_dtype: String,
    pub device: String,
    pub plugins: Vec<PluginSpec>,
    pub dataset: Vec<String>,
    pub val_dataset: Vec<String>,
    pub columns: Value,
    pub disable_auto_column_mapping: bool,
    pub val_dataset_sample: Option<usize>,
    pub dataset_format: Option<Spec>,
    pub strict: bool,
    pub max_length: Option<usize>,
    pub system: Option<String>,
    pub reasoning_effort: Option<String>,
    pub model_identity: Option<String>,
    pub current_date: Option<String>,
    pub template_backend: Option<String>,
    pub think_to_analysis: Option<bool>,
    pub keep_thinking: Option<bool>,
    pub max_new_tokens: usize,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub repetition_penalty: Option<f64>,
    pub seed: u64,
    pub stream: Option<bool>,
    pub show_thinking: bool,
    pub result_path: Option<String>,
    pub input_ids: Vec<String>,
    pub dump_logits: Option<String>,
}

impl Default for InferConfig {
    fn default() -> Self {
        Self {
            model: None,
            use_hf: None,
            adapters: Vec::new(),
            tokenizer: None,
            torch_dtype: None,
            experts_dtype: "mxfp4".to_owned(),
            device: "auto".to_owned(),
            plugins: Vec::new(),
            dataset: Vec::new(),
            val_dataset: Vec::new(),
            columns: Value::Null,
            disable_auto_column_mapping: false,
            val_dataset_sample: None,
            dataset_format: None,
            strict: false,
            max_length: None,
            system: None,
            reasoning_effort: None,
            model_identity: None,
            current_date: None,
            template_backend: None,
            think_to_analysis: None,
            keep_thinking: None,
            max_new_tokens: 2048,
            temperature: None,
            top_p: None,
            top_k: None,
            repetition_penalty: None,
            seed: 42,
            stream: None,
            show_thinking: true,
            result_path: None,
            input_ids: Vec::new(),
            dump_logits: None,
        }
    }
}

impl super::Config for InferConfig {
    const COMMAND: Command = Command::Infer;

    fn resolve_values(&mut self) -> Result<()> {
        super::instructions(&mut self.system)
    }
}

/// Flags of `apus export`; each field is the flag of its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ExportConfig {
    pub model: Option<String>,
    pub use_hf: Option<bool>,
    pub adapters: Vec<String>,
    pub plugins: Vec<PluginSpec>,
    pub merge_lora: bool,
    pub quantize: Option<String>,
    pub output_dir: Option<String>,
    pub max_shard_size: String,
    pub exist_ok: bool,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self {
            model: None,
            use_hf: None,
            adapters: Vec::new(),
            plugins: Vec::new(),
            merge_lora: false,
            quantize: None,
            output_dir: None,
            max_shard_size: "5GB".to_owned(),
            exist_ok: false,
        }
    }
}

impl super::Config for ExportConfig {
    const COMMAND: Command = Command::Export;

    fn resolve_values(&mut self) -> Result<()> {
        self.output_dir.as_mut().map_or(Ok(()), super::absolute)
    }
}

/// Flags of `apus model new`; each field is the flag of its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ModelNewConfig {
    pub arch: String,
    pub format: String,
    pub seed: u64,
    pub tokenizer: Option<String>,
    pub output_dir: Option<String>,
}

impl Default for ModelNewConfig {
    fn default() -> Self {
        Self {
            arch: "gpt-oss-20b".to_owned(),
            format: "mxfp4".to_owned(),
            seed: 42,
            tokenizer: None,
            output_dir: None,
        }
    }
}

impl super::Config for ModelNewConfig {
    const COMMAND: Command = Command::ModelNew;

    fn resolve_values(&mut self) -> Result<()> {
        self.output_dir.as_mut().map_or(Ok(()), super::absolute)
    }
}
