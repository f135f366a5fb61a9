//! Datasets with formats of plugins, each with options of its own, and names of datasets that a plugin gives.

mod common;

use common::plugins::{GOLDENS, fails, losses};
use common::{apus, library, text, works};
use serde_json::Value;
use std::fs;

/// One format with other options for each dataset, wherever datasets are named.
#[test]
fn each_dataset_has_a_format_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let file = |name: &str| dir.join(name).display().to_string();
    fs::write(dir.join("a.csv"), "q,r,why\nWho?,Me.,W\nYou?,Yes.,W\n").unwrap();
    let pair = "{\"query\": \"q\", \"response\": \"r\"}\n";
    fs::write(dir.join("b.jsonl"), pair.repeat(3)).unwrap();
    let (a, b) = (file("a.csv"), file("b.jsonl"));
    let with = |a: &str, answer: &str| format!("{a}?format=csv_columns&question=q&answer={answer}");
    let command = |flags: &str| {
        format!(
            "--model {GOLDENS}/model_bf16 --current_date 2025-08-05 --plugin {} {flags}",
            library("csv_columns").display()
        )
    };
    let shown = |flags: &str| {
        works(&format!(
            "data {}",
            command(&format!("--samples 9 {flags}"))
        ))
    };
    // The same file twice, read in two ways, and one beside it that is recognised.
    let both = shown(&format!(
        "--dataset {} {} {b}",
        with(&a, "r"),
        with(&format!("{a}#1"), "why")
    ));
    let plain = both.replace(' ', "");
    assert!(
        plain.contains("csv_columns┆3┆3") && plain.contains("query_response┆3┆3"),
        "{both}"
    );
    assert_eq!(
        (both.matches("Me.").count(), both.matches("Yes.").count()),
        (1, 1),
        "{both}"
    );
    // The order of a file in TOML, with a literal name.
    fs::rename(dir.join("a.csv"), dir.join("a#1?x=y.csv")).unwrap();
    let toml = file("run.toml");
    fs::write(
        &toml,
        format!(
            "[[dataset]]\npath = '{}'\nrows = 1\ncolumns = {{ WHY = 'because' }}\n\
             format = {{ name = 'csv_columns', question = 'q', answer = 'because' }}\n",
            file("a#1?x=y.csv")
        ),
    )
    .unwrap();
    let table = shown(&format!("--config {toml}"));
    assert!(
        table.replace(' ', "").contains("csv_columns┆1┆1"),
        "{table}"
    );
    let a = file("none.csv");
    let escaped = format!(
        "{}?format=csv_columns&question=%71&answer=r",
        file("a*.csv")
    );
    assert!(shown(&format!("--dataset {escaped}")).contains("Yes."));

    let out = file("out");
    let sft = |flags: &str| {
        format!(
            "sft --device cpu --add_version false --output_dir {out} {}",
            command(flags)
        )
    };
    let row = |flags: &str| {
        let said = works(&sft(flags));
        assert!(said.replace(' ', "").contains("csv_columns┆2┆2"), "{said}");
    };
    row(&format!("--dry_run true --dataset {escaped}"));
    row(&format!("--max_steps 1 --dataset {escaped}"));
    let args: Value =
        serde_json::from_str(&fs::read_to_string(format!("{out}/args.json")).unwrap()).unwrap();
    assert_eq!(args["dataset"][0], *escaped);
    row(&format!(
        "--max_steps 1 --streaming true --dataset {escaped}"
    ));
    let table = works(&sft(&format!(
        "--max_steps 1 --streaming true --config {toml}"
    )));
    assert!(
        table.replace(' ', "").contains("csv_columns┆1┆1"),
        "{table}"
    );
    let line = format!(
        "eval --device cpu {}",
        command(&format!("--val_dataset {escaped} {b}"))
    );
    let said = works(&line);
    assert!(said.contains("csv_columns"), "{said}");
    let results = file("answers.jsonl");
    let line = format!("--val_dataset {escaped} --max_new_tokens 2 --result_path {results}");
    works(&format!("infer --device cpu {}", command(&line)));
    assert!(fs::read_to_string(results).unwrap().contains("Yes."));

    let error = |dataset: &str, says: &[&str]| {
        let named = format!("dataset `{dataset}`");
        let says: Vec<&str> = says.iter().copied().chain([named.as_str()]).collect();
        fails(&sft(&format!("--dataset {dataset}")), &says);
    };
    error(
        &format!("{b}?format=csv_columns&quest=q"),
        &["quest", "question"],
    );
    error(&format!("{b}?format=csv_column"), &["csv_columns"]);
    error(
        &format!("{b}?format=csv_columns&question=[1]"),
        &["option question", "expected"],
    );
    error(
        &format!("{b}?question=q"),
        &["option question", "`format=NAME`"],
    );
    let late = sft(&format!("--dataset {b}?format=csv_columns#5"));
    common::fails(&late, 2, &["?format=csv_columns#5`", "NAME#N?"]);
    error(&format!("{a}?format=csv_columns"), &["no dataset"]);
    fs::write(&toml, "[[dataset]]\npth = 'a'\n").unwrap();
    common::fails(
        &sft(&format!("--config {toml}")),
        2,
        &["run.toml", "dataset", "unknown field `pth`"],
    );
}

/// What a dataset's format is with its options goes into the key of prepared data.
#[test]
fn prepared_data_is_of_one_format() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a.csv");
    fs::write(&file, "q,r,why\nWho?,Me.,Because.\n").unwrap();
    let cache = home.path().join("cache").display().to_string();
    let said = |answer: &str| {
        let line = format!(
            "data --model {GOLDENS}/model_bf16 --current_date 2025-08-05 --plugin {} --load_from_cache_file true --samples 1 \
             --dataset {}?format=csv_columns&question=q&answer={answer}",
            library("csv_columns").display(),
            file.display()
        );
        text(&apus(
            &common::words(&line),
            &[("APUS_CACHE", cache.as_str())],
        ))
    };
    assert!(said("r").contains("Me."));
    assert!(said("why").contains("Because."));
    let again = said("r");
    assert!(
        again.contains("Me.") && again.contains("1 rows from"),
        "{again}"
    );
}

/// A name of data that a library gives: rows that it makes, and rows of a file that it changes.
#[test]
fn datasets_of_a_library_have_names() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("t.jsonl").display().to_string();
    fs::write(
        &file,
        "{\"ask\": \"A?\"}\n{\"ask\": \"B?\", \"spam\": 1}\n{\"ask\": \"C?\"}\n{\"ask\": \"D?\"}\n",
    )
    .unwrap();
    let line = |command: &str, dataset: &str| {
        format!(
            "{command} --model {GOLDENS}/model_bf16 --current_date 2025-08-05 --dataset_shuffle false --plugin {} --dataset {dataset}",
            library("asking_plugin").display()
        )
    };
    let data = |dataset: &str| works(&line("data --samples 9", dataset));
    let made = data("mine/tickets");
    assert!(
        made.contains("Ticket 1?") && !made.contains("Ticket 2?"),
        "{made}"
    );
    assert!(data("mine/tickets:closed#3?made=4").contains("Ticket 2?"));
    let changed = data(&format!("mine/tickets?file={file}&format=query_response"));
    assert!(
        changed.contains("A?") && changed.contains("C?") && changed.contains("Changed."),
        "{changed}"
    );
    assert!(
        !changed.contains("B?") && !changed.contains("D?"),
        "{changed}"
    );
    for dataset in [
        "mine/tickets".to_owned(),
        format!("mine/tickets?file={file}"),
    ] {
        let out = home.path().join("out");
        let sft = format!(
            "sft --device cpu --add_version false --output_dir {} --max_steps 2",
            out.display()
        );
        let _ = fs::remove_dir_all(&out);
        works(&line(&sft, &dataset));
        let whole = losses(&out);
        fs::remove_dir_all(&out).unwrap();
        works(&line(&format!("{sft} --streaming true"), &dataset));
        assert_eq!(losses(&out).len(), whole.len());
    }
    for (dataset, says) in [
        ("mine/tickets:open", "there is one subset, closed"),
        ("mine/tickets?yeer=1", "yeer"),
        ("mine/tickets?made=x", "option made"),
        ("mine/tickets?made=0", "it makes no rows"),
        ("mine/tickets?panics=source", "source: panicked"),
        ("mine/tickets?panics=rows", "rows: panicked"),
        ("nobody?a=1", "takes no options"),
    ] {
        fails(
            &line("data", dataset),
            &[says, &format!("dataset `{dataset}`")],
        );
    }
    let row = format!("mine/tickets?file={file}&panics=row");
    fails(&line("data", &row), &["t.jsonl:", "row: panicked"]);
}
