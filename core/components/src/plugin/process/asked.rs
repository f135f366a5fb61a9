//! What a callback in a program asks for: flags, numbers and prompts as the fields of `control`, and a list of requests.

use super::{Remote, answer};
use apus_sdk::{Control, Error, Request, Result};
use serde_json::{Map, Value, json};

/// Requests that a program may look for and that are about tensors.
const OF_TENSORS: [&str; 6] = [
    "set",
    "set_parameters",
    "value",
    "gradient",
    "parameters",
    "evaluated_weights",
];

/// Adds what the program asks for in an event to what was asked for before.
///
/// # Errors
/// Something that nobody can ask for, or that the component has not announced; the error names it.
pub fn add(
    control: &mut Control,
    asked: Map<String, Value>,
    remote: &Remote,
    event: &str,
) -> Result<()> {
    let mut whole = json!(control);
    let mut requests = std::mem::take(&mut control.requests);
    let what = || remote.what(event);
    for (key, value) in asked {
        match (key.as_str(), value) {
            ("requests", value) => {
                let list: Vec<Value> = remote.read(event, &value)?;
                for request in list {
                    requests.push(read(request, remote, event)?);
                }
            }
            // What other callbacks report and prompt stays.
            ("metrics", Value::Object(own)) => {
                if let Value::Object(all) = &mut whole["metrics"] {
                    all.extend(own);
                }
            }
            ("generate", Value::Array(own)) => {
                if let Value::Array(all) = &mut whole["generate"] {
                    let fresh = own.strip_prefix(&all[..]).unwrap_or(&own);
                    all.extend_from_slice(fresh);
                }
            }
            (known, value) if whole.get(known).is_some() => whole[known] = value,
            _ => {
                return Err(Error::new(format!(
                    "{}: it asks for {key:?}, which nobody can ask for",
                    what()
                )));
            }
        }
    }
    *control = remote.read(event, &whole)?;
    control.requests = requests;
    Ok(())
}

/// A request of the list.
fn read(written: Value, remote: &Remote, event: &str) -> Result<Request> {
    let fails = |why: &str| {
        let shown = answer::start(&written.to_string());
        Error::new(format!(
            "{}: it asks for {shown}: {why}",
            remote.what(event)
        ))
    };
    let request: Request = serde_json::from_value(written.clone()).map_err(|error| {
        let key = written.as_object().and_then(|object| object.keys().next());
        match key.is_some_and(|key| OF_TENSORS.contains(&key.as_str())) {
            true => fails(
                "a process neither reads nor sets parameters: values and gradients are tensors, and they do not go through \
                 lines of JSON. A plugin library can (docs/plugin-guide.md)",
            ),
            false => fails(&error.to_string()),
        }
    })?;
    let need = request.need();
    match remote.declares(need) {
        true => Ok(request),
        false => {
            let asked = format!("it asks for {}", answer::start(&written.to_string()));
            Err(remote.unannounced(event, &asked, need))
        }
    }
}
