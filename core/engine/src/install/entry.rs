//! An entry of an index: a small TOML file about one plugin.

use anyhow::{Result, anyhow, bail, ensure};
use apus_components::plugin::installed::{self, Installed};
use apus_data::hub;
use apus_sdk::Kind;
use apus_sdk::abi::SDK_VERSION;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::env::consts;
use std::path::{Component, Path};

/// This machine, as an entry names it.
pub const PLATFORM: (&str, &str) = (consts::ARCH, consts::OS);

/// An entry of an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name of the plugin, that of its file too.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is, in a line.
    pub about: String,
    /// The kinds of its components.
    pub kinds: Vec<String>,
    /// The version of the SDK that it is built with.
    pub sdk: String,
    /// Its licence.
    pub licence: String,
    /// The repository of its source.
    git: Option<String>,
    /// The commit of that repository.
    commit: Option<String>,
    /// The folder of its crate in the repository.
    folder: Option<String>,
    /// Libraries that are built already, by platform.
    #[serde(default)]
    libraries: BTreeMap<String, Library>,
}

/// A library that is built already.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Library {
    /// Where it is: a URL, or a path in the index.
    pub url: String,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// From what a plugin of an index is installed here.
pub(super) enum From<'a> {
    /// A library for this machine.
    Library(&'a Library),
    /// A crate that has to be built.
    Crate {
        git: &'a str,
        commit: &'a str,
        folder: Option<&'a str>,
    },
}

impl Entry {
    /// Reads the entry of this name; `place` is where it stands.
    ///
    /// # Errors
    /// It is none: the error names place and key.
    pub(super) fn read(text: &str, name: &str, place: &str) -> Result<Self> {
        let entry: Self = toml::from_str(text)
            .map_err(|error| anyhow!("{place}: {}", error.to_string().trim_end()))?;
        let wrong = |key: &str, found: &str, expected: &str| -> Result<()> {
            bail!("{place}: {key} is {found:?}, expected {expected}")
        };
        if entry.name != name {
            wrong(
                "name",
                &entry.name,
                &format!("{name:?}, as the file is called"),
            )?;
        }
        if major(&entry.sdk).is_none() {
            wrong("sdk", &entry.sdk, "a version of apus-sdk, as 1.0")?;
        }
        match (&entry.git, &entry.commit) {
            (Some(git), Some(commit)) => {
                hub::check_url(git).map_err(|error| anyhow!("{place}: git: {error:#}"))?;
                if !(hexadecimal(commit, 40) || hexadecimal(commit, 64)) {
                    wrong(
                        "commit",
                        commit,
                        "the whole hash of a commit, in hexadecimal digits",
                    )?;
                }
            }
            (None, None) => ensure!(
                !entry.libraries.is_empty() && entry.folder.is_none(),
                "{place}: there are no libraries and no git, of which it needs one; folder goes with git"
            ),
            _ => bail!("{place}: git and commit go together, found one of them"),
        }
        if let Some(folder) = &entry.folder
            && !is_inside(folder)
        {
            wrong("folder", folder, "a path in the repository")?;
        }
        for (platform, library) in &entry.libraries {
            let key = format!("libraries.{platform}");
            if !hexadecimal(&library.sha256, 64) {
                wrong(
                    &format!("{key}.sha256"),
                    &library.sha256,
                    "64 hexadecimal digits",
                )?;
            }
            match library.url.contains("://") {
                true => hub::check_url(&library.url)
                    .map_err(|error| anyhow!("{place}: {key}.url: {error:#}"))?,
                false if !is_inside(&library.url) => {
                    wrong(
                        &format!("{key}.url"),
                        &library.url,
                        "an https URL or a path in the index",
                    )?;
                }
                false => {}
            }
        }
        Ok(entry)
    }

    /// Checks that this Apus can use it, before anything is downloaded.
    ///
    /// # Errors
    /// It is for another SDK, or has a kind that is not known here.
    pub(super) fn check_host(&self) -> Result<()> {
        let [theirs, ours] = [self.sdk.as_str(), SDK_VERSION].map(major);
        ensure!(
            theirs == ours,
            "it is built with apus-sdk {}, this Apus has {SDK_VERSION}; plugins of another major version cannot be loaded",
            self.sdk
        );
        for kind in &self.kinds {
            ensure!(
                Kind::from_name(kind).is_some(),
                "it has a {kind}, a kind of component that this Apus, with apus-sdk {SDK_VERSION}, does not know; it is built with apus-sdk {}: update Apus",
                self.sdk
            );
        }
        Ok(())
    }

    /// Checks that it is the plugin that was installed, if it has the same version and came from an index.
    ///
    /// # Errors
    /// A checksum or commit changed without the version.
    pub(super) fn check_unchanged(&self, before: &Installed) -> Result<()> {
        if before.index.is_none() || before.version.as_ref() != Some(&self.version) {
            return Ok(());
        }
        let (what, was, is) = match self.from()? {
            From::Library(library) if before.commit.is_none() => (
                "sha256",
                Some(&before.sha256),
                library.sha256.to_lowercase(),
            ),
            From::Crate { commit, .. } if before.commit.is_some() => {
                ("commit", before.commit.as_ref(), commit.to_owned())
            }
            _ => return Ok(()),
        };
        ensure!(
            was == Some(&is),
            "version {} is installed with the {what} {}, and the index says {is} of the same version now. Look at what has changed; \
             `apus plugin remove {}` goes before installing the new one",
            self.version,
            was.map_or("?", String::as_str),
            self.name
        );
        Ok(())
    }

    /// What it is installed from on this machine: a library, or else its source.
    ///
    /// # Errors
    /// There is neither.
    pub(super) fn from(&self) -> Result<From<'_>> {
        let (architecture, system) = PLATFORM;
        let here = format!("{architecture}-{system}");
        if let Some(library) = self.libraries.get(&here) {
            return Ok(From::Library(library));
        }
        match (&self.git, &self.commit) {
            (Some(git), Some(commit)) => Ok(From::Crate {
                git,
                commit,
                folder: self.folder.as_deref(),
            }),
            _ => bail!(
                "there is no library for {here} and no source; there are libraries for {}",
                self.libraries
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }

    /// How it is installed here, in a word or two.
    pub fn way(&self) -> &'static str {
        match self.from() {
            Ok(From::Library(_)) => "a library",
            Ok(From::Crate { .. }) => "built here",
            Err(_) => "not for this machine",
        }
    }

    /// Checks its name as one of a plugin.
    pub(super) fn is_entry(file: &str) -> Option<String> {
        let name = file.strip_suffix(".toml").filter(|name| *name != "index")?;
        let checked = installed::checked(name).ok()?;
        (checked == name).then_some(checked)
    }
}

/// The major part of a version that has a minor part, too.
fn major(text: &str) -> Option<u32> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let [major, _minor] = [parts.next()??, parts.next()??];
    Some(major)
}

fn hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a path of `/` stays in the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains(['\\', ':']) && Path::new(path).components().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        name = "muon"
        version = "0.1.0"
        about = "An optimizer"
        kinds = ["optimizer"]
        sdk = "1.0"
        licence = "MIT"
        git = "https://a.example/muon"
        commit = "0123456789abcdef0123456789abcdef01234567"
        folder = "crates/muon"
        [libraries.x86_64-minix]
        url = "libs/libmuon.so"
        sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
    "#;

    fn read(text: &str) -> Result<Entry> {
        Entry::read(text, "muon", "i/muon.toml")
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        let entry = read(ENTRY).unwrap();
        assert!(matches!(entry.from().unwrap(), From::Crate { .. }));
        assert!(entry.check_host().is_ok());
        for (from, to, says) in [
            (
                "\"muon\"",
                "\"mion\"",
                "i/muon.toml: name is \"mion\", expected \"muon\"",
            ),
            ("\"1.0\"", "\"one\"", "sdk is \"one\""),
            (
                "https://a.example/muon",
                "http://a.example/muon",
                "git: http://a.example/muon: an address of http",
            ),
            (
                "https://a.example/muon",
                "ext::sh -c x",
                "git: ext::sh -c x",
            ),
            ("https://a.example/muon", "--upload-pack=x", "is no URL"),
            ("89abcdef01234567\"", "\"", "commit is"),
            ("\"crates/muon\"", "\"../muon\"", "folder is \"../muon\""),
            ("\"crates/muon\"", "\"/muon\"", "folder is \"/muon\""),
            (
                "libs/libmuon.so",
                "../libmuon.so",
                "libraries.x86_64-minix.url is",
            ),
            (
                "libs/libmuon.so",
                "file:///libmuon.so",
                "an address of file",
            ),
            (
                "sha256 = \"00",
                "sha256 = \"",
                "libraries.x86_64-minix.sha256 is",
            ),
            ("version =", "release =", "unknown field `release`"),
            ("commit =", "# ", "git and commit go together"),
        ] {
            let text = ENTRY.replacen(from, to, 1);
            assert_ne!(text, ENTRY, "{from}");
            let said = read(&text).unwrap_err().to_string();
            assert!(said.contains(says), "{says:?} in {said}");
            assert!(said.starts_with("i/muon.toml"), "{said}");
        }
    }

    #[test]
    fn what_this_host_lacks_is_refused() {
        let entry = |from: &str, to: &str| read(&ENTRY.replacen(from, to, 1)).unwrap();
        let said = entry("\"1.0\"", "\"2.3\"").check_host().unwrap_err();
        assert!(said.to_string().contains("apus-sdk 2.3"), "{said}");
        let said = entry("\"optimizer\"", "\"oracle\"")
            .check_host()
            .unwrap_err();
        assert!(said.to_string().contains("it has a oracle"), "{said}");
        let bare: String = ENTRY
            .lines()
            .filter(|line| {
                !["git", "commit", "folder"]
                    .iter()
                    .any(|key| line.trim().starts_with(key))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let said = read(&bare).unwrap().from().err().unwrap().to_string();
        assert!(
            said.contains("there are libraries for x86_64-minix"),
            "{said}"
        );
    }
}
