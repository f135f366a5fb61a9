//! Writes a Hugging Face model directory tensor by tensor. The directory appears only when it is complete.

pub use super::layout::Entry;
use super::layout::{INDEX, Layout};
use super::shards::Shards;
use super::whole::{self, Output};
use anyhow::{Context, Result, bail, ensure};
use half::bf16;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Files that are copied beside the weights.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The arguments of the run that made the weights, beside them.
pub const ARGS: &str = "args.json";

/// What is written beside the weights.
pub struct Extra<'a> {
    /// config.json.
    pub config: Value,
    /// generation_config.json, where `copy_from` has none.
    pub generation: Option<Value>,
    /// Directory from which tokenizer, generation settings and template are copied.
    pub copy_from: Option<&'a Path>,
    /// Folder of the weights that a run has made: its args.json, which says how the run's conversations were
    /// rendered, goes along.
    pub made_by: Option<&'a Path>,
}

/// Writes a model to `dir`, in files of at most `max_shard` bytes; `provide` gives the bytes of each
/// tensor, one after another. An existing `dir` is an error unless `replace`; it must be a model then,
/// with no other files, and stays as it is until the new one is whole.
///
/// # Errors
/// `provide` failed or gave numbers that are not finite, or the disk failed; nothing is left behind then.
pub fn write_model(
    dir: &Path,
    entries: &[Entry],
    max_shard: usize,
    replace: bool,
    extra: &Extra,
    mut provide: impl FnMut(&Entry) -> Result<Vec<u8>>,
) -> Result<()> {
    write_with(dir, entries, (max_shard, replace), extra, |shards| {
        for (i, entry) in entries.iter().enumerate() {
            let bytes = provide(entry).with_context(|| format!("tensor {}", entry.name))?;
            shards.write(i, 0, &bytes)?;
            ensure!(
                bytes.len() == entry.bytes(),
                "tensor {}: {} bytes, expected {}",
                entry.name,
                bytes.len(),
                entry.bytes()
            );
        }
        Ok(())
    })
}

/// Writes a model as [`write_model`] does; `write` writes the tensors.
///
/// # Errors
/// `write` failed or left something out, the disk has not enough space, or it failed; nothing is left behind then.
pub fn write_with(
    dir: &Path,
    entries: &[Entry],
    (max_shard, replace): (usize, bool),
    extra: &Extra,
    write: impl FnOnce(&Shards) -> Result<()>,
) -> Result<()> {
    let layout = Layout::new(entries, max_shard)?;
    let output = Output {
        dir,
        replace,
        kind: "a model",
        holds: &is_of_a_model,
        bytes: layout.size(),
    };
    whole::write(&output, |temporary| {
        let shards = Shards::create(temporary, entries, &layout)?;
        write(&shards)?;
        shards.finish()?;
        if let Some(index) = layout.index(entries) {
            write_json(&temporary.join(INDEX), &index)?;
        }
        write_json(&temporary.join("config.json"), &extra.config)?;
        if let Some(from) = extra.copy_from {
            copy_companions(from, temporary)?;
        }
        if let Some(args) = extra
            .made_by
            .map(|from| from.join(ARGS))
            .filter(|args| args.is_file())
        {
            fs::copy(args, temporary.join(ARGS)).context("copying args.json")?;
        }
        if extra.generation.is_some() && !temporary.join("generation_config.json").exists() {
            write_json(
                &temporary.join("generation_config.json"),
                &json!(extra.generation),
            )?;
        }
        Ok(())
    })
}

/// Whether a file of this name belongs to a model's folder.
fn is_of_a_model(name: &str) -> bool {
    name == "config.json"
        || name == ARGS
        || name == INDEX
        || name.ends_with(".safetensors")
        || COMPANIONS.contains(&name)
}

/// Copies tokenizer, generation settings and template of a model.
pub fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for file in COMPANIONS.iter().filter(|file| from.join(file).is_file()) {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("copying {file}"))?;
        File::open(to.join(file))?.sync_all()?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(serde_json::to_string_pretty(value)?.as_bytes())?;
    Ok(file.sync_all()?)
}

/// The bytes of values rounded to bf16.
pub fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let mut out = vec![0u8; values.len() * 2];
    out.par_chunks_mut(1 << 16)
        .zip(values.par_chunks(1 << 15))
        .for_each(|(out, values)| {
            for (out, value) in out.chunks_exact_mut(2).zip(values) {
                out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
            }
        });
    out
}

/// Bytes in `5GB`, `500MB`, `10KB`, `4GiB` (powers of 1,024, as Hugging Face reads them) or a plain number.
pub fn size(text: &str) -> Result<usize> {
    let upper = text.to_ascii_uppercase();
    let (number, unit) = match upper.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => upper.split_at(at),
        None => (upper.as_str(), "B"),
    };
    let unit = match unit {
        "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "KIB" => 1024.0,
        "MIB" => 1024.0 * 1024.0,
        "GIB" => 1024.0 * 1024.0 * 1024.0,
        _ => bail!("{text:?} is no size; write 5GB or 500MB"),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 => Ok((number * unit) as usize),
        _ => bail!("{text:?} is no size; write 5GB or 500MB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::weights::{Directory, WeightSource};
    use candle_core::{DType, Device};
    use safetensors::Dtype;

    fn entries() -> Vec<Entry> {
        let entry = |name: &str| Entry {
            name: name.to_owned(),
            dtype: Dtype::BF16,
            shape: vec![10],
        };
        vec![entry("a"), entry("b"), entry("c")]
    }

    fn write(dir: &Path, replace: bool, fail: bool) -> Result<()> {
        let extra = Extra {
            config: json!({"x": 1}),
            generation: Some(json!({"eos_token_id": 2})),
            copy_from: None,
            made_by: None,
        };
        write_model(dir, &entries(), 45, replace, &extra, |entry| {
            ensure!(!(fail && entry.name == "c"), "No space left on device");
            Ok(bf16_bytes(&[f32::from(entry.name.as_bytes()[0]); 10]))
        })
    }

    #[test]
    fn what_is_not_finite_is_not_written() {
        let parent = tempfile::tempdir().unwrap();
        let extra = Extra {
            config: json!({}),
            generation: None,
            copy_from: None,
            made_by: None,
        };
        let dir = parent.path().join("m");
        let error = write_model(&dir, &entries(), 1000, false, &extra, |entry| {
            let bad = [1.0, 1.0, f32::NAN, f32::MAX, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
            Ok(bf16_bytes(if entry.name == "b" {
                &bad
            } else {
                &[1.0; 10]
            }))
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(
            error.contains("tensor b: 2 of its 10 values are not finite"),
            "{error}"
        );
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn shards_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        write(&dir, false, false).unwrap();
        assert!(dir.join("model-00002-of-00002.safetensors").is_file());
        let read = Directory::open(&dir).unwrap();
        let b = read.tensor("b", &[10], DType::F32, &Device::Cpu).unwrap();
        assert_eq!(b.to_vec1::<f32>().unwrap(), [98.0; 10]);
        assert!(
            write(&dir, false, false)
                .unwrap_err()
                .to_string()
                .contains("exists already")
        );
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        write(&dir, false, false).unwrap();
        let error = format!("{:#}", write(&dir, true, true).unwrap_err());
        assert!(error.contains("tensor c: No space left"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert!(Directory::open(&dir).is_ok());
    }

    #[test]
    fn a_model_is_replaced_and_other_files_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        write(&dir, false, false).unwrap();
        fs::remove_file(dir.join("model-00001-of-00002.safetensors")).unwrap();
        write(&dir, true, false).unwrap();
        assert!(Directory::open(&dir).is_ok() && dir.join("generation_config.json").is_file());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        fs::write(dir.join("thesis.txt"), "unique").unwrap();
        let error = write(&dir, true, false).unwrap_err().to_string();
        assert!(error.contains("holds thesis.txt"), "{error}");
        assert!(dir.join("thesis.txt").is_file());
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_before_the_first_byte() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        let mut huge = entries();
        huge[1].shape = vec![1 << 30, 1 << 28];
        let extra = Extra {
            config: json!({}),
            generation: None,
            copy_from: None,
            made_by: None,
        };
        let nothing = |_: &Entry| bail!("a tensor was asked for");
        let error = write_model(&dir, &huge, 1000, false, &extra, nothing).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("the weights take 536870912.00 GiB, and the disk of")
                && error.contains("another --output_dir"),
            "{error}"
        );
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    /// What a process leaves that is killed at any moment of the replacing.
    #[test]
    fn after_a_kill_the_next_export_starts_clean() {
        let names = |parent: &Path| {
            let all = fs::read_dir(parent).unwrap();
            let mut all: Vec<_> = all.map(|e| e.unwrap().file_name()).collect();
            all.sort();
            all
        };
        for (left, needs_leave) in [
            (vec![("m", ".m.tmp")], false),
            (vec![("m", ".m.old"), ("m", ".m.tmp")], true),
            (vec![("m", "m"), ("m", ".m.old")], true),
        ] {
            let parent = tempfile::tempdir().unwrap();
            let parent = parent.path();
            let made = tempfile::tempdir().unwrap();
            for (from, to) in &left {
                write(&made.path().join(from), true, false).unwrap();
                fs::rename(made.path().join(from), parent.join(to)).unwrap();
            }
            let refused = write(&parent.join("m"), false, false);
            assert_eq!(refused.is_err(), needs_leave, "{left:?}");
            write(&parent.join("m"), true, false).unwrap();
            assert_eq!(names(parent), ["m"], "{left:?}");
            assert!(Directory::open(&parent.join("m")).is_ok());
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("5GB").unwrap(), 5_000_000_000);
        assert_eq!(size("1.5 mb").unwrap(), 1_500_000);
        assert_eq!(size("77").unwrap(), 77);
        assert_eq!(size("2GiB").unwrap(), 1 << 31);
        assert_eq!(size("3 KiB").unwrap(), 3072);
        for bad in ["five", "5iB", "5GBB", "5TB", "-5GB", "0", ""] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
