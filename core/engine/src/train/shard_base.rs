//! Whether the frozen base is spread over the ranks of a run: as it is asked for, or where the whole does not fit a card.

use super::fit::{Fit, Room, decide, planned_shape};
use super::parts::Intent;
use super::plan::MemoryPlan;
use crate::setup::ModelPlace;
use anyhow::Result;
use apus_base::memory::gib;
use apus_components::config::{SftConfig, ShardBase, sharding};
use apus_components::registry::Named;
use apus_model::adapter::Blueprint;
use apus_sdk::Optimizer;
use candle_core::Device;

/// A run as it would be on each card.
pub struct Planned {
    /// The tensors.
    pub blueprint: Blueprint,
    /// What is kept where.
    pub fit: Fit,
    /// The memory plan.
    pub plan: MemoryPlan,
    /// Bytes that are free on the fullest card before anything is loaded, if that is known.
    pub free: Option<u64>,
    /// Whether it fits there.
    pub fits: bool,
}

impl Planned {
    /// Plans a run that is not loaded; `ranks` is the number that the base is spread over, if it is.
    ///
    /// # Errors
    /// A type that does not go with the device, or data without a step.
    pub fn new(
        config: &SftConfig,
        (place, device): (&ModelPlace, &Device),
        optimizer: Named<dyn Optimizer>,
        (lengths, free): (&[usize], Option<u64>),
        ranks: Option<usize>,
    ) -> Result<Self> {
        let mut blueprint = Intent::new(config, place)?.blueprint(config, place, device)?;
        blueprint.ranks = ranks;
        let shape = planned_shape(optimizer, &blueprint, lengths);
        let there = shape.weight_bytes + shape.trainable * 4;
        let room = Room {
            config: &place.config,
            embedding: blueprint.movable_embedding().filter(|_| !device.is_cpu()),
            free: free.map(|free| free.saturating_sub(there)),
            packed: blueprint.experts_packed(),
        };
        let fit = decide(config, &room, shape);
        let moved = fit.offloaded.unwrap_or(0);
        let fits = |free| MemoryPlan::fits(&place.config, &fit.shape, free + moved);
        Ok(Self {
            fits: room.free.is_none_or(fits),
            plan: MemoryPlan::new(&place.config, &fit.shape),
            blueprint,
            fit,
            free,
        })
    }
}

/// Whether the base is spread, and a line that says why; `plan` plans a run whose base is spread over so many ranks.
///
/// # Errors
/// What is asked for contradicts itself, or a plan cannot be made.
pub fn decide_base(
    config: &SftConfig,
    ranks: usize,
    plan: impl Fn(Option<usize>) -> Result<Planned>,
) -> Result<(bool, Option<String>)> {
    // A single rank with a group of its own goes the way of several, for comparison.
    let alone = ranks == 1 && config.shard_base == Some(ShardBase::True);
    let asked = match sharding(config, ranks)?.base {
        _ if alone => ShardBase::True,
        base => base,
    };
    match asked {
        ShardBase::False => Ok((false, None)),
        ShardBase::True => {
            let line = described(&plan(Some(ranks))?, ranks);
            Ok((true, Some(line)))
        }
        ShardBase::Auto => {
            let whole = plan(None)?;
            let needed = gib(whole.plan.total());
            let free = match whole.free {
                Some(free) => format!("{} are free", gib(free)),
                None => "it is not known how much is free".to_owned(),
            };
            if whole.fits {
                let line = format!(
                    "base: whole on every card: the run takes {needed} by the plan, and {free}"
                );
                return Ok((false, Some(line)));
            }
            let line = described(&plan(Some(ranks))?, ranks);
            Ok((
                true,
                Some(format!(
                    "{line}; with the whole base the run takes {needed} by the plan, and {free}"
                )),
            ))
        }
    }
}

fn described(planned: &Planned, ranks: usize) -> String {
    let shape = &planned.fit.shape;
    format!(
        "base: sharded over {ranks} {}, {} of {} on each, and at most {} gathered at a time",
        if ranks == 1 { "rank" } else { "ranks" },
        gib(shape.weight_bytes),
        gib(whole_bytes(planned)),
        gib(shape.gathered_bytes)
    )
}

/// The bytes of all weights that stay on the device, if they are not spread.
fn whole_bytes(planned: &Planned) -> u64 {
    let moved = planned.fit.offloaded.unwrap_or(0);
    planned.blueprint.frozen_bytes().saturating_sub(moved)
}
