//! A key or a password, which is not shown by accident.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A text that is neither printed nor written: `{:?}` and serialisation leave it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one request that carries it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// Another text, with the secret taken out of it.
    pub(super) fn hidden_in(&self, text: &str) -> String {
        match self.0.len() {
            0..4 => text.to_owned(),
            _ => text.replace(&self.0, "***"),
        }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_none()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The command line reads a key of digits as a number; an error must not show what it was.
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(text.into()),
            serde_json::Value::Number(number) => Ok(number.to_string().into()),
            _ => Err(serde::de::Error::custom("expected a text (not shown here)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_not_shown() {
        let secret: Secret = serde_json::from_value(json!(" abcd1234 ")).unwrap();
        assert_eq!(secret.reveal(), "abcd1234");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "null");
        assert_eq!(
            secret.hidden_in("key abcd1234 is wrong"),
            "key *** is wrong"
        );
        let number: Secret = serde_json::from_value(json!(12345)).unwrap();
        assert_eq!(number.reveal(), "12345");
        let error = serde_json::from_value::<Secret>(json!(["abcd1234"])).unwrap_err();
        assert!(!error.to_string().contains("abcd"), "{error}");
    }
}
