//! What `apus bench --generate` answers: how many prompts at once, how long they are, and how long their answers.

use super::value::{Unexpected, written_as_text};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Prompts that are answered at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationLoad {
    /// How many.
    pub streams: usize,
    /// The tokens of each prompt.
    pub prompt: usize,
    /// The tokens of each answer.
    pub new: usize,
}

/// One load after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GenerationLoads(Vec<GenerationLoad>);

impl GenerationLoads {
    /// The loads.
    pub fn iter(&self) -> impl Iterator<Item = &GenerationLoad> {
        self.0.iter()
    }
}

impl Default for GenerationLoads {
    fn default() -> Self {
        let load = |streams, prompt, new| GenerationLoad {
            streams,
            prompt,
            new,
        };
        Self(vec![
            load(1, 128, 512),
            load(32, 128, 512),
            load(256, 512, 512),
            load(1, 1000, 1),
            load(1, 8192, 1),
        ])
    }
}

impl FromStr for GenerationLoad {
    type Err = Unexpected;

    fn from_str(text: &str) -> Result<Self, Unexpected> {
        let numbers = || {
            let (streams, lengths) = text.trim().split_once('x')?;
            let (prompt, new) = lengths.split_once('+')?;
            let number = |text: &str| text.parse().ok().filter(|&number: &usize| number > 0);
            Some(Self {
                streams: number(streams)?,
                prompt: number(prompt)?,
                new: number(new)?,
            })
        };
        numbers().ok_or_else(|| {
            Unexpected::new(
                "loads such as 1x128+512,32x128+512: streams, tokens of each prompt, tokens of each answer",
            )
        })
    }
}

impl FromStr for GenerationLoads {
    type Err = Unexpected;

    fn from_str(text: &str) -> Result<Self, Unexpected> {
        let loads = text.split(',').map(str::parse);
        loads.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for GenerationLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}+{}", self.streams, self.prompt, self.new)
    }
}

impl fmt::Display for GenerationLoads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loads: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&loads.join(","))
    }
}

written_as_text!(GenerationLoads);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_written_as_they_are_read() {
        for text in ["1x128+512", "32x16+4,1x1000+1"] {
            assert_eq!(text.parse::<GenerationLoads>().unwrap().to_string(), text);
        }
        let default = GenerationLoads::default();
        assert_eq!(default.to_string().parse(), Ok(default));
        for bad in [
            "", "1x128", "0x1+1", "1x0+1", "1x1+", "1x1+1,", "ax1+1", "1x1+-1",
        ] {
            assert!(bad.parse::<GenerationLoads>().is_err(), "{bad}");
        }
    }
}
