//! Finds the texts of messages in rendered harmony. Each message holds one text.

use super::{ANALYSIS, COMMENTARY, END, RETURN, Span, parse_rendered};
use crate::chat::{
    dialect::{Author, FramedText, TextEnd, TextKind},
    rendered::Rendered,
};
use anyhow::Result;

/// The texts of all messages.
///
/// # Errors
/// The text is not harmony.
pub fn texts(rendered: &Rendered) -> Result<Vec<FramedText>> {
    let spans = parse_rendered(rendered)?;
    let nexts = spans.iter().skip(1).map(Some).chain([None]);
    let texts = spans.iter().zip(nexts).map(|(span, next)| FramedText {
        author: author(span),
        kind: kind(span),
        opening: span.opening.clone(),
        header: span.head.clone(),
        body: span.body.clone(),
        stop: span.closing.clone(),
        end: end(span, next, &rendered.text),
    });
    Ok(texts.collect())
}

fn author(span: &Span) -> Author {
    match span.header.role.as_str() {
        "system" => Author::Renderer,
        "developer" => Author::Instructions,
        "user" => Author::User,
        "assistant" => Author::Assistant,
        _ => Author::Tool,
    }
}

fn kind(span: &Span) -> TextKind {
    match (&span.header.recipient, span.header.channel.as_deref()) {
        _ if author(span) != Author::Assistant => TextKind::Text,
        (Some(_), _) => TextKind::Call,
        (None, Some(ANALYSIS)) => TextKind::Reasoning,
        (None, _) => TextKind::Text,
    }
}

/// An earlier answer ends with `<|end|>` only because the conversation goes on: a model that answers writes `<|return|>`
/// there. Reasoning and commentary end no answer.
fn end(span: &Span, next: Option<&Span>, text: &str) -> TextEnd {
    if author(span) != Author::Assistant || &text[span.closing.clone()] != END {
        return TextEnd::Plain;
    }
    match span.header.channel.as_deref() {
        _ if next.is_some_and(|next| author(next) == Author::Assistant) => TextEnd::SameTurn,
        Some(ANALYSIS | COMMENTARY) => TextEnd::Plain,
        _ => TextEnd::NextTurn(RETURN),
    }
}

#[cfg(test)]
mod tests {
    use super::super::marked;
    use super::*;

    #[test]
    fn an_earlier_answer_ends_with_another_token_than_the_model_writes() {
        let rendered = marked(
            "<|start|>system<|message|>s<|end|><|start|>developer<|message|>i<|end|><|start|>user<|message|>q<|end|>\
             <|start|>assistant<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>a<|end|>\
             <|start|>user<|message|>q<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>\
             <|start|>functions.f to=assistant<|channel|>commentary<|message|>r<|end|>\
             <|start|>assistant<|channel|>final<|message|>b<|return|>",
        );
        let found = texts(&rendered).unwrap();
        let found: Vec<_> = found.iter().map(|t| (t.author, t.kind, t.end)).collect();
        let prompt = |author| (author, TextKind::Text, TextEnd::Plain);
        assert_eq!(
            found,
            [
                prompt(Author::Renderer),
                prompt(Author::Instructions),
                prompt(Author::User),
                (Author::Assistant, TextKind::Reasoning, TextEnd::SameTurn),
                (Author::Assistant, TextKind::Text, TextEnd::NextTurn(RETURN)),
                prompt(Author::User),
                (Author::Assistant, TextKind::Call, TextEnd::Plain),
                prompt(Author::Tool),
                (Author::Assistant, TextKind::Text, TextEnd::Plain),
            ]
        );
    }
}
