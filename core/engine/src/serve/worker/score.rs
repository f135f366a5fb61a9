//! Log-probabilities of a text that is there already, for `echo` of completions.

use super::Worker;
use super::answers::{AnswerEvent, Ask};
use crate::generate::{Engine, Sampling, TokenLogprobs, TokenMask, token_logprobs};
use crate::serve::http::ApiError;
use anyhow::{Context, Result, ensure};
use apus_model::nn::ForwardOptions;
use apus_model::ops::SeqLayout;
use candle_core::{DType, Tensor};

/// Positions whose logits are there at one time.
const ROWS: usize = 64;

/// For each token but the first its log-probability after those before it.
pub type Scores = Vec<TokenLogprobs>;

/// Scores a text with the model itself, in one pass.
///
/// # Errors
/// The text is too long, or the model cannot be computed.
pub fn score(engine: &Engine, tokens: &[u32], top: usize) -> Result<Scores> {
    let most = engine.max_length();
    ensure!(
        tokens.len() <= most,
        "the prompt has {} tokens, expected at most {most}",
        tokens.len()
    );
    let mut scores = Vec::with_capacity(tokens.len().saturating_sub(1));
    if tokens.len() < 2 {
        return Ok(scores);
    }
    let model = engine.model();
    let before = &tokens[..tokens.len() - 1];
    let seqs = SeqLayout::new(&[before.len()], model.device())?;
    let ids = Tensor::new(before, model.device())?;
    let (hidden, _) = model
        .decoder()
        .forward(&ids, &seqs, &ForwardOptions::default())?;
    for from in (0..before.len()).step_by(ROWS) {
        let rows = ROWS.min(before.len() - from);
        let logits = rows_of(engine, &hidden.narrow(0, from, rows)?)?;
        let next = tokens[from + 1..].iter();
        scores.extend(
            logits
                .iter()
                .zip(next)
                .map(|(row, next)| token_logprobs(row, *next, top)),
        );
    }
    Ok(scores)
}

/// Scores a text with an adapter: it is written once more, token by token, since adapters are computed with answers alone.
///
/// # Errors
/// The text is too long, too many answers wait, or its time is over.
pub async fn with_adapter(
    worker: &Worker,
    tokens: Vec<u32>,
    adapter: String,
    top: usize,
    time: std::time::Duration,
) -> Result<Scores, ApiError> {
    let mut scores = Vec::with_capacity(tokens.len());
    if tokens.len() < 2 {
        return Ok(scores);
    }
    let mut answers = worker
        .ask(Ask {
            prompts: vec![tokens[..1].to_vec()],
            n: 1,
            sampling: Sampling::greedy(tokens.len() - 1),
            is_seeded: true,
            stop: Vec::new(),
            logprobs: Some(top),
            adapter: Some(adapter),
            mask: Some(Box::new(move || {
                Box::new(Forced {
                    tokens: tokens.clone(),
                    at: 1,
                })
            })),
            time,
        })
        .await?;
    while let Some((_, event)) = answers.next().await? {
        if let AnswerEvent::Token { logprobs, .. } = event {
            scores.extend(logprobs);
        }
    }
    Ok(scores)
}

/// Lets one text be written and no other.
struct Forced {
    tokens: Vec<u32>,
    at: usize,
}

impl TokenMask for Forced {
    fn allowed(&mut self) -> Result<Vec<u32>> {
        let token = *self.tokens.get(self.at).context("the text has ended")? as usize;
        let mut bits = vec![0; token / 32 + 1];
        bits[token / 32] = 1 << (token % 32);
        Ok(bits)
    }

    fn accept(&mut self, _token: u32) -> Result<()> {
        self.at += 1;
        Ok(())
    }
}

fn rows_of(engine: &Engine, hidden: &Tensor) -> Result<Vec<Vec<f32>>> {
    let head = engine.model().head();
    let (normed, _) = head.forward(hidden)?;
    Ok(head.logits(&normed)?.to_dtype(DType::F32)?.to_vec2()?)
}
