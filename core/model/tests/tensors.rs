//! The list of a model's tensors is whole: it has every tensor of a checkpoint and no other, and as many parameters as are
//! published.

use apus_model::families::ModelConfig;
use apus_model::synthetic;
use apus_model::tensors::{Role, TensorList};
use apus_model::weights::Directory;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn a_checkpoint_has_the_tensors_of_the_list_and_no_others() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny");
    for (form, packed) in [("model_mxfp4", true), ("model_bf16", false)] {
        let dir = goldens.join(form);
        let list = ModelConfig::read(&dir.join("config.json"))
            .unwrap()
            .tensors();
        let listed: BTreeMap<String, Vec<usize>> = list
            .iter()
            .flat_map(|spec| spec.in_file(packed))
            .map(|tensor| (tensor.name, tensor.shape))
            .collect();
        let checkpoint = Directory::open(&dir).unwrap();
        let found: BTreeMap<String, Vec<usize>> = checkpoint
            .names()
            .map(|name| {
                let shape = checkpoint.stored(name).unwrap().shape().to_vec();
                (name.to_owned(), shape)
            })
            .collect();
        assert_eq!(listed, found, "{form}");
        for name in checkpoint.names() {
            let (spec, form) = list.of_file(name).unwrap();
            let tensors = spec.in_file(packed);
            let tensor = tensors.iter().find(|tensor| tensor.form == form).unwrap();
            assert_eq!(tensor.name, name);
        }
    }
}

/// The numbers of the model card, in billions: MLPs, attention, embedding and head, all together.
#[test]
fn published_models_have_their_published_numbers_of_parameters() {
    for (arch, all, card) in [
        (
            "gpt-oss-20b",
            20_914_757_184,
            ["19.12", "0.64", "1.16", "20.91"],
        ),
        (
            "gpt-oss-120b",
            116_829_156_672,
            ["114.71", "0.96", "1.16", "116.83"],
        ),
    ] {
        let list = synthetic::config(arch).unwrap().tensors();
        assert_eq!(list.parameters(), all, "{arch}");
        let count = |has: &dyn Fn(Role) -> bool| {
            let sizes = list.iter().filter(|spec| has(spec.role));
            sizes.map(|spec| spec.elements()).sum::<usize>()
        };
        let found = [
            count(&|role| matches!(role, Role::Router | Role::Experts(_))),
            count(&|role| {
                matches!(
                    role,
                    Role::Query | Role::Key | Role::Value | Role::Output | Role::Sinks
                )
            }),
            count(&|role| matches!(role, Role::Embedding | Role::Head)),
            count(&|_| true),
        ];
        let billions = found.map(|count| format!("{:.2}", count as f64 / 1e9));
        assert_eq!(billions, card, "{arch}");
    }
}

/// Every tensor is found by its name and by its role, and belongs to a module of the list.
#[test]
fn tensors_are_found_by_name_and_by_role() {
    let list: TensorList = synthetic::config("gpt-oss-20b").unwrap().tensors();
    assert_eq!(list.layers(), 24);
    for spec in list.iter() {
        assert_eq!(list.get(&spec.name), Some(spec));
        let found = [
            list.weight(spec.layer, spec.role),
            list.bias(spec.layer, spec.role),
        ];
        assert!(found.contains(&Some(spec)), "{}", spec.name);
        assert_eq!(list.layer_of(&spec.name), spec.layer);
        let module = list
            .modules()
            .iter()
            .find(|module| module.path == spec.module());
        assert_eq!(
            module.unwrap().kind,
            spec.role.module_kind(),
            "{}",
            spec.name
        );
    }
    let ordered = list.in_order_of_use();
    assert_eq!(ordered.len(), list.iter().count());
    let ends = [ordered[0].role, ordered[ordered.len() - 1].role];
    assert_eq!(ends, [Role::Embedding, Role::Head]);
}
