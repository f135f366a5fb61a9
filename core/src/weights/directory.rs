//! A Hugging Face model directory: `model.safetensors`, or shards through their index, mapped into
//! memory.

use super::placing::Placing;
use super::shard::Shard;
use super::{Transfer, WeightSource};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The safetensors of a directory.
pub struct Directory {
    shards: Vec<Shard>,
    /// Shard of each tensor.
    index: BTreeMap<String, usize>,
    dir: PathBuf,
    /// The load that is going on.
    placing: Mutex<Placing>,
}

impl Directory {
    /// Opens the weights of a model directory.
    ///
    /// # Errors
    /// No weights there, a missing shard, or a truncated file; the error names it.
    pub fn open(dir: &Path) -> Result<Self> {
        ensure!(dir.is_dir(), "{}: no such model directory", dir.display());
        let index_file = dir.join("model.safetensors.index.json");
        let files: Vec<PathBuf> = if index_file.is_file() {
            let text = std::fs::read_to_string(&index_file)?;
            let json: Value = serde_json::from_str(&text)
                .with_context(|| format!("{}: malformed JSON", index_file.display()))?;
            let map = json["weight_map"]
                .as_object()
                .with_context(|| format!("{}: has no weight_map", index_file.display()))?;
            let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
            for name in &names {
                ensure!(
                    dir.join(name).is_file(),
                    "{}: names the shard {name}, which is missing; download it again",
                    index_file.display()
                );
            }
            names.into_iter().map(|name| dir.join(name)).collect()
        } else if dir.join("model.safetensors").is_file() {
            vec![dir.join("model.safetensors")]
        } else {
            bail!(
                "{}: has neither model.safetensors nor model.safetensors.index.json",
                dir.display()
            )
        };
        let shards = files
            .into_iter()
            .map(Shard::open)
            .collect::<Result<Vec<_>>>()?;
        let mut index = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            index.extend(shard.names().into_iter().map(|name| (name, i)));
        }
        Ok(Self {
            shards,
            index,
            dir: dir.to_owned(),
            placing: Mutex::default(),
        })
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Bytes of all tensor files together.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.len() as u64).sum()
    }

    /// Runs `read` on a tensor as it lies in its file.
    ///
    /// # Errors
    /// There is no such tensor, or `read` failed.
    pub fn view<R>(&self, name: &str, read: impl FnOnce(&TensorView) -> Result<R>) -> Result<R> {
        let Some(&shard) = self.index.get(name) else {
            bail!("{}: has no tensor {name}", self.dir.display());
        };
        let shard = &self.shards[shard];
        let view = shard.tensor(name)?;
        read(&view).with_context(|| format!("{}: tensor {name}", shard.path().display()))
    }
}

impl WeightSource for Directory {
    fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        self.view(name, |view| {
            ensure!(
                view.shape() == shape,
                "found shape {:?}, expected {shape:?} by config.json",
                view.shape()
            );
            let found = match view.dtype() {
                Dtype::BF16 => DType::BF16,
                Dtype::F16 => DType::F16,
                Dtype::F32 => DType::F32,
                Dtype::U8 => DType::U8,
                other => bail!("found type {other:?}, expected BF16, F16, F32 or U8"),
            };
            ensure!(
                (found == DType::U8) == (dtype == DType::U8),
                "found type {found:?}, expected {dtype:?}"
            );
            let mut placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
            placing.place(view.data(), shape, (found, dtype), device)
        })
    }

    fn done(&self) -> Option<Transfer> {
        let mut placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *placing).done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TINY: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/tiny/model_mxfp4"
    );

    fn copy() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(TINY).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        dir
    }

    fn error(dir: &Path) -> String {
        format!("{:#}", Directory::open(dir).err().unwrap())
    }

    #[test]
    fn shards_are_one_directory() {
        let dir = Directory::open(Path::new(TINY)).unwrap();
        let norm = dir
            .tensor("model.norm.weight", &[64], DType::F32, &Device::Cpu)
            .unwrap();
        assert_eq!(norm.dims(), [64]);
        assert!(dir.contains("model.layers.3.mlp.experts.down_proj_blocks"));
        let error = dir
            .tensor("model.norm.weight", &[65], DType::F32, &Device::Cpu)
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("model.norm.weight") && error.contains("[64]"),
            "{error}"
        );
        let error = dir
            .tensor("nothing", &[1], DType::F32, &Device::Cpu)
            .unwrap_err();
        assert!(error.to_string().contains("no tensor nothing"));
    }

    #[test]
    fn what_is_broken_is_named() {
        let dir = copy();
        let shard = dir.path().join("model-00001-of-00002.safetensors");
        let whole = fs::read(&shard).unwrap();
        fs::write(&shard, &whole[..whole.len() - 100]).unwrap();
        let text = error(dir.path());
        assert!(
            text.contains("model-00001-of-00002.safetensors: not a whole"),
            "{text}"
        );
        fs::remove_file(&shard).unwrap();
        assert!(error(dir.path()).contains("names the shard model-00001-of-00002.safetensors"));
        fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
        assert!(error(dir.path()).contains("has neither"));
        assert!(error(Path::new("/nowhere")).contains("no such model directory"));
    }
}
