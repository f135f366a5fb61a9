//! Loss scales against vectors made by ms-swift's own functions, linked in and loaded.

mod builtins;
mod data_common;

use apus_sdk::{Field, Turn};
use builtins::ways;
use data_common::{chain, lines};
use serde_json::{Value, json};

#[test]
fn reference_vectors() {
    let rows = lines("loss_scale.jsonl");
    assert_eq!(rows.len(), 120);
    for (way, row) in ways()
        .into_iter()
        .flat_map(|way| rows.iter().map(move |row| (way, row)))
    {
        let text = |key: &str| row[key].as_str();
        let chain = chain(way, text("loss_scale").unwrap());
        let turn = Turn {
            role: "assistant",
            field: Field::Content,
            query: text("query"),
            is_last: true,
        };
        let segments = chain.fold(text("response").unwrap(), &turn).unwrap();
        let texts: Vec<_> = segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect();
        let weights: Vec<_> = segments.iter().map(|segment| segment.weight).collect();
        assert_eq!(
            json!(texts),
            row["segments"],
            "{}",
            Value::from(row.clone())
        );
        assert_eq!(
            json!(weights),
            row["weights"],
            "{}",
            Value::from(row.clone())
        );
    }
}
