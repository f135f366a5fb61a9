//! `apus swanlab login` and `verify`.

use super::netrc::{self, Entry};
use super::secret::Secret;
use super::session::{Session, User};
use super::settings::{Account, process_env};
use apus_sdk::{Error, Result};
use std::path::PathBuf;

/// Checks a key with its server and stores it where every run finds it: in `.netrc` in the folder of SwanLab's
/// settings. Gives who it belongs to, and the file.
///
/// # Errors
/// The server refuses the key or does not answer, or the file cannot be written. Nothing is stored then.
pub fn login(host: Option<&str>, key: Secret) -> Result<(String, PathBuf)> {
    let account = Account::find(host, Some(&key), &process_env);
    let user = check(&account, &key)?;
    let file = netrc::user_file(&process_env).ok_or(
        "there is no home folder to store the key in; set SWANLAB_ROOT to a folder, or give the key in SWANLAB_API_KEY",
    )?;
    let entry = Entry {
        api_host: account.api_host,
        web_host: account.web_host,
        key,
    };
    netrc::write(&file, &entry).map_err(|e| Error::new(format!("{}: {e}", file.display())))?;
    Ok((words(&user), file))
}

/// Checks the key that a run would use; gives who it belongs to, and the server.
///
/// # Errors
/// There is no key, the server refuses it or does not answer.
pub fn verify(host: Option<&str>) -> Result<(String, String)> {
    let account = Account::find(host, None, &process_env);
    let key = account
        .key
        .clone()
        .ok_or_else(|| no_key(&account.api_host))?;
    let user = check(&account, &key)?;
    Ok((words(&user), account.api_host))
}

pub(super) fn no_key(host: &str) -> Error {
    Error::new(format!(
        "there is no key for {host}: not in SWANLAB_API_KEY, ./.swanlab/.netrc or ~/.swanlab/.netrc. Run `apus swanlab \
         login`; keys are on the settings page of the web site"
    ))
}

fn check(account: &Account, key: &Secret) -> Result<User> {
    let session = Session::open(account, key).map_err(Error::new)?;
    Ok(session.user().clone())
}

fn words(user: &User) -> String {
    match user.name.is_empty() || user.name == user.username {
        true => user.username.clone(),
        false => format!("{} ({})", user.username, user.name),
    }
}
