//! Errors in the options of components.

use crate::common::{apus, folder, text, words};
use crate::with_plugin;
use std::fs;

/// An error in an option names it, wherever it was written and whoever finds it.
#[test]
fn errors_in_options_name_the_option() {
    let dir = folder("options");
    // What is written in JSON and in TOML, and what is said of it.
    let table = [
        (
            "share",
            r#""x""#,
            "option share: expected a number, found \"x\"",
        ),
        (
            "share",
            "2.5",
            "share is 2.5, expected a number of 0 or more and up to 1",
        ),
        ("share", "[1]", "option share: expected a number, found [1]"),
        (
            "count",
            "1.5",
            "option count: expected a whole number, found 1.5",
        ),
        ("count", "-1", "option count: expected u32, found -1"),
        (
            "shape",
            r#""cosin""#,
            "option shape: expected one of linear, half_cosine, found \"cosin\"",
        ),
        ("shape", "3", "option shape: "),
        ("shapes", r#"["linear", "cosin"]"#, "option shapes: "),
        ("pair", "[1, true]", "option pair: "),
        ("pair", "[1]", "option pair: "),
        (
            "whether",
            "3",
            "option whether: expected true or false, found 3",
        ),
        (
            "shar",
            "1",
            "unknown field `shar`, expected one of `share`, `count`",
        ),
        ("anything", "1", "unknown field `anything`"),
    ];
    for (option, value, says) in table {
        let config = dir.join("run.toml");
        fs::write(
            &config,
            format!("callbacks = [{{ name = 'optioned', {option} = {value} }}]\n"),
        )
        .unwrap();
        let from_file = with_plugin(&dir, &format!("--config {}", config.display()));
        let from_line = with_plugin(&dir, "--callbacks optioned --callbacks.OPTION VALUE");
        let option = format!("--callbacks.{option}");
        let from_line: Vec<&str> = words(&from_line)
            .into_iter()
            .map(|word| match word {
                "--callbacks.OPTION" => &option,
                "VALUE" => value,
                word => word,
            })
            .collect();
        for line in [words(&from_file), from_line] {
            let line: Vec<String> = line
                .into_iter()
                .map(|word| word.replace("model_bf16", "no-model"))
                .collect();
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let output = apus(&line, &[]);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(1), "{line:?}\n{said}");
            assert!(
                said.contains("callback optioned") && said.contains(says),
                "{line:?}: {says}\n{said}"
            );
        }
    }
}
