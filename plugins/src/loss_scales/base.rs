//! The base strategies: which turns are trained at all. They weigh nothing themselves.

use apus_sdk::{Base, LossScale, register};
use serde::Deserialize;

#[derive(Deserialize)]
struct Default;

impl LossScale for Default {
    fn base(&self) -> Option<Base> {
        Some(Base::Default)
    }
}

#[derive(Deserialize)]
struct LastRound;

impl LossScale for LastRound {
    fn base(&self) -> Option<Base> {
        Some(Base::LastRound)
    }
}

#[derive(Deserialize)]
struct All;

impl LossScale for All {
    fn base(&self) -> Option<Base> {
        Some(Base::All)
    }
}

register! {
    /// Trains every turn of the assistant.
    LossScale, "default", Default
}
register! {
    /// Trains the assistant's turns after the last user or tool message.
    LossScale, "last_round", LastRound
}
register! {
    /// Trains every token, prompts included.
    LossScale, "all", All
}
