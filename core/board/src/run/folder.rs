//! Opens folders so that no link in them can lead out of them.
//!
//! Somebody who can write below the folder of `apus watch` may replace a file or a folder by a link between a check and
//! an access. So names are never joined to a path that is then opened. Each part is opened in the open folder before it,
//! without following links, and the open file is what is checked.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The path of a folder: a root that the user named and that may be a link, and names below it that may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderPath {
    root: PathBuf,
    below: Vec<OsString>,
}

impl<P: Into<PathBuf>> From<P> for FolderPath {
    fn from(root: P) -> Self {
        Self {
            root: root.into(),
            below: Vec::new(),
        }
    }
}

impl FolderPath {
    /// The path of the folder of this name in this one.
    pub fn below(&self, name: OsString) -> Self {
        let mut place = self.clone();
        place.below.push(name);
        place
    }

    /// The whole path, for display only.
    pub fn path(&self) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(&self.below);
        path
    }

    /// Opens the folder.
    ///
    /// # Errors
    /// The folder does not exist, or a part of the path below the root is a link.
    pub fn open(&self) -> io::Result<Folder> {
        let root = Folder::at(&self.root)?;
        let mut parts = self.below.iter();
        parts.try_fold(root, |folder, name| folder.folder(name))
    }
}

/// The metadata of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// When it was last written.
    pub changed: SystemTime,
    /// Its length in bytes.
    pub len: u64,
    /// Its inode, which differs when the file was replaced; 0 where the system has none.
    pub number: u64,
}

/// An open folder.
pub struct Folder(system::Handle);

impl Folder {
    /// Opens the folder of this path. Links are followed.
    pub fn at(path: &Path) -> io::Result<Self> {
        system::root(path).map(Self)
    }

    /// Opens a folder in this one.
    ///
    /// # Errors
    /// There is no folder of this name. A link does not count as one.
    pub fn folder(&self, name: &OsStr) -> io::Result<Self> {
        system::folder(&self.0, name).map(Self)
    }

    /// Opens a regular file in this folder, if there is one. Links and pipes are refused: a link could lead out of the
    /// folder, and reading a pipe might never end.
    ///
    /// # Errors
    /// The file exists and cannot be opened, or it is not a regular file.
    pub fn file(&self, name: &str) -> io::Result<Option<(File, FileFacts)>> {
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
        let facts = FileFacts {
            changed: metadata.modified()?,
            len: metadata.len(),
            number: system::number(&metadata),
        };
        Ok(Some((file, facts)))
    }

    /// The metadata of a regular file in this folder, if there is one.
    pub fn facts(&self, name: &str) -> Option<FileFacts> {
        system::facts(&self.0, name)
    }

    /// The names of all entries, and whether each one is a folder. Entries that cannot be read are left out.
    pub fn entries(&self) -> Vec<(OsString, bool)> {
        system::entries(&self.0).unwrap_or_default()
    }
}

#[cfg(unix)]
mod system {
    use super::FileFacts;
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

    /// Opens a file, unless it is a link. It opens without blocking, because opening a pipe would wait for a writer.
    pub fn file(handle: &Handle, name: &str) -> io::Result<Option<File>> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(handle, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::LOOP | Errno::MLINK | Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub fn facts(handle: &Handle, name: &str) -> Option<FileFacts> {
        let stat = statat(handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).ok()?);
        #[allow(clippy::useless_conversion, reason = "it is signed on other systems")]
        let rest = Duration::from_nanos(u64::try_from(stat.st_mtime_nsec).ok()?);
        Some(FileFacts {
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

/// For systems that cannot open a name in an open folder: names are checked before they are opened.
#[cfg(not(unix))]
mod system {
    use super::FileFacts;
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

    pub fn facts(handle: &Handle, name: &str) -> Option<FileFacts> {
        let metadata = handle.join(name).symlink_metadata().ok()?;
        metadata.is_file().then_some(FileFacts {
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
        let place = FolderPath::from(dir.path());
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
        let place = FolderPath::from(at("runs")).below("a".into());
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
