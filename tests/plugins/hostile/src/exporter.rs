//! Exporters that fail after they have written something, or write what is no export.

use apus_sdk::{ExportModel, Exporter, Result};

apus_sdk::options! {
    struct Fails {
        /// panic, error, nothing, folder, missing, beyond or outside.
        how: String = "panic".to_owned(),
    }
}

apus_sdk::register! {
    /// Fails while it exports.
    Exporter, "fails", Fails
}

impl Exporter for Fails {
    fn export(&self, model: &ExportModel) -> Result<()> {
        if self.how == "nothing" {
            return Ok(());
        }
        std::fs::write(model.file("half.txt")?, "half")?;
        match self.how.as_str() {
            "panic" => panic!("hostile in export"),
            "folder" => Ok(std::fs::create_dir(model.folder().join("inner"))?),
            "missing" => model.values("no.such.tensor", 0..1).map(drop),
            "beyond" => {
                let first = &model.tensors()[0];
                model.read(first.name(), first.bytes() - 1, &mut [0; 2])
            }
            "outside" => model.file("../outside.txt").map(drop),
            _ => Err("hostile in export".into()),
        }
    }
}
