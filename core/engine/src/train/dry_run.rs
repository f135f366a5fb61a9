//! `--dry_run`: what a run would be, before it takes the memory of one.

use super::args::args;
use super::fit::Trial;
use super::shard_base::{Planned, decide_base};
use crate::out_of_memory::Phase;
use crate::setup::{self, ModelPlace};
use anyhow::{Context, Result};
use apus_base::lines::{info, warning};
use apus_base::memory::gib;
use apus_components::config::{SftConfig, TrainType};
use apus_data::chat::Encoder;
use apus_data::chat::preview::{MarkStyle, marked};
use apus_model::adapter::ParameterTable;
use apus_model::model::check_device;
use apus_sdk::outln;
use candle_core::Device;
use serde_json::Value;

/// Shows the parts of the model, the configuration, the memory plan of a card and the first example with its trained tokens
/// marked. `ranks` is the number of processes that the run would have; one process plans for all. No weights are read: that they are there and fit is known from their headers.
///
/// # Errors
/// Whatever would keep the run from starting, as far as it can be known.
pub fn dry_run(
    config: &SftConfig,
    place: &ModelPlace,
    device: &Device,
    encoder: &Encoder,
    trial: &dyn Fn() -> Result<Trial>,
    (data, lengths): (&mut setup::Data, &[usize]),
    ranks: usize,
) -> Result<()> {
    let free = apus_model::device::usage::free(device);
    let plan = |over| {
        let data = (lengths, free);
        Planned::new(config, (place, device), trial()?, data, over)
    };
    let (sharded, line) = decide_base(config, ranks, plan)?;
    let planned = plan(sharded.then_some(ranks))?;
    let blueprint = &planned.blueprint;
    let source = place.source.as_ref();
    let checked = check_device(&place.config.architecture, device);
    let checked = checked.and_then(|()| blueprint.check(source));
    checked.with_context(|| Phase::Loading(config.model.clone()))?;
    info!("{}", ParameterTable::planned(blueprint));
    outln!(
        "{}",
        serde_json::to_string_pretty(&Value::Object(args(config)))?
    );

    let total = planned.plan.total();
    let of_each = match ranks {
        1 => String::new(),
        ranks => format!(" of each of {ranks} ranks"),
    };
    outln!(
        "\nmemory plan for {} tokens in the largest micro-batch{of_each}\n{}",
        planned.fit.shape.tokens,
        planned.plan.table()
    );
    if let Some(bytes) = planned.fit.offloaded {
        outln!("and {} of the embedding in host memory", gib(bytes));
    }
    if let Some(experts) = planned.fit.shape.experts_at_once {
        outln!("with {experts} experts unpacked at a time, since memory is short");
    }
    outln!("so about {}", gib(total));
    if let Some(line) = line {
        outln!("{line}");
    }
    if ranks > 1 && config.train_type != TrainType::Full {
        let other = plan((!sharded).then_some(ranks))?;
        let how = if sharded { "whole" } else { "sharded" };
        outln!("with the base {how}: about {}", gib(other.plan.total()));
    }
    if let Some(free) = free.filter(|free| total > *free) {
        warning!(
            "{} are free on {}: the run would not fit",
            gib(free),
            apus_model::device::name(device)
        );
    }

    let first = match &mut data.stream {
        Some(stream) => Some(stream.peek()?),
        None => data.train.samples.first(),
    };
    if let Some(sample) = first {
        outln!(
            "\nthe first example, trained tokens marked\n{}",
            marked(sample, encoder.tokenizer(), MarkStyle::of_stdout())
        );
    }
    Ok(())
}
