//! The grammar of answers that have to have a shape, in the notation of Lark as llguidance reads it: control tokens by their
//! names, JSON schemas after `%json`.
//!
//! Reasoning stays free. What is bound is which messages there are, and the texts of calls and of the final one.

use super::{
    ANALYSIS, CALL, CHANNEL, COMMENTARY, CONSTRAIN, END, FINAL, FUNCTIONS, MESSAGE, RETURN, START,
};
use crate::chat::dialect::AnswerShape;
use serde_json::Value;

/// How much blank space stands between two tokens of JSON: a model that has lost its way could write it without end.
const SPACE: &str = r"[ \n\t]{0,32}";

/// The grammar of what comes after `<|start|>assistant`.
pub fn grammar(shape: &AnswerShape) -> String {
    let mut rules = String::new();
    let mut last: Vec<String> = Vec::new();
    if !shape.must_call {
        let body = match &shape.schema {
            Some(schema) => json(schema),
            None => "TEXT".to_owned(),
        };
        rules += &format!(
            "answer: {CHANNEL} \"{FINAL}\" (\" \" {CONSTRAIN} \"json\")? {MESSAGE} {body} {RETURN}\n"
        );
        last.push("answer".to_owned());
    }
    for (at, (name, schema)) in shape.calls.iter().enumerate() {
        let to = Value::from(format!("to={FUNCTIONS}{name}"));
        rules += &format!(
            "call{at}: ({CHANNEL} \"{COMMENTARY} \" {to} | \" \" {to} {CHANNEL} \"{COMMENTARY}\") \" \" ({CONSTRAIN})? \
             \"json\" {MESSAGE} {} {CALL}\n",
            json(schema)
        );
        last.push(format!("call{at}"));
    }
    // Where a call is demanded, words before it are not.
    let preamble = match shape.calls.is_empty() || shape.must_call {
        true => "",
        false => " | preamble",
    };
    let next = format!("{END} {START} \"assistant\"");
    format!(
        "start: (reasoning{preamble})* ({last})\n\
         reasoning: {CHANNEL} \"{ANALYSIS}\" {MESSAGE} TEXT {next}\n\
         preamble: {CHANNEL} \"{COMMENTARY}\" {MESSAGE} TEXT {next}\n\
         {rules}\
         TEXT: /(?s:.*)/\n",
        last = last.join(" | ")
    )
}

/// A schema as part of the grammar.
fn json(schema: &Value) -> String {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        // `true` allows everything; whatever else is no schema is told by whoever compiles the grammar.
        Value::Bool(true) | Value::Null => Value::Object(serde_json::Map::new()),
        other => return format!("%json {other}"),
    };
    if let Value::Object(keys) = &mut schema {
        keys.insert(
            "x-guidance".to_owned(),
            serde_json::json!({ "whitespace_pattern": SPACE }),
        );
    }
    format!("%json {schema}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// That the grammars hold a model to their shape is tested where they are compiled.
    #[test]
    fn a_shape_says_which_messages_may_be_last() {
        let answer = grammar(&AnswerShape {
            schema: Some(json!({"type": "object"})),
            ..AnswerShape::default()
        });
        assert!(
            answer.starts_with("start: (reasoning)* (answer)\n"),
            "{answer}"
        );
        assert!(answer.contains("%json {\"type\":\"object\","), "{answer}");
        let shape = AnswerShape {
            calls: vec![("f".to_owned(), json!({})), ("g".to_owned(), json!(true))],
            ..AnswerShape::default()
        };
        let any = grammar(&shape);
        assert!(
            any.starts_with("start: (reasoning | preamble)* (answer | call0 | call1)\n"),
            "{any}"
        );
        let call = grammar(&AnswerShape {
            must_call: true,
            ..shape
        });
        assert!(
            call.starts_with("start: (reasoning)* (call0 | call1)\n"),
            "{call}"
        );
        assert!(
            call.contains("\"to=functions.g\"") && !call.contains("answer:"),
            "{call}"
        );
    }
}
