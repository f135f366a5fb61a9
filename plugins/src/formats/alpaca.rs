//! Alpaca: `{"instruction": "..", "input": "..", "output": "..", "history": [["q", "a"], ..],
//! "system": ".."}`.
//!
//! As in ms-swift, instruction and input are joined by a line break if both have text.

use super::{
    keys::{KeyPath, first, noting},
    query_response::{answer, response, rounds},
    row::{columns, text},
};
use apus_sdk::{Converted, DatasetFormat, Error, Result, Row, Sample, options, register};

options! {
    pub struct Alpaca {
        /// Whether columns may have their usual other names (answer, system_prompt ..), in any case.
        auto_column_mapping: bool = true,
    }
}

impl DatasetFormat for Alpaca {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"instruction")
            && (columns.contains(&"input") || columns.contains(&"output"))
    }

    fn rank(&self) -> i32 {
        10
    }

    fn row(&self, text: &str) -> Result<Row> {
        super::row::read(text)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        Ok(self.convert_noting(row)?.samples)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        noting(row, &[], |row, at| self.read(row, at))
    }
}

impl Alpaca {
    fn read(&self, row: &mut Row, at: &KeyPath) -> Result<Vec<Sample>> {
        if !row.contains_key("instruction") && !row.contains_key("input") {
            return Err(Error::new(format!(
                "no column `instruction`, found {}",
                columns(row)
            )));
        }
        let auto = self.auto_column_mapping;
        let mut part =
            |name| Ok::<_, Error>(text(row, &[name], auto)?.filter(|text| !text.is_empty()));
        let query = match (part("instruction")?, part("input")?) {
            (Some(instruction), Some(input)) => Some(format!("{instruction}\n{input}")),
            (instruction, input) => instruction.or(input),
        };
        let output = match first(row, &["output"]) {
            Some((name, value)) => Some(answer(name, value, at)?),
            None => response(row, auto, at)?,
        };
        rounds(row, query, output, auto, at)
    }
}

register! {
    /// Alpaca: instruction, input, output, history, system.
    DatasetFormat, "alpaca", Alpaca
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{convert, turns};
    use super::*;
    use serde_json::json;

    #[test]
    fn history_comes_before_the_question() {
        let found = convert(
            &Alpaca::default(),
            json!({"instruction": "i", "input": "", "output": "o", "system": "s",
                   "history": [["q1", "a1"], ["q2", "a2"]]}),
        )
        .unwrap();
        let expected = [
            ("system", "s"),
            ("user", "q1"),
            ("assistant", "a1"),
            ("user", "q2"),
            ("assistant", "a2"),
            ("user", "i"),
            ("assistant", "o"),
        ];
        assert_eq!(turns(&found), expected);
    }

    #[test]
    fn instruction_and_input_are_joined() {
        let query = |row| {
            turns(&convert(&Alpaca::default(), row).unwrap())[0]
                .1
                .to_owned()
        };
        let both = json!({"instruction": "i", "input": "j", "output": "o", "history": null});
        assert_eq!(query(both), "i\nj");
        assert_eq!(
            query(json!({"instruction": "", "input": "j", "output": "o"})),
            "j"
        );
        assert_eq!(
            query(json!({"instruction": "i", "output": "o", "history": "[]"})),
            "i"
        );
    }

    #[test]
    fn the_answer_is_output_or_what_query_response_calls_one() {
        let answer = |row| {
            turns(&convert(&Alpaca::default(), row).unwrap())[1]
                .1
                .to_owned()
        };
        let row = json!({"instruction": "i", "input": "", "output": "o", "text": "i o"});
        assert_eq!(answer(row), "o");
        let row = json!({"instruction": "i", "input": "", "answer": ["a", "b"]});
        assert_eq!(answer(row.clone()), "a");
        let strict = Alpaca {
            auto_column_mapping: false,
        };
        assert_eq!(turns(&convert(&strict, row).unwrap()), [("user", "i")]);
    }

    #[test]
    fn a_bad_history_is_named() {
        let error = |row| convert(&Alpaca::default(), row).unwrap_err().to_string();
        let bad = error(json!({"instruction": "i", "output": "o", "history": [["a"]]}));
        assert!(
            bad.contains("entry 1 of `history`") && bad.contains("1 entries"),
            "{bad}"
        );
        let bad = error(json!({"instruction": 3, "input": "", "output": "o"}));
        assert!(
            bad.contains("`instruction` must be text, found a number"),
            "{bad}"
        );
    }
}
