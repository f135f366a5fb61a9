//! The forms in which a checkpoint may hold a tensor: as it is, or as MXFP4 in two tensors of bytes.

use super::{TensorList, TensorSpec};

/// The number of values that share a scale in MXFP4.
const GROUP: usize = 32;
/// The end of the name of a tensor with packed values.
const BLOCKS: &str = "_blocks";
/// The end of the name of a tensor with scales.
const SCALES: &str = "_scales";

/// Which part of a form a tensor of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileForm {
    /// The numbers themselves.
    Plain,
    /// Two MXFP4 values in each byte: `[experts, outputs, inputs / 32, 16]`.
    Blocks,
    /// The scales of MXFP4, powers of two: `[experts, outputs, inputs / 32]`.
    Scales,
}

/// A tensor as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTensor {
    /// Its name there.
    pub name: String,
    /// Its form.
    pub form: FileForm,
    /// Its shape there.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The tensors of a file that hold it as it is, or packed if it can be.
    pub fn in_file(&self, packed: bool) -> Vec<FileTensor> {
        match packed.then(|| self.packed()).flatten() {
            Some(both) => both.to_vec(),
            None => vec![FileTensor {
                name: self.name.clone(),
                form: FileForm::Plain,
                shape: self.shape.clone(),
            }],
        }
    }

    /// Blocks and scales, if it can be packed: the matrices of experts can.
    pub fn packed(&self) -> Option<[FileTensor; 2]> {
        let (Some(_), &[experts, inputs, outputs]) = (self.expert_matrix(), self.shape.as_slice())
        else {
            return None;
        };
        let groups = inputs / GROUP;
        let tensor = |suffix: &str, form: FileForm, shape: Vec<usize>| FileTensor {
            name: format!("{}{suffix}", self.name),
            form,
            shape,
        };
        Some([
            tensor(BLOCKS, FileForm::Blocks, vec![experts, outputs, groups, 16]),
            tensor(SCALES, FileForm::Scales, vec![experts, outputs, groups]),
        ])
    }
}

impl TensorList {
    /// The tensor that a tensor of a file holds, and in which form.
    pub fn of_file(&self, name: &str) -> Option<(&TensorSpec, FileForm)> {
        if let Some(spec) = self.get(name) {
            return Some((spec, FileForm::Plain));
        }
        let forms = [(BLOCKS, FileForm::Blocks), (SCALES, FileForm::Scales)];
        forms.into_iter().find_map(|(suffix, form)| {
            let spec = self.get(name.strip_suffix(suffix)?)?;
            spec.packed().map(|_| (spec, form))
        })
    }
}
