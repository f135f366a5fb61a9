//! The groups of rows whose losses are reported by themselves. A row names its group in its column `channel`; the `channel`
//! of a message is something else.

use crate::chat::Encoded;
use anyhow::{Result, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name under which rows without a channel are reported, as in ms-swift.
const NONE: &str = "None";
/// The most characters of a name that a log and its readers can show.
const LONGEST: usize = 100;
/// The most names that a report counts, so that a column with another text in every row does not fill the memory.
const MOST: usize = 1000;

/// The name under which a row of this channel is reported; an empty name counts as none.
pub fn name(channel: Option<&str>) -> &str {
    channel
        .filter(|channel| !channel.trim().is_empty())
        .unwrap_or(NONE)
}

/// Refuses a channel that cannot be a part of a number's name.
///
/// # Errors
/// The name is too long or has control characters.
pub fn check(channel: Option<&str>) -> Result<()> {
    let name = name(channel);
    let length = name.chars().count();
    if length > LONGEST {
        let start: String = name.chars().take(20).collect();
        bail!(
            "column `channel` is a text of {length} characters ({start:?}...), and with enable_channel_loss it names a \
             number of the log: expected {LONGEST} at most"
        );
    }
    if name.chars().any(char::is_control) {
        bail!(
            "column `channel` is {name:?}, and with enable_channel_loss it names a number of the log: expected a text \
             without line breaks and other control characters"
        );
    }
    Ok(())
}

/// How much of the data belongs to each channel.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Channels {
    by_name: BTreeMap<String, Share>,
    /// What belongs to the names beyond those that are counted one by one.
    others: Share,
}

/// What belongs to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Share {
    samples: usize,
    tokens: usize,
    trained: usize,
}

impl Share {
    fn add(&mut self, more: Self) {
        self.samples += more.samples;
        self.tokens += more.tokens;
        self.trained += more.trained;
    }
}

impl Channels {
    /// Counts a sample.
    pub fn count(&mut self, sample: &Encoded) {
        let share = Share {
            samples: 1,
            tokens: sample.len(),
            trained: sample.targets(),
        };
        self.add(name(sample.channel.as_deref()), share);
    }

    fn add(&mut self, name: &str, share: Share) {
        let room = self.by_name.len() < MOST;
        match self.by_name.get_mut(name) {
            Some(known) => known.add(share),
            None if room => {
                self.by_name.insert(name.to_owned(), share);
            }
            None => self.others.add(share),
        }
    }

    /// Adds the channels of another file.
    pub fn merge(&mut self, other: &Self) {
        for (name, share) in &other.by_name {
            self.add(name, *share);
        }
        self.others.add(other.others);
    }

    /// Whether any row names a channel.
    pub fn any(&self) -> bool {
        self.by_name.keys().any(|name| name != NONE)
    }

    /// A table with a line for each channel, if any row names one.
    pub fn table(&self) -> Option<String> {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["channel", "kept", "tokens", "trained"]);
        let mut row = |name: &str, share: &Share| {
            let numbers = [share.samples, share.tokens, share.trained].map(|n| n.to_string());
            table.add_row([vec![shown(name)], numbers.to_vec()].concat());
        };
        for (name, share) in &self.by_name {
            row(name, share);
        }
        if self.others.samples > 0 {
            row("(others)", &self.others);
        }
        self.any().then(|| table.to_string())
    }
}

/// A name for a cell of a table: on one line, and not longer than a name may be.
fn shown(name: &str) -> String {
    let letter = |c: char| if c.is_control() { ' ' } else { c };
    let start: String = name.chars().take(LONGEST).map(letter).collect();
    match name.chars().count() > LONGEST {
        true => start + "...",
        false => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(channel: Option<&str>, labels: &[i64]) -> Encoded {
        Encoded {
            input_ids: vec![1; labels.len()],
            labels: labels.to_vec(),
            weights: vec![1.0; labels.len()],
            channel: channel.map(str::to_owned),
            columns: None,
        }
    }

    #[test]
    fn samples_are_counted_by_channel() {
        let (mut one, mut two) = (Channels::default(), Channels::default());
        one.count(&sample(None, &[-100, 1]));
        one.count(&sample(Some("  "), &[-100, 1]));
        assert_eq!((one.any(), one.table()), (false, None));
        two.count(&sample(Some("math"), &[-100, 1, 2]));
        two.count(&sample(Some("math"), &[-100, -100, 2]));
        one.merge(&two);
        let table = one.table().unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with('\u{2502}'))
            .map(|line| {
                line.split(['\u{2502}', '\u{2506}'])
                    .map(str::trim)
                    .collect()
            })
            .collect();
        assert_eq!(
            rows,
            [
                ["", "channel", "kept", "tokens", "trained", ""],
                ["", "None", "2", "4", "2", ""],
                ["", "math", "2", "6", "3", ""],
            ]
        );
    }

    #[test]
    fn a_name_for_each_row_does_not_fill_the_memory() {
        let mut channels = Channels::default();
        for row in 0..MOST + 7 {
            channels.count(&sample(Some(&format!("row {row}")), &[-100, 1]));
        }
        let mut twice = channels.clone();
        twice.merge(&channels);
        assert_eq!((twice.by_name.len(), twice.others.samples), (MOST, 14));
        assert!(twice.table().unwrap().contains("(others)"));
    }

    #[test]
    fn a_name_is_one_line_of_moderate_length() {
        for good in [None, Some(""), Some("math"), Some("a/b \u{6570}\u{5b66}")] {
            check(good).unwrap();
        }
        check(Some(&"\u{6570}".repeat(LONGEST))).unwrap();
        let error = |name: &str| check(Some(name)).unwrap_err().to_string();
        assert!(error("a\nb").contains("column `channel` is \"a\\nb\""));
        assert!(error(&"x".repeat(LONGEST + 1)).contains("a text of 101 characters"));
    }
}
