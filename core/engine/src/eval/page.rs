//! The numbers and the answers as a page that needs nothing else.

use super::Report;
use super::answers::{differing, heading};
use super::table::{heads, notes, rows};
use crate::html::{escaped, page as whole};
use std::fmt::Write;

/// Rows of answers on a page, if none are asked for.
const ROWS: usize = 50;

/// The page.
pub fn page(report: &Report, shown: usize) -> String {
    let mut body = String::from("<table>\n");
    let head = |name: &String| format!("<th>{}</th>", escaped(name));
    let heads: String = heads(report).iter().map(head).collect();
    let _ = writeln!(body, "<tr>{heads}</tr>");
    for row in rows(report) {
        let cells: String = row
            .iter()
            .map(|cell| format!("<td>{}</td>", escaped(cell)))
            .collect();
        let _ = writeln!(body, "<tr>{cells}</tr>");
    }
    body.push_str("</table>\n");
    for note in notes(report) {
        let _ = writeln!(body, "<p>{}</p>", escaped(&note));
    }
    let most = if shown == 0 { ROWS } else { shown };
    for (number, set) in report.sets.iter().enumerate() {
        let (rows, all) = differing(report, number, most);
        if set.references.is_empty() {
            continue;
        }
        let line = heading(report, set, (rows.len(), all));
        let _ = writeln!(body, "<h2>{}</h2>", escaped(&line));
        for compared in rows {
            let _ = writeln!(body, "<h3>{}</h3>", escaped(&compared.row.place));
            for (name, text) in compared.texts() {
                let (name, text) = (escaped(name), escaped(text));
                let _ = writeln!(body, "<p>{name}</p><pre>{text}</pre>");
            }
        }
    }
    whole("Evaluation", &body)
}
