//! Writes an adapter in the form that vLLM takes.

use super::writer::ARGS;
use super::{base_model, parts, staging, target};
use anyhow::{Context, Result, ensure};
use apus_base::{folder, wording};
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
    let adapter = Adapter::open(from, &config)?;
    for note in &adapter.notes {
        errln!("note: {note}");
    }
    let made = adapter
        .for_vllm()
        .with_context(|| from.display().to_string())?;
    let dir = target(options, from, "-vllm");
    super::apart(&dir, from)?;
    let [temporary, aside] = parts(&dir)?;
    folder::recover(&dir, &aside)?;
    if dir.exists() {
        ensure!(
            options.exist_ok,
            "{}: exists already; choose another folder, or give --exist_ok true",
            dir.display()
        );
        only_an_adapter(&dir)?;
    }
    let _alone = staging(&temporary)?;
    let attempt = || -> Result<()> {
        adapter::save(&temporary, &made.params, &made.config)?;
        if from.join(ARGS).is_file() {
            fs::copy(from.join(ARGS), temporary.join(ARGS)).context("copying args.json")?;
        }
        // Names and shapes are those of the model.
        Adapter::open(&temporary, &config)?;
        for file in fs::read_dir(&temporary)? {
            fs::File::open(file?.path())?.sync_all()?;
        }
        folder::replace(&dir, &temporary, &aside)
    };
    attempt()
        .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
        .with_context(|| format!("{}: cannot be written", dir.display()))?;
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

/// Refuses to replace a folder that holds anything but an adapter.
fn only_an_adapter(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(
            FILES.contains(&name.as_str()),
            "{}: holds {name}, which is no part of an adapter, and is not replaced; choose another folder",
            dir.display()
        );
    }
    Ok(())
}
