//! Which tokens of the frame around an assistant's text are trained: its header, and the token that ends it.

use anyhow::{Result, bail};
use std::str::FromStr;

/// Which tokens of an assistant's header are trained, if the message is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrainHeader {
    /// No token of the header, only the body and the token that ends it.
    None,
    /// What the model has to write itself: everything after the opening that a prompt ends with, and the opening too
    /// between the messages of one turn.
    #[default]
    AfterPrompt,
    /// The whole header, with the opening.
    Full,
}

impl FromStr for TrainHeader {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Self::None,
            "channel" => Self::AfterPrompt,
            "full" => Self::Full,
            _ => bail!("train_header is {name:?}, expected none, channel or full"),
        })
    }
}

/// What is trained where an earlier answer ends and the dialect ends it with another token there, because the conversation
/// goes on, than a model that answers has to write. The token ids stay as rendered in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrainStop {
    /// The label is the token that the model has to write.
    #[default]
    AsGenerated,
    /// The label is the token that is there.
    AsRendered,
    /// The token is not trained.
    None,
}

impl FromStr for TrainStop {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "return" => Self::AsGenerated,
            "end" => Self::AsRendered,
            "none" => Self::None,
            _ => bail!("train_stop is {name:?}, expected return, end or none"),
        })
    }
}
