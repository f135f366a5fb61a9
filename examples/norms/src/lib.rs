//! The norms of a model's tensors as JSON, for a look at what training has changed: `apus export --plugin ... --to norms`.

use apus_sdk::serde_json::{Map, json, to_string_pretty};
use apus_sdk::{ExportModel, Exporter, Result};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Norms {
        /// Name of the file.
        file: String = "norms.json".to_owned(),
    }
}

apus_sdk::register! {
    /// Lists shapes and Frobenius norms of all tensors as JSON.
    Exporter, "norms", Norms
}

impl Exporter for Norms {
    fn export(&self, model: &ExportModel) -> Result<()> {
        let mut all = Map::new();
        for tensor in model.tensors() {
            let mut squares = 0.0;
            // The blocks and scales of packed experts are bytes: `--experts_dtype bf16` unpacks them.
            let floats = tensor.dtype() != "U8";
            if floats {
                model.for_each_part(tensor.name(), |_, values| {
                    squares += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                    Ok(())
                })?;
            }
            let norm = floats.then(|| squares.sqrt());
            let about = json!({"shape": tensor.shape(), "dtype": tensor.dtype(), "norm": norm});
            all.insert(tensor.name().to_owned(), about);
        }
        Ok(std::fs::write(
            model.file(&self.file)?,
            to_string_pretty(&all)?,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::Value;
    use apus_sdk::testing::{export, make};

    #[test]
    fn the_norm_of_three_and_four() {
        let folder = std::env::temp_dir().join(format!("norms-{}", std::process::id()));
        let norms = make::<dyn Exporter>("norms", json!({})).unwrap();
        export(norms.as_ref(), &folder, &[("a", &[1, 2], vec![3.0, 4.0])]).unwrap();
        let text = std::fs::read_to_string(folder.join("norms.json")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let found: Value = apus_sdk::serde_json::from_str(&text).unwrap();
        assert_eq!(
            found["a"],
            json!({"shape": [1, 2], "dtype": "F32", "norm": 5.0})
        );
    }
}
