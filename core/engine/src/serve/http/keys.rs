//! Keys of clients: compared in constant time, and written nowhere.

use super::error::ApiError;
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// A key, as its hash: neither its length nor its letters can be told from how long a comparison takes.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with this text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    fn is(&self, text: &str) -> bool {
        self.0.ct_eq(&Self::new(text).0).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// The keys of a server.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// That of clients; without one anybody who reaches the server is one.
    pub api: Option<Key>,
    /// That of whoever adds and removes adapters; without one nobody does.
    pub admin: Option<Key>,
}

impl Keys {
    /// Lets a client through.
    ///
    /// # Errors
    /// No key, or another one.
    pub fn check_client(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(key) = &self.api else {
            return Ok(());
        };
        let given = bearer(headers);
        // The administrator is a client, too.
        let known = [Some(key), self.admin.as_ref()];
        let fits = |given: &str| {
            known
                .into_iter()
                .flatten()
                .fold(false, |fits, key| fits | key.is(given))
        };
        match given {
            Some(given) if fits(given) => Ok(()),
            Some(_) => Err(refused("The API key is not one of this server")),
            None => Err(refused(
                "No API key, expected the header `Authorization: Bearer KEY`",
            )),
        }
    }

    /// Lets the administrator through.
    ///
    /// # Errors
    /// There is no key for this, or another one was given.
    pub fn check_admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match (&self.admin, bearer(headers)) {
            (None, _) => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "invalid_request_error",
                "Adapters are added and removed with an admin key, and this server was started without one (--admin_api_key)",
            )),
            (Some(key), Some(given)) if key.is(given) => Ok(()),
            (Some(_), _) => Err(refused(
                "Adapters are added and removed with the admin key, expected `Authorization: Bearer KEY` with that one",
            )),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

fn refused(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message)
        .code("invalid_api_key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_key_opens_what_it_is_for() {
        let keys = Keys {
            api: Some(Key::new("client")),
            admin: Some(Key::new("boss")),
        };
        for (value, client, admin) in [
            ("Bearer client", true, false),
            ("bearer  client", true, false),
            ("Bearer boss", true, true),
            ("Bearer cl", false, false),
            ("Bearer ", false, false),
            ("Basic client", false, false),
            ("client", false, false),
            ("", false, false),
        ] {
            let headers = headers(value);
            assert_eq!(keys.check_client(&headers).is_ok(), client, "{value}");
            assert_eq!(keys.check_admin(&headers).is_ok(), admin, "{value}");
        }
        let none = Keys::default();
        assert!(none.check_client(&headers("")).is_ok());
        let closed = none.check_admin(&headers("Bearer x")).unwrap_err();
        assert_eq!(closed.status(), StatusCode::FORBIDDEN);
        assert!(!format!("{keys:?}").contains("client"));
    }
}
