//! What a program may answer, read from a line.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An answer, or what the program says has failed.
pub type Answer<T = Value> = Result<T, String>;

/// A line with the answers to a batch, as it should be.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Batch<T> {
    id: u64,
    ok: Vec<One<T>>,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct One<T> {
    #[serde(default = "Option::default")]
    ok: Option<T>,
    error: Option<String>,
}

/// The answer in a line.
///
/// # Errors
/// It is no answer to this question.
pub fn read(line: &[u8], number: u64) -> Result<Answer, String> {
    let mut found: Value = serde_json::from_slice(line).map_err(|error| {
        format!(
            "it wrote a line that is no JSON ({error}): {:?}; its standard output is for answers, whatever else it prints \
             has to go to standard error",
            start(&String::from_utf8_lossy(line))
        )
    })?;
    if found["id"].as_u64() != Some(number) {
        return Err(format!(
            "it answered something else than question {number}: {}",
            start(&String::from_utf8_lossy(line))
        ));
    }
    one(&mut found)
}

/// The answers to the calls of a batch.
///
/// # Errors
/// It is no answer to this question, or not one to each of so many calls.
pub fn each<T: DeserializeOwned>(
    line: &[u8],
    number: u64,
    calls: usize,
) -> Result<Answer<Vec<Answer<T>>>, String> {
    // Read without a detour if nothing is wrong with it; the detour knows what is.
    match serde_json::from_slice::<Batch<T>>(line) {
        Ok(Batch { id, ok }) if id == number && ok.len() == calls => {
            let answers = ok.into_iter().map(|one| match one {
                One {
                    ok: Some(answer),
                    error: None,
                } => Ok(Ok(answer)),
                One {
                    ok: None,
                    error: Some(failed),
                } => Ok(Err(failed)),
                _ => Err(()),
            });
            match answers.collect::<Result<_, _>>() {
                Ok(answers) => Ok(Ok(answers)),
                Err(()) => by_detour(line, number, calls),
            }
        }
        _ => by_detour(line, number, calls),
    }
}

fn by_detour<T: DeserializeOwned>(
    line: &[u8],
    number: u64,
    calls: usize,
) -> Result<Answer<Vec<Answer<T>>>, String> {
    let answer = match read(line, number)? {
        Ok(answer) => answer,
        Err(failed) => return Ok(Err(failed)),
    };
    let Value::Array(mut answers) = answer else {
        return Err(format!(
            "the answer to a batch is a list with an answer to each of its calls; it is {}",
            start(&answer.to_string())
        ));
    };
    if answers.len() != calls {
        return Err(format!(
            "a batch of {calls} calls has {calls} answers, it gave {}",
            answers.len()
        ));
    }
    let answers = answers.iter_mut().map(|found| match one(found)? {
        Ok(answer) => shaped(&answer).map(Ok),
        Err(failed) => Ok(Err(failed)),
    });
    answers.collect::<Result<_, _>>().map(Ok)
}

/// An answer in the shape that it has to have.
///
/// # Errors
/// It has another one.
pub fn shaped<T: DeserializeOwned>(answer: &Value) -> Result<T, String> {
    T::deserialize(answer).map_err(|error| {
        let start = start(&answer.to_string());
        format!("the answer has another shape: {error}; it is {start}")
    })
}

fn one(found: &mut Value) -> Result<Answer, String> {
    match (found.get("ok").is_some(), found.get("error")) {
        (true, None) => Ok(Ok(found["ok"].take())),
        (false, Some(Value::String(error))) => Ok(Err(error.clone())),
        _ => Err(format!(
            "an answer has `ok`, or `error` with a text; it is {}",
            start(&found.to_string())
        )),
    }
}

/// The beginning of a text that may be long.
pub fn start(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detour_finds_what_the_straight_way_finds() {
        let lines = [
            r#"{"id": 3, "ok": [{"ok": ["a"]}, {"error": "no"}]}"#,
            r#"{"id": 3, "ok": [{"ok": []}, {"ok": ["b"], "more": 1}]}"#,
            r#"{"id": 3, "error": "all of it"}"#,
            r#"{"id": 4, "ok": [{"ok": []}, {"ok": []}]}"#,
            r#"{"id": 3, "ok": [{"ok": []}]}"#,
            r#"{"id": 3, "ok": [{"ok": []}, {}]}"#,
            r#"{"id": 3, "ok": [{"ok": []}, {"ok": [], "error": "no"}]}"#,
            r#"{"id": 3, "ok": [{"ok": []}, {"ok": [1]}]}"#,
            r#"{"id": 3, "ok": {}}"#,
            "no JSON",
        ];
        for line in lines {
            let straight = each::<Vec<String>>(line.as_bytes(), 3, 2);
            assert_eq!(straight, by_detour(line.as_bytes(), 3, 2), "{line}");
        }
        let found = each::<Vec<String>>(lines[0].as_bytes(), 3, 2)
            .unwrap()
            .unwrap();
        assert_eq!(found, [Ok(vec!["a".to_owned()]), Err("no".to_owned())]);
    }
}
