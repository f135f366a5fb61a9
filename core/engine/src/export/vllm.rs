//! Writes an adapter in the form that vLLM takes.

use super::whole::{self, Output};
use super::writer::ARGS;
use super::{base_model, target};
use crate::tuners::OpenedAdapter;
use anyhow::{Context, Result, bail};
use apus_base::wording;
use apus_components::config::ExportConfig;
use apus_model::adapter::{self, Adapter};
use apus_model::families::ModelConfig;
use apus_sdk::errln;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of an adapter's folder that is replaced.
const FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", ARGS];

/// Writes the adapter and returns its folder.
pub(super) fn write(from: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let base = base_model(from, options)?;
    let config = ModelConfig::read(&base.join("config.json"))?;
    let adapter = match OpenedAdapter::open(from, &config)? {
        OpenedAdapter::LowRank(adapter) => *adapter,
        OpenedAdapter::Tuned(tuned) => match tuned.low_rank_adapter()? {
            Some(adapter) => adapter,
            None => bail!(
                "{}: it was trained by the {}, and vLLM takes low-rank updates alone; merge it (--merge_lora true)",
                from.display(),
                tuned.label()
            ),
        },
    };
    for note in &adapter.notes {
        errln!("note: {note}");
    }
    let made = adapter
        .for_vllm()
        .with_context(|| from.display().to_string())?;
    let dir = target(options, from, "-vllm");
    super::apart(&dir, from)?;
    let tensors = made
        .params
        .iter()
        .map(|param| param.value().elem_count() * 4);
    let output = Output {
        dir: &dir,
        replace: options.exist_ok,
        kind: "an adapter",
        holds: &|name| FILES.contains(&name),
        bytes: tensors.sum::<usize>() as u64,
    };
    whole::write(&output, |temporary| {
        adapter::save(temporary, &made.params, &made.config)?;
        if from.join(ARGS).is_file() {
            fs::copy(from.join(ARGS), temporary.join(ARGS)).context("copying args.json")?;
        }
        // Names and shapes are those of the model.
        Adapter::open(temporary, &config).map(drop)
    })?;
    if !made.added.is_empty() {
        errln!(
            "note: vLLM wants updates of both matrices of a layer's experts; zeros were added for {}",
            wording::some(&made.added, 3)
        );
    }
    errln!(
        "vllm serve {} --enable-lora --max-lora-rank {} --lora-modules NAME={}",
        base.display(),
        made.max_rank,
        dir.display()
    );
    Ok(dir)
}
