//! A sampler that is a program, against the real binary: what it sees of an epoch, orders, weights and its state.
#![cfg(unix)]

mod common;

use common::orders::{WORDS, difficult, flags, home, steps};
use common::process::{program, python};
use common::training::{losses, refuses, trains, weights};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SAMPLERS: &str = r#"
import json
from apus_plugin import component, run

def lost(epoch, row):
    loss = epoch["losses"][row]
    return loss["last"] if loss else 100.0

@component("sampler", "short", file=("", "Where it writes what it sees"))
def short(epoch, file):
    """Short rows first."""
    if file:
        print(json.dumps(epoch), file=open(file, "a"))
    return sorted(range(epoch["rows"]), key=epoch["tokens"].__getitem__)

@component("sampler", "keeps", needs=["losses"], file=("", "Where it writes what it sees"))
class Keeps:
    """The harder half, turned round in each second epoch that it has counted."""

    def __init__(self, file):
        self.file, self.epochs = file, 0

    def epoch_length(self, epoch):
        return (epoch["rows"] + 1) // 2

    def order(self, epoch):
        if self.file:
            print(json.dumps(epoch), file=open(self.file, "a"))
        self.epochs += 1
        order = sorted(range(epoch["rows"]), key=lambda row: -lost(epoch, row))[:self.epoch_length(epoch)]
        return order if self.epochs % 2 else order[::-1]

    def save_state(self):
        return {"epochs": self.epochs}

    def load_state(self, saved):
        self.epochs = saved["epochs"]

@component("sampler", "graded", facts={"columns": ["difficulty"]}, needs=["columns"])
def graded(epoch):
    """From low values of a column to high ones, rows without one last."""
    values = epoch["columns"]["difficulty"]
    return sorted(range(epoch["rows"]), key=lambda row: 100 if values[row] is None else values[row])

@component("sampler", "drawn", needs=["losses"])
class Drawn:
    """Draws from the last three rows, one of them twice as often."""

    def epoch_length(self, epoch):
        return 40

    def order(self, epoch):
        return {"weights": [0] * (epoch["rows"] - 3) + [1, 0.0, 2]}

def goes_wrong(epoch, how):
    """Goes wrong as it is told."""
    order = list(range(epoch["rows"]))
    return {
        "short": order[:2], "outside": [9] + order[1:], "text": "first", "fraction": [0.5] * len(order), "negative": [-1] * len(order),
        "few": {"weights": [1]}, "zero": {"weights": [0] * len(order)}, "below": {"weights": [-1.0] + order[1:]},
        "odd": {"order": order}, "fails": how,
    }[how] if how != "undeclared" else epoch["losses"]

component("sampler", "goes_wrong", how=("fails", "What goes wrong"))(goes_wrong)

run("sampling")
"#;

/// Flags as those of [`flags`], with the program beside the libraries.
fn with(plugin: &str, home: &Path, name: &str, more: &str) -> String {
    let flags = flags(home, name, more);
    flags.replacen("--plugin ", &format!("--plugin {plugin} "), 1)
}

fn seen(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_order_of_a_program_is_that_of_a_library() {
    if !python() {
        return;
    }
    let home = home();
    let home = home.path();
    let plugin = program(home, "samplers.py", SAMPLERS);
    let file = home.join("seen.jsonl");
    let b = home.join("b.jsonl");
    let both = format!(
        "--dataset {} {}",
        home.join("a.jsonl").display(),
        b.display()
    );
    let save = "--save_strategy steps --save_steps 4";
    let short = format!(
        "{save} {both} --sampler short --sampler.file {}",
        file.display()
    );
    let short_first =
        format!("{save} {both} --sampler short_first --sampler.epochs 2 --data_seed 3");
    let end = |name: &str, flags: &str| {
        trains(&home.join(name), &with(&plugin, home, name, flags));
        weights(&home.join(name).join("checkpoint-4"))
    };
    end("program", &short);
    end("library", &short_first);
    // Rows of the same length are in the same order here and in a random one there.
    let lengths = |name: &str| -> Vec<usize> {
        let length = |row: usize| [&WORDS[..], &WORDS[..2]].concat()[row];
        let rows = steps(home, name).into_values().flatten();
        rows.map(length).collect()
    };
    assert_eq!(lengths("program"), lengths("library"));
    let one = format!("{save} --sampler short --num_train_epochs 1");
    let other = format!("{save} --sampler short_first --num_train_epochs 1");
    assert!(end("program-alone", &one) == end("library-alone", &other));

    let seen = seen(&file);
    for epoch in &seen {
        let names: Vec<&str> = epoch["datasets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert!(
            names[0].ends_with("a.jsonl") && names[1].ends_with("b.jsonl"),
            "{epoch}"
        );
        assert_eq!(
            epoch["dataset"],
            serde_json::json!([0, 0, 0, 0, 0, 0, 1, 1])
        );
        assert_eq!(
            epoch["channel"],
            serde_json::json!([null, null, null, null, null, null, null, null])
        );
        assert_eq!(
            (&epoch["rows"], &epoch["rows_per_step"]),
            (&8.into(), &1.into())
        );
        assert!(epoch.get("losses").is_none(), "{epoch}");
        let tokens: Vec<u64> = epoch["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tokens| tokens.as_u64().unwrap())
            .collect();
        assert!(
            tokens[3] < tokens[1] && tokens[1] == tokens[7] && tokens[5] < tokens[2],
            "{tokens:?}"
        );
    }
    assert!(seen.iter().any(|epoch| epoch["number"] == 1));
}

#[test]
fn a_program_sees_losses_and_goes_on_with_its_state() {
    if !python() {
        return;
    }
    let home = home();
    let home = home.path();
    let plugin = program(home, "samplers.py", SAMPLERS);
    let file = home.join("seen.jsonl");
    let more = "--sampler keeps --num_train_epochs 4 --save_strategy steps --save_steps 1";
    let whole = home.join("whole");
    let sees = format!("{more} --sampler.file {}", file.display());
    trains(&whole, &with(&plugin, home, "whole", &sees));
    let all = steps(home, "whole");
    assert_eq!(all.len(), 12, "three rows of six in each of four epochs");
    // The losses are those of the steps, as it saw them when the epoch began.
    let logged: BTreeMap<u64, f64> = losses(&whole)
        .into_iter()
        .map(|(step, loss, _)| (step, loss))
        .collect();
    let mut known: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for number in 0..4u64 {
        let epoch = seen(&file)
            .into_iter()
            .rfind(|epoch| epoch["number"] == number)
            .unwrap();
        for row in 0..WORDS.len() {
            let (shown, losses) = (&epoch["losses"][row], known.get(&row));
            let Some(losses) = losses else {
                assert!(shown.is_null(), "{epoch}");
                continue;
            };
            assert_eq!(shown["times"], losses.len());
            let near = |key: &str, value: f64| (shown[key].as_f64().unwrap() - value).abs() < 1e-4;
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            assert!(
                near("last", *losses.last().unwrap()) && near("mean", mean),
                "{shown} {losses:?}"
            );
        }
        for step in 3 * number + 1..=3 * number + 3 {
            known.entry(all[&step][0]).or_default().push(logged[&step]);
        }
    }
    // From any checkpoint on, within an epoch and between two.
    let end = |run: &Path| weights(&run.join("checkpoint-12"));
    for step in [2, 3, 7, 11] {
        let (name, from) = (
            format!("from-{step}"),
            whole.join(format!("checkpoint-{step}")),
        );
        let rest = format!(
            "{sees} --resume_from_checkpoint {} --resume_changes loss_type",
            from.display()
        );
        let rest_of = home.join(&name);
        trains(&rest_of, &with(&plugin, home, &name, &rest));
        let rest = steps(home, &name);
        assert_eq!(rest.len() as u64, 12 - step);
        assert!(rest.iter().all(|(step, rows)| all[step] == *rows), "{name}");
        assert!(end(&rest_of) == end(&whole), "{name}");
    }
}

#[test]
fn a_program_sees_the_columns_that_it_asks_for() {
    if !python() {
        return;
    }
    let home = home();
    let home = home.path();
    let plugin = program(home, "samplers.py", SAMPLERS);
    let file = difficult(home, &[Some(3.0), None, Some(4.0), Some(1.0)]);
    let more = format!("--dataset {file} --sampler graded --num_train_epochs 1");
    trains(&home.join("graded"), &with(&plugin, home, "graded", &more));
    let order: Vec<usize> = steps(home, "graded").into_values().flatten().collect();
    assert_eq!(order, [3, 0, 2, 1]);
    let silent = SAMPLERS.replace(r#", needs=["columns"]"#, "");
    let silent = program(home, "silent.py", &silent);
    let says = [
        "it asks for columns",
        r#"@component("sampler", "graded", needs=["columns"])"#,
    ];
    refuses(
        &home.join("silent"),
        &with(&silent, home, "silent", &more),
        &says,
    );
}

#[test]
fn rows_are_drawn_by_the_weights_of_a_program() {
    if !python() {
        return;
    }
    let home = home();
    let home = home.path();
    let plugin = program(home, "samplers.py", SAMPLERS);
    let drawn = |name: &str, more: &str| -> Vec<usize> {
        let more = format!("--sampler drawn --num_train_epochs 1 {more}");
        trains(&home.join(name), &with(&plugin, home, name, &more));
        steps(home, name).into_values().flatten().collect()
    };
    let rows = drawn("one", "");
    let count = |row: usize| rows.iter().filter(|&&drawn| drawn == row).count();
    assert_eq!((rows.len(), count(3) + count(5)), (40, 40));
    assert!((5..=22).contains(&count(3)), "{rows:?}");
    assert_eq!(rows, drawn("again", ""));
    assert_ne!(rows, drawn("seed", "--data_seed 7"));
}

#[test]
fn what_goes_wrong_in_a_sampler_of_a_program_is_named() {
    if !python() {
        return;
    }
    let home = home();
    let home = home.path();
    let plugin = program(home, "samplers.py", SAMPLERS);
    let by = "sampler goes_wrong of plugin sampling";
    for (how, what) in [
        ("short", "it takes 2 rows, and an epoch has 6"),
        (
            "outside",
            "at place 0 it takes row 9; the last of 6 rows is 5",
        ),
        ("text", "another shape: invalid type: string \"first\""),
        (
            "fraction",
            "another shape: invalid type: floating point `0.5`",
        ),
        ("negative", "another shape: invalid value: integer `-1`"),
        ("few", "it gave 1 weights for 6 rows"),
        ("zero", "the sum of the weights is 0"),
        ("below", "the weight of row 0 is -1"),
        ("odd", "another shape: unknown field `order`"),
        ("unknown", "KeyError: 'unknown' (samplers.py:"),
        (
            "undeclared",
            r#"@component("sampler", "goes_wrong", needs=["losses"])"#,
        ),
    ] {
        let more = format!("--sampler goes_wrong --sampler.how {how}");
        let flags = with(&plugin, home, "wrong", &more);
        refuses(&home.join("wrong"), &flags, &[by, "order", what]);
    }
}
