//! One token after another.

use crate::model::GptOss;
use crate::ops::reduce;
use crate::signals;
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Rule};

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// Among the tokens that make up this probability.
    pub top_p: Option<f64>,
    /// Among this many tokens; 0 for all.
    pub top_k: Option<usize>,
    /// Seed.
    pub seed: u64,
    /// Most tokens to write.
    pub max_new_tokens: usize,
}

impl Sampling {
    /// The most probable token each time.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self {
            temperature: 0.0,
            top_p: None,
            top_k: None,
            seed: 0,
            max_new_tokens,
        }
    }

    fn processor(&self) -> LogitsProcessor {
        let temperature = self.temperature;
        let top_k = self.top_k.filter(|&k| k > 0);
        let rule = match (temperature, top_k, self.top_p) {
            (t, ..) if t <= 0.0 => Rule::ArgMax,
            (_, None, None) => Rule::All { temperature },
            (_, None, Some(p)) => Rule::TopP { p, temperature },
            (_, Some(k), None) => Rule::TopK { k, temperature },
            (_, Some(k), Some(p)) => Rule::TopKThenTopP { k, p, temperature },
        };
        LogitsProcessor::from_sampling(self.seed, rule)
    }
}

/// Logits `[V]` f32 of the last of hidden states `[n, H]`.
fn last_logits(model: &GptOss, hidden: &Tensor) -> Result<Tensor> {
    let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
    let (normed, _) = model.head().forward(&last)?;
    let logits = model.head().logits(&normed)?.get(0)?.to_dtype(DType::F32)?;
    ensure!(
        reduce::finite(std::slice::from_ref(&logits))?,
        "the model's logits are not finite: weights of the model or of its adapter are broken, or far too large"
    );
    Ok(logits)
}

/// The tokens after `prompt`, up to and including the first of `stop`, or as many as the model has
/// positions for. `on_token` sees all new tokens after each.
///
/// # Errors
/// A signal came, an empty prompt, more tokens than the model allows, or out of memory.
pub fn generate(
    model: &GptOss,
    prompt: &[u32],
    stop: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(&[u32]),
) -> Result<Vec<u32>> {
    ensure!(!prompt.is_empty(), "the prompt is empty");
    let mut processor = sampling.processor();
    let mut cache = model.cache();
    let mut hidden = model.decode(prompt, &mut cache)?;
    let mut new = Vec::new();
    let room = (model.config().max_position_embeddings + 1).saturating_sub(prompt.len());
    let most = sampling.max_new_tokens.min(room);
    while new.len() < most {
        signals::check()?;
        let token = processor.sample(&last_logits(model, &hidden)?)?;
        new.push(token);
        on_token(&new);
        if stop.contains(&token) || new.len() == most {
            break;
        }
        hidden = model.decode(&[token], &mut cache)?;
    }
    Ok(new)
}
