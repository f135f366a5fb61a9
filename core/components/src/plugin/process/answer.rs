//! What a program may answer, read from a line.

use serde_json::Value;

/// An answer, or what the program says has failed.
pub type Answer = Result<Value, String>;

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
/// It is no list with an answer to each of so many calls.
pub fn each(answer: Value, calls: usize) -> Result<Vec<Answer>, String> {
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
    answers.iter_mut().map(one).collect()
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
