//! What a run says of itself to its trackers: its id, its command, the machine, the repository.

mod git;
pub mod hardware;

use crate::adapter::Table;
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
    without_secrets(std::env::args())
}

/// Takes what is secret out of a configuration: flags, and options of components.
pub fn forget_secrets(args: &mut Map<String, Value>) {
    args.retain(|name, _| !is_secret(name));
    for value in args.values_mut() {
        let components = match value {
            Value::Array(items) => items.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        for component in components.iter_mut().filter_map(Value::as_object_mut) {
            if component.contains_key("name") {
                component.retain(|name, _| !is_secret(name));
            }
        }
    }
}

/// Whether a flag or an option of a component of this name carries a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name
        .trim_start_matches('-')
        .to_lowercase()
        .replace('-', "_");
    let last = name.rsplit('.').next().unwrap_or_default();
    [
        "token",
        "secret",
        "api_key",
        "password",
        "webhook_url",
        "webhook",
    ]
    .iter()
    .any(|end| last == *end || last.ends_with(&format!("_{end}")))
}

fn without_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut hide = false;
    words
        .map(|word| {
            let hidden = std::mem::take(&mut hide);
            match word.split_once('=') {
                Some((flag, _)) if flag.starts_with("--") && is_secret(flag) => {
                    format!("{flag}=***")
                }
                _ if word.starts_with("--") => {
                    hide = is_secret(&word);
                    word
                }
                _ if hidden => "***".to_owned(),
                _ => word,
            }
        })
        .collect()
}

/// Where the working folder stands in its repository.
fn git() -> Map<String, Value> {
    std::env::current_dir()
        .ok()
        .and_then(|dir| git::find(&dir))
        .unwrap_or_default()
}

/// Counts of the model and what of it is trained.
pub fn model(table: &Table) -> Map<String, Value> {
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

    #[test]
    fn secrets_do_not_get_into_the_configuration() {
        let mut args = json!({
            "swanlab_token": "k", "swanlab_webhook_url": "k", "model": "m", "max_new_tokens": 1,
            "trackers": [{"name": "swanlab", "token": "k", "project": "p"}],
        });
        let args = args.as_object_mut().unwrap();
        forget_secrets(args);
        let kept = json!({"model": "m", "max_new_tokens": 1, "trackers": [{"name": "swanlab", "project": "p"}]});
        assert_eq!(Value::Object(args.clone()), kept);
    }

    #[test]
    fn secrets_do_not_leave_the_command_line() {
        let words = "apus sft --swanlab_token k1 --swanlab.api-key=k2 --max_new_tokens 5 --swanlab_secret k3 --seed 1";
        let kept = without_secrets(words.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(
            kept,
            "apus sft --swanlab_token *** --swanlab.api-key=*** --max_new_tokens 5 --swanlab_secret *** --seed 1"
        );
    }
}
