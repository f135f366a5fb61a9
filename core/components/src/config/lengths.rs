//! How long the sequences of a measurement are.

use super::value::{Unexpected, written_as_text};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How long sequences are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lengths {
    shortest: usize,
    longest: usize,
}

impl Lengths {
    /// Sequences of this length.
    pub fn all_of(length: usize) -> Self {
        Self {
            shortest: length,
            longest: length,
        }
    }

    /// The shortest that can come.
    pub fn shortest(&self) -> usize {
        self.shortest
    }

    /// The longest that can come.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Whether all are as long.
    pub fn fixed(&self) -> bool {
        self.shortest == self.longest
    }
}

/// `4096`, or `64:4096` for lengths from a range.
impl FromStr for Lengths {
    type Err = Unexpected;

    fn from_str(text: &str) -> Result<Self, Unexpected> {
        let (shortest, longest) = text.split_once(':').unwrap_or((text, text));
        let (Ok(shortest), Ok(longest)) = (shortest.trim().parse(), longest.trim().parse()) else {
            return Err(Unexpected::new(
                "a length such as 4096, or a range such as 64:4096",
            ));
        };
        match 2 <= shortest && shortest <= longest {
            true => Ok(Self { shortest, longest }),
            false => Err(Unexpected::new(
                "lengths of 2 or more, the shorter one first",
            )),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fixed() {
            true => self.longest.fmt(f),
            false => write!(f, "{}:{}", self.shortest, self.longest),
        }
    }
}

written_as_text!(Lengths);

#[cfg(test)]
mod tests {
    use super::super::{BenchConfig, from_arguments};
    use super::*;

    #[test]
    fn lengths_are_read() {
        let read = |text: &str| text.parse::<Lengths>();
        assert!(read("4096").unwrap().fixed());
        assert_eq!(read("64:4096").unwrap().longest(), 4096);
        for text in ["4096", "64:4096"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        for wrong in ["", "long", "64:", "1", "100:10", "64:128:256"] {
            let words = [format!("--seq={wrong}")];
            let error = from_arguments::<BenchConfig>(&words)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("seq is {wrong:?}")), "{error}");
        }
    }
}
