//! What a run says of itself to its trackers: its id, its command, the machine, the repository.

mod git;
pub mod hardware;
pub mod machines;

use apus_components::secrets;
use apus_model::adapter::ParameterTable;
use apus_sdk::RunInfo;
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};

/// What a run says of the process it is in; the rest is as by default.
pub fn process() -> RunInfo {
    RunInfo {
        started: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        command: command(),
        hardware: hardware::describe(),
        git: git(),
        ..RunInfo::default()
    }
}

/// A run's id: eight characters, a-z and 0-9, by chance.
pub fn new_id() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..8)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}

/// The command line of this process; values of flags that carry secrets are replaced by `***`.
fn command() -> Vec<String> {
    secrets::without_secrets(std::env::args())
}

/// Where the working folder stands in its repository.
fn git() -> Map<String, Value> {
    std::env::current_dir()
        .ok()
        .and_then(|dir| git::find(&dir))
        .unwrap_or_default()
}

/// Counts of the model and what of it is trained.
pub fn model(table: &ParameterTable) -> Map<String, Value> {
    let trained = table.rows.iter().filter(|row| row.trainable > 0);
    let groups: Vec<Value> = trained
        .map(|row| json!({"name": row.part, "tensors": row.modules, "parameters": row.trainable}))
        .collect();
    let mut model = Map::new();
    model.insert("parameters".to_owned(), json!(table.parameters()));
    model.insert("trainable".to_owned(), json!(table.trainable()));
    model.insert("groups".to_owned(), json!(groups));
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_eight_letters_and_differ() {
        let id = new_id();
        assert_eq!(id.len(), 8);
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        );
        assert_ne!(id, new_id());
    }
}
