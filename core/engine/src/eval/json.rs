//! The numbers as JSON, down to each row.

use super::Report;
use super::row_losses::Mean;
use serde_json::{Map, Value, json};

/// The whole report; all of it, whatever the number of rows that are shown.
pub fn text(report: &Report, _shown: usize) -> String {
    let sets = report.sets.iter().enumerate();
    let sets: Vec<Value> = sets.map(|(number, _)| set(report, number)).collect();
    let whole = json!({
        "apus_version": env!("CARGO_PKG_VERSION"),
        "models": report.models,
        "datasets": sets,
        "settings": report.settings,
    });
    format!("{whole:#}\n")
}

fn set(report: &Report, number: usize) -> Value {
    let set = &report.sets[number];
    let models = report.models.iter().zip(&report.numbers).enumerate();
    let models = models.map(|(at, (name, model))| {
        let found = &model[number];
        let mut line = Map::new();
        line.insert("model".to_owned(), json!(name));
        line.extend(found.values.clone());
        line.insert(
            "standard_error".to_owned(),
            json!(found.mean().standard_error),
        );
        line.insert("perplexity".to_owned(), json!(found.perplexity()));
        line.insert("tokens".to_owned(), json!(found.tokens()));
        line.extend(found.speed.clone());
        if at > 0 {
            let base = &report.numbers[0][number].rows;
            let difference = Mean::of_difference(&found.rows, base);
            let better = found
                .rows
                .iter()
                .zip(base)
                .filter(|(row, base)| row.sum < base.sum);
            line.insert("against".to_owned(), json!(report.models[0]));
            line.insert("difference".to_owned(), json!(difference));
            line.insert("rows_with_less_loss".to_owned(), json!(better.count()));
        }
        Value::Object(line)
    });
    let rows = set.data.locations.iter().enumerate().map(|(row, place)| {
        let losses = report.numbers.iter().map(|model| model[number].rows[row]);
        let losses: Vec<f64> = losses
            .map(|row| row.sum / row.tokens.max(1) as f64)
            .collect();
        json!({
            "row": place.to_string(),
            "tokens": report.numbers[0][number].rows[row].tokens,
            "losses": losses,
        })
    });
    let answers = set.references.iter().enumerate().map(|(row, reference)| {
        let answers = report
            .numbers
            .iter()
            .map(|model| model[number].answers.get(row));
        json!({
            "row": reference.place,
            "messages": reference.conversation.messages,
            "labels": reference.answer,
            "responses": answers.collect::<Vec<_>>(),
        })
    });
    let sources = &set.data.report;
    json!({
        "dataset": set.name,
        "rows_read": sources.total(|source| source.rows),
        "rows_left_out": sources.total(|source| source.dropped_rows()),
        "models": models.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
        "answers": answers.collect::<Vec<_>>(),
    })
}
