//! LoRA gradients and whole training curves against transformers + PEFT
//! (tests/goldens/tiny/README.md, with the tolerances it suggests).

#[path = "../../data/tests/builtins/mod.rs"]
mod builtins;
mod common;

use apus_components::registry::Spec;
use apus_components::registry::{self, Named};
use apus_engine::train::{MicroBatch, OptimizerHost, Sequence, Step, Window, head_loss};
use apus_engine::tuners;
use apus_model::model::{CausalLm, ExpertsDtype, Init, LoraSettings, Targets, Training};
use apus_model::nn::ForwardOptions;
use apus_model::tensors::ExpertMatrix;
use apus_sdk::abi::Crosses;
use apus_sdk::{Loss, LrSchedule, Optimizer, Progress};
use builtins::ways;
use candle_core::{DType, Device, Tensor};
use common::{golden, load, load_on, max_gap, tensors, unpad};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// Makes a component by name.
fn component<K: Crosses + ?Sized>(name: &str, options: Value) -> Named<K> {
    apus_plugins::link();
    registry::named(&Spec {
        name: name.to_owned(),
        options: options.as_object().unwrap().clone(),
    })
    .unwrap()
}

fn targets(model: &CausalLm, experts: &[usize]) -> Targets {
    Targets {
        blocks: Vec::new(),
        linears: model.linears().map(|linear| linear.name.clone()).collect(),
        experts: experts
            .iter()
            .flat_map(|&layer| [(layer, ExpertMatrix::GateUp), (layer, ExpertMatrix::Down)])
            .collect(),
        own: BTreeMap::new(),
        modules_to_save: vec![],
    }
}

const SETTINGS: LoraSettings = LoraSettings {
    rank: 4,
    alpha: 8.0,
    dropout: 0.0,
    use_rslora: false,
    use_dora: false,
    init: Init::Kaiming,
    seed: 1,
};

fn adapted(form: &str, adapter: &str, experts: &[usize], settings: &LoraSettings) -> CausalLm {
    let tuner = tuners::lora(settings, None, Default::default());
    adapted_on(&Device::Cpu, form, adapter, experts, &tuner)
}

fn adapted_on(
    device: &Device,
    form: &str,
    adapter: &str,
    experts: &[usize],
    tuner: &Spec,
) -> CausalLm {
    apus_plugins::link();
    let training = Training::Adapters(vec![]);
    let mut model = load_on(device, form, ExpertsDtype::Mxfp4, training);
    let targets = targets(&model, experts);
    let tuner = tuners::make(tuner).unwrap();
    let updates = tuners::additions(&tuner, model.config(), &targets).unwrap();
    assert!(updates.iter().all(|update| update.low_rank.is_some()));
    model.add_tuned(&updates, Some(SETTINGS.seed)).unwrap();
    let saved = tensors(&format!("{adapter}/adapter_model.safetensors"));
    assert_eq!(saved.len(), model.params().len());
    for param in model.params() {
        param.set(&saved[param.name()]).unwrap();
    }
    model
}

/// The batch of the forward and gradient references.
fn reference_batch() -> MicroBatch {
    let all = tensors("forward.safetensors");
    let ids = unpad(&all, "batch.input_ids", "batch.attention_mask");
    let labels = unpad(&all, "batch.labels", "batch.attention_mask");
    micro_batch(&ids, &labels)
}

fn micro_batch(ids: &[Vec<i64>], labels: &[Vec<i64>]) -> MicroBatch {
    micro_batch_on(&Device::Cpu, ids, labels)
}

fn micro_batch_on(device: &Device, ids: &[Vec<i64>], labels: &[Vec<i64>]) -> MicroBatch {
    let ids: Vec<Vec<u32>> = ids
        .iter()
        .map(|row| row.iter().map(|&id| id as u32).collect())
        .collect();
    let rows = ids
        .iter()
        .zip(labels)
        .map(|(i, l)| (i.as_slice(), l.as_slice(), None) as Sequence);
    MicroBatch::new(rows, device).unwrap()
}

/// Rows of the logits on the reference batch, as `logit_rows` lists them.
fn reference_logits(model: &CausalLm) -> Tensor {
    let batch = reference_batch();
    let (hidden, _) = model
        .decoder()
        .forward(&batch.ids, &batch.seqs, &ForwardOptions::default())
        .unwrap();
    let rows = tensors("lora.safetensors")["logit_rows"]
        .to_dtype(DType::I64)
        .unwrap();
    let starts: Vec<usize> = batch.seqs.ranges().map(|(start, _)| start).collect();
    let rows = rows.to_vec2::<i64>().unwrap();
    let rows: Vec<u32> = rows
        .iter()
        .map(|r| starts[r[0] as usize] as u32 + r[1] as u32)
        .collect();
    let picked = hidden.index_select(&Tensor::new(rows.as_slice(), &Device::Cpu).unwrap(), 0);
    let (normed, _) = model.head().forward(&picked.unwrap()).unwrap();
    model.head().logits(&normed).unwrap()
}

#[test]
fn lora_gradients() {
    let info: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("info.json")).unwrap()).unwrap();
    let expected = tensors("lora.safetensors");
    let loss = component::<dyn Loss>("cross_entropy", json!({}));
    let cases: [(&str, &[usize], LoraSettings); 4] = [
        ("attn", &[], SETTINGS),
        ("attn_experts", &[1, 3], SETTINGS),
        (
            "attn_rslora",
            &[],
            LoraSettings {
                use_rslora: true,
                ..SETTINGS
            },
        ),
        (
            "attn_dora",
            &[],
            LoraSettings {
                use_dora: true,
                ..SETTINGS
            },
        ),
    ];
    for (tag, experts, settings) in cases {
        for form in ["model_mxfp4", "model_bf16"] {
            let model = adapted(form, &format!("adapter_grad_{tag}"), experts, &settings);
            let gap = max_gap(
                &reference_logits(&model),
                &expected[&format!("{tag}.batch_logits")],
            );
            assert!(gap < 2e-4, "{tag} logits: {gap}");
            let batch = reference_batch();
            let mut runs = Vec::new();
            for kept_layers in [0, 2, 4] {
                let options = ForwardOptions {
                    training: true,
                    kept_layers,
                    ..Default::default()
                };
                let found = batch
                    .train(&model, &loss, batch.targets(), &options, &mut |_| Ok(()))
                    .unwrap();
                let mean = found.loss.sum / batch.targets() as f64;
                let wanted = info["lora_grads"][tag]["loss"].as_f64().unwrap();
                assert!(
                    (mean - wanted).abs() < 2e-5,
                    "{tag}: loss {mean}, expected {wanted}"
                );
                let grads: HashMap<String, Tensor> = model
                    .params()
                    .iter()
                    .map(|p| (p.name().to_owned(), p.take_grad().unwrap()))
                    .collect();
                runs.push(grads);
            }
            for (name, grad) in &runs[0] {
                let key = match expected.get(&format!("{tag}.grad.{name}")) {
                    Some(_) => format!("{tag}.grad.{name}"),
                    None => format!("{tag}.grad.{name}.weight"),
                };
                let wanted = &expected[&key];
                let scale = max_gap(&wanted.zeros_like().unwrap(), wanted);
                let gap = max_gap(grad, wanted);
                assert!(gap < 1e-3 * scale, "{form} {key}: off by {gap} of {scale}");
                for other in &runs[1..] {
                    assert_eq!(
                        max_gap(grad, &other[name]),
                        0.0,
                        "{name}: recomputed differs"
                    );
                }
            }
        }
    }
}

struct Curve {
    name: &'static str,
    experts: &'static [usize],
}

/// Follows a curve with the built-in components linked in, and loaded: the same bits both ways.
fn follow(curve: &Curve) {
    let [linked, loaded] = ways().map(|way| follow_with(way, curve, &Device::Cpu));
    assert_eq!(
        linked, loaded,
        "{}: linked in and loaded differ",
        curve.name
    );
}

/// Loss and gradient norm of each step; on the CPU all is held to the reference.
fn follow_with(way: &str, curve: &Curve, device: &Device) -> Vec<(f64, f64)> {
    let mut followed = Vec::new();
    let curves: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("curves.json")).unwrap()).unwrap();
    let (hyper, steps) = (&curves[curve.name]["hyper"], &curves[curve.name]["steps"]);
    let number = |name: &str| hyper[name].as_f64().unwrap();
    let data = tensors("train_data.safetensors");
    let init = hyper["init_adapter"].as_str().unwrap();
    let mut lora = tuners::lora(
        &SETTINGS,
        hyper["loraplus_lr_ratio"].as_f64(),
        Default::default(),
    );
    lora.name.insert_str(0, way);
    let model = adapted_on(device, "model_mxfp4", init, curve.experts, &lora);
    let loss = component::<dyn Loss>(&format!("{way}cross_entropy"), json!({}));
    let adamw = component::<dyn Optimizer>(
        &format!("{way}adamw"),
        json!({"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": number("weight_decay")}),
    );
    let schedule = component::<dyn LrSchedule>(
        &format!("{way}cosine_with_min_lr"),
        json!({"min_lr_rate": number("min_lr_rate")}),
    );
    let mut optimizer = OptimizerHost::new(adamw, model.params().to_vec());
    let accumulation = hyper["grad_accum"].as_u64().unwrap() as usize;
    let total = hyper["steps"].as_u64().unwrap();
    for step in 0..total as usize {
        let batches: Vec<MicroBatch> = (step * accumulation..(step + 1) * accumulation)
            .map(|at| {
                let rows = |part: &str| data[&format!("{}.{part}", curve.name)].get(at).unwrap();
                let all: HashMap<String, Tensor> = ["input_ids", "labels", "attention_mask"]
                    .map(|part| (part.to_owned(), rows(part)))
                    .into();
                let ids = unpad(&all, "input_ids", "attention_mask");
                micro_batch_on(device, &ids, &unpad(&all, "labels", "attention_mask"))
            })
            .collect();
        let window: usize = batches.iter().map(MicroBatch::targets).sum();
        let wanted = &steps[step];
        assert_eq!(window as u64, wanted["n_target_tokens"].as_u64().unwrap());
        let options = ForwardOptions {
            training: true,
            ..Default::default()
        };
        let progress = Progress {
            step: step as u64,
            total,
            warmup: hyper["warmup_steps"].as_u64().unwrap(),
            learning_rate: number("lr"),
        };
        let mut lr = number("lr") * schedule.component.factor(&progress).unwrap();
        let one = Step {
            model: &model,
            loss: &loss,
            max_grad_norm: number("clip"),
            ranks: None,
        };
        let report = one
            .make(&mut optimizer, &Window::whole(batches), &options, &mut lr)
            .unwrap();
        let (mean, norm) = (report.loss, report.grad_norm);
        followed.push((mean, norm));
        let check = |what: &str, found: f64, tolerance: f64| {
            let wanted = wanted[what].as_f64().unwrap();
            let name = curve.name;
            assert!(
                (found - wanted).abs() <= tolerance,
                "{name} step {step} {what}: {found} {wanted}"
            );
        };
        if device.is_cpu() {
            check("loss", mean, 1e-4);
            let tolerance = 1e-3 * wanted["grad_norm"].as_f64().unwrap();
            check("grad_norm", norm, tolerance);
        }
        check("lr", lr, 1e-10);
    }
    if !device.is_cpu() {
        return followed;
    }
    let last = tensors(&format!(
        "adapter_final_{}/adapter_model.safetensors",
        curve.name
    ));
    for param in model.params() {
        let gap = max_gap(&param.value(), &last[param.name()]);
        assert!(gap < 3e-4, "{} {}: {gap}", curve.name, param.name());
    }
    let key = format!("{}.final_batch_logits", curve.name);
    if let Some(wanted) = tensors("lora.safetensors").get(&key) {
        let gap = max_gap(&reference_logits(&model), wanted);
        assert!(gap < 5e-3, "{key}: {gap}");
    }
    followed
}

const A: Curve = Curve {
    name: "a_attn",
    experts: &[],
};
const B: Curve = Curve {
    name: "b_attn_experts",
    experts: &[1, 3],
};
const C: Curve = Curve {
    name: "c_fast_accum2_wd",
    experts: &[1, 3],
};

#[test]
fn curve_a_attention() {
    follow(&A);
}

#[test]
fn curve_b_attention_and_experts() {
    follow(&B);
}

#[test]
fn curve_c_accumulation_weight_decay_clipping() {
    follow(&C);
}

/// bf16 on a card against f32 on the CPU: every loss within 2 %.
#[test]
#[cfg(feature = "cuda")]
fn curves_on_a_card() {
    let device = match apus_model::device::open("cuda") {
        Ok(device) => device,
        Err(error) if std::env::var_os("APUS_REQUIRE_CUDA").is_some() => panic!("{error:#}"),
        Err(error) => return println!("skipped: no CUDA device ({error:#})"),
    };
    for curve in [A, B, C] {
        let on_cpu = follow_with("", &curve, &Device::Cpu);
        let on_card = follow_with("", &curve, &device);
        let gap = |((a, _), (b, _)): (&(f64, f64), &(f64, f64))| (a - b).abs() / a;
        let greatest = on_cpu.iter().zip(&on_card).map(gap).fold(0.0, f64::max);
        println!("{}: off by {:.2} % at most", curve.name, 100.0 * greatest);
        assert!(greatest < 0.02, "{}: {on_cpu:?} {on_card:?}", curve.name);
    }
}

#[test]
fn curve_d_loraplus() {
    follow(&Curve {
        name: "d_loraplus",
        experts: &[],
    });
}

#[test]
fn gradients_of_every_weight_by_finite_differences() {
    let model = load("model_bf16", ExpertsDtype::Dense, Training::Full);
    let loss = component::<dyn Loss>("cross_entropy", json!({}));
    let batch = reference_batch();
    let options = ForwardOptions {
        training: true,
        kept_layers: 1,
        aux_coef: 0.5,
        ..Default::default()
    };
    batch
        .train(&model, &loss, batch.targets(), &options, &mut |_| Ok(()))
        .unwrap();
    let value = || -> f64 {
        let (hidden, pass) = model
            .decoder()
            .forward(&batch.ids, &batch.seqs, &options)
            .unwrap();
        let found = head_loss(model.head(), &loss, hidden, &batch.supervised, None);
        found.unwrap().sum / batch.targets() as f64 + 0.5 * pass.aux_loss().unwrap()
    };
    let expected = 3 + 4 * (8 + 1 + 2 + 2 + 4);
    assert_eq!(model.params().len(), expected);
    for param in model.params() {
        let before = param.value().copy().unwrap();
        let grad = param.grad().unwrap();
        let norm = grad
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            .sqrt();
        assert!(norm > 0.0, "{} has no gradient", param.name());
        // Along the gradient itself, the slope is its norm.
        let size = before
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            .sqrt();
        let step = f64::from((2e-3 / norm).min(2e-3 * size.max(0.1)));
        let along = (&grad / f64::from(norm)).unwrap();
        let at = |s: f64| {
            param
                .set(&(&before + (&along * s).unwrap()).unwrap())
                .unwrap();
            value()
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        param.set(&before).unwrap();
        let gap = (slope - f64::from(norm)).abs() / f64::from(norm);
        assert!(
            gap < 0.03,
            "{}: slope {slope}, gradient {norm}",
            param.name()
        );
    }
}
