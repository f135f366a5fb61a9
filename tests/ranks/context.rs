//! What components of a library see and set on every rank.

use crate::common::training::{TINY, log, said};
use crate::runs::{ranks, same, trains};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;

fn asking_plugin() -> String {
    let plugin = format!("{DLL_PREFIX}asking_plugin{DLL_SUFFIX}");
    let plugin = std::env::current_exe().unwrap().with_file_name(plugin);
    plugin.display().to_string()
}

/// A callback sets a parameter after each step: all ranks go on with it, as one process does. Loss and optimizer are given the
/// run on every rank. Weights are compared before each checkpoint.
#[test]
fn a_parameter_that_is_set_is_set_on_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let flags = format!(
        "--plugin {} --callbacks sees --callbacks.set 0.5 --loss_type seeing --optimizer seeing --lr_scheduler seeing \
         --lora_rank 4",
        asking_plugin()
    );
    let run = |count: usize| dir.path().join(count.to_string());
    for (count, accumulation) in [(1, 4), (2, 2)] {
        let flags = format!("{flags} --gradient_accumulation_steps {accumulation}");
        trains(&mut ranks(&run(count), count, &flags));
        let log = log(&run(count));
        let seen: Vec<u64> = log
            .iter()
            .filter_map(|line| line.get("seen_ranks")?.as_u64())
            .collect();
        assert_eq!(seen, [count as u64; 4]);
    }
    same("2 ranks", &run(1), &run(2));
}

/// Rank 0 alone sets values: an optimizer that does so on another rank would make it another model.
#[test]
fn no_other_rank_sets_a_parameter() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..2 {
        let flags = format!(
            "--plugin {} --optimizer meddles --optimizer.rank {rank} --gradient_accumulation_steps 2",
            asking_plugin()
        );
        let run = dir.path().join(rank.to_string());
        let output = ranks(&run, 2, &flags).output().unwrap();
        assert!(!output.status.success());
        let said = said(&output);
        assert!(
            said.contains("optimizer meddles of plugin asking-plugin")
                && said.contains("a parameter is set between steps"),
            "{said}"
        );
    }
}

/// The columns of rows that a loss reads go with them to the ranks.
#[test]
fn a_loss_reads_columns_of_rows_on_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let rows = fs::read_to_string(format!("{TINY}/chat_train.jsonl")).unwrap();
    let rows = rows.lines().zip(1..).map(|(row, at): (&str, u32)| {
        let mut row: serde_json::Value = serde_json::from_str(row).unwrap();
        row["importance"] = (0.5 * f64::from(at)).into();
        row.to_string()
    });
    let data = dir.path().join("rows.jsonl");
    fs::write(&data, rows.collect::<Vec<_>>().join("\n")).unwrap();
    let run = |name: &str| dir.path().join(name);
    let train = |name: &str, count: usize, accumulation: usize, loss: &str| {
        let flags = format!(
            "--plugin {} --dataset {} --gradient_accumulation_steps {accumulation} {loss}",
            asking_plugin(),
            data.display()
        );
        trains(&mut ranks(&run(name), count, &flags));
    };
    train("one", 1, 4, "--loss_type weighted");
    train("two", 2, 2, "--loss_type weighted");
    same("2 ranks", &run("one"), &run("two"));
    train("plain", 1, 4, "");
    let first = |name: &str| log(&run(name))[0]["loss"].as_f64().unwrap();
    assert_ne!(first("one"), first("plain"));
}
