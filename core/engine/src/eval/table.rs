//! The numbers as a table, and as rows of cells for other forms of it.

use super::Report;
use super::numbers::Numbers;
use super::row_losses::{Mean, RowLoss};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use console::Term;

/// The name of the rows over all datasets.
const ALL: &str = "all";

/// The heads of the columns: those that every table has, and each metric.
pub fn heads(report: &Report) -> Vec<String> {
    let compares = report.models.len() > 1;
    let mut heads: Vec<String> = ["dataset", "model", "rows", "tokens", "loss"]
        .map(str::to_owned)
        .to_vec();
    heads.extend(compares.then(|| format!("against {}", report.models[0])));
    heads.push("perplexity".to_owned());
    heads.extend(metrics(report));
    heads
}

/// The names of all metrics, in their order.
fn metrics(report: &Report) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for numbers in report.numbers.iter().flatten() {
        for (name, _) in numbers.metrics() {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// The cells of every row.
pub fn rows(report: &Report) -> Vec<Vec<String>> {
    let metrics = metrics(report);
    let mut rows = Vec::new();
    for (number, set) in report.sets.iter().enumerate() {
        for (name, model) in report.models.iter().zip(&report.numbers) {
            let found = &model[number];
            let base =
                (!std::ptr::eq(model, &report.numbers[0])).then(|| &report.numbers[0][number]);
            let mut cells = vec![
                set.name.clone(),
                name.clone(),
                found.rows.len().to_string(),
                found.tokens().to_string(),
                with_error(format!("{:.4}", found.loss()), found.mean()),
            ];
            if report.models.len() > 1 {
                cells.push(base.map_or_else(String::new, |base| against(found, base)));
            }
            cells.push(shown(found.perplexity()));
            let value = |name: &String| found.metrics().find(|(known, _)| known == name);
            cells.extend(
                metrics
                    .iter()
                    .map(|name| shown(value(name).map(|(_, value)| value))),
            );
            rows.push(cells);
        }
    }
    if report.sets.len() > 1 {
        rows.extend(of_all(report, metrics.len()));
    }
    rows
}

/// The rows over all datasets; metrics are of one dataset each.
fn of_all(report: &Report, metrics: usize) -> Vec<Vec<String>> {
    let together = |model: &[Numbers]| -> Vec<RowLoss> {
        model
            .iter()
            .flat_map(|found| found.rows.iter().copied())
            .collect()
    };
    let base = report
        .numbers
        .first()
        .map(|model| together(model))
        .unwrap_or_default();
    let models = report.models.iter().zip(&report.numbers).enumerate();
    models
        .map(|(at, (name, model))| {
            let rows = together(model);
            let mean = Mean::of(rows.iter().map(|row| (row.sum, row.tokens)));
            let tokens: usize = rows.iter().map(|row| row.tokens).sum();
            let mut cells = vec![
                ALL.to_owned(),
                name.clone(),
                rows.len().to_string(),
                tokens.to_string(),
                with_error(format!("{:.4}", mean.mean), mean),
            ];
            if report.models.len() > 1 {
                cells.push(match at {
                    0 => String::new(),
                    _ => difference(Mean::of_difference(&rows, &base)),
                });
            }
            let unweighted_mean = Mean::of(rows.iter().map(|row| (row.unweighted, row.tokens)));
            let has_one = model.iter().all(|found| found.perplexity().is_some());
            cells.push(shown(has_one.then(|| unweighted_mean.mean.exp())));
            cells.extend(vec![String::new(); metrics]);
            cells
        })
        .collect()
}

fn against(found: &Numbers, base: &Numbers) -> String {
    difference(Mean::of_difference(&found.rows, &base.rows))
}

fn difference(mean: Mean) -> String {
    with_error(format!("{:+.4}", mean.mean), mean)
}

fn with_error(value: String, mean: Mean) -> String {
    match mean.standard_error {
        Some(error) => format!("{value} ± {error:.4}"),
        None => value,
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.4}"))
}

/// The table for the terminal.
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    if let Some((_, columns)) = Term::stdout().size_checked() {
        table.set_width(columns);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    }
    table.set_header(heads(report));
    for row in rows(report) {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// What is to be said below the table.
pub fn notes(report: &Report) -> Vec<String> {
    let mut notes = vec![
        "± is a standard error over rows; a difference is one of pairs of rows. Below two of them it may be chance."
            .to_owned(),
    ];
    for (name, model) in report.models.iter().zip(&report.numbers) {
        let counts = model.iter().filter_map(|found| found.generated.as_ref());
        let (answers, tokens) = counts.fold((0, 0), |(answers, tokens), counts| {
            (answers + counts.samples, tokens + counts.generated)
        });
        if answers > 0 {
            notes.push(format!(
                "{name}: {answers} answers, {tokens} generated tokens"
            ));
        }
    }
    notes
}
