//! A request while it is answered: its tokens, and what follows from the logits of the next one.

use super::adapters::AdapterRef;
use super::cache::{Held, Identity};
use super::request::{Event, FinishReason, Request, RequestId, TokenLogprobs};
use super::text::StopStrings;
use crate::generate::sample::{Seen, forbid, token_logprobs};
use anyhow::{Result, ensure};
use apus_data::chat::Tokenizer;

/// A request with the tokens of its answer, and how much of them is computed.
pub(super) struct Sequence {
    pub id: RequestId,
    pub request: Request,
    /// The prompt and the answer so far.
    pub tokens: Vec<u32>,
    pub adapter: AdapterRef,
    /// The pages with its keys and values.
    pub held: Held,
    /// How many of its tokens have keys and values.
    pub computed: usize,
    /// Whether it has begun before and gave up its pages.
    pub is_back: bool,
    /// The most tokens of the answer.
    most: usize,
    stop_strings: StopStrings,
}

impl Sequence {
    pub fn new(id: RequestId, mut request: Request, adapter: AdapterRef, most: usize) -> Self {
        let strings = std::mem::take(&mut request.stop.strings);
        Self {
            id,
            tokens: request.prompt.clone(),
            request,
            adapter,
            held: Held::default(),
            computed: 0,
            is_back: false,
            most,
            stop_strings: StopStrings::new(strings),
        }
    }

    /// The tokens that have no keys and values yet.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Its tokens, and what else fixes its keys and values.
    pub fn identity(&self) -> (&[u32], Identity) {
        (&self.tokens, self.adapter.identity)
    }

    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }

    /// Chooses the next token by the model's logits.
    ///
    /// # Errors
    /// Logits that are not finite, or a mask that failed; the request cannot go on.
    pub fn choose(&mut self, logits: &[f32]) -> Result<(u32, Option<TokenLogprobs>)> {
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "the model's logits are not finite: weights of the model or of its adapter are broken, or far too large"
        );
        let token = self.processed(logits)?;
        if let Some(mask) = &mut self.request.mask {
            mask.accept(token)?;
        }
        let top = self.request.logprobs;
        Ok((token, top.map(|top| token_logprobs(logits, token, top))))
    }

    /// Adds a token to the answer. Returns its event, and why the answer ends with it if it does.
    pub fn accept(
        &mut self,
        (token, logprobs): (u32, Option<TokenLogprobs>),
        tokenizer: &Tokenizer,
    ) -> (Event, Option<FinishReason>) {
        self.tokens.push(token);
        let event = Event::Token {
            id: self.id,
            token,
            logprobs,
        };
        (event, self.reason(token, tokenizer))
    }

    fn processed(&mut self, logits: &[f32]) -> Result<u32> {
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
    pub fn finished(&self, reason: FinishReason) -> Event {
        Event::Finished {
            id: self.id,
            reason,
            tokens: self.answer().to_vec(),
        }
    }
}
