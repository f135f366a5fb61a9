//! `--html`: writes a self-contained page with the report, the lengths, and samples. Each token of a sample shows its id
//! and weight.

use super::title;
use crate::html::{escaped, page as whole};
use apus_data::chat::Tokenizer;
use apus_data::chat::preview::pieces;
use apus_data::data::{Dataset, Report};
use std::fmt::Write;

const BARS: usize = 30;

/// The page as HTML.
pub fn page(dataset: &Dataset, shown: &[usize], tokenizer: &Tokenizer) -> String {
    let mut out = String::new();
    table(&mut out, &dataset.report);
    let lengths: Vec<usize> = dataset.samples.iter().map(|sample| sample.len()).collect();
    histogram(&mut out, &lengths);
    if !shown.is_empty() {
        out.push_str(
            "<h2>Examples</h2>\n<p><span class=\"one\">Trained with weight 1</span>, \
             <span class=\"other\">with another weight</span>, the rest is not trained. A token says its id \
             and weight under the pointer, and the token that has to be learnt in its place if it is another.</p>\n",
        );
    }
    for &index in shown {
        let _ = writeln!(out, "<h3>{}</h3>\n<pre>", escaped(&title(dataset, index)));
        for piece in pieces(&dataset.samples[index], tokenizer) {
            let ids: Vec<String> = piece.ids.iter().map(u32::to_string).collect();
            let learns = piece
                .other
                .map(|id| format!(", to learn: {}", tokenizer.decode(&[id], true)));
            let class = match piece.weight {
                0.0 => "t",
                1.0 => "t one",
                _ => "t other",
            };
            let _ = write!(
                out,
                "<span class=\"{class}\" title=\"{} weight {}{}\">{}</span>",
                ids.join(" "),
                piece.weight,
                escaped(&learns.unwrap_or_default()),
                escaped(&piece.text)
            );
        }
        out.push_str("</pre>\n");
    }
    whole("Training data", &out)
}

fn table(out: &mut String, report: &Report) {
    let columns = Report::COLUMNS.map(|name| format!("<th>{name}</th>"));
    let _ = writeln!(out, "<table>\n<tr>{}</tr>", columns.concat());
    for source in &report.sources {
        let cells = source
            .cells()
            .map(|cell| format!("<td>{}</td>", escaped(&cell)));
        let _ = writeln!(out, "<tr>{}</tr>", cells.concat());
    }
    out.push_str("</table>\n");
    if let Some(packing) = &report.packing {
        let _ = writeln!(out, "<p>{}</p>", escaped(&packing.to_string()));
    }
    if let Some(channels) = report.channels().table() {
        let _ = writeln!(out, "<pre>{}</pre>", escaped(&channels));
    }
    let warnings = report.warnings();
    if !warnings.is_empty() {
        let _ = writeln!(out, "<pre>{}</pre>", escaped(&warnings.join("\n")));
    }
}

fn histogram(out: &mut String, lengths: &[usize]) {
    let (Some(&least), Some(&most)) = (lengths.iter().min(), lengths.iter().max()) else {
        return;
    };
    let width = (most - least + 1).div_ceil(BARS);
    let mut counts = vec![0usize; (most - least) / width + 1];
    for length in lengths {
        counts[(length - least) / width] += 1;
    }
    let highest = counts.iter().max().copied().unwrap_or(1).max(1);
    out.push_str("<h2>Lengths in tokens</h2>\n<div class=\"bars\">");
    for (bar, count) in counts.iter().enumerate() {
        let from = least + bar * width;
        let _ = write!(
            out,
            "<div style=\"height:{:.1}%\" title=\"{from} to {}: {count}\"></div>",
            100.0 * *count as f64 / highest as f64,
            from + width - 1
        );
    }
    let _ = writeln!(
        out,
        "</div>\n<div class=\"ends\"><span>{least}</span><span>{most}</span></div>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_count_every_length() {
        let mut out = String::new();
        histogram(&mut out, &[5, 5, 100]);
        assert!(out.contains("5 to 8: 2") && out.contains("97 to 100: 1"));
        out.clear();
        histogram(&mut out, &[7]);
        assert!(out.contains("7 to 7: 1"));
    }
}
