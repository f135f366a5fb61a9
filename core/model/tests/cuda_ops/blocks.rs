//! What blocks compose of operations and tensors, where there is no kernel: the activation of dense MLPs, norms of heads.

use crate::support::{CLAMPED, ROUNDED, agree, card};
use apus_model::families::{LayerSpec, MlpSpec};
use apus_model::model::check_device;
use apus_model::nn::{Norm, QkNorms, Weight};
use apus_model::ops::swiglu::Activation;
use apus_model::ops::{Heads, gated};
use apus_model::synthetic;
use candle_core::Tensor;

#[test]
fn activations_of_gates_and_values_side_by_side() {
    let Some(card) = card() else { return };
    for (t, f) in [(13, 45), (1, 1), (300, 160)] {
        let (x, dh) = (
            card.normal(1, &[t, 2 * f], 5.0),
            card.normal(2, &[t, f], 1.0),
        );
        for activation in [Activation::Swiglu, CLAMPED] {
            let what = format!("{activation:?} {t} x {f}");
            let h = gated::forward(&x.gpu, activation).unwrap();
            let expected = gated::forward(&x.cpu, activation).unwrap();
            agree(&what, &h, &expected, ROUNDED);
            let dx = gated::backward(&x.gpu, activation, &dh.gpu).unwrap();
            let expected = gated::backward(&x.cpu, activation, &dh.cpu).unwrap();
            agree(&format!("{what} backward"), &dx, &expected, ROUNDED);
        }
    }
}

#[test]
fn what_has_no_kernel_is_refused_with_its_layer() {
    let Some(card) = card() else { return };
    let published = synthetic::config("gpt-oss-20b").unwrap().architecture;
    check_device(&published, &card.device).unwrap();
    let error = |change: fn(&mut LayerSpec)| {
        let mut architecture = published.clone();
        change(&mut architecture.layers[3]);
        let error = check_device(&architecture, &card.device).unwrap_err();
        format!("{error:#}")
    };
    let heads = error(|layer| layer.attention.heads.dim = 48);
    assert!(
        heads.contains("layer 3") && heads.contains("head_dim 48"),
        "{heads}"
    );
    let experts = error(|layer| {
        if let MlpSpec::Mixture(mixture) = &mut layer.mlp {
            mixture.activation = Activation::Swiglu;
        }
    });
    assert!(
        experts.contains("layer 3") && experts.contains("Swiglu"),
        "{experts}"
    );
}

#[test]
fn norms_of_queries_and_keys() {
    let Some(card) = card() else { return };
    for dim in [16, 128] {
        let heads = Heads { q: 6, kv: 2, dim };
        let norms = |q: &Tensor, k: &Tensor| {
            let norm = |weight: &Tensor| Norm {
                name: "norm".to_owned(),
                weight: Weight::Frozen(weight.clone()),
                eps: 1e-6,
            };
            QkNorms {
                q_norm: norm(q),
                k_norm: norm(k),
            }
        };
        let (q, k) = (card.normal(1, &[dim], 1.0), card.normal(2, &[dim], 1.0));
        let (on, off) = (norms(&q.gpu, &k.gpu), norms(&q.cpu, &k.cpu));
        let qkv = card.normal(3, &[37, heads.width()], 2.0);
        let y = on.forward(&qkv.gpu, heads).unwrap();
        let expected = off.forward(&qkv.cpu, heads).unwrap();
        agree(&format!("norms of {heads:?}"), &y, &expected, ROUNDED);
        let d = card.normal(4, &[37, heads.width()], 1.0);
        let dx = on.backward(&qkv.gpu, heads, &d.gpu).unwrap();
        let expected = off.backward(&qkv.cpu, heads, &d.cpu).unwrap();
        agree(
            &format!("norms of {heads:?} backward"),
            &dx,
            &expected,
            ROUNDED,
        );
    }
}
