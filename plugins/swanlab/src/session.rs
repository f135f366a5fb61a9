//! A session with the server: opened with the key, kept by a cookie, renewed before it ends and when the server has
//! lost it.

use super::http::{self, Failure, Reply};
use super::secret::Secret;
use super::settings::Account;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use reqwest::blocking::Client;
use reqwest::header::{AUTHORIZATION, COOKIE};
use serde::Serialize;
use std::time::Duration;

/// The version of SwanLab's SDK whose protocol this is.
const SDK: &str = "0.10.3";
/// How long opening a session may take.
const LOGIN: Duration = Duration::from_secs(10);

/// The account that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account, which is also its workspace.
    pub username: String,
    /// The name of the user.
    pub name: String,
}

/// An open session.
pub struct Session {
    client: Client,
    base: String,
    key: Secret,
    cookie: String,
    renew_at: DateTime<Utc>,
    user: User,
}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Failure::Key`] if the server refuses the key, else as [`http::send`].
    pub fn open(account: &Account, key: &Secret) -> Result<Self, Failure> {
        let mut session = Self {
            client: http::client()?,
            base: format!("{}/api", account.api_host),
            key: key.clone(),
            cookie: String::new(),
            renew_at: Utc::now(),
            user: User {
                username: String::new(),
                name: String::new(),
            },
        };
        session.login()?;
        Ok(session)
    }

    /// The account that is logged in.
    pub fn user(&self) -> &User {
        &self.user
    }

    fn login(&mut self) -> Result<(), Failure> {
        let request = self
            .client
            .post(format!("{}/login/api_key", self.base))
            .timeout(LOGIN)
            .header(AUTHORIZATION, self.key.reveal())
            .header("X-SwanLab-SDK-Version", SDK);
        let reply = http::send(request, "login").map_err(|failure| {
            let failure = failure.without(&self.key);
            match failure {
                Failure::Refused {
                    status: 401 | 403,
                    message,
                    ..
                } => Failure::Key(format!(
                    "{message}. The key is wrong or not good for {}",
                    self.base.trim_end_matches("/api")
                )),
                Failure::Refused {
                    status: 404,
                    message,
                    ..
                } => Failure::Invalid(format!(
                    "{message}. Is {} a SwanLab server?",
                    self.base.trim_end_matches("/api")
                )),
                other => other,
            }
        })?;
        self.cookie = format!("sid={}", reply.needs("sid", "the login")?);
        let now = Utc::now();
        let ends = reply
            .text("expiredAt")
            .and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        let left = ends.map_or(TimeDelta::days(1), |ends| ends.with_timezone(&Utc) - now);
        // SwanLab's own rule is 7 days before the end; a server whose sessions are shorter is asked at half time.
        self.renew_at = now + (left - TimeDelta::days(7)).max(left / 2);
        let info = reply.body.get("userInfo");
        let field = |name: &str| {
            let text = info?.get(name)?.as_str()?;
            Some(text.to_owned())
        };
        self.user = User {
            username: field("username").unwrap_or_default(),
            name: field("name").unwrap_or_default(),
        };
        Ok(())
    }

    /// Requests a path under `/api`; a lost session is opened again once.
    pub fn call<B: Serialize + ?Sized>(
        &mut self,
        method: &Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Reply, Failure> {
        if Utc::now() >= self.renew_at {
            self.login()?;
        }
        match self.once(method, path, body) {
            Err(failure) if failure.is(401) => {
                self.login()?;
                self.once(method, path, body)
            }
            reply => reply,
        }
    }

    fn once<B: Serialize + ?Sized>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Reply, Failure> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base))
            .header(COOKIE, &self.cookie)
            .header("X-SwanLab-SDK-Version", SDK)
            .header(reqwest::header::CONTENT_TYPE, "application/json");
        if let Some(body) = body {
            let json =
                serde_json::to_vec(body).map_err(|error| Failure::Invalid(error.to_string()))?;
            request = request.body(json);
        }
        let place = path.split('?').next().unwrap_or(path);
        http::send(request, &format!("{method} {place}"))
            .map_err(|failure| failure.without(&self.key))
    }

    /// Sends bytes to an address that the server has signed; it gets no cookie.
    pub fn put_bytes(&self, url: &str, kind: &str, bytes: &[u8]) -> Result<(), Failure> {
        let request = self
            .client
            .put(url)
            .header(reqwest::header::CONTENT_TYPE, kind)
            .body(bytes.to_vec());
        let sent = http::send(request, "upload to the object store");
        sent.map(drop)
            .map_err(|failure| Failure::Store(failure.to_string()))
    }
}
