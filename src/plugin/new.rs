//! `apus plugin new`: the crate of a plugin with one small component that works and its test, to be
//! changed into what is wanted.

use anyhow::{Context, Result, bail, ensure};
use apus_sdk::Kind;
use apus_sdk::abi::SDK_VERSION;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::{Path, PathBuf};

const CARGO_TOML: &str = include_str!("templates/Cargo.toml.txt");
const README: &str = include_str!("templates/README.md.txt");
const CARGO_CONFIG: &str = ".cargo/config.toml";
const GITIGNORE: &str = "/target\n";

/// The SDK of the checkout that this binary was built from.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk");

/// Where things are, if not where they usually are.
#[derive(Debug, Clone, Default)]
pub struct NewOptions {
    /// The folder to make; `./NAME` if it is not given.
    pub dir: Option<PathBuf>,
    /// The folder of apus-sdk; that of the checkout this binary was built from, or else the published
    /// crate, if it is not given.
    pub sdk: Option<PathBuf>,
    /// The folder that the crate compiles into, with others; a folder of its own if it is not given.
    pub shared_target: Option<PathBuf>,
}

/// Makes the crate and gives back its folder.
///
/// # Errors
/// A name that is none for a crate, a folder that is there already, an SDK that is not where it should
/// be.
pub fn run(name: &str, kind: Kind, options: &NewOptions) -> Result<PathBuf> {
    check(name)?;
    let sdk = dependency(options.sdk.as_deref(), Path::new(CHECKOUT))?;
    let dir = options.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    ensure!(
        dir.symlink_metadata().is_err(),
        "{}: is there already; give another name, or another folder with --dir",
        dir.display()
    );
    let target = match &options.shared_target {
        Some(folder) => Some(utf8(&std::path::absolute(folder)?)?),
        None => None,
    };
    let mut files = files(name, kind, &sdk, target.as_deref().unwrap_or("target")).to_vec();
    if let Some(target) = target {
        // A JSON string is a TOML string.
        let folder = serde_json::to_string(&target)?;
        files.push((CARGO_CONFIG, format!("[build]\ntarget-dir = {folder}\n")));
    }
    for (file, text) in files {
        let path = dir.join(file);
        let folder = path.parent().unwrap_or(&dir);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(dir)
}

/// Refuses names that cargo, the compiler or the plugin's own dependencies would stumble over.
fn check(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut words = name.split(['-', '_']);
    ensure!(
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && words.all(|word| !word.is_empty() && word.chars().all(plain)),
        "{name:?} is no name for a crate: it is made of words of lowercase letters and digits with a \
         single - or _ between them and begins with a letter, as in my-loss"
    );
    let component = component(name);
    if KEYWORDS.contains(&component.as_str()) {
        bail!("{name:?} is a word of the Rust language; choose another name, such as my-{name}");
    }
    if TAKEN.contains(&component.as_str()) {
        bail!(
            "{name:?} is the name of a crate that a plugin uses; choose another, such as my-{name}"
        );
    }
    Ok(())
}

/// Keywords of the 2024 edition that a name could be.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Crates that come with Rust, and those that the templates depend on.
const TAKEN: &[&str] = &["alloc", "apus_sdk", "core", "proc_macro", "std", "test"];

/// The name of the component of a crate.
fn component(name: &str) -> String {
    name.replace('-', "_")
}

/// The value of `apus-sdk` in the crate's Cargo.toml.
fn dependency(given: Option<&Path>, checkout: &Path) -> Result<String> {
    let folder = match given {
        Some(folder) => {
            ensure!(
                folder.join("Cargo.toml").is_file(),
                "{}: this is not the folder of apus-sdk; there is no Cargo.toml in it",
                folder.display()
            );
            std::path::absolute(folder)?
        }
        None if checkout.join("Cargo.toml").is_file() => checkout.to_owned(),
        None => {
            let version: Vec<&str> = SDK_VERSION.split('.').take(2).collect();
            return Ok(format!("\"{}\"", version.join(".")));
        }
    };
    // A JSON string is a TOML string.
    let text = serde_json::to_string(&utf8(&folder)?)?;
    Ok(format!("{{ path = {text} }}"))
}

fn utf8(folder: &Path) -> Result<String> {
    let text = folder.to_str();
    text.map(str::to_owned)
        .with_context(|| format!("{}: is not UTF-8", folder.display()))
}

macro_rules! template {
    ($($Trait:ident { file: $file:ident, $($columns:tt)* })*) => {
        /// The library with a component of this kind.
        fn template(kind: Kind) -> &'static str {
            match kind {
                $(Kind::$Trait => {
                    include_str!(concat!("templates/", stringify!($file), "/lib.rs"))
                })*
            }
        }
    };
}
apus_sdk::kinds!(template);

/// The command that takes components of a kind, with what it needs besides.
fn command(kind: Kind) -> &'static str {
    match kind {
        Kind::Exporter => "export",
        _ => "sft",
    }
}

/// The files of the crate by their paths in it; it compiles into the folder `target`.
fn files(name: &str, kind: Kind, sdk: &str, target: &str) -> [(&'static str, String); 4] {
    let (lib, flag) = (template(kind), kind.flag());
    let (component, command) = (component(name), command(kind));
    let library = format!("{DLL_PREFIX}{component}{DLL_SUFFIX}");
    let kind = match kind.name() {
        name if name.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {name}"),
        name => format!("a {name}"),
    };
    let fill = |text: &str| {
        text.replace("{{crate}}", name)
            .replace("{{component}}", &component)
            .replace("{{kind}}", &kind)
            .replace("{{flag}}", flag)
            .replace("{{library}}", &library)
            .replace("{{command}}", command)
            .replace("{{sdk}}", sdk)
            .replace("{{target}}", target)
    };
    [
        ("Cargo.toml", fill(CARGO_TOML)),
        ("README.md", fill(README)),
        (".gitignore", GITIGNORE.to_owned()),
        ("src/lib.rs", fill(lib)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_crates() {
        for name in ["focal", "my-loss", "my_loss", "two-cycles_2", "a1"] {
            assert!(check(name).is_ok(), "{name}");
        }
        let said = |name| check(name).unwrap_err().to_string();
        for name in [
            "", "1st", "-a", "a-", "a--b", "a-_b", "Focal", "my loss", "my.loss", "a/b", "..",
            "größe",
        ] {
            assert!(
                said(name).contains("lowercase letters and digits"),
                "{name}"
            );
        }
        assert!(said("match").contains("a word of the Rust language"));
        assert!(said("apus-sdk").contains("a crate that a plugin uses"));
        assert!(said("test").contains("my-test"));
    }

    #[test]
    fn every_kind_has_a_whole_crate() {
        let dir = tempfile::tempdir().unwrap();
        for &kind in Kind::ALL {
            let options = NewOptions {
                dir: Some(dir.path().join(kind.name())),
                sdk: None,
                shared_target: None,
            };
            let made = run("my-part", kind, &options).unwrap();
            let read = |file: &str| std::fs::read_to_string(made.join(file)).unwrap();
            for (file, _) in files("my-part", kind, "", "target") {
                assert!(!read(file).contains("{{"), "{kind}: {file}");
            }
            let lib = read("src/lib.rs");
            for part in [
                "apus_sdk::export_plugin!();",
                "apus_sdk::options! {",
                "\"my_part\", ",
                "apus_sdk::testing::",
            ] {
                assert!(lib.contains(part), "{kind}: {part}");
            }
            let cargo = read("Cargo.toml");
            for part in [
                "name = \"my-part\"",
                "crate-type = [\"cdylib\"]",
                "\n[workspace]\n",
            ] {
                assert!(cargo.contains(part), "{kind}: {part}");
            }
            assert_eq!(read(".gitignore"), "/target\n");
            let command = format!(
                "apus {} --plugin target/release/{DLL_PREFIX}my_part{DLL_SUFFIX} --{} my_part",
                command(kind),
                kind.flag()
            );
            assert!(read("README.md").contains(&command), "{kind}");
        }
    }

    #[test]
    fn crates_share_what_is_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared \"target\"");
        let options = NewOptions {
            dir: Some(dir.path().join("a")),
            sdk: None,
            shared_target: Some(shared.clone()),
        };
        let made = run("my-loss", Kind::Loss, &options).unwrap();
        let config = std::fs::read_to_string(made.join(CARGO_CONFIG)).unwrap();
        let text = serde_json::to_string(shared.to_str().unwrap()).unwrap();
        assert_eq!(config, format!("[build]\ntarget-dir = {text}\n"));
        let readme = std::fs::read_to_string(made.join("README.md")).unwrap();
        let library = format!(
            "{}/release/{DLL_PREFIX}my_loss{DLL_SUFFIX}",
            shared.display()
        );
        assert!(readme.contains(&library), "{readme}");
        assert!(!readme.contains(" target/release"), "{readme}");
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let options = NewOptions {
            dir: Some(dir.path().to_owned()),
            ..NewOptions::default()
        };
        let error = run("my-loss", Kind::Loss, &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_sdk_is_given_or_in_the_checkout_or_published() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(dependency(None, &gone).unwrap().starts_with("\"1."));
        let error = dependency(Some(&gone), dir.path()).unwrap_err().to_string();
        assert!(error.contains("not the folder of apus-sdk"), "{error}");
        let sdk = dir.path().join("a \"quoted\" sdk");
        std::fs::create_dir(&sdk).unwrap();
        std::fs::write(sdk.join("Cargo.toml"), "").unwrap();
        let found = dependency(None, &sdk).unwrap();
        assert!(found.starts_with("{ path = \"/"), "{found}");
        assert!(found.ends_with(r#"/a \"quoted\" sdk" }"#), "{found}");
        assert_eq!(dependency(Some(&sdk), &gone).unwrap(), found);
    }
}
