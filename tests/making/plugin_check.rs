//! What `apus plugin check` finds before a run.

use crate::asking;
use crate::common::{apus, fails, text, words};

/// What a component forgets over a checkpoint, or counts twice, is found before a run.
#[test]
fn a_check_finds_what_no_run_tells() {
    let said = fails(
        &format!("plugin check {}", asking().display()),
        1,
        &["checks failed"],
    );
    for (component, finding) in [
        (
            "schedule remembers",
            "FAIL  asked in another order: after 39 steps the factor was",
        ),
        (
            "loss weighs",
            "FAIL  weights: with weights 3 times as large the losses are 3 times as large",
        ),
        (
            "callback forgets",
            "FAIL  goes on from a checkpoint: a run that goes on from the checkpoint of step 4 asks at step 5",
        ),
        (
            "optimizer forgets",
            "FAIL  goes on exactly from a checkpoint",
        ),
        ("optimizer keeps", "ok    goes on exactly from a checkpoint"),
        ("metric hoards", "FAIL  does not start afresh after compute"),
        (
            "callback unchecked",
            "fn needs() -> &'static [Need] { &[Need::Check] }",
        ),
        ("loss checks", "note  refuses the set-up of this check"),
    ] {
        let (_, of_it) = said.split_once(&format!("{component} ")).expect(component);
        let lines = of_it
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("      "));
        let found: Vec<&str> = lines.collect();
        assert!(
            found.iter().any(|line| line.contains(finding)),
            "{component}: {found:#?}"
        );
    }
}

/// Components are made with options, and one that does not come back is named.
#[test]
fn a_check_takes_options_and_ends_in_time() {
    let check = format!("plugin check {} --timeout 2 --options", asking().display());
    let before = std::time::Instant::now();
    let slow = |options: &str| {
        let line = format!("{check} JSON");
        let mut all = words(&line);
        all.pop();
        all.push(options);
        let output = apus(&all, &[]);
        (output.status.code(), text(&output))
    };
    let (status, said) = slow(r#"{"callback forgets": {"seconds": 3600}}"#);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("callback forgets of plugin asking-plugin"),
        "{said}"
    );
    assert!(
        said.contains("has not come back within 2 seconds, in callback forgets"),
        "{said}"
    );
    assert!(
        said.contains("optimizer keeps"),
        "those before it are checked: {said}"
    );
    assert!(before.elapsed().as_secs() < 60);
    for (options, says) in [
        (
            r#"{"forgets": {}}"#,
            "forgets is the name of optimizer forgets and callback forgets; give its kind too",
        ),
        (
            r#"{"nobody": {}}"#,
            "there is no component nobody; there are",
        ),
        ("3", "expected an object of objects"),
        (r#"{"keeps": 3}"#, "found 3 for keeps"),
    ] {
        let (status, said) = slow(options);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let (_, said) = slow(r#"{"callback forgets": {"second": 3}}"#);
    assert!(
        said.contains("cannot be made") && said.contains("second"),
        "{said}"
    );
}
