//! An adapter of PEFT made of low-rank updates that are in memory.

use super::file::Adapter;
use super::peft_config::PeftConfig;
use super::targets::TargetSpec;
use crate::families::ModelConfig;
use crate::model::updates::{expert_module, pair_keys};
use crate::model::{Init, LoraSettings, Numbers, Targets};
use crate::ops::lora::Factors;
use crate::tensors::TensorSpec;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

impl Adapter {
    /// One of these updates, in PEFT's layouts: each with its linear module or parameter of experts, and the factor on its product.
    ///
    /// # Errors
    /// There are none.
    pub fn of_updates(
        dir: &Path,
        model: &ModelConfig,
        base_model: Option<String>,
        updates: Vec<(String, f64, Factors)>,
    ) -> Result<Self> {
        let list = model.tensors();
        let matrix = |name: &str| {
            let spec = list.get(name)?;
            Some((spec.layer?, spec.expert_matrix()?))
        };
        let (mut targets, mut wanted) = (Targets::default(), TargetSpec::default());
        for (name, ..) in &updates {
            match matrix(name) {
                Some(at) => {
                    targets.experts.push(at);
                    wanted.parameters.push(name.clone());
                }
                None => {
                    targets.linears.push(name.clone());
                    wanted.modules.push(name.clone());
                }
            }
        }
        let (mut settings, mut tensors) = (None, BTreeMap::new());
        for (name, scale, factors) in updates {
            let matrices = list.get(&name).map_or(1, TensorSpec::matrices);
            let rank = factors.a.dim(0)? / matrices;
            let alpha = scale * rank as f64;
            let first = *settings.get_or_insert(LoraSettings {
                rank,
                alpha,
                dropout: 0.0,
                use_rslora: false,
                use_dora: false,
                init: Init::Kaiming,
                seed: 0,
            });
            if (rank, alpha) != (first.rank, first.alpha) {
                targets.own.insert(name.clone(), Numbers { rank, alpha });
            }
            let module = match matrix(&name) {
                None => name,
                Some((layer, matrix)) => expert_module(&list, &targets, layer, matrix)
                    .with_context(|| format!("the model has no parameter {name}"))?,
            };
            let pair = [factors.a, factors.b];
            tensors.extend(pair_keys(&module).into_iter().zip(pair));
        }
        let settings = settings.context("an adapter of no updates")?;
        Ok(Self {
            config: PeftConfig::new(model, &wanted, &targets, &settings, base_model),
            targets,
            notes: Vec::new(),
            dir: dir.to_owned(),
            list,
            tensors,
            experts: BTreeMap::new(),
        })
    }
}
