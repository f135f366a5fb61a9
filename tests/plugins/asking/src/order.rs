//! A loss that writes down which examples it is given, a sampler that goes wrong as it is told, and one that mixes datasets
//! and counts its epochs.

use apus_sdk::serde_json::{Value, json};
use apus_sdk::{Epoch, Loss, LossChunk, Need, Result, Sampler, Tensor};
use std::fs::OpenOptions;
use std::io::Write;

apus_sdk::options! {
    struct Recording {
        /// The file: a line with step and number for each example that is trained. None is written without it.
        file: String = String::new(),
    }
}

apus_sdk::register! {
    /// Cross entropy that writes down what it is given.
    Loss, "recording", Recording
}

impl Loss for Recording {
    fn needs() -> &'static [Need] {
        &[Need::ChunkRows]
    }

    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let rows = chunk.rows()?;
        if self.file.is_empty() {
            return chunk.cross_entropy();
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)?;
        let (mut last, numbers) = (None, rows.of_tokens().map(|row| row.number()));
        for (sequence, number) in rows.sequences().iter().zip(numbers) {
            if last.replace(sequence) != Some(sequence)
                && let (Some(step), Some(number)) = (rows.step(), number)
            {
                writeln!(file, "{step} {number}")?;
            }
        }
        chunk.cross_entropy()
    }
}

apus_sdk::options! {
    struct Wrong {
        /// What goes wrong.
        how: String = String::new(),
    }
}

apus_sdk::register! {
    /// Goes wrong as it is told.
    Sampler, "wrong", Wrong
}

impl Sampler for Wrong {
    fn epoch_length(&self, epoch: &Epoch) -> Result<usize> {
        match self.how.as_str() {
            "none" => Ok(0),
            _ => Ok(epoch.len()),
        }
    }

    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let mut order = epoch.in_order();
        match self.how.as_str() {
            "short" => order.truncate(2),
            "outside" => order[1] = epoch.len(),
            "panics" => panic!("told to panic"),
            "fails" => return Err("told to fail".into()),
            "undeclared" => drop(epoch.row(0).loss()),
            "column" => drop(epoch.row(0).column("difficulty")?),
            _ => {}
        }
        Ok(order)
    }
}

apus_sdk::options! {
    struct Mixing {
        /// How much each dataset counts; without it the rows come in their order.
        weights: Vec<f64> = Vec::new(),
    }
    state {
        epochs: u64,
    }
}

apus_sdk::register! {
    /// Takes as many rows as there are, each from a dataset that is drawn by its weight; in each second epoch backwards.
    Sampler, "mixing", Mixing
}

impl Sampler for Mixing {
    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        if self.weights.is_empty() {
            return Ok(epoch.in_order());
        }
        let mut random = epoch.random();
        let mut of_dataset: Vec<Vec<usize>> = vec![Vec::new(); epoch.datasets().len()];
        for row in epoch.rows() {
            of_dataset[row.dataset().ok_or("a row of no dataset")?].push(row.number());
        }
        let mut order = Vec::new();
        while order.len() < epoch.len() {
            let set = random.weighted(&self.weights).ok_or("no weights")?;
            order.push(of_dataset[set][random.below(of_dataset[set].len())]);
        }
        self.epochs += 1;
        if self.epochs.is_multiple_of(2) {
            order.reverse();
        }
        Ok(order)
    }

    fn save_state(&self) -> Result<Value> {
        Ok(json!({"epochs": self.epochs}))
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        self.epochs = saved["epochs"].as_u64().ok_or("no number of epochs")?;
        Ok(())
    }
}
