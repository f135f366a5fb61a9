//! A leading `<think>..</think>` in the content of an answer, as datasets of many families have it.

use super::weighted::Weighted;
use anyhow::{Result, ensure};
use std::ops::Range;

const THINK: [&str; 2] = ["<think>", "</think>"];

/// Takes a leading `<think>` block out of a content: its reasoning, and the answer after it, each with its weights; `None`
/// if there is no such block. `thinking` is reasoning that the message has in addition.
///
/// # Errors
/// The block and `thinking` say different things.
pub fn take(content: &Weighted, thinking: Option<&str>) -> Result<Option<(Weighted, Weighted)>> {
    let Some((inner, rest)) = block(&content.text) else {
        return Ok(None);
    };
    let said = content.text[inner.clone()].trim();
    let thinking = thinking.map(str::trim).filter(|text| !text.is_empty());
    ensure!(
        said.is_empty() || thinking.is_none_or(|thinking| thinking == said),
        "a <think> block, and other reasoning besides; leave one of them out (with --think_to_analysis false the \
         block is text of the answer)"
    );
    Ok(Some((content.slice(inner), content.slice(rest))))
}

/// The ranges of the reasoning in a leading `<think>..</think>` and of the answer after it, both without the white space
/// around them.
fn block(text: &str) -> Option<(Range<usize>, Range<usize>)> {
    let [open, close] = THINK;
    let body = text.trim_start().strip_prefix(open)?;
    let from = text.len() - body.len();
    let inner = &body[..body.find(close)?];
    let rest = text[from + inner.len() + close.len()..].trim_start();
    let lead = inner.len() - inner.trim_start().len();
    let inner_from = from + lead;
    Some((
        inner_from..inner_from + inner.trim().len(),
        text.len() - rest.len()..text.len(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Option<(String, String)> {
        let content = Weighted::uniform(text, 1.0);
        let parts = take(&content, None).unwrap()?;
        Some((parts.0.text, parts.1.text))
    }

    #[test]
    fn only_a_leading_block_that_is_closed_is_taken() {
        let pair = |thinking: &str, rest: &str| Some((thinking.to_owned(), rest.to_owned()));
        assert_eq!(taken("<think>\nxxx</think>\n\na b "), pair("xxx", "a b "));
        assert_eq!(taken("<think>\n\n</think>\n\nhi"), pair("", "hi"));
        assert_eq!(taken("hi <think>x</think>"), None);
        assert_eq!(taken("<think>open"), None);
    }

    #[test]
    fn other_reasoning_besides_is_refused() {
        let content = Weighted::uniform("<think>s</think>a", 1.0);
        assert!(take(&content, Some(" s\n")).unwrap().is_some());
        let bad = take(&content, Some("r")).unwrap_err().to_string();
        assert!(bad.contains("other reasoning besides"), "{bad}");
    }
}
