//! The tiny reference model against what transformers computed (tests/goldens/tiny/README.md).

mod common;

use apus_model::model::{ExpertsDtype, Training};
use apus_model::nn::ForwardOptions;
use apus_model::ops::cross_entropy;
use candle_core::{Device, Tensor};
use common::{batch, golden, load, max_gap, tensors, unpad};

#[test]
fn logits_and_losses_of_both_checkpoint_forms() {
    let expected = tensors("forward.safetensors");
    for (form, experts) in [
        ("model_mxfp4", ExpertsDtype::Mxfp4),
        ("model_mxfp4", ExpertsDtype::Dense),
        ("model_bf16", ExpertsDtype::Dense),
    ] {
        let model = load(form, experts, Training::Adapters(vec![]));
        for name in ["short", "long", "batch"] {
            let mask = format!("{name}.attention_mask");
            let rows = unpad(&expected, &format!("{name}.input_ids"), &mask);
            let (ids, seqs) = batch(&rows);
            let (hidden, _) = model
                .decoder()
                .forward(&ids, &seqs, &ForwardOptions::default())
                .unwrap();
            let (normed, _) = model.head().forward(&hidden).unwrap();
            let logits = model.head().logits(&normed).unwrap();
            let labels = unpad(&expected, &format!("{name}.labels"), &mask);
            for (row, ((start, end), labels)) in seqs.ranges().zip(labels).enumerate() {
                let found = logits.narrow(0, start, end - start).unwrap();
                let wanted = expected[&format!("{name}.logits")].get(row).unwrap();
                let gap = max_gap(&found, &wanted.narrow(0, 0, end - start).unwrap());
                assert!(gap < 2e-4, "{form} {experts:?} {name} row {row}: {gap}");

                let nll = expected[&format!("{name}.token_nll")]
                    .get(row)
                    .unwrap()
                    .to_vec1::<f32>();
                let nll = nll.unwrap();
                for at in 0..end - start - 1 {
                    if labels[at + 1] < 0 {
                        continue;
                    }
                    let label = Tensor::new(&[labels[at + 1] as u32], &Device::Cpu).unwrap();
                    let one = found.narrow(0, at, 1).unwrap();
                    let found = cross_entropy::forward(&one, &label).unwrap();
                    let loss = found.loss.to_vec1::<f32>().unwrap()[0];
                    assert!(
                        (loss - nll[at]).abs() < 2e-4,
                        "{name} {row} {at}: {loss} {}",
                        nll[at]
                    );
                }
            }
        }
    }
}

#[test]
fn auxiliary_loss() {
    let info: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("info.json")).unwrap()).unwrap();
    let expected = tensors("forward.safetensors");
    let model = load(
        "model_bf16",
        ExpertsDtype::Dense,
        Training::Adapters(vec![]),
    );
    for name in ["short", "long", "batch"] {
        let mask = format!("{name}.attention_mask");
        let (ids, seqs) = batch(&unpad(&expected, &format!("{name}.input_ids"), &mask));
        let options = ForwardOptions {
            aux_coef: 0.9,
            ..Default::default()
        };
        let (_, pass) = model.decoder().forward(&ids, &seqs, &options).unwrap();
        let wanted = info["loss"][name]["aux_loss"].as_f64().unwrap();
        let found = pass.aux_loss().unwrap();
        assert!(
            (found - wanted).abs() < 1e-4,
            "{name}: {found}, expected {wanted}"
        );
    }
}
