//! `apus export`: merges an adapter into its base model, packs experts as MXFP4 or unpacks them, writes GGUF.
//!
//! A plan says for every tensor what is done with it (`plan`), all cores carry it out piece by piece (`pieces`) into files whose
//! layout is known beforehand (`layout`, `shards`), and the folder appears when it is whole (`whole`).

mod added_blocks;
mod files;
mod finite;
mod gguf;
pub mod layout;
mod pieces;
mod plan;
mod progress;
mod quantization;
mod rewrite;
pub mod shards;
mod source;
mod vllm;
mod whole;
pub mod writer;

use crate::setup::{Chosen, MadeLater, base_of, setup_of};
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{
    ExpertsForm, ExportConfig, GgufType, Resolved, load_plugins, values,
};
use apus_components::plugin;
use apus_components::registry::{self, Named};
use apus_data::hub::{self, Hub};
use apus_model::weights::StoredTensor;
use apus_sdk::{Exporter, Writes, errln};
use candle_core::{DType, Tensor};
use half::bf16;
use safetensors::Dtype;
use std::path::{Path, PathBuf};

/// Runs the export and returns the folder that was written.
///
/// # Errors
/// Nothing to do, no base model, or tensors of the wrong shape.
pub fn run(resolved: &Resolved<ExportConfig>) -> Result<PathBuf> {
    let options = &resolved.config;
    load_plugins(&options.plugins)?;
    hub::prefer(options.use_hf);
    let exporter = options.to.as_ref().map(registry::named::<dyn Exporter>);
    let exporter = exporter.transpose()?;
    let mut later = MadeLater::default();
    later.add_adapters(options.adapters.iter().map(Path::new))?;
    let mut chosen = Chosen::default();
    chosen.add(&["to"], &exporter);
    later.add_to(&mut chosen);
    chosen.check(setup_of(values(options)), resolved)?;
    match &exporter {
        Some(exporter) => by_exporter(exporter, options),
        None => by_flags(options),
    }
}

/// Exports in the form that flags ask for.
fn by_flags(options: &ExportConfig) -> Result<PathBuf> {
    ensure!(
        options.to_gguf || options.outtype.is_none(),
        "outtype is given, which says what a GGUF file holds: give --to_gguf true, too"
    );
    if options.to_gguf {
        return gguf::write(options);
    }
    if options.merge_lora || options.to_vllm {
        let flag = match options.merge_lora {
            true => "merge_lora",
            false => "to_vllm",
        };
        let [adapter] = options.adapters.as_slice() else {
            bail!(
                "--{flag} needs one --adapters folder, found {}",
                options.adapters.len()
            )
        };
        ensure!(
            !options.to_vllm || (!options.merge_lora && rewrite::form(options)?.is_none()),
            "to_vllm is true, which writes the adapter alone: leave merge_lora, quantize and experts_dtype out"
        );
        for line in plugin::compare(Path::new(adapter)) {
            errln!("note: {line}");
        }
        return match options.to_vllm {
            true => vllm::write(Path::new(adapter), options),
            false => rewrite::merge(Path::new(adapter), options),
        };
    }
    let form = rewrite::form(options)?.context(
        "nothing to do: give --to NAME, --merge_lora true, --to_vllm true or --to_gguf true with --adapters, or --quantize mxfp4, --experts_dtype bf16 or --to_gguf true with --model",
    )?;
    ensure!(
        options.adapters.is_empty(),
        "--adapters is given and --merge_lora is false: give --merge_lora true, too, and the merged experts are written in {}",
        form.as_str()
    );
    let (dir, name) = model(options)?;
    rewrite::convert(&dir, &name, form, options)
}

/// Exports by a component. A form that is written here has a flag of its own, and the two are one.
fn by_exporter(exporter: &Named<dyn Exporter>, options: &ExportConfig) -> Result<PathBuf> {
    ensure!(
        !options.merge_lora && !options.to_vllm && !options.to_gguf && options.outtype.is_none(),
        "to is {}: leave merge_lora, to_vllm, to_gguf and outtype out, which say the same or something else",
        exporter.name
    );
    let mut flags = ExportConfig {
        to: None,
        ..options.clone()
    };
    let merge = !options.adapters.is_empty();
    let experts = |form: ExpertsForm| -> Result<Option<ExpertsForm>> {
        ensure!(
            rewrite::form(options)?.is_none_or(|given| given == form),
            "to is {}, and quantize or experts_dtype asks for another form of experts",
            exporter.name
        );
        Ok(Some(form))
    };
    match exporter.component.writes() {
        Writes::Files => return files::write(exporter, options),
        Writes::Merged => flags.merge_lora = true,
        Writes::Mxfp4 => {
            flags.experts_dtype = experts(ExpertsForm::Mxfp4)?;
            flags.merge_lora = merge;
        }
        Writes::Bf16 => {
            flags.experts_dtype = experts(ExpertsForm::Bf16)?;
            flags.merge_lora = merge;
        }
        Writes::Gguf(outtype) => {
            let outtype = outtype.parse::<GgufType>().map_err(anyhow::Error::msg);
            flags.outtype = Some(outtype.with_context(|| format!("{}: outtype", exporter.label))?);
            flags.to_gguf = true;
        }
        Writes::Vllm => flags.to_vllm = true,
        Writes::AddedBlocks(blocks) => {
            ensure!(
                rewrite::form(options)?.is_none(),
                "to is {}, which leaves experts as they are: leave quantize and experts_dtype out",
                exporter.name
            );
            return added_blocks::write(blocks, options);
        }
        other => bail!(
            "{}: writes {other:?}, which this Apus does not know",
            exporter.label
        ),
    }
    by_flags(&flags)
}

/// The folder of the model that is converted without an adapter, and after which the result is named: what came from a hub is not
/// written beside its cache, but here.
fn model(options: &ExportConfig) -> Result<(PathBuf, PathBuf)> {
    let model = options
        .model
        .as_ref()
        .context("--model is missing: which model is converted")?;
    let name = match Path::new(model).exists() {
        true => model,
        false => model.rsplit('/').next().unwrap_or(model),
    };
    Ok((Hub::from_environment().model(model)?, PathBuf::from(name)))
}

/// The folder of the model that an adapter is for.
fn base_model(adapter: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let base = match &options.model {
        Some(model) => PathBuf::from(model),
        None => base_of(adapter)?,
    };
    ensure!(
        !base.display().to_string().starts_with("synthetic:"),
        "the base model {} is in memory only; write it with `apus model new` and give that folder with --model",
        base.display()
    );
    Hub::from_environment()
        .model(&base.display().to_string())
        .with_context(|| {
            format!(
                "base model of {} (--model gives another)",
                adapter.display()
            )
        })
}

fn target(options: &ExportConfig, from: &Path, suffix: &str) -> PathBuf {
    match &options.output_dir {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(format!(
            "{}{suffix}",
            from.display().to_string().trim_end_matches('/')
        )),
    }
}

/// Checks that the result does not replace the model or the adapter that it is made of.
fn apart(dir: &Path, base: &Path) -> Result<()> {
    let same = matches!((dir.canonicalize(), base.canonicalize()), (Ok(a), Ok(b)) if a == b);
    ensure!(
        !same,
        "{}: is the model that is read; choose another --output_dir",
        dir.display()
    );
    Ok(())
}

/// Puts the little-endian bytes of a tensor, converted to this type, into `to`.
fn put(tensor: &Tensor, dtype: DType, to: &mut [u8]) -> Result<()> {
    let flat = tensor.to_dtype(dtype)?.flatten_all()?;
    ensure!(
        flat.elem_count() * dtype.size_in_bytes() == to.len(),
        "a tensor of shape {:?} has not {} bytes",
        tensor.dims(),
        to.len()
    );
    match dtype {
        DType::F32 => {
            for (to, value) in to.chunks_exact_mut(4).zip(flat.to_vec1::<f32>()?) {
                to.copy_from_slice(&value.to_le_bytes());
            }
        }
        _ => {
            for (to, value) in to.chunks_exact_mut(2).zip(flat.to_vec1::<bf16>()?) {
                to.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    Ok(())
}

/// The type of a floating-point tensor of a file.
fn float(stored: StoredTensor) -> Result<DType> {
    match stored.dtype() {
        Dtype::F32 => Ok(DType::F32),
        Dtype::BF16 => Ok(DType::BF16),
        other => bail!(
            "{}: type {other:?}, expected F32 or BF16",
            stored.location()
        ),
    }
}

#[cfg(test)]
mod tests;
