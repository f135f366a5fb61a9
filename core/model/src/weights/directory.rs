//! A Hugging Face model directory: `model.safetensors`, or shards through their index.

use super::reader::TensorReader;
use super::shard::{Shard, StoredTensor};
use super::{Transfer, WeightSource};
use anyhow::{Context, Result, bail, ensure};
use apus_base::checksums;
use apus_sdk::small_file::{self, Limit};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The tensors of a model directory.
pub struct Directory {
    shards: Vec<Shard>,
    /// The shard of each tensor.
    index: BTreeMap<String, usize>,
    dir: PathBuf,
    /// The load that is in progress.
    load: Mutex<Load>,
}

/// A load in progress: what was read and which tensors were asked for.
#[derive(Default)]
struct Load {
    reader: TensorReader,
    used: BTreeSet<String>,
}

impl Directory {
    /// Opens the weights of a model directory.
    ///
    /// # Errors
    /// There are no weights, a shard is missing or truncated, or the index does not fit its shards; the error names the
    /// file.
    pub fn open(dir: &Path) -> Result<Self> {
        ensure!(dir.is_dir(), "{}: no such model directory", dir.display());
        let index_file = dir.join("model.safetensors.index.json");
        let map = if index_file.is_file() {
            read_index(&index_file)?
        } else if dir.join("model.safetensors").is_file() {
            BTreeMap::new()
        } else {
            bail!(
                "{}: has neither model.safetensors nor model.safetensors.index.json",
                dir.display()
            )
        };
        let mut files: BTreeSet<&str> = map.values().map(String::as_str).collect();
        if map.is_empty() {
            files.insert("model.safetensors");
        }
        checksums::check(dir, files.iter().copied().chain(["config.json"]))?;
        let mut shards = Vec::new();
        let mut index = BTreeMap::new();
        for (i, file) in files.into_iter().enumerate() {
            let shard = Shard::open(dir.join(file))?;
            for name in shard.names() {
                // Where a name stands in several shards, the index says which one is meant.
                match map.get(&name) {
                    Some(meant) if meant != file => {}
                    Some(_) => drop(index.insert(name, i)),
                    None => drop(index.entry(name).or_insert(i)),
                }
            }
            shards.push(shard);
        }
        if let Some((name, file)) = map.iter().find(|(name, _)| !index.contains_key(*name)) {
            bail!(
                "{}: says that {name} is in {file}, which does not hold it",
                index_file.display()
            );
        }
        Ok(Self {
            shards,
            index,
            dir: dir.to_owned(),
            load: Mutex::default(),
        })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The bytes of all tensor files together.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::size).sum()
    }

    /// A tensor as it is stored in its file.
    pub fn stored<'a>(&'a self, name: &'a str) -> Result<StoredTensor<'a>> {
        match self.index.get(name) {
            Some(&shard) => self.shards[shard].tensor(name),
            None => bail!("{}: has no tensor {name}", self.dir.display()),
        }
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shard of each tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let json: Value = serde_json::from_str(&small_file::text(path, Limit::STORED)?)
        .with_context(|| format!("{}: malformed JSON", path.display()))?;
    let map = json["weight_map"]
        .as_object()
        .with_context(|| format!("{}: has no weight_map", path.display()))?;
    ensure!(
        !map.is_empty(),
        "{}: its weight_map is empty",
        path.display()
    );
    let mut index = BTreeMap::new();
    for (name, file) in map {
        let Some(file) = file.as_str().filter(|file| is_inside(file)) else {
            bail!(
                "{}: weight_map gives {name} the file {file}, expected the name of a file in this folder",
                path.display()
            );
        };
        let shard = path.with_file_name(file);
        ensure!(
            shard.is_file(),
            "{}: names the shard {file}, which is missing; download it again",
            path.display()
        );
        index.insert(name.clone(), file.to_owned());
    }
    Ok(index)
}

/// Whether a path stays in the folder that it is looked up in. Its last part may be a link: the cache of the hub's
/// library is made of links.
fn is_inside(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    !file.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl WeightSource for Directory {
    fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn check(&self, name: &str, shape: &[usize], dtype: DType) -> Result<()> {
        fitting(self.stored(name)?, shape, dtype).map(drop)
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.stored(name)?;
        let found = fitting(stored, shape, dtype)?;
        let mut load = self.load();
        load.used.insert(name.to_owned());
        load.reader
            .read(stored, (found, dtype), stored.shape(), device)
    }

    fn part(
        &self,
        name: &str,
        (shape, dtype): (&[usize], DType),
        elements: Range<usize>,
        device: &Device,
    ) -> Result<Tensor> {
        let stored = self.stored(name)?;
        let found = fitting(stored, shape, dtype)?;
        let mut load = self.load();
        load.used.insert(name.to_owned());
        if elements.is_empty() {
            return Ok(Tensor::zeros(0, dtype, device)?);
        }
        let part = stored.part(elements.clone())?;
        load.reader
            .read(part, (found, dtype), &[elements.len()], device)
    }

    fn done(&self) -> Option<Transfer> {
        let Load { reader, used } = std::mem::take(&mut *self.load());
        let unused = self.names().filter(|name| !used.contains(*name));
        Some(Transfer {
            unused: unused.map(str::to_owned).collect(),
            ..reader.done()
        })
    }
}

/// The type of a tensor that has this shape and can be kept in type `wanted`.
fn fitting(stored: StoredTensor, shape: &[usize], wanted: DType) -> Result<DType> {
    ensure!(
        stored.shape() == shape,
        "{}: found shape {:?}, expected {shape:?} by config.json",
        stored.location(),
        stored.shape()
    );
    let found = match stored.dtype() {
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::U8 => DType::U8,
        other => bail!(
            "{}: found type {other:?}, expected BF16, F16, F32 or U8",
            stored.location()
        ),
    };
    ensure!(
        (found == DType::U8) == (wanted == DType::U8),
        "{}: found type {found:?}, expected {wanted:?}",
        stored.location()
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    const TINY: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/goldens/tiny/model_mxfp4"
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
        let tensor = |name, shape: &[usize]| dir.tensor(name, shape, DType::F32, &Device::Cpu);
        assert_eq!(tensor("model.norm.weight", &[64]).unwrap().dims(), [64]);
        assert!(dir.contains("model.layers.3.mlp.experts.down_proj_blocks"));
        let error = tensor("model.norm.weight", &[65]).unwrap_err().to_string();
        assert!(
            error.contains("safetensors: tensor model.norm.weight") && error.contains("[64]"),
            "{error}"
        );
        let error = tensor("nothing", &[1]).unwrap_err();
        assert!(error.to_string().contains("no tensor nothing"));
        let transfer = dir.done().unwrap();
        assert_eq!(transfer.unused.len() + 1, dir.names().count());
        assert!(!transfer.unused.contains(&"model.norm.weight".to_owned()));
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

    #[test]
    fn the_index_stays_in_its_folder_and_fits_its_shards() {
        let dir = copy();
        let path = dir.path().join("model.safetensors.index.json");
        let index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let norm = "model.norm.weight";
        let with = |file: Value| {
            let mut index = index.clone();
            index["weight_map"][norm] = file;
            fs::write(&path, index.to_string()).unwrap();
            error(dir.path())
        };
        let outside = format!("{TINY}/model-00001-of-00002.safetensors");
        for file in [
            json!(outside),
            json!("../model-00001-of-00002.safetensors"),
            json!("./a/../../b"),
            json!(""),
            json!(3),
            json!(null),
        ] {
            let text = with(file);
            assert!(
                text.contains("index.json: weight_map gives model.norm.weight the file"),
                "{text}"
            );
        }
        let files = index["weight_map"].as_object().unwrap().values();
        let other = files
            .into_iter()
            .find(|file| **file != index["weight_map"][norm]);
        let text = with(other.unwrap().clone());
        assert!(text.contains("says that model.norm.weight is in"), "{text}");
        fs::write(&path, r#"{"weight_map": {}}"#).unwrap();
        assert!(error(dir.path()).contains("its weight_map is empty"));
    }
}
