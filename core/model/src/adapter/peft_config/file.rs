//! Reads the fields of `adapter_config.json` by their types.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// The fields of a file by their types; a field that is missing or null has its default.
pub(super) struct File<'a>(pub &'a Map<String, Value>);

impl File<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite())
                .with_context(|| format!("{key} is {value}, expected a number")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .with_context(|| format!("{key} is {value}, expected true or false")),
        }
    }

    pub fn names(&self, key: &str) -> Result<Option<Vec<String>>> {
        let wrong = |found: &Value| format!("{key} holds {found}, expected names");
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(one)) => Ok(Some(vec![one.clone()])),
            Some(Value::Array(list)) => {
                let name = |v: &Value| v.as_str().map(str::to_owned).with_context(|| wrong(v));
                Ok(Some(list.iter().map(name).collect::<Result<_>>()?))
            }
            Some(other) => bail!(wrong(other)),
        }
    }

    /// `layers_to_transform`, a number or a list of them; an empty list stands for all layers.
    pub fn layers(&self) -> Result<Option<Vec<usize>>> {
        let patterns = self.names("layers_pattern")?.unwrap_or_default();
        let others: Vec<&String> = patterns
            .iter()
            .filter(|pattern| !["", "layers"].contains(&pattern.as_str()))
            .collect();
        ensure!(
            others.is_empty(),
            "layers_pattern is {others:?}; the list of layers is called layers"
        );
        let Some(value) = self.get("layers_to_transform") else {
            return Ok(None);
        };
        let numbers = match value {
            Value::Array(list) => list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>(),
            one => one.as_u64().map(|one| vec![one]),
        };
        let numbers = numbers.with_context(|| {
            format!("layers_to_transform is {value}, expected the numbers of layers")
        })?;
        let numbers: Vec<usize> = numbers.into_iter().map(|n| n as usize).collect();
        Ok((!numbers.is_empty()).then_some(numbers))
    }
}
