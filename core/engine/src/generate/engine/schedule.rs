//! Which tokens of which sequences a step computes.
//!
//! Sequences go first come, first served. Each one that has only its last token to compute takes part in every step; what is left of
//! `prefill_chunk` goes to those with more, and to sequences that wait, as long as there are pages. When pages run out the newest
//! sequence gives up its own and waits again, so that the oldest one always goes on.

use super::cache::Cache;
use super::sequence::Sequence;
use apus_model::ops::paged::PAGE;
use std::collections::VecDeque;
use std::ops::Range;

/// The tokens of a sequence that a step computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its place among those that run.
    pub sequence: usize,
    pub tokens: Range<usize>,
}

/// How steps are made.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub batch: usize,
    pub chunk: usize,
    pub share: bool,
    /// Prompts are cut at multiples of the chunk, whatever else is in the step, and shared there alone.
    pub fixed_chunks: bool,
}

/// Sequences, the oldest first.
pub struct Queue {
    pub waiting: VecDeque<Sequence>,
    pub running: Vec<Sequence>,
}

/// What a plan has done besides.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub preempted: u64,
    pub shared: u64,
}

/// A sequence that could share this many tokens more if it waited for another one waits.
const WORTH_WAITING: usize = 4 * PAGE;

impl Queue {
    /// Chooses the parts of the next step; the pages for them are taken.
    pub fn plan(&mut self, cache: &mut Cache, rules: &Rules) -> (Vec<Part>, Planned) {
        let (mut parts, mut planned) = (Vec::new(), Planned::default());
        let mut budget = rules.chunk;
        let mut at = 0;
        while at < self.running.len() {
            let part = rules.next_tokens(&self.running[at], budget);
            if self.reserve(cache, at, part.end, &mut planned) {
                rules.spend(&self.running[at], &part, &mut budget);
                parts.push(Part {
                    sequence: at,
                    tokens: part,
                });
            }
            at += 1;
        }
        parts.retain(|part| !part.tokens.is_empty());
        while planned.preempted == 0 && budget > 0 && self.running.len() < rules.batch {
            let Some(part) = self.admit(cache, rules, budget, &mut planned) else {
                break;
            };
            let at = self.running.len() - 1;
            rules.spend(&self.running[at], &part, &mut budget);
            if !part.is_empty() {
                parts.push(Part {
                    sequence: at,
                    tokens: part,
                });
            }
        }
        (parts, planned)
    }

    /// Takes pages for a sequence up to `end`; the newest ones give up theirs as long as there are too few, in the end itself.
    fn reserve(&mut self, cache: &mut Cache, at: usize, end: usize, planned: &mut Planned) -> bool {
        loop {
            if cache.reserve(&mut self.running[at].held, end) {
                return true;
            }
            let Some(mut newest) = self.running.pop() else {
                return false;
            };
            cache.release(&mut newest.held);
            newest.computed = 0;
            newest.is_back = true;
            self.waiting.push_front(newest);
            planned.preempted += 1;
            if at == self.running.len() {
                return false;
            }
        }
    }

    /// Lets the sequence that has waited longest run, if there are pages for all of its tokens beside those that the others still
    /// need for theirs.
    fn admit(
        &mut self,
        cache: &mut Cache,
        rules: &Rules,
        budget: usize,
        planned: &mut Planned,
    ) -> Option<Range<usize>> {
        let next = self.waiting.front_mut()?;
        let (length, prompt) = (next.tokens.len(), next.request.prompt.len());
        let mut shared = 0;
        if rules.share {
            let (step, most) = match rules.fixed_chunks {
                true => (rules.chunk, prompt.min(length - 1)),
                false => (PAGE, length - 1),
            };
            let identity = (next.tokens.as_slice(), next.adapter.identity);
            shared = cache.share(&mut next.held, identity, most, step);
            let coming = self.running.iter().map(|other| rules.coming(next, other));
            if coming.max().unwrap_or(0) >= shared + WORTH_WAITING {
                cache.release(&mut next.held);
                return None;
            }
        }
        next.computed = shared;
        let part = rules.next_tokens(next, budget);
        let promised = self
            .running
            .iter()
            .map(|other| other.remaining().div_ceil(PAGE) + 1);
        let spare = (promised.sum(), self.running.len());
        let has_room = cache.has_room(&next.held, length, spare);
        if !has_room || !cache.reserve(&mut next.held, part.end) {
            cache.release(&mut next.held);
            next.computed = 0;
            return None;
        }
        planned.shared += if next.is_back { 0 } else { shared as u64 };
        self.running.extend(self.waiting.pop_front());
        Some(part)
    }
}

impl Rules {
    /// The next tokens of a sequence to compute; none if the budget for prompts is too small.
    fn next_tokens(&self, sequence: &Sequence, budget: usize) -> Range<usize> {
        let (from, all) = (sequence.computed, sequence.tokens.len());
        let prompt = sequence.request.prompt.len();
        let is_free = self.is_free(sequence);
        let end = match self.fixed_chunks {
            true if from < prompt => ((from / self.chunk + 1) * self.chunk).min(prompt),
            // As it was computed at first, also if it is computed again.
            true => from + 1,
            false if is_free => all,
            false => all.min(from + budget),
        };
        match is_free || end - from <= budget {
            true => from..end,
            false => from..from,
        }
    }

    /// Whether a sequence's next tokens are not counted: its last one alone, or one of an answer that is computed again.
    fn is_free(&self, sequence: &Sequence) -> bool {
        match self.fixed_chunks {
            true => sequence.computed >= sequence.request.prompt.len(),
            false => sequence.remaining() == 1,
        }
    }

    fn spend(&self, sequence: &Sequence, tokens: &Range<usize>, budget: &mut usize) {
        if !self.is_free(sequence) {
            *budget -= tokens.len().min(*budget);
        }
    }

    /// How many tokens at its beginning a sequence could share with another one that has not computed them yet.
    fn coming(&self, next: &Sequence, other: &Sequence) -> usize {
        let pending = other.computed < other.request.prompt.len();
        if !pending || next.adapter != other.adapter {
            return 0;
        }
        let pairs = next.request.prompt.iter().zip(&other.request.prompt);
        let same = pairs.take_while(|(a, b)| a == b).count();
        let same = same.min(next.tokens.len() - 1);
        match self.fixed_chunks {
            true => same / self.chunk * self.chunk,
            false => same / PAGE * PAGE,
        }
    }
}
