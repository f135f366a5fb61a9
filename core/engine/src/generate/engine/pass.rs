//! A pass of a step: parts are computed together, and those that end their sequences get a token.

use super::Engine;
use super::forward::forward;
use super::request::Event;
use super::schedule::Part;
use anyhow::{Result, anyhow};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// How many rows of logits are on the host at a time.
const LOGIT_ROWS: usize = 32;

impl Engine<'_> {
    /// Computes parts in one pass and chooses the tokens that follow. The last events of sequences that end go to `ended`.
    pub(super) fn pass(
        &mut self,
        parts: &[Part],
        events: &mut Vec<Event>,
        ended: &mut BTreeMap<usize, Event>,
    ) {
        let running = &self.queue.running;
        let computed = forward(self.model, (&self.cache, &self.adapters), running, parts);
        let logits = match computed {
            Ok(logits) => logits,
            Err(error) => return self.fail(parts, error, ended),
        };
        let mut last = Vec::new();
        for part in parts {
            let sequence = &mut self.queue.running[part.sequence];
            sequence.computed = part.tokens.end;
            let nameable = match (self.rules.share, self.rules.fixed_chunks) {
                (false, _) => 0,
                (true, false) => sequence.tokens.len(),
                // What is in a chunk that was not cut short.
                (true, true) => sequence.request.prompt.len() / self.rules.chunk * self.rules.chunk,
            };
            let mut held = std::mem::take(&mut sequence.held);
            self.cache
                .computed(&mut held, sequence.identity(), sequence.computed, nameable);
            sequence.held = held;
            if sequence.remaining() == 0 {
                last.push(part.sequence);
            }
        }
        if let Some(logits) = logits {
            for (first, rows) in last.chunks(LOGIT_ROWS).enumerate() {
                if let Err(error) = self.choose(&logits, first * LOGIT_ROWS, rows, events, ended) {
                    return self.fail(parts, error, ended);
                }
            }
        }
    }

    /// Chooses the next token of sequences, whose logits begin at a row.
    fn choose(
        &mut self,
        logits: &Tensor,
        first: usize,
        sequences: &[usize],
        events: &mut Vec<Event>,
        ended: &mut BTreeMap<usize, Event>,
    ) -> Result<()> {
        let rows = logits.narrow(0, first, sequences.len())?.to_vec2::<f32>()?;
        for (at, logits) in sequences.iter().zip(rows) {
            let sequence = &mut self.queue.running[*at];
            let last = match sequence.choose(&logits) {
                Ok(chosen) => {
                    self.stats.generated_tokens += 1;
                    let (event, reason) = sequence.accept(chosen, &self.tokenizer);
                    events.push(event);
                    reason.map(|reason| sequence.finished(reason))
                }
                Err(error) => Some(Event::Failed {
                    id: sequence.id,
                    error,
                }),
            };
            if let Some(last) = last {
                ended.insert(*at, last);
            }
        }
        Ok(())
    }

    /// Ends the sequences of parts that could not be computed. The first one gets the error itself.
    fn fail(&self, parts: &[Part], error: anyhow::Error, ended: &mut BTreeMap<usize, Event>) {
        let words = format!("{error:#}");
        let mut error = Some(error);
        for part in parts {
            let event = Event::Failed {
                id: self.queue.running[part.sequence].id,
                error: error.take().unwrap_or_else(|| anyhow!("{words}")),
            };
            ended.entry(part.sequence).or_insert(event);
        }
    }
}
