//! `--dry_run`: what a run would be, before it takes the memory of one.

use super::args::args;
use super::fit::{Room, decide, planned_shape};
use super::parts::Intent;
use super::plan::MemoryPlan;
use crate::out_of_memory::Phase;
use crate::setup::{self, ModelPlace};
use anyhow::{Context, Result};
use apus_base::lines::{info, warning};
use apus_base::memory::gib;
use apus_components::config::SftConfig;
use apus_components::registry::Named;
use apus_data::chat::Encoder;
use apus_data::chat::preview::{MarkStyle, marked};
use apus_model::adapter::ParameterTable;
use apus_model::model::check_device;
use apus_sdk::{Optimizer, outln};
use candle_core::Device;
use serde_json::Value;

/// Shows the parts of the model, the configuration, the memory plan and the first example with its trained tokens marked.
/// No weights are read: that they are there and fit is known from their headers.
///
/// # Errors
/// Whatever would keep the run from starting, as far as it can be known.
pub fn dry_run(
    config: &SftConfig,
    place: &ModelPlace,
    device: &Device,
    encoder: &Encoder,
    optimizer: Named<dyn Optimizer>,
    (data, lengths): (&mut setup::Data, &[usize]),
) -> Result<()> {
    let blueprint = Intent::new(config, place)?.blueprint(config, place, device)?;
    let source = place.source.as_ref();
    let checked = check_device(&place.config.architecture, device);
    let checked = checked.and_then(|()| blueprint.check(source));
    checked.with_context(|| Phase::Loading(config.model.clone()))?;
    info!("{}", ParameterTable::planned(&blueprint));
    outln!(
        "{}",
        serde_json::to_string_pretty(&Value::Object(args(config)))?
    );

    let shape = planned_shape(config, optimizer, &blueprint, lengths)?;
    let there = shape.weight_bytes + shape.trainable * 4;
    let free = apus_model::device::usage::free(device);
    let room = Room {
        config: &place.config,
        embedding: blueprint.movable_embedding().filter(|_| !device.is_cpu()),
        free: free.map(|free| free.saturating_sub(there)),
    };
    let fit = decide(config, &room, shape);
    let plan = MemoryPlan::new(&place.config, &fit.shape);
    outln!(
        "\nmemory plan for {} tokens in the largest micro-batch\n{}",
        shape.tokens,
        plan.table()
    );
    if let Some(bytes) = fit.offloaded {
        outln!("and {} of the embedding in host memory", gib(bytes));
    }
    outln!("so about {}", gib(plan.total()));
    if let Some(free) = free.filter(|free| plan.total() > *free) {
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
