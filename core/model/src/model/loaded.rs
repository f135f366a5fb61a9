//! The tensors of a loaded model by their roles, and how each is stored.

use super::CausalLm;
use crate::nn::{DecoderLayer, ExpertLinear, ExpertWeight, Linear, Mlp, Norm, Param, Weight};
use crate::tensors::{ExpertMatrix, Part, Role};
use std::sync::Arc;

/// A tensor of a loaded model.
pub struct LoadedTensor<'a> {
    /// The layer that it is in, unless it is before or behind all layers.
    pub layer: Option<usize>,
    /// What it is for.
    pub role: Role,
    /// Whether it is the weight or the bias.
    pub part: Part,
    /// How it is stored.
    pub form: LoadedForm<'a>,
}

/// How a tensor is stored.
pub enum LoadedForm<'a> {
    /// As numbers.
    Plain(&'a Weight),
    /// As MXFP4.
    Packed {
        /// Two values in each byte.
        blocks: &'a Weight,
        /// Powers of two.
        scales: &'a Weight,
    },
}

impl LoadedForm<'_> {
    /// The parameter, if it is trained.
    pub fn param(&self) -> Option<&Arc<Param>> {
        match self {
            Self::Plain(weight) => weight.param(),
            Self::Packed { .. } => None,
        }
    }

    /// Its bytes, if it is frozen; of one that is spread over ranks those of a rank.
    pub fn frozen_bytes(&self) -> u64 {
        match self {
            Self::Plain(weight) => weight.frozen_bytes(),
            Self::Packed { blocks, scales } => blocks.frozen_bytes() + scales.frozen_bytes(),
        }
    }
}

impl CausalLm {
    /// All its tensors. The embedding counts once, if it is the output head, too.
    pub fn tensors(&self) -> Vec<LoadedTensor<'_>> {
        let mut found = Found {
            layer: None,
            tensors: Vec::new(),
        };
        let (decoder, head) = (self.decoder(), self.head());
        found.weight(Role::Embedding, &decoder.embedding.weight);
        for (index, layer) in decoder.layers.iter().enumerate() {
            found.layer = Some(index);
            found.layer(layer);
        }
        found.layer = None;
        found.norm(Role::FinalNorm, &head.norm);
        if !head.tied {
            found.linear(Role::Head, &head.lm_head);
        }
        found.tensors
    }
}

struct Found<'a> {
    layer: Option<usize>,
    tensors: Vec<LoadedTensor<'a>>,
}

impl<'a> Found<'a> {
    fn add(&mut self, role: Role, part: Part, form: LoadedForm<'a>) {
        self.tensors.push(LoadedTensor {
            layer: self.layer,
            role,
            part,
            form,
        });
    }

    fn weight(&mut self, role: Role, weight: &'a Weight) {
        self.add(role, Part::Weight, LoadedForm::Plain(weight));
    }

    fn bias(&mut self, role: Role, bias: Option<&'a Weight>) {
        if let Some(bias) = bias {
            self.add(role, Part::Bias, LoadedForm::Plain(bias));
        }
    }

    fn linear(&mut self, role: Role, linear: &'a Linear) {
        self.weight(role, &linear.weight);
        self.bias(role, linear.bias.as_ref());
    }

    fn norm(&mut self, role: Role, norm: &'a Norm) {
        self.weight(role, &norm.weight);
    }

    fn experts(&mut self, matrix: ExpertMatrix, experts: &'a ExpertLinear) {
        let role = Role::Experts(matrix);
        match &experts.matrix {
            ExpertWeight::Dense(weight) => self.weight(role, weight),
            ExpertWeight::Packed { blocks, scales } => {
                let form = LoadedForm::Packed { blocks, scales };
                self.add(role, Part::Weight, form);
            }
        }
        self.bias(role, experts.bias.as_ref());
    }

    fn layer(&mut self, layer: &'a DecoderLayer) {
        let attention = &layer.attention;
        let roles = [Role::Query, Role::Key, Role::Value];
        for (role, linear) in roles.into_iter().zip(attention.qkv.layers()) {
            self.linear(role, linear);
        }
        let [output] = attention.output.layers();
        self.linear(Role::Output, output);
        if let Some(sinks) = &attention.sinks {
            self.weight(Role::Sinks, sinks);
        }
        if let Some(norms) = &attention.qk_norms {
            self.norm(Role::QueryNorm, &norms.q_norm);
            self.norm(Role::KeyNorm, &norms.k_norm);
        }
        self.norm(Role::AttentionNorm, &layer.input_norm);
        self.norm(Role::MlpNorm, &layer.post_norm);
        match &layer.mlp {
            Mlp::Dense(mlp) => {
                let roles = [Role::Gate, Role::Up, Role::Down];
                for (role, linear) in roles.into_iter().zip(mlp.linears()) {
                    self.linear(role, linear);
                }
            }
            Mlp::Mixture(mixture) => {
                self.linear(Role::Router, &mixture.router);
                self.experts(ExpertMatrix::GateUp, &mixture.gate_up);
                self.experts(ExpertMatrix::Down, &mixture.down);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::ModelConfig;
    use crate::families::testing::dense;
    use crate::model::LoadOptions;
    use crate::synthetic::SyntheticWeights;
    use crate::weights::{Directory, WeightSource};
    use candle_core::Device;
    use std::path::Path;

    fn load(config: &ModelConfig, source: &dyn WeightSource) -> CausalLm {
        let options = LoadOptions::frozen(&Device::Cpu);
        CausalLm::load(config, source, &options, |_| {}).unwrap()
    }

    /// A loaded model has the tensors of the list, and no others.
    fn check(config: &ModelConfig, source: &dyn WeightSource) {
        let model = load(config, source);
        let mut loaded = model.tensors();
        loaded.sort_by_key(|tensor| (tensor.layer, tensor.role, tensor.part));
        let list = config.tensors();
        let mut listed: Vec<_> = list.iter().collect();
        listed.sort_by_key(|spec| (spec.layer, spec.role, spec.part));
        assert_eq!(loaded.len(), listed.len());
        for (tensor, spec) in loaded.iter().zip(listed) {
            let place = (tensor.layer, tensor.role, tensor.part);
            assert_eq!(place, (spec.layer, spec.role, spec.part));
            match &tensor.form {
                LoadedForm::Plain(weight) => assert_eq!(weight.dims(), spec.shape),
                LoadedForm::Packed { blocks, .. } => {
                    let [packed, _] = spec.packed().unwrap();
                    assert_eq!(blocks.dims(), packed.shape);
                }
            }
        }
    }

    #[test]
    fn what_is_listed_is_loaded() {
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/tiny");
        for form in ["model_mxfp4", "model_bf16"] {
            let dir = Path::new(goldens).join(form);
            let config = ModelConfig::read(&dir.join("config.json")).unwrap();
            check(&config, &Directory::open(&dir).unwrap());
        }
        for tied in [false, true] {
            let config = dense(tied);
            check(&config, &SyntheticWeights::new(&config, 1));
        }
    }

    #[test]
    fn the_weight_of_a_tied_head_is_there_once() {
        let bytes = |tied| {
            let config = dense(tied);
            let model = load(&config, &SyntheticWeights::new(&config, 1));
            assert_eq!(model.weight_bytes(), 4 * config.tensors().parameters());
            model.weight_bytes()
        };
        assert_eq!(bytes(false) - bytes(true), 4 * 100 * 16);
    }
}
