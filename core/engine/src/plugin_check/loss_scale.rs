//! Loss scales: segments join back to the text, and all weights are listed.

use super::{Checked, Finding, Findings};
use anyhow::Result;
use apus_sdk::{Base, Field, LossScale, Need, Piece, Turn};

/// Texts with the markers that loss scales look for.
const TEXTS: [&str; 8] = [
    "",
    "Plain text.",
    "I'm sorry, but I can't help with that.",
    "<think>\n\n</think>\n\nhi",
    "Thought: t\nAction: a\nAction Input: {}\nObservation: o\nFinal Answer: z",
    "Look:\n```rust\nfn main() {}\n```\nDone.",
    "pre<tool_call>\n{\"a\":1}\n</tool_call>mid",
    "Ünïcödé 喵 \u{1f431}\u{200d}\u{1f4bb} and a very long tail ... ... ...",
];

/// A row for a scale that looks at its columns.
const ROW: &str = r#"{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What?"},
    {"role": "assistant", "content": "Hi."}], "channel": "check", "score": 0.5}"#;

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let made = checked.make::<dyn LossScale>()?;
    let scale = made.component.as_ref();
    match scale.try_base() {
        Ok(Some(base)) => {
            let base = match base {
                Base::Default => "every assistant turn",
                Base::LastRound => "the last round",
                Base::All => "everything",
            };
            findings.push(Finding::Good(format!("a base strategy: trains {base}")));
        }
        Ok(None) => {}
        Err(error) => findings.push(Finding::Bad(error.to_string())),
    }
    let (mut weights, mut texts): (Vec<f64>, usize) = (Vec::new(), 0);
    for text in TEXTS {
        for (field, query) in [(Field::Content, Some("What?")), (Field::Thinking, None)] {
            let turn = Turn {
                role: "assistant",
                field,
                query,
                is_last: true,
            };
            let whole = format!("Before. {text} After.");
            let offset = "Before. ".len();
            let pieces = match made.declares(Need::Piece) {
                // Alone, and as a part of the third message of a row.
                true => vec![
                    Piece::new(text, &turn),
                    Piece::new(text, &turn)
                        .in_message(2, 3)
                        .within(&whole, offset)
                        .of_row(Some("check"), ROW),
                ],
                false => vec![Piece::bare(text, &turn)],
            };
            for piece in &pieces {
                texts += 1;
                match apus_data::chat::scale::segments(scale, piece) {
                    Ok(segments) => weights.extend(segments.iter().map(|segment| segment.weight)),
                    Err(error) => findings.push(Finding::Bad(format!("{text:?}: {error:#}"))),
                }
            }
        }
    }
    weights.sort_by(f64::total_cmp);
    weights.dedup();
    let list: Vec<String> = weights.iter().map(f64::to_string).collect();
    findings.push(Finding::Good(format!(
        "segments join back to {texts} texts; weights seen, all honoured as they are: {}",
        list.join(", ")
    )));
    if weights == [1.0] && !matches!(scale.try_base(), Ok(Some(_))) {
        let note = "none of the sample texts gets another weight than 1; a run says so if no text of its \
                    data does";
        findings.push(Finding::Note(note.to_owned()));
    }
    Ok(())
}
