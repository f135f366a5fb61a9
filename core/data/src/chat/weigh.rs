//! Gives the texts of messages their weights, as the marks of the messages or the loss scales say.

use super::{
    call,
    json::dumps,
    scale::{Chain, Place},
    weighted::{Parts, Weighted, WeightedMessage},
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Base, Field, Message, Turn};
use serde_json::Value;

/// Weighs the content of a message that is not the assistant's.
///
/// # Errors
/// The content is not text, or a loss scale fails.
pub fn prompt(
    number: usize,
    message: &Message,
    place: &Place,
    chain: &Chain,
) -> Result<WeightedMessage> {
    let content = if message.role == "tool" {
        let text = dumps(&message.content);
        let weight = fixed_weight(message, place.turn, chain.base())?.unwrap_or(1.0);
        Weighted::uniform(&text, weight)
    } else {
        let text = message.text();
        let text =
            text.with_context(|| format!("content must be text, found {}", message.content))?;
        weigh(text, message, place, chain)?
    };
    Ok(WeightedMessage {
        number,
        message: message.clone(),
        parts: Parts {
            content: Some(content),
            ..Parts::default()
        },
    })
}

/// Weighs the texts of a message of the assistant.
///
/// # Errors
/// The content is not text, or a loss scale fails.
pub fn answer(
    number: usize,
    message: &Message,
    place: &Place,
    chain: &Chain,
) -> Result<WeightedMessage> {
    let mut parts = Parts::default();
    if let Some(thinking) = &message.thinking {
        let turn = Turn {
            field: Field::Thinking,
            ..place.turn.clone()
        };
        let place = Place {
            turn: &turn,
            ..*place
        };
        parts.thinking = Some(weigh(thinking, message, &place, chain)?);
    }
    for call in &message.tool_calls {
        let arguments = dumps(&call.arguments);
        parts
            .calls
            .push(match fixed_weight(message, place.turn, chain.base())? {
                Some(weight) => Weighted::uniform(&arguments, weight),
                None => call::weigh(&call.name, &arguments, place, chain)?,
            });
    }
    parts.content = match &message.content {
        Value::Null => None,
        Value::String(text) => Some(weigh(text, message, place, chain)?),
        other => bail!("content must be text, found {other}"),
    };
    Ok(WeightedMessage {
        number,
        message: message.clone(),
        parts,
    })
}

/// The weight of a message by the base strategy and the message's own marks; `None` leaves it to
/// the loss scales.
fn fixed_weight(message: &Message, turn: &Turn, base: Base) -> Result<Option<f32>> {
    let is_assistant = message.role == "assistant";
    let active = message.loss.unwrap_or(match base {
        Base::All => true,
        Base::Default => is_assistant,
        Base::LastRound => is_assistant && turn.is_last,
    });
    if !active {
        return Ok(Some(0.0));
    }
    let Some(weight) = message.loss_scale else {
        return Ok(None);
    };
    ensure!(
        weight >= 0.0 && (weight as f32).is_finite(),
        "`loss_scale` is {weight}, expected a number from 0 to {:e}",
        f32::MAX
    );
    Ok(Some(weight as f32))
}

/// Gives a text the weights that the marks of its message or the loss scales say.
fn weigh(text: &str, message: &Message, place: &Place, chain: &Chain) -> Result<Weighted> {
    Ok(match fixed_weight(message, place.turn, chain.base())? {
        Some(weight) => Weighted::uniform(text, weight),
        None => Weighted::from_segments(text, &chain.fold_at(text, place)?),
    })
}
