//! A message when the run is over, by the way that ms-swift's `swanlab_notification_method` names.

mod email;
mod message;
mod webhook;

use super::Swanlab;
use super::secret::Secret;
use apus_sdk::EndState;
pub use message::Facts;
use message::{Language, Message};

/// The values of `notification_method`, for messages.
pub const METHODS: &str = "dingtalk, lark, wxwork, slack, discord or email";

/// Whether a `notification_method` is a chat.
pub fn is_chat(method: &str) -> bool {
    webhook::Kind::from_name(method).is_some()
}

/// The receiver of the message.
enum Method {
    /// A webhook of a chat.
    Webhook {
        kind: webhook::Kind,
        url: Secret,
        secret: Option<Secret>,
    },
    /// A mailbox.
    Email(email::Mailbox),
}

/// The notification of a run's end.
pub struct Notification {
    method: Method,
    language: Language,
}

impl Notification {
    /// The notification that the options ask for, if any.
    ///
    /// # Errors
    /// An option that is missing or wrong.
    pub fn new(options: &Swanlab) -> Result<Option<Self>, String> {
        let Some(name) = &options.notification_method else {
            return Ok(None);
        };
        let language = match options.email_language.as_deref() {
            None | Some("zh") => Language::Chinese,
            Some("en") => Language::English,
            Some(other) => return Err(format!("email_language is {other:?}, expected zh or en")),
        };
        let method = match name.as_str() {
            "email" => Method::Email(email::Mailbox::new(options)?),
            name => {
                let kind = webhook::Kind::from_name(name).ok_or_else(|| {
                    format!("notification_method is {name:?}, expected {METHODS}")
                })?;
                let url = options.webhook_url.clone();
                let url =
                    url.ok_or_else(|| format!("notification_method {name} needs webhook_url"))?;
                Method::Webhook {
                    kind,
                    url,
                    secret: options.secret.clone(),
                }
            }
        };
        Ok(Some(Self { method, language }))
    }

    /// Sends it.
    ///
    /// # Errors
    /// Why it could not be sent, without anything secret in it.
    pub fn send(&self, facts: &Facts, end: &EndState) -> Result<(), String> {
        let message = Message::new(self.language, facts, end);
        match &self.method {
            Method::Webhook { kind, url, secret } => {
                let sent = webhook::send(*kind, url, secret.as_ref(), &message.text());
                sent.map_err(|failure| url.hidden_in(&failure))
            }
            Method::Email(mailbox) => mailbox.send(&message),
        }
    }
}
