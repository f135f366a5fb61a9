//! Blocks against formulas and finite differences, in the forms that the reference model does not have: dense MLPs, attention
//! without sinks and biases, norms of queries and keys, a tied head.

mod attention;
mod blocks;
mod decoder;
mod mlp;

use super::*;
use crate::families::{
    Architecture, AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, Rope,
};
use crate::ops::swiglu::Activation;
use crate::ops::testing::{dot, finite_differences, random, values};
use crate::ops::{Heads, SeqLayout};
use candle_core::{DType, Device, Tensor};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

const HIDDEN: usize = 10;
const HEADS: Heads = Heads {
    q: 4,
    kv: 2,
    dim: 4,
};

/// Makes blocks of random weights.
struct Maker {
    /// Whether the weights are trained; otherwise linear layers get low-rank updates.
    trained: bool,
    seed: Cell<u64>,
    params: RefCell<Vec<Arc<Param>>>,
}

impl Maker {
    fn new(trained: bool) -> Self {
        Self {
            trained,
            seed: Cell::new(1),
            params: RefCell::default(),
        }
    }

    fn tensor(&self, shape: &[usize], scale: f64) -> Tensor {
        self.seed.set(self.seed.get() + 1);
        (random(self.seed.get(), shape) * scale).unwrap()
    }

    fn param(&self, value: &Tensor) -> Arc<Param> {
        let name = format!("parameter {}", self.seed.get());
        let param = Param::new(name, value, true).unwrap();
        self.params.borrow_mut().push(param.clone());
        param
    }

    fn weight(&self, value: Tensor) -> Weight {
        match self.trained {
            true => Weight::Trainable(self.param(&value)),
            false => Weight::Frozen(value),
        }
    }

    fn linear(&self, inputs: usize, outputs: usize, bias: bool) -> Linear {
        let scale = 1.0 / (inputs as f64).sqrt();
        let part = |shape: [usize; 2]| self.param(&self.tensor(&shape, 0.4));
        let weight = self.weight(self.tensor(&[outputs, inputs], scale));
        let bias = bias.then(|| self.weight(self.tensor(&[outputs], 0.3)));
        let lora = (!self.trained).then(|| Lora {
            a: part([2, inputs]),
            b: part([outputs, 2]),
            magnitude: None,
            scale: 0.7,
            dropout: 0.0,
        });
        Linear {
            name: "linear".to_owned(),
            weight,
            bias,
            lora,
            tuned: None,
        }
    }

    fn norm(&self, width: usize) -> Norm {
        Norm {
            name: "norm".to_owned(),
            weight: self.weight((self.tensor(&[width], 0.3) + 1.0).unwrap()),
            eps: 1e-6,
        }
    }

    fn attention(&self, spec: &AttentionSpec) -> Attention {
        let projection = |outputs| self.linear(HIDDEN, outputs, spec.qkv_bias);
        let qkv = [spec.width(), spec.kv_width(), spec.kv_width()].map(projection);
        let output = self.linear(spec.width(), HIDDEN, spec.output_bias);
        Attention {
            qkv: Projections::new(qkv).unwrap(),
            output: Projections::new([output]).unwrap(),
            qk_norms: spec.qk_norms.then(|| QkNorms {
                q_norm: self.norm(spec.heads.dim),
                k_norm: self.norm(spec.heads.dim),
            }),
            sinks: spec
                .sinks
                .then(|| self.weight(self.tensor(&[spec.heads.q], 1.0))),
            heads: spec.heads,
            window: spec.window,
        }
    }

    fn dense(&self, spec: &DenseSpec) -> DenseMlp {
        let f = spec.intermediate_size;
        let gate_up = [f, f].map(|f| self.linear(HIDDEN, f, spec.bias));
        DenseMlp {
            gate_up: Projections::new(gate_up).unwrap(),
            down: Projections::new([self.linear(f, HIDDEN, spec.bias)]).unwrap(),
            activation: spec.activation,
        }
    }

    fn experts(&self, [e, i, o]: [usize; 3], bias: bool) -> ExpertLinear {
        let scale = 1.0 / (i as f64).sqrt();
        let part = |shape: [usize; 2]| self.param(&self.tensor(&shape, 0.4));
        ExpertLinear {
            name: "experts".to_owned(),
            matrix: ExpertWeight::Dense(self.weight(self.tensor(&[e, i, o], scale))),
            bias: bias.then(|| self.weight(self.tensor(&[e, o], 0.3))),
            lora: (!self.trained).then(|| ExpertLora {
                a: part([2 * e, i]),
                b: part([o, 2 * e]),
                scale: 0.7,
                experts: e,
            }),
            tuned: None,
            unpacked_at_once: None,
        }
    }

    fn mixture(&self, spec: &MixtureSpec) -> Mixture {
        let (e, f) = (spec.experts, spec.intermediate_size);
        let mut router = self.linear(HIDDEN, e, spec.router_bias);
        router.lora = None;
        Mixture {
            router,
            gate_up: self.experts([e, HIDDEN, 2 * f], spec.bias),
            down: self.experts([e, f, HIDDEN], spec.bias),
            experts_per_token: spec.experts_per_token,
            activation: spec.activation,
            tuned: None,
        }
    }

    fn layer(&self, spec: &LayerSpec) -> DecoderLayer {
        DecoderLayer {
            input_norm: self.norm(HIDDEN),
            attention: self.attention(&spec.attention),
            post_norm: self.norm(HIDDEN),
            mlp: match &spec.mlp {
                MlpSpec::Dense(spec) => Mlp::Dense(Box::new(self.dense(spec))),
                MlpSpec::Mixture(spec) => Mlp::Mixture(Box::new(self.mixture(spec))),
            },
            tuned: BlockTuners::default(),
        }
    }

    fn decoder(&self, spec: &Architecture) -> (Decoder, Head) {
        let embedding = self.weight(self.tensor(&[spec.vocab_size, HIDDEN], 1.0));
        let layers = spec.layers.iter().map(|layer| self.layer(layer)).collect();
        let lm_head = match spec.tie_word_embeddings {
            true => embedding.clone(),
            false => self.weight(self.tensor(&[spec.vocab_size, HIDDEN], 0.3)),
        };
        let head = Head {
            norm: self.norm(HIDDEN),
            lm_head: Linear {
                name: "lm_head".to_owned(),
                weight: lm_head,
                bias: None,
                lora: None,
                tuned: None,
            },
            tied: spec.tie_word_embeddings,
        };
        let decoder = Decoder {
            embedding: Embedding::new(embedding, &Device::Cpu, DType::F32),
            layers,
            angles: Angles::new(spec, &Device::Cpu),
            device: Device::Cpu,
            lowest_trained: Default::default(),
            units: None,
        };
        (decoder, head)
    }

    /// Checks the gradients of all parameters that a backward pass has accumulated, each along some directions.
    #[track_caller]
    fn check_gradients(&self, loss: impl Fn() -> f64) {
        let params = self.params.borrow();
        assert!(!params.is_empty());
        for param in params.iter() {
            let Some(grad) = param.take_grad() else {
                panic!("{} has no gradient", param.name())
            };
            let value = param.value().copy().unwrap();
            for seed in 200..203 {
                let direction = random(seed, value.dims());
                let length = dot(&direction, &direction).sqrt();
                let direction = (direction / length).unwrap();
                let at = |step: f64| {
                    let moved = (&value + (&direction * step).unwrap()).unwrap();
                    param.set(&moved).unwrap();
                    loss()
                };
                let step = 2e-2;
                let near = at(step) - at(-step);
                let numeric = (8.0 * near - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
                let found = dot(&grad, &direction);
                let scale = dot(&grad, &grad).sqrt().max(1e-3);
                assert!(
                    (numeric - found).abs() <= 3e-3 * scale,
                    "{} {:?}: gradient {found}, finite differences {numeric}",
                    param.name(),
                    value.dims()
                );
            }
            param.set(&value).unwrap();
        }
    }
}

/// Plain attention as in most dense models: queries and keys are normed, there are neither sinks nor biases.
fn plain_attention(window: Option<usize>) -> AttentionSpec {
    AttentionSpec {
        heads: HEADS,
        window,
        sinks: false,
        qk_norms: true,
        qkv_bias: false,
        output_bias: false,
    }
}

fn plain_mlp() -> DenseSpec {
    DenseSpec {
        intermediate_size: 7,
        activation: Activation::Swiglu,
        bias: false,
    }
}

/// Experts without biases.
fn plain_experts() -> MixtureSpec {
    MixtureSpec {
        experts: 5,
        experts_per_token: 2,
        intermediate_size: 6,
        activation: Activation::Swiglu,
        bias: false,
        router_bias: false,
    }
}

fn architecture(layers: Vec<LayerSpec>, tied: bool) -> Architecture {
    Architecture {
        hidden_size: HIDDEN,
        vocab_size: 12,
        max_position_embeddings: 300,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 10_000.0,
            yarn: None,
        },
        tie_word_embeddings: tied,
        layers,
    }
}

/// `x w^T + b` for the layer as it is computed, its low-rank update included, in f64.
fn product(x: &[f64], layer: &Linear) -> Vec<f64> {
    let (inputs, outputs) = layer.dims();
    let mut w = values(&layer.weight.get(DType::F32).unwrap());
    if let Some(lora) = &layer.lora {
        let merged = lora.merged(&layer.weight.get(DType::F32).unwrap());
        w = values(&merged.unwrap());
    }
    let bias = layer
        .bias
        .as_ref()
        .map(|b| values(&b.get(DType::F32).unwrap()));
    let mut y = Vec::new();
    for row in x.chunks(inputs) {
        for (o, w) in w.chunks(inputs).enumerate() {
            let sum: f64 = row.iter().zip(w).map(|(x, w)| x * w).sum();
            y.push(sum + bias.as_ref().map_or(0.0, |bias| bias[o]));
        }
    }
    assert_eq!(y.len() * inputs, x.len() * outputs);
    y
}

/// Sequences of these lengths in a batch.
fn batch(lengths: &[usize], spec: &Architecture) -> BatchLayout {
    let seqs = SeqLayout::new(lengths, &Device::Cpu).unwrap();
    BatchLayout {
        rope: Angles::new(spec, &Device::Cpu).table(seqs.max_len).unwrap(),
        rows: crate::ops::Groups::one(seqs.tokens(), &Device::Cpu).unwrap(),
        seqs,
    }
}
