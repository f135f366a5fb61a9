//! What callbacks have asked of the parameters: which are frozen, and factors on learning rates. It is part of a checkpoint, and
//! the same on all ranks.

use anyhow::{Context, Result, ensure};
use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What holds from now on, by the names of parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requested {
    /// Parameters that are not trained.
    pub frozen: BTreeSet<String>,
    /// Factors on the learning rate other than 1.
    pub lr_factors: BTreeMap<String, f64>,
    /// Parameters that are trained again, and how many steps were made before that.
    pub trained_since: BTreeMap<String, u64>,
}

impl Requested {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Freezes these.
    pub fn freeze(&mut self, names: Vec<String>) {
        for name in &names {
            self.trained_since.remove(name);
        }
        self.frozen.extend(names);
    }

    /// Trains these again after `step` steps, where they were frozen.
    pub fn unfreeze(&mut self, names: Vec<String>, step: u64) {
        for name in names {
            if self.frozen.remove(&name) {
                self.trained_since.insert(name, step);
            }
        }
    }

    /// Sets the factor of these.
    pub fn set_lr_factor(&mut self, names: Vec<String>, factor: f64) {
        for name in names {
            match factor == 1.0 {
                true => drop(self.lr_factors.remove(&name)),
                false => drop(self.lr_factors.insert(name, factor)),
            }
        }
    }
}

/// The parameters of `all` that `pattern` names: a part of their names at the borders of dots, or, where it has special
/// characters, a regular expression for the whole of a name, as `--target_modules` has it.
///
/// # Errors
/// No regular expression, or it names none.
pub fn matching<'a>(pattern: &str, all: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let is_regex = pattern.contains(['*', '(', '[', '\\', '^', '$', '|', '+', '?']);
    let regex = is_regex.then(|| Regex::new(&format!("^(?:{pattern})$")));
    let regex = regex
        .transpose()
        .with_context(|| format!("{pattern:?} is not a regular expression"))?;
    let part = format!(".{pattern}.");
    let (mut found, mut first) = (Vec::new(), None);
    for name in all {
        first.get_or_insert(name);
        let fits = match &regex {
            Some(regex) => regex.is_match(name)?,
            None => format!(".{name}.").contains(&part),
        };
        if fits {
            found.push(name.to_owned());
        }
    }
    ensure!(
        !found.is_empty(),
        "no trained parameter is named by {pattern:?}; give a part of a name between dots, or a regular expression for a whole \
         one. The first parameter is {}",
        first.unwrap_or("missing")
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parts_between_dots_or_patterns() {
        let all = [
            "model.layers.1.q_proj.lora_A.weight",
            "model.layers.1.q_proj.lora_B.weight",
            "model.layers.11.q_proj.lora_A.weight",
        ];
        let found = |pattern: &str| matching(pattern, all.into_iter());
        assert_eq!(found("layers.1").unwrap(), all[..2]);
        assert_eq!(found("q_proj.lora_A").unwrap(), [all[0], all[2]]);
        assert_eq!(found(all[1]).unwrap(), [all[1]]);
        assert_eq!(found(r".*\.layers\.\d\d\..*").unwrap(), [all[2]]);
        for (pattern, says) in [
            ("layer", "no trained parameter"),
            ("layers.2", all[0]),
            (r"layers\.1", "no trained parameter"),
            ("(", "not a regular expression"),
        ] {
            let error = format!("{:#}", found(pattern).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_last_request_counts() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let mut requested = Requested::default();
        requested.freeze(names());
        requested.unfreeze(vec!["b".to_owned(), "c".to_owned()], 5);
        assert_eq!(
            requested.trained_since,
            BTreeMap::from([("b".to_owned(), 5)])
        );
        requested.freeze(names());
        assert!(requested.trained_since.is_empty() && requested.frozen.len() == 2);
        requested.set_lr_factor(names(), 2.0);
        requested.set_lr_factor(names(), 1.0);
        assert!(requested.lr_factors.is_empty());
    }
}
