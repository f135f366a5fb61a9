//! Counts and names what the rows of a file hold and nobody reads. A table has few columns, but the keys of messages may be
//! anything, so the number of names is bounded.

use crate::chat::ChatTemplate;
use apus_sdk::{Sample, Unread};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most names that are kept for a file.
const MOST_NAMES: usize = 50;

/// What the rows of a file hold and nobody reads.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unused {
    names: BTreeMap<String, Occurrences>,
    /// The number of times that there were other names.
    more: usize,
    /// Whether the format does not say what it uses.
    #[serde(rename = "unsaid")]
    is_untold: bool,
}

/// The rows that have an unused name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Occurrences {
    rows: usize,
    /// The first of them in the order of the file.
    line: usize,
}

impl Unused {
    /// Counts the unused names of a row; `None` means that its format does not say. Returns the names that are new.
    pub fn count<'a>(&mut self, line: usize, names: Option<&'a [String]>) -> Vec<&'a str> {
        self.is_untold |= names.is_none();
        let mut new_names = Vec::new();
        for name in names.unwrap_or_default() {
            if let Some(known) = self.names.get_mut(name) {
                known.rows += 1;
                known.line = known.line.min(line);
            } else if self.names.len() < MOST_NAMES {
                self.names
                    .insert(name.clone(), Occurrences { rows: 1, line });
                new_names.push(name.as_str());
            } else {
                self.more += 1;
            }
        }
        new_names
    }

    /// Counts a column that none of `rows` rows was read with.
    pub fn count_column(&mut self, name: &str, rows: usize) {
        let name = name.to_owned();
        self.names.insert(name, Occurrences { rows, line: 1 });
    }

    /// Whether this name was counted.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Whether the format does not say what it uses, so that all of a row counts as used.
    pub fn is_untold(&self) -> bool {
        self.is_untold
    }

    /// `a (3 rows, first in line 7), b (1 row, line 2)`; `None` if all is used.
    pub fn line(&self) -> Option<String> {
        let named = |(name, found): (&String, &Occurrences)| match found.rows {
            1 => format!("{name} (1 row, line {})", found.line),
            rows => format!("{name} ({rows} rows, first in line {})", found.line),
        };
        let mut parts: Vec<String> = self.names.iter().map(named).collect();
        if self.more > 0 {
            parts.push(format!("other names ({} times)", self.more));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// The names of what nobody reads of a row: what its format did not read and is not known to be harmless, under one name
/// for all entries of a list, and the variables of its samples that the chat template does not read.
pub fn names(unread: &[Unread], samples: &[Sample], template: &ChatTemplate) -> Vec<String> {
    let unread = unread.iter().filter(|unread| !unread.harmless);
    let mut names: Vec<String> = unread.map(|unread| without_indices(&unread.path)).collect();
    let variables = samples.iter().flat_map(|sample| match sample {
        Sample::Conversation(conversation) => conversation.template_kwargs.iter().collect(),
        Sample::Tokens(_) => Vec::new(),
    });
    let of_template = variables
        .filter(|(name, value)| !value.is_null() && !template.reads(name))
        .map(|(name, _)| format!("chat_template_kwargs.{name}"));
    names.extend(of_template);
    names.sort_unstable();
    names.dedup();
    names
}

/// `messages[2].sender` as `messages[].sender`.
pub fn without_indices(path: &str) -> String {
    let mut name = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        name.push_str(before);
        name.push('[');
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    name + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::dialect::harmony::Harmony;

    #[test]
    fn names_are_counted_and_bounded() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let mut unused = Unused::default();
        assert_eq!(unused.count(9, Some(&names(&["a", "b"]))), ["a", "b"]);
        assert_eq!(unused.count(3, Some(&names(&["a"]))), [""; 0]);
        assert_eq!(
            unused.line().unwrap(),
            "a (2 rows, first in line 3), b (1 row, line 9)"
        );
        assert!(unused.has("a") && !unused.has("c") && !unused.is_untold());
        unused.count(1, None);
        assert!(unused.is_untold());
        for i in 0..10 * MOST_NAMES {
            unused.count(i, Some(&names(&[&format!("key{i}")])));
        }
        assert_eq!(unused.names.len(), MOST_NAMES);
        let said = unused.line().unwrap();
        assert!(said.ends_with(", other names (452 times)"), "{said}");
    }

    #[test]
    fn places_in_a_list_have_one_name() {
        let unread = [
            "messages[10].b",
            "messages[2].b",
            "a",
            "x[1][22].y: true (user)",
        ]
        .map(|path| Unread {
            path: path.to_owned(),
            harmless: path == "a",
        });
        let kwargs =
            serde_json::json!({"reasoning_effort": "low", "enable_thinking": true, "none": null});
        let sample = Sample::Conversation(apus_sdk::Conversation {
            template_kwargs: kwargs.as_object().unwrap().clone(),
            ..apus_sdk::Conversation::default()
        });
        assert_eq!(
            names(&unread, &[sample], &Harmony::native()),
            [
                "chat_template_kwargs.enable_thinking",
                "messages[].b",
                "x[][].y: true (user)"
            ]
        );
    }

    #[test]
    fn nothing_is_said_where_all_is_used() {
        let mut unused = Unused::default();
        unused.count(1, Some(&[]));
        assert_eq!((unused.line(), unused.is_untold()), (None, false));
    }
}
