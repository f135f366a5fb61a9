//! What carries a key or a password and is written nowhere.

use serde_json::{Map, Value};

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
pub fn is_secret(name: &str) -> bool {
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

/// The words of a command line, with `***` for the values of flags that carry secrets.
pub fn without_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
