//! How long the sequences of a measurement are.

use anyhow::{Result, bail, ensure};

/// How long sequences are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    shortest: usize,
    longest: usize,
}

impl Lengths {
    /// Reads `4096`, or `64:4096` for lengths from a range.
    ///
    /// # Errors
    /// Neither, or a range from long to short.
    pub fn parse(text: &str) -> Result<Self> {
        let (shortest, longest) = text.split_once(':').unwrap_or((text, text));
        let (Ok(shortest), Ok(longest)) = (shortest.trim().parse(), longest.trim().parse()) else {
            bail!("seq is {text:?}, expected a length such as 4096, or a range such as 64:4096");
        };
        ensure!(
            2 <= shortest && shortest <= longest,
            "seq is {text:?}, expected lengths of 2 or more, the shorter one first"
        );
        Ok(Self { shortest, longest })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read() {
        let read = |text: &str| Lengths::parse(text);
        assert!(read("4096").unwrap().fixed());
        assert_eq!(read("64:4096").unwrap().longest(), 4096);
        for wrong in ["", "long", "64:", "1", "100:10", "64:128:256"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("seq is {wrong:?}")), "{error}");
        }
    }
}
