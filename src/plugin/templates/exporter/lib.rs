//! An exporter: a table of a model's tensors.

use apus_sdk::{ExportModel, Exporter, Result};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Table {
        /// Name of the file.
        file: String = "tensors.csv".to_owned(),
    }
}

apus_sdk::register! {
    /// Writes names, types and largest values of all tensors as a CSV file.
    Exporter, "{{component}}", Table
}

impl Exporter for Table {
    fn export(&self, model: &ExportModel) -> Result<()> {
        let mut lines = "name,type,largest\n".to_owned();
        for tensor in model.tensors() {
            let mut largest = 0.0f32;
            // The blocks and scales of packed experts are bytes.
            if tensor.dtype() != "U8" {
                model.for_each_part(tensor.name(), |_, values| {
                    largest = values.iter().fold(largest, |most, value| most.max(value.abs()));
                    Ok(())
                })?;
            }
            lines += &format!("{},{},{largest}\n", tensor.name(), tensor.dtype());
        }
        Ok(std::fs::write(model.file(&self.file)?, lines)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{export, make};

    #[test]
    fn tensors_become_lines() {
        let folder = std::env::temp_dir().join(format!("{{crate}}-{}", std::process::id()));
        let table = make::<dyn Exporter>("{{component}}", json!({"file": "a.csv"})).unwrap();
        export(table.as_ref(), &folder, &[("a", &[2], vec![1.0, -3.0])]).unwrap();
        let found = std::fs::read_to_string(folder.join("a.csv")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, "name,type,largest\na,F32,3\n");
    }
}
