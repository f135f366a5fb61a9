//! Applies loss scales to structured calls of tools.
//!
//! ms-swift writes such a call into the assistant's text in the syntax of an agent template, and its scales look for that
//! syntax. Models may have another one. So a chain of scales is given a call in the syntax that the chain is made for, and
//! the weights of name and arguments there are the weights of the call.

use super::{
    json::dumps,
    scale::{Chain, Place},
    weighted::Weighted,
};
use anyhow::Result;
use apus_sdk::{Field, ToolCall, Turn};
use serde_json::json;
use std::ops::Range;

/// The syntax of an agent template for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSyntax {
    /// `<tool_call>\n{"name": .., "arguments": ..}\n</tool_call>`
    Hermes,
    /// `Action: ..\nAction Input: ..\n`
    React,
    /// `✿FUNCTION✿: ..\n✿ARGS✿: ..\n`
    Qwen,
}

/// A call as text, with the ranges of its name and arguments.
struct WrittenCall {
    text: String,
    name: Range<usize>,
    arguments: Range<usize>,
}

impl CallSyntax {
    /// The syntax that a chain is made for: the first one in which it gives a call another weight than 1, else hermes.
    pub fn of(chain: &Chain) -> Self {
        let call = ToolCall {
            name: "tool".to_owned(),
            arguments: json!({"key": "value"}),
        };
        let turn = Turn {
            role: "assistant",
            field: Field::Content,
            query: None,
            is_last: true,
        };
        let weighs = |syntax: &Self| {
            let text = syntax.write(&call.name, &dumps(&call.arguments)).text;
            let segments = chain.try_on(&text, &turn);
            segments.is_ok_and(|segments| segments.iter().any(|segment| segment.weight != 1.0))
        };
        let all = [Self::Hermes, Self::React, Self::Qwen];
        all.into_iter().find(weighs).unwrap_or(Self::Hermes)
    }

    fn write(self, name: &str, arguments: &str) -> WrittenCall {
        let name = match self {
            Self::Hermes => dumps(&name.into()),
            Self::React | Self::Qwen => name.to_owned(),
        };
        let [before, between, after] = match self {
            Self::Hermes => [
                "<tool_call>\n{\"name\": ",
                ", \"arguments\": ",
                "}\n</tool_call>",
            ],
            Self::React => ["Action: ", "\nAction Input: ", "\n"],
            Self::Qwen => ["✿FUNCTION✿: ", "\n✿ARGS✿: ", "\n"],
        };
        let from = before.len() + name.len() + between.len();
        WrittenCall {
            text: [before, &name, between, arguments, after].concat(),
            name: before.len()..before.len() + name.len(),
            arguments: from..from + arguments.len(),
        }
    }
}

/// Returns the arguments of a call with their weights. The header, which names the tool, gets the weight of the name.
pub fn weigh(name: &str, arguments: &str, place: &Place, chain: &Chain) -> Result<Weighted> {
    let written = chain.call_syntax().write(name, arguments);
    let segments = chain.fold_at(&written.text, place)?;
    let all = Weighted::from_segments(&written.text, &segments);
    Ok(Weighted {
        text: arguments.to_owned(),
        weights: all.weights[written.arguments].to_vec(),
        open: all.weights[written.name.start],
        close: all.close,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_arguments_are_found_again() {
        for syntax in [CallSyntax::Hermes, CallSyntax::React, CallSyntax::Qwen] {
            let written = syntax.write("f", "{\"f\": \"é\"}");
            assert_eq!(&written.text[written.arguments], "{\"f\": \"é\"}");
            assert_eq!(written.text[written.name].trim_matches('"'), "f");
        }
    }

    #[test]
    fn a_chain_without_scales_weighs_one() {
        let turn = Turn {
            role: "assistant",
            field: Field::Content,
            query: None,
            is_last: true,
        };
        let found = weigh("f", "{}", &Place::alone(&turn), &Chain::default()).unwrap();
        assert_eq!(found, Weighted::uniform("{}", 1.0));
    }
}
