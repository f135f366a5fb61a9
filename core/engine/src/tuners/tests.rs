//! Built-in tuners on a small model.

use super::*;
use apus_model::adapter::Blueprint;
use apus_model::families::ModelConfig;
use apus_model::model::{CausalLm, LoadOptions, Targets};
use apus_model::weights::Directory;
use apus_plugins as _;
use candle_core::Device;
use serde_json::json;
use std::path::Path;

const LAYERS: usize = 4;

/// The additions of a tuner of these options, to the blocks of all layers that are called so below their path.
fn added(
    model: &ModelConfig,
    name: &str,
    options: serde_json::Value,
    below: &[&str],
) -> Vec<apus_model::model::Addition> {
    let options = options.as_object().cloned().unwrap_or_default();
    let tuner = make(&Spec {
        name: name.to_owned(),
        options,
    });
    let layers = 0..LAYERS;
    let paths = |name: &&str| {
        let path = move |layer| format!("model.layers.{layer}{name}");
        layers.clone().map(path).collect::<Vec<_>>()
    };
    let targets = Targets {
        blocks: below.iter().flat_map(paths).collect(),
        ..Targets::default()
    };
    additions(&tuner.unwrap(), model, &targets).unwrap()
}

/// The memory plan is made before a model is loaded, and again of the one that is.
#[test]
fn what_is_planned_is_what_a_loaded_model_counts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/model_bf16");
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let source = Directory::open(&dir).unwrap();
    let options = LoadOptions::frozen(&Device::Cpu);
    let hidden = config.architecture.hidden_size as u64;
    for (name, settings, below, of_a_layer) in [
        (
            "adapter",
            json!({"length": 3}),
            vec![".mlp"],
            3 * hidden * 2 + 3 + hidden,
        ),
        ("reft", json!({"rank": 2}), vec![""], 2 * hidden * 2 + 2),
        ("ia3", json!({}), vec![".mlp.experts", ""], 2 * hidden),
    ] {
        let additions = added(&config, name, settings, &below);
        let mut model = CausalLm::load(&config, &source, &options, |_| {}).unwrap();
        model.add_tuned(&additions, Some(5)).unwrap();
        let mut blueprint = Blueprint::new(&config, &source, &options, None).unwrap();
        blueprint.additions = additions;
        let trained: usize = model.params().iter().map(|p| p.value().elem_count()).sum();
        assert_eq!(blueprint.trainable(), trained as u64, "{name}");
        assert_eq!(trained as u64, LAYERS as u64 * of_a_layer, "{name}");
        let layers = &model.decoder().layers;
        for tokens in [1, 100] {
            let planned = blueprint.tuner_tape_bytes(tokens);
            let all = layers.iter().map(|layer| layer.tuner_tape_bytes(tokens));
            assert_eq!(all.max(), Some(planned), "{name}");
            let rows = 4 * tokens * hidden * below.len() as u64;
            assert_eq!(planned, 4 * rows + 4 * of_a_layer, "{name}");
        }
        model.remove_lora();
        assert!(
            model.params().is_empty() && model.tuners().next().is_none(),
            "{name}"
        );
    }
}

/// The same of a tuner in the matrices of each expert, whose rows are several for a token.
#[test]
fn what_is_planned_of_matrices_of_experts_is_what_a_loaded_model_counts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/model_mxfp4");
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let source = Directory::open(&dir).unwrap();
    let options = LoadOptions::frozen(&Device::Cpu);
    let list = config.tensors();
    let targets = Targets {
        experts: list
            .expert_matrices()
            .map(|(layer, matrix, _)| (layer, matrix))
            .collect(),
        ..Targets::default()
    };
    let tuner = make(&Spec::named("ia3")).unwrap();
    let additions = additions(&tuner, &config, &targets).unwrap();
    let mut model = CausalLm::load(&config, &source, &options, |_| {}).unwrap();
    model.add_tuned(&additions, Some(5)).unwrap();
    let mut blueprint = Blueprint::new(&config, &source, &options, None).unwrap();
    blueprint.additions = additions;
    let trained: usize = model.params().iter().map(|p| p.value().elem_count()).sum();
    let of_a_layer = list.expert_matrices().filter(|(layer, ..)| *layer == 0);
    let of_a_layer: Vec<_> = of_a_layer.map(|(_, _, spec)| spec).collect();
    let own = of_a_layer.iter().map(|spec| spec.shape[0] * spec.shape[2]);
    let own: usize = own.sum();
    assert_eq!(
        (blueprint.trainable(), trained),
        (trained as u64, LAYERS * own)
    );
    let widths = of_a_layer.iter().map(|spec| spec.shape[1] + spec.shape[2]);
    let widths = widths.sum::<usize>() as u64;
    for tokens in [1, 100] {
        let planned = blueprint.tuner_tape_bytes(tokens);
        let layers = model.decoder().layers.iter();
        let all = layers.map(|layer| layer.tuner_tape_bytes(tokens));
        assert_eq!(all.max(), Some(planned));
        let rows = tokens * config.architecture.layers[0].mlp.rows_per_token() as u64;
        assert_eq!(planned, 4 * (2 * rows * widths + own as u64));
    }
    model.remove_lora();
    assert!(model.params().is_empty() && model.tuners().next().is_none());
}

/// What a tuner leaves as it begins takes room for its values, and neither gradients nor optimizer state.
#[test]
fn what_stays_as_it_begins_is_planned_without_gradients() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/model_bf16");
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let source = Directory::open(&dir).unwrap();
    let options = LoadOptions::frozen(&Device::Cpu);
    let targets = Targets {
        linears: vec!["model.layers.1.self_attn.q_proj".to_owned()],
        ..Targets::default()
    };
    let additions = additions(&make(&Spec::named("pissa")).unwrap(), &config, &targets).unwrap();
    let mut model = CausalLm::load(&config, &source, &options, |_| {}).unwrap();
    model.add_tuned(&additions, Some(5)).unwrap();
    let mut blueprint = Blueprint::new(&config, &source, &options, None).unwrap();
    blueprint.frozen = additions.iter().flat_map(|a| a.frozen()).cloned().collect();
    blueprint.additions = additions;
    let count = |learning: bool| {
        let params = model.params().iter().filter(|p| !learning || !p.is_fixed());
        params.map(|p| p.value().elem_count() as u64).sum::<u64>()
    };
    assert_eq!(blueprint.trainable(), count(false));
    assert_eq!(blueprint.learning(), count(true));
    assert_eq!(count(false), 2 * count(true));
    let names: Vec<&String> = blueprint.trained_tensors().map(|(name, _)| name).collect();
    assert!(
        names.len() == 2 && names.iter().all(|name| !name.contains("start")),
        "{names:?}"
    );
}

#[test]
fn names_that_are_taken_are_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/model_bf16");
    let config = ModelConfig::read(&dir.join("config.json")).unwrap();
    let tuner = make(&Spec::named("ia3")).unwrap();
    let twice = Targets {
        blocks: vec!["model.layers.0.mlp".to_owned(); 2],
        ..Targets::default()
    };
    let said = format!("{:#}", additions(&tuner, &config, &twice).unwrap_err());
    assert!(
        said.contains("model.layers.0.mlp.ia3_l, and there is one"),
        "{said}"
    );
    let missing = Targets {
        blocks: vec!["model.layers.9.mlp".to_owned()],
        ..Targets::default()
    };
    let said = format!("{:#}", additions(&tuner, &config, &missing).unwrap_err());
    assert!(
        said.contains("no linear layer and no block model.layers.9.mlp"),
        "{said}"
    );
}
