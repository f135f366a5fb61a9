//! A dataset with a name of its own: `--dataset {{component}}` is enough to train on it.

use apus_sdk::serde_json::{Value, json};
use apus_sdk::{Dataset, DatasetSource, Result, Row};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Squares {
        /// The number of rows.
        count: u64 = 100,
    }
}

apus_sdk::register! {
    /// Squares of numbers, which this component makes; for files and ids see `DatasetSource::path` and `hugging_face`.
    Dataset, "{{component}}", Squares
}

impl Dataset for Squares {
    fn source(&mut self, _subsets: &[String]) -> Result<DatasetSource> {
        Ok(DatasetSource::made())
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let row = |number: u64| match json!({"query": format!("{number} * {number} = ?"), "response": (number * number).to_string()}) {
            Value::Object(row) => row,
            _ => Row::new(),
        };
        Ok((0..self.count).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::make;

    #[test]
    fn rows_are_questions_and_answers() {
        let mut dataset = make::<dyn Dataset>("{{component}}", json!({"count": 4})).unwrap();
        assert_eq!(dataset.source(&[]).unwrap(), DatasetSource::made());
        let rows = dataset.rows().unwrap();
        assert_eq!((rows.len(), &rows[3]["response"]), (4, &json!("9")));
    }
}
