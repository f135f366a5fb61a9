//! One training step on the CPU: forward, backward, AdamW.

use apus_components::registry;
use apus_components::registry::Named;
use apus_components::registry::Spec;
use apus_engine::train::{MicroBatch, OptimizerHost, Sequence, Step, Window};
use apus_model::families::ModelConfig;
use apus_model::model::{CausalLm, Init, LoadOptions, LoraSettings};
use apus_model::nn::ForwardOptions;
use apus_model::{adapter, synthetic, weights};
use apus_sdk::{Loss, Optimizer};
use candle_core::Device;
use std::path::Path;

fn main() {
    apus_plugins::link();
    divan::main();
}

/// A model with LoRA on attention and on the experts of its last layer, its optimizer and its loss.
struct Bench {
    model: CausalLm,
    optimizer: OptimizerHost,
    loss: Named<dyn Loss>,
    window: Window,
}

impl Bench {
    fn new(
        config: &ModelConfig,
        source: &dyn weights::WeightSource,
        sequences: usize,
        length: usize,
    ) -> Self {
        let options = LoadOptions::frozen(&Device::Cpu);
        let mut model = CausalLm::load(config, source, &options, |_| {}).unwrap();
        let last = config.architecture.layers.len() - 1;
        let wanted = adapter::TargetSpec {
            modules: vec!["all-linear".to_owned()],
            parameters: ["gate_up_proj", "down_proj"]
                .map(|p| format!("{last}.mlp.experts.{p}"))
                .to_vec(),
            ..adapter::TargetSpec::default()
        };
        let settings = LoraSettings {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: Init::Kaiming,
            seed: 1,
        };
        model
            .add_lora(&adapter::resolve(config, &wanted).unwrap(), &settings)
            .unwrap();
        let adamw = registry::named::<dyn Optimizer>(&Spec::named("adamw")).unwrap();
        let ids: Vec<u32> = (0..length as u32)
            .map(|i| i * 37 % config.architecture.vocab_size as u32)
            .collect();
        let labels: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let rows = (0..sequences).map(|_| (ids.as_slice(), labels.as_slice(), None) as Sequence);
        Self {
            optimizer: OptimizerHost::new(adamw, model.params().to_vec()),
            loss: registry::named(&Spec::named("cross_entropy")).unwrap(),
            window: Window::whole(vec![MicroBatch::new(rows, &Device::Cpu).unwrap()]),
            model,
        }
    }

    fn step(&mut self) -> f64 {
        let options = ForwardOptions {
            training: true,
            ..ForwardOptions::default()
        };
        let step = Step {
            model: &self.model,
            loss: &self.loss,
            max_grad_norm: 1.0,
            ranks: None,
        };
        let report = step.make(&mut self.optimizer, &self.window, &options, &mut 1e-4);
        report.unwrap().loss
    }
}

/// The reference model, 4 sequences of 32 tokens.
#[divan::bench]
fn reference_model(bencher: divan::Bencher) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny/model_mxfp4");
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let source = weights::Directory::open(&dir).unwrap();
    let mut bench = Bench::new(&config, &source, 4, 32);
    bencher.bench_local(|| bench.step());
}

/// The quickstart's shape with random weights, 8 sequences of 128 tokens.
#[divan::bench]
fn quickstart_shape(bencher: divan::Bencher) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny-gpt-oss/model/config.json");
    let config = ModelConfig::read(&path).unwrap();
    let mut bench = Bench::new(
        &config,
        &synthetic::SyntheticWeights::new(&config, 1),
        8,
        128,
    );
    bencher.bench_local(|| bench.step());
}
