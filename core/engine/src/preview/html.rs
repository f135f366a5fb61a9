//! `--html`: writes a self-contained page with the report, the lengths, and samples. Each token of a sample shows its id
//! and weight.

use super::title;
use apus_data::chat::Tokenizer;
use apus_data::chat::preview::pieces;
use apus_data::data::{Dataset, Report};
use std::fmt::Write;

const BARS: usize = 30;

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8886; --one: #2e9e4433; --other: #d9970055; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
td:first-child, th:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px; padding: .8rem; }
.one { background: var(--one); } .other { background: var(--other); } .t:hover { outline: 1px solid currentColor; }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 9rem; border-bottom: 1px solid var(--line); }
.bars div { flex: 1; background: #4a7dcc; min-height: 0; }
.ends { display: flex; justify-content: space-between; font-size: .85rem; }
";

/// The page as HTML.
pub fn page(dataset: &Dataset, shown: &[usize], tokenizer: &Tokenizer) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>Training data</title>\n<style>\n{STYLE}</style></head>\n\
         <body>\n<h1>Training data</h1>\n"
    );
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
    out.push_str("</body></html>\n");
    out
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

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(
            escaped("<script>\"&\"</script>"),
            "&lt;script&gt;&quot;&amp;&quot;&lt;/script&gt;"
        );
    }

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
