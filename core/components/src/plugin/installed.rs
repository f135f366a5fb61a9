//! Plugins that were installed: each has a folder of its name in a folder of the user, with its library and a record of where it came from.
//!
//! The record is what counts. It names the library by a part of its hash, so a new library never overwrites one that is open, and a
//! process that is killed leaves the record of before. Who writes holds a lock.

use super::inspect;
use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_base::checksums::hex;
use apus_sdk::small_file::{self, Limit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The environment variable that names the folder of installed plugins.
pub const HOME_VARIABLE: &str = "APUS_PLUGIN_HOME";

/// The name of a record in the folder of its plugin.
const RECORD: &str = "plugin.toml";
/// The longest name of a plugin.
const LONGEST: usize = 64;

/// The record of an installed plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name, with `-` for `_`.
    pub name: String,
    /// Its version, if who installed it knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it came from, in words.
    pub origin: String,
    /// The index that it came from, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The commit that it was built of, if the index named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Its licence, if who installed it knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// The kinds of its components, if who installed it knew them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// The version of the SDK that it was built with.
    #[serde(default)]
    pub sdk: String,
    /// The name of the library beside the record.
    #[serde(default)]
    pub library: String,
    /// The SHA-256 of the library, in hexadecimal digits.
    #[serde(default)]
    pub sha256: String,
}

/// The folder of installed plugins.
#[derive(Debug, Clone)]
pub struct PluginHome(PathBuf);

impl PluginHome {
    /// This folder, which need not be there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder that [`HOME_VARIABLE`] names, or `apus/plugins` in the user's folder of data; nothing if the user has none.
    pub fn from_environment() -> Option<Self> {
        Self::of(&|name| std::env::var_os(name).map(PathBuf::from))
    }

    fn of(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let get = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
        if let Some(folder) = get(HOME_VARIABLE) {
            return Some(Self(folder));
        }
        // What is not absolute is to be ignored, says the XDG base directory specification.
        let xdg = get("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let data = xdg.or_else(|| match () {
            () if cfg!(windows) => get("APPDATA"),
            () if cfg!(target_vendor = "apple") => {
                Some(get("HOME")?.join("Library/Application Support"))
            }
            () => Some(get("HOME")?.join(".local/share")),
        });
        Some(Self(data?.join("apus/plugins")))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The library of a plugin of this name and its record; nothing if none is installed.
    ///
    /// # Errors
    /// A name that is none, or a record that cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<(PathBuf, Installed)>> {
        let folder = self.0.join(checked(name)?);
        let file = folder.join(RECORD);
        let Some(text) = small_file::text_if_there(&file, Limit::STORED)? else {
            return Ok(None);
        };
        let record: Installed = toml::from_str(&text)
            .map_err(|error| anyhow!("{}: {}", file.display(), error.message()))?;
        let library = Path::new(&record.library);
        ensure!(
            library.file_name() == Some(library.as_os_str()) && !record.sha256.is_empty(),
            "{}: library is {:?} and sha256 {:?}, expected the name of the file beside it and its hash; install the plugin again",
            file.display(),
            record.library,
            record.sha256
        );
        Ok(Some((folder.join(library), record)))
    }

    /// The records of all installed plugins, by name, or why one cannot be read.
    ///
    /// # Errors
    /// The folder is there and cannot be read.
    pub fn all(&self) -> Result<Vec<Result<Installed>>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| self.0.display().to_string())?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if checked(&name).is_ok() {
                names.push(name);
            }
        }
        names.sort();
        let found = names.iter().map(|name| self.find(name).transpose());
        Ok(found
            .flatten()
            .map(|found| found.map(|(_, record)| record))
            .collect())
    }

    /// Installs a library, in the place of one that was installed under its name, and gives its record as it was written: library, hash
    /// and SDK in it are those of `bytes`. `shown` is what messages call the file.
    ///
    /// # Errors
    /// The bytes are no plugin for this machine and SDK, the name is none, or the disk failed; what was installed is as it was then.
    pub fn put(&self, shown: &Path, bytes: &[u8], mut record: Installed) -> Result<Installed> {
        record.sdk = inspect::check(shown, bytes)?;
        record.name = checked(&record.name)?;
        record.sha256 = hex(&Sha256::digest(bytes));
        record.library = format!(
            "{DLL_PREFIX}{}-{}{DLL_SUFFIX}",
            record.name.replace('-', "_"),
            &record.sha256[..16]
        );
        let folder = self.0.join(&record.name);
        let write = || -> Result<()> {
            fs::create_dir_all(&folder)?;
            let _alone = self.lock()?;
            fs::create_dir_all(&folder)?;
            whole(&folder.join(&record.library), bytes)?;
            whole(&folder.join(RECORD), toml::to_string(&record)?.as_bytes())?;
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if name != RECORD && name != record.library.as_str() {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        write().with_context(|| {
            format!("{}: the plugin cannot be installed there", folder.display())
        })?;
        Ok(record)
    }

    /// Removes the plugin of this name and says what it was; nothing if none is installed.
    ///
    /// # Errors
    /// A name that is none, or the disk failed.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let folder = self.0.join(checked(name)?);
        if !folder.is_dir() {
            return Ok(false);
        }
        let remove = || -> Result<()> {
            let _alone = self.lock()?;
            match fs::remove_file(folder.join(RECORD)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            Ok(fs::remove_dir_all(&folder)?)
        };
        remove().with_context(|| format!("{}: cannot be removed", folder.display()))?;
        Ok(true)
    }

    /// Waits until nobody else writes here.
    fn lock(&self) -> Result<File> {
        let file = File::create(self.0.join(".lock"))?;
        match file.lock() {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            locked => locked?,
        }
        Ok(file)
    }
}

/// A file that appears when it is whole.
fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent().filter(|_| cfg!(unix)) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Whether a word can be the name of a plugin: it cannot lead out of a folder.
pub fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.len() <= LONGEST
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A name as folders have it: crates are called `my-loss`, their libraries `my_loss`.
///
/// # Errors
/// It is none.
pub fn checked(name: &str) -> Result<String> {
    match is_name(name) {
        true => Ok(name.to_ascii_lowercase().replace('_', "-")),
        false => bail!(
            "{name:?} is no name of a plugin: it begins with a letter and is made of at most {LONGEST} letters, digits, - and _"
        ),
    }
}

/// The name of a plugin after the file of its library: `my-loss` of `target/release/libmy_loss.so`.
///
/// # Errors
/// It gives none.
pub fn name_of(file: &Path) -> Result<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(DLL_SUFFIX).unwrap_or(&name);
    checked(stem.strip_prefix(DLL_PREFIX).unwrap_or(stem))
        .with_context(|| format!("{}: give the plugin a name with --name", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Installed {
        Installed {
            name: name.to_owned(),
            origin: "a test".to_owned(),
            ..Installed::default()
        }
    }

    #[test]
    fn names_cannot_lead_anywhere() {
        for name in ["muon", "My_Loss", "a-1"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "a\\b",
            "a.so",
            "/a",
            "1a",
            "-a",
            "a b",
            "ä",
            "a\0",
            "~",
            &"a".repeat(65),
        ] {
            assert!(!is_name(name), "{name}");
            let home = PluginHome::new("/nowhere");
            assert!(home.find(name).is_err() && home.remove(name).is_err());
        }
        assert_eq!(checked("My_Loss").unwrap(), "my-loss");
        let library = format!("a/{DLL_PREFIX}two_cycles{DLL_SUFFIX}");
        assert_eq!(name_of(Path::new(&library)).unwrap(), "two-cycles");
        let said = format!("{:#}", name_of(Path::new("a/b.1.so")).unwrap_err());
        assert!(
            said.contains("a/b.1.so: give the plugin a name with --name"),
            "{said}"
        );
    }

    #[test]
    fn the_folder_follows_the_variables() {
        let of = |variables: &[(&str, &str)]| {
            let variables: Vec<(String, String)> = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            PluginHome::of(&|name| {
                let found = variables.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
            .map(|home| home.0)
        };
        assert_eq!(of(&[]), None);
        let all = [
            ("HOME", "/h"),
            ("XDG_DATA_HOME", "/x"),
            (HOME_VARIABLE, "p"),
        ];
        assert_eq!(of(&all), Some("p".into()));
        assert_eq!(of(&all[..2]), Some("/x/apus/plugins".into()));
        if cfg!(target_os = "linux") {
            let home = Some("/h/.local/share/apus/plugins".into());
            assert_eq!(of(&all[..1]), home);
            assert_eq!(
                of(&[("HOME", "/h"), ("XDG_DATA_HOME", "x"), (HOME_VARIABLE, "")]),
                home
            );
        }
    }

    #[test]
    fn what_is_no_plugin_leaves_nothing_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = PluginHome::new(dir.path().join("home"));
        let said = format!(
            "{:#}",
            home.put(Path::new("a.so"), b"text", record("a"))
                .unwrap_err()
        );
        assert!(said.contains("no library at all"), "{said}");
        assert!(!home.folder().exists());
        assert_eq!(home.all().unwrap().len(), 0);
        assert!(home.find("a").unwrap().is_none() && !home.remove("a").unwrap());
    }

    #[test]
    fn a_record_that_names_another_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = PluginHome::new(dir.path());
        fs::create_dir(dir.path().join("a")).unwrap();
        for library in ["../b.so", "/b.so", ""] {
            let text =
                format!("name = \"a\"\norigin = \"\"\nlibrary = {library:?}\nsha256 = \"00\"");
            fs::write(dir.path().join("a").join(RECORD), text).unwrap();
            let said = home.find("a").unwrap_err().to_string();
            assert!(
                said.contains("expected the name of the file beside it"),
                "{said}"
            );
        }
        fs::write(dir.path().join("a").join(RECORD), "name =").unwrap();
        assert!(home.all().unwrap()[0].is_err());
    }
}
