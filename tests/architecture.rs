//! docs/dev/architecture.md is the order of the house, and the house keeps it: crates use the crates of their row, a module
//! uses the modules above it in its table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = include_str!("../docs/dev/architecture.md");

/// The cells of the table below a heading, without its head.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = PAGE
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("docs/dev/architecture.md has no heading {heading:?}"));
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---"));
    rows.skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// The words of a cell that stand in backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Folder and allowed crates of every crate in the table.
fn crates() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let rows = table("## The crates").into_iter();
    rows.map(|row| match row[..] {
        [folder, _, uses] => (names(folder)[0], names(uses).into_iter().collect()),
        _ => panic!("three cells were expected: {row:?}"),
    })
    .collect()
}

/// The name of the crate in a folder.
fn name_of(folder: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(folder).join("Cargo.toml")).unwrap();
    let name = text.lines().find_map(|line| line.strip_prefix("name = "));
    name.unwrap().trim_matches('"').to_owned()
}

#[test]
fn crates_use_the_crates_of_their_row() {
    let crates = crates();
    let named: BTreeMap<String, &str> = crates.keys().map(|&f| (name_of(f), f)).collect();
    for (folder, allowed) in &crates {
        let text = fs::read_to_string(Path::new(ROOT).join(folder).join("Cargo.toml")).unwrap();
        let (_, section) = text.split_once("\n[dependencies]\n").unwrap_or_default();
        let section = section.split("\n[").next().unwrap_or_default();
        let keys = section
            .lines()
            .filter_map(|line| line.split(['.', ' ']).next());
        let found: BTreeSet<&str> = keys.filter_map(|key| named.get(key).copied()).collect();
        assert_eq!(
            &found, allowed,
            "{folder}/Cargo.toml against the table of crates"
        );
    }
}

#[test]
fn every_crate_of_the_workspace_is_in_the_table() {
    let text = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let members = text.split("members = [").nth(1).unwrap().split(']').next();
    let members = members.unwrap().split('"').skip(1).step_by(2);
    let ours = |member: &&str| !member.starts_with("examples/") && !member.starts_with("tests/");
    let members: BTreeSet<&str> = members.filter(ours).chain(["."]).collect();
    assert_eq!(members, crates().into_keys().collect());
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// How long a source file may be; most have 100 to 300 lines.
const LINES: usize = 500;

/// Files that are longer, and why.
const LONGER: [(&str, &str); 0] = [];

#[test]
fn files_are_small() {
    let (mut files, mut long) = (Vec::new(), Vec::new());
    for folder in [
        "benches", "core", "examples", "fuzz", "plugins", "sdk", "src", "tests",
    ] {
        sources(&Path::new(ROOT).join(folder), &mut files);
    }
    // What cargo has built in a workspace of its own.
    let is_built = |path: &Path| path.components().any(|part| part.as_os_str() == "target");
    files.retain(|file| !is_built(file.strip_prefix(ROOT).unwrap()));
    for file in &files {
        let lines = fs::read_to_string(file).unwrap().lines().count();
        let file = file.strip_prefix(ROOT).unwrap().display().to_string();
        if lines > LINES && !LONGER.iter().any(|(name, _)| *name == file) {
            long.push(format!("{file}: {lines} lines"));
        }
    }
    assert!(files.len() > 500, "{} files were found", files.len());
    assert!(long.is_empty(), "split by idea: {long:#?}");
}

/// The modules of its own crate that a source file names.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n");
    let ident = |text: &str| -> String {
        let letters = text.trim_start().chars();
        letters
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(ident(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (end, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.insert(ident(&group[start..end]));
                    start = end + 1;
                    if letter == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn imports_are_read() {
    let text =
        "use crate::{a::{b, c}, d as e};\n// crate::f\nlet x = crate::g::h(); $crate::i!()\n";
    assert_eq!(Vec::from_iter(used(text)), ["a", "d", "g"]);
}

#[test]
fn modules_use_those_above_them() {
    let mut checked = 0;
    for folder in crates().into_keys().filter(|f| f.starts_with("core/")) {
        if !PAGE.contains(&format!("\n### `{folder}`\n")) {
            continue;
        }
        let rows = table(&format!("### `{folder}`"));
        let order: Vec<&str> = rows.iter().flat_map(|row| names(row[0])).collect();
        let src = Path::new(ROOT).join(folder).join("src");
        let present: BTreeSet<String> = fs::read_dir(&src)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|name| name != "lib")
            .collect();
        let listed: BTreeSet<String> = order.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(listed, present, "the table of {folder} against its modules");
        for (at, module) in order.iter().enumerate() {
            let mut files = Vec::new();
            sources(&src.join(module), &mut files);
            files.extend(Some(src.join(format!("{module}.rs"))).filter(|file| file.exists()));
            for file in files {
                for other in used(&fs::read_to_string(&file).unwrap()) {
                    let below = order.iter().position(|name| *name == other);
                    assert!(
                        below.is_none_or(|below| below <= at),
                        "{}: uses crate::{other}, which stands below `{module}` in the table of {folder}",
                        file.strip_prefix(ROOT).unwrap().display()
                    );
                }
            }
        }
        checked += order.len();
    }
    assert!(checked > 30, "{checked} modules were checked");
}
