//! What the way through a library costs: the built-in components linked in (`""`) beside the same source
//! loaded (`so_`), and one tensor operation through the handle beside candle's own.

use apus_components::plugin::PluginSpec;
use apus_components::registry;
use apus_components::registry::Spec;
use apus_data::chat::EncodeOptions;
use apus_data::data::{Formats, PrepareOptions, Record, prepare};
use apus_engine::host::wrap;
use apus_engine::setup::{ChatOptions, encoder};
use apus_engine::train::OptimizerHost;
use apus_model::nn::Param;
use candle_core::{Device, Tensor};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::Path;

const WAYS: [&str; 2] = ["", "so_"];

fn main() {
    apus_plugins::link();
    let file = format!("{DLL_PREFIX}builtins_plugin{DLL_SUFFIX}");
    let spec = PluginSpec {
        prefix: Some("so_".to_owned()),
        ..PluginSpec::new(std::env::current_exe().unwrap().with_file_name(file))
    };
    registry::load(&[spec]).unwrap();
    divan::main();
}

/// Ten thousand conversations of three turns through format, loss scale and tokenizer.
#[divan::bench(args = WAYS, sample_count = 20, sample_size = 1)]
fn ten_thousand_conversations(bencher: divan::Bencher, way: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny/model_mxfp4");
    let scales = ["default", "ignore_empty_think"].map(|name| Spec::named(format!("{way}{name}")));
    let encoder = encoder(ChatOptions {
        dir: &dir,
        model_dir: None,
        backend: "native",
        loss_scale: &scales,
        encode: EncodeOptions::default(),
    })
    .unwrap();
    let name = format!("{way}messages");
    let format = registry::build(&Spec::named(name.as_str())).unwrap();
    let formats = Formats::new(vec![(name.clone(), format)], Some(&name)).unwrap();
    let turn = |i: usize, t: usize| {
        format!(
            r#"{{"role":"user","content":"Question {t} about number {i}: what follows from it, and why?"}},
               {{"role":"assistant","content":"<think>\n\n</think>\n\nFrom {i} follows {}, since each step adds the same amount and nothing else changes. That is all there is to it."}}"#,
            i * 7 % 991 + t
        ).replace('\n', " ").replace("<think>    </think>    ", "<think>\\n\\n</think>\\n\\n")
    };
    let records: Vec<Record> = (0..10_000)
        .map(|i| Record {
            source: "bench.jsonl".into(),
            line: i + 1,
            text: format!(
                r#"{{"messages":[{},{},{}]}}"#,
                turn(i, 0),
                turn(i, 1),
                turn(i, 2)
            ),
            format: None,
        })
        .collect();
    let options = PrepareOptions::default();
    bencher.bench_local(|| {
        prepare(&records, &formats, &encoder, &options, &|_| {})
            .unwrap()
            .samples
            .len()
    });
}

/// AdamW over 96 parameters of a LoRA adapter's size.
#[divan::bench(args = WAYS)]
fn adamw_step(bencher: divan::Bencher, way: &str) {
    let params = (0..96).map(|i| {
        let value = Tensor::randn(0f32, 1.0, (8, 2880), &Device::Cpu).unwrap();
        Param::new(format!("layers.{i}.lora_A.weight"), &value, true).unwrap()
    });
    let params: Vec<_> = params.collect();
    for param in &params {
        param.accumulate(param.value().copy().unwrap()).unwrap();
    }
    let optimizer = registry::named(&Spec::named(format!("{way}adamw"))).unwrap();
    let mut host = OptimizerHost::new(optimizer, params);
    bencher.bench_local(|| host.step(1e-4).unwrap());
}

/// One element plus one, by candle itself and through the handle.
#[divan::bench(args = ["candle", "handle"], sample_size = 1000)]
fn add_of_one_element(bencher: divan::Bencher, way: &str) {
    let x = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    let handle = wrap(x.clone());
    match way {
        "candle" => bencher.bench_local(|| x.broadcast_add(&x).unwrap()),
        _ => bencher.bench_local(|| handle.add(&handle).unwrap()),
    }
}
