//! Samples a token from each row of logits: biases, penalties and a mask change logits, then temperature, `top_k`, `top_p` and
//! `min_p` say which tokens are kept, in the order of transformers' processors, and a number of the row's own draws one of them, by
//! index. A row does not depend on the others.
//!
//! `row` says what a row's settings are; on the CPU they are carried out in f64. On a card weights are whole numbers of 2^-40, whose
//! sums have no order; kept tokens and draws are those of the CPU but where such a rounding decides.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod row;
#[cfg(test)]
mod tests;

pub use cpu::most_probable;
pub use row::{Choice, Draw, Listed, Penalties, Row};

use anyhow::{Result, ensure};
use candle_core::Tensor;

/// A token that was sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Its log-probability by the logits as they were given.
    pub logprob: f32,
}

/// Samples a token from each row of `logits` `[S, V]` f32, which are used up: a card changes them in place.
///
/// # Errors
/// Shapes do not fit, or a row has a logit that is not a number or infinite, or no token that may come.
pub fn sample(logits: &Tensor, rows: &[Row]) -> Result<Vec<Sampled>> {
    let sampled = each(logits, rows)?;
    let bad = sampled.iter().position(Option::is_none);
    ensure!(
        bad.is_none(),
        "sampling: row {bad:?} has logits that are not numbers or infinite, or none that may come"
    );
    Ok(sampled.into_iter().flatten().collect())
}

/// The same, where a row without a token is no error: it gets none.
///
/// # Errors
/// Shapes or settings do not fit.
pub fn each(logits: &Tensor, rows: &[Row]) -> Result<Vec<Option<Sampled>>> {
    let (count, vocab) = logits.dims2()?;
    ensure!(
        count == rows.len() && vocab > 0,
        "sampling: logits {:?} for {} rows",
        logits.dims(),
        rows.len()
    );
    for (at, row) in rows.iter().enumerate() {
        row.check(vocab)
            .map_err(|error| error.context(format!("row {at}")))?;
    }
    on_device!(logits.device(), sample(logits, rows))
}
