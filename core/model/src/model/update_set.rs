//! The low-rank updates of an adapter apart from a model, and those of several adapters stacked for the rows of a step.

use super::CausalLm;
use crate::nn::{LayerUpdates, Linear, Mlp, RowUpdates};
use crate::ops::lora::{Factors, Pack, RowFactors};
use anyhow::{Result, bail};
use candle_core::{DType, Device};
use std::collections::{BTreeMap, BTreeSet};

/// LoRA or rsLoRA of some matrices of a model.
#[derive(Debug, Clone)]
pub struct UpdateSet {
    /// The factor on `B A`.
    pub scale: f64,
    /// A and B, f32, in PEFT's layouts, by the path of the linear module or the name of the parameter of experts.
    pub factors: BTreeMap<String, Factors>,
}

impl UpdateSet {
    /// The set of updates that are given each with its matrix and scale. Where scales differ, what an update differs by from the
    /// first goes into its B.
    ///
    /// # Errors
    /// Out of memory.
    pub fn of_scaled(updates: Vec<(String, f64, Factors)>) -> Result<Self> {
        let first = updates.first().map_or(1.0, |(_, scale, _)| *scale);
        let factors = updates.into_iter().map(|(name, scale, factors)| {
            let b = match scale == first {
                true => factors.b,
                false => (factors.b * (scale / first))?,
            };
            Ok((name, Factors { a: factors.a, b }))
        });
        Ok(Self {
            scale: first,
            factors: factors.collect::<Result<_>>()?,
        })
    }
}

/// What a model has of its own beside its base.
#[derive(Debug)]
pub enum OwnUpdates {
    /// Nothing.
    None,
    /// Low-rank updates that rows can have or not.
    Rows(UpdateSet),
    /// Something that all rows have; the words say what.
    Always(&'static str),
}

impl CausalLm {
    /// What it has of its own beside its base.
    ///
    /// # Errors
    /// Out of memory.
    pub fn own_updates(&self) -> Result<OwnUpdates> {
        let mut found = Vec::new();
        if self.tuners().next().is_some() {
            return Ok(OwnUpdates::Always("what a tuner has added"));
        }
        for linear in self.linears() {
            let Some(lora) = &linear.lora else { continue };
            if lora.magnitude.is_some() {
                return Ok(OwnUpdates::Always("DoRA"));
            }
            let factors = Factors {
                a: lora.a.value(),
                b: lora.b.value(),
            };
            found.push((linear.name.clone(), lora.scale, factors));
        }
        let layers = self.decoder().layers.iter();
        for experts in layers.flat_map(|layer| layer.mlp.experts()) {
            let Some(lora) = &experts.lora else { continue };
            let factors = Factors {
                a: lora.a.value(),
                b: lora.b.value(),
            };
            found.push((experts.name.clone(), lora.scale, factors));
        }
        let pairs = 2 * found.len();
        if self.params().len() != pairs {
            return Ok(OwnUpdates::Always("weights that are trained whole"));
        }
        match found.is_empty() {
            true => Ok(OwnUpdates::None),
            false => UpdateSet::of_scaled(found).map(OwnUpdates::Rows),
        }
    }

    /// Stacks the updates of adapters for the rows of a step, which name them by their place; a place without one changes nothing.
    ///
    /// # Errors
    /// An update is of no matrix that rows can have updates of, or does not fit it.
    pub fn stacked(&self, sets: &[Option<&UpdateSet>]) -> Result<RowUpdates> {
        let stack = Stack {
            sets,
            dtype: self.dtype(),
            device: self.device(),
        };
        let mut known = BTreeSet::new();
        let mut layers = Vec::new();
        for layer in &self.decoder().layers {
            let attention = &layer.attention;
            let (gate_up, down) = match &layer.mlp {
                Mlp::Dense(mlp) => (
                    stack.linears(mlp.gate_up.layers())?,
                    stack.linears(mlp.down.layers())?,
                ),
                Mlp::Mixture(mixture) => {
                    let [gate_up, down] = [&mixture.gate_up, &mixture.down];
                    known.extend([gate_up.name.as_str(), down.name.as_str()]);
                    let [(experts, _, middle), (_, _, outputs)] = [gate_up.dims(), down.dims()];
                    (
                        stack.site(&[(&gate_up.name, middle)], experts)?,
                        stack.site(&[(&down.name, outputs)], experts)?,
                    )
                }
            };
            known.extend(layer.linears().map(|linear| linear.name.as_str()));
            layers.push(LayerUpdates {
                qkv: stack.linears(attention.qkv.layers())?,
                output: stack.linears(attention.output.layers())?,
                gate_up,
                down,
            });
        }
        let names = sets.iter().flatten().flat_map(|set| set.factors.keys());
        if let Some(other) = names
            .into_iter()
            .find(|name| !known.contains(name.as_str()))
        {
            bail!("it updates {other}, which cannot differ from row to row");
        }
        Ok(RowUpdates { layers })
    }
}

struct Stack<'a> {
    sets: &'a [Option<&'a UpdateSet>],
    dtype: DType,
    device: &'a Device,
}

impl Stack<'_> {
    fn linears(&self, layers: &[Linear]) -> Result<Option<RowFactors>> {
        let modules = layers.iter().map(|layer| (&layer.name, layer.dims().1));
        let modules: Vec<(&String, usize)> = modules.collect();
        self.site(&modules, 1)
    }

    /// The updates of matrices with one input, by their names and outputs.
    fn site(&self, modules: &[(&String, usize)], groups: usize) -> Result<Option<RowFactors>> {
        let mut updates = Vec::with_capacity(self.sets.len());
        for set in self.sets {
            let factors = |name: &String| set.and_then(|set| set.factors.get(name).cloned());
            let own = modules
                .iter()
                .map(|(name, outputs)| (*outputs, factors(name)));
            let own: Vec<(usize, Option<Factors>)> = own.collect();
            updates.push(match own.iter().any(|(_, factors)| factors.is_some()) {
                false => None,
                true => {
                    let scale = set.map_or(1.0, |set| set.scale);
                    let rows = Pack::new(&own, groups, scale, DType::F32)?.into_rows();
                    Some(rows.to(self.dtype, self.device)?)
                }
            });
        }
        RowFactors::stacked(&updates)
    }
}
