//! A loss scale from a JSON file in ms-swift's format: `--loss_scale default+my_scale.json`.
//!
//! A file maps strings to weights: `{"Action:": [2, 2], "Observation:": [2, 0]}`, a delimiter with the
//! weights of itself and of the text up to the next one, or `{"<tool_call>.+?</tool_call>": [2]}`, a
//! regular expression with the weight of what it matches. Both can stand under `response`, beside
//! strings under `query` that, found in the user's text, give the whole answer a weight.

use super::config::Table;
use apus_sdk::small_file::{self, Limit};
use apus_sdk::{Error, LossScale, Result, Segment, Turn, options, register};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::OnceLock;

options! {
    struct File {
        /// The file.
        path: String = String::new(),
    }
    state {
        table: OnceLock<Result<Table>>,
    }
}

impl LossScale for File {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = self.table.get_or_init(|| read(&self.path));
        let table = table.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// A table of strings and weights from a JSON file, in ms-swift's format (a path in --loss_scale names it).
    LossScale, "json", File
}

fn read(path: &str) -> Result<Table> {
    let here = |what: String| Error::new(format!("{path}: {what}"));
    if path.is_empty() {
        return Err("give the file: `path`".into());
    }
    let text = small_file::text(Path::new(path), Limit::WRITTEN)?;
    let json = serde_json::from_str(&text).map_err(|error| here(error.to_string()))?;
    table(json).map_err(|error| here(error.to_string()))
}

/// The table that a file's JSON describes.
fn table(json: Value) -> Result<Table> {
    let mut all = object("the file", json)?;
    let query = all.shift_remove("query");
    let response = match all.shift_remove("response") {
        Some(response) if all.is_empty() => object("`response`", response)?,
        None if query.is_none() => all,
        _ => {
            return Err(
                "expected strings and their weights, or `response` and `query` with such \
                        tables and nothing else"
                    .into(),
            );
        }
    };
    let mut delimiters = Vec::new();
    let mut patterns = Vec::new();
    for (key, value) in &response {
        match weights(key, value)?.as_slice() {
            [own] => patterns.push((key.as_str(), *own)),
            [own, after] => delimiters.push((key.as_str(), [*own, *after])),
            _ => return Err(bad_weights(key, value)),
        }
    }
    let table = match (delimiters.first(), patterns.first()) {
        (Some((delimiter, _)), Some((pattern, _))) => {
            return Err(Error::new(format!(
                "`{delimiter}` has two weights and `{pattern}` one: a table holds delimiters or \
                 regular expressions, not both (ms-swift leaves the latter out in silence)"
            )));
        }
        (None, None) => return Err("the table is empty".into()),
        (Some(_), None) => Table::delimiters(&delimiters)?,
        (None, Some(_)) => Table::patterns(&patterns)?,
    };
    let query = query.map_or(Ok(Map::new()), |query| object("`query`", query))?;
    let mut queries = Vec::new();
    for (key, value) in &query {
        match weights(key, value)?.first() {
            Some(weight) => queries.push((key.as_str(), *weight)),
            None => return Err(bad_weights(key, value)),
        }
    }
    Ok(table.with_queries(&queries))
}

fn object(name: &str, value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(Error::new(format!(
            "{name} must be an object, found {other}"
        ))),
    }
}

/// One or two weights, or a number alone.
fn weights(key: &str, value: &Value) -> Result<Vec<f64>> {
    let number = |value: &Value| value.as_f64().filter(|weight| *weight >= 0.0);
    let found = match value {
        Value::Array(items) => items.iter().map(number).collect(),
        other => number(other).map(|weight| vec![weight]),
    };
    found.ok_or_else(|| bad_weights(key, value))
}

fn bad_weights(key: &str, value: &Value) -> Error {
    Error::new(format!(
        "`{key}` must have one weight or two, numbers of 0 or more, found {value}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing;
    use serde_json::json;

    fn run(table: &Table, text: &str, query: Option<&str>) -> Vec<(String, f64)> {
        let segments = table.segments(text, query);
        segments.into_iter().map(|s| (s.text, s.weight)).collect()
    }

    fn pairs(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        let owned = |(text, weight): &(&str, f64)| ((*text).to_owned(), *weight);
        expected.iter().map(owned).collect()
    }

    #[test]
    fn delimiters_patterns_and_queries() {
        let found = table(json!({"A:": [2, 0.5], "B:": [1.0, 3]})).unwrap();
        let expected = [
            ("x ", 1.0),
            ("A:", 2.0),
            (" y ", 0.5),
            ("B:", 1.0),
            ("z", 3.0),
        ];
        assert_eq!(run(&found, "x A: y B:z", None), pairs(&expected));
        let found = table(json!({"<c>.+?</c>": [2], "q+": 0})).unwrap();
        let expected = [("a", 1.0), ("<c>\n</c>", 2.0), ("qq", 0.0)];
        assert_eq!(run(&found, "a<c>\n</c>qq", None), pairs(&expected));
        let found =
            table(json!({"response": {"A:": [1, 2]}, "query": {"what tool": [3]}})).unwrap();
        assert_eq!(
            run(&found, "A:b", Some("what tool?")),
            pairs(&[("A:b", 3.0)])
        );
        assert_eq!(run(&found, "A:b", None), pairs(&[("A:", 1.0), ("b", 2.0)]));
    }

    #[test]
    fn a_file_that_is_no_table_is_named() {
        let error = |json| match table(json) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("an error was expected"),
        };
        assert!(error(json!([])).contains("must be an object"));
        assert!(error(json!({})).contains("empty"));
        assert!(error(json!({"A:": [1, 2], "b+": [2]})).contains("not both"));
        assert!(error(json!({"A:": [1, -2]})).contains("`A:` must have one weight or two"));
        assert!(error(json!({"A:": [1, 2, 3]})).contains("found [1,2,3]"));
        assert!(error(json!({"(": [1]})).contains("unclosed group"));
        assert!(error(json!({"response": {"a": 1}, "b": [1]})).contains("nothing else"));
        let scale =
            testing::make::<dyn LossScale>("json", json!({"path": "/no/such.json"})).unwrap();
        let bad = testing::segments(&*scale, "a").unwrap_err().to_string();
        assert!(
            bad.contains("/no/such.json: cannot be read: No such file"),
            "{bad}"
        );
    }
}
