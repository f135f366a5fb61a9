//! Generates tokens one after another.

use super::Sampling;
use anyhow::{Result, ensure};
use apus_base::signals;
use apus_model::model::CausalLm;
use apus_model::ops::reduce;
use candle_core::{D, DType, Tensor};

/// The logits `[V]` (f32) for the last of the hidden states `[n, H]`.
fn last_logits(model: &CausalLm, hidden: &Tensor) -> Result<Tensor> {
    let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
    let (normed, _) = model.head().forward(&last)?;
    let logits = model.head().logits(&normed)?.get(0)?.to_dtype(DType::F32)?;
    ensure!(
        reduce::finite(std::slice::from_ref(&logits))?,
        "the model's logits are not finite: weights of the model or of its adapter are broken, or far too large"
    );
    Ok(logits)
}

/// Generates the tokens after `prompt`, up to and including the first one of `stop`, or as many as the model has positions
/// for. `answer` is the number of the answer, which has its own random numbers. `on_token` is called after each token
/// with all new tokens.
///
/// # Errors
/// A signal came, an empty prompt, more tokens than the model allows, logits that are not finite, or out of memory.
pub fn generate(
    model: &CausalLm,
    prompt: &[u32],
    stop: &[u32],
    (sampling, answer): (&Sampling, u64),
    on_token: &mut dyn FnMut(&[u32]),
) -> Result<Vec<u32>> {
    let positions = model.config().architecture.max_position_embeddings;
    ensure!(!prompt.is_empty(), "the prompt is empty");
    ensure!(
        prompt.len() <= positions,
        "the prompt has {} tokens, the model has {positions} positions",
        prompt.len()
    );
    let mut cache = model.decoder().cache();
    let mut hidden = model.decoder().decode(prompt, &mut cache)?;
    let mut new = Vec::new();
    let mut said = prompt.to_vec();
    let most = sampling.max_new_tokens.min(positions + 1 - prompt.len());
    while new.len() < most {
        signals::check()?;
        let logits = sampling.penalised(last_logits(model, &hidden)?, &said)?;
        let token = match sampling.draws() {
            true => sampling.choose(&logits.to_vec1()?, answer, new.len() as u64),
            false => logits.argmax(D::Minus1)?.to_scalar()?,
        };
        new.push(token);
        said.push(token);
        on_token(&new);
        if stop.contains(&token) || new.len() == most {
            break;
        }
        hidden = model.decoder().decode(&[token], &mut cache)?;
    }
    Ok(new)
}
