//! ms-swift's flags for SwanLab, which are options of its tracker.

use super::SftConfig;
use anyhow::{Result, ensure};
use serde_json::{Map, Value};

/// What the flags begin with.
const PREFIX: &str = "swanlab_";
/// Chats that a message is posted to.
const CHATS: [&str; 5] = ["dingtalk", "lark", "wxwork", "slack", "discord"];

impl SftConfig {
    /// Options of the tracker: those flags that were given.
    pub fn swanlab_options(&self) -> Map<String, Value> {
        let Ok(Value::Object(all)) = serde_json::to_value(self) else {
            return Map::new();
        };
        let given = all.into_iter().filter(|(_, value)| !value.is_null());
        given
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)))
            .collect()
    }

    /// Checks what a run could only tell at its end.
    pub(super) fn check_swanlab(&self) -> Result<()> {
        if let Some(mode) = &self.swanlab_mode {
            ensure!(
                matches!(mode.as_str(), "cloud" | "local" | "offline" | "disabled"),
                "swanlab_mode is {mode:?}, expected cloud, local, offline or disabled"
            );
        }
        let Some(method) = &self.swanlab_notification_method else {
            return Ok(());
        };
        if method == "email" {
            for (name, there) in [
                ("swanlab_sender_email", self.swanlab_sender_email.is_some()),
                (
                    "swanlab_receiver_email",
                    self.swanlab_receiver_email.is_some(),
                ),
                ("swanlab_smtp_server", self.swanlab_smtp_server.is_some()),
                ("swanlab_secret", self.swanlab_secret.is_some()),
            ] {
                ensure!(
                    there,
                    "swanlab_notification_method is email and {name} is not given"
                );
            }
            return Ok(());
        }
        ensure!(
            CHATS.contains(&method.as_str()),
            "swanlab_notification_method is {method:?}, expected {} or email",
            CHATS.join(", ")
        );
        ensure!(
            self.swanlab_webhook_url.is_some(),
            "swanlab_notification_method is {method} and swanlab_webhook_url is not given"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edit: impl FnOnce(&mut SftConfig)) -> String {
        let mut config = SftConfig::default();
        edit(&mut config);
        config
            .check_swanlab()
            .map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn flags_are_options() {
        let config = SftConfig {
            swanlab_project: Some("p".to_owned()),
            swanlab_smtp_port: Some(465),
            ..SftConfig::default()
        };
        let options = Value::Object(config.swanlab_options());
        assert_eq!(
            options,
            serde_json::json!({"project": "p", "smtp_port": 465})
        );
    }

    #[test]
    fn a_message_needs_to_know_where_to() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(check(|_| {}), "fits");
        assert!(check(|c| c.swanlab_mode = some("clod")).contains("expected cloud"));
        let method =
            |name: &'static str| check(move |c| c.swanlab_notification_method = some(name));
        assert!(method("lark").contains("swanlab_webhook_url is not given"));
        assert!(method("email").contains("swanlab_sender_email is not given"));
        assert!(method("pigeon").contains("expected dingtalk"));
        let told = check(|c| {
            c.swanlab_notification_method = some("slack");
            c.swanlab_webhook_url = some("https://example.org");
        });
        assert_eq!(told, "fits");
    }
}
