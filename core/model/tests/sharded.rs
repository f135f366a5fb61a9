//! A base that is spread over ranks computes what the whole one computes, bit for bit. The ranks are models in one process.

use apus_model::adapter::{TargetSpec, resolve};
use apus_model::device::{Queued, SideStream};
use apus_model::families::ModelConfig;
use apus_model::model::{
    CausalLm, ExpertsDtype, Init, LoadOptions, LoraSettings, OwnUpdates, Training,
};
use apus_model::nn::{ForwardOptions, Gather, PagedCache, Sharding, Step, Unit};
use apus_model::ops::SeqLayout;
use apus_model::ops::paged::{HostLayout, PagedLayout};
use apus_model::synthetic::{self, SyntheticWeights};
use apus_model::weights::{Directory, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// What each rank keeps of each unit.
type Parts = Rc<RefCell<Vec<Vec<Vec<Tensor>>>>>;

/// Gathers from models of one process, and writes down what it gathers.
struct Peers {
    rank: usize,
    parts: Parts,
    /// Those of the rank's own model.
    units: Rc<RefCell<Vec<Arc<Unit>>>>,
    gathered: Rc<RefCell<Vec<usize>>>,
    led: Rc<RefCell<usize>>,
}

impl Gather for Peers {
    fn start(&self, own: &[Tensor]) -> anyhow::Result<Vec<(Tensor, Queued)>> {
        let parts = self.parts.borrow();
        let same = |unit: &Vec<Tensor>| unit[0].id() == own[0].id();
        let unit = parts[self.rank].iter().position(same).unwrap();
        self.gathered.borrow_mut().push(unit);
        // This one and the one that is in use are all.
        let units = self.units.borrow();
        let whole = units.iter().filter(|unit| unit.is_whole()).count();
        assert!(
            whole <= 1,
            "{whole} units are whole while another is gathered"
        );
        let flats = 0..own.len();
        let whole = flats.map(|flat| {
            let all: Vec<_> = parts.iter().map(|rank| rank[unit][flat].clone()).collect();
            let stream = SideStream::new(&Device::Cpu)?;
            Ok((Tensor::cat(&all, 0)?, stream.queue(0, |_| Ok(()))?))
        });
        whole.collect()
    }

    fn arrive(&self, _: &Queued) -> anyhow::Result<()> {
        Ok(())
    }

    fn lead(&self) -> anyhow::Result<()> {
        *self.led.borrow_mut() += 1;
        Ok(())
    }
}

struct Rank {
    model: CausalLm,
    gathered: Rc<RefCell<Vec<usize>>>,
    led: Rc<RefCell<usize>>,
}

#[derive(Clone)]
struct Kind {
    experts: ExpertsDtype,
    training: Training,
    dora: bool,
    targets: TargetSpec,
}

fn attention(dora: bool) -> Kind {
    Kind {
        experts: ExpertsDtype::Mxfp4,
        training: Training::Adapters(Vec::new()),
        dora,
        targets: TargetSpec::from_names(vec!["all-linear".to_owned()]),
    }
}

fn add_lora(model: &mut CausalLm, kind: &Kind) {
    let settings = LoraSettings {
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        use_rslora: false,
        use_dora: kind.dora,
        init: Init::Kaiming,
        seed: 3,
    };
    let targets = resolve(model.config(), &kind.targets).unwrap();
    model.add_lora(&targets, &settings).unwrap();
    // Updates that do something.
    for (at, param) in model.params().iter().enumerate() {
        if param.name().contains("lora_B") {
            let value = param.value();
            let key = (5, at as u64);
            let shape = value.shape().clone();
            let filled =
                apus_model::ops::fill::normal(shape, 0.1, key, DType::F32, &Device::Cpu).unwrap();
            param.set(&filled).unwrap();
        }
    }
}

fn whole(config: &ModelConfig, source: &dyn WeightSource, kind: &Kind) -> CausalLm {
    let options = LoadOptions {
        experts: kind.experts,
        training: kind.training.clone(),
        ..LoadOptions::frozen(&Device::Cpu)
    };
    let mut model = CausalLm::load(config, source, &options, |_| {}).unwrap();
    add_lora(&mut model, kind);
    model
}

/// Models of which each keeps a part.
fn ranks(config: &ModelConfig, source: &dyn WeightSource, kind: &Kind, count: usize) -> Vec<Rank> {
    let parts = Parts::default();
    let load = |rank: usize| {
        let (gathered, led) = (Rc::default(), Rc::default());
        let own: Rc<RefCell<Vec<Arc<Unit>>>> = Rc::default();
        let gather = Peers {
            rank,
            parts: Rc::clone(&parts),
            units: Rc::clone(&own),
            gathered: Rc::clone(&gathered),
            led: Rc::clone(&led),
        };
        let options = LoadOptions {
            experts: kind.experts,
            training: kind.training.clone(),
            sharding: Some(Sharding {
                rank,
                ranks: count,
                gather: Rc::new(gather),
            }),
            ..LoadOptions::frozen(&Device::Cpu)
        };
        let model = CausalLm::load(config, source, &options, |_| {}).unwrap();
        let units = model.decoder().units.as_ref().unwrap();
        own.borrow_mut().clone_from(&units.all().to_vec());
        let kept = units.all().iter().map(|unit| unit.parts().to_vec());
        parts.borrow_mut().push(kept.collect());
        Rank {
            model,
            gathered,
            led,
        }
    };
    let mut ranks: Vec<Rank> = (0..count).map(load).collect();
    for rank in &mut ranks {
        add_lora(&mut rank.model, kind);
        rank.gathered.borrow_mut().clear();
    }
    ranks
}

fn whole_units(model: &CausalLm) -> usize {
    let units = model.decoder().units.iter();
    let units = units.flat_map(|units| units.all());
    units.filter(|unit| unit.is_whole()).count()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Hidden states, logits and gradients of a training pass over two sequences.
fn pass(model: &CausalLm) -> BTreeMap<String, Vec<u32>> {
    let vocabulary = model.config().architecture.vocab_size as u32;
    let ids: Vec<u32> = (0..37).map(|at| at * 31 % vocabulary).collect();
    let ids = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
    let seqs = SeqLayout::new(&[20, 17], &Device::Cpu).unwrap();
    let options = ForwardOptions {
        training: true,
        kept_layers: 1,
        aux_coef: 0.01,
        ..ForwardOptions::default()
    };
    let mut found = BTreeMap::new();
    let (hidden, tape) = model.decoder().forward(&ids, &seqs, &options).unwrap();
    let (normed, _) = model.head().forward(&hidden).unwrap();
    let logits = model.head().logits(&normed).unwrap();
    let dnormed = model.head().logits_backward(&normed, &logits).unwrap();
    assert!(whole_units(model) <= 2);
    model
        .decoder()
        .backward(tape, dnormed, 0.5, &mut |_| Ok(()))
        .unwrap();
    assert!(whole_units(model) <= 2);
    found.insert("hidden".to_owned(), bits(&hidden));
    found.insert("logits".to_owned(), bits(&logits));
    for param in model.params() {
        let grad = param.take_grad().unwrap();
        found.insert(param.name().to_owned(), bits(&grad));
    }
    found
}

#[track_caller]
fn check(name: &str, config: &ModelConfig, source: &dyn WeightSource, kind: &Kind) {
    let one = whole(config, source, kind);
    let expected = pass(&one);
    for count in [1, 2, 3] {
        let ranks = ranks(config, source, kind, count);
        let mut kept = 0;
        for Rank {
            model, gathered, ..
        } in &ranks
        {
            kept += model.weight_bytes();
            assert_eq!(whole_units(model), usize::from(kind.dora));
            let found = pass(model);
            assert_eq!(found.len(), expected.len());
            for (tensor, bits) in &expected {
                assert!(
                    found[tensor] == *bits,
                    "{name}, {count} ranks: {tensor} differs"
                );
            }
            let most = model.whole_bytes();
            assert!(most > 0 && most < 2 * one.weight_bytes(), "{name}: {most}");
            let order = gathered.borrow_mut().drain(..).collect::<Vec<_>>();
            let decoder = model.decoder();
            decoder.units.as_ref().unwrap().leave().unwrap();
            assert_eq!(whole_units(model), 0);
            decoder.idle_forward(true).unwrap();
            decoder.idle_backward(&mut |_| Ok(())).unwrap();
            assert_eq!(
                *gathered.borrow(),
                order,
                "{name}: a pass without tokens gathers otherwise"
            );
        }
        // What is kept whole is there once for each rank.
        assert!(
            kept < one.weight_bytes() + count as u64 * one.weight_bytes() / 3,
            "{name}, {count} ranks: {kept}"
        );
    }
}

fn golden(form: &str) -> (ModelConfig, Directory) {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/tiny");
    let dir = Path::new(goldens).join(form);
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    (config, Directory::open(&dir).unwrap())
}

#[test]
fn a_sharded_base_gives_the_same_bits() {
    let experts = |parameters: [&str; 2]| {
        let mut kind = attention(false);
        kind.targets.parameters = parameters.map(str::to_owned).to_vec();
        kind
    };
    let on_experts = experts(["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]);
    for form in ["model_mxfp4", "model_bf16"] {
        let (config, source) = golden(form);
        check(form, &config, &source, &attention(false));
        check(form, &config, &source, &attention(true));
        check(form, &config, &source, &on_experts);
    }
    let (config, source) = golden("model_mxfp4");
    let unpacked = Kind {
        experts: ExpertsDtype::Dense,
        ..on_experts
    };
    check("unpacked", &config, &source, &unpacked);
    let name = config.tensors();
    let some = ["model.layers.1.self_attn.q_proj", "lm_head"];
    assert!(
        some.iter()
            .all(|path| name.modules().iter().any(|m| m.path == *path))
    );
    let saved = Kind {
        training: Training::Adapters(some.map(str::to_owned).to_vec()),
        targets: TargetSpec::from_names(vec!["v_proj".to_owned()]),
        ..attention(false)
    };
    check("modules that are trained whole", &config, &source, &saved);
}

#[test]
fn sizes_that_do_not_divide_by_the_ranks() {
    let config = synthetic::config("gpt-oss-20b").unwrap();
    let mut raw = config.raw;
    for (key, value) in [
        ("hidden_size", 32),
        ("intermediate_size", 96),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 16),
        ("num_local_experts", 5),
        ("vocab_size", 101),
    ] {
        raw.insert(key.to_owned(), value.into());
    }
    let layers = serde_json::json!(["sliding_attention", "full_attention"]);
    raw.insert("layer_types".to_owned(), layers);
    let config = ModelConfig::parse(raw.into()).unwrap();
    let source = SyntheticWeights::new(&config, 1);
    check("odd", &config, &source, &attention(false));
}

#[test]
fn what_is_not_gathered_is_named() {
    let (config, source) = golden("model_mxfp4");
    let ranks = ranks(&config, &source, &attention(false), 2);
    let layer = &ranks[0].model.decoder().layers[2];
    let weight = &layer.attention.linears().next().unwrap().weight;
    let error = weight.get(DType::F32).unwrap_err().to_string();
    assert!(
        error.contains("layers.2.self_attn.q_proj.weight") && error.contains("layer 2"),
        "{error}"
    );
}

#[test]
fn answers_lead_the_other_ranks_token_by_token() {
    let (config, source) = golden("model_mxfp4");
    let one = whole(&config, &source, &attention(false));
    let ranks = ranks(&config, &source, &attention(false), 2);
    // With the updates of the layers, and with the same as those of rows.
    let answer = |model: &CausalLm, by_row: bool| {
        let cache = PagedCache::alone(model.decoder(), 5, model.dtype()).unwrap();
        let OwnUpdates::Rows(own) = model.own_updates().unwrap() else {
            panic!("a model with updates has others");
        };
        let updates = model.stacked(&[Some(&own)]).unwrap();
        let steps = [(&[5u32, 9, 3][..], 0), (&[7], 3), (&[8], 4)];
        let step = |(ids, from): (&[u32], usize)| {
            let host = HostLayout::alone(from..from + ids.len());
            let layout = PagedLayout::new(host, &Device::Cpu).unwrap();
            let step = Step {
                ids,
                layouts: &vec![layout; cache.kinds().len()],
                adapters: &vec![0; ids.len()],
                updates: by_row.then_some(&updates),
            };
            bits(&model.decoder().step(&step, &cache).unwrap())
        };
        steps.map(step).concat()
    };
    for by_row in [false, true] {
        assert!(answer(&one, by_row) == answer(&ranks[0].model, by_row));
    }
    assert_eq!((*ranks[0].led.borrow(), *ranks[1].led.borrow()), (6, 0));
    for _ in 0..6 {
        ranks[1].model.decoder().idle_forward(false).unwrap();
    }
    assert_eq!(*ranks[0].gathered.borrow(), *ranks[1].gathered.borrow());
}

#[test]
fn ranges_of_experts_give_the_same_bits() {
    let on_experts = Kind {
        targets: TargetSpec {
            parameters: vec![
                "mlp.experts.gate_up_proj".to_owned(),
                "mlp.experts.down_proj".to_owned(),
            ],
            ..attention(false).targets
        },
        ..attention(false)
    };
    let (config, source) = golden("model_mxfp4");
    let mut model = whole(&config, &source, &on_experts);
    let expected = pass(&model);
    for at_once in [1, 3, 7] {
        model.unpack_at_once(Some(at_once));
        let found = pass(&model);
        assert!(found == expected, "{at_once} at once");
    }
}
