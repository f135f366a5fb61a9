//! Exporters: folders made of a model's weights.

use crate::{Error, Need, Result, Setup, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Writes a model in a form of its own: `apus export --to NAME`.
///
/// ```
/// use apus_sdk::{ExportModel, Exporter, Result, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Listing {}
/// }
///
/// impl Exporter for Listing {
///     fn export(&self, model: &ExportModel) -> Result<()> {
///         let mut lines = String::new();
///         for tensor in model.tensors() {
///             lines += &format!("{} {:?} {}\n", tensor.name(), tensor.shape(), tensor.dtype());
///         }
///         Ok(std::fs::write(model.file("tensors.txt")?, lines)?)
///     }
/// }
///
/// register! {
///     /// Lists names, shapes and types.
///     Exporter, "listing", Listing
/// }
///
/// let listing = testing::make::<dyn Exporter>("listing", json!({}))?;
/// let folder = std::env::temp_dir().join(format!("apus-listing-{}", std::process::id()));
/// testing::export(&*listing, &folder, &[("a.weight", &[2, 3], vec![1.0; 6])])?;
/// assert_eq!(std::fs::read_to_string(folder.join("tensors.txt"))?, "a.weight [2, 3] F32\n");
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Exporter: Send + Sync {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// What it writes: files of its own, or one of the forms that the host writes itself, with all cores. Then
    /// [`export`](Self::export) is not called.
    fn writes(&self) -> Writes {
        Writes::Files
    }

    /// Writes files into the [folder](ExportModel::folder) of an export, without folders in it. The folder gets its place
    /// when this has come to its end; after an error, or when the process is killed, what was there stays.
    ///
    /// # Errors
    /// Whatever the exporter cannot write.
    fn export(&self, _model: &ExportModel) -> Result<()> {
        Err(Error::new(
            "this exporter writes nothing: it has no `export`, and `writes` gives no form of the host's",
        ))
    }
}

/// What an [`Exporter`] writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Writes {
    /// Files of its own, by [`Exporter::export`].
    Files,
    /// A model's directory with the adapter merged in; experts that no adapter touches stay as they are.
    Merged,
    /// A model's directory with all experts packed as MXFP4, with the adapter merged in if there is one.
    Mxfp4,
    /// A model's directory with all experts in BF16, with the adapter merged in if there is one.
    Bf16,
    /// One GGUF file with matrices of this type, in llama.cpp's words.
    Gguf(String),
    /// The adapter alone, in the form that vLLM takes.
    Vllm,
    /// A model's directory with so many layers more, copies that compute nothing new until they are trained.
    AddedBlocks(usize),
}

/// A tensor of a model that is exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportTensor {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    bytes: u64,
}

impl ExportTensor {
    /// A tensor of this name, shape and type, in safetensors' words, with so many bytes.
    pub fn new(name: &str, shape: &[usize], dtype: &str, bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype: dtype.to_owned(),
            bytes,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its type as safetensors calls it: `BF16`, `F32`; `U8` of the blocks and scales of experts in MXFP4.
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Number of its bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of its elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Gives the bytes of tensors by their number; the host's part of an [`ExportModel`].
pub trait TensorSource: Sync {
    /// Bytes of a tensor from `offset` on.
    ///
    /// # Errors
    /// They cannot be read or are not there.
    fn read(&self, tensor: usize, offset: u64, to: &mut [u8]) -> Result<()>;

    /// A whole tensor of floats.
    ///
    /// # Errors
    /// It cannot be read, or has no floats.
    fn tensor(&self, tensor: usize) -> Result<Tensor>;
}

/// What an exporter knows of a model; crosses the boundary as JSON.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[doc(hidden)]
pub struct ExportAbout {
    pub name: String,
    pub folder: PathBuf,
    pub base: PathBuf,
    pub config: Value,
    pub tensors: Vec<ExportTensor>,
}

/// A model that is exported: what is known of it, its tensors one by one, and the folder to write.
///
/// The values are those that `apus export` would write: with the adapter merged in, experts in the form that the flags say.
/// Nothing is read before it is asked for, so that memory holds what the exporter holds, and the piece it was last read from (of
/// experts, one).
pub struct ExportModel<'a> {
    about: &'a ExportAbout,
    source: &'a dyn TensorSource,
}

/// Elements that [`ExportModel::for_each_part`] gives at a time.
const PART: usize = 1 << 20;

impl<'a> ExportModel<'a> {
    /// A model of this description and these tensors.
    #[doc(hidden)]
    pub fn new(about: &'a ExportAbout, source: &'a dyn TensorSource) -> Self {
        Self { about, source }
    }

    /// Its name: that of the folder of the model or adapter.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// Its config.json.
    pub fn config(&self) -> &Value {
        &self.about.config
    }

    /// The folder of the model that it is made of, where the files of its tokenizer are.
    pub fn base(&self) -> &Path {
        &self.about.base
    }

    /// The folder to write into, which becomes the export.
    pub fn folder(&self) -> &Path {
        &self.about.folder
    }

    /// The path of a file in the folder.
    ///
    /// # Errors
    /// The name is no plain name of a file.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        match Path::new(name).file_name() {
            Some(plain) if plain == name => Ok(self.folder().join(name)),
            _ => Err(Error::new(format!("{name:?} is no name of a file"))),
        }
    }

    /// Its tensors, in the order of its files.
    pub fn tensors(&self) -> &[ExportTensor] {
        &self.about.tensors
    }

    /// Bytes of a tensor, little-endian, row by row.
    ///
    /// # Errors
    /// There is no such tensor, it has fewer bytes, or they cannot be read.
    pub fn read(&self, tensor: &str, offset: u64, to: &mut [u8]) -> Result<()> {
        let (number, found) = self.find(tensor)?;
        if offset
            .checked_add(to.len() as u64)
            .is_none_or(|end| end > found.bytes)
        {
            return Err(Error::new(format!(
                "{tensor}: {} bytes from {offset} on were asked for, it has {}",
                to.len(),
                found.bytes
            )));
        }
        self.source.read(number, offset, to)
    }

    /// Elements of a tensor of floats.
    ///
    /// # Errors
    /// As [`read`](Self::read); a tensor of another type than BF16, F16 and F32.
    pub fn values(&self, tensor: &str, elements: Range<usize>) -> Result<Vec<f32>> {
        let (_, found) = self.find(tensor)?;
        let (size, value): (usize, fn(&[u8]) -> f32) = match found.dtype.as_str() {
            "F32" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            "BF16" => (2, |b| f32::from_le_bytes([0, 0, b[0], b[1]])),
            "F16" => (2, |b| half(u16::from_le_bytes([b[0], b[1]]))),
            other => {
                return Err(Error::new(format!(
                    "{tensor}: type {other} has no floats; its bytes can be read"
                )));
            }
        };
        let mut bytes = vec![0; elements.len() * size];
        self.read(tensor, (elements.start * size) as u64, &mut bytes)?;
        Ok(bytes.chunks_exact(size).map(value).collect())
    }

    /// All elements of a tensor of floats, a part after another, each with the place of its first.
    ///
    /// # Errors
    /// As [`values`](Self::values), and those of `act`.
    pub fn for_each_part(
        &self,
        tensor: &str,
        mut act: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let all = self.find(tensor)?.1.elements();
        for start in (0..all).step_by(PART) {
            act(start, &self.values(tensor, start..all.min(start + PART))?)?;
        }
        Ok(())
    }

    /// A whole tensor of floats as a [`Tensor`], whose operations the host carries out.
    ///
    /// # Errors
    /// There is no such tensor, it has no floats, or cannot be read.
    pub fn tensor(&self, tensor: &str) -> Result<Tensor> {
        self.source.tensor(self.find(tensor)?.0)
    }

    fn find(&self, tensor: &str) -> Result<(usize, &ExportTensor)> {
        let mut all = self.about.tensors.iter().enumerate();
        all.find(|(_, known)| known.name == tensor)
            .ok_or_else(|| Error::new(format!("the model has no tensor {tensor}")))
    }

    #[doc(hidden)]
    pub fn parts(&self) -> (&ExportAbout, &dyn TensorSource) {
        (self.about, self.source)
    }
}

/// The value of a 16-bit float.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, bits & 1023);
    let value = match exponent {
        0 => f32::from(fraction) * 2f32.powi(-24),
        31 if fraction == 0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + f32::from(fraction) / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    };
    if sign == 1 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_sixteen_bits() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2f32.powi(-24)),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits), value);
        }
        assert!(half(0x7e00).is_nan() && half(0xfc00) == f32::NEG_INFINITY);
    }
}
