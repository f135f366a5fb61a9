//! `apus bench --generate`: how fast prompts of random tokens are answered, beside what the memory of the device allows.
//!
//! A step of generation reads every weight that its tokens use and their keys and values; a device cannot be faster than its
//! memory gives those bytes. The bytes are counted ([`bytes`]), the memory's rate is that of a copy, measured in the same process.

mod bytes;
mod load;

use super::limits::{self, Limits};
use super::{experts, table};
use crate::generate::Sampling;
use crate::setup;
use anyhow::Result;
use apus_components::config::{BenchConfig, GenerationLoad};
use apus_model::model::{CausalLm, Training};
use apus_sdk::{errln, outln};
use bytes::StepBytes;
use candle_core::Device;
use load::Timed;
use serde_json::{Value, json};

/// Times all loads; prints a table and returns the same for programs.
pub fn run(config: &BenchConfig, device: &Device) -> Result<Value> {
    let place = setup::find_model(&config.model, config.seed)?;
    let options = setup::load_options(
        device,
        None,
        config.experts_dtype,
        Training::Adapters(Vec::new()),
    )?;
    let model = setup::load(&place, &options)?;
    let sampling = Sampling {
        seed: config.seed,
        ..Sampling::greedy(1)
    };
    let mut timed = Vec::new();
    for load in config.loads.iter() {
        let found = load::time(&model, load, &sampling, config.deterministic)?;
        errln!("{load}: {:.3} s", found.whole);
        timed.push((*load, found));
    }
    let report = Report {
        config,
        model: &model,
        device,
        limits: limits::measure(device)?,
        timed,
    };
    outln!("{}", report.text());
    Ok(report.json())
}

struct Report<'a> {
    config: &'a BenchConfig,
    model: &'a CausalLm,
    device: &'a Device,
    limits: Limits,
    timed: Vec<(GenerationLoad, Timed)>,
}

impl Report<'_> {
    /// Bytes of a step in which all streams write on, in the middle of their answers.
    fn bytes(&self, load: &GenerationLoad) -> f64 {
        let bytes = StepBytes {
            config: self.model.config(),
            width: self.model.dtype().size_in_bytes(),
            packed: experts(self.model) == "mxfp4",
        };
        bytes.step(load.streams, load.prompt + load.new / 2)
    }

    /// The share of the memory's rate at which those bytes were read.
    fn share(&self, load: &GenerationLoad, timed: &Timed) -> Option<f64> {
        let steps = timed.decode_rate()? / load.streams as f64;
        Some(steps * self.bytes(load) / self.limits.bytes)
    }

    fn text(&self) -> String {
        let mut rows = table::plain();
        rows.set_header([
            "streams",
            "prompt",
            "answer",
            "first token",
            "last first token",
            "prompts, tokens/s",
            "answers, tokens/s",
            "from start to end",
            "bytes a step",
            "share of limit",
        ]);
        table::align_right(&mut rows, 0..10);
        let whole = |rate: f64| table::grouped(rate.round() as usize);
        let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
        let unknown = || "-".to_owned();
        for (load, timed) in &self.timed {
            let share = self.share(load, timed);
            rows.add_row([
                table::grouped(load.streams),
                table::grouped(load.prompt),
                table::grouped(load.new),
                ms(timed.first_token[0]),
                ms(timed.first_token[1]),
                whole(timed.prefill_rate(load)),
                timed.decode_rate().map_or_else(unknown, whole),
                whole(timed.whole_rate(load)),
                table::gib(self.bytes(load) as u64),
                share.map_or_else(unknown, |share| format!("{:.1} %", 100.0 * share)),
            ]);
        }
        format!(
            "{}, {}, experts in {}\nlimit: {:.1} GB/s, a copy\n\n{rows}",
            limits::machine(self.device),
            self.config.model,
            experts(self.model),
            self.limits.bytes / 1e9
        )
    }

    fn json(&self) -> Value {
        let loads = self.timed.iter().map(|(load, timed)| {
            json!({
                "streams": load.streams,
                "prompt_tokens": load.prompt,
                "answer_tokens": load.new,
                "first_token_seconds": timed.first_token[0],
                "last_first_token_seconds": timed.first_token[1],
                "prompt_tokens_per_second": timed.prefill_rate(load),
                "answer_tokens_per_second": timed.decode_rate(),
                "whole_seconds": timed.whole,
                "whole_tokens_per_second": timed.whole_rate(load),
                "bytes_a_step": self.bytes(load),
                "share_of_limit": self.share(load, timed),
            })
        });
        json!({
            "apus_version": env!("CARGO_PKG_VERSION"),
            "machine": limits::machine(self.device),
            "config": self.config,
            "experts": experts(self.model),
            "limit_gb_per_second": self.limits.bytes / 1e9,
            "loads": loads.collect::<Vec<_>>(),
        })
    }
}
