//! A pass of a step: parts are computed together, and those that end their sequences get a token.

use super::Engine;
use super::forward::{forward, is_decoding};
use super::on_card::{self, Chosen};
use super::request::Event;
use super::schedule::Part;
use anyhow::{Result, anyhow};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// How many rows of logits are on the host at a time where tokens are chosen there.
const LOGIT_ROWS: usize = 32;

impl Engine<'_> {
    /// The parts that go through the model together. Under `deterministic` a part goes alone, but for sequences that add one token
    /// by kernels whose rows do not depend on each other.
    pub(super) fn passes(&self, parts: Vec<Part>) -> Vec<Vec<Part>> {
        if !self.options.deterministic {
            return vec![parts];
        }
        let (together, alone): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|part| {
            self.few_rows.is_some() && is_decoding(std::slice::from_ref(part), &self.queue.running)
        });
        let alone = alone.into_iter().map(|part| vec![part]);
        alone.chain([together]).collect()
    }

    /// Computes parts in one pass and chooses the tokens that follow. The last events of sequences that end go to `ended`.
    pub(super) fn pass(
        &mut self,
        parts: &[Part],
        events: &mut Vec<Event>,
        ended: &mut BTreeMap<usize, Event>,
    ) {
        if parts.is_empty() {
            return;
        }
        let running = &self.queue.running;
        let places = (&self.cache, &self.adapters);
        let few_rows = self.few_rows.as_mut();
        let computed = forward(self.model, places, few_rows, running, parts);
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
        let Some(logits) = logits else { return };
        let rows = match self.model.device().is_cpu() {
            true => LOGIT_ROWS,
            false => last.len().max(1),
        };
        for (first, sequences) in last.chunks(rows).enumerate() {
            match self.choose(&logits, first * rows, sequences) {
                Ok(chosen) => self.tell(sequences, chosen, events, ended),
                Err(error) => return self.fail(parts, error, ended),
            }
        }
    }

    /// Chooses the next token of each of these sequences, whose logits begin at a row.
    fn choose(
        &mut self,
        logits: &Tensor,
        first: usize,
        sequences: &[usize],
    ) -> Result<Vec<Result<Chosen>>> {
        let logits = logits.narrow(0, first, sequences.len())?;
        let running = &mut self.queue.running;
        if !self.model.device().is_cpu() {
            return on_card::choose(&logits, running, sequences);
        }
        let rows = sequences.iter().zip(logits.to_vec2::<f32>()?);
        Ok(rows
            .map(|(&at, logits)| running[at].choose(&logits))
            .collect())
    }

    /// Tells of the tokens that were chosen. The last events of sequences that end go to `ended`.
    fn tell(
        &mut self,
        sequences: &[usize],
        chosen: Vec<Result<Chosen>>,
        events: &mut Vec<Event>,
        ended: &mut BTreeMap<usize, Event>,
    ) {
        for (at, chosen) in sequences.iter().zip(chosen) {
            let sequence = &mut self.queue.running[*at];
            let last = match chosen {
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
