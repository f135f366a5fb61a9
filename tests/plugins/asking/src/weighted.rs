//! A loss that reads columns of the rows.

use apus_sdk::serde_json::Value;
use apus_sdk::{BatchRow, Error, Loss, LossChunk, Need, Result, Tensor};

apus_sdk::options! {
    struct Weighted {
        /// The column that it asks for.
        column: String = "importance".to_owned(),
        /// The column that it reads, if another.
        reads: Option<String> = None,
        /// Whether it panics when it is asked for its columns.
        panics: bool = false,
    }
}

apus_sdk::register! {
    /// Cross entropy, times a number of the row; 1 where the row has none.
    Loss, "weighted", Weighted
}

impl Weighted {
    fn weight(&self, row: &BatchRow) -> Result<f32> {
        match row.column(self.reads.as_ref().unwrap_or(&self.column))? {
            Value::Null => Ok(1.0),
            Value::Number(number) => Ok(number.as_f64().unwrap_or(1.0) as f32),
            other => Err(Error::new(format!("the weight of a row is {other}"))),
        }
    }
}

impl Loss for Weighted {
    fn needs() -> &'static [Need] {
        &[Need::ChunkRows]
    }

    fn columns(&self) -> Result<Vec<String>> {
        assert!(!self.panics, "no columns today");
        Ok(vec![self.column.clone()])
    }

    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let rows = chunk.rows()?;
        let weights = rows.of_tokens().map(|row| self.weight(row));
        let weights: Vec<f32> = weights.collect::<Result<_>>()?;
        let loss = chunk.cross_entropy()?;
        loss.mul(&loss.new_tensor(&weights, &[weights.len()])?)
    }
}
