//! Whether the frozen base is spread over the ranks of a run: as it is asked for, or where the whole does not fit a card.

use super::fit::{Fit, Room, Trial, decide, planned_shape};
use super::parts::Intent;
use super::plan::MemoryPlan;
use crate::setup::ModelPlace;
use anyhow::Result;
use apus_base::memory::gib;
use apus_components::config::{SftConfig, ShardBase, sharding};
use apus_model::adapter::Blueprint;
use apus_model::families::ModelConfig;
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
        trial: Trial,
        (lengths, free): (&[usize], Option<u64>),
        ranks: Option<usize>,
    ) -> Result<Self> {
        let mut blueprint = Intent::new(config, place)?.blueprint(config, place, device)?;
        blueprint.ranks = ranks;
        let of = (&place.config, device.is_cuda());
        Ok(Self::of(config, of, blueprint, trial, (lengths, free)))
    }

    /// A run with these tensors on a card, or on the CPU.
    fn of(
        config: &SftConfig,
        (model, on_card): (&ModelConfig, bool),
        blueprint: Blueprint,
        trial: Trial,
        (lengths, free): (&[usize], Option<u64>),
    ) -> Self {
        let shape = planned_shape(config, trial, &blueprint, lengths);
        let there = shape.weight_bytes + shape.trainable * 4;
        let room = Room {
            config: model,
            embedding: blueprint.movable_embedding().filter(|_| on_card),
            free: free.map(|free| free.saturating_sub(there)),
            packed: blueprint.experts_packed(),
        };
        let fit = decide(config, &room, shape);
        let moved = fit.offloaded.unwrap_or(0);
        let fits = |free| MemoryPlan::fits(model, &fit.shape, free + moved);
        Self {
            fits: room.free.is_none_or(fits),
            plan: MemoryPlan::new(model, &fit.shape),
            blueprint,
            fit,
            free,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use apus_components::registry::{self, Spec};
    use apus_model::adapter::{TargetSpec, resolve};
    use apus_model::model::{Init, LoadOptions, LoraSettings};
    use apus_model::synthetic::{self, SyntheticWeights};
    use apus_plugins as _;
    use candle_core::DType;

    const GIB: u64 = 1 << 30;
    /// Of a card of 24 GB, what the driver, the libraries and NCCL leave.
    const CARD_OF_24_GB: u64 = 45 * GIB / 2;

    /// A published model in bf16 with rank 8 on attention, on a card with so much memory.
    fn planned(model: &str, tokens: usize, free: u64, ranks: Option<usize>) -> Planned {
        let model = synthetic::config(model).unwrap();
        let source = SyntheticWeights::new(&model, 1);
        let targets = resolve(
            &model,
            &TargetSpec::from_names(vec!["all-linear".to_owned()]),
        );
        let settings = LoraSettings {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: Init::Kaiming,
            seed: 1,
        };
        let options = LoadOptions {
            dtype: DType::BF16,
            ..LoadOptions::frozen(&Device::Cpu)
        };
        let updates = Some((&targets.unwrap(), &settings));
        let mut blueprint = Blueprint::new(&model, &source, &options, updates).unwrap();
        blueprint.ranks = ranks;
        let config = SftConfig::default();
        let trial = Trial {
            optimizer: registry::named::<dyn apus_sdk::Optimizer>(&Spec::named("adamw"))
                .unwrap()
                .into(),
            ranks: ranks.unwrap_or(1),
        };
        let data = (&[tokens][..], Some(free));
        Planned::of(&config, (&model, true), blueprint, trial, data)
    }

    fn asked(base: Option<ShardBase>, deepspeed: &str) -> SftConfig {
        SftConfig {
            shard_base: base,
            deepspeed: match deepspeed {
                "" => serde_json::Value::Null,
                named => named.into(),
            },
            ..SftConfig::default()
        }
    }

    #[test]
    fn the_120b_trains_on_four_cards_of_24_gb() {
        for (tokens, ranks, fits) in [
            (2_048, None, false),
            (2_048, Some(2), false),
            (2_048, Some(3), false),
            (2_048, Some(4), true),
            (8_192, Some(4), true),
            (16_384, Some(4), false),
            (16_384, Some(8), true),
        ] {
            let planned = planned("gpt-oss-120b", tokens, CARD_OF_24_GB, ranks);
            println!("{tokens} tokens, {ranks:?} ranks\n{}", planned.plan.table());
            assert_eq!(planned.fits, fits, "{tokens} tokens, {ranks:?} ranks");
        }
        let of_four = planned("gpt-oss-120b", 2_048, CARD_OF_24_GB, Some(4));
        // The matrices of all experts of a layer alone would take 4 GiB.
        assert_eq!(of_four.fit.shape.experts_at_once, Some(16));
        assert!(of_four.fit.offloaded.is_some());
        let state = |planned: &Planned| planned.fit.shape.optimizer_bytes;
        let whole = planned("gpt-oss-120b", 2_048, CARD_OF_24_GB, None);
        assert_eq!(state(&whole), 4 * state(&of_four));
    }

    #[test]
    fn a_rank_keeps_its_part_of_all_that_is_large() {
        let bytes = |model, ranks| {
            let planned = planned(model, 2_048, 1000 * GIB, ranks);
            let shape = planned.fit.shape;
            (
                shape.weight_bytes,
                shape.gathered_bytes,
                whole_bytes(&planned),
            )
        };
        for (model, layer) in [("gpt-oss-20b", 0.476e9), ("gpt-oss-120b", 1.745e9)] {
            let (whole, none, _) = bytes(model, None);
            assert_eq!(none, 0);
            let (alone, gathered, all) = bytes(model, Some(1));
            assert_eq!((alone, whole), (all, all));
            let greatest = f64::max(2.0 * layer, layer + 1.158e9);
            assert!(
                (gathered as f64 / greatest - 1.0).abs() < 0.01,
                "{model}: {gathered}"
            );
            let (quarter, ..) = bytes(model, Some(4));
            // The embedding is looked up, so each rank has it.
            let embedding = 201_088 * 2_880 * 2;
            let share = (quarter - embedding) as f64 / (all - embedding) as f64;
            assert!((0.25..0.26).contains(&share), "{model}: {share}");
        }
    }

    #[test]
    fn the_base_is_spread_where_it_was_asked_for_or_does_not_fit() {
        let decide = |config: &SftConfig, ranks: usize, free: u64| {
            let plan = |over| Ok(planned("gpt-oss-20b", 2_048, free, over));
            decide_base(config, ranks, plan).unwrap()
        };
        let (yes, no) = (Some(ShardBase::True), Some(ShardBase::False));
        for (config, ranks, free, expected) in [
            (asked(None, ""), 4, 10, false),
            (asked(None, "zero2"), 4, 10, false),
            (asked(None, "zero3"), 4, 10, true),
            (asked(None, "zero3"), 4, 80, false),
            (asked(None, "zero3"), 1, 10, false),
            (asked(Some(ShardBase::Auto), ""), 4, 10, true),
            (asked(Some(ShardBase::Auto), ""), 4, 80, false),
            (asked(yes, ""), 4, 80, true),
            (asked(yes, ""), 1, 80, true),
            (asked(no, "zero3"), 4, 10, false),
        ] {
            let (spread, line) = decide(&config, ranks, free * GIB);
            let what = format!(
                "{:?} {} {ranks} {free}: {line:?}",
                config.shard_base, config.deepspeed
            );
            assert_eq!(spread, expected, "{what}");
            let says = match expected {
                true => "base: sharded over",
                false => "base: whole on every card",
            };
            assert!(line.is_none_or(|line| line.starts_with(says)), "{what}");
        }
    }
}
