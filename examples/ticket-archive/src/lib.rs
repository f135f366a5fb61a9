//! A dataset with a name of its own: `support/tickets`, a folder with a folder a year, and products as its subsets.
//!
//! Its rows are read by the format `ticket`, which `examples/ticket-format` has.

use apus_sdk::serde_json::Value;
use apus_sdk::{Dataset, DatasetSource, Options, Result, Row};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Archive {
        /// The folder of the archive.
        folder: String = "/data/tickets".to_owned(),
        /// The year.
        year: u32 = 2025,
    }
    state {
        products: Vec<String>,
    }
}

apus_sdk::register! {
    /// Tickets of a year; `support/tickets:lamp` are those about lamps.
    Dataset, "support/tickets", Archive
}

impl Dataset for Archive {
    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource> {
        self.products = subsets.to_vec();
        let files = format!("{}/{}/*.jsonl", self.folder, self.year);
        let source = DatasetSource::path(files).format("ticket", Options::new());
        Ok(source.changes_rows())
    }

    fn row(&self, row: Row) -> Result<Option<Row>> {
        let product = row
            .get("product")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let wanted = self.products.is_empty() || self.products.iter().any(|one| one == product);
        Ok(wanted.then_some(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::make;

    #[test]
    fn subsets_are_products() {
        let options = json!({"folder": "/archive", "year": 2024});
        let mut archive = make::<dyn Dataset>("support/tickets", options).unwrap();
        let row = |product: &str| Row::from_iter([("product".to_owned(), product.into())]);
        let source = archive.source(&[]).unwrap();
        assert_eq!(source.files(), Some("/archive/2024/*.jsonl"));
        assert!(archive.row(row("desk")).unwrap().is_some());
        archive.source(&["lamp".to_owned()]).unwrap();
        assert!(archive.row(row("lamp")).unwrap().is_some());
        assert!(archive.row(row("desk")).unwrap().is_none());
        assert!(archive.row(Row::new()).unwrap().is_none());
    }
}
