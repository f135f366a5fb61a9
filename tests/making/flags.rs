//! Flags that a component declares for its options.

use crate::common::{apus, fails, folder, text, words, works};
use crate::{args, asking, sft, with_plugin};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// A program that announces a callback whose option has this flag.
fn announcing(flag: &str) -> PathBuf {
    let components = json!([{
        "kind": "callback", "name": "told",
        "options": [{"name": "count", "default": 1, "flag": flag}],
    }]);
    let announced = json!({"id": 1, "ok": {"name": "told", "components": components}});
    let dir = folder(&format!("announcing-{flag}"));
    let script = dir.join("told.sh");
    fs::write(
        &script,
        format!("read -r line\necho '{announced}'\ncat > /dev/null\n"),
    )
    .unwrap();
    script
}

/// A flag that a component of a library declares is an option of that component where it is chosen, on the command line and in a
/// file.
#[test]
fn a_declared_flag_is_an_option_of_the_chosen_component() {
    let dir = folder("declared");
    works(&with_plugin(
        &dir,
        "--callbacks asks --callbacks.event on_step_end --ask-scores 3/4 --ask_from_step 1",
    ));
    assert_eq!(
        args(&dir)["callbacks"],
        json!([{"name": "asks", "event": "on_step_end", "scores": "3/4", "step": 1}])
    );

    let dir = folder("declared-in-file");
    let file = dir.join("run.toml");
    fs::write(
        &file,
        format!(
            "ask_scores = '5'\nask_from_step = 1\nplugins = ['{}']\ncallbacks = ['asks']\n",
            asking().display()
        ),
    )
    .unwrap();
    let run = dir.join("run");
    works(&sft(
        &run,
        &format!("--config {} --ask_from_step=0", file.display()),
    ));
    assert_eq!(
        args(&run)["callbacks"],
        json!([{"name": "asks", "scores": "5", "step": 0}]),
        "the command line goes over the file"
    );
}

#[test]
fn a_declared_flag_that_cannot_be_meant_is_an_error() {
    let dir = folder("declared-wrong");
    let says = |flags: &str, status: i32, says: &[&str]| {
        fails(&with_plugin(&dir, flags), status, says);
    };
    says(
        "--ask_scores 3",
        2,
        &[
            "--ask_scores is the option scores of callback asks of plugin asking-plugin",
            "give --callbacks asks as well",
        ],
    );
    says(
        "--callbacks asks --ask_scores 3 --callbacks.scores 4",
        2,
        &["--ask_scores and the option scores of callback asks are both given"],
    );
    says(
        "--callbacks asks --ask_from_step soon",
        1,
        &["callback asks: option step: expected a whole number, found \"soon\""],
    );
    says("--callbacks asks --ask_score 3", 2, &["'--ask_score'"]);
    fails(&sft(&dir, "--ask_scores 3"), 2, &["'--ask_scores'"]);
    let file = dir.join("wrong.toml");
    fs::write(&file, "ask_scorse = 3\n").unwrap();
    says(
        &format!("--config {}", file.display()),
        2,
        &[
            "wrong.toml, line 1, key ask_scorse",
            "there is no ask_scorse",
        ],
    );
}

/// Nobody else's flag can be declared: neither that of another component nor one of Apus.
#[test]
fn a_flag_belongs_to_one() {
    let dir = folder("declared-twice");
    let run = |flag: &str| {
        let line = with_plugin(&dir, "--dry_run true");
        let mut all: Vec<String> = words(&line).into_iter().map(str::to_owned).collect();
        let at = all.iter().position(|word| word == "--plugin").unwrap();
        all.insert(at + 1, format!("cmd:sh {}", announcing(flag).display()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let output = apus(&all, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        text(&output)
    };
    let said = run("ask_scores");
    for part in [
        "two components declare the flag --ask_scores",
        "callback asks of plugin asking-plugin",
        "callback told of plugin told",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = run("lora_rank");
    assert!(
        said.contains("callback told of plugin told")
            && said.contains("--lora_rank for its option count, which Apus itself has"),
        "{said}"
    );
    let said = run("early_stop_interval");
    assert!(
        said.contains("callback early_stop (built in) has"),
        "{said}"
    );
}

/// Lists and help say which flags stand for an option.
#[test]
fn lists_name_declared_flags() {
    let listed = works(&format!(
        "components callback --plugin {}",
        asking().display()
    ));
    assert!(
        listed.contains("It asks from this step on. (also --ask_from_step)"),
        "{listed}"
    );
    assert!(listed.contains("(also --early_stop_interval)"), "{listed}");
}
