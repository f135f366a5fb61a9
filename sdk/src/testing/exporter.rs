//! Exporters: a model of a few tensors.

use super::tensor;
use crate::exporter::{ExportAbout, ExportModel, ExportTensor, Exporter, TensorSource};
use crate::{Error, Result, Tensor, needs};
use serde_json::json;
use std::path::Path;

/// Exports a model named `test` of these tensors (name, shape, values in f32) into a folder, which is made.
///
/// # Errors
/// Those of the exporter; values of another number than the shape has; a folder or nothing at all in the export, which a
/// host refuses.
pub fn export(
    exporter: &dyn Exporter,
    folder: &Path,
    tensors: &[(&str, &[usize], Vec<f32>)],
) -> Result<()> {
    for (name, shape, values) in tensors {
        if shape.iter().product::<usize>() != values.len() {
            let count = values.len();
            return Err(Error::new(format!(
                "{name}: {count} values of shape {shape:?}"
            )));
        }
    }
    std::fs::create_dir_all(folder)?;
    let described = tensors.iter().map(|(name, shape, values)| {
        ExportTensor::new(name, shape, "F32", 4 * values.len() as u64)
    });
    let about = ExportAbout {
        name: "test".to_owned(),
        folder: folder.to_owned(),
        base: folder.to_owned(),
        config: json!({"model_type": "gpt_oss"}),
        tensors: described.collect(),
    };
    needs::scoped(|| exporter.export(&ExportModel::new(&about, &Values(tensors))))?;
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            let name = entry.file_name();
            return Err(Error::new(format!(
                "{name:?} is no file; an export has files alone"
            )));
        }
        files += 1;
    }
    match files {
        0 => Err(Error::new("the exporter has written no file")),
        _ => Ok(()),
    }
}

struct Values<'a>(&'a [(&'a str, &'a [usize], Vec<f32>)]);

impl TensorSource for Values<'_> {
    fn read(&self, tensor: usize, offset: u64, to: &mut [u8]) -> Result<()> {
        let bytes: Vec<u8> = self.0[tensor]
            .2
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let start = offset as usize;
        to.copy_from_slice(&bytes[start..start + to.len()]);
        Ok(())
    }

    fn tensor(&self, number: usize) -> Result<Tensor> {
        let (_, shape, values) = &self.0[number];
        Ok(tensor(values, shape))
    }
}
