//! Folders held open while they are looked into, so that nothing in them can lead out of them.
//!
//! Whoever can write below the folder that `apus watch` shows may put a link in place of a file or of a folder between two
//! looks. Names are therefore never joined to a path and opened: each part is opened in the folder before it, without
//! following links, and what was opened is what is checked.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where a folder lies: below a root that the user named, which may be a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    root: PathBuf,
    below: Vec<OsString>,
}

impl<P: Into<PathBuf>> From<P> for Place {
    fn from(root: P) -> Self {
        Self {
            root: root.into(),
            below: Vec::new(),
        }
    }
}

impl Place {
    /// A folder of this name in this one.
    pub fn below(&self, name: OsString) -> Self {
        let mut place = self.clone();
        place.below.push(name);
        place
    }

    /// Its path, to be shown.
    pub fn path(&self) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(&self.below);
        path
    }

    /// Opens it.
    ///
    /// # Errors
    /// It is not there, or a part of the way below the root is no folder but a link.
    pub fn open(&self) -> io::Result<Folder> {
        let root = Folder::at(&self.root)?;
        let mut parts = self.below.iter();
        parts.try_fold(root, |folder, name| folder.folder(name))
    }
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When it was last written.
    pub changed: SystemTime,
    /// Bytes.
    pub len: u64,
    /// Which file it is, among those that had this name.
    pub number: u64,
}

/// An open folder.
pub struct Folder(system::Handle);

impl Folder {
    /// The folder of this path, links followed.
    pub fn at(path: &Path) -> io::Result<Self> {
        system::root(path).map(Self)
    }

    /// A folder in it.
    ///
    /// # Errors
    /// There is none of this name; a link is none.
    pub fn folder(&self, name: &OsStr) -> io::Result<Self> {
        system::folder(&self.0, name).map(Self)
    }

    /// Opens a regular file in it; nothing if there is none. A link or a pipe could lead out of the folder, or never end.
    ///
    /// # Errors
    /// It is there and cannot be opened, or is no regular file.
    pub fn file(&self, name: &str) -> io::Result<Option<(File, Facts)>> {
        let file = match system::file(&self.0, name) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(io::Error::other("is not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let facts = Facts {
            changed: metadata.modified()?,
            len: metadata.len(),
            number: system::number(&metadata),
        };
        Ok(Some((file, facts)))
    }

    /// What is known of a regular file in it; nothing if there is none.
    pub fn facts(&self, name: &str) -> Option<Facts> {
        system::facts(&self.0, name)
    }

    /// The names of what is in it, and whether each is a folder; what cannot be read is left out.
    pub fn entries(&self) -> Vec<(OsString, bool)> {
        system::entries(&self.0).unwrap_or_default()
    }
}

#[cfg(unix)]
mod system {
    use super::Facts;
    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
    use rustix::io::Errno;
    use std::ffi::{OsStr, OsString};
    use std::fs::{File, Metadata};
    use std::io;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    pub type Handle = OwnedFd;

    const DIRECTORY: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::CLOEXEC);

    pub fn root(path: &Path) -> io::Result<Handle> {
        Ok(openat(CWD, path, DIRECTORY, Mode::empty())?)
    }

    pub fn folder(handle: &Handle, name: &OsStr) -> io::Result<Handle> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Ok(openat(handle, name, flags, Mode::empty())?)
    }

    /// Opens a file; nothing where it is a link. Waiting is forbidden, because opening a pipe would wait for a writer.
    pub fn file(handle: &Handle, name: &str) -> io::Result<Option<File>> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(handle, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::LOOP | Errno::MLINK | Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub fn facts(handle: &Handle, name: &str) -> Option<Facts> {
        let stat = statat(handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).ok()?);
        #[allow(clippy::useless_conversion, reason = "it is signed on other systems")]
        let rest = Duration::from_nanos(u64::try_from(stat.st_mtime_nsec).ok()?);
        Some(Facts {
            changed: UNIX_EPOCH + seconds + rest,
            len: u64::try_from(stat.st_size).ok()?,
            number: stat.st_ino,
        })
    }

    pub fn entries(handle: &Handle) -> io::Result<Vec<(OsString, bool)>> {
        let mut all = Vec::new();
        for entry in Dir::read_from(handle)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not say it here.
                FileType::Unknown => statat(handle, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| {
                        FileType::from_raw_mode(stat.st_mode)
                    }),
                kind => kind,
            };
            let name = OsString::from_vec(name.to_bytes().to_vec());
            all.push((name, kind == FileType::Directory));
        }
        Ok(all)
    }

    pub fn number(metadata: &Metadata) -> u64 {
        metadata.ino()
    }
}

/// Where there is no opening in a folder, names are looked at before they are opened.
#[cfg(not(unix))]
mod system {
    use super::Facts;
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File, Metadata};
    use std::io;
    use std::path::{Path, PathBuf};

    pub type Handle = PathBuf;

    pub fn root(path: &Path) -> io::Result<Handle> {
        match path.metadata()?.is_dir() {
            true => Ok(path.to_owned()),
            false => Err(io::Error::other("is no folder")),
        }
    }

    pub fn folder(handle: &Handle, name: &OsStr) -> io::Result<Handle> {
        let path = handle.join(name);
        match path.symlink_metadata()?.is_dir() {
            true => Ok(path),
            false => Err(io::Error::other("is no folder")),
        }
    }

    pub fn file(handle: &Handle, name: &str) -> io::Result<Option<File>> {
        let path = handle.join(name);
        match path.symlink_metadata()?.is_file() {
            true => File::open(path).map(Some),
            false => Ok(None),
        }
    }

    pub fn facts(handle: &Handle, name: &str) -> Option<Facts> {
        let metadata = handle.join(name).symlink_metadata().ok()?;
        metadata.is_file().then_some(Facts {
            changed: metadata.modified().ok()?,
            len: metadata.len(),
            number: 0,
        })
    }

    pub fn entries(handle: &Handle) -> io::Result<Vec<(OsString, bool)>> {
        let entries = fs::read_dir(handle)?.flatten();
        let entry = |entry: fs::DirEntry| {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (entry.file_name(), is_folder)
        };
        Ok(entries.map(entry).collect())
    }

    pub fn number(_: &Metadata) -> u64 {
        0
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn links_and_pipes_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/file"), "secret").unwrap();
        symlink(at("real/file"), at("link")).unwrap();
        symlink(at("real"), at("way")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        for name in ["link", "pipe", "real"] {
            let error = folder.file(name).unwrap_err().to_string();
            assert_eq!(error, "is not a regular file", "{name}");
            assert_eq!(folder.facts(name), None, "{name}");
        }
        assert!(folder.file("none").unwrap().is_none());
        assert!(folder.folder(OsStr::new("way")).is_err());
        let place = Place::from(dir.path());
        assert!(place.below("way".into()).open().is_err());
        let real = place.below("real".into()).open().unwrap();
        assert!(real.file("file").unwrap().is_some());
        let mut entries = folder.entries();
        entries.sort();
        let expected = [
            ("link", false),
            ("pipe", false),
            ("real", true),
            ("way", false),
        ];
        assert_eq!(entries, expected.map(|(name, dir)| (name.into(), dir)));
    }

    /// A file and a folder are put in place of links and back, as fast as it goes, while they are read.
    #[test]
    fn a_race_shows_nothing_of_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["private", "runs", "runs/a"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("private/log"), "private").unwrap();
        fs::write(at("runs/a/log"), "mine").unwrap();
        symlink(at("private/log"), at("to-file")).unwrap();
        symlink(at("private"), at("to-folder")).unwrap();
        let done = AtomicBool::new(false);
        let place = Place::from(at("runs")).below("a".into());
        let swap = |a: &Path, b: &Path| {
            let spare = at("spare");
            for (from, to) in [(a, &*spare), (b, a), (&*spare, b)] {
                fs::rename(from, to).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for _ in 0..2 {
                        swap(&at("runs/a/log"), &at("to-file"));
                    }
                    for _ in 0..2 {
                        swap(&at("runs/a"), &at("to-folder"));
                    }
                }
            });
            let mut read = 0;
            for _ in 0..20_000 {
                let Ok(Some((mut file, _))) = place.open().and_then(|folder| folder.file("log"))
                else {
                    continue;
                };
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, "mine");
                read += 1;
            }
            done.store(true, Ordering::Relaxed);
            assert!(read > 100, "{read}");
        });
    }
}
