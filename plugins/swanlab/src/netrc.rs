//! Where a key is kept: the `.netrc` files that SwanLab's own tools write and read.

use super::secret::Secret;
use apus_sdk::small_file::{self, Limit};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The entry of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The server.
    pub api_host: String,
    /// Where its pages are.
    pub web_host: String,
    /// The key.
    pub key: Secret,
}

/// `scheme://host[:port]` of an address, without a path; https where no scheme is given.
pub fn host(address: &str) -> String {
    let address = address.trim();
    let (scheme, rest) = address.split_once("://").unwrap_or(("https", address));
    let name = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{name}")
}

/// The files in the order in which they are asked: the working folder's, then the user's.
pub fn files(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut files = vec![Path::new(".swanlab").join(".netrc")];
    files.extend(user_file(env));
    files
}

/// The user's file, in the folder of SwanLab's settings.
pub fn user_file(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let named = env("SWANLAB_ROOT").or_else(|| env("SWANLAB_SAVE_DIR"));
    let dir = match named {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env("HOME").or_else(|| env("USERPROFILE"))?).join(".swanlab"),
    };
    Some(dir.join(".netrc"))
}

/// Reads a file; `None` if it is not there or holds no entry.
pub fn read(path: &Path) -> Option<Entry> {
    let text = small_file::text(path, Limit::WRITTEN).ok()?;
    let mut words = text.split_whitespace();
    let (mut machine, mut login, mut key) = (None, None, None);
    while let Some(word) = words.next() {
        let place = match word {
            // One entry is all that these files have.
            "machine" if machine.is_some() => break,
            "machine" => &mut machine,
            "login" => &mut login,
            "password" => &mut key,
            _ => continue,
        };
        *place = words.next().map(str::to_owned);
    }
    let api_host = host(&machine?);
    Some(Entry {
        web_host: login.map_or_else(|| api_host.clone(), |login| host(&login)),
        api_host,
        key: key?.into(),
    })
}

/// Writes a file that only its owner may read, in place of what was there.
pub fn write(path: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = format!(
        "machine {}\n\tlogin {}\n\tpassword {}\n",
        entry.api_host,
        entry.web_host,
        entry.key.reveal()
    );
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // A temporary file that was left behind may have other permissions.
    let _ = fs::remove_file(&new);
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_and_belongs_to_its_owner() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("settings").display().to_string();
        let env = |name: &str| (name == "SWANLAB_ROOT").then(|| root.clone());
        let path = user_file(&env).unwrap();
        assert_eq!(files(&env)[1], path);
        assert_eq!(read(&path), None);
        let entry = Entry {
            api_host: "http://127.0.0.1:8765".to_owned(),
            web_host: "http://127.0.0.1:8765".to_owned(),
            key: "testkey123".to_owned().into(),
        };
        for _ in 0..2 {
            write(&path, &entry).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "machine http://127.0.0.1:8765\n\tlogin http://127.0.0.1:8765\n\tpassword testkey123\n"
        );
        assert_eq!(read(&path), Some(entry));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }

    #[test]
    fn old_files_name_the_path_too() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".netrc");
        fs::write(
            &path,
            "machine https://api.swanlab.cn/api login user password k",
        )
        .unwrap();
        let entry = read(&path).unwrap();
        assert_eq!(entry.api_host, "https://api.swanlab.cn");
        assert_eq!(entry.key.reveal(), "k");
        fs::write(&path, "machine https://api.swanlab.cn").unwrap();
        assert_eq!(read(&path), None);
        assert_eq!(
            host("lab.example.org:8000/api/"),
            "https://lab.example.org:8000"
        );
    }
}
