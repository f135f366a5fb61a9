//! A model: a decoder with its output head, as its configuration describes it and its weights make it.

use super::updates::PREFIX;
use crate::families::ModelConfig;
use crate::nn::few_rows::FewRows;
use crate::nn::{Decoder, ExpertLinear, Head, Linear, Mlp, Param, Ready, Tuned, Units};
use crate::tensors::{ExpertMatrix, Role};
use anyhow::{Result, bail};
use candle_core::{DType, Device};
use std::sync::Arc;

/// A decoder that predicts the next token.
pub struct CausalLm {
    pub(super) config: ModelConfig,
    pub(super) decoder: Decoder,
    pub(super) head: Head,
    pub(super) dtype: DType,
    pub(super) params: Vec<Arc<Param>>,
}

impl CausalLm {
    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Embedding and layers.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Its output head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// All parameters that are trained.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// The parameters that are trained, each with the part of the model after whose backward pass its gradient is complete.
    pub fn params_by_part(&self) -> Vec<(Ready, Arc<Param>)> {
        let list = self.config.tensors();
        let part = |name: &str| {
            let name = name.strip_prefix(PREFIX).unwrap_or(name);
            let role = list.get(name).map(|spec| spec.role);
            match (list.layer_of(name), role) {
                (Some(layer), _) => Ready::Layer(layer),
                (None, Some(Role::FinalNorm)) => Ready::Head,
                (None, Some(Role::Head)) if !self.head.tied => Ready::Head,
                // Where nothing else is known, everything is complete.
                (None, _) => Ready::Embedding,
            }
        };
        let params = self.params.iter();
        params
            .map(|param| (part(param.name()), Arc::clone(param)))
            .collect()
    }

    /// Trains from now on only the parameters that are not `frozen`, by their names. A backward pass ends at the lowest layer that
    /// has one of them.
    pub fn freeze(&self, frozen: &dyn Fn(&str) -> bool) {
        let count = self.decoder.layers.len();
        let mut lowest = count;
        for (part, param) in self.params_by_part() {
            param.set_frozen(frozen(param.name()));
            if !param.is_frozen() {
                lowest = lowest.min(match part {
                    Ready::Head => count,
                    Ready::Layer(layer) => layer,
                    Ready::Embedding => 0,
                });
            }
        }
        let place = &self.decoder.lowest_trained;
        place.store(lowest, std::sync::atomic::Ordering::Relaxed);
    }

    /// Memory for steps in which each of up to `rows` sequences of up to `positions` positions adds one token; see
    /// [`FewRows::new`].
    ///
    /// # Errors
    /// Out of memory.
    pub fn few_rows(&self, most: (usize, usize), alone: bool) -> Result<Option<FewRows<'_>>> {
        FewRows::new((&self.decoder, &self.head), self.dtype, most, alone)
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.decoder.device
    }

    /// Its compute type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The bytes of its frozen weights as they are stored on the device.
    pub fn weight_bytes(&self) -> u64 {
        let in_host_memory = self.decoder.embedding.offloaded_bytes();
        let all = self
            .tensors()
            .iter()
            .map(|tensor| tensor.form.frozen_bytes())
            .sum::<u64>();
        all - in_host_memory.unwrap_or(0)
    }

    /// The most bytes of layers and head that are gathered at a time, where they are spread over ranks.
    pub fn whole_bytes(&self) -> u64 {
        let units = self.decoder.units.as_ref();
        units.map_or(0, Units::most_bytes)
    }

    /// Has at most so many experts unpacked at a time; all without a number.
    pub fn unpack_at_once(&mut self, experts: Option<usize>) {
        for layer in &mut self.decoder.layers {
            if let Mlp::Mixture(mixture) = &mut layer.mlp {
                mixture.gate_up.unpacked_at_once = experts;
                mixture.down.unpacked_at_once = experts;
            }
        }
    }

    /// The bytes of the embedding, if it is on a card and can leave it.
    pub fn movable_embedding(&self) -> Option<u64> {
        let embedding = &self.decoder.embedding;
        let stays = self.device().is_cpu() || self.head.tied || embedding.weight.param().is_some();
        (!stays).then(|| embedding.weight.frozen_bytes())
    }

    /// Moves the embedding to host memory, where it is already if the model runs on the CPU.
    ///
    /// # Errors
    /// The embedding has to be on the device: it is trained, or it is the output head, too.
    pub fn offload_embedding(&mut self) -> Result<()> {
        if self.head.tied {
            bail!(
                "offload_embedding: the embedding is the output head, too (tie_word_embeddings), and must stay on the \
                 device; set offload_embedding to false"
            );
        }
        self.decoder.embedding.offload()
    }

    /// All linear modules that may have low-rank updates.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.decoder.layers.iter().flat_map(|layer| layer.linears())
    }

    /// All tuners in it.
    pub fn tuners(&self) -> impl Iterator<Item = &Tuned> {
        self.decoder.layers.iter().flat_map(|layer| layer.tuners())
    }

    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let layers = self.decoder.layers.iter_mut();
        layers.flat_map(|layer| layer.linears_mut())
    }

    /// A matrix of a layer's experts.
    pub(super) fn experts_mut(
        &mut self,
        layer: usize,
        matrix: ExpertMatrix,
    ) -> Result<&mut ExpertLinear> {
        let Some(found) = self.decoder.layers.get_mut(layer) else {
            bail!("the model has no layer {layer}");
        };
        let Mlp::Mixture(mixture) = &mut found.mlp else {
            bail!("layer {layer} has no experts");
        };
        Ok(match matrix {
            ExpertMatrix::GateUp => &mut mixture.gate_up,
            ExpertMatrix::Down => &mut mixture.down,
        })
    }
}
