//! A request while it is answered: its tokens, and what follows from the logits of the next one.

use super::request::{Event, FinishReason, Request, RequestId};
use super::text::StopStrings;
use crate::generate::sample::{Seen, forbid, token_logprobs};
use anyhow::{Result, ensure};
use apus_data::chat::Tokenizer;

/// A request with the tokens of its answer.
pub(super) struct Sequence {
    pub id: RequestId,
    pub request: Request,
    /// The prompt and the answer so far.
    pub tokens: Vec<u32>,
    /// The most tokens of the answer.
    pub most: usize,
    stop_strings: StopStrings,
}

impl Sequence {
    pub fn new(id: RequestId, mut request: Request, most: usize) -> Self {
        let strings = std::mem::take(&mut request.stop.strings);
        Self {
            id,
            tokens: request.prompt.clone(),
            request,
            most,
            stop_strings: StopStrings::new(strings),
        }
    }

    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }

    /// Chooses the next token by its logits. Returns the token's event, and why the answer ends with it if it does.
    ///
    /// # Errors
    /// Logits that are not finite, or a mask that failed; the request cannot go on.
    pub fn next(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
    ) -> Result<(Event, Option<FinishReason>)> {
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "the model's logits are not finite: weights of the model or of its adapter are broken, or far too large"
        );
        let token = self.choose(logits)?;
        if let Some(mask) = &mut self.request.mask {
            mask.accept(token)?;
        }
        let top = self.request.logprobs;
        let logprobs = top.map(|top| token_logprobs(logits, token, top));
        self.tokens.push(token);
        let event = Event::Token {
            id: self.id,
            token,
            logprobs,
        };
        Ok((event, self.reason(token, tokenizer)))
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let sampling = &self.request.sampling;
        let (number, place) = (self.request.number, self.answer().len() as u64);
        if sampling.keeps_logits() && self.request.mask.is_none() {
            return Ok(sampling.token(logits, number, place));
        }
        let mut logits = logits.to_vec();
        let (prompt, answer) = self.tokens.split_at(self.request.prompt.len());
        sampling.process(&mut logits, Seen { prompt, answer })?;
        if let Some(mask) = &mut self.request.mask {
            forbid(&mut logits, &mask.allowed()?)?;
        }
        Ok(sampling.token(&logits, number, place))
    }

    fn reason(&mut self, token: u32, tokenizer: &Tokenizer) -> Option<FinishReason> {
        if self.request.stop.ids.contains(&token) {
            return Some(FinishReason::StopToken(token));
        }
        if let Some(string) = self.stop_strings.push(tokenizer.token(token)) {
            return Some(FinishReason::StopString(string.to_owned()));
        }
        (self.answer().len() == self.most).then_some(FinishReason::Length)
    }

    /// The end of the answer.
    pub fn finished(&mut self, reason: FinishReason) -> Event {
        Event::Finished {
            id: self.id,
            reason,
            tokens: self.answer().to_vec(),
        }
    }
}
