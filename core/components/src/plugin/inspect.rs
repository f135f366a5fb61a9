//! Checks a file before it is opened as a plugin: it must be a library for this machine, complete, and a plugin.
//!
//! The checks exist for clear error messages. They are no protection: a plugin runs with all the rights of the
//! process.

use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_sdk::abi::{ROOT_SYMBOL, SDK_VERSION, SECTION};
use apus_sdk::small_file::{self, Limit};
use object::elf::{ET_DYN, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Architecture, Endianness, FileKind, Object, ObjectSection, ObjectSymbol};
use std::fmt::Display;
use std::path::Path;

/// The greatest size of a library that is opened.
const LIMIT: Limit = Limit::of(4 << 30);

/// The bytes of a library.
pub fn read(file: &Path) -> Result<Vec<u8>> {
    let name = file.display();
    if file.is_dir() {
        match file.join("Cargo.toml").is_file() {
            true => bail!(
                "plugin {name}: this is the folder of a crate, expected the library that it builds: \
                 run `cargo build --release` in it and give target/release/lib<name>.so"
            ),
            false => bail!("plugin {name}: this is a folder, expected a library"),
        }
    }
    ensure!(
        file.exists(),
        "plugin {name}: there is no such file; a library is built by `cargo build --release` as \
         target/release/lib<name>.so"
    );
    small_file::bytes(file, LIMIT).map_err(|error| anyhow!("plugin {error}"))
}

/// Checks the bytes of a library and gives the version of the SDK that it was built with.
///
/// # Errors
/// A file that is no plugin for this machine and SDK; the error says what it is, and what to do.
pub fn check(file: &Path, bytes: &[u8]) -> Result<String> {
    let name = file.display();
    ensure!(
        !bytes.is_empty(),
        "plugin {name}: the file is empty; build or copy it again"
    );
    match FileKind::parse(bytes) {
        Ok(FileKind::Elf64) if cfg!(target_os = "linux") => elf(file, bytes)?,
        Ok(FileKind::MachO64 | FileKind::MachOFat64) if cfg!(target_vendor = "apple") => {}
        Ok(FileKind::Pe64) if cfg!(windows) => {}
        found => bail!(
            "plugin {name}: this is not a shared library of this system but {}; a plugin is a crate \
             with crate-type = [\"cdylib\"], built by `cargo build --release`",
            found.map_or("no library at all".to_owned(), kind)
        ),
    }
    let library = object::File::parse(bytes)
        .with_context(|| format!("plugin {name}: malformed; build or copy it again"))?;
    let root = library
        .dynamic_symbols()
        .chain(library.symbols())
        .any(|symbol| symbol.is_definition() && symbol.name() == Ok(ROOT_SYMBOL));
    ensure!(root, "{}", no_root(&name));
    let tag = library
        .section_by_name(SECTION)
        .or_else(|| library.section_by_name("__apus_sdk"))
        .and_then(|section| section.data().ok())
        .and_then(|data| std::str::from_utf8(data).ok())
        .and_then(|text| text.strip_prefix("apus-sdk "))
        .map(|version| version.trim_end_matches('\0'));
    match tag {
        None => bail!(
            "plugin {name}: this library has a root module, but not one of Apus (there is no section \
             {SECTION}); it may be a plugin of another program"
        ),
        Some(version) if major(version) != major(SDK_VERSION) => bail!(
            "plugin {name}: it was built with apus-sdk {version}, this Apus has {SDK_VERSION}; plugins \
             of another major version cannot be loaded. Build it again with apus-sdk {SDK_VERSION}"
        ),
        Some(version) => Ok(version.to_owned()),
    }
}

/// The error about a library that has no root module.
pub fn no_root(name: &dyn Display) -> String {
    format!(
        "plugin {name}: this is a library, but it exports no root module of Apus; put \
         `apus_sdk::export_plugin!();` into its lib.rs and build it with crate-type = [\"cdylib\"]"
    )
}

fn major(version: &str) -> Option<&str> {
    version.split('.').next()
}

fn kind(kind: FileKind) -> String {
    match kind {
        FileKind::Archive => "a static library (or rlib)".to_owned(),
        FileKind::Elf32 => "a 32-bit ELF file".to_owned(),
        other => format!("a file of the kind {other:?}"),
    }
}

/// Checks an ELF file: its machine, and that it contains every segment that the system would map.
fn elf(file: &Path, bytes: &[u8]) -> Result<()> {
    let name = file.display();
    let cut = |needed: u64| {
        anyhow!(
            "plugin {name}: the file is cut off: it has {} bytes, its headers speak of {needed}. Build \
             or copy it again",
            bytes.len()
        )
    };
    let header_size = size_of::<FileHeader64<Endianness>>() as u64;
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(|_| cut(header_size))?;
    let endian = header
        .endian()
        .with_context(|| format!("plugin {name}: malformed ELF header"))?;
    let machine = header.e_machine(endian);
    let here = match std::env::consts::ARCH {
        "x86_64" => object::elf::EM_X86_64,
        "aarch64" => object::elf::EM_AARCH64,
        "riscv64" => object::elf::EM_RISCV,
        _ => machine,
    };
    ensure!(
        machine == here,
        "plugin {name}: it was built for {}, this Apus runs on {}; build it on this machine, or with \
         `cargo build --release --target {}-unknown-linux-gnu`",
        architecture(bytes, machine),
        std::env::consts::ARCH,
        std::env::consts::ARCH
    );
    ensure!(
        header.e_type(endian) == ET_DYN,
        "plugin {name}: this is an object file or a program, expected a shared library: a crate with \
         crate-type = [\"cdylib\"]"
    );
    let table = header.e_phoff(endian)
        + u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
    let segments = header
        .program_headers(endian, bytes)
        .map_err(|_| cut(table))?;
    let sections = header.e_shoff(endian)
        + u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    let needed = segments
        .iter()
        .map(|segment| {
            segment
                .p_offset(endian)
                .saturating_add(segment.p_filesz(endian))
        })
        .fold(sections, u64::max);
    match needed > bytes.len() as u64 {
        true => Err(cut(needed)),
        false => Ok(()),
    }
}

fn architecture(bytes: &[u8], machine: u16) -> String {
    match object::File::parse(bytes).map(|file| file.architecture()) {
        Ok(Architecture::Unknown) | Err(_) => format!("machine {machine}"),
        Ok(known) => format!("{known:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> String {
        format!("{:#}", check(Path::new("p.so"), bytes).unwrap_err())
    }

    /// An ELF header for this machine with one segment and nothing behind it.
    fn header(machine: u16, kind: u16, segment_end: u64) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        for value in [0u64, 64, 0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(0u32.to_le_bytes());
        for value in [64u16, 56, 1, 64, 0, 0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(5u32.to_le_bytes());
        for value in [0u64, 0, 0, segment_end, segment_end, 4096] {
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_is_no_plugin_is_named() {
        assert!(said(b"").contains("the file is empty"));
        assert!(
            said(b"some text that is longer than a magic number").contains("no library at all")
        );
        assert!(said(b"!<arch>\nxxxxxxxxxxxxxxxx").contains("a static library"));
        let here = match std::env::consts::ARCH {
            "aarch64" => object::elf::EM_AARCH64,
            _ => object::elf::EM_X86_64,
        };
        let other = object::elf::EM_S390;
        assert!(said(&header(other, ET_DYN, 100)).contains("it was built for"));
        assert!(said(&header(here, object::elf::ET_REL, 100)).contains("an object file"));
        let cut = said(&header(here, ET_DYN, 70_000));
        assert!(
            cut.contains("it has 120 bytes, its headers speak of 70000"),
            "{cut}"
        );
        assert!(said(&header(here, ET_DYN, 70_000)[..70]).contains("cut off"));
        assert!(said(&header(here, ET_DYN, 100)).contains("exports no root module"));
    }

    #[test]
    fn what_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", read(path).unwrap_err());
        assert!(error(&dir.path().join("no.so")).contains("there is no such file"));
        assert!(error(dir.path()).contains("this is a folder"));
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        assert!(error(dir.path()).contains("the folder of a crate"));
    }
}
