//! Samplers, built in and of plugin libraries: the order in which a run trains its examples, also when it goes on from a
//! checkpoint or was killed.
#![cfg(unix)]

mod common;

use common::orders::{WORDS, difficult, flags, home, steps};
use common::training::{checkpoints, losses, refuses, sft, trains, weights};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const SHORT_FIRST: [usize; 6] = [3, 1, 4, 0, 5, 2];

/// The order of a run, an epoch after another.
fn order(home: &Path, name: &str, more: &str) -> Vec<Vec<usize>> {
    trains(&home.join(name), &flags(home, name, more));
    let rows: Vec<usize> = steps(home, name).into_values().flatten().collect();
    rows.chunks(rows.len() / 2).map(<[usize]>::to_vec).collect()
}

#[test]
fn flags_of_transformers_are_samplers() {
    let home = home();
    let home = home.path();
    let of = |name: &str, flags: &str| order(home, name, flags);
    let usual = of("usual", "");
    assert_eq!(usual, of("random", "--sampler random"));
    assert_ne!(usual[0], usual[1]);
    assert_ne!(usual, of("seed", "--data_seed 7"));
    let in_order = of("in-order", "--train_dataloader_shuffle false");
    assert_eq!(in_order, [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]);
    assert_eq!(in_order, of("sequential", "--sampler sequential"));
    let grouped = of("grouped", "--group_by_length true");
    assert_eq!(grouped[0][0], 2, "the longest row comes first");
    assert_eq!(grouped, of("by-length", "--sampler group_by_length"));
    // What the command line names goes over the file.
    let file = home.join("run.toml");
    fs::write(&file, "group_by_length = true\n").unwrap();
    let over = format!("--config {} --sampler sequential", file.display());
    assert_eq!(in_order, of("over", &over));
    fs::write(
        &file,
        "sampler = { name = \"group_by_length\", shuffle = true }\n",
    )
    .unwrap();
    assert_eq!(grouped, of("file", &format!("--config {}", file.display())));
}

#[test]
fn a_curriculum_of_a_library_takes_short_rows_first() {
    let home = home();
    let flags = "--sampler short_first --sampler.epochs 2";
    let found = order(home.path(), "short", flags);
    assert_eq!(found, [SHORT_FIRST, SHORT_FIRST]);
    let packed = format!("{flags} --packing true --max_length 4096 --num_train_epochs 1");
    trains(
        &home.path().join("packed"),
        &common::orders::flags(home.path(), "packed", &packed),
    );
}

#[test]
fn a_curriculum_of_a_library_goes_by_a_column() {
    let home = home();
    let home = home.path();
    let file = difficult(home, &[Some(3.0), Some(0.5), Some(4.0), Some(1.0)]);
    let by = |more: &str| format!("--dataset {file} --sampler by_column {more}");
    let found = order(home, "column", &by(""));
    assert_eq!(found[0], [1, 3, 0, 2]);
    // Rows that are packed together have what all of them have.
    trains(
        &home.join("packed"),
        &flags(
            home,
            "packed",
            &by("--packing true --max_length 400 --sampler.epochs 0"),
        ),
    );
    let wrong = flags(home, "wrong", &by("--sampler.column hardness"));
    let says = [
        "sampler by_column of plugin curriculum",
        "reads the column `hardness` of rows",
        "there are difficulty, query, response",
    ];
    refuses(&home.join("wrong"), &wrong, &says);
    difficult(home, &[Some(3.0), None]);
    let says = [
        "by_column of plugin curriculum",
        "difficulty of row 1 is null",
    ];
    refuses(&home.join("wrong"), &flags(home, "wrong", &by("")), &says);
    let undeclared = format!("--dataset {file} --sampler wrong --sampler.how column");
    refuses(
        &home.join("wrong"),
        &flags(home, "wrong", &undeclared),
        &["&[Need::Columns]"],
    );
}

/// The losses that a sampler sees are those of the steps: one row each.
#[test]
fn a_curriculum_of_a_library_sees_losses() {
    let home = home();
    let more = "--sampler easy_first --sampler.share 0.8 --num_train_epochs 4";
    trains(&home.path().join("easy"), &flags(home.path(), "easy", more));
    let of_steps = steps(home.path(), "easy");
    let losses: BTreeMap<u64, f64> = losses(&home.path().join("easy"))
        .into_iter()
        .map(|(step, loss, _)| (step, loss))
        .collect();
    assert_eq!(
        of_steps.len(),
        20,
        "five rows of six in each of four epochs"
    );
    let mut known: BTreeMap<usize, f64> = BTreeMap::new();
    for epoch in 0..4 {
        let all = (1..=5).map(|step| 5 * epoch + step);
        let taken: Vec<usize> = all.clone().map(|step| of_steps[&step][0]).collect();
        let mut expected: Vec<usize> = (0..WORDS.len()).collect();
        expected.retain(|row| taken.contains(row));
        let before = |row: &usize| known.get(row).copied().unwrap_or(0.0);
        expected.sort_by(|a, b| before(a).total_cmp(&before(b)));
        if epoch > 0 {
            assert_eq!(taken, expected, "epoch {epoch}: {known:?}");
            let left = (0..WORDS.len()).find(|row| !taken.contains(row)).unwrap();
            assert!(taken.iter().all(|row| before(row) <= before(&left)));
        }
        known.extend(all.map(|step| (of_steps[&step][0], losses[&step])));
    }
}

#[test]
fn datasets_are_mixed_by_weights_and_rows_repeat() {
    let home = home();
    let b = home.path().join("b.jsonl");
    let more = format!(
        "--dataset {} {}#2 --sampler mixing --sampler.weights 0 1",
        home.path().join("a.jsonl").display(),
        b.display()
    );
    let found = order(home.path(), "mixed", &more);
    let mut rows = found.concat();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!((rows, found[0].len()), (vec![6, 7], 8));
}

/// From any of its checkpoints a run goes on with the order that it had, within an epoch and between two.
#[test]
fn a_run_goes_on_in_its_order() {
    let home = home();
    let home = home.path();
    let mixing = format!(
        "--dataset {} {} --sampler mixing --sampler.weights 1 2",
        home.join("a.jsonl").display(),
        home.join("b.jsonl").display()
    );
    for (kind, sampler) in [
        ("easy", "--sampler easy_first".to_owned()),
        ("short", "--sampler short_first".to_owned()),
        ("mixing", mixing),
    ] {
        let whole = home.join(kind);
        let more = format!("{sampler} --save_strategy steps --save_steps 1");
        trains(&whole, &flags(home, kind, &more));
        let all = steps(home, kind);
        let last = *all.keys().last().unwrap();
        let file = whole.join("checkpoint-1/sampler.safetensors");
        assert_eq!(file.is_file(), kind != "short", "{kind}");
        for step in [2, last / 2, last - 1] {
            let name = format!("{kind}-{step}");
            let from = whole.join(format!("checkpoint-{step}"));
            let rest = format!(
                "{more} --resume_from_checkpoint {} --resume_changes loss_type",
                from.display()
            );
            trains(&home.join(&name), &flags(home, &name, &rest));
            let rest = steps(home, &name);
            assert!(rest.iter().all(|(step, rows)| all[step] == *rows), "{name}");
            assert_eq!(rest.len() as u64, last - step, "{name}");
            let end = |run: PathBuf| weights(&run.join(format!("checkpoint-{last}")));
            assert!(end(home.join(&name)) == end(whole.clone()), "{name}");
        }
    }
    let from = home.join("easy/checkpoint-3");
    let other = format!(
        "--sampler short_first --resume_changes loss_type --resume_from_checkpoint {}",
        from.display()
    );
    refuses(
        &home.join("other"),
        &flags(home, "other", &other),
        &["sampler: the checkpoint has easy_first, this run short_first"],
    );
    fs::remove_file(from.join("sampler.safetensors")).unwrap();
    let lacks = format!(
        "--sampler easy_first --resume_changes loss_type --resume_from_checkpoint {}",
        from.display()
    );
    refuses(
        &home.join("lacks"),
        &flags(home, "lacks", &lacks),
        &["sampler.safetensors"],
    );
}

#[test]
fn a_run_that_was_killed_ends_as_if_nothing_had_been() {
    let home = home();
    let home = home.path();
    let more = "--sampler easy_first --save_strategy steps --save_steps 1 --num_train_epochs 4";
    let whole = home.join("whole");
    trains(&whole, &flags(home, "whole", more));
    let run = home.join("killed");
    let flags = flags(home, "killed", more);
    let mut child = sft(&run, &flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !checkpoints(&run).iter().any(|step| *step >= 8) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!checkpoints(&run).contains(&24), "it was through already");
    trains(&run, &format!("{flags} --resume_from_checkpoint true"));
    let end = |run: &Path| weights(&run.join("checkpoint-24"));
    assert!(end(&whole) == end(&run));
    let (all, killed) = (steps(home, "whole"), steps(home, "killed"));
    assert!(killed.iter().all(|(step, rows)| {
        let mut rows = rows.clone();
        rows.dedup();
        all[step] == rows
    }));
}

#[test]
fn what_goes_wrong_in_a_sampler_is_named() {
    let home = home();
    let home = home.path();
    let said = |more: &str, says: &[&str]| {
        refuses(&home.join("wrong"), &flags(home, "wrong", more), says);
    };
    let by = "sampler wrong of plugin asking-plugin";
    for (how, what) in [
        ("none", "an epoch takes no row at all"),
        ("short", "it takes 2 rows, and an epoch has 6"),
        (
            "outside",
            "at place 1 it takes row 6; the last of 6 rows is 5",
        ),
        ("panics", "told to panic"),
        ("fails", "told to fail"),
        ("undeclared", "&[Need::Losses]"),
    ] {
        let flags = format!("--sampler wrong --sampler.how {how}");
        said(&flags, &[by, what]);
    }
    said(
        "--sampler curriculum",
        &["there is no sampler \"curriculum\"; there are"],
    );
    said(
        "--sampler sequential --group_by_length true",
        &["sampler is sequential, and group_by_length true"],
    );
    said(
        "--sampler random --train_dataloader_shuffle false",
        &["train_dataloader_shuffle false: that is short for another sampler"],
    );
    said(
        "--sampler sequential --streaming true --max_steps 2",
        &["streaming is true and sampler is sequential"],
    );
}
