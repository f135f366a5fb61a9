//! Counts and times in the text form that Prometheus reads.

use super::worker::Worker;
use apus_base::memory;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With its last token.
    Completed,
    /// Its client has gone.
    Cancelled,
    /// By an error or its time.
    Failed,
    /// It was not begun, because too many waited.
    Rejected,
}

const OUTCOMES: [(&str, Outcome); 4] = [
    ("completed", Outcome::Completed),
    ("cancelled", Outcome::Cancelled),
    ("failed", Outcome::Failed),
    ("rejected", Outcome::Rejected),
];

/// Upper ends of the histograms' buckets, in seconds.
const BUCKETS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0,
];

/// Times, counted by how long they are.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BUCKETS
            .iter()
            .position(|end| seconds <= *end)
            .unwrap_or(BUCKETS.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, help, "histogram");
        let mut sum = 0;
        let ends = BUCKETS
            .iter()
            .map(f64::to_string)
            .chain(["+Inf".to_owned()]);
        for (count, end) in self.counts.iter().zip(ends) {
            sum += count.load(Ordering::Relaxed);
            line(out, format_args!("{name}_bucket{{le=\"{end}\"}} {sum}"));
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        line(out, format_args!("{name}_sum {seconds}"));
        line(out, format_args!("{name}_count {sum}"));
    }
}

/// What a server counts itself; the engine's counts come from its thread.
#[derive(Debug, Default)]
pub struct Metrics {
    responses: Mutex<BTreeMap<(String, u16), u64>>,
    answers: [AtomicU64; OUTCOMES.len()],
    /// From a request to the first token of its answers.
    pub first_token: Histogram,
    /// From a request to the end of its answers.
    pub answer_time: Histogram,
}

impl Metrics {
    /// Counts a response.
    pub fn responded(&self, route: &str, status: u16) {
        let mut responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *responses.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Counts answers.
    pub fn ended(&self, outcome: Outcome, count: usize) {
        let at = OUTCOMES
            .iter()
            .position(|(_, known)| *known == outcome)
            .unwrap_or(0);
        self.answers[at].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// All of them as text.
    pub fn text(&self, worker: &Worker) -> String {
        let mut out = String::new();
        head(
            &mut out,
            "apus_responses_total",
            "Responses by route and status.",
            "counter",
        );
        let responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for ((route, status), count) in responses {
            let labels = format!("route=\"{route}\",status=\"{status}\"");
            line(
                &mut out,
                format_args!("apus_responses_total{{{labels}}} {count}"),
            );
        }
        head(
            &mut out,
            "apus_answers_total",
            "Answers by how they ended.",
            "counter",
        );
        for ((name, _), count) in OUTCOMES.iter().zip(&self.answers) {
            let count = count.load(Ordering::Relaxed);
            line(
                &mut out,
                format_args!("apus_answers_total{{outcome=\"{name}\"}} {count}"),
            );
        }
        let stats = worker.stats();
        let free = stats
            .pages
            .saturating_sub(stats.pages_used + stats.pages_cached);
        head(
            &mut out,
            "apus_cache_pages",
            "Pages of the cache of keys and values.",
            "gauge",
        );
        for (state, count) in [
            ("used", stats.pages_used),
            ("cached", stats.pages_cached),
            ("free", free),
        ] {
            line(
                &mut out,
                format_args!("apus_cache_pages{{state=\"{state}\"}} {count}"),
            );
        }
        for (name, help, kind, value) in [
            (
                "apus_answers_running",
                "Answers that are being generated.",
                "gauge",
                stats.running as u64,
            ),
            (
                "apus_answers_waiting",
                "Answers that wait for their turn.",
                "gauge",
                stats.waiting as u64,
            ),
            (
                "apus_prompt_tokens_total",
                "Tokens of prompts.",
                "counter",
                stats.prompt_tokens,
            ),
            (
                "apus_generated_tokens_total",
                "Tokens of answers.",
                "counter",
                stats.generated_tokens,
            ),
            (
                "apus_prefix_hits_total",
                "Tokens of prompts that were in the cache.",
                "counter",
                stats.prefix_hits,
            ),
            (
                "apus_preemptions_total",
                "Answers that gave up their pages for a while.",
                "counter",
                stats.preemptions,
            ),
            (
                "process_resident_memory_bytes",
                "Memory of the process.",
                "gauge",
                memory::resident().unwrap_or(0),
            ),
        ] {
            head(&mut out, name, help, kind);
            line(&mut out, format_args!("{name} {value}"));
        }
        self.first_token.write(
            &mut out,
            "apus_time_to_first_token_seconds",
            "From a request to its first token.",
        );
        self.answer_time.write(
            &mut out,
            "apus_answer_seconds",
            "From a request to the end of its answers.",
        );
        out
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    line(
        out,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"),
    );
}

fn line(out: &mut String, text: std::fmt::Arguments) {
    // Writing to a text does not fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_end() {
        let histogram = Histogram::default();
        for millis in [5, 10, 40, 700_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = String::new();
        histogram.write(&mut text, "x", "Times.");
        for expected in [
            "# TYPE x histogram",
            "x_bucket{le=\"0.01\"} 2",
            "x_bucket{le=\"0.025\"} 2",
            "x_bucket{le=\"0.05\"} 3",
            "x_bucket{le=\"600\"} 3",
            "x_bucket{le=\"+Inf\"} 4",
            "x_sum 700.055",
            "x_count 4",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}:\n{text}"
            );
        }
    }
}
