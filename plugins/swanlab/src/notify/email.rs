//! An email: STARTTLS, or TLS from the start on port 465.

use super::super::Swanlab;
use super::Secret;
use super::message::Message;
use lettre::message::Mailbox as Address;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{SmtpTransport, Transport};
use std::time::Duration;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The server and the addresses of an email.
pub struct Mailbox {
    from: Address,
    to: Address,
    server: String,
    port: u16,
    password: Secret,
}

impl Mailbox {
    /// Reads the options.
    ///
    /// # Errors
    /// An option that is missing or is not an address.
    pub fn new(options: &Swanlab) -> Result<Self, String> {
        let needs = |value: &Option<String>, name: &str| {
            let value = value.clone();
            value.ok_or_else(|| format!("notification_method email needs {name}"))
        };
        let address = |value: &Option<String>, name: &str| {
            let text = needs(value, name)?;
            let address = text.parse::<Address>();
            address.map_err(|error| format!("{name} is {text:?}, which is no address: {error}"))
        };
        Ok(Self {
            from: address(&options.sender_email, "sender_email")?,
            to: address(&options.receiver_email, "receiver_email")?,
            server: needs(&options.smtp_server, "smtp_server")?,
            port: options.smtp_port.unwrap_or(587),
            password: options
                .secret
                .clone()
                .ok_or("notification_method email needs secret, the password of the sender")?,
        })
    }

    /// Sends it.
    ///
    /// # Errors
    /// Why the server did not take it.
    pub fn send(&self, message: &Message) -> Result<(), String> {
        let letter = self.letter(message)?;
        let relay = match self.port {
            465 => SmtpTransport::relay(&self.server),
            _ => SmtpTransport::starttls_relay(&self.server),
        };
        let failed = |error: &dyn std::fmt::Display| {
            let text = format!("email by {}:{}: {error}", self.server, self.port);
            self.password.hidden_in(&text)
        };
        let user = self.from.email.to_string();
        let transport = relay
            .map_err(|error| failed(&error))?
            .port(self.port)
            .credentials(Credentials::new(user, self.password.reveal().to_owned()))
            .timeout(Some(PATIENCE))
            .build();
        transport.send(&letter).map_err(|error| failed(&error))?;
        Ok(())
    }

    fn letter(&self, message: &Message) -> Result<lettre::Message, String> {
        let letter = lettre::Message::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .subject(message.subject());
        letter
            .body(message.text())
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Facts, Language};
    use super::*;
    use apus_sdk::EndState;
    use serde_json::json;

    fn mailbox(options: serde_json::Value) -> Result<Mailbox, String> {
        Mailbox::new(&serde_json::from_value(options).unwrap())
    }

    #[test]
    fn a_letter_is_written() {
        let options = json!({"sender_email": "me@example.org", "receiver_email": "you@example.org",
            "smtp_server": "smtp.example.org", "secret": "password"});
        let mailbox = mailbox(options).unwrap();
        assert_eq!(mailbox.port, 587);
        let (facts, end) = (Facts::default(), EndState::Interrupted);
        let message = Message::new(Language::English, &facts, &end);
        let letter = String::from_utf8(mailbox.letter(&message).unwrap().formatted()).unwrap();
        assert!(letter.contains("To: you@example.org\r\n"), "{letter}");
        assert!(
            letter.contains("Your experiment was interrupted"),
            "{letter}"
        );
    }

    #[test]
    fn a_server_that_is_not_there_is_named_and_the_password_is_not() {
        let options = json!({"sender_email": "me@example.org", "receiver_email": "you@example.org",
            "smtp_server": "127.0.0.1", "smtp_port": 9, "secret": "topsecret"});
        let (facts, end) = (Facts::default(), EndState::Interrupted);
        let message = Message::new(Language::Chinese, &facts, &end);
        let error = mailbox(options).unwrap().send(&message).unwrap_err();
        assert!(error.starts_with("email by 127.0.0.1:9: "), "{error}");
        assert!(!error.contains("topsecret"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |options| mailbox(options).err().unwrap();
        assert!(error(json!({})).contains("sender_email"));
        let no_server =
            json!({"sender_email": "me@example.org", "receiver_email": "you@example.org"});
        assert!(error(no_server).contains("smtp_server"));
        assert!(error(json!({"sender_email": "me"})).contains("no address"));
    }
}
