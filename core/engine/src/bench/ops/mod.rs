//! `apus bench --ops`: every fused operation alone, at the sizes of a model, beside what the device can do.
//!
//! An operation that is bound by memory is held against the measured rate of a copy, one that is bound by
//! arithmetic against that of a large product. Bytes are those of reading every input once and writing every
//! output once.

mod dense;
mod experts;

use super::lengths;
use super::limits::{self, Limits};
use super::table;
use crate::setup;
use anyhow::Result;
use apus_components::config::BenchConfig;
use apus_model::families::{Architecture, MlpSpec};
use apus_model::ops::fill;
use apus_sdk::{errln, outln};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

/// What an operation has to do.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// Move this many bytes.
    Bytes(usize),
    /// Carry out this many operations.
    Flops(u64),
}

/// Operations timed so far, and what they are run on.
struct Ops<'a> {
    device: &'a Device,
    architecture: &'a Architecture,
    /// Lengths of the sequences.
    lengths: Vec<usize>,
    rank: usize,
    seed: u64,
    limits: Limits,
    timed: Vec<Timed>,
}

struct Timed {
    name: String,
    seconds: f64,
    work: Work,
}

/// Times all operations; prints a table and returns the same for programs.
pub fn run(config: &BenchConfig, device: &Device, given: &dyn Fn(&str) -> bool) -> Result<Value> {
    let place = setup::find_model(&config.model, config.seed)?;
    // A processor takes minutes for what a card does in a second.
    let small = device.is_cpu() && !given("seq") && !given("batch");
    let lengths = match small {
        true => vec![256],
        false => lengths::draw(&config.seq, config.batch, config.seed, 0),
    };
    let mut ops = Ops {
        device,
        architecture: &place.config.architecture,
        lengths,
        rank: config.lora_rank,
        seed: config.seed,
        limits: limits::measure(device)?,
        timed: Vec::new(),
    };
    outln!(
        "{}, sizes of {}, {} tokens\nlimits: {}, a product of {side} x {side} matrices; {:.1} GB/s, a copy\n",
        limits::machine(device),
        config.model,
        table::grouped(ops.tokens()),
        table::rate(ops.limits.flops),
        ops.limits.bytes / 1e9,
        side = ops.limits.side
    );
    dense::time(&mut ops)?;
    let mlps = ops.architecture.layers.iter().map(|layer| &layer.mlp);
    if let Some(mixture) = mlps.filter_map(MlpSpec::mixture).next() {
        experts::time(&mut ops, mixture)?;
    }
    outln!("{}", ops.table());
    Ok(ops.json(config))
}

impl Ops<'_> {
    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The type of activations.
    fn dtype(&self) -> DType {
        match self.device {
            Device::Cpu => DType::F32,
            _ => DType::BF16,
        }
    }

    /// The size of an activation in bytes.
    fn width(&self) -> usize {
        self.dtype().size_in_bytes()
    }

    /// Random activations.
    fn random(&self, shape: &[usize]) -> Result<Tensor> {
        self.random_as(shape, self.dtype())
    }

    /// Random numbers of a type.
    fn random_as(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let stream = shape.iter().fold(17, |hash, &n| hash * 31 + n as u64);
        fill::normal(shape, 1.0, (self.seed, stream), dtype, self.device)
    }

    /// Times an operation.
    fn time<T>(
        &mut self,
        name: impl Into<String>,
        work: Work,
        mut call: impl FnMut() -> Result<T>,
    ) -> Result<()> {
        let name = name.into();
        errln!("{name}");
        let seconds = limits::seconds(self.device, || call().map(drop))?;
        self.timed.push(Timed {
            name,
            seconds,
            work,
        });
        Ok(())
    }

    fn table(&self) -> comfy_table::Table {
        let mut lines = table::plain();
        lines.set_header(["operation", "ms", "rate", "of the limit"]);
        for timed in &self.timed {
            let milliseconds = timed.seconds * 1e3;
            let rate = match timed.work {
                Work::Bytes(bytes) => table::gbytes(bytes as f64, milliseconds),
                Work::Flops(flops) => table::flops(flops as f64, milliseconds),
            };
            lines.add_row([
                timed.name.clone(),
                format!("{milliseconds:.3}"),
                rate,
                format!("{:.0} %", 100.0 * self.share(timed)),
            ]);
        }
        table::align_right(&mut lines, 1..4);
        lines
    }

    /// The rate of an operation over the device's.
    fn share(&self, timed: &Timed) -> f64 {
        match timed.work {
            Work::Bytes(bytes) => bytes as f64 / timed.seconds / self.limits.bytes,
            Work::Flops(flops) => flops as f64 / timed.seconds / self.limits.flops,
        }
    }

    fn json(&self, config: &BenchConfig) -> Value {
        let rows: Vec<Value> = self
            .timed
            .iter()
            .map(|timed| {
                let (bytes, flops) = match timed.work {
                    Work::Bytes(bytes) => (Some(bytes), None),
                    Work::Flops(flops) => (None, Some(flops)),
                };
                json!({
                    "operation": timed.name,
                    "milliseconds": timed.seconds * 1e3,
                    "bytes": bytes,
                    "flops": flops,
                    "share_of_limit": self.share(timed),
                })
            })
            .collect();
        json!({
            "apus_version": env!("CARGO_PKG_VERSION"),
            "machine": limits::machine(self.device),
            "config": config,
            "lengths": self.lengths,
            "limit_tflops": self.limits.flops / 1e12,
            "limit_gb_per_second": self.limits.bytes / 1e9,
            "operations": rows,
        })
    }
}
