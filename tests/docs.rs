//! The tables of docs/ agree with the code.

use apus_components::config::{
    Answer, BenchConfig, Command, Config, DataConfig, DeployConfig, EvalConfig, ExportConfig,
    FLAGS, Flag, InferConfig, ModelNewConfig, MsSwiftArguments, SftConfig, ms_swift_arguments,
    values,
};
use apus_sdk::Kind;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[test]
fn every_flag_is_in_the_page_as_it_is() {
    apus_plugins::link();
    compare::<SftConfig>("apus sft");
    compare::<InferConfig>("apus infer");
    compare::<DeployConfig>("apus deploy");
    compare::<ExportConfig>("apus export");
    compare::<ModelNewConfig>("apus model new");
    compare::<DataConfig>("apus data");
    compare::<BenchConfig>("apus bench");
    compare::<EvalConfig>("apus eval");
}

/// The table of what ms-swift has and Apus has not.
#[test]
fn every_argument_of_ms_swift_is_answered_in_the_page() {
    apus_plugins::link();
    let rows: Vec<String> = ms_swift_arguments().map(answer).collect();
    compare_rows("Arguments of ms-swift that are not flags here", &rows);
}

/// Compares the rows of the table below a heading of the page. With `APUS_WRITE_DOCS` set, writes them.
fn compare_rows(heading: &str, expected: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/from-ms-swift.md");
    // One test at a time, as each of them may write the page.
    static PAGE: Mutex<()> = Mutex::new(());
    let _alone = PAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let page = fs::read_to_string(&path).unwrap();
    let heading = format!("### {heading}\n");
    let (before, section) = page.split_once(&heading).expect("the heading");
    let section = section.split("\n### ").next().unwrap_or_default();
    let at = section.find("\n| `").expect("a row") + 1;
    let is_row = |line: &&str| line.starts_with("| `");
    let rows: Vec<&str> = section[at..].lines().take_while(is_row).collect();
    if rows == expected {
        return;
    }
    if std::env::var_os("APUS_WRITE_DOCS").is_some() {
        let begin = before.len() + heading.len() + at;
        let end = begin + rows.join("\n").len();
        let written = [&page[..begin], &expected.join("\n"), &page[end..]].concat();
        return fs::write(&path, written).unwrap();
    }
    let differs = expected.iter().zip(&rows).find(|(a, b)| a != *b);
    panic!(
        "docs/from-ms-swift.md, {heading}{} rows, expected {}; first difference: {differs:#?}\n\
         APUS_WRITE_DOCS=1 cargo test --test docs writes the tables as the code has them",
        rows.len(),
        expected.len()
    );
}

/// The pages that go through the kinds of component have all of them, in their order.
#[test]
fn every_kind_is_in_the_pages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let words: Vec<String> = names.iter().map(|name| name.replace(' ', "-")).collect();
    let options: String = names
        .iter()
        .map(|name| format!("        - {name}\n"))
        .collect();
    let keys = |page: &str| {
        let (_, table) = page
            .split_once("| kind | key and flag |")
            .unwrap_or_default();
        let rows = table.lines().skip(2).zip(Kind::ALL);
        let right =
            |(row, kind): (&str, &Kind)| row.starts_with(&format!("| {kind} | `{}`", kind.flag()));
        let count = rows.clone().filter(|&pair| right(pair)).count();
        let rest = table.lines().nth(2 + count).unwrap_or_default();
        count == Kind::ALL.len() && rest.is_empty()
    };
    let check = |file: &str, found: &dyn Fn(&str) -> bool, what: &str| {
        let page = fs::read_to_string(root.join(file)).unwrap();
        assert!(
            found(&page),
            "{file}: {what} is not the list of kinds, {names:?}"
        );
    };
    let list = format!("`{}`", words.join("`, `"));
    let guide = "docs/plugin-guide.md";
    check(
        guide,
        &|page| page.contains(&format!("`--kind` is one of {list}.")),
        "the sentence about --kind",
    );
    check(guide, &keys, "the table of keys and flags");
    let sections: String = names.iter().map(|name| format!("### {name}\n")).collect();
    let headings = |page: &str| {
        let (_, section) = page.split_once("kinds\n").unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        let headings = section.lines().filter(|line| line.starts_with("### "));
        let headings: String = headings.map(|line| line.to_lowercase() + "\n").collect();
        headings == sections
    };
    check(guide, &headings, "the headings of the section about kinds");
    check(
        "docs/dev/glossary.md",
        &|page| page.contains(&format!("can be: {} |", names.join(", "))),
        "the row `kind`",
    );
    let issue = ".github/ISSUE_TEMPLATE/plugin.yml";
    check(
        issue,
        &|page| page.contains(&format!("options:\n{options}        - another one")),
        "the options of `kind`",
    );
}

/// Links between the pages lead to files.
/// Lines of code of a file, without comments, blank lines and tests.
fn lines_of_code(path: &Path) -> usize {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
    let counts = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    code.lines().filter(counts).count()
}

#[test]
fn lines_of_the_five_plugins_are_counted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/plugin-guide.md")).unwrap();
    for (old, example, files) in [
        ("ticket", "ticket-format", &["lib.rs"][..]),
        ("code_decay", "code-decay", &["lib.rs"]),
        ("smooth_z", "smooth-z-loss", &["lib.rs"]),
        ("adafactor", "adafactor", &["lib.rs"]),
        ("quiz", "quiz", &["lib.rs", "page.rs"]),
    ] {
        let before = lines_of_code(&root.join(format!("tests/goldens/sdk_1_0/{old}.rs")));
        let now = files
            .iter()
            .map(|file| lines_of_code(&root.join(format!("examples/{example}/src/{file}"))));
        let row = guide
            .lines()
            .find(|line| line.starts_with(&format!("| `examples/{example}`")));
        let expected = format!("| {before} | {} |", now.sum::<usize>());
        assert!(
            row.is_some_and(|row| row.contains(&expected)),
            "{example}: {expected} in {row:?}"
        );
    }
}

/// What a page names of the repository is there.
#[test]
fn examples_that_pages_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for page in fs::read_dir(root.join("docs")).unwrap() {
        let path = page.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_one = ["examples/", "plugins/src/", "tests/"]
                .iter()
                .any(|folder| name.starts_with(folder));
            if is_one && !name.contains([' ', '*']) {
                named += 1;
                assert!(
                    root.join(name).exists(),
                    "{}: there is no {name}",
                    path.display()
                );
            }
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("docs"), root.join("examples")];
    let mut pages = vec![
        root.join("README.md"),
        root.join("CONTRIBUTING.md"),
        root.join("CHANGELOG.md"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|kind| kind.to_str()) {
                Some("md") => pages.push(path),
                None if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    assert!(pages.len() > 20, "{}", pages.len());
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            let path = page.parent().unwrap().join(file);
            assert!(
                file.is_empty() || path.exists(),
                "{}: {target}",
                page.display()
            );
        }
    }
}

fn answer(arguments: &MsSwiftArguments) -> String {
    let quoted = |names: &[&str]| {
        let quoted = names.iter().map(|name| format!("`{name}`"));
        quoted.collect::<Vec<_>>().join(", ")
    };
    let commands = [
        Command::Sft,
        Command::Infer,
        Command::Deploy,
        Command::Export,
    ];
    let commands = commands
        .into_iter()
        .zip(["sft", "infer", "deploy", "export"])
        .filter(|(command, _)| arguments.commands.contains(command))
        .map(|(_, name)| name);
    let answer = match arguments.answer {
        Answer::NoEffect(why) => format!("nothing to do: {why}"),
        Answer::Refused(harmless, why) => match harmless.is_empty() {
            true => format!("error: {why}"),
            false => format!("error, but for {}: {why}", quoted(harmless)),
        },
    };
    let commands = commands.collect::<Vec<_>>().join(", ");
    format!("| {} | {commands} | {answer} |", quoted(arguments.names))
}

/// Each row of a command's table is as its flag says, in the order of the flags.
fn compare<T: Config>(title: &str) {
    let defaults = values(&T::default());
    let row = |flag: &Flag| {
        let place = flag.place(T::COMMAND)?;
        Some(row(flag, &defaults[flag.name], place))
    };
    let rows: Vec<String> = FLAGS.iter().filter_map(row).collect();
    compare_rows(&format!("`{title}`"), &rows);
}

fn row(flag: &Flag, default: &Value, place: &str) -> String {
    let mut text = format!("| `{}`", flag.name);
    let aliases: Vec<String> = flag.aliases.iter().map(|a| format!("`{a}`")).collect();
    if !aliases.is_empty() {
        text += &format!(" also {}", aliases.join(", "));
    }
    let default = shown(default);
    match default.is_empty() {
        true => text + &format!(" |  | {place} |"),
        false => text + &format!(" | `{default}` | {place} |"),
    }
}

fn shown(default: &Value) -> String {
    match default.get("name").unwrap_or(default) {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(_) => String::new(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The page names messages of ranks as they are: each has all words of its row, but for what stands in their places.
#[test]
fn messages_of_ranks_are_in_the_page_as_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/several-cards.md")).unwrap();
    let source = sources(
        &["core/world/src", "core/engine/src/train", "src"].map(|folder| root.join(folder)),
    );
    let (_, table) = page
        .split_once("| message | what it means, and what to do |\n")
        .expect("the table");
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("| `"));
    let mut count = 0;
    for row in rows {
        let messages = row.split(" | ").next().unwrap_or_default();
        for message in messages.split('`').skip(1).step_by(2) {
            count += 1;
            // Names of variables and numbers come from elsewhere.
            let is_fixed = |word: &&str| word.chars().any(char::is_lowercase) || *word == ";";
            let parts = message.split("...").flat_map(|part| {
                let words: Vec<&str> = part.split_whitespace().collect();
                words
                    .split(|word| !is_fixed(word))
                    .map(|words| words.join(" "))
                    .collect::<Vec<_>>()
            });
            for part in parts.filter(|part| part.len() > 6) {
                assert!(
                    source.contains(&part),
                    "{part:?} of {message:?} is in no message"
                );
            }
        }
    }
    assert!(count > 20, "{count} messages");
}

/// All sources below these folders, with their broken texts joined.
fn sources(folders: &[std::path::PathBuf]) -> String {
    let mut all = String::new();
    for folder in folders {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => all += &sources(&[path]),
                false => all += &fs::read_to_string(path).unwrap(),
            }
        }
    }
    let lines = all.split("\\\n");
    lines
        .enumerate()
        .map(|(at, line)| if at == 0 { line } else { line.trim_start() })
        .collect()
}
